"""The broker's data folder: prepared once, and never made anew over records."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib.errors import FraudError
from lib.kafka.broker import is_formatted

META = "version=1\ncluster.id=x\nnode.id=1\n"


def test_a_folder_is_prepared_once(tmp_path: Path):
    data = tmp_path / "data"
    assert not is_formatted(data)
    (data / "__cluster_metadata-0").mkdir(parents=True)
    (data / "meta.properties").write_text(META)
    assert is_formatted(data)


@pytest.mark.parametrize("left", [None, "", "version=1\n"])
def test_what_was_never_written_to_is_prepared_anew(tmp_path: Path, left: str | None):
    (tmp_path / "__cluster_metadata-0").mkdir()
    if left is not None:
        (tmp_path / "meta.properties").write_text(left)

    assert not is_formatted(tmp_path)
    assert not (tmp_path / "meta.properties").exists()


@pytest.mark.parametrize("left", [None, "", META[:10]])
@pytest.mark.parametrize("copied", [True, False])
def test_records_are_never_made_another_clusters(
    tmp_path: Path, left: str | None, copied: bool
):
    data, kept = tmp_path / "data", tmp_path / "meta.properties"
    (data / "tx-events-0").mkdir(parents=True)
    if left is not None:
        (data / "meta.properties").write_text(left)
    if copied:
        kept.write_text(META)

    with pytest.raises(FraudError) as caught:
        is_formatted(data, kept)

    said = str(caught.value)
    assert str(data / "meta.properties") in said
    assert (f"copy {kept} to it" in said) == copied
    assert "delete" not in said
    assert (data / "tx-events-0").exists()
