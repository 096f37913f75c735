"""What can be said of the dbt project and its runner without a JVM."""

from __future__ import annotations

import pandas as pd
import pytest
import yaml

from lib.marts import dbt_runner
from lib.marts.dbt_report import Marts, lineage, one_line
from lib.marts.dbt_runner import PROJECT
from lib.marts.spark_catalog import SOURCES, STAGED_AS

YAMLS = sorted(p for p in PROJECT.rglob("*.yml") if "dbt_project" not in p.name)


def _described(path) -> list[dict]:
    text = yaml.safe_load(path.read_text())
    found = [*text.get("models", []), *text.get("snapshots", [])]
    for source in text.get("sources", []):
        found += source["tables"]
    return found


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_every_table_and_column_is_described(path):
    for table in _described(path):
        assert table["description"].strip(), table["name"]
        for column in table["columns"]:
            assert column["description"].strip(), (table["name"], column["name"])


def test_one_yml_beside_each_model():
    for sql in (PROJECT / "models").rglob("*.sql"):
        (model,) = _described(sql.with_suffix(".yml"))
        assert model["name"] == sql.stem


def test_each_mart_that_computes_has_a_unit_test():
    for sql in (PROJECT / "models" / "marts").glob("*.sql"):
        text = yaml.safe_load(sql.with_suffix(".yml").read_text())
        assert text["unit_tests"], sql.stem
        assert {test["model"] for test in text["unit_tests"]} == {sql.stem}


def test_the_sources_are_described_as_they_are():
    text = yaml.safe_load((PROJECT / "models" / "sources.yml").read_text())
    described = {
        f"{source['schema']}/{table['name']}": {c["name"] for c in table["columns"]}
        for source in text["sources"]
        for table in source["tables"]
    }
    schemas = {name: set(schema.fieldNames()) for name, schema in SOURCES.items()}
    assert described == schemas
    assert set(STAGED_AS) == set(SOURCES)
    for model in STAGED_AS.values():
        assert (PROJECT / "models" / "staging" / f"{model}.sql").is_file()


def test_the_snapshot_counts_as_a_mart():
    names = dbt_runner.mart_names()
    assert "dim_account_history" in names
    assert "fct_transactions" in names
    assert not [name for name in names if name.startswith("stg_")]


def _nodes(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["name", "kind", "status", "message"])


def test_the_counts():
    nodes = _nodes(
        ("m", "model", "success", "OK"),
        ("s", "snapshot", "success", "OK"),
        ("t", "test", "pass", ""),
        ("u", "unit_test", "fail", "1 of 2"),
        ("w", "test", "warn", "got 1 result"),
        ("k", "test", "skipped", ""),
        ("e", "exposure", "no-op", ""),
    )
    said = Marts(nodes, {"a/b": "pass"}, 1.23456).as_dict()
    assert (said["models"], said["tests"], said["failures"]) == (2, 4, 1)
    assert (said["warnings"], said["skipped"], said["seconds"]) == (1, 1, 1.235)
    assert said["failed"] == ["u"]
    assert Marts(nodes, {}, 1).failures == ["test u: 1 of 2"]


def test_a_paragraph_becomes_a_line():
    text = "Runtime Error in model m (models/m.sql)\n  Database Error\n"
    text += "  [X] \x1b[31mno column\n  a\n  compiled code at target/m.sql"
    assert one_line(text) == "[X] no column a"
    assert one_line("Runtime Error") == "Runtime Error"


def test_a_broken_contract_names_its_columns():
    text = """Compilation Error in model m (models/m.sql)
      This model has an enforced contract that failed.
      Please ensure the name matches.

      | column_name | definition_type | contract_type | mismatch_reason       |
      | ----------- | --------------- | ------------- | --------------------- |
      | amount      | DOUBLE          | DECIMAL(12,2) | data type mismatch    |
      | revision    |                 | BIGINT        | missing in definition |
    """
    assert one_line(text) == (
        "the contract is broken: column amount data type mismatch "
        "(DOUBLE, contract DECIMAL(12,2)); column revision missing in definition "
        "(none, contract BIGINT)"
    )


def test_the_lineage_of_a_manifest():
    parents = {
        "source.p.silver.t": [],
        "model.p.stg": ["source.p.silver.t", "macro.p.x"],
        "model.p.fct": ["model.p.stg"],
        "exposure.p.page": ["model.p.fct", "model.p.stg"],
        "test.p.unique": ["model.p.fct"],
    }
    nodes, edges = lineage({"parent_map": parents})
    levels = dict(zip(nodes["name"], nodes["level"], strict=True))
    assert levels == {"silver.t": 0, "stg": 1, "fct": 2, "page": 3}
    assert set(nodes["kind"]) == {"source", "model", "exposure"}
    assert len(edges) == 4
    assert not edges["child"].str.startswith("test").any()


def test_the_readme_s_columns_are_those_of_the_contracts():
    told = {}
    for line in (PROJECT / "README.md").read_text().splitlines():
        if line.startswith("| `"):
            name, _grain, columns = line.strip("| ").split(" | ")
            told[name.strip("`")] = columns.split(", ")
    models = (PROJECT / "models" / "marts").glob("*.yml")
    described = {table["name"]: table for p in models for table in _described(p)}
    columns = {n: [c["name"] for c in t["columns"]] for n, t in described.items()}
    assert {name: told[name] for name in columns} == columns
    assert set(told) - set(columns) == {"dim_account_history"}
