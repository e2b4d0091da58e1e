"""python -m benchmarks.kernels RECIPE ...: the Pallas kernels of an update, compiled for an H100.

Nothing is run. Prints the launches of one update of a training with `kernel="pallas"` and each
kernel's grid, threads and shared memory; with --registers also what ptxas says of its registers
and spills.
Beside XLA's own program stands the recipe "standard kernel=pallas" of `benchmarks compiled`.
"""

import dataclasses
import itertools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from jax.sharding import Mesh

from benchmarks.compiled import GPU
from benchmarks.peers import reading
from ppo_jax import population, recipe
from ppo_jax.run import absent, program

_KERNEL = r"(\w+_kernel) (grid: .*)"  # in ppo_jax/kernels their functions are called so
_DUMP_PTX = {"xla_gpu_dump_llvmir": True, "xla_dump_emitter_re": ".*"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile a training of each recipe with Pallas kernels, for an H100 that need not be there."""

    recipes: tyro.conf.Positional[tuple[str, ...]] = ("standard", "fast")
    """Recipes to compile."""
    agents: tuple[int, ...] = (1,)
    """How many agents at once."""
    registers: bool = False
    """Print every kernel's registers and spills (needs ptxas on the PATH; slow)."""


def compile_training(name: str, agents: int, options: dict[str, Any]) -> Any:
    """Some updates of so many agents."""
    config = recipe(name, kernel="pallas")
    mesh = Mesh(np.array(absent.select(GPU)), ("agents",))
    states = jax.eval_shape(lambda: population.init(population.agent_keys(0, agents), config))

    def train(states: Any) -> Any:
        return population.run(states, config, reading.UPDATES, reading.UPDATES)

    out_specs = (population.AGENTS, population.TIME_AGENTS)
    return (
        jax.jit(population.shard_over_agents(train, mesh, out_specs)).lower(states).compile(options)
    )


def registers(dump: Path) -> Iterator[str]:
    """What ptxas says of every Pallas kernel that XLA dumped, a line each."""
    if shutil.which("ptxas") is None:
        raise SystemExit("--registers: ptxas is not on the PATH; it comes with nvidia-cuda-nvcc")
    for path in sorted(dump.glob("*.ptx")):
        command = ["ptxas", "-v", "-arch=sm_90a", str(path), "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        names = re.findall(r"Compiling entry function '(\w+)'", said)
        used = re.findall(r"Used .*$", said, re.M)
        spills = re.findall(r"\d+ bytes stack.*$", said, re.M)
        for name, *line in zip(names, used, spills, strict=True):
            if name.endswith("_kernel"):
                yield ": ".join([name, *line])


def main(options: Options) -> None:
    """Compile, and print a line an update and its kernels."""
    for name, agents in itertools.product(options.recipes, options.agents):
        with tempfile.TemporaryDirectory() as folder:
            dump = Path(folder)
            flags = reading.compiler_options(GPU, folder)
            flags |= _DUMP_PTX if options.registers else {}
            compiled = compile_training(name, agents, flags)
            _, [updates, *_] = program.launches(compiled.as_text())
            megabytes = compiled.memory_analysis().temp_size_in_bytes / 1e6
            said = f"launches: {updates.kernels}, temporary: {megabytes:.1f} MB"
            print(f"{name}, agents: {agents}, {said}")
            for kernel in re.findall(_KERNEL, reading.dumped(dump, "jit_train")):
                print("  " + " ".join(kernel))
            if options.registers:
                print(*(f"  {line}" for line in registers(dump)), sep="\n")


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.kernels"))
