"""What became of agents: of a group, of a whole run, and in a checkpoint."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax.run.roster import Roster
from ppo_jax.run.saved import read_metrics

_CURVES = ("returns", "env_steps")  # [updates, agents], and in metrics.csv already


class Curves:
    """The agents' curves as metrics.csv has them, for a run that goes on."""

    def __init__(self, path: Path, agents: Roster):
        self._roster, self._metrics = agents, read_metrics(path)
        seeds = self._metrics["seed"][:1].ravel()  # none before the first update
        settings = self._metrics.get("setting", np.zeros((1, len(seeds))))[:1].ravel()
        keys = zip(settings, seeds, strict=True)
        self._columns = {key: index for index, key in enumerate(keys)}

    def of(self, agents: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean returns and environment steps of each of the first updates, [updates, agents]."""
        keys = zip(self._roster.setting[agents], self._roster.seeds[agents], strict=True)
        columns = [self._columns[key] for key in keys]
        returns = self._metrics["episode_return"][:length, columns]
        steps = self._metrics["env_steps"][:length, columns]
        return returns.astype(jnp.result_type(float)), steps.astype(np.int32)


class Outcome(NamedTuple):
    """What became of agents, of all processes, in the order of `agents`."""

    agents: np.ndarray  # [agents], their numbers in the roster
    params: dict[str, np.ndarray]  # [agents, ...] each
    updates: np.ndarray  # [agents], that an agent made; fewer than the others': it was frozen
    frozen: np.ndarray  # [agents]
    eval_returns: np.ndarray | None  # [agents], greedy; none after a signal
    returns: np.ndarray | None  # [updates, agents], while training; none without curves
    env_steps: np.ndarray | None  # [updates, agents], so far
    digests: np.ndarray  # [agents, 32], of every array of each agent's last state
    evolution: dict[str, Any] | None  # the best agent and its hyperparameters

    def of(self, chosen: np.ndarray) -> "Outcome":
        """That of some of the agents."""
        return Outcome(
            **{
                name: jax.tree.map(
                    lambda leaf: leaf[:, chosen] if name in _CURVES else leaf[chosen],  # noqa: B023
                    value,
                )
                for name, value in self._asdict().items()
            }
        )

    def to_arrays(self) -> tuple[dict[str, np.ndarray], int | None]:
        """The outcome as named arrays, and the number of updates of its curves, if it has any:
        those are in metrics.csv."""
        plain = {**self._asdict(), **{f"params.{name}": one for name, one in self.params.items()}}
        arrays = {name: plain[name] for name in plain if isinstance(plain[name], np.ndarray)}
        kept = {name: array for name, array in arrays.items() if name not in _CURVES}
        return kept, None if self.returns is None else len(self.returns)

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, np.ndarray], length: int | None, curves: Curves | None
    ) -> "Outcome":
        """The inverse of `to_arrays`, with the curves from metrics.csv."""
        fields = {name: arrays.get(name) for name in cls._fields}
        parameters = {
            name.removeprefix("params."): array
            for name, array in arrays.items()
            if name.startswith("params.")
        }
        if curves and length is not None:
            returns, each = curves.of(arrays["agents"], length)
            fields |= {"returns": returns, "env_steps": each.cumsum(axis=0, dtype=np.int64)}
        return cls(**{**fields, "params": parameters})  # type: ignore[arg-type]


def join(outcomes: list[Outcome]) -> Outcome:
    """The groups' outcomes as one, in the roster's order; groups that stopped early have shorter
    curves, filled up with NaN returns and steps that stay. What a group lacks, all lack: after a
    signal its evaluation, or its curves."""
    order = np.argsort(np.concatenate([one.agents for one in outcomes]))

    def joined(*arrays: np.ndarray) -> np.ndarray:
        return np.concatenate(arrays)[order]

    def joined_curves(*arrays: np.ndarray) -> np.ndarray:
        longest = max(len(array) for array in arrays)
        filled = []
        for array in arrays:
            last = np.full_like(array[-1:], np.nan) if array.dtype.kind == "f" else array[-1:]
            filled.append(np.concatenate([array, *[last] * (longest - len(array))]))
        return np.concatenate(filled, axis=1)[:, order]

    together: dict[str, Any] = {}
    for name in set(Outcome._fields) - {"evolution"}:
        parts = [getattr(one, name) for one in outcomes]
        whole = joined_curves if name in _CURVES else joined
        lacking = any(part is None for part in parts)
        together[name] = None if lacking else jax.tree.map(whole, *parts)
    return Outcome(**together, evolution=outcomes[-1].evolution)
