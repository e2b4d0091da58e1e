"""Several processes training one run: each its share of the agents, in step with the others.

All of them do the same with what they gather; the first keeps what it writes. A process alone
gathers its own.
"""

from typing import Any

import jax
import numpy as np

from ppo_jax.run.failure import DEVICE, Failure


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Become one of the run's processes; what is none is found by jax from the cluster (SLURM, a
    cloud). Call it before anything else of jax. Raises Failure (4) where they do not find together.
    """
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise Failure(
            f"--distributed: the processes did not find together ({reason}); give --coordinator"
            " HOST:PORT, --num-processes and --process-id to each",
            DEVICE,
        ) from error


def gather(tree: Any, axis: int = 0) -> Any:
    """Every process's arrays, of equal shapes, joined along an axis in the processes' order.

    Types of 64 bits are not for here: without x64 jax cuts them to 32.
    """
    if jax.process_count() == 1:
        return tree
    from jax.experimental import multihost_utils

    everyone = multihost_utils.process_allgather(tree)
    return jax.tree.map(lambda parts: np.concatenate(parts, axis=axis), everyone)


def agree(number: int) -> int:
    """The largest of the processes' numbers."""
    return int(np.max(gather(np.array([number], np.int32))))


def first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def agree_to_stop(stopped: list[int]) -> None:
    """Let the signals that any process received count as received here."""
    number = agree(stopped[0] if stopped else 0)
    if number and not stopped:
        stopped.append(number)
