"""Selects the devices of a run, and turns what they refuse into one line."""

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from ppo_jax.objects import first_line
from ppo_jax.run import absent
from ppo_jax.run.errors import DeviceError


def select(name: str) -> list[jax.Device]:
    """This process's devices of the kind asked for; `auto` is the best that jax finds. Those of an
    absent device can only be compiled for.

    Raises DeviceError where there is none.
    """
    if ":" in name:  # absent
        return absent.select(name)
    try:
        if name == "cpu":
            jax.config.update("jax_platforms", "cpu")  # do not take a GPU's memory either
        devices = jax.local_devices(backend=None if name == "auto" else name)
        jax.config.update("jax_default_device", devices[0])
    except RuntimeError as error:
        raise DeviceError(
            f"--device {name}: jax finds none ({first_line(error)}); use --device auto, or install"
            " the extra 'ppo-jax[cuda]' or 'ppo-jax[tpu]'"
        ) from error
    return devices


def describe(devices: list[jax.Device]) -> str:
    """The devices in a few words."""
    kind = f"{devices[0].platform} ({devices[0].device_kind})"
    return kind if len(devices) == 1 else f"{kind}, {len(devices)} devices"


@contextmanager
def device_errors(request: str, remedy: str) -> Iterator[None]:
    """Turns what the device refuses (memory, mostly) into a DeviceError that says what was asked
    of it, and what would need less."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        reason = (str(error).splitlines() or ["out of memory"])[0]
        if "Shared memory size limit" in reason:  # of a Pallas kernel, which only XLA knows
            remedy = "give --kernel xla, or more num_minibatches, or smaller hidden_sizes"
        raise DeviceError(f"the device failed with {request} ({reason}); {remedy}") from error


def memory_in_use(devices: list[jax.Device]) -> int:
    """Bytes that the devices hold, where they tell; else those of this process."""
    known = [device.memory_stats() for device in devices]
    return sum(one["bytes_in_use"] for one in known) if all(known) else memory("VmRSS")


def memory_free(devices: list[jax.Device]) -> int:
    """Bytes that the devices have left, where they tell; else the machine, or the container."""
    known = [device.memory_stats() for device in devices]
    if not all(known):
        own = Path("/proc/self/cgroup")
        groups = own.read_text() if own.exists() else ""
        return min(memory("MemAvailable"), left_to_group(groups, Path("/sys/fs/cgroup")))
    return sum(one["bytes_limit"] - one["bytes_in_use"] for one in known)


def left_to_group(groups: str, root: Path) -> int:
    """Bytes that a container or a cluster's job may still take.

    groups: The process's control groups, as Linux lists them; only version 2 is asked.
    """
    left = sys.maxsize
    paths = [line.removeprefix("0::/") for line in groups.splitlines() if line.startswith("0::/")]
    for group in (folder for path in paths for folder in (root / path, *(root / path).parents)):
        try:
            most, taken = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
            held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            given_back = int(held["inactive_file"])  # of files read, which the system drops first
            left = min(left, int(most) - int(taken) + given_back)
        except (OSError, ValueError):  # no such file, or "max": without a limit
            continue
    return left


def memory(name: str) -> int:
    """Bytes that Linux has under this name; elsewhere all there are, or the process's peak."""
    try:
        with open("/proc/meminfo" if name == "MemAvailable" else "/proc/self/status") as file:
            return int(dict(line.split(":", 1) for line in file)[name].split()[0]) * 1024
    except OSError:
        if name == "MemAvailable":
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
