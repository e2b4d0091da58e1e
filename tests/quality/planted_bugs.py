"""python -m tests.quality.planted_bugs: do the tests notice the bugs that PPO is known for?

Plants one bug at a time in a copy of the package, and asks of the tests named beside it that one
of them fails: by an assertion, for a program that breaks would say so by itself. Before that all of
them must pass on a copy without a bug. Exits with 1 if a bug survived.
"""

import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from tests.quality.planted_bugs_changes import ROOT, file_of, planted
from tests.quality.planted_bugs_table import BUGS, Bug


@dataclasses.dataclass(frozen=True)
class Options:
    """Plant bugs one at a time, and show that the tests catch each."""

    only: tuple[str, ...] = ()
    """Names of the bugs to plant (none given: all)."""
    jobs: int = 1
    """Bugs tested at the same time."""
    out: Path = Path("tests/quality/planted_bugs.json")
    """File for the results."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What pytest made of a copy."""

    code: int
    failed: str | None
    """The first test that failed by an assertion."""
    seconds: float
    """By pytest's own count: imports and compilation, but not the start of Python."""
    last_lines: str

    @property
    def caught(self) -> bool:
        """Whether a test failed; an error in collecting, say, is another exit code."""
        return self.code == 1 and self.failed is not None


# Planting them, and looking -----------------------------------------------------------------------


def try_out(bug: Bug) -> Outcome:
    """The bug's test, with the bug."""
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        file = Path(folder) / file_of(bug.place).relative_to(ROOT)
        file.write_text(planted(bug.place, bug.change))
        return run(Path(folder), [bug.test])


def try_out_nothing(bugs: Iterable[Bug]) -> Outcome:
    """The tests of all the bugs, without any."""
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        return run(Path(folder), dict.fromkeys(bug.test for bug in bugs))


def located(test: str) -> str:
    """What pytest calls a `test_file.py`, a `test_name[parameters]` or a `test_file.py::test_name`
    that is somewhere among the tests, once."""
    file_name, _, node = (test + "::" if test.endswith(".py") else test).rpartition("::")
    head = re.compile(rf"^def {node.partition('[')[0]}\(", re.MULTILINE)
    found = [
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "tests").rglob(file_name or "test_*.py")
        if not node or head.search(file.read_text())
    ]
    if len(found) != 1:
        raise LookupError(f"{test} is in {', '.join(found) or 'no file'}: not in one")
    return f"{found[0]}::{node}" if node else found[0]


def copy(folder: Path) -> None:
    """Copy the package, its tests, and their settings."""
    for name in ("ppo_jax", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


# The package may be installed from elsewhere: what is tested must be the copy. Pytest itself never
# exits with 99.
PYTEST = """
import pathlib, sys, ppo_jax, pytest
if pathlib.Path.cwd() not in pathlib.Path(ppo_jax.__file__).resolve().parents:
    print(f"{ppo_jax.__file__} was imported, which is not the copy")
    sys.exit(99)
sys.exit(pytest.main(sys.argv[1:]))
"""
FAILED = re.compile(r"^FAILED (.*?) - (?:AssertionError|assert )", re.MULTILINE)
SECONDS = re.compile(r" in ([\d.]+)s", re.MULTILINE)


def run(folder: Path, tests: Iterable[str]) -> Outcome:
    """Run tests of the folder's copy, in a process of their own, up to the first that fails."""
    # One process, whatever pyproject.toml has `pytest` start: the tests are few.
    arguments = ["-o", "addopts=", "-x", "-q", "-p", "no:cacheprovider", *map(located, tests)]
    result = subprocess.run(
        [sys.executable, "-c", PYTEST, *arguments],
        cwd=folder,
        # Wide lines: pytest cuts the reasons of its summary to the terminal's width.
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        check=False,
    )
    failed, seconds = FAILED.search(result.stdout), SECONDS.findall(result.stdout)
    return Outcome(
        result.returncode,
        failed[1] if failed else None,
        float(seconds[-1]) if seconds else 0.0,
        "\n".join((result.stdout + result.stderr).strip().splitlines()[-12:]),
    )


# What it came to ----------------------------------------------------------------------------------


def chosen(options: Options) -> list[Bug]:
    """The bugs to plant, every one of which can be."""
    names = [bug.name for bug in BUGS]
    assert len(set(names)) == len(names), "two bugs have one name"
    if unknown := set(options.only) - set(names):
        raise SystemExit(f"no bug {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    bugs = [bug for bug in BUGS if not options.only or bug.name in options.only]
    for bug in bugs:
        try:
            planted(bug.place, bug.change)
        except LookupError as error:
            raise SystemExit(f"{bug.name}: {error}") from None
    return bugs


def report(bugs: list[Bug], outcomes: list[Outcome], console: Console) -> None:
    """Print what became of every bug, and more of those that no assertion caught."""
    table = Table("bug", "caught by", "seconds")
    for bug, outcome in zip(bugs, outcomes, strict=True):
        said = Text(str(outcome.failed)) if outcome.caught else Text("nothing", "bold red")
        table.add_row(bug.name, said, f"{outcome.seconds:.1f}")
    console.print(table)
    for bug, outcome in zip(bugs, outcomes, strict=True):
        if not outcome.caught:
            console.print(f"{bug.name}: pytest ended with {outcome.code}")
            console.print(outcome.last_lines, markup=False)


def record(bugs: list[Bug], outcomes: list[Outcome]) -> dict[str, object]:
    """The results, and what they were had with."""
    return {
        "command": " ".join(["python -m tests.quality.planted_bugs", *sys.argv[1:]]),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("jax", "numpy", "pytest")},
        "caught": sum(outcome.caught for outcome in outcomes),
        "planted": len(bugs),
        "seconds": total_seconds(outcomes),
        "bugs": [
            {
                "name": bug.name,
                "what": bug.what,
                "place": bug.place,
                "caught": outcome.caught,
                "test": outcome.failed if outcome.caught else None,
                "seconds": outcome.seconds,
            }
            for bug, outcome in zip(bugs, outcomes, strict=True)
        ],
    }


def total_seconds(outcomes: list[Outcome]) -> float:
    """Pytest's, of all the bugs: not what a process waited for on a busy machine."""
    return round(sum(outcome.seconds for outcome in outcomes), 1)


def main(options: Options) -> int:
    """Plant, test, print the table, write the data; 1 if a bug survived."""
    console = Console(width=150)
    bugs = chosen(options)
    sound = try_out_nothing(bugs)
    if sound.code != 0:
        console.print("the tests fail without a bug:")
        console.print(sound.last_lines, markup=False)
        return 1
    with ThreadPoolExecutor(options.jobs) as pool:
        watched = partial(track, total=len(bugs), console=console, description="planting")
        outcomes = list(watched(pool.map(try_out, bugs)))
    report(bugs, outcomes, console)
    caught = sum(outcome.caught for outcome in outcomes)
    console.print(f"{caught} of {len(bugs)} bugs caught, {total_seconds(outcomes):.0f} s")
    options.out.write_text(json.dumps(record(bugs, outcomes), indent=2) + "\n")
    return int(caught < len(bugs))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
