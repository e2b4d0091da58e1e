"""python -m benchmarks [PART ...]: every measurement on this machine, or the parts named.

`python -m benchmarks environments [ROW ...]` takes hours and is no part of it.
"""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import tyro
from rich.console import Console

PARTS = (
    "throughput",
    "profile",
    "memory",
    "solve",
    "waterfall",
    "batches",
    "scaling",
    "learning_curves",
    "targets",
)
# The first needs jax's plugins for a GPU and a TPU, the others take hours.
ASKED_FOR = ("compiled", "equivalence", "same_steps")
_CHECKOUTS = {
    "compiled": ("purejaxrl",),
    "throughput": ("cleanrl", "purejaxrl", "rl_tools"),
    "equivalence": ("cleanrl",),
    "same_steps": ("purejaxrl",),
    "memory": ("purejaxrl",),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure everything on this machine. A part by itself, `python -m benchmarks.PART --help`, has
    more options."""

    parts: tyro.conf.Positional[tuple[str, ...]] = PARTS
    """Parts to run; compiled, equivalence and same_steps only where they are named."""
    cleanrl: Path | None = None
    """Your checkout of vwxyzjn/cleanrl (none: left out)."""
    purejaxrl: Path | None = None
    """Your checkout of luchris429/purejaxrl (none: left out)."""
    rl_tools: Path | None = None
    """Your checkout of rl-tools/rl-tools (none: left out)."""
    out: Path = Path("benchmarks/results")
    """Folder for data and figures."""


def command(part: str, options: Options) -> list[str]:
    """A part's own command line."""
    arguments = ["--out", str(options.out)]
    for name in _CHECKOUTS.get(part, ()):
        path = getattr(options, name)
        if path is not None:
            arguments += [f"--{name.replace('_', '-')}", str(path)]
    return [sys.executable, "-m", f"benchmarks.{part}", *arguments]


def main(options: Options) -> int:
    """Run the parts, each in a process of its own; returns 1 if one failed."""
    console = Console()
    unknown = sorted(set(options.parts) - {*PARTS, *ASKED_FOR})
    if unknown:
        console.print(
            f"no part {', '.join(unknown)}; there are {', '.join((*PARTS, *ASKED_FOR))}",
            style="red",
        )
        return 2
    failed = []
    for part in options.parts:
        console.rule(part)
        started = time.perf_counter()
        if subprocess.run(command(part, options), check=False).returncode:
            failed.append(part)
        console.print(f"{part}: {time.perf_counter() - started:.0f} s")
    if failed:
        console.print(f"failed: {', '.join(failed)}", style="red")
    return int(bool(failed))


if __name__ == "__main__":
    if sys.argv[1:2] == ["environments"]:
        from benchmarks import environments  # in this process, which signals reach

        prog = "python -m benchmarks environments"
        sys.exit(environments.main(tyro.cli(environments.Options, prog=prog, args=sys.argv[2:])))
    sys.exit(main(tyro.cli(Options)))
