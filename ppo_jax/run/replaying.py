"""Trains one agent of a run again, compares it with what was saved, and lets it play."""

import csv
import dataclasses
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ppo_jax import __version__, evaluate, ppo
from ppo_jax.evaluate import Trace
from ppo_jax.run import compiled, devices, pipeline, saved
from ppo_jax.run.agents import Lanes
from ppo_jax.run.console import Console, ProgressLine
from ppo_jax.run.errors import DeviceError
from ppo_jax.run.progress import latest_return
from ppo_jax.run.saved import Agent, Run
from ppo_jax.run.signals import Signals
from ppo_jax.run.sinks import LEADING, Sink
from ppo_jax.run.storage import arrays, folder
from ppo_jax.run.training import Batch, Chunk, train_batch

TRACE = "trace.csv"


@dataclasses.dataclass(frozen=True)
class Request:
    """Which agent to replay, how, and where it goes."""

    path: Path  # the run's folder
    summary: dict[str, Any]
    agent: int
    how: str  # batch, alone or load
    device: str
    episodes: int
    sampled: bool
    seed: int  # of the episodes
    out: Path


class Shape(NamedTuple):
    """How the run trained the agent."""

    devices: int  # that each process used
    lanes: int  # agents that each process trained at once
    lane: int  # of the agent, in its batch
    num_updates: int  # that its batch made


class Retrained(NamedTuple):
    """What became of the agent this time."""

    params: Any
    metrics: dict[str, np.ndarray]  # [updates]
    made: int  # updates before it froze, or all of them


def replay(request: Request, console: Console) -> dict[str, Any]:
    """Train the agent again (or load it), compare it, play with it, and write what was found.

    Returns the summary. Raises CommandError for what the user can mend.
    """
    run = saved.read_run(request.path)
    run.check_number(request.agent)
    agent = run.agent(request.agent)
    shape = _shape(request, run)
    chosen = _devices(request, shape)
    folder.empty(request.out)
    with folder.file_system(request.out):
        (request.out / TRACE).unlink(missing_ok=True)
    _print_header(request, run, chosen, console)
    again, params = None, agent.params
    with devices.device_errors("this agent", "--how alone needs less"):
        if request.how != "load":
            again = _retrain(request, run, shape, chosen, console)
            params = again.params
        trace = jax.jit(evaluate.play, static_argnums=(3, 4))(
            params, agent.config, jax.random.key(request.seed), request.episodes, request.sampled
        )
        trace = jax.tree.map(np.asarray, trace)
    found: dict[str, Any] = {
        "frozen_after": request.summary.get("frozen_agents", {}).get(str(request.agent))
    }
    if again:
        _write_metrics(request, run, again.metrics)
        found = compare(agent, again, shape.num_updates)
    _write_trace(request.out / TRACE, trace)
    summary = _summarize(request, run, agent, shape, found, trace, chosen)
    folder.write_json(request.out / folder.SUMMARY, summary)
    return summary


def compare(agent: Agent, again: Retrained, num_updates: int) -> dict[str, Any]:
    """Whether the agent's parameters are the saved ones, bit for bit, and how far they differ."""
    ours, theirs = arrays.to_named(again.params), arrays.to_named(agent.params)
    differences = [np.abs(ours[name].astype(float) - leaf).max() for name, leaf in theirs.items()]
    return {
        "frozen_after": again.made if again.made < num_updates else None,
        "bit_for_bit": all(ours[name].tobytes() == leaf.tobytes() for name, leaf in theirs.items()),
        "parameter_difference": _number(max(differences)),
        "curves": _compare_curves(agent.metrics, again.metrics),
    }


def _compare_curves(
    theirs: dict[str, np.ndarray], ours: dict[str, np.ndarray]
) -> dict[str, Any] | None:
    """The largest differences between the saved and the new learning curves, where both have a
    value, and for how many updates the returns were the same; none without curves."""
    if not theirs:
        return None
    length = len(ours["episode_return"])
    differences = {
        name: np.nan_to_num(np.abs(column.astype(float) - theirs[name][:length])).max(initial=0)
        for name, column in ours.items()
    }
    returns, before = ours["episode_return"], theirs["episode_return"][:length]
    # A mean of several episodes may be rounded otherwise; another action makes a larger difference.
    parted = np.flatnonzero(~np.isclose(returns, before, rtol=1e-5, atol=0, equal_nan=True))
    return {
        "same_returns": int(parted[0]) if parted.size else length,
        "differences": {name: _number(value) for name, value in differences.items()},
    }


def _shape(request: Request, run: Run) -> Shape:
    """How the run trained the agent; early runs did not write all of it."""
    summary, table = request.summary, run.table
    named = re.search(r", (\d+) devices$", summary.get("device", ""))
    count = summary.get("devices") or (int(named[1]) if named else 1)
    processes = summary.get("processes", 1)
    lanes = summary.get("lanes") or table.lanes(processes, count)
    batch, lane = divmod(request.agent % table.per_process(processes), lanes)
    with folder.file_system(request.path):
        content = (request.path / folder.STATISTICS).read_text().splitlines()
    rows = csv.DictReader(content)
    updates = [int(row["update"]) for row in rows if int(row["group"]) == batch + 1]
    return Shape(count, lanes, lane, max(updates, default=0))


def _devices(request: Request, shape: Shape) -> list[jax.Device]:
    """As many devices as the run used, or one. Raises DeviceError where there are fewer."""
    chosen = devices.select(request.device)
    number = shape.devices if request.how == "batch" else 1
    if len(chosen) < number:
        raise DeviceError(
            f"the run used {number} devices, here {'are' if len(chosen) > 1 else 'is'}"
            f" {len(chosen)}; --how alone needs 1 (XLA_FLAGS="
            f"--xla_force_host_platform_device_count={number} makes more of a CPU)"
        )
    return chosen[:number]


class _Collected(Sink):
    """Keeps the metrics of one lane, and shows them."""

    def __init__(self, console: Console, lane: int, total: int):
        super().__init__()
        self.chunks: list[dict[str, np.ndarray]] = []
        self._lane, self._line = lane, ProgressLine(console, total)

    def at_boundary(self, batch: Batch) -> None:
        super().at_boundary(batch)
        assert batch.chunk is not None
        steps = int(batch.agent_steps[self._lane])
        latest = latest_return(batch.chunk.statistics)
        self._line.show(batch.num_updates, steps, batch.seconds, latest)

    def write(self, chunk: Chunk, evaluation: np.ndarray | None) -> None:
        own = {name: values[:, self._lane] for name, values in chunk.metrics.items()}
        self.chunks.append(own)

    def close(self) -> None:
        self._line.close()


def _retrain(
    request: Request, run: Run, shape: Shape, chosen: list[jax.Device], console: Console
) -> Retrained:
    """The agent again, in its own lane of the run's programs, or alone.

    All other lanes hold the same agent: its bits depend on the program, not on its neighbors.
    """
    lanes, lane = (shape.lanes, shape.lane) if request.how == "batch" else (1, 0)
    where = f"{lanes:,} lane{'s' * (lanes > 1)} on {len(chosen)} device{'s' * (len(chosen) > 1)}"
    ids, experiment = np.full(lanes, request.agent), run.table.experiment
    with console.waiting(f"compiling {experiment.agents.recipe} for {where}"):
        programs = compiled.build(run.table.configure(ids), lanes, chosen)
    initial = pipeline.initial_parameters(experiment)
    batch = Batch(run.table, Lanes(ids, np.ones(lanes, bool)), programs, initial=initial)
    batch.total_updates = shape.num_updates
    collected = _Collected(console, lane, shape.num_updates)
    train_batch(batch, [collected], Signals())
    collected.close()
    none = {name: np.zeros(0) for name in ppo.Metrics._fields}
    return Retrained(
        params=jax.tree.map(lambda leaf: leaf[lane], batch.states.params),
        metrics={
            name: np.concatenate([chunk[name] for chunk in collected.chunks or [none]])
            for name in ppo.Metrics._fields
        },
        made=int(batch.states.num_updates[lane]),
    )


def _print_header(request: Request, run: Run, chosen: list[jax.Device], console: Console) -> None:
    own = run.hyperparameters_of(request.agent)
    values = ", ".join(f"{name} {value:.4g}" for name, value in own.items())
    number = int(run.table.setting[request.agent])
    setting = f", setting {number}" if run.table.num_settings > 1 else ""
    setting += f" ({values})" if values else ""
    seed = run.table.seeds[request.agent]
    console.say(
        f"ppo_jax {__version__}: agent {request.agent} of {request.path}, seed {seed}{setting},"
        f" on {devices.describe(chosen)}"
    )
    before, now = _made_with(request.summary), _made_with(_here(chosen))
    if request.how == "batch" and before != now:
        console.say(f"the run was made with {before}, this is {now}: results may differ bitwise")


def _here(chosen: list[jax.Device]) -> dict[str, Any]:
    return {
        "device": devices.describe(chosen),
        "versions": {"ppo_jax": __version__, "jax": jax.__version__},
    }


def _made_with(summary: dict[str, Any]) -> str:
    versions = " and ".join(f"{name} {version}" for name, version in summary["versions"].items())
    return f"{versions}, on {summary['device']}"


def _write_metrics(request: Request, run: Run, metrics: dict[str, np.ndarray]) -> None:
    """The agent's metrics, a row an update, with the columns of the run's own metrics.csv."""
    several, path = run.table.num_settings > 1, request.out / folder.METRICS
    own = (run.table.setting[request.agent],) if several else ()
    steps = np.cumsum(metrics["env_steps"], dtype=np.int64).tolist()
    columns = [values.tolist() for values in metrics.values()]
    with folder.file_system(path), open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*LEADING, *("setting",) * several, *metrics])
        for update, (step, *values) in enumerate(zip(steps, *columns, strict=True), start=1):
            cells = ("" if math.isnan(value) else value for value in values)
            rows.writerow([update, run.table.seeds[request.agent], step, *own, *cells])


def _write_trace(path: Path, trace: Trace) -> None:
    columns: dict[str, Any] = {
        **_columns("observation", trace.observation, always_numbered=True),
        **_columns("action", trace.action),
        "reward": trace.reward,
        "value": trace.value,
    }
    for name, numbers in trace.policy.items():
        columns |= _columns(name, numbers, always_numbered=True)
    for name in ("terminated", "truncated"):
        columns[name] = getattr(trace, name).astype(int)
    with folder.file_system(path), open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["episode", "step", *columns])
        for episode, step in np.argwhere(trace.valid.T):
            rows.writerow([episode, step, *(values[step, episode] for values in columns.values())])


def _columns(name: str, tree: Any, always_numbered: bool = False) -> dict[str, np.ndarray]:
    """A column [T, episodes] for every number of the arrays [T, episodes, ...]."""
    flat = [np.reshape(leaf, (*leaf.shape[:2], -1)) for leaf in jax.tree.leaves(tree)]
    numbers = [one for leaf in flat for one in np.moveaxis(leaf, -1, 0)]
    if len(numbers) == 1 and not always_numbered:
        return {name: numbers[0]}
    return {f"{name}_{index}": one for index, one in enumerate(numbers)}


def _summarize(
    request: Request,
    run: Run,
    agent: Agent,
    shape: Shape,
    found: dict[str, Any],
    trace: Trace,
    chosen: list[jax.Device],
) -> dict[str, Any]:
    returns = np.sum(trace.reward, axis=0, where=trace.valid, dtype=float).tolist()
    return {
        "run": str(request.path),
        "agent": request.agent,
        "seed": int(run.table.seeds[request.agent]),
        "setting": int(run.table.setting[request.agent]),
        "coefficients": run.hyperparameters_of(request.agent),
        "how": request.how,
        "num_updates": shape.num_updates,
        "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(agent.params)),
        "bit_for_bit": None,
        "parameter_difference": None,
        "curves": None,
        **found,
        "sampled": request.sampled,
        "episodes_seed": request.seed,
        "episode_returns": returns,
        "mean_return": float(np.mean(returns)),
        **_here(chosen),
    }


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
