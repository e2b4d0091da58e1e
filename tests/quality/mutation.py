"""python -m tests.quality.mutation: how many small faults in the core's modules the tests see.

cosmic-ray makes the mutants: operators, numbers, comparisons and conditions, one changed at a time;
and, as the core is calls more than operators, calls that are left out and extremes that are swapped
(below). Annotations, docstrings and messages are not mutated. Each mutant is a change to a copy of
the project, on which the tests that mutation.toml names for the module run until one fails.
Programs that XLA compiled are shared between mutants: they are found by their content, so a mutant
never gets another's.

    pip install cosmic-ray
    python -m tests.quality.mutation

An interrupted run goes on where it stopped, and --seconds bounds one part of it; --retry tries the
survivors again, which is for new tests. The branches that the tests reach are another command's:

    pip install coverage
    coverage run -m pytest && coverage report
"""

import ast
import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import warnings
from importlib import metadata
from pathlib import Path

import parso
import tyro
from cosmic_ray import plugins
from cosmic_ray.commands import init
from cosmic_ray.mutating import mutate_and_test, mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult
from rich.console import Console
from rich.table import Table

from tests.quality.planted_bugs import located
from tests.quality.planted_bugs_changes import ROOT

SETTINGS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
TESTS = {
    module: [[located(test) for test in stage] for stage in stages]
    for module, stages in SETTINGS["tests"].items()
}
PYTEST = "-m pytest -o addopts= -m 'not slow' -x -q -p no:cacheprovider"


@dataclasses.dataclass(frozen=True)
class Options:
    """Mutate the core, count the mutants that the tests kill, write mutation.json."""

    modules: tuple[str, ...] = tuple(TESTS)
    """Modules of ppo_jax."""
    workers: int = 2
    """Mutants tested at once."""
    seconds: float | None = None
    """Start no mutant after so long (none: finish); the same command goes on."""
    retry: bool = False
    """Test the survivors of an earlier run again."""
    work: Path = Path(tempfile.gettempdir()) / "ppo_jax_mutation"
    """Folder for what is done so far and for compiled programs."""
    out: Path = Path("tests/quality/mutation.json")
    """File to write."""


# What cosmic-ray does not mutate ------------------------------------------------------------------


class DropCall(Operator):
    """f(x, ...) becomes x, and where x is a value of the module's own x.f(...) becomes x."""

    def mutation_positions(self, node):
        if node.type in ("atom_expr", "power") and _kept(node) is not None:
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        replacement = parso.parse(f"({_kept(node)})").children[0]
        replacement.get_first_leaf().prefix = node.get_first_leaf().prefix
        return replacement

    @classmethod
    def examples(cls):
        return ()


def _kept(call) -> str | None:
    """The code that a call leaves when it is dropped, None if that makes no sense."""
    *function, arguments = call.children
    if arguments.type != "trailer" or arguments.children[0] != "(":
        return None
    method = len(function) > 1 and function[-1].children[0] == "."
    imported = {
        name.value
        for statement in call.get_root_node().iter_imports()
        for name in statement.get_defined_names()
    }
    if method and function[0].type == "name" and function[0].value not in imported:
        return "".join(child.get_code() for child in function[:-1]).strip()
    if len(arguments.children) < 3:
        return None
    inside = arguments.children[1]
    first = inside.children[0] if inside.type == "arglist" else inside
    return None if first.type == "argument" else first.get_code().strip()


_SWAP = {"minimum": "maximum", "maximum": "minimum"}


class SwapExtremes(Operator):
    """minimum becomes maximum, and the other way round."""

    def mutation_positions(self, node):
        if node.type == "name" and node.value in _SWAP and node.parent.type == "trailer":
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        node.value = _SWAP[node.value]
        return node

    @classmethod
    def examples(cls):
        return ()


plugins.OPERATOR_PROVIDERS["own"] = {"DropCall": DropCall, "SwapExtremes": SwapExtremes}


# Mutants ------------------------------------------------------------------------------------------


def is_annotation(tree, position: tuple[int, int]) -> bool:
    """Whether what stands there is read by type checkers only."""
    node = tree.get_leaf_for_position(position, include_prefixes=True)
    while node.parent is not None:
        parent = node.parent
        if (
            (parent.type == "tfpdef" and node is parent.children[-1])
            or (parent.type == "annassign" and node is parent.children[1])
            or (parent.type == "funcdef" and node is parent.annotation)
        ):
            return True
        node = parent
    return False


def is_python(source: str) -> bool:
    """Whether it can be read as Python at all."""
    with warnings.catch_warnings(action="ignore"):  # of comparisons by `is`
        try:
            ast.parse(source)
        except SyntaxError:
            return False
    return True


def prepare(db: WorkDB, module: str) -> None:
    """Make the module's mutants, and skip those that do not count."""
    path = f"ppo_jax/{module}.py"
    init([Path(path)], db, {})
    source = (ROOT / path).read_text()
    tree = parso.parse(source)
    excluded = re.compile("|".join(SETTINGS["exclude-operators"]))

    def counts(mutation: MutationSpec) -> bool:
        if excluded.search(mutation.operator_name) or is_annotation(tree, mutation.start_pos):
            return False
        operator = plugins.get_operator(mutation.operator_name)()
        return is_python(mutate_code(source, operator, mutation.occurrence))

    jobs = [item.job_id for item in db.work_items if not counts(item.mutations[0])]
    db.set_multiple_results(jobs, WorkResult(WorkerOutcome.SKIPPED))


def sample(db: WorkDB, module: str) -> tuple[list[tuple[WorkItem, WorkResult | None]], int]:
    """The mutants drawn, each with its result (None: not yet), and of how many."""

    def place(item: WorkItem):
        return item.mutations[0].operator_name, item.mutations[0].occurrence

    results = dict(db.results)
    items = [
        (item, results.get(item.job_id))
        for item in sorted(db.work_items, key=place)
        if item.job_id not in results
        or results[item.job_id].worker_outcome != WorkerOutcome.SKIPPED
    ]
    random.Random(SETTINGS["seed"]).shuffle(items)
    return items[: SETTINGS["sample"][module]], len(items)


def session(options: Options, module: str) -> Path:
    """Where the module's mutants and results are kept; another source has another file."""
    content = (ROOT / f"ppo_jax/{module}.py").read_bytes()
    content += repr(SETTINGS["exclude-operators"]).encode()
    return options.work / f"{module}-{hashlib.sha256(content).hexdigest()[:10]}.sqlite"


def passed(session: Path, module: str) -> Path:
    """The file that says that the module as it is passes these tests as they are."""
    tests = TESTS[module]
    files = sorted({name.split("::")[0] for stage in tests for name in stage})
    content = repr(tests).encode() + b"".join((ROOT / file).read_bytes() for file in files)
    return session.with_suffix(f".{hashlib.sha256(content).hexdigest()[:10]}.passed")


def start_worker(work: Path) -> None:
    """In a copy of the project, from which alone its tests import."""
    copy = Path(tempfile.mkdtemp(dir=work, prefix="copy"))
    for folder in ("ppo_jax", "tests"):
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.json")
        )
    shutil.copy(ROOT / "pyproject.toml", copy)
    os.chdir(copy)
    os.environ |= {
        "PYTHONPATH": str(copy),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # of other packages, which take a second
        "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    imported = "import ppo_jax; assert ppo_jax.__file__.startswith(__import__('os').getcwd())"
    subprocess.run([sys.executable, "-c", imported], check=True)


def commands(module: str) -> list[str]:
    """The test commands for a module's mutants, each for what survives the one before."""
    python = shlex.quote(sys.executable)
    return [f"{python} {PYTEST} {shlex.join(tests)}" for tests in TESTS[module]]


def judge(module: str, item: WorkItem | None) -> tuple[WorkResult, float]:
    """What the tests say of a mutant, and the seconds they took; None: of the module as it is."""
    start = time.monotonic()
    for command in commands(module):
        mutations = item.mutations if item else ()
        result = mutate_and_test(mutations, command, SETTINGS["timeout"])
        if result.test_outcome != TestOutcome.SURVIVED and item:
            break
        assert result.test_outcome == TestOutcome.SURVIVED, f"{command}\n{result.output}"
    return result, time.monotonic() - start


def run(options: Options, sessions: dict[str, Path]) -> None:
    """Judge every mutant that is not yet judged, or until the time is over."""
    end = time.monotonic() + (options.seconds or float("inf"))
    waiting: list[tuple[str, WorkItem | None]] = []
    for module, path in sessions.items():
        if not path.exists():
            with use_db(path) as db:
                prepare(db, module)
        with use_db(path) as db:
            items = [
                item
                for item, result in sample(db, module)[0]
                if result is None
                or (options.retry and not result.is_killed and not why(module, result.diff))
            ]
        unproven = items and not passed(path, module).exists()
        waiting += [(module, None)] * bool(unproven) + [(module, item) for item in items]
    waiting.reverse()
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        options.workers, context, start_worker, (options.work,)
    ) as pool:
        running: dict[concurrent.futures.Future, tuple[str, WorkItem | None]] = {}
        while running or (waiting and time.monotonic() < end):
            while waiting and len(running) < options.workers and time.monotonic() < end:
                job = waiting.pop()
                running[pool.submit(judge, *job)] = job
            done = concurrent.futures.wait(running, return_when="FIRST_COMPLETED").done
            for future in done:
                module, item = running.pop(future)
                result, seconds = future.result()
                if item is None:
                    passed(sessions[module], module).touch()
                    print(f"{module} as it is: passed in {seconds:.0f} s", flush=True)
                    continue
                with use_db(sessions[module]) as db:
                    db.set_result(item.job_id, result)
                print(
                    f"{module} {result.test_outcome.value} {seconds:.0f} s, {len(waiting)} to go",
                    flush=True,
                )
    for copy in options.work.glob("copy*"):
        shutil.rmtree(copy)


# The account --------------------------------------------------------------------------------------


def changed_lines(diff: str) -> list[str]:
    """A diff's lines with - and +, bare of the rest."""
    lines = [line for line in diff.splitlines() if re.match(r"[-+](?![-+]{2})", line)]
    return [f"{line[0]} {line[1:].strip()}" for line in lines]


def why(module: str, diff: str) -> str | None:
    """Why a mutant is no fault, where that is known."""
    lines = changed_lines(diff)
    before, after = (" ".join(line[2:] for line in lines if line[0] == sign) for sign in ("-", "+"))
    for known in SETTINGS["equivalent"]:
        if (known["module"], known["from"], known["to"]) == (module, before, after):
            return known["why"]
    return None


def account(module: str, path: Path) -> dict:
    """A module's row."""
    with use_db(path) as db:
        mutants, possible = sample(db, module)
    drawn = [result for _, result in mutants if result]
    broken = [result.output for result in drawn if result.test_outcome == TestOutcome.INCOMPETENT]
    assert not broken, broken[0]
    timeouts = sum(result.output == "timeout" for result in drawn)
    killed = sum(result.is_killed for result in drawn) - timeouts
    survivors = [
        {"diff": changed_lines(result.diff), "explanation": why(module, result.diff)}
        for result in drawn
        if not result.is_killed
    ]
    return {
        "module": f"ppo_jax/{module}.py",
        "possible": possible,
        "mutants": len(drawn),
        "not_yet_judged": len(mutants) - len(drawn),
        "killed": killed,
        "timeouts": timeouts,
        "survived": len(survivors),
        "score": round((killed + timeouts) / max(len(drawn), 1), 4),
        "survivors": sorted(survivors, key=lambda survivor: survivor["diff"]),
        "tests": [shlex.join(["python", *shlex.split(line)[1:]]) for line in commands(module)],
    }


def main(options: Options) -> None:
    """Run, print the table, write the data."""
    options.work.mkdir(parents=True, exist_ok=True)
    sessions = {module: session(options, module) for module in options.modules}
    os.chdir(ROOT)
    run(options, sessions)
    rows = [account(module, path) for module, path in sessions.items() if path.exists()]
    table = Table(
        "module", "mutants", "of", "killed", "timeouts", "survived", "unexplained", "score"
    )
    for row in rows:
        unexplained = sum(survivor["explanation"] is None for survivor in row["survivors"])
        columns = [row[name] for name in ("mutants", "possible", "killed", "timeouts", "survived")]
        table.add_row(row["module"], *map(str, [*columns, unexplained]), f"{row['score']:.1%}")
    Console(width=100).print(table)
    versions = {name: metadata.version(name) for name in ("cosmic-ray", "pytest", "jax", "jaxlib")}
    content = {
        "command": "python -m tests.quality.mutation",
        "python": ".".join(map(str, sys.version_info[:3])),
        "versions": versions,
        "sampling": f"{SETTINGS['sample']} mutants of the possible, by seed {SETTINGS['seed']}",
        "timeout_seconds": SETTINGS["timeout"],
        "rows": rows,
    }
    options.out.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Options))
