"""python -m ppo_jax.replay: take one agent out of a run, train it again, and watch it play."""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ppo_jax.run import folder, xla
from ppo_jax.run.failure import FILE_SYSTEM, Failure, exit_code
from ppo_jax.run.screen import Screen

_LARGEST_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Flags:
    """Take one agent out of a run: train it again from its key, compare it with what the run saved,
    and play episodes with it.

    A folder in the run's receives trace.csv (every step of the episodes), metrics.csv (the agent's
    training, update by update) and summary.json.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder of a run of python -m ppo_jax.train."""
    agent: int
    """Number of the agent, from 0: setting by setting, the same seeds for each."""
    how: Literal["batch", "alone", "load"] = "batch"
    """Train it at the run's own batch shape, which gives the same bits; alone, which goes the same
    way until rounding has changed an action; or load what the run saved."""
    episodes: int = 1
    """Episodes to play."""
    sampled: bool = False
    """Sample the actions (no: take the most probable ones)."""
    seed: int = 0
    """Seed of the episodes."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to train (auto: the CPU if the run used it, else the best that jax finds)."""
    out: str | None = None
    """Folder for the results (none: replay-AGENT in the run's)."""
    overwrite: bool = False
    """Replace the replay that the folder holds."""
    quiet: bool = False
    """Print nothing but errors."""
    debug: bool = False
    """Print the traceback of an error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, replay the agent, and return the process's exit code."""
    return exit_code(_main, arguments)


def _main(arguments: list[str]) -> int:
    flags = tyro.cli(Flags, args=arguments, prog="python -m ppo_jax.replay")
    _check(flags)
    settings, summary = _read_run(flags)
    devices, lanes = _shape(flags, settings, summary)
    out = _choose(flags)
    screen = Screen(flags.quiet)
    xla.set_flags(devices if flags.how == "batch" else 1)

    from ppo_jax.run import cache, trace  # jax: seconds, only after the flags have passed

    fields = ("agent", "how", "episodes", "sampled", "seed")
    on_cpu = flags.device == "auto" and summary.get("device", "").startswith("cpu")
    request = trace.Request(
        **{name: getattr(flags, name) for name in fields},
        run=Path(flags.run),
        settings=settings,
        summary=summary,
        devices=devices,
        lanes=lanes,
        processes=summary.get("processes", 1),
        device="cpu" if on_cpu else flags.device,
        out=out,
    )
    with cache.kept():
        found = trace.replay(request, screen)
    _report(found, out, screen)
    return 0


def _check(flags: Flags) -> None:
    if flags.agent < 0:
        raise Failure(f"--agent is {flags.agent}; agents count from 0")
    if flags.episodes < 1:
        raise Failure(f"--episodes is {flags.episodes}; it must be at least 1")
    if not 0 <= flags.seed <= _LARGEST_SEED:
        raise Failure(f"--seed is {flags.seed}; seeds go from 0 to {_LARGEST_SEED}")


def _read_run(flags: Flags) -> tuple[dict[str, Any], dict[str, Any]]:
    """The run's settings and its summary, empty where it did not get to write one."""
    settings = _read(Path(flags.run, folder.CONFIG))
    if settings is None:
        raise Failure(f"{flags.run} is not a run's folder: it has no {folder.CONFIG}")
    summary = _read(Path(flags.run, folder.SUMMARY))
    if summary is None and flags.how != "load":
        raise Failure(
            f"{flags.run} has no {folder.SUMMARY}: the run did not finish; --how load takes what it"
            " saved, if it did"
        )
    if settings.get("drop_solved") and flags.how != "load":
        raise Failure(
            f"{flags.run} dropped solved agents, so its batch had several shapes; give --how load"
        )
    if settings.get("evolve") and flags.how != "load":
        raise Failure(
            f"{flags.run} evolved its agents, so none of them can be trained again by itself;"
            " --how load takes what it saved"
        )
    return settings, summary or {}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}", FILE_SYSTEM) from error
    except (ValueError, TypeError) as error:
        raise Failure(f"{path} is not a run's ({error})") from error


def _shape(flags: Flags, settings: dict[str, Any], summary: dict[str, Any]) -> tuple[int, int]:
    """The run's devices, and its lanes: the agents trained at once. Early runs did not write them.

    Raises Failure (2) for an agent that the run does not have.
    """
    try:
        agents = summary.get("num_settings", 1) * settings["num_seeds"]
        group = min(settings.get("group_size") or agents, agents)
        named = re.search(r", (\d+) devices$", summary.get("device", ""))
        devices = summary.get("devices") or (int(named[1]) if named else 1)
        lanes = summary.get("lanes") or -(-group // devices) * devices
    except (KeyError, TypeError) as error:
        raise Failure(f"{flags.run} is not a whole run ({error})") from error
    if summary and flags.agent >= agents:
        raise Failure(f"--agent is {flags.agent}; the run's agents are 0 to {agents - 1}")
    return devices, lanes


def _choose(flags: Flags) -> Path:
    """The folder for the replay. Raises Failure for one that holds something else already."""
    default = str(Path(flags.run, f"replay-{flags.agent}"))
    out = folder.choose(default if flags.out is None else flags.out, "")
    with folder.file_system(out):
        held = {path.name for path in out.iterdir()} if out.exists() else set()
    if held & {folder.CONFIG, folder.PARAMETERS}:
        raise Failure(f"--out {out} holds a run, which a replay never overwrites; give another")
    if held and not flags.overwrite:
        raise Failure(f"{out} exists; give another folder with --out, or --overwrite to replace it")
    return out


def _report(summary: dict[str, Any], out: Path, screen: Screen) -> None:
    if summary["how"] != "load":
        screen.say(_comparison(summary))
    if summary["frozen_after"] is not None:
        screen.say(
            f"it froze after update {summary['frozen_after']} of {summary['num_updates']}:"
            " the next one would have made it non-finite"
        )
    returns = summary["episode_returns"]
    number = f"{len(returns):,} {'sampled' if summary['sampled'] else 'greedy'} episode"
    screen.say(
        f"played {number}{'s' if len(returns) > 1 else ''}: return {summary['mean_return']:.1f}"
        f"{f' ({min(returns):g} to {max(returns):g})' if len(returns) > 1 else ''}"
    )
    files = (folder.METRICS,) * (summary["how"] != "load")
    screen.say(f"wrote {out}{os.sep}: {', '.join(('trace.csv', *files, folder.SUMMARY))}")


def _comparison(summary: dict[str, Any]) -> str:
    if summary["bit_for_bit"]:
        return f"bit for bit: all {summary['num_parameters']:,} parameters are the saved ones"
    said = f"not bit for bit: parameters differ by up to {summary['parameter_difference']:.3g}"
    curves = summary["curves"]
    if curves is not None:
        said += (
            f"; returns while training are the same for {curves['same_returns']} of"
            f" {summary['num_updates']} updates, then rounding tells: they differ by up to"
            f" {curves['differences']['episode_return']:.3g}"
            if curves["same_returns"] < summary["num_updates"]
            else "; returns while training are the same"
        )
    return said


if __name__ == "__main__":
    sys.exit(main())
