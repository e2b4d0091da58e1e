"""ppo-jax replay: takes one agent out of a run, trains it again, and watches it play."""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from ppo_jax.cli import flags
from ppo_jax.run import xla
from ppo_jax.run.console import Console, count, number
from ppo_jax.run.errors import file_system_errors
from ppo_jax.run.storage import folder


@dataclasses.dataclass(frozen=True)
class Options(flags.Common):
    """Take one agent out of a run: train it again from its key, compare it with what the run saved,
    and play episodes with it.

    A folder in the run's receives trace.csv (every step of the episodes), metrics.csv (the agent's
    training, update by update) and summary.json.
    """

    agent: int
    """Number of the agent, from 0: setting by setting, the same seeds for each."""
    how: Literal["batch", "alone", "load"] = "batch"
    """Train it at the run's own batch shape, which gives the same bits; alone, where it learns the
    same until rounding has changed an action; or load what the run saved."""
    episodes: int = 1
    """Episodes to play."""
    out: str | None = None
    """Folder for the results; None is replay-AGENT in the run's."""
    overwrite: bool = False
    """Replace the replay that the folder holds."""


def main(arguments: list[str]) -> None:
    """Parse the command line, and replay the agent."""
    options = flags.read_options(Options, arguments, "replay", agent=0, episodes=1)
    path = folder.find(options.run, folder.SUMMARY, folder.PARAMETERS)
    folder.check_has_training(path)
    with folder.reading(path / folder.SUMMARY):
        summary = folder.read_json(path / folder.SUMMARY)
    default = path / f"replay-{options.agent}"
    out = folder.choose_results(default if options.out is None else options.out, options.overwrite)
    console = Console(options.quiet)
    xla.set_flags(summary.get("devices", 1) if options.how == "batch" else 1)

    from ppo_jax.run import replaying  # jax: seconds, only after the flags have passed

    if options.device == "auto" and summary.get("device", "").startswith("cpu"):
        options = dataclasses.replace(options, device="cpu")
    is_new = not out.exists()
    try:
        with xla.compilation_cache(), file_system_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=out) as made:
                found = replaying.replay(options, Path(made), console)
                for name in replaying.FILES:  # only now: what fails leaves the old ones
                    (out / name).unlink(missing_ok=True)
                for file in Path(made).iterdir():
                    os.replace(file, out / file.name)
    finally:
        if is_new:
            folder.remove_if_empty(out)
    _report(found, out, console)


def _report(summary: dict[str, Any], out: Path, console: Console) -> None:
    difference, parameters = summary["parameter_difference"], summary["num_parameters"]
    if summary["bit_for_bit"]:
        console.say(f"bit for bit: all {parameters:,} parameters are the saved ones")
    elif summary["how"] != "load":
        differ = "not finite" if difference is None else f"up to {difference:.3g}"
        console.say(f"not bit for bit: parameters differ by {differ}, as rounding adds up")
    if summary["frozen_after"] is not None:
        console.say(
            f"it froze after update {summary['frozen_after']} of {summary['num_updates']}:"
            " the next one would have made it non-finite"
        )
    returns = summary["episode_returns"]
    played = count(len(returns), f"{'sampled' if summary['sampled'] else 'greedy'} episode")
    console.say(
        f"played {played}: return {number(summary['mean_return'])}"
        f"{f' ({number(min(returns))} to {number(max(returns))})' if len(returns) > 1 else ''}"
    )
    files = ", ".join(sorted(file.name for file in out.iterdir()))
    console.say(f"wrote {out}{os.sep}: {files}")
