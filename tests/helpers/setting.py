"""What a result was made on and with: kept beside it."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def describe_setting(module: str, *packages: str) -> dict[str, Any]:
    """The command line of this module, the processor, and the versions."""
    return {
        "command": " ".join(["python -m", module, *sys.argv[1:]]),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", *packages)},
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
