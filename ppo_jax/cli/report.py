"""ppo-jax report: writes a run's report, or the comparison of several, as one HTML page."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from ppo_jax.cli import flags
from ppo_jax.run.console import Console
from ppo_jax.run.errors import InputError
from ppo_jax.run.storage import folder


@dataclasses.dataclass(frozen=True)
class Options:
    """Write a run's report, one HTML page that needs no network: curves, final returns,
    diagnostics, settings, configuration. Several runs of one environment are compared."""

    runs: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)"),
    ]
    """Folders of runs of ppo-jax train; an unfinished one is shown as far as it came."""
    out: str | None = None
    """File of the page; None is report.html in the run's folder, of several runs comparison.html in
    the first's."""
    quiet: bool = False
    """Print nothing but errors."""
    debug: bool = False
    """Print the traceback of an error."""


def main(arguments: list[str]) -> None:
    """Parse the command line, and write the page."""
    options = flags.parse(Options, arguments, "report")
    paths = [folder.find(run) for run in options.runs]
    if not paths:
        raise InputError("there is no RUN; give the folder of a run")
    for path in paths:
        folder.check_has_training(path)
    name = folder.REPORT if len(paths) == 1 else folder.COMPARISON
    out = paths[0] / name if options.out is None else Path(options.out)
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; give a file, such as {out / name}")

    from ppo_jax.run import report  # jax: seconds, only after the flags have passed

    folder.write(out, report.make(paths).encode())
    Console(options.quiet).say(f"wrote {out}")
