"""python -m benchmarks.compiled RECIPE ...: the kernels of an update on an H100, without one.

XLA compiles the update ahead of time, on any machine, and nothing is run. Needs the CUDA plugin of
the jax that is installed, without CUDA itself (`INSTALL`).

A loop's kernels count once a trip where the number of trips is known when compiling, and once where
it is not. Thunks are what XLA launches after its own passes: a command buffer is a CUDA graph of
several kernels. Numbers of an earlier tree, under "before" in the file of `--out`, stay there and
are printed beside.
"""

import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from rich.console import Console
from rich.table import Table

from benchmarks import machine, parts
from ppo_jax import Config, env, network, population, ppo, recipe

INSTALL = (
    f"pip install --no-deps jax-cuda13-plugin=={jax.__version__} jax-cuda13-pjrt=={jax.__version__}"
)
H100 = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32
shared_memory_per_block: 49152 shared_memory_per_core: 233472 threads_per_core_limit: 2048
core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
clock_rate_ghz: 1.98 device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
registers_per_block_limit: 65536 } platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3" """
# Not kernels: they move no data.
_FREE = (
    *("tuple", "get-tuple-element", "parameter", "constant", "bitcast", "after-all"),
    *("add-dependency", "partition-id", "replica-id", "opt-barrier"),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Count the kernels of one update, compiled for an H100 that need not be there."""

    recipes: tyro.conf.Positional[tuple[str, ...]] = ("standard", "fast", "notebook")
    """Recipes to compile."""
    agents: tuple[int, ...] = (1,)
    """How many agents at once."""
    flags: str = ""
    """More flags for XLA, such as --xla_gpu_graph_min_graph_size=1."""
    ptx: bool = False
    """Print every kernel's registers, shared memory and spills (needs ptxas on the PATH; slow)."""
    out: Path | None = None
    """File for the numbers (none: they are only printed)."""


class Loop(NamedTuple):
    """A loop of a compiled program."""

    entered: int  # times, by the loops around it
    trips: int | None  # none: not known when compiling
    kernels: int  # of one trip


# Reading a compiled program -----------------------------------------------------------------------


def launches(program: str) -> tuple[int, list[Loop]]:
    """Kernels launched in one call of a compiled program (HLO text), and its loops."""
    computations, entry = _computations(program)
    loops: list[Loop] = []

    def count(name: str, entered: int) -> int:
        return sum(_launched(*instruction, entered) for instruction in computations[name])

    def _launched(operation: str, rest: str, entered: int) -> int:
        if operation in _FREE:
            return 0
        if operation == "while":
            trips = _trips(rest)
            kernels = count(_named(rest, "body"), entered * (trips or 1))
            loops.append(Loop(entered, trips, kernels))
            return (trips or 1) * (kernels + 1)  # and its condition
        if operation in ("call", "conditional"):
            callees = re.findall(r"%([\w.\-]+)", rest.split("), ", 1)[-1])
            return sum(count(callee, entered) for callee in callees if callee in computations)
        return 1

    return count(entry, 1), loops


def _computations(program: str) -> tuple[dict[str, list[tuple[str, str]]], str]:
    """Every computation's instructions, each an operation and the rest of its line, and the name of
    the one that the program enters."""
    blocks = re.findall(r"^(ENTRY )?%?([\w.\-]+) \(.*?\{\n(.*?)^\}", program, re.M | re.S)
    lines = {
        name: re.findall(r"^\s+(?:ROOT )?%?\S+ = (.*)$", text, re.M) for _, name, text in blocks
    }
    found = {name: [_instruction(line) for line in own] for name, own in lines.items()}
    return found, next(name for is_entry, name, _ in blocks if is_entry)


def _instruction(line: str) -> tuple[str, str]:
    """The operation of `TYPE OPERATION(...), ...` and all that follows the type, be it a tuple."""
    depth = 0
    for index, character in enumerate(line):
        depth += (character == "(") - (character == ")")
        if character == " " and not depth:
            return line[index + 1 :].split("(", 1)[0], line[index + 1 :]
    return "?", line


def _named(rest: str, attribute: str) -> str:
    found = re.search(rf"\b{attribute}=%?([\w.\-]+)", rest)
    assert found is not None
    return found[1]


def _trips(rest: str) -> int | None:
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', rest)
    return int(known[1]) if known else None


# Compiling ----------------------------------------------------------------------------------------


def h100() -> Mesh:
    """A mesh of one H100 that programs can be compiled for, though it is not here.

    Exits with one line where the CUDA plugin is missing.
    """
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", topology_name="1x1x1", topology="1x1x1", target_config=H100
        )
    except NotImplementedError as error:
        raise SystemExit(f"jax {jax.__version__} has no CUDA plugin; {INSTALL}") from error
    return Mesh(np.array(topology.devices[:1]), ("agents",))


def compile_for(mesh: Mesh, function: Callable[..., Any], *shapes: Any) -> Any:
    """The function of arrays [agents, ...] of these shapes, compiled for the device of `h100`.
    Pallas kernels compile too."""
    by_agent = NamedSharding(mesh, population.AGENTS)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=by_agent), shapes
    )
    sharded = population.shard_over_agents(function, mesh, population.AGENTS)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # Pallas asks it for the GPU's kind
        return jax.jit(sharded).trace(*shapes).lower(lowering_platforms=("cuda",)).compile()


def compile_here(function: Callable[..., Any], *shapes: Any) -> Any:
    """The function compiled for this process's own device."""
    return jax.jit(function).lower(*shapes).compile()


def agents_of(config: Config, agents: int) -> ppo.TrainState:
    """The shapes of that many agents' states."""
    return jax.eval_shape(lambda: population.init(population.agent_keys(0, agents), config))


def measure(name: str, agents: int, mesh: Mesh, dump: Path) -> dict[str, Any]:
    """One update of a recipe as XLA compiled it: kernels, loops, thunks and memory."""
    config, started = recipe(name), time.perf_counter()
    states = agents_of(config, agents)
    program = compile_for(mesh, lambda states: population.run(states, config, 1, 1), states)
    seconds = time.perf_counter() - started
    kernels, loops = launches(program.as_text())
    return {
        "recipe": name,
        "agents": agents,
        "kernels": kernels,
        "loops": [loop._asdict() for loop in loops],
        "thunks": thunks(dump),
        "temporary_megabytes": program.memory_analysis().temp_size_in_bytes / 1e6,
        "compile_seconds": round(seconds, 1),
    }


def thunks(dump: Path) -> dict[str, int]:
    """How many thunks of each kind XLA dumped of the newest program."""
    kinds = re.findall(r"^\s*\d+: k([A-Z]\w+)", _newest_thunks(dump).read_text(), re.M)
    return dict(sorted(Counter(kinds).items()))


def registers(dump: Path) -> list[str]:
    """What ptxas says of every kernel that XLA dumped of the newest program, a line each."""
    if shutil.which("ptxas") is None:
        raise SystemExit("--ptx: ptxas is not on the PATH; it comes with nvidia-cuda-nvcc")
    module = _newest_thunks(dump).name.partition(".")[0]
    found = []
    for path in dump.glob(f"{module}.*.ptx"):
        command = ["ptxas", "-v", "-arch=sm_90a", str(path), "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        names = re.findall(r"Compiling entry function '(\w+)'", said)
        used, spills = (
            re.findall(r"Used .*$", said, re.M),
            re.findall(r"\d+ bytes stack.*$", said, re.M),
        )
        found += [": ".join(line) for line in zip(names, used, spills, strict=True)]
    return sorted(found)


def _newest_thunks(dump: Path) -> Path:
    return max(dump.glob("*.thunk_sequence_after_thunk_passes.txt"), key=os.path.getmtime)


# The critic in the rollout ------------------------------------------------------------------------


class ActorOnly(network.MLP):
    """The built-in perceptron of Discrete or Box actions, without a critic."""

    def __call__(self, observation: Any) -> tuple[Any, jax.Array]:
        """The actor's output, and zeros for values."""
        inputs = self.encode(observation)
        return self.actor(inputs), jnp.zeros(len(inputs))


def holds_critic(
    config: Config, agents: int = 1, compiled: Callable[..., Any] = compile_here
) -> bool:
    """Whether the compiled rollout of a perceptron does more than that of its actor alone.

    The rollout needs no value, and XLA removes what nobody reads. `compiled` compiles a function of
    shapes: `compile_here`, or `partial(compile_for, h100())`.
    """
    outputs = network.num_outputs(env.make(config).action_space)
    actor = ActorOnly(outputs, config.hidden_sizes, config.activation)
    return _work(config, agents, compiled) != _work(config.replace(network=actor), agents, compiled)


def _work(config: Config, agents: int, compiled: Callable[..., Any]) -> Any:
    """Arithmetic, where XLA tells it, and kernels of one compiled rollout."""
    states = agents_of(config, agents)
    program = compiled(lambda states: parts.rollouts(states, config, 1), states)
    return (program.cost_analysis() or {}).get("flops"), launches(program.as_text())


# What it came to ----------------------------------------------------------------------------------


def show(rows: list[dict[str, Any]], before: list[dict[str, Any]], console: Console) -> None:
    """The rows as a table for people, with the kernels of an earlier tree."""
    earlier = {(row["recipe"], row["agents"]): f"{row['kernels']:,}" for row in before}
    table = Table("recipe", "agents", "kernels", "before", "loops", "temporary MB", "critic acts")
    for row in rows:
        loops = [f"{loop['trips'] or '?'} × {loop['kernels']}" for loop in row["loops"]]
        table.add_row(
            row["recipe"],
            str(row["agents"]),
            f"{row['kernels']:,}",
            earlier.get((row["recipe"], row["agents"]), "-"),
            ", ".join(loops),
            f"{row['temporary_megabytes']:.1f}",
            "yes" if row["critic_in_rollout"] else "no",
        )
    console.print(table)


def main(options: Options) -> None:
    """Compile, print the table, write the data."""
    console = Console(width=120)
    rows = []
    with tempfile.TemporaryDirectory() as dump:
        set_flags(dump, options)
        mesh = h100()
        for name, agents in itertools.product(options.recipes, options.agents):
            row = measure(name, agents, mesh, Path(dump))
            if options.ptx:
                console.print(*registers(Path(dump)), sep="\n", highlight=False)
            compiled = partial(compile_for, mesh)
            rows.append(row | {"critic_in_rollout": holds_critic(recipe(name), agents, compiled)})
    setting = machine.describe("gymnax", "flax") | {"XLA_FLAGS": options.flags}
    earlier = before(options.out)
    show(rows, earlier.get("rows", []), console)
    if options.out is not None:
        content = {"setting": setting, "rows": rows, "before": earlier}
        options.out.write_text(json.dumps(content, indent=2) + "\n")


def before(path: Path | None) -> dict[str, Any]:
    """What a file of numbers keeps of an earlier tree, if there is one."""
    if path is None or not path.exists():
        return {}
    return json.loads(path.read_text()).get("before", {})


def set_flags(dump: str, options: Options) -> None:
    """XLA's flags, which count only before jax has started."""
    flags = f"--xla_gpu_autotune_level=0 --xla_dump_to={dump} {options.flags}"
    if options.ptx:
        flags += " --xla_gpu_dump_llvmir=true --xla_dump_emitter_re=.*"
    os.environ["XLA_FLAGS"] = flags
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    jax.config.update("jax_platforms", "cpu")


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.compiled"))
