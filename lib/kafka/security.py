"""A broker behind locked doors: TLS, one password per principal, ACLs.

Three principals: ``admin`` may do everything, ``producer`` may only write the topic,
``spark`` may only read it. Keys, certificates and passwords are made at the first
start, in the broker's own folder, and live nowhere else.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourceType,
)
from kafka.errors import KafkaError

from lib.errors import FraudError
from lib.kafka import java_properties

MECHANISM = "SCRAM-SHA-512"
ADMIN, PRODUCER, SPARK = PRINCIPALS = ("admin", "producer", "spark")
VALID = datetime.timedelta(days=365)

RIGHTS = {
    PRODUCER: (ACLOperation.WRITE, ACLOperation.DESCRIBE),
    SPARK: (
        ACLOperation.READ,
        ACLOperation.DESCRIBE,
        ACLOperation.DESCRIBE_CONFIGS,  # how far ahead a sender may stamp a record
    ),
}
"""Operations on the topic. No group: Spark keeps its offsets in its checkpoint and
assigns partitions itself, so it joins none."""

_BROKER = "broker"
_LOGIN = "org.apache.kafka.common.security.scram.ScramLoginModule"

# Appended to the properties of the open broker; of two lines with one name Java takes
# the last. The controller's listener knows certificates only: the broker is its one
# client, and whoever else finds the port has no key to it.
_PROPERTIES = """\
listener.security.protocol.map=BROKER:SASL_SSL,CONTROLLER:SSL
sasl.enabled.mechanisms={mechanism}
sasl.mechanism.inter.broker.protocol={mechanism}
listener.name.broker.{mechanism_prefix}.sasl.jaas.config={jaas}
ssl.keystore.type=PEM
{keystore}ssl.truststore.type=PEM
{truststore}listener.name.broker.ssl.client.auth=none
listener.name.controller.ssl.client.auth=required
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:{admin};User:CN={broker}
"""


@dataclass(frozen=True)
class BrokerKeys:
    """The keys of one broker.

    Attributes:
        folder: where they lie; readable by its owner only.
    """

    folder: Path

    def make(self) -> None:
        """Make what is missing: passwords, certificates, a client file each."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        if self._passwords_file.exists():
            return
        passwords = {name: secrets.token_urlsafe(24) for name in PRINCIPALS}
        _certificates(self._keystore, self.truststore)
        for name, password in passwords.items():
            lines = {
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": MECHANISM,
                "sasl.jaas.config": _jaas(name, password),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": self.truststore,
            }
            text = "".join(java_properties.line(*pair) for pair in lines.items())
            _write_private(self.client_file(name), text.encode())
        # Last: its presence says that all the others are whole.
        _write_private(self._passwords_file, json.dumps(passwords).encode())

    def client_file(self, principal: str) -> Path:
        """The Kafka properties file of a principal, for FRAUD_KAFKA_PROPERTIES."""
        return self.folder / f"{principal}.properties"

    @property
    def truststore(self) -> Path:
        """The certificate of the authority, which clients trust."""
        return self.folder / "authority.pem"

    def server_properties(self) -> str:
        """Lines for the broker's server.properties."""
        return _PROPERTIES.format(
            mechanism=MECHANISM,
            mechanism_prefix=MECHANISM.lower(),
            jaas=_jaas(ADMIN, self._passwords[ADMIN]),
            keystore=java_properties.line("ssl.keystore.location", self._keystore),
            truststore=java_properties.line("ssl.truststore.location", self.truststore),
            admin=ADMIN,
            broker=_BROKER,
        )

    def format_arguments(self) -> list[str]:
        """Arguments of kafka-storage that create the principals with the log."""
        return [
            argument
            for name, password in self._passwords.items()
            for argument in (
                "--add-scram",
                f'{MECHANISM}=[name="{name}",password="{password}"]',
            )
        ]

    @property
    def _passwords(self) -> dict[str, str]:
        return json.loads(self._passwords_file.read_text())

    @property
    def _passwords_file(self) -> Path:
        return self.folder / "passwords.json"

    @property
    def _keystore(self) -> Path:
        return self.folder / "broker.pem"


def grant(client, topic: str) -> None:
    """Give the principals their rights on the topic (again, if they have them).

    Args:
        client: an admin client of the principal ``admin``.
        topic: name of the topic.

    Raises:
        FraudError: the broker did not take them.
    """
    pattern = ResourcePattern(ResourceType.TOPIC, topic)
    acls = [
        ACL(f"User:{name}", "*", operation, ACLPermissionType.ALLOW, pattern)
        for name, operations in RIGHTS.items()
        for operation in operations
    ]
    try:
        failed = client.create_acls(acls)["failed"]
    except KafkaError as error:
        failed = [error]
    if failed:
        raise FraudError(f"the broker took no rights for {topic}: {failed[0]}")


def _jaas(name: str, password: str) -> str:
    return f'{_LOGIN} required username="{name}" password="{password}";'


def _certificates(keystore: Path, truststore: Path) -> None:
    """An authority for this broker alone, and the broker's certificate for loopback.

    The authority's key is not kept: it signs once.
    """
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _name("fraud-signals authority")
    own = x509.BasicConstraints(ca=True, path_length=0)
    root = _certificate(authority, authority, authority_key.public_key())
    root = root.add_extension(own, critical=True).sign(authority_key, hashes.SHA256())
    key = ec.generate_private_key(ec.SECP256R1())
    addresses = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
    names = [x509.DNSName("localhost"), *map(x509.IPAddress, addresses)]
    both_ends = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    leaf = (
        _certificate(_name(_BROKER), authority, key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(both_ends), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write_private(keystore, private + leaf.public_bytes(pem))
    _write_private(truststore, root.public_bytes(pem))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(subject: x509.Name, issuer: x509.Name, key) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # A clock that is a little behind must not refuse a certificate made just now.
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + VALID)
    )


def _write_private(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
