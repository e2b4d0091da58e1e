"""Compiled programs kept on disk, so that a second start compiles nothing."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

_DIRECTORY = "jax_compilation_cache_dir"


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Programs compiled meanwhile are kept in the user's cache folder, and taken from there.

    Where jax has a cache already (JAX_COMPILATION_CACHE_DIR), or no folder can be made, nothing
    changes.
    """
    path = None if getattr(jax.config, _DIRECTORY) else _folder()
    if path is None:
        yield
        return
    settings = {
        _DIRECTORY: str(path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # jax looks for its folder once
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def _folder() -> Path | None:
    with contextlib.suppress(OSError, RuntimeError):  # no home, no place, no right to write
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        path = Path(base) / "ppo_jax" / _machine()
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return path
    return None


def _machine() -> str:
    """Name of this kind of processor: what is compiled for one may not run on another that shares
    the home folder."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        return hashlib.sha256(flags.encode()).hexdigest()[:16]
    return "any"
