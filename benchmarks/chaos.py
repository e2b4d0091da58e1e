"""python -m benchmarks.chaos: kill real training runs, resume them, and compare what they leave.

Each run is the command itself in a process of its own. It is killed at a random moment, in turn
while it starts, trains and saves a checkpoint, by SIGKILL, SIGTERM or SIGINT; resumed by
`--resume auto` and killed again; at last it is left to finish. Then everything it left must be, to
the bit, what an uninterrupted run leaves.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.fingerprint import fingerprint, rows
from ppo_jax.run import folder

_SMALL = (
    *("--num-envs", "4", "--num-steps", "16", "--hidden-sizes", "8", "--num-updates", "600"),
    *("--checkpoint-every", "20", "--quiet"),
)
CASES = {
    "one agent": (),
    "three seeds": ("--num-seeds", "3"),
    "groups": ("--num-seeds", "5", "--group-size", "2", "--num-updates", "200"),
    "sweep, no curves": ("--sweep", "learning_rate=1e-3,3e-3", "--no-curves"),
    "evolution": ("--num-seeds", "4", "--evolve", "learning_rate=log:1e-4:1e-2"),
    "drop solved": (
        *("--num-seeds", "4", "--drop-solved", "--num-steps", "64", "--num-updates", "300"),
        *("--learning-rate", "5e-3"),
    ),
    "whole episodes": (
        *("--recipe", "notebook", "--hidden-sizes", "8", "--num-envs", "1", "--num-steps", "None"),
        *("--min-transitions", "32"),
    ),
}
_KINDS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_MOMENTS = ("starting", "training", "saving")
_PATIENCE = 300.0  # seconds, for anything at all


@dataclasses.dataclass(frozen=True)
class Options:
    """Kill training runs, resume them, and compare the results with those of uninterrupted ones."""

    kills: int = 500
    """How many kills in all."""
    kills_per_run: int = 10
    """How often one run is killed before it is left to finish."""
    cases: tuple[str, ...] = tuple(CASES)
    """Kinds of runs."""
    jobs: int = 2
    """Runs at the same time."""
    seed: int = 0
    """Of the moments and signals."""
    out: Path = Path("benchmarks/results")
    """Folder for chaos.json."""


@dataclasses.dataclass
class Kill:
    """A kill: how, at which moment, and what the process answered."""

    case: str
    moment: str
    signal: str
    updates: int
    exit_code: int
    seconds_to_end: float


@dataclasses.dataclass
class Campaign:
    """A run that was killed again and again: its kills, and what was wrong at last."""

    case: str
    kills: list[Kill]
    wrong: str | None


def command(case: str, out: Path, *more: str) -> list[str]:
    """The command line of a case."""
    return [
        *(sys.executable, "-m", "ppo_jax.train", *_SMALL, *CASES[case]),
        *("--out", str(out), *more),
    ]


def start(case: str, out: Path) -> subprocess.Popen[str]:
    """The case's run, begun or gone on with."""
    return subprocess.Popen(
        command(case, out, "--resume", "auto"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def uninterrupted(case: str, out: Path) -> dict[str, Any]:
    """What the case leaves when nobody kills it."""
    subprocess.run(command(case, out), check=True, timeout=_PATIENCE, stdout=subprocess.DEVNULL)
    return fingerprint(out)


def campaign(case: str, kills: int, expected: dict[str, Any], seed: int) -> Campaign:
    """Kill a run so many times, let it finish, and compare."""
    draw = random.Random(f"{case} {seed}")
    done = Campaign(case, [], None)
    with tempfile.TemporaryDirectory() as parent:
        out = Path(parent, "run")
        for _ in range(kills):
            process = start(case, out)
            moment = draw.choice(_MOMENTS)
            _wait_for(moment, process, out, draw)
            kill = _kill(case, moment, process, out, draw.choice(_KINDS))
            if kill is None:  # it had finished, or failed
                break
            done.kills.append(kill)
            done.wrong = _wrong_end(kill, process)
            if done.wrong:
                return done
        done.wrong = _finish(case, out, expected)
    return done


def _wait_for(moment: str, process: subprocess.Popen[str], out: Path, draw: random.Random) -> None:
    """Wait for the moment, and a random while more."""
    if moment == "starting":
        time.sleep(draw.uniform(0.0, 4.0))
        return
    before = rows(out)
    if _wait(lambda: rows(out) != before, process):
        if moment == "training":
            time.sleep(draw.uniform(0.0, 1.0))
        else:
            for _ in range(draw.randint(1, 4)):  # not always the first one
                _wait(lambda: not _saving(out), process)
                _wait(lambda: _saving(out), process)
            time.sleep(draw.uniform(0.0, 0.05))


def _saving(out: Path) -> bool:
    return any((out / folder.CHECKPOINTS).glob("*tmp*"))


def _wait(until: Callable[[], bool], process: subprocess.Popen[str]) -> bool:
    """Wait until something holds; False where the process ends first."""
    deadline = time.monotonic() + _PATIENCE
    while not until():
        if process.poll() is not None:
            return False
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError("the run does not go on")
        time.sleep(0.002)
    return True


def _kill(
    case: str, moment: str, process: subprocess.Popen[str], out: Path, number: signal.Signals
) -> Kill | None:
    if process.poll() is not None:
        return None
    saving = _saving(out)
    process.send_signal(number)
    sent = time.monotonic()
    code = process.wait(_PATIENCE)
    if code == 0:  # it was past the end of its training
        return None
    moment = "saving" if saving else moment
    return Kill(case, moment, number.name, rows(out), code, time.monotonic() - sent)


def _wrong_end(kill: Kill, process: subprocess.Popen[str]) -> str | None:
    """What was wrong with the way the process ended, if anything."""
    number = signal.Signals[kill.signal]
    if kill.exit_code in (-number, 128 + number):
        return None
    assert process.stderr
    return f"{kill} ended with {kill.exit_code}: {process.stderr.read()}"


def _finish(case: str, out: Path, expected: dict[str, Any]) -> str | None:
    """Let the run finish; what is not as expected, if anything."""
    process = start(case, out)
    _, errors = process.communicate(timeout=_PATIENCE)
    if process.returncode:
        return f"the resumed run ended with {process.returncode}: {errors}"
    left = fingerprint(out)
    others = [name for name in expected if left.get(name) != expected[name]]
    return f"{', '.join(others)} differ from an uninterrupted run's" if others else None


def run(options: Options, console: Console) -> list[Campaign]:
    """All campaigns, several at a time."""
    with tempfile.TemporaryDirectory() as parent:
        expected = {}
        for index, case in enumerate(options.cases):
            expected[case] = uninterrupted(case, Path(parent, str(index)))
            console.print(f"uninterrupted: {case}")
    campaigns: list[Campaign] = []
    numbers = itertools.count(options.seed)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        running: set[concurrent.futures.Future[Campaign]] = set()
        while True:
            killed = sum(len(one.kills) for one in campaigns)
            wanted = options.kills - killed - options.kills_per_run * len(running)
            while wanted > 0 and len(running) < options.jobs:
                number = next(numbers)
                case = options.cases[number % len(options.cases)]
                kills = min(wanted, options.kills_per_run)
                running.add(pool.submit(campaign, case, kills, expected[case], number))
                wanted -= kills
            if not running:
                return campaigns
            ended, running = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for one in (future.result() for future in ended):
                campaigns.append(one)
                killed = sum(len(each.kills) for each in campaigns)
                said = one.wrong or "all equal"
                console.print(f"{killed} kills; {len(one.kills)} of {one.case}: {said}")


def summarize(campaigns: list[Campaign]) -> dict[str, Any]:
    """The campaigns in numbers."""
    kills = [kill for one in campaigns for kill in one.kills]
    asked = [kill for kill in kills if kill.signal != "SIGKILL" and kill.exit_code > 0]
    return {
        "kills": len(kills),
        "runs": len(campaigns),
        "runs_that_differ_or_are_lost": sum(one.wrong is not None for one in campaigns),
        "wrong": [f"{one.case}: {one.wrong}" for one in campaigns if one.wrong],
        "kills_by_moment": dict(Counter(kill.moment for kill in kills)),
        "kills_by_signal": dict(Counter(kill.signal for kill in kills)),
        "kills_by_case": dict(Counter(kill.case for kill in kills)),
        "seconds_to_end_after_a_signal": {
            "median": sorted(kill.seconds_to_end for kill in asked)[len(asked) // 2],
            "largest": max(kill.seconds_to_end for kill in asked),
        }
        if asked
        else None,
    }


def main(options: Options) -> int:
    """Run the campaigns, print and keep what came out; 1 where a run was lost or differs."""
    console = Console()
    unknown = set(options.cases) - set(CASES)
    if unknown:
        console.print(f"unknown: {', '.join(unknown)}; there are: {', '.join(CASES)}")
        return 2
    began = time.perf_counter()
    campaigns = run(options, console)
    result = {
        "command": f"python -m benchmarks.chaos --kills {options.kills} --seed {options.seed}",
        **summarize(campaigns),
        "seconds": time.perf_counter() - began,
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "kill_by_kill": [
            dataclasses.asdict(kill) | {"seconds_to_end": round(kill.seconds_to_end, 3)}
            for one in campaigns
            for kill in one.kills
        ],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "chaos.json").write_text(json.dumps(result, indent=1) + "\n")
    table = Table("moment", *(kind.name for kind in dict.fromkeys(_KINDS)))
    count = Counter((kill.moment, kill.signal) for one in campaigns for kill in one.kills)
    for moment in _MOMENTS:
        table.add_row(moment, *(str(count[moment, kind.name]) for kind in dict.fromkeys(_KINDS)))
    console.print(table)
    console.print(
        f"{result['kills']} kills of {result['runs']} runs in {result['seconds']:.0f} s:"
        f" {result['runs_that_differ_or_are_lost']} lost or different"
    )
    return int(bool(result["wrong"]))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m benchmarks.chaos")))
