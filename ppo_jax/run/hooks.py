"""The hooks that a run has beside its sinks: a user's own, and evaluation."""

from functools import partial
from typing import Any

import jax
import numpy as np

from ppo_jax.run.errors import InputError
from ppo_jax.run.experiment import Stopping
from ppo_jax.run.storage import arrays
from ppo_jax.run.training import Batch, Hook, next_multiple


class UserHook(Hook):
    """A user's own hook: what it lacks does nothing, and what it raises is said with its name."""

    def __init__(self, hook: Any):
        self.name = type(hook).__name__
        if not callable(getattr(hook, "at_boundary", None)):
            raise InputError(f"hook {self.name} has no method at_boundary(batch)")
        for method in (name for name in vars(Hook) if not name.startswith("_")):
            if callable(getattr(hook, method, None)):
                setattr(self, method, partial(self._call, method, getattr(hook, method)))

    def _call(self, method: str, call: Any, *arguments: Any) -> Any:
        try:
            found = call(*arguments)
        except Exception as error:  # a user's own code may raise anything
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            raise InputError(
                f"hook {self.name}: {method} raised {type(error).__name__} ({reason}); the last"
                " checkpoint is intact"
            ) from error
        for leaf in jax.tree.leaves(found if method == "state" else ()):
            if not arrays.is_numeric(arrays.plain(leaf).dtype):
                raise InputError(
                    f"hook {self.name}: state has {leaf!r}; a checkpoint keeps numbers, and arrays"
                    " of them"
                )
        return found


class Evaluation(Hook):
    """Evaluates the agents every so many updates, and stops once enough of them are solved."""

    def __init__(self, stopping: Stopping, solved_at: float | None):
        self._every, self._fraction = stopping.evaluation_updates or 1, stopping.stop_when_solved
        self._solved_at = solved_at

    def next_boundary(self, done: int) -> int:
        return next_multiple(done, self._every)

    def at_boundary(self, batch: Batch) -> None:
        if batch.num_updates % self._every:
            return
        batch.lap()
        batch.evaluation = batch.evaluate()
        batch.lap(is_training=False)
        if self._fraction is not None:
            solved = np.sum(batch.evaluation >= self._solved_at)
            if solved >= self._fraction * len(batch.evaluation):
                batch.stop("solved")
