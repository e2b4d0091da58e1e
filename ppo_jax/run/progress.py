"""Shows where training stands, as a hook."""

import jax
import numpy as np

from ppo_jax import population
from ppo_jax.run.agents import AgentTable
from ppo_jax.run.console import Console, ProgressLine
from ppo_jax.run.hooks import Hook
from ppo_jax.run.training import Batch


class Progress(Hook):
    """Steps, steps per second, mean return and time left, over all batches of a run."""

    def __init__(self, console: Console, table: AgentTable, lanes: int):
        batches = -(-table.per_process(jax.process_count()) // lanes)
        self._updates = table.experiment.algorithm.num_updates or 0
        self._line = ProgressLine(console, batches * self._updates)

    def at_boundary(self, batch: Batch) -> None:
        """Show the batch's updates after those of the batches before."""
        assert batch.chunk is not None
        done = (batch.number - 1) * self._updates + batch.num_updates
        latest = latest_return(batch.chunk.statistics)
        self._line.show(done, batch.env_steps, batch.seconds, latest)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._line.close()


def latest_return(statistics: population.Statistics) -> float:
    """Mean over agents of the last update in which an episode ended; NaN where none did."""
    known = statistics.returns.mean[~np.isnan(statistics.returns.mean)]
    return float(known[-1]) if known.size else float("nan")
