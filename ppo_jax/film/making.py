"""Makes the film of one agent: plays, draws and writes it."""

import math
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from ppo_jax.film import frames, recording, writing
from ppo_jax.film.recording import Stage
from ppo_jax.run.console import Console, number
from ppo_jax.run.saved import Agent

_MOST_FRAMES = 300


def film_agent(
    agent: Agent,
    said: str,
    out: Path,
    console: Console,
    *,
    seed: int = 0,
    episodes: int = 1,
    sampled: bool = False,
    fps: float | None = None,
) -> None:
    """Film episodes of one agent; with the same key those of `replay`."""
    stage = recording.set_stage(agent.config)
    say_what_is_drawn(stage, console)
    trace = recording.record(agent.params, agent.config, jax.random.key(seed), episodes, sampled)
    steps = int(trace.valid.sum())
    every = math.ceil(steps / _MOST_FRAMES)
    rate = fps or min(max(steps / every / 8, 4), 25)
    made = list(frames.compose(stage, trace, said, every, rate))
    returns = np.sum(trace.reward, axis=0, where=trace.valid, dtype=float)
    shown = f"{f'1 in {every} of ' * (every > 1)}{steps:,} steps shown"
    how = f"{'sampled' if sampled else 'greedy'} episode{'s' * (episodes > 1)}"
    console.say(
        f"filmed {episodes:,} {how} of {said}, mean return {number(float(returns.mean()))}: {shown}"
    )
    write(out, made, console)


def say_what_is_drawn(stage: Stage, console: Console) -> None:
    """Say so where an environment is not known."""
    if not stage.is_known:
        console.say(f"{stage.title} has no drawer, so its observations are drawn")


def write(out: Path, made: Sequence[tuple[Image.Image, float]], console: Console) -> None:
    """Write the frames, each shown for so many seconds, and say where."""
    writing.write(out, *zip(*made, strict=True))
    console.say(f"wrote {out}: {len(made):,} frames, {out.stat().st_size / 1e6:.2f} MB")
