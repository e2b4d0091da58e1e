"""python -m benchmarks.gpu: what one accelerator does with one agent and with thousands.

Every measurement is a process of its own, started from here, which says its rows line by line: so
XLA's flags can differ, and what a crash or a clock cuts short leaves what was measured before it.
`benchmarks/gpu.sh` runs it within ten minutes. In this order: the device's peak, the tests, the
sweep over agents, the flags, and where an update's time goes.
"""

import dataclasses
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import machine, parts
from benchmarks.compiled import config_of
from benchmarks.waterfall import in_short
from ppo_jax import Config, population

# Loops captured as CUDA graphs, instead of every kernel launched anew.
GRAPHS = (
    "--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,"
    "WHILE,CONDITIONAL --xla_gpu_graph_min_graph_size=1"
)
PRECISION = (
    "The networks' products are in full float32 (Precision.HIGHEST), and so is the peak's. A GPU's"
    " default, here beside it, may be TF32: another algorithm, not used."
)
TURN_SECONDS = 1.0
Task = Literal["", "peak", "sweep", "parts"]


@dataclasses.dataclass(frozen=True)
class Options:
    """Sweep the number of agents on one device; measure its peak, flags, and where time goes."""

    recipes: tuple[str, ...] = ("standard", "fast", "notebook")
    """Recipes to sweep."""
    agents: tuple[int, ...] = (1, 4096, 512, 32768, 64, 8)
    """Agents trained at once, in this order: time may run out. What no longer fits ends what is
    larger."""
    updates: int = 20
    """Updates of one turn, at most: fewer where they would take more than a second."""
    repeats: int = 3
    """Turns of each measurement."""
    flags_agents: tuple[int, ...] = (1, 512)
    """Agents of the first recipe with and without CUDA graphs, in two processes each."""
    parts_agents: tuple[int, ...] = (1, 512)
    """Agents whose update is taken apart."""
    size: int = 8192
    """Rows and columns of the matrices whose product gives the peak."""
    test_seconds: float = 80.0
    """Time for pytest on the device, where it is installed; 0: no tests."""
    seconds: float = 540.0
    """Time for everything."""
    task: Task = ""
    """Only this measurement, in this process."""
    out: Path = Path("benchmarks/results")
    """Folder for gpu.json and gpu.png."""


def say(row: dict[str, Any]) -> None:
    """One row for the process that started this one."""
    print(json.dumps(row), flush=True)


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What the function returned, and the seconds until it was there."""
    started = time.perf_counter()
    outcome = jax.block_until_ready(function(*arguments))
    return outcome, time.perf_counter() - started


def peak(options: Options) -> Iterator[dict[str, Any]]:
    """The device, and the FLOP/s and largest error of a matrix product in both precisions."""
    yield {"setting": machine.describe("gymnax", "optax"), "precision": PRECISION}
    size = options.size
    left, right = jax.random.normal(jax.random.key(0), (2, size, size))
    exact = np.asarray(left[:8], np.float64) @ np.asarray(right, np.float64)
    for precision in (jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT):

        def product(left: jax.Array, right: jax.Array, precision=precision) -> jax.Array:
            return jnp.dot(left, right, precision=precision)

        compiled = jax.jit(product).lower(left, right).compile()
        outcome, _ = timed(compiled, left, right)
        seconds = min(timed(compiled, left, right)[1] for _ in range(10))
        yield {
            "matmul": precision.name,
            "size": size,
            "flops_per_second": 2 * size**3 / seconds,
            "largest_error": float(np.abs(np.asarray(outcome[:8]) - exact).max()),
        }


class Training:
    """Agents in training, on one device: compiled once, for any number of updates up to one."""

    def __init__(self, config: Config, agents: int, updates: int) -> None:
        self.config = config
        keys = population.agent_keys(0, agents)
        self.states = jax.jit(population.init)(keys, config)

        def run(states, config, num_updates):
            states, metrics = population.run(states, config, num_updates, updates)
            return states, metrics.env_steps

        started = time.perf_counter()
        lowered = jax.jit(run, donate_argnums=0).lower(self.states, config, 1)
        self._run = lowered.compile(parts.compiler_options())
        self.compile_seconds = time.perf_counter() - started

    def turn(self, updates: int) -> tuple[int, float]:
        """Go on for some updates: the steps that all agents took, and the seconds."""
        (self.states, steps), seconds = timed(self._run, self.states, self.config, updates)
        return int(np.asarray(steps, np.int64).sum()), seconds

    def program_bytes(self) -> int:
        """Memory that the program needs, by its own analysis."""
        analysis: Any = self._run.memory_analysis()
        sizes = (analysis.argument_size_in_bytes, analysis.temp_size_in_bytes)
        return sum(sizes) + analysis.output_size_in_bytes - analysis.alias_size_in_bytes


def training_row(config: Config, agents: int, updates: int, repeats: int) -> dict[str, Any]:
    """Speed, compilation and memory of that many agents, from some turns of their training."""
    before = peak_bytes()
    training = Training(config, agents, updates)
    training.turn(1)
    count = in_time(training.turn(1)[1], updates)
    turns = [training.turn(count) for _ in range(repeats)]
    after = peak_bytes()
    raised = after is not None and after > (before or 0)  # else it is an earlier program's
    return {
        "updates_a_turn": count,
        "env_steps_per_second": parts.spread(steps / seconds for steps, seconds in turns),
        "flops_per_step": parts.flops_per_step(config),
        "compile_seconds": training.compile_seconds,
        "peak_bytes_per_agent": after / agents if after and raised else None,
        "program_bytes_per_agent": training.program_bytes() / agents,
    }


def in_time(seconds_each: float, most: int) -> int:
    """How many of what takes so long fit into a turn, at least one and at most so many."""
    return max(1, min(most, int(TURN_SECONDS / seconds_each)))


def peak_bytes() -> int | None:
    """The most memory that this process has held on its device, where the device says so."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def sweep(options: Options) -> Iterator[dict[str, Any]]:
    """A row a recipe and number of agents, until the time is spent."""
    started, longest = time.perf_counter(), 0.0
    for name in options.recipes:
        too_many = np.inf
        for agents in options.agents:
            left = options.seconds - (time.perf_counter() - started)
            row: dict[str, Any] = {"recipe": name, "agents": agents}
            if agents >= too_many:
                yield row | {"stopped": "memory: fewer did not fit"}
                continue
            if left < longest:
                yield row | {"stopped": f"time: {left:.0f} s left"}
                continue
            began = time.perf_counter()
            try:
                yield row | training_row(config_of(name), agents, options.updates, options.repeats)
            except jax.errors.JaxRuntimeError as error:
                too_many = agents
                yield row | {"stopped": f"memory: {str(error).splitlines()[0][:200]}"}
            longest = max(longest, time.perf_counter() - began)


def milliseconds(config: Config, agents: int, updates: int, repeats: int) -> dict[str, float]:
    """What an update and its parts take, each a loop compiled by itself, for that many agents."""
    training = Training(config, agents, updates)
    training.turn(updates)
    turns = [training.turn(updates)[1] for _ in range(repeats)]
    seconds = {"update": statistics.median(turns) / updates}
    states = training.states

    def part(title: str, function: Callable[..., Any], *arguments: Any) -> Any:
        def loop(arguments: Any, config: Config) -> Any:
            return function(*arguments, config, updates)

        program = jax.jit(loop).lower(arguments, config).compile(parts.compiler_options())
        outcome, _ = timed(program, arguments, config)
        turns = [timed(program, arguments, config)[1] for _ in range(repeats)]
        seconds[title] = statistics.median(turns) / updates
        return outcome

    _, collected = part("rollout", parts.rollouts, states)
    batches = part("returns", parts.returns, states, collected)
    part("shuffles", parts.shuffles, states, batches)
    part("gradient steps", parts.gradient_steps, states, batches)
    seconds["gradient steps"] -= seconds["shuffles"]  # which are in it
    return {title: 1000 * value for title, value in seconds.items()}


def taken_apart(options: Options) -> Iterator[dict[str, Any]]:
    """A row a recipe and number of agents."""
    started, longest = time.perf_counter(), 0.0
    for agents, name in itertools.product(options.parts_agents, options.recipes):
        left = options.seconds - (time.perf_counter() - started)
        row = {"recipe": name, "agents": agents}
        if left < longest:
            yield row | {"stopped": f"time: {left:.0f} s left"}
            continue
        began = time.perf_counter()
        took = milliseconds(config_of(name), agents, min(options.updates, 10), options.repeats)
        yield row | {"milliseconds_an_update": took}
        longest = max(longest, time.perf_counter() - began)


TASKS = {"peak": peak, "sweep": sweep, "parts": taken_apart}


class Conductor:
    """Starts the measurements one after the other and keeps what they said."""

    def __init__(self, options: Options, console: Console) -> None:
        self.options, self.console = options, console
        self.deadline = time.monotonic() + options.seconds
        self.content: dict[str, Any] = {"options": dataclasses.asdict(options), "failures": []}
        self.content["predicted"] = predictions(options.out / "compiled.json")

    def left(self) -> float:
        """Seconds that are left for everything."""
        return self.deadline - time.monotonic()

    def rows(self, title: str, task: Task, share: float, flags: str = "", **changes: Any) -> list:
        """The rows of one process, with a share of the time that is left, and more XLA flags."""
        seconds = share * self.left()
        options = dataclasses.replace(self.options, task=task, seconds=seconds - 15, **changes)
        self.console.print(f"{title}: at most {seconds:.0f} s")
        environment = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}"}
        command = [sys.executable, "-m", "benchmarks.gpu", *as_flags(options)]
        said, trouble = finished(command, environment, seconds)
        rows = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        if trouble:
            self.content["failures"].append({"task": title, "trouble": trouble})
            self.console.print(f"{title}: {trouble.splitlines()[-1]}", style="red")
        return rows

    def run(self) -> None:
        """Everything, in the order of its worth; what each adds is written at once."""
        options, content = self.options, self.content
        rows = self.rows("peak", "peak", 0.3)
        command = " ".join(["python -m benchmarks.gpu", *sys.argv[1:]])
        content["setting"] = rows[0]["setting"] | {"command": command} if rows else {}
        content["matmul"] = rows[1:]
        self.write()
        content["tests"] = self.tests()
        content["sweep"], content["flags"], content["parts"] = [], [], []
        for name, share in zip(options.recipes, equal(0.5, len(options.recipes)), strict=True):
            content["sweep"] += self.rows(f"sweep of {name}", "sweep", share, recipes=(name,))
            self.write()
        sets = (("default", ""), ("CUDA graphs", GRAPHS)) * 2
        only: dict[str, Any] = {"recipes": options.recipes[:1], "agents": options.flags_agents}
        for number, ((title, flags), share) in enumerate(zip(sets, equal(0.6, 4), strict=True)):
            rows = self.rows(title, "sweep", share, flags, **only)
            content["flags"] += [{"flags": title, "run": number // 2 + 1, **row} for row in rows]
            self.write()
        if platform(content) == "gpu":  # elsewhere the kernels are interpreted, or refused
            only["recipes"] = (f"{options.recipes[0]} kernel=pallas",)
            content["sweep"] += self.rows("Pallas kernels", "sweep", 0.5, **only)
            self.write()
        content["parts"] = self.rows("parts", "parts", 1.0)

    def tests(self) -> str:
        """pytest's last line, or why there is none."""
        limit = min(self.options.test_seconds, self.left() / 3)
        if limit <= 0 or not util.find_spec("pytest"):
            return "not run"
        self.console.print(f"tests: at most {limit:.0f} s")
        kind = platform(self.content)
        there = {"JAX_PLATFORMS": "cuda,cpu" if kind == "gpu" else kind}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        said, trouble = finished(command, {**os.environ, **there}, limit)
        lines = [line for line in said.splitlines() if line.strip()] or ["nothing said"]
        return f"{lines[-1]}{f' ({trouble.splitlines()[-1]})' if trouble else ''}"

    def write(self) -> None:
        """gpu.json as it stands."""
        self.options.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(with_peak_share(self.content), indent=2, default=str)
        (self.options.out / "gpu.json").write_text(text + "\n")


def platform(content: dict[str, Any]) -> str:
    """The measured device's kind."""
    return str(content["setting"].get("device", "cpu")).split()[0]


def equal(whole: float, number: int) -> list[float]:
    """Shares, each of what those before it leave, that divide a part of the whole equally."""
    return [whole / (number - whole * before) for before in range(number)]


def as_flags(options: Options) -> list[str]:
    """The command line that says these options."""
    flags = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        values = [str(one) for one in value] if isinstance(value, tuple) else [str(value)]
        flags += [f"--{field.name.replace('_', '-')}", *values]
    return flags


def finished(command: list[str], environment: dict[str, str], seconds: float) -> tuple[str, str]:
    """What a process said on its output, and what went wrong; it is ended after so long."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, text=True, stdout=pipe, stderr=pipe) as process:
        try:
            said, errors = process.communicate(timeout=max(seconds, 1.0))
        except subprocess.TimeoutExpired:
            return _interrupted(process), f"ended after {seconds:.0f} s"
        except KeyboardInterrupt:
            process.kill()
            raise
    return said, "" if process.returncode == 0 else errors[-2000:] or f"exit {process.returncode}"


def _interrupted(process: subprocess.Popen) -> str:
    process.send_signal(signal.SIGINT)  # pytest then says what it has done so far
    try:
        return process.communicate(timeout=5)[0]
    except subprocess.TimeoutExpired:
        process.kill()  # a compilation hears no signal
        return process.communicate()[0]


def with_peak_share(content: dict[str, Any]) -> dict[str, Any]:
    """The content with every speed as a share of the device's float32 peak as well."""
    peaks = [row for row in content.get("matmul", []) if row["matmul"] == "HIGHEST"]
    if not peaks:
        return content
    most = peaks[0]["flops_per_second"]

    def shared(row: dict[str, Any]) -> dict[str, Any]:
        if "env_steps_per_second" not in row:
            return row
        flops = row["env_steps_per_second"]["median"] * row["flops_per_step"]
        return row | {"share_of_peak": flops / most}

    names = [name for name in ("sweep", "flags") if name in content]
    return content | {name: [shared(row) for row in content[name]] for name in names}


def show(content: dict[str, Any], console: Console) -> None:
    """The measurements as tables for people."""
    console.print(content.get("setting", {}).get("device", "no device"), style="bold")
    console.print(f"tests: {content.get('tests', 'not run')}")
    for row in content.get("matmul", []):
        console.print(
            f"product of {row['size']}²-matrices, {row['matmul']}: {row['flops_per_second']:.3g}"
            f" FLOP/s, largest error {row['largest_error']:.1e}"
        )
    table = Table(*("recipe", "agents", "", "predicted", "env steps/s", "of peak", "compile s"))
    table.add_column("kB an agent")
    for row in [*content.get("sweep", []), *content.get("flags", [])]:
        flags = f"{row['flags']}, run {row['run']}" if "flags" in row else ""
        graphs = row.get("flags") == "CUDA graphs"
        guess = content["predicted"].get(f"{row['recipe']} {row['agents']} {graphs}", "")
        table.add_row(row["recipe"], f"{row['agents']:,}", flags, guess, *speed_cells(row))
    console.print(table)
    for row in content.get("parts", []):
        took = row.get("milliseconds_an_update", {})
        said = ", ".join(f"{title} {value:.3g} ms" for title, value in took.items())
        console.print(f"{row['recipe']}, {row['agents']} agents: {row.get('stopped', said)}")


def predictions(path: Path) -> dict[str, str]:
    """The speeds of an H100 that `benchmarks.compiled` predicted, if it has."""
    rows = json.loads(path.read_text())["predictions"] if path.exists() else []
    return {
        f"{row['program']} {row['agents']} {row['more_graphs']}": in_short(
            row["env_steps_per_second"]
        )
        for row in rows
    }


def speed_cells(row: dict[str, Any]) -> list[str]:
    """A row's numbers for the table, or why it has none."""
    if "stopped" in row:
        return [row["stopped"]]
    held = row["peak_bytes_per_agent"] or row["program_bytes_per_agent"]
    return [
        f"{row['env_steps_per_second']['median']:,.0f}",
        f"{row.get('share_of_peak', float('nan')):.2%}",
        f"{row['compile_seconds']:.1f}",
        f"{held / 1000:,.0f}",
    ]


def draw(content: dict[str, Any], path: Path) -> None:
    """Steps per second over agents, and the parts of an update as shares of its time."""
    figure, (speeds, shares) = plt.subplots(1, 2, figsize=(9.5, 3.2), layout="constrained")
    measured = [row for row in content.get("sweep", []) if "env_steps_per_second" in row]
    for name in dict.fromkeys(row["recipe"] for row in measured):
        rows = sorted((r for r in measured if r["recipe"] == name), key=lambda row: row["agents"])
        numbers = [row["env_steps_per_second"]["median"] for row in rows]
        best = f"{name}, up to {in_short(max(numbers))}"
        speeds.plot([row["agents"] for row in rows], numbers, marker="o", ms=3, label=best)
    speeds.set(xscale="log", yscale="log", xlabel="agents", ylabel="environment steps/s")
    if measured:
        speeds.legend(fontsize=8, frameon=False)
    draw_parts(shares, [row for row in content.get("parts", []) if "stopped" not in row])
    for panel in (speeds, shares):
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(content.get("setting", {}).get("device", ""), fontsize=9)
    figure.savefig(path, dpi=150)


PARTS = ("rollout", "returns", "shuffles", "gradient steps")


def draw_parts(panel: Any, rows: list[dict[str, Any]]) -> None:
    """A bar a row: its parts' share of what they take together."""
    labels = [f"{row['recipe']}, {row['agents']}" for row in rows]
    times = np.array([[row["milliseconds_an_update"][part] for part in PARTS] for row in rows])
    if not rows:
        return
    shares = times / times.sum(axis=1, keepdims=True)
    for part, left, width in zip(PARTS, (shares.cumsum(1) - shares).T, shares.T, strict=True):
        panel.barh(labels, width, left=left, label=part)
    panel.invert_yaxis()
    panel.set(xlim=(0, 1), xlabel="share of the parts' time")
    panel.legend(ncols=4, fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1))


def main(options: Options) -> None:
    """Measure, print the tables, write the data and the figure; or one task's rows."""
    if options.task:
        for row in TASKS[options.task](options):
            say(row)
        return
    matplotlib.use("agg")
    console = Console(width=110)
    conductor = Conductor(options, console)
    try:
        conductor.run()
    except KeyboardInterrupt:  # the time limit of gpu.sh
        conductor.content["failures"].append({"task": "all", "trouble": "interrupted"})
    conductor.write()
    content = with_peak_share(conductor.content)
    show(content, console)
    draw(content, options.out / "gpu.png")


if __name__ == "__main__":
    main(tyro.cli(Options))
