"""What a JVM must be told of this machine's network: certificates and a proxy.

Python's and curl's programs are told by variables, of which Java knows none. On a
network that reads along, as companies' do, a JVM then trusts nobody.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies

if TYPE_CHECKING:  # `doctor` looks at the variables before there are packages
    from cryptography import x509

BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE")
"""Variables that name a file of certificates, or a folder of such files."""

FOLDERS = "SSL_CERT_DIR"
"""The variable that names folders of certificates."""

_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL
)
_SCHEMES = ("http", "https")
_NEVER_BY_PROXY = ("localhost", "127.*", "[::1]")


def bundles() -> dict[str, list[Path]]:
    """Files and folders of certificates by the variable that names them."""
    named = {name: [os.environ.get(name, "")] for name in BUNDLES}
    named[FOLDERS] = os.environ.get(FOLDERS, "").split(os.pathsep)
    found = {name: [Path(p) for p in paths if p] for name, paths in named.items()}
    return {name: paths for name, paths in found.items() if paths}


def has_certificates(path: Path) -> bool:
    """Whether a file, or one of a folder's files, holds a certificate (PEM)."""
    return next(_blocks(path), None) is not None


def proxies() -> dict[str, SplitResult]:
    """Address of the proxy for ``http`` and for ``https``, where there is one.

    Of the environment, or of macOS' settings.

    Raises:
        ValueError: what is given is no address.
    """
    given = getproxies()
    found = {scheme: given.get(scheme) or given.get("all") for scheme in _SCHEMES}
    return {
        scheme: urlsplit(address if "://" in address else f"http://{address}")
        for scheme, address in found.items()
        if address
    }


def jvm_options(folder: Path) -> list[str]:
    """Options for a JVM that is to reach what pip reaches.

    They may hold a password: give them in a file, not on the command line.

    Args:
        folder: where a file for the JVM may be left.
    """
    return [*_trust(folder), *_proxies()]


def _trust(folder: Path) -> list[str]:
    """The certificates of the variables and the public ones, in one store."""
    if not bundles():
        return []  # Java knows the public ones
    import certifi
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.serialization import pkcs12

    paths = [path for named in bundles().values() for path in named]
    unique = {
        certificate.fingerprint(hashes.SHA256()): certificate
        for path in [Path(certifi.where()), *paths]
        for certificate in _certificates(path)
    }
    entries = [
        pkcs12.PKCS12Certificate(certificate, digest.hex().encode())
        for digest, certificate in unique.items()
    ]
    store = folder / "certificates.p12"
    store.write_bytes(
        pkcs12.serialize_java_truststore(entries, serialization.NoEncryption())
    )
    return [
        f"-Djavax.net.ssl.trustStore={store}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        "-Djavax.net.ssl.trustStorePassword=",
    ]


def _certificates(path: Path) -> Iterator[x509.Certificate]:
    """Those in a file, or in a folder's files; what is none is passed over."""
    from cryptography import x509
    from cryptography.utils import CryptographyDeprecationWarning

    for block in _blocks(path):
        try:
            with warnings.catch_warnings():
                # Some roots are older than the rules that they break.
                warnings.simplefilter("ignore", CryptographyDeprecationWarning)
                yield x509.load_pem_x509_certificate(block)
        except ValueError:
            continue


def _blocks(path: Path) -> Iterator[bytes]:
    """What looks like a certificate, in a file or in a folder's files."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        try:
            content = file.read_bytes()
        except OSError:
            continue
        yield from _PEM.findall(content)


def _proxies() -> list[str]:
    options = []
    for scheme, parts in proxies().items():
        kind = "socksProxy" if parts.scheme.startswith("socks") else f"{scheme}.proxy"
        default = {"socksProxy": 1080}.get(kind, 443 if parts.scheme == "https" else 80)
        options += [
            f"-D{kind}Host={parts.hostname}",
            f"-D{kind}Port={parts.port or default}",
        ]
        if parts.username:
            # Under these names for either scheme: it is Ivy that looks for them. And
            # Java gives no password to a proxy for https, if it isn't told to.
            options += [
                f"-Dhttp.proxyUser={unquote(parts.username)}",
                f"-Dhttp.proxyPassword={unquote(parts.password or '')}",
                "-Djdk.http.auth.tunneling.disabledSchemes=",
            ]
    if options:
        never = "|".join([*_NEVER_BY_PROXY, *_not_by_proxy(getproxies().get("no", ""))])
        options.append(f"-Dhttp.nonProxyHosts={never}")
    return list(dict.fromkeys(options))


def _not_by_proxy(no_proxy: str) -> Iterator[str]:
    """``no_proxy`` as Java's patterns: a name stands for all below it, too."""
    for part in no_proxy.split(","):
        name = part.strip().lstrip(".*").partition(":")[0]
        if part.strip() == "*":
            yield "*"
        elif name:
            yield from (name, f"*.{name}")


def argument_file(folder: Path, options: list[str]) -> str:
    """A word that stands for the options on a ``java`` command line."""
    file = folder / "options"
    file.touch(0o600)
    escaped = (option.replace("\\", "\\\\").replace('"', '\\"') for option in options)
    file.write_text("".join(f'"{option}"\n' for option in escaped))
    return f"@{file}"
