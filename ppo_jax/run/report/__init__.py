"""Reports runs as self-contained HTML pages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ppo_jax import statistics
from ppo_jax.run.errors import InputError
from ppo_jax.run.report import page
from ppo_jax.run.report.data import read


def make(paths: Sequence[Path], **known: Any) -> str:
    """The page of a run, or of several that it compares.

    Args:
        paths: the runs' folders.
        known: what `data.read` need not read again.

    Raises InputError where environments differ, OSError and ValueError as `data.read`.
    """
    runs = [read(path, **known) for path in paths]
    if len(runs) == 1:
        return page.one_run(runs[0])
    for run in runs[1:]:
        if run.env != runs[0].env:
            raise InputError(
                f"{run.path} is of {run.env}, and {runs[0].path} of {runs[0].env}; compare runs of"
                " one environment"
            )
    finals = [run.groups[0].returns for run in runs]  # a diverged agent is the worst
    scores = [jnp.asarray(np.where(np.isnan(one), -np.inf, one)) for one in finals]
    improvements = [
        float(statistics.probability_of_improvement(own, scores[0]))
        if own.size and scores[0].size
        else None
        for own in scores[1:]
    ]
    return page.several_runs(runs, [None, *improvements])
