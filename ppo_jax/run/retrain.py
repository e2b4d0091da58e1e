"""An agent of a run, trained again from its key and compared with what the run saved."""

import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from ppo_jax import ppo
from ppo_jax.run import programs
from ppo_jax.run.agent import Agent, Request
from ppo_jax.run.programs import Programs
from ppo_jax.run.saved import to_arrays
from ppo_jax.run.screen import Screen

_CHUNK_SECONDS = 0.25  # the screen waits for no more than a chunk


class Retrained(NamedTuple):
    """What became of the agent this time."""

    params: dict[str, np.ndarray]
    metrics: dict[str, np.ndarray]  # [updates]
    made: int  # updates before it froze, or all of them


def retrain(request: Request, agent: Agent, chosen: list[jax.Device], screen: Screen) -> Retrained:
    """The agent again, in its own lane of the run's programs, or alone.

    All other lanes hold the same agent: its bits depend on the program, not on its neighbours.
    """
    lanes = request.lanes if request.how == "batch" else 1
    shape = f"{lanes:,} lane{'s' if lanes > 1 else ''} on {len(chosen)} device"
    shape += "s" if len(chosen) > 1 else ""
    with screen.waiting(f"compiling {request.settings['recipe']} for {shape}"):
        compiled = programs.compile_programs(agent.configure(lanes), lanes, chosen)
    return train(compiled, agent, lanes, screen)


def train(compiled: Programs, agent: Agent, lanes: int, screen: Screen) -> Retrained:
    """Chunk after chunk of the agent's updates, as many as the run made with it."""
    lane, total, most = agent.lane % lanes, agent.num_updates, programs.capacity(agent.config)
    config = agent.configure(lanes)
    states = compiled.init(np.full(lanes, agent.seed, np.uint32), config)
    done, size, steps, chunks = 0, 1, 0, []
    started = time.perf_counter()
    with screen.training(total) as progress:
        while done < total:
            began = time.perf_counter()
            states, rows = compiled.chunk(states, config, size)
            chunks.append(_own(rows, size, lane))
            done += size
            each = (time.perf_counter() - began) / size
            steps += int(chunks[-1].env_steps.sum())
            took = time.perf_counter() - started
            progress.show(done, steps, took, _latest(np.asarray(chunks[-1].episode_return)))
            size = max(1, min(round(_CHUNK_SECONDS / each), most, total - done))
    metrics = {
        name: np.concatenate([getattr(chunk, name) for chunk in chunks] or [np.zeros(0)])
        for name in ppo.Metrics._fields
    }
    params = {name: leaf[lane] for name, leaf in to_arrays(states.params).items()}
    return Retrained(params, metrics, int(states.num_updates[lane]))


def _own(rows: ppo.Metrics, size: int, lane: int) -> ppo.Metrics:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:size, lane], rows)


def _latest(returns: np.ndarray) -> float:
    known = returns[~np.isnan(returns)]
    return float(known[-1]) if known.size else math.nan


def compare(agent: Agent, again: Retrained) -> dict[str, Any]:
    """Whether the agent's parameters are the saved ones, bit for bit, and how far it went apart."""
    same = [again.params[name].tobytes() == leaf.tobytes() for name, leaf in agent.params.items()]
    differences = [
        np.abs(again.params[name].astype(float) - leaf).max() for name, leaf in agent.params.items()
    ]
    return {
        "frozen_after": again.made if again.made < agent.num_updates else None,
        "bit_for_bit": all(same),
        "parameter_difference": _number(max(differences)),
        "curves": _compare_curves(agent.curves, again.metrics),
    }


def _compare_curves(
    saved: dict[str, np.ndarray] | None, metrics: dict[str, np.ndarray]
) -> dict[str, Any] | None:
    """The largest differences between the saved and the new learning curves, where both have a
    value, and for how many updates the returns were the same."""
    if saved is None:
        return None
    differences = {
        name: np.nan_to_num(np.abs(ours.astype(float) - saved[name])).max(initial=0)
        for name, ours in metrics.items()
    }
    ours, theirs = metrics["episode_return"], saved["episode_return"]
    # A mean of several episodes may be rounded otherwise; another action makes a larger difference.
    parted = np.flatnonzero(~np.isclose(ours, theirs, rtol=1e-5, atol=0, equal_nan=True))
    return {
        "same_returns": int(parted[0]) if parted.size else len(ours),
        "differences": {name: _number(value) for name, value in differences.items()},
    }


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
