"""A job: what to run, and where it goes."""

import dataclasses
from pathlib import Path

from ppo_jax.config import Config


@dataclasses.dataclass(frozen=True)
class Job:
    """What to run, and where it goes."""

    recipe: str
    config: Config
    seed: int
    num_seeds: int
    path: Path
    device: str = "auto"
    axes: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    """Values of the hyperparameters that a grid goes through."""
    ranges: dict[str, tuple[str, float, float]] = dataclasses.field(default_factory=dict)
    """Ranges that a random search draws hyperparameters from."""
    num_samples: int = 0
    """Settings that the random search draws."""
    curves: bool = True
    """Keep every agent's own metrics."""
    group_size: int | None = None
    """Agents trained at once (none: all)."""
    stop_when_solved: float | None = None
    """Stop a group once this fraction of its agents is solved."""
    drop_solved: bool = False
    """Go on without solved agents, once they are half of the batch."""
    evaluate_every: int = 10
    """Updates between the evaluations that stopping needs."""
    evolve: dict[str, tuple[str, float, float]] = dataclasses.field(default_factory=dict)
    """Ranges of the hyperparameters that evolve, from random draws."""
    evolve_every: int = 20
    """Updates of a generation."""
    overwrite: bool = False
    """Replace the folder's run."""
    resume: str | None = None
    """Go on with the folder's run: newest, or auto, which starts afresh where there is none."""
    checkpoint_every: int | None = None
    """Updates between checkpoints."""
    checkpoint_seconds: float | None = None
    """Seconds between checkpoints, at least."""
    checkpoints_kept: int = 3
    """The newest checkpoints are kept, so many of them."""
