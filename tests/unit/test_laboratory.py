"""Where a laboratory works."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lib.faults.laboratory import own_place
from lib.settings import Settings


def test_the_next_run_in_the_same_home_finds_nothing_of_the_last_one(tmp_path: Path):
    settings = Settings.from_env({"FRAUD_HOME": str(tmp_path)})
    runs = [
        own_place(replace(settings, topic=topic), name)
        for topic in ("tx-monday", "tx-tuesday")
        for name in ("lab", "full")
    ]

    for name in ("topic", "lake", "checkpoints"):
        assert len({getattr(run, name) for run in runs}) == len(runs)
    assert all(tmp_path in Path(run.lake).parents for run in runs)
