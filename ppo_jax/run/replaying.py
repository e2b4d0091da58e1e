"""Trains one agent of a run again, compares it with what was saved, and lets it play."""

import contextlib
import csv
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ppo_jax import __version__, evaluate, ppo
from ppo_jax.evaluate import Trace
from ppo_jax.run import compiled, devices, pipeline, saved
from ppo_jax.run.console import Console, count
from ppo_jax.run.errors import DeviceError, InputError
from ppo_jax.run.progress import Progress
from ppo_jax.run.saved import Agent, Run
from ppo_jax.run.signals import Signals
from ppo_jax.run.sinks import Metrics
from ppo_jax.run.storage import arrays, folder
from ppo_jax.run.training import Batch, Hook, train_batch

TRACE = "trace.csv"
FILES = (TRACE, folder.METRICS, folder.SUMMARY)


def replay(request: Any, out: Path, console: Console) -> dict[str, Any]:
    """Train the agent again (or load it), compare it, play with it, and write what was found.

    Args:
        request: the options of `ppo-jax replay`.
        out: the folder for what was found.

    Returns: the summary. Raises CommandError for what the user can mend.
    """
    run = saved.load(request.run)
    agent = run.agent(request.agent)
    lane, num_updates = _place(request, run)
    chosen = _devices(request, run.summary["devices"])
    _print_header(request, run, chosen, console)
    frozen_after = run.summary.get("frozen_agents", {}).get(str(request.agent))
    found: dict[str, Any] = {"frozen_after": frozen_after}
    params = agent.params
    with devices.device_errors("this agent", "--how alone needs less"):
        if request.how != "load":
            lanes, lane = (run.summary["lanes"], lane) if request.how == "batch" else (1, 0)
            # Its bits depend on the program, not on its neighbors, so that nobody else is real.
            own = np.where(np.arange(lanes) == lane, request.agent, -1)
            hook = Metrics(out, run.table)
            states = train_again(run, own, num_updates, chosen, hook, console)
            params = jax.tree.map(lambda leaf: leaf[lane], states.params)
            made = int(states.num_updates[lane])
            found |= _compare(agent, params)
            found["frozen_after"] = made if made < num_updates else None
        trace = jax.jit(_play, static_argnums=(3, 4))(
            params, agent.config, jax.random.key(request.seed), request.episodes, request.sampled
        )
        trace = jax.tree.map(np.asarray, trace)
    _write_trace(out / TRACE, trace)
    returns = np.sum(trace.reward, axis=0, where=trace.valid, dtype=float).tolist()
    summary = {
        "run": request.run,
        "agent": request.agent,
        "seed": int(run.table.seeds[request.agent]),
        "setting": int(run.table.setting[request.agent]),
        "coefficients": run.hyperparameters_of(request.agent),
        "how": request.how,
        "num_updates": num_updates,
        "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(agent.params)),
        "bit_for_bit": None,
        "parameter_difference": None,
        **found,
        "sampled": request.sampled,
        "episodes_seed": request.seed,
        "episode_returns": returns,
        "mean_return": float(np.mean(returns)),
        **pipeline.made_on(chosen),
    }
    folder.write_json(out / folder.SUMMARY, summary)
    return summary


def _place(request: Any, run: Run) -> tuple[int, int]:
    """The agent's lane in its batch, and the updates that the batch made."""
    places = run.table.place(run.summary["lanes"], run.summary["processes"])
    batch, lane = (int(of[request.agent]) for of in places)
    path = Path(request.run, folder.STATISTICS)
    with folder.reading(path):
        rows = csv.DictReader(path.read_text().splitlines())
        updates = [int(row["update"]) for row in rows if int(row["group"]) == batch + 1]
    return lane, max(updates, default=0)


def _devices(request: Any, number: int) -> list[jax.Device]:
    """As many devices as the run used, or one. Raises DeviceError where there are fewer."""
    chosen = devices.select(request.device)
    if request.how != "batch":
        return chosen[:1]
    if len(chosen) < number:
        raise DeviceError(
            f"the run used {number} devices, here {'are' if len(chosen) > 1 else 'is'}"
            f" {len(chosen)}; --how alone needs 1 (XLA_FLAGS="
            f"--xla_force_host_platform_device_count={number} makes more of a CPU)"
        )
    return chosen[:number]


def _print_header(request: Any, run: Run, chosen: list[jax.Device], console: Console) -> None:
    own = run.hyperparameters_of(request.agent)
    values = ", ".join(f"{name} {value:.4g}" for name, value in own.items())
    several = run.table.num_settings > 1
    setting = f", setting {run.table.setting[request.agent]}" if several else ""
    console.say(
        f"ppo_jax {__version__}: agent {request.agent} of {request.run}, seed"
        f" {run.table.seeds[request.agent]}{setting}{f' ({values})' if values else ''},"
        f" on {devices.describe(chosen)}"
    )
    here = pipeline.made_on(chosen)
    before = {name: run.summary[name] for name in here}
    if request.how == "batch" and before != here:
        console.say(f"the run was made with {before}, this is {here}: results may differ bitwise")


def train_again(
    run: Run, own: np.ndarray, updates: int, chosen: list[jax.Device], hook: Hook, console: Console
) -> ppo.TrainState:
    """Train these agents of the run from their keys for so many updates, on the chosen devices;
    the hook sees it. Returns their states, [lanes, ...]. Raises InputError for agents that evolved.
    """
    lanes, experiment = len(own), run.table.experiment
    where = f"a batch of {lanes:,} on {count(len(chosen), 'device')}"
    with contextlib.closing(hook):
        if experiment.evolving:
            raise InputError(
                "the run evolved its agents, so none of them can be trained again by itself;"
                " ppo-jax replay --how load and film --agent take what it saved"
            )
        initial = pipeline.initial_parameters(experiment)
        with console.waiting(f"compiling {experiment.agents.recipe} for {where}"):
            programs = compiled.build(run.table.configure(own), lanes, chosen)
        batch = Batch(run.table, own, programs, initial=initial)
        batch.total_updates = updates
        with contextlib.closing(Progress(console, 1, updates, chosen)) as progress:
            train_batch(batch, [hook, progress], Signals())
    return batch.states


def _compare(agent: Agent, params: Any) -> dict[str, Any]:
    """Whether the agent's parameters are the saved ones, bit for bit, and how far they differ."""
    ours, theirs = arrays.to_named(params), arrays.to_named(agent.params)
    largest = max(np.abs(ours[name].astype(float) - leaf).max() for name, leaf in theirs.items())
    return {
        "bit_for_bit": all(ours[name].tobytes() == leaf.tobytes() for name, leaf in theirs.items()),
        "parameter_difference": float(largest) if np.isfinite(largest) else None,
    }


def _play(*arguments: Any) -> Trace:
    """The trace without the environments' states, which no column holds."""
    return evaluate.play(*arguments)._replace(env_state=())


def _write_trace(path: Path, trace: Trace) -> None:
    """Write a row a step, and a column for every number, named after its place in the trace."""
    one = {"action": trace.action, "reward": trace.reward, "value": trace.value}
    ends = {name: getattr(trace, name).astype(int) for name in ("terminated", "truncated")}
    columns: dict[str, np.ndarray] = {}  # [T, episodes] each
    for part, tree in {"observation": trace.observation, **one, **trace.policy, **ends}.items():
        for place, leaf in jax.tree.leaves_with_path(tree):
            name = "_".join([part, *(jax.tree_util.keystr((key,), simple=True) for key in place)])
            found = np.moveaxis(np.reshape(leaf, (*leaf.shape[:2], -1)), -1, 0)
            is_one = len(found) == 1 and part in {**one, **ends}
            columns |= {name if is_one else f"{name}_{i}": own for i, own in enumerate(found)}
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["episode", "step", *columns])
        for episode, step in np.argwhere(trace.valid.T):
            rows.writerow([episode, step, *(values[step, episode] for values in columns.values())])
