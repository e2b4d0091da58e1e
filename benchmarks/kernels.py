"""python -m benchmarks.kernels RECIPE ...: the Pallas kernels of an update, compiled for an H100.

Nothing is run. Prints the launches of one update with `kernel="pallas"` and each kernel's grid,
threads and shared memory; with --registers also what ptxas says of its registers and spills.
"""

import dataclasses
import itertools
import re
import tempfile
from pathlib import Path

import tyro

from benchmarks import compiled
from ppo_jax import population, recipe

_KERNEL = r"(\w+_kernel) (grid: .*)"  # in ppo_jax/kernels their functions are called so


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile an update of each recipe with Pallas kernels, for an H100 that need not be there."""

    recipes: tyro.conf.Positional[tuple[str, ...]] = ("standard", "fast")
    """Recipes to compile."""
    agents: tuple[int, ...] = (1,)
    """How many agents at once."""
    registers: bool = False
    """Print every kernel's registers and spills (needs ptxas on the PATH; slow)."""


def main(options: Options) -> None:
    """Compile, and print a line an update and its kernels."""
    with tempfile.TemporaryDirectory() as dump:
        compiled.set_flags(dump, compiled.Options())
        mesh = compiled.h100()
        for name, agents in itertools.product(options.recipes, options.agents):
            config = recipe(name, kernel="pallas")
            states = compiled.agents_of(config, agents)
            program = compiled.compile_for(
                mesh, lambda states, config=config: population.run(states, config, 1, 1), states
            )
            launches, _ = compiled.launches(program.as_text())
            megabytes = program.memory_analysis().temp_size_in_bytes / 1e6
            print(f"{name}, agents: {agents}, launches: {launches}, temporary: {megabytes:.1f} MB")
            thunks = max(
                Path(dump).glob("*thunk_sequence_after*"), key=lambda path: path.stat().st_mtime
            )
            for kernel in re.findall(_KERNEL, thunks.read_text()):
                print("  " + " ".join(kernel))
            if options.registers:
                found = compiled.registers(Path(dump))
                print(*(f"  {line}" for line in found if "_kernel:" in line), sep="\n")


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.kernels"))
