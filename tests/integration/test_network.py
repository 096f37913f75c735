"""Jars through a proxy that reads along, as companies' networks have one.

The proxy answers every connection itself, with a certificate of an authority that
nobody but its network knows, and has one jar to give.
"""

from __future__ import annotations

import datetime
import hashlib
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lib.errors import FraudError
from lib.setup.jars import fetch
from lib.setup.network import BUNDLES, FOLDERS

COORDINATE = "org.example:thing:1.0"
JAR = b"a jar"
POM = (
    b"<project><modelVersion>4.0.0</modelVersion><groupId>org.example</groupId>"
    b"<artifactId>thing</artifactId><version>1.0</version></project>"
)
CONTENT = {"thing-1.0.jar": JAR, "thing-1.0.pom": POM}
NAME, PASSWORD = "a user", 'se"cr\\et %'


class Authority:
    """Signs a certificate for whatever host it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("an authority of this network")
        root = _certificate(self._name, self._name, self._key)
        root = root.add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.file = folder / "authority.pem"
        signed = root.sign(self._key, hashes.SHA256())
        self.file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def context(self, host: str) -> ssl.SSLContext:
        """What a server needs to pass for the host."""
        leaf = _certificate(_name("somebody"), self._name, self._key).add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False
        )
        pem = serialization.Encoding.PEM
        private = self._key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = self._folder / f"{host}.pem"
        signed = leaf.sign(self._key, hashes.SHA256())
        file.write_bytes(private + signed.public_bytes(pem))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(subject, issuer, key) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    return x509.CertificateBuilder(
        issuer,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        now - day,
        now + day,
    )


@dataclass
class Proxy:
    """What the proxy demands, and what it was asked for."""

    address: str
    authority: Authority
    password: str = ""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The proxy, named by https_proxy, in an environment without certificates."""
    for name in (*BUNDLES, FOLDERS, "no_proxy", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # Ivy's cache, which else is below the reader's home.
    monkeypatch.setenv(
        "JAVA_TOOL_OPTIONS", f"-Divy.default.ivy.user.dir={tmp_path}/ivy"
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            given = self.headers.get("Proxy-Authorization", "")
            if state.password and given != f"Basic {state.password}":
                self.send_response(407)
                self.send_header("Proxy-Authenticate", 'Basic realm="here"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            context = state.authority.context(self.path.rpartition(":")[0])
            try:
                self.connection = context.wrap_socket(self.connection, server_side=True)
            except OSError:
                self.close_connection = True  # the client does not trust us
                return
            self.rfile = self.connection.makefile("rb")
            self.wfile = self.connection.makefile("wb", buffering=0)

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            state.asked.append(self.path)
            self.wfile.write(self._answer())

        def _answer(self) -> bytes:
            content = CONTENT.get(self.path.rpartition("/")[2])
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            return content or b""

        def log_message(self, *_words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Proxy(f"http://127.0.0.1:{server.server_port}", Authority(tmp_path))
    monkeypatch.setenv("https_proxy", state.address)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def lock_file(tmp_path: Path) -> Path:
    file = tmp_path / "jars.lock"
    digest = hashlib.sha256(JAR).hexdigest()
    file.write_text(f"spark {digest} {len(JAR)} {COORDINATE}\n")
    return file


def test_a_jar_comes_with_the_networks_own_certificate(
    proxy: Proxy, lock_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(proxy.authority.file))
    proxy.password = b64encode(f"{NAME}:{PASSWORD}".encode()).decode()
    given = f"{quote(NAME)}:{quote(PASSWORD)}@"
    monkeypatch.setenv("https_proxy", proxy.address.replace("//", f"//{given}"))
    folder = tmp_path / "josé's [1] (2)"

    assert fetch(folder, lock_file) == 1

    (jar,) = folder.iterdir()
    assert jar.read_bytes() == JAR
    assert any(path.endswith(".jar") for path in proxy.asked)


def test_without_it_the_error_says_what_is_missing(
    proxy: Proxy, lock_file: Path, tmp_path: Path
):
    with pytest.raises(FraudError, match=r"certificate.*SSL_CERT_FILE") as caught:
        fetch(tmp_path / "jars", lock_file)

    assert "\n" not in str(caught.value)
    assert proxy.asked == []
