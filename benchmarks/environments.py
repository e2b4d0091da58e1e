"""python -m benchmarks environments [ROW ...]: every environment beside its aim and its peers.

Each row of `benchmarks.environments_reference` trains the recipe `fast` with many seeds, as the
command line does, in a folder of its own. It can be interrupted and goes on: a run from its newest
checkpoint, and a row that is in environments.json is measured again only if its settings changed.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import tyro

from benchmarks import environments_page as page
from benchmarks import machine
from benchmarks.environments_reference import ROWS, Row
from ppo_jax import Config, population, recipe, statistics
from ppo_jax.envs import suites
from ppo_jax.run import train, xla
from ppo_jax.run.experiment import Experiment, differences
from ppo_jax.run.saved import Run
from ppo_jax.run.storage import folder

DATA = "environments.json"
POINTS = 100  # of a learning curve


@dataclasses.dataclass(frozen=True)
class Options:
    """Train every environment with the recipe `fast`, and compare it with aims and peers. Takes
    hours; start it again to go on."""

    rows: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[ROW ...]")] = ()
    """Rows to measure, each the name of one, or of an environment for all of its rows (none:
    everything)."""
    page: bool = False
    """Measure nothing: draw the figure and write the page again."""
    steps: int | None = None
    """For a trial: train with no more environment steps than this."""
    seeds: int | None = None
    """For a trial: train no more seeds than this."""
    episodes: int | None = None
    """For a trial: evaluate no more episodes than this."""
    runs: Path = Path("runs/environments")
    """Folder of the runs."""
    docs: Path = Path("docs")
    """Folder for environments.md and environments.png."""
    out: Path = Path("benchmarks/results")
    """Folder for environments.json."""


# What a row is ------------------------------------------------------------------------------------


def trial(row: Row, options: Options) -> Row:
    """The row with the budget that the options leave it."""
    fewer = {
        name: min(getattr(row, name), most)
        for name in ("seeds", "episodes")
        if (most := getattr(options, name)) is not None
    }
    overrides = row.overrides
    if options.steps is not None:
        config = configuration(row)
        most = max(options.steps, config.batch_size)
        overrides = {**overrides, "total_timesteps": min(most, config.total_timesteps or most)}
    return dataclasses.replace(row, **fewer, overrides=overrides)


def configuration(row: Row) -> Config:
    """What a seed of the row trains with."""
    return recipe("fast", env=row.env, **row.overrides)


def experiment(row: Row) -> Experiment:
    """The row's run as the command line has it."""
    return Experiment(configuration(row)).replace(recipe="fast", num_seeds=row.seeds)


def command(row: Row, path: Path) -> str:
    """The command line of the row's run."""
    words = ["python -m ppo_jax train", "--env", row.env, "--num-seeds", str(row.seeds)]
    for name, value in row.overrides.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{flag}", *map(str, values)]
    return " ".join([*words, "--out", str(path)])


def is_recorded(row: Row, record: dict[str, Any] | None) -> bool:
    """Whether the record is of the row as it is now."""
    if record is None or record["episodes"] != row.episodes:
        return False
    return not differences(experiment(row).describe(), record["experiment"])


# Measuring ----------------------------------------------------------------------------------------


def measure(row: Row, runs: Path) -> dict[str, Any]:
    """Train the row, or go on with it, and evaluate its agents."""
    asked, path = experiment(row), runs / row.name.replace("::", "-")
    run = train(
        asked.algorithm,
        num_seeds=row.seeds,
        out=path,
        recipe="fast",
        quiet=False,
        **({"overwrite": True} if holds_another(path, asked) else {"resume": "auto"}),
    )
    say(f"evaluating {row.episodes:,} episodes of every seed, greedy and sampled")
    started = time.perf_counter()
    with xla.compilation_cache():
        returns = {
            "greedy": evaluate(run, run.params, row, sampled=False),
            "sampled": evaluate(run, run.params, row, sampled=True),
        }
        if row.suite:  # parameters of zero: uniform choices, or for a Box N(0, 1), clipped
            nothing = jax.tree.map(jnp.zeros_like, run.params.trainable)
            params = run.params._replace(trainable=nothing)
            returns["random"] = evaluate(run, params, row, sampled=True)
    summary, description = run.summary, asked.describe()
    return {
        "env": row.env,
        "seeds": row.seeds,
        "experiment": {name: description[name] for name in ("algorithm", "agents", "stopping")},
        "episodes": row.episodes,
        "command": command(row, path),
        "setting": machine.describe(row.suite or "gymnax"),
        "steps": summary["env_steps"] // row.seeds,
        "compile_seconds": rounded(summary["compile_seconds"]),
        "train_seconds": rounded(summary["train_seconds"]),
        "evaluate_seconds": rounded(time.perf_counter() - started),
        "steps_per_second": round(summary["steps_per_second"]),
        "diverged_seeds": summary["diverged_seeds"],
        **{name: summarize(per_seed) for name, per_seed in returns.items()},
        "curve": curve(run.metrics["step"], run.metrics["episode_return"]),
    }


def holds_another(path: Path, asked: Experiment) -> bool:
    """Whether the folder holds a run of other settings, which the new one replaces."""
    if not folder.holds_a_run(path):
        return False
    with contextlib.suppress(OSError, ValueError, LookupError):
        return bool(differences(asked.describe(), folder.read_json(path / folder.CONFIG)))
    return True


def evaluate(run: Run, every: Any, row: Row, sampled: bool) -> np.ndarray:
    """Mean return of fresh episodes of every seed, [seeds], with its parameters; the episodes are
    those of `ppo-jax evaluate`, whose keys training never uses."""

    def returns(params: Any, numbers: jax.Array) -> jax.Array:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), numbers)
        return population.evaluate(params, run.config, keys, row.episodes, sampled)

    compiled = jax.jit(returns, compiler_options=population.COMPILER_OPTIONS)
    at_once, seeds = min(population.cpu_agents_at_once(run.config), row.seeds), row.seeds
    means: list[float] = []
    for first in range(0, seeds, at_once):
        lanes = np.arange(first, first + at_once) % seeds  # filled up with the first ones
        params = jax.tree.map(lambda leaf: leaf[lanes], every)  # noqa: B023
        means += np.asarray(compiled(params, lanes), np.float64).mean(axis=1).tolist()
    return np.array(means[:seeds])


def summarize(per_seed: np.ndarray) -> dict[str, Any]:
    """The interquartile mean over seeds with its 95 % interval, and what it is of."""
    values = jnp.asarray(per_seed)
    resample = jax.jit(statistics.stratified_bootstrap, static_argnums=2)
    low, high = resample(jax.random.key(0), values[None], _middle)
    numbers = {"iqm": statistics.interquartile_mean(values), "low": low, "high": high}
    return {
        **{name: rounded(float(value)) for name, value in numbers.items()},
        "per_seed": [rounded(value) for value in per_seed.tolist()],
    }


def _middle(values: jax.Array) -> jax.Array:
    return statistics.interquartile_mean(values[0])


def curve(steps: np.ndarray, returns: np.ndarray) -> dict[str, Any]:
    """At most POINTS points of [updates, seeds] returns while training: each seed's mean since the
    point before, or where no episode ended its newest one; then over seeds the interquartile mean
    and the quartiles. None before any episode has ended."""
    parts = np.array_split(np.arange(len(returns)), min(POINTS, len(returns)))
    means = np.array([_known_mean(returns[part]) for part in parts])
    for before, now in itertools.pairwise(means):
        np.copyto(now, before, where=np.isnan(now))
    over_seeds = statistics.summarize(jnp.asarray(means), axis=1)
    quartiles = np.asarray(over_seeds.quantiles)[:, [1, 3]].T
    bands = {"iqm": np.asarray(over_seeds.iqm), "low": quartiles[0], "high": quartiles[1]}
    at = [int(np.nanmax(steps[part[-1]])) for part in parts]
    return {"steps": at, **{name: _listed(values) for name, values in bands.items()}}


def _known_mean(returns: np.ndarray) -> np.ndarray:
    known = ~np.isnan(returns)
    count = known.sum(axis=0)
    total = np.where(known, returns, 0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _listed(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else rounded(float(value)) for value in values]


def rounded(value: float) -> float:
    """Six digits, which float32 has."""
    return float(f"{value:.6g}")


# Files --------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """The records by the names of their rows."""
    return json.loads(path.read_text())["rows"] if path.exists() else {}


def write(path: Path, records: dict[str, Any]) -> None:
    """The records with what follows from them, a line each in the order of the table; the file is
    replaced at once, so that a kill leaves the old or the new one."""
    lines = [
        f"{json.dumps(row.name)}: {json.dumps({**record, **page.judge(row, record)})}"
        for row in ROWS
        if (record := records.get(row.name))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text('{"rows": {\n' + ",\n".join(lines) + "\n}}\n")
    os.replace(temporary, path)


def chosen(names: tuple[str, ...]) -> list[Row]:
    """The rows of these names, or environments. Raises ValueError for an unknown one."""
    unknown = set(names) - {name for row in ROWS for name in (row.name, row.env)}
    if unknown:
        known = ", ".join(row.name for row in ROWS)
        raise ValueError(f"no row {', '.join(sorted(unknown))}; there are {known}")
    return [row for row in ROWS if not names or row.name in names or row.env in names]


def measure_all(rows: list[Row], options: Options) -> bool:
    """Measure the rows that are not recorded yet, and write each as it comes; whether all could
    be."""
    data, good = options.out / DATA, True
    for number, row in enumerate(rows, 1):
        place = f"[{number}/{len(rows)}] {row.name}"
        absent = row.suite and not suites.is_installed(row.suite)
        if absent or row.impossible:
            say(f"{place}: {row.impossible or f'{row.suite} is not installed'}")
            continue
        try:
            row = trial(row, options)
            if is_recorded(row, read(data).get(row.name)):
                say(f"{place}: recorded already")
                continue
            say(f"{place}: {row.seeds} seeds, {configuration(row).total_timesteps:,} steps each")
            record = measure(row, options.runs)
        except (ValueError, OSError, RuntimeError) as error:  # the other rows do not need this one
            say(f"{place}: failed: {error}")
            good = False
            continue
        write(data, {**read(data), row.name: record})  # read again: another process may write too
        say(f"{place}: {page.sentence(row, record)}, {record['train_seconds']:,.0f} s of training")
        jax.clear_caches()
    return good


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def main(options: Options) -> int:
    """Measure, then write the figure and the page; returns 1 if a row failed, 2 for a bad name, 130
    if interrupted."""
    matplotlib.use("agg")
    good, data = True, options.out / DATA
    try:
        rows = chosen(options.rows)
        good = options.page or measure_all(rows, options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("interrupted; the same command goes on")
        return 130
    records = read(data)
    if records:
        write(data, records)  # what follows from them may have changed: an aim, an optimum
    page.write(records, options.docs / "environments.png", options.docs / "environments.md")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
