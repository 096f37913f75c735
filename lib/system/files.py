"""Small files that a crash leaves whole: as they were, or as they were to be."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> Path:
    """Write a small file whole or not at all; returns its path."""
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(text)
    return draft.replace(path)
