"""XLA's flags for a CPU: they count only if set before jax starts."""

import os
import sys

# A loop that holds no more bytes than this becomes one compiled function instead of a list of
# kernels: the rollouts' loops of small networks (benchmarks/NOTES.md).
_SMALL_LOOP = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=100000"


def set_flags(num_agents: int) -> None:
    """Make one CPU device a core, at most one an agent, and let small loops become functions.

    What the user's own XLA_FLAGS say about either stays. Has no effect once jax has started.
    """
    if "jax" not in sys.modules:
        os.environ["XLA_FLAGS"] = flags(num_agents, os.environ.get("XLA_FLAGS", ""))


def flags(num_agents: int, others: str = "") -> str:
    """The flags that so many agents want, beside others, which come first."""
    devices = max(1, min(num_agents, _cores()))
    for flag in (f"--xla_force_host_platform_device_count={devices}", _SMALL_LOOP):
        if flag.split("=")[0] not in others:
            others = f"{others} {flag}"
    return others.strip()


def _cores() -> int:
    """Cores that this process may use, where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
