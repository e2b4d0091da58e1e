"""Several processes that train one run, each its share of the agents, in step with the others.

A process alone gathers its own.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ppo_jax.objects import first_line
from ppo_jax.run.errors import DeviceError
from ppo_jax.run.experiment import Machine
from ppo_jax.run.storage import arrays

_HEARTBEAT = 60  # seconds after which the others end where a process has died


def join(machine: Machine) -> None:
    """Become one of the run's processes, before jax is used; jax finds from the cluster (SLURM, a
    cloud) what is none. Raises DeviceError where the processes could not connect."""
    known = machine.coordinator, machine.num_processes, machine.process_id
    try:
        jax.distributed.initialize(*known, heartbeat_timeout_seconds=_HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        raise DeviceError(
            f"--distributed: the processes could not connect ({first_line(error)}); give"
            " --coordinator HOST:PORT, --num-processes and --process-id to each"
        ) from error


def is_main_process() -> bool:
    """Whether this process is the one that writes and prints."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def gather(tree: Any, axis: int = 0) -> Any:
    """Every process's arrays, of equal shapes, joined along an axis in the processes' order.

    Types of 64 bits are not for here: without x64 jax cuts them to 32.
    """
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    parts = multihost_utils.process_allgather(tree)
    return jax.tree.map(lambda leaf: np.concatenate(leaf, axis=axis), parts)


def allreduce(number: int) -> int:
    """The largest of the processes' numbers; none goes on before all are here."""
    return int(np.max(gather(np.array([number], np.int32))))


def to_global(tree: Any) -> Any:
    """This process's arrays [lanes, ...] as its part of all processes' [processes × lanes, ...]."""
    if jax.process_count() == 1:
        return tree
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("agents",)), PartitionSpec("agents"))
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(
            sharding, np.asarray(arrays.plain(leaf))
        ),
        tree,
    )
