"""What a figure was measured on, so that it can be read later."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from lib.java import find_java


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


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
