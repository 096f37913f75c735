"""What a JVM is told of the network, from the variables that other programs know."""

from __future__ import annotations

from pathlib import Path

import certifi
import pytest

from lib.setup.network import BUNDLES, FOLDERS, argument_file, bundles, jvm_options

PROXIES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *map(str.upper, PROXIES), *BUNDLES, FOLDERS):
        monkeypatch.delenv(name, raising=False)


def test_nothing_where_nothing_is_said(tmp_path: Path):
    assert jvm_options(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variable", [*BUNDLES, FOLDERS])
def test_certificates_come_by_each_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
):
    folder = tmp_path / "certificates"
    folder.mkdir()
    (folder / "readme").write_bytes(b"\xff no certificate")
    text = Path(certifi.where()).read_text()
    (folder / "some.pem").write_text(text)
    monkeypatch.setenv(variable, str(folder))

    assert bundles() == {variable: [folder]}
    store, kind, _password = jvm_options(tmp_path)
    assert kind == "-Djavax.net.ssl.trustStoreType=PKCS12"
    assert Path(store.partition("=")[2]).stat().st_size > 0


def test_a_bundle_that_is_missing_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing"))

    assert "-Djavax.net.ssl.trustStoreType=PKCS12" in jvm_options(tmp_path)


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        (
            {"https_proxy": "http://proxy.example:3128"},
            ["-Dhttps.proxyHost=proxy.example", "-Dhttps.proxyPort=3128"],
        ),
        (
            {"HTTP_PROXY": "proxy.example:3128", "HTTPS_PROXY": "https://two.example"},
            [
                *["-Dhttp.proxyHost=proxy.example", "-Dhttp.proxyPort=3128"],
                *["-Dhttps.proxyHost=two.example", "-Dhttps.proxyPort=443"],
            ],
        ),
        (
            {"all_proxy": "socks5h://proxy.example"},
            ["-DsocksProxyHost=proxy.example", "-DsocksProxyPort=1080"],
        ),
        (
            {"https_proxy": "http://me:p%40ss@proxy.example:1"},
            [
                *["-Dhttps.proxyHost=proxy.example", "-Dhttps.proxyPort=1"],
                *["-Dhttp.proxyUser=me", "-Dhttp.proxyPassword=p@ss"],
                "-Djdk.http.auth.tunneling.disabledSchemes=",
            ],
        ),
    ],
)
def test_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict, options: list
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    *found, direct = jvm_options(tmp_path)

    assert found == options
    assert direct == "-Dhttp.nonProxyHosts=localhost|127.*|[::1]"


def test_who_is_reached_without_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "10.0.0.1, .corp.example:443,, *.two.example")

    assert jvm_options(tmp_path)[-1] == (
        "-Dhttp.nonProxyHosts=localhost|127.*|[::1]|10.0.0.1|*.10.0.0.1"
        "|corp.example|*.corp.example|two.example|*.two.example"
    )


def test_a_password_is_in_a_file_that_nobody_else_reads(tmp_path: Path):
    word = argument_file(tmp_path, ["-Da=b c", '-Dp=x"y\\z'])

    file = tmp_path / "options"
    assert word == f"@{file}"
    assert file.read_text() == '"-Da=b c"\n"-Dp=x\\"y\\\\z"\n'
    assert file.stat().st_mode & 0o077 == 0
