"""Reports runs as self-contained HTML pages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppo_jax.run.errors import InputError
from ppo_jax.run.report import page
from ppo_jax.run.report.data import read
from ppo_jax.run.storage import folder


def make(paths: Sequence[Path], **known: Any) -> str:
    """The page of a run, or of several that it compares.

    Args:
        paths: the runs' folders.
        known: what `data.read` need not read again.

    Raises InputError where environments differ or a run is corrupt, OSError without a config.json.
    """
    runs = []
    for path in paths:
        with folder.reading(path):
            runs.append(read(path, **known))
    for run in runs[1:]:
        if run.env != runs[0].env:
            raise InputError(
                f"{run.path} is of {run.env}, and {runs[0].path} of {runs[0].env}; compare runs of"
                " one environment"
            )
    with folder.reading(", ".join(map(str, paths))):
        return page.one_run(runs[0]) if len(runs) == 1 else page.several_runs(runs)
