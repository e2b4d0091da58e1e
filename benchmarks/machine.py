"""What a measurement was made on and with: kept beside every result."""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax


def describe(*packages: str) -> dict[str, Any]:
    """The processor, device, versions, flags and command line of this process."""
    device = jax.devices()[0]
    return {
        "command": "python -m " + " ".join([_module(), *sys.argv[1:]]),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "device": f"{device.platform} ({device.device_kind})",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", *packages)},
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else Path(sys.argv[0]).name


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    widest = next((flag for flag in ("avx512f", "avx2") if flag in " ".join(lines)), "no AVX2")
    return f"{names[0] if names else platform.machine()}, {widest}"
