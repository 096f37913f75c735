"""The software bill of materials (CycloneDX 1.6): every package and jar of the locks.

    python -m docs.sbom [FILE]    write it, to docs/sbom.json unless told otherwise

It says nothing that depends on the machine or the hour, so that a difference in git is
a difference in what is installed.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from lib.settings import ROOT
from lib.setup import jars

REQUIREMENTS = ROOT / "requirements.txt"
SBOM_FILE = ROOT / "docs" / "sbom.json"
_NAME = "fraud-signals"


def sbom() -> dict[str, object]:
    """The bill as a CycloneDX document: packages of requirements.txt, jars of
    jars.lock, and the jars inside the package pyspark."""
    components = [*_packages(), *_locked_jars(), *_shipped_jars()]
    components.sort(key=lambda c: str(c["bom-ref"]))
    content = json.dumps(components, sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": _NAME}},
        "components": components,
    }


def _packages() -> Iterator[dict[str, object]]:
    joined = REQUIREMENTS.read_text().replace("\\\n", " ")
    for line in joined.splitlines():
        found = re.match(
            r"([\w.-]+)==([^\s;]+)(?:\s*;\s*(.*?))?(?=\s+--hash|\s*$)", line
        )
        if not found:
            continue
        name, version, marker = found.groups()
        component = _component(
            f"pkg:pypi/{quote(name)}@{quote(version)}", name, version
        )
        # No digest: a package is one of several files, and requirements.txt has theirs.
        if marker:
            component["properties"] = [{"name": f"{_NAME}:marker", "value": marker}]
        yield component


def _locked_jars() -> Iterator[dict[str, object]]:
    unique = {jar.coordinate: jar for jar in jars.read_lock()}
    for jar in unique.values():
        group, artifact, version = jar.coordinate.split(":")
        yield _jar(group, artifact, version, jar.sha256)


def _shipped_jars() -> Iterator[dict[str, object]]:
    for path in jars.pyspark_jars():
        artifact, version = re.match(r"(.+?)-(\d.*)\.jar", path.name).groups()
        component = _jar(
            _group(path, artifact), artifact, version, jars.sha256_of(path)
        )
        component["bom-ref"] = f"pyspark/{path.name}"
        yield component


def _group(path: Path, artifact: str) -> str | None:
    """The group from the jar's own Maven record; None if it carries none."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    pattern = rf"META-INF/maven/([^/]+)/{re.escape(artifact)}/pom.properties"
    found = (re.fullmatch(pattern, name) for name in names)
    return next((f.group(1) for f in found if f), None)


def _jar(
    group: str | None, artifact: str, version: str, sha256: str
) -> dict[str, object]:
    kind = f"maven/{group}" if group else "generic"
    purl = f"pkg:{kind}/{artifact}@{quote(version)}"
    component = _component(purl, artifact, version)
    component |= {"hashes": [{"alg": "SHA-256", "content": sha256}]}
    return component | ({"group": group} if group else {})


def _component(purl: str, name: str, version: str) -> dict[str, object]:
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
    }


def main(arguments: list[str]) -> int:
    """Entry of ``python -m docs.sbom``; returns the exit code."""
    file = Path(arguments[0]) if arguments else SBOM_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(sbom(), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
