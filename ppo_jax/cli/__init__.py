"""The command line: `ppo-jax COMMAND`, one file a command."""

import difflib
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from ppo_jax.run.errors import run_command

COMMANDS = {
    "train": "train agents, and save them in a folder",
    "evaluate": "evaluate a run's agents over fresh episodes",
    "replay": "train one agent of a run again, compare it, and let it play",
    "film": "film an agent, or many of them learning, as GIF or MP4",
    "export": "write an agent's policy as ONNX, StableHLO, and for NumPy alone",
    "plan": "say what a training would need, in memory and time",
    "report": "write a run's report, or compare several, as one HTML page",
    "envs": "list the environments and their spaces",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names, and return the process's exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        plans = given[0] == "plan"  # the flags of train, to another end
        command = import_module(f"ppo_jax.cli.{'train' if plans else given[0]}").main
        return run_command(partial(command, plans=True) if plans else command, given[1:])
    if not given or given[0] in ("-h", "--help"):
        print("usage: ppo-jax COMMAND [OPTIONS]\n")
        for name, what in COMMANDS.items():
            print(f"  {name:10}{what}")
        print("\nppo-jax COMMAND --help lists a command's options.")
        return 0 if given else 2
    if given[0] == "--version":
        return main(["train", *given])
    near = difflib.get_close_matches(given[0], COMMANDS, n=1)
    meant = "train " + given[0] if given[0].startswith("-") else "".join(near)
    hint = f"; did you mean ppo-jax {meant}?" if meant else f"; there are {', '.join(COMMANDS)}"
    print(f"ppo_jax: {given[0]} is not a command{hint}", file=sys.stderr)
    return 2
