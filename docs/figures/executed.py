"""Executed copies of the notebooks: one that is there already, or a new run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbformat import NotebookNode

from lib.settings import ROOT

LEFT_BEHIND = ROOT / "executed"
"""Where `make test` leaves the notebooks that it has run."""


def copies(
    notebooks: Iterable[Path], folder: Path = LEFT_BEHIND
) -> dict[str, NotebookNode]:
    """Number, such as ``01`` → the executed notebook.

    Args:
        notebooks: those that are wanted.
        folder: holds copies that were executed earlier. One whose cells are not those
            of the notebook, or that did not run to its end, is run anew.
    """
    import papermill

    found = {}
    with TemporaryDirectory() as made:
        for path in notebooks:
            copy = folder / path.name
            if not is_run_of(path, copy):
                copy = Path(made) / path.name
                papermill.execute_notebook(path, copy, cwd=made, progress_bar=False)
            found[path.stem[:2]] = nbformat.read(copy, as_version=4)
    return found


def is_run_of(notebook: Path, copy: Path) -> bool:
    """Whether the copy has the notebook's cells, and all of them were run."""
    if not copy.exists():
        return False
    ours, theirs = (
        nbformat.read(path, as_version=4).cells for path in (notebook, copy)
    )
    same = [(c.id, c.source) for c in ours] == [(c.id, c.source) for c in theirs]
    code = [cell for cell in theirs if cell.cell_type == "code"]
    errors = [o for cell in code for o in cell.outputs if o.output_type == "error"]
    return same and all(cell.execution_count for cell in code) and not errors
