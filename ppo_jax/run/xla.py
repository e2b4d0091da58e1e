"""XLA's flags for a CPU, and compiled programs kept on disk. Importing it needs no jax."""

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# A loop that holds no more bytes than this becomes one compiled function instead of a list of
# kernels: the rollouts' loops of small networks (docs/performance.md).
_SMALL_LOOP = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=100000"
_DIRECTORY = "jax_compilation_cache_dir"


def set_flags(num_agents: int) -> None:
    """Make one CPU device a core, at most one an agent, and let small loops become functions.

    What the user's own XLA_FLAGS say about either stays. Has no effect once jax has started.
    """
    if "jax" not in sys.modules:
        os.environ["XLA_FLAGS"] = flags(num_agents, os.environ.get("XLA_FLAGS", ""))


def flags(num_agents: int, others: str = "") -> str:
    """The flags that so many agents want, beside others, which come first."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = max(1, min(num_agents, cores or 1))
    for flag in (f"--xla_force_host_platform_device_count={devices}", _SMALL_LOOP):
        if flag.split("=")[0] not in others:
            others = f"{others} {flag}"
    return others.strip()


@contextlib.contextmanager
def compilation_cache(wanted: bool = True) -> Iterator[None]:
    """Programs compiled meanwhile are kept in the user's cache folder, and taken from there.

    Nothing changes where it is not wanted, where jax has a cache (JAX_COMPILATION_CACHE_DIR), or
    where no folder can be made.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache as cache

    path = _cache_folder() if wanted and not getattr(jax.config, _DIRECTORY) else None
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
        cache.reset_cache()  # jax looks for its folder once
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        cache.reset_cache()


def _cache_folder() -> Path | None:
    with contextlib.suppress(OSError, RuntimeError):  # no home, no place, no right to write
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        path = Path(base) / "ppo_jax" / _processor()
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return path
    return None


def _processor() -> str:
    """Name of this kind of processor: what is compiled for one may not run on another that shares
    the home folder."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        return hashlib.sha256(features.encode()).hexdigest()[:16]
    return "any"
