"""ppo-jax film: films an agent of a run, or many of them learning side by side."""

import dataclasses
from pathlib import Path

from ppo_jax.cli import flags
from ppo_jax.film import writing
from ppo_jax.run.console import Console
from ppo_jax.run.errors import InputError
from ppo_jax.run.storage import folder


@dataclasses.dataclass(frozen=True)
class Options(flags.Common):
    """Film episodes of one agent of a run, with its policy and its critic's value beside them; or
    with --grid its first agents learning side by side.

    Long episodes are shown in some 300 frames.
    """

    agent: int | None = None
    """Number of the agent; None is 0."""
    episodes: int = 1
    """Episodes to film."""
    grid: int | None = None
    """Film so many agents (all, if there are fewer), trained again from their keys, an episode each
    at several stages of their training."""
    out: str | None = None
    """File for the film, .gif or .mp4; None is film.gif, film-AGENT.gif or film-grid.gif in the
    run's folder, of a pretrained agent ENV.gif here."""
    overwrite: bool = False
    """Replace the film that is there."""
    fps: float | None = None
    """Frames a second; None is as many as let it be watched."""


def main(arguments: list[str]) -> None:
    """Parse the command line, and film."""
    options = flags.read_options(Options, arguments, "film", agent=0, episodes=1, grid=1)
    path = folder.find(options.run, folder.SUMMARY, folder.PARAMETERS)
    console = Console(options.quiet)
    _check(options, path)
    which = "-grid" if options.grid else "" if options.agent is None else f"-{options.agent}"
    default = f"{path.name}{which}.gif" if folder.is_pretrained(path) else path / f"film{which}.gif"
    out = Path(options.out or default)
    writing.check(out, options.overwrite)
    remedy = "film fewer --episodes, or a smaller --grid"
    with flags.computing(options.device, "this film", remedy) as chosen:
        from ppo_jax.film import frames, grid  # which import jax
        from ppo_jax.run import saved

        run, number = saved.load(path), options.agent or 0
        if options.grid:
            grid.film_grid(run, options, chosen[:1], out, console)
        else:
            own = {name: getattr(options, name) for name in ("seed", "episodes", "sampled", "fps")}
            frames.film_agent(run.agent(number), number, out, console, **own)


def _check(options: Options, path: Path) -> None:
    """Raise InputError for options that make no film."""
    if options.grid is not None:
        folder.check_has_training(path)
    if options.grid is not None and (options.agent is not None or options.episodes != 1):
        raise InputError(
            "--grid films one episode of each of several agents; leave out --agent and --episodes"
        )
    if options.fps is not None and not 1 <= options.fps <= 50:
        raise InputError(f"--fps is {options.fps}; it must be from 1 to 50")
