"""Films agents of a run learning side by side: they are trained again, and play at every stage."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from ppo_jax import env, population
from ppo_jax.config import Config
from ppo_jax.evaluate import Trace
from ppo_jax.film import recording, writing
from ppo_jax.film.canvas import BLUE, FLOOR, GREEN, INK, LINE, MUTED, PAPER, Canvas
from ppo_jax.film.recording import Stage
from ppo_jax.film.writing import Frame
from ppo_jax.policy import Params
from ppo_jax.run import replaying
from ppo_jax.run.console import Console, count, number
from ppo_jax.run.errors import InputError
from ppo_jax.run.saved import Run
from ppo_jax.run.training import NEVER, Batch, Hook

_SNAPSHOTS = 8  # the untrained agents' among them
_LEAST_FRAMES, _MOST_FRAMES = 20, 48  # of each
_CELL, _GAP, _HEAD = (136, 96), 6, 56
_FPS = 20


class Snapshot(NamedTuple):
    """The agents as far as they have come."""

    params: Params  # [agents, ...]
    env_steps: int  # of each agent that did not diverge, on average


class Snapshots(Hook):
    """Keeps the agents' parameters, more densely in the beginning, when they learn most."""

    def __init__(self, total_updates: int):
        shares = np.linspace(0, 1, _SNAPSHOTS) ** 2.5
        self._when = np.unique(np.round(shares * total_updates)).astype(int).tolist()
        self.made: list[Snapshot] = []

    def begin(self, batch: Batch) -> None:
        self.at_boundary(batch)

    def next_boundary(self, done: int) -> int:
        return next((update for update in self._when if update > done), NEVER)

    def at_boundary(self, batch: Batch) -> None:
        if batch.num_updates in self._when:
            params = jax.tree.map(np.array, batch.states.params)
            made = np.asarray(batch.states.num_updates)[batch.is_real]
            steps = batch.agent_steps[made == made.max()]
            self.made.append(Snapshot(params, round(float(steps.mean()))))


def film_grid(
    run: Run, options: Any, chosen: list[jax.Device], out: Path, console: Console
) -> None:
    """Train the run's first agents again on the chosen device, and film them.

    options: of `ppo-jax film`.
    """
    if not run.summary["finished"]:
        raise InputError(f"{options.run} was interrupted; finish it with --resume, then film it")
    ids = np.arange(min(options.grid, len(run.table)))
    stages = [recording.set_stage(run.agent(agent).config) for agent in ids.tolist()]
    stages[0].say_what_is_drawn(console)
    updates = run.summary["num_updates"]
    hook = Snapshots(updates)
    replaying.train_again(run, ids, updates, chosen, hook, console)
    snapshots = hook.made
    shown = f"{len(snapshots)} stages of {count(len(ids), 'agent')}"
    with console.waiting(f"playing and drawing {shown}"):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(options.seed), ids)
        config = run.table.configure(ids)
        solved_at = env.SOLVED_AT.get(config.env)
        made: list[Frame] = []
        total = snapshots[-1].env_steps
        play = jax.jit(_play, static_argnums=3, compiler_options=population.COMPILER_OPTIONS)
        for snapshot in snapshots:
            trace = jax.tree.map(np.asarray, play(snapshot.params, config, keys, options.sampled))
            made += _compose(stages, trace, snapshot.env_steps, total, solved_at, options.fps)
        made[-1] = made[-1][0], 3.0
    writing.write(out, made, console)


def _play(params: Params, config: Config, keys: jax.Array, sampled: bool) -> Trace:
    """An episode of each agent, [T, agents, ...]."""
    play = partial(recording.play, num_episodes=1, sampled=sampled)
    axes = jax.tree.map(lambda leaf: 0 if np.ndim(leaf) else None, config)
    trace = jax.vmap(play, in_axes=(0, axes, 0), out_axes=1)(params, config, keys)
    return jax.tree.map(lambda leaf: leaf[:, :, 0], trace)


def _compose(
    stages: list[Stage],
    trace: Trace,
    env_steps: int,
    total: int,
    solved_at: float | None,
    fps: float | None,
) -> Iterator[Frame]:
    """The frames of one stage: the first steps of the episodes, at most every third."""
    agents, columns = range(len(stages)), math.ceil(math.sqrt(len(stages)))
    returns = np.sum(trace.reward, axis=0, where=trace.valid, dtype=float)
    solved = returns >= (math.inf if solved_at is None else solved_at)
    longest = max(recording.length(trace, agent) for agent in agents)
    every = min(math.ceil(longest / _MOST_FRAMES), 3)
    length = min(max(math.ceil(longest / every) + 1, _LEAST_FRAMES), _MOST_FRAMES)
    cells = [
        [
            _draw_cell(stages[agent], trace, agent, step, number(returns[agent]), solved[agent])
            for step in recording.moments(trace, agent, every)[:length]
        ]
        for agent in agents
    ]
    width = columns * (_CELL[0] + _GAP) + _GAP
    height = _HEAD + math.ceil(len(stages) / columns) * (_CELL[1] + _GAP)
    said = f"mean return {number(float(returns.mean()))}"
    if solved_at is not None:
        said += f", {solved.sum()} of {len(stages)} solved"
    page = Image.new("RGB", (width, height), PAPER)
    title = f"{count(len(stages), 'agent')} learn{'s' * (len(stages) == 1)} {stages[0].title}"
    page.paste(_draw_head(width, title, env_steps, total, said), (0, 0))
    for index in range(length):
        for agent, pictures in enumerate(cells):
            row, column = divmod(agent, columns)
            place = _GAP + column * (_CELL[0] + _GAP), _HEAD + row * (_CELL[1] + _GAP)
            page.paste(pictures[min(index, len(pictures) - 1)], place)
        yield page.copy(), 0.7 if index == length - 1 else 1 / (fps or _FPS)


def _draw_cell(
    stage: Stage, trace: Trace, agent: int, step: int, said: str, solved: bool
) -> Image.Image:
    """One agent's picture before that step, with its episode's return: framed in green where that
    counts as solved, pale once the episode is over."""
    canvas = Canvas(*_CELL)
    stage.drawer.draw(canvas, stage.scene(trace, agent, step))
    if step == recording.length(trace, agent):
        canvas.fade(0.6)
    canvas.view_pixels()
    ring, color = (2.5, GREEN) if solved else (1, LINE)
    canvas.box((0, 0), _CELL, color, 5, ring)
    canvas.text((7, 13), said, 13, GREEN if solved else MUTED, "lm")
    return canvas.finish()


def _draw_head(width: int, title: str, env_steps: int, total: int, said: str) -> Image.Image:
    """The title, how far the agents have come, and what they reach."""
    canvas = Canvas(width, _HEAD)
    canvas.text((_GAP, 17), title, 18, INK, "lm", most=0.6 * width)
    canvas.text((width - _GAP, 17), f"{env_steps:,} steps each", 16, INK, "rm", most=0.34 * width)
    canvas.text((_GAP, 37), said, 14, MUTED, "lm")
    canvas.box((_GAP, 48), (width - _GAP, 51), FLOOR, 1)
    share = env_steps / max(total, 1)
    canvas.box((_GAP, 48), (_GAP + max(share * (width - 2 * _GAP), 3), 51), BLUE, 1)
    return canvas.finish()
