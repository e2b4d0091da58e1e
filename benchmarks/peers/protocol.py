"""How a worker speaks: options as JSON in, a line `ready`, then a line of result for every line in.

Standard library only: a worker imports this in a virtual environment that has nothing of ours.
"""

import dataclasses
import json
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

# The recipe `standard`: 4 environments × 128 steps an update, 500,000 steps.
STEPS_OF_UPDATE, FULL_UPDATES = 512, 976
# Points of a learning curve: equal parts of a training's updates.
POINTS = 100


class OptionError(ValueError):
    """What a worker is asked for that it cannot do."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a worker is asked to measure."""

    recipe: str = "standard"
    """Whose work it does."""
    agents: int = 1
    """Agents trained at once."""
    seconds: float = 5.0
    """About how long a turn lasts, where `updates` does not say it."""
    updates: int | None = None
    """Updates of one agent in a turn."""
    seed: int = 0
    """Where the turns' seeds begin."""
    curves: bool = False
    """Whether a full training tells its learning curves, where they cost time."""
    path: str | None = None
    """A checkout of the peer, where it is not installed as a package."""
    devices: int | None = None
    """Devices that the agents are shared out over, at most; None: all."""
    style: str = "plain"
    """Of PyTorch: `plain`, `tuned` or `compiled`."""
    plan: bool = False
    """Of JAX: compile `updates` updates and say what memory the program needs; run nothing."""
    device: str | None = None
    """Of JAX: an absent device, as `ppo-jax plan` names it, to compile an update for; run nothing.
    """


@dataclasses.dataclass(frozen=True)
class Peer:
    """A peer that is compiled and warm; a call of `turn` gives at least `env_steps`, `seconds`."""

    turn: Callable[[], dict[str, Any]]
    compile_seconds: float | None
    versions: dict[str, str]
    note: str


def parse(text: str) -> Options:
    """The options of a line of JSON; OptionError names what is wrong with it."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise OptionError(f"options are not JSON: {error}") from None
    if not isinstance(values, dict):
        raise OptionError(f"options are a JSON object, not {text}")
    known = [field.name for field in dataclasses.fields(Options)]
    unknown = sorted(values.keys() - set(known))
    if unknown:
        raise OptionError(f"no option {', '.join(unknown)}; there are {', '.join(known)}")
    options = Options(**values)
    _check(options)
    return options


def _check(options: Options) -> None:
    if type(options.seed) is not int or options.seed < 0:
        raise OptionError(f"seed is a whole number from 0 on, not {options.seed!r}")
    for name in ("agents", "updates", "devices"):
        value = getattr(options, name)
        if value is None and name != "agents":
            continue
        if type(value) is not int or value < 1:
            raise OptionError(f"{name} is a positive whole number, not {value!r}")
    if type(options.seconds) not in (int, float) or not options.seconds > 0:
        raise OptionError(f"seconds is a positive number, not {options.seconds!r}")
    for name in ("curves", "plan"):
        if not isinstance(getattr(options, name), bool):
            raise OptionError(f"{name} is true or false, not {getattr(options, name)!r}")
    if options.plan and options.updates is None:
        raise OptionError("plan needs updates: how many the program makes")
    for name in ("recipe", "style", "path", "device"):
        value = getattr(options, name)
        if not isinstance(value, str) and (name, value) not in (("path", None), ("device", None)):
            raise OptionError(f"{name} is a string, not {value!r}")


def require(
    options: Options,
    recipes: Sequence[str] = ("standard",),
    most_agents: int | None = None,
    checkout_of: str | None = None,
) -> None:
    """OptionError where the peer cannot do what the options ask."""
    if options.recipe not in recipes:
        raise OptionError(f"recipe {options.recipe!r}: this peer does {', '.join(recipes)} only")
    if most_agents is not None and options.agents > most_agents:
        raise OptionError(f"agents {options.agents}: this peer trains {most_agents} at once")
    if checkout_of is not None and options.path is None:
        raise OptionError(f"give `path`: a checkout of {checkout_of}")
    if checkout_of is not None and not Path(str(options.path)).is_dir():
        raise OptionError(f"path {options.path}: no such folder; give a checkout of {checkout_of}")


def serve(start: Callable[[Options], Peer]) -> None:
    """Start the peer with the command line's options, then a turn for every line of stdin."""
    # What the peer prints goes to stderr: stdout is the protocol's alone.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        peer = start(parse(sys.argv[1] if len(sys.argv) > 1 else "{}"))
    except OptionError as error:
        refuse(str(error))
    ready = {
        "ready": True,
        "compile_seconds": peer.compile_seconds,
        "versions": peer.versions,
        "note": peer.note,
    }
    print(json.dumps(ready), file=answers)
    for _ in sys.stdin:
        result = peer.turn()
        print(json.dumps({"peak_memory_bytes": peak_memory(), **result}), file=answers)


def _end_with(parent: int) -> None:
    """End this process when its parent has ended: one that hangs does not read the end of stdin."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def refuse(message: str) -> NoReturn:
    """End with one line on stderr, as of a bad command line."""
    print(message, file=sys.stderr)
    sys.exit(2)


def peak_memory(process: int | str = "self") -> int:
    """The most bytes that a process has had resident, by default this one."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        status = ""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def versions(*packages: str) -> dict[str, str]:
    """Python's and the packages' versions."""
    return {"python": sys.version.split()[0], **{name: metadata.version(name) for name in packages}}


def cache_folder() -> Path:
    """Where virtual environments and built programs are kept, in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ppo_jax" / "benchmarks"


def updates_of_turn(options: Options, pilot: Callable[[int], float], trial: int = 16) -> int:
    """How many updates a turn has: a full training if it fits in its seconds.

    `pilot(updates)` gives the seconds that a turn of so many updates takes, and is asked for those
    of a trial.
    """
    if options.updates is not None:
        return options.updates
    fitting = int(options.seconds / pilot(trial) * trial)
    return max(1, min(fitting, FULL_UPDATES))


def learning_curve(sums: Sequence[float], episodes: Sequence[float]) -> list[float | None]:
    """The mean return of the episodes that ended in each of `POINTS` equal parts of a training;
    None where none ended.

    Of every update `sums` has the sum of the returns of the episodes that ended in it, and
    `episodes` their number.
    """
    parts = [[0.0, 0.0] for _ in range(POINTS)]
    for update, (total, number) in enumerate(zip(sums, episodes, strict=True)):
        if number:
            part = parts[update * POINTS // len(sums)]
            part[0] += total
            part[1] += number
    return [round(total / number, 3) if number else None for total, number in parts]


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """The function's result and the seconds it took."""
    started = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - started
