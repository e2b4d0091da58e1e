"""python -m benchmarks.kernels RECIPE ...: the Pallas kernels of an update, compiled for an H100.

Nothing is run. Prints the launches of one update with `kernel="pallas"`, and with --ptx what ptxas
says of each kernel: registers of a thread, and bytes that do not fit into them (spills).
"""

import dataclasses
import itertools
import tempfile
from pathlib import Path

import tyro

from benchmarks import compiled
from ppo_jax import population, recipe

# What the functions in ppo_jax/kernels are called, and so their kernels.
_NAMES = ("rollout_kernel", "advantages_kernel", "epochs_kernel", "finite_kernel")


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile an update of each recipe with Pallas kernels, for an H100 that need not be there."""

    recipes: tyro.conf.Positional[tuple[str, ...]] = ("standard", "fast")
    """Recipes to compile."""
    agents: tuple[int, ...] = (1,)
    """How many agents at once."""
    ptx: bool = False
    """Print every kernel's registers and spills (needs ptxas on the PATH; slow)."""


def main(options: Options) -> None:
    """Compile, and print a line an update and a line a kernel."""
    with tempfile.TemporaryDirectory() as dump:
        compiled.set_flags(dump, compiled.Options(ptx=options.ptx))
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
            if options.ptx:
                found = compiled.registers(Path(dump))
                print(*(line for line in found if line.startswith(_NAMES)), sep="\n")


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m benchmarks.kernels"))
