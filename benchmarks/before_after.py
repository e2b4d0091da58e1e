"""python -m benchmarks.before_after ../before: this tree's speed beside an earlier checkout's.

One live process a tree trains in turns, A B A B ..., compilation apart; each pair of turns gives a
ratio, and their median is quoted with a 95 % bootstrap interval. A ratio above 1: this tree is
faster.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

CASES = ("standard 1", "standard 32", "notebook 1", "fast 1", "fast 256")


@dataclasses.dataclass(frozen=True)
class Options:
    """Compare this tree's speed with an earlier checkout's, in turns."""

    before: Annotated[Path, tyro.conf.Positional]
    """The earlier checkout."""
    cases: tuple[str, ...] = CASES
    """Recipe, agents, and optionally an environment: "standard 8 Pong-misc"."""
    pairs: int = 15
    """Pairs of turns."""
    seconds: float = 1.0
    """About how long a turn takes."""
    out: Path = Path("benchmarks/results/before_after.json")
    """File for the results."""


def worker(case: str) -> None:
    """Compile a case's training in this process's tree, then run a turn for every number of
    updates that comes in, and say the seconds that it took."""
    name, agents, *environment = case.split()
    number = int(agents)
    sys.path.insert(0, os.getcwd())
    from ppo_jax.run import xla

    xla.set_flags(number)
    import jax
    from jax.sharding import Mesh

    from ppo_jax import population, recipe

    config = recipe(name, **({"env": environment[0]} if environment else {}))
    mesh = Mesh(np.array(jax.devices()), ("agents",))
    shard, specs = population.shard_over_agents, (population.AGENTS, population.TIME_AGENTS)
    options: Any = population.COMPILER_OPTIONS
    started = time.perf_counter()
    init = jax.jit(shard(lambda keys: population.init(keys, config), mesh, population.AGENTS))
    states = init(population.agent_keys(0, number))

    at_once = population.cpu_agents_at_once(config)

    def train(states: Any, updates: Any) -> Any:
        return population.run(states, config, updates, 256, at_once)

    chunk = jax.jit(shard(train, mesh, specs), donate_argnums=0)
    compiled = chunk.lower(states, 1).compile(compiler_options=options)
    say({"compile": time.perf_counter() - started})
    for line in sys.stdin:
        started = time.perf_counter()
        states, metrics = compiled(states, int(line))
        steps = int(np.asarray(metrics.env_steps[: int(line)]).sum())
        say({"seconds": time.perf_counter() - started, "steps": steps})


def say(answer: dict[str, Any]) -> None:
    """One line for the process that asked."""
    print(json.dumps(answer), flush=True)


class Tree:
    """A live process of one tree."""

    def __init__(self, path: Path, case: str):
        code = (
            f"import runpy, sys; sys.argv = ['worker', {case!r}];"
            f" runpy.run_path({str(Path(__file__).absolute())!r}, run_name='worker')"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=path,
            env={**_without_flags(), "PYTHONPATH": str(path.absolute())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.compile_seconds = self._answer()["compile"]

    def turn(self, updates: int) -> tuple[float, float]:
        """Seconds, and environment steps a second, of so many updates."""
        assert self._process.stdin
        self._process.stdin.write(f"{updates}\n")
        self._process.stdin.flush()
        answer = self._answer()
        return answer["seconds"], answer["steps"] / answer["seconds"]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the worker ended; its error is above")
        return dict(json.loads(line))


def _without_flags() -> dict[str, str]:
    """The environment without XLA's flags: each case sets those of its number of agents."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


def compare(case: str, options: Options) -> dict[str, Any]:
    """The ratio of this tree's speed to the earlier one's, from alternating turns."""
    before, now = Tree(options.before, case), Tree(Path(), case)
    updates = 1
    while (took := before.turn(updates)[0]) < options.seconds / 2 and updates < 256:
        updates = min(256, max(updates + 1, int(updates * options.seconds / max(took, 1e-3))))
    now.turn(updates)
    speeds = np.array(
        [[tree.turn(updates)[1] for tree in (before, now)] for _ in range(options.pairs)]
    )
    before.close()
    now.close()
    return {
        "case": case,
        "pairs": options.pairs,
        "updates_a_turn": updates,
        "steps_per_second": {"before": np.median(speeds[:, 0]), "now": np.median(speeds[:, 1])},
        "ratio": median_with_interval(speeds[:, 1] / speeds[:, 0]),
        "compile_seconds": {"before": before.compile_seconds, "now": now.compile_seconds},
    }


def median_with_interval(ratios: np.ndarray) -> dict[str, float]:
    """The median of paired ratios with its 95 % bootstrap interval."""
    draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def main(options: Options) -> None:
    """Measure case by case, and write each as it comes."""
    rows = []
    for case in options.cases:
        row = compare(case, options)
        rows.append(row)
        ratio, speed, compiling = row["ratio"], row["steps_per_second"], row["compile_seconds"]
        print(
            f"{case}: {speed['before']:,.0f} -> {speed['now']:,.0f} steps/s, ratio"
            f" {ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]; compile"
            f" {compiling['before']:.1f} -> {compiling['now']:.1f} s",
            flush=True,
        )
        turns = f"--pairs {options.pairs} --seconds {options.seconds}"
        command = f"python -m benchmarks.before_after ../before {turns}"
        content = {"command": command, "rows": rows}
        options.out.write_text(json.dumps(content, indent=2, default=float) + "\n")


if __name__ == "worker":
    worker(sys.argv[1])
elif __name__ == "__main__":
    main(tyro.cli(Options))
