"""The bill of materials names what is installed, and is of today's locks."""

from __future__ import annotations

import importlib.metadata
import json
import re

from docs.sbom import REQUIREMENTS, SBOM_FILE, sbom
from lib.setup.jars import read_lock


def components() -> list[dict]:
    return sbom()["components"]


def test_the_bill_in_git_is_that_of_the_locks():
    assert json.loads(SBOM_FILE.read_text()) == sbom(), "run `make sbom`"


def test_every_locked_package_and_jar_is_in_it():
    purls = {c["purl"] for c in components()}
    # Counted another way than the module does: a pinned line is followed by its hashes.
    pinned = re.findall(r"^[\w.-]+==.*\\$", REQUIREMENTS.read_text(), re.MULTILINE)
    assert sum(p.startswith("pkg:pypi/") for p in purls) == len(pinned)
    version = importlib.metadata.version("pyspark")
    assert f"pkg:pypi/pyspark@{version}" in purls
    digests = {c["hashes"][0]["content"] for c in components() if "hashes" in c}
    assert digests >= {jar.sha256 for jar in read_lock()}


def test_references_are_unique_as_the_format_demands():
    references = [c["bom-ref"] for c in components()]
    assert len(set(references)) == len(references)
    assert sbom()["bomFormat"] == "CycloneDX"


def test_jars_inside_pyspark_are_named():
    (core,) = [c for c in components() if c["name"].startswith("spark-core_")]
    assert core["group"] == "org.apache.spark"
    assert core["version"] == importlib.metadata.version("pyspark")
