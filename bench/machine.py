"""What a figure was measured on, so that it can be read later; and how, if in a process
of its own."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from lib.settings import ROOT
from lib.setup.java import find_java


def machine() -> dict[str, object]:
    """CPU, cores, memory and versions of this machine."""
    names = ("pyspark", "delta-spark", "kafka-python", "pyarrow", "numpy")
    java = find_java()
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
        ),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "java": java.release,
        **{name: importlib.metadata.version(name) for name in names},
    }


def in_a_process(
    module: str, *words: object, env: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Run ``python -m module`` and return the JSON of the last line that it prints.

    Raises subprocess.CalledProcessError if it fails.
    """
    ran = subprocess.run(
        [sys.executable, "-m", module, *map(str, words)],
        cwd=ROOT,
        env=os.environ | (env or {}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(ran.stdout.splitlines()[-1])


def bytes_below(folder: Path) -> int:
    """Size of all files in a folder, and in those below it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
