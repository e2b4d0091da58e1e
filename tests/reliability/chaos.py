"""python -m tests.reliability.chaos: kill real runs, resume them, and compare what they leave.

Each run is the command in a process of its own. It is killed at a random moment, while it starts,
trains or saves a checkpoint, by SIGKILL, SIGTERM or SIGINT; resumed by `--resume auto` and killed
again; at last it is left to finish. Then everything it left must be, to the bit, what an
uninterrupted run leaves. Its processes are forked where the libraries are imported already, which
halves the time of a start; `--fresh` starts `python -m ppo_jax.train` anew each time.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from ppo_jax.run.storage import folder
from tests.helpers.setting import describe_setting
from tests.reliability.fingerprint import fingerprint, rows

_MODULE = "tests.reliability.chaos"
_SMALL = (
    *("--num-envs", "4", "--num-steps", "16", "--hidden-sizes", "8", "--num-updates", "1200"),
    *("--checkpoint-every", "40", "--quiet"),
)
CASES = {
    "one agent": (),
    "three seeds": ("--num-seeds", "3"),
    "groups": ("--num-seeds", "5", "--group-size", "2", "--num-updates", "400"),
    "sweep, no curves": ("--sweep", "learning_rate=1e-3,3e-3", "--no-curves"),
    "evolution": ("--num-seeds", "4", "--evolve", "learning_rate=log:1e-4:1e-2"),
    "evaluations": ("--num-seeds", "2", "--evaluate-every", "50", "--num-updates", "600"),
    "whole episodes": (
        *("--recipe", "notebook", "--hidden-sizes", "8", "--num-envs", "1", "--num-steps", "None"),
        *("--min-transitions", "32"),
    ),
}
_KINDS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_MOMENTS = ("starting", "training", "saving")
_PATIENCE = 300.0  # seconds, for anything at all
_LIBRARIES = (  # all that a run imports, but for gymnax itself, which starts jax's threads
    *("ppo_jax.train", "ppo_jax.run.pipeline", "ppo_jax.run.xla", "tensorboardX"),
    *("orbax.checkpoint", "matplotlib.figure", "flax"),
)
_FORKED = multiprocessing.get_context("forkserver")


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
    fresh: bool = False
    """Start a new interpreter for every run, not only for the uninterrupted ones."""
    seed: int = 0
    """Of the moments and signals."""
    out: Path = Path("tests/reliability/results")
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

    def __str__(self) -> str:
        return (
            f"{self.case}; {self.moment}; {self.signal}; {self.updates} updates; exit code"
            f" {self.exit_code} after {self.seconds_to_end:.3f} s"
        )


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


class Run:
    """The case's run, begun or gone on with, in a process of its own."""

    def __init__(self, case: str, out: Path, fresh: bool):
        line, self._errors = command(case, out, "--resume", "auto"), out.with_suffix(".errors")
        if fresh:
            with open(self._errors, "w") as errors:
                process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=errors)
            self.pid, self.ended = process.pid, process.poll
        else:
            forked = _FORKED.Process(target=_train, args=(line[3:], self._errors))
            forked.start()
            assert forked.pid
            self.pid, self.ended = forked.pid, lambda: forked.exitcode

    def errors(self) -> str:
        """What it has said on standard error."""
        return self._errors.read_text()

    def wait(self, until: Callable[[], bool] = lambda: False) -> int | None:
        """Wait until something holds, or the process ends: then its exit code."""
        deadline = time.monotonic() + _PATIENCE
        while not until():
            if self.ended() is not None:
                return self.ended()
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError("the run does not go on")
            time.sleep(0.005)
        return None


def _train(arguments: list[str], errors: Path) -> None:
    """What `python -m ppo_jax.train` does, in a process that has imported its libraries."""
    from ppo_jax.run.errors import run_command

    with open(errors, "w", buffering=1) as sys.stderr:
        sys.exit(run_command(_command, arguments))  # a signal may come before the command begins


def _command(arguments: list[str]) -> None:
    """The command, with the flags that it sets itself where jax is not imported yet."""
    from ppo_jax.cli import flags, train
    from ppo_jax.run import xla

    os.environ["XLA_FLAGS"] = xla.flags(flags.read(arguments, "train").agents_at_once)
    train.main(arguments)


def uninterrupted(case: str, out: Path) -> dict[str, Any]:
    """What the case leaves when nobody kills it."""
    subprocess.run(command(case, out), check=True, timeout=_PATIENCE, stdout=subprocess.DEVNULL)
    return fingerprint(out)


def campaign(case: str, kills: int, expected: dict[str, Any], seed: int, fresh: bool) -> Campaign:
    """Kill a run so many times, let it finish, and compare."""
    draw = random.Random(f"{case} {seed}")
    done = Campaign(case, [], None)
    with tempfile.TemporaryDirectory() as parent:
        out = Path(parent, "run")
        for _ in range(kills):
            run = Run(case, out, fresh)
            moment = draw.choice(_MOMENTS)
            _wait_for(moment, run, out, draw)
            kill = _kill(case, moment, run, out, draw.choice(_KINDS))
            if kill is None:  # it had finished, or failed
                break
            done.kills.append(kill)
            if _ended_wrong(kill):
                done.wrong = f"{kill} ended with {kill.exit_code}: {run.errors()}"
                return done
        done.wrong = _finish(Run(case, out, fresh), out, expected)
    return done


def _wait_for(moment: str, run: Run, out: Path, draw: random.Random) -> None:
    """Wait for the moment, and a random while more."""
    if moment == "starting":
        time.sleep(draw.uniform(0.1, 3.0))
        return
    before = rows(out)
    if run.wait(lambda: rows(out) != before) is not None:
        return
    if moment == "training":
        time.sleep(draw.uniform(0.0, 1.0))
        return
    for _ in range(draw.randint(1, 4)):  # not always the first one
        run.wait(lambda: not _saving(out))
        run.wait(lambda: _saving(out))
    time.sleep(draw.uniform(0.0, 0.05))


def _saving(out: Path) -> bool:
    return any((out / folder.CHECKPOINTS).glob("*tmp*"))


def _kill(case: str, moment: str, run: Run, out: Path, number: signal.Signals) -> Kill | None:
    if run.ended() is not None:
        return None
    saving = _saving(out)
    os.kill(run.pid, number)
    sent = time.monotonic()
    code = run.wait()
    assert code is not None
    if code == 0:  # it was past the end of its training
        return None
    moment = "saving" if saving else moment
    return Kill(case, moment, number.name, rows(out), code, time.monotonic() - sent)


def _ended_wrong(kill: Kill) -> bool:
    number = signal.Signals[kill.signal]
    return kill.exit_code not in (-number, 128 + number)


def _finish(run: Run, out: Path, expected: dict[str, Any]) -> str | None:
    """Let the run finish; what is not as expected, if anything."""
    code = run.wait()
    if code:
        return f"the resumed run ended with {code}: {run.errors()}"
    left = fingerprint(out)
    others = [name for name in expected if left.get(name) != expected[name]]
    return f"{', '.join(others)} differ from an uninterrupted run's" if others else None


def run(options: Options, console: Console) -> Iterator[Campaign]:
    """All campaigns, several at a time, each as it ends."""
    with tempfile.TemporaryDirectory() as parent:
        expected = {}
        for index, case in enumerate(options.cases):
            expected[case] = uninterrupted(case, Path(parent, str(index)))
            console.print(f"uninterrupted: {case}")
    _FORKED.set_forkserver_preload(list(_LIBRARIES))
    numbers, killed = itertools.count(options.seed), 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        running: set[concurrent.futures.Future[Campaign]] = set()
        while True:
            wanted = options.kills - killed - options.kills_per_run * len(running)
            while wanted > 0 and len(running) < options.jobs:
                number = next(numbers)
                case = options.cases[number % len(options.cases)]
                kills = min(wanted, options.kills_per_run)
                running.add(
                    pool.submit(campaign, case, kills, expected[case], number, options.fresh)
                )
                wanted -= kills
            if not running:
                return
            ended, running = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for one in (future.result() for future in ended):
                killed += len(one.kills)
                said = one.wrong or "all equal"
                console.print(f"{killed} kills; {len(one.kills)} of {one.case}: {said}")
                yield one


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
    # A shell's background job ignores SIGINT, and so would the runs.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began, setting = time.perf_counter(), describe_setting(_MODULE, "orbax-checkpoint")
    campaigns: list[Campaign] = []
    result = {"setting": setting, **summarize(campaigns)}
    options.out.mkdir(parents=True, exist_ok=True)
    for one in run(options, console):
        campaigns.append(one)
        result = {
            "setting": setting,
            **summarize(campaigns),
            "seconds": time.perf_counter() - began,
            "kill_by_kill": [str(kill) for each in campaigns for kill in each.kills],
        }
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
    return int(bool(result["wrong"]) or result["kills"] < options.kills)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog=f"python -m {_MODULE}")))
