"""When a run saves a checkpoint, and all that goes into it."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax.run import checkpoint, devices
from ppo_jax.run.checkpoint import Checkpoint
from ppo_jax.run.group import Group
from ppo_jax.run.job import Job
from ppo_jax.run.ledger import Ledger
from ppo_jax.run.log import Log
from ppo_jax.run.outcome import Outcome


@dataclasses.dataclass
class Keeper:
    """Saves a run's checkpoints: every so many updates, every so many seconds, and at a signal."""

    job: Job
    settings: dict[str, Any]
    machine: dict[str, Any]
    log: Log
    writer: checkpoint.Writer
    ledger: Ledger
    outcomes: list[Outcome] = dataclasses.field(default_factory=list)
    """Of the agents that are done."""

    def __post_init__(self) -> None:
        self._saved_at = time.monotonic()

    def due(self, done: int) -> bool:
        """Whether it is time for one after `done` updates. Raises Failure (3) if the last one
        could not be written."""
        self.writer.check()
        if jax.process_count() > 1:
            return False
        every, seconds = self.job.checkpoint_every, self.job.checkpoint_seconds
        waited = time.monotonic() - self._saved_at
        return bool(every and done % every == 0) or bool(seconds and waited >= seconds)

    def save(self, group: Group) -> None:
        """Save one of all that has been done, the group's last chunk and its rows included."""
        if jax.process_count() > 1:  # agents that several processes train have none yet
            return
        arrays, facts = group.snapshot()
        finished = [*self.outcomes, *group.dropped]
        lengths = []
        for index, outcome in enumerate(finished):
            own, length = outcome.to_arrays()
            arrays |= {f"outcome.{index}.{name}": array for name, array in own.items()}
            lengths.append(length)
        facts |= {
            "outcomes": lengths,
            "dropped": len(group.dropped),
            "next_agent": group.next_agent,
            "seconds": group.spent,
            "counts": self.log.counts,
            "files": self.ledger.note(),
            "settings": self.settings,
            "machine": self.machine,
        }
        self.writer.save(Checkpoint(arrays, facts))
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Wait until the last checkpoint is written."""
        self.writer.close()

    def save_last(self, group: Group) -> None:
        """Save the end as well where a run saves checkpoints, for one that is to train longer."""
        if self.job.checkpoint_every or self.writer.used:
            self.save(group)


def machine(chosen: list[jax.Device]) -> dict[str, Any]:
    """What the bits of a result depend on beside the settings."""
    return {
        "prng": str(jax.random.key_impl(jax.random.key(0))),
        "x64": jnp.result_type(float) == np.float64,
        "device": devices.describe(chosen),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "jax": jax.__version__,
    }


def keeper(job: Job, settings: dict[str, Any], chosen: list[jax.Device], log: Log) -> Keeper:
    """The keeper of a run that begins or goes on."""
    path: Path = job.path
    writer = checkpoint.Writer(path, job.checkpoints_kept)
    return Keeper(job, settings, machine(chosen), log, writer, Ledger(path))
