"""Every planted bug can still be planted, and the tests that must catch it exist."""

import ast
import subprocess
import sys

import pytest

from tests.quality.planted_bugs import located
from tests.quality.planted_bugs_changes import (
    ROOT,
    argument,
    changed,
    file_of,
    first,
    planted,
    replace,
    value,
)
from tests.quality.planted_bugs_table import BUGS


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_can_be_planted(bug):
    compile(planted(bug.place, bug.change), file_of(bug.place), "exec")


def test_no_two_bugs_have_one_name_or_make_one_change():
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert len({planted(bug.place, bug.change) for bug in BUGS}) == len(BUGS)


def test_a_test_that_must_catch_a_bug_is_one_of_the_tests():
    for bug in BUGS:
        assert located(bug.test)


@pytest.mark.slow  # it imports nearly every test
def test_the_tests_that_must_catch_bugs_exist_with_their_parameters():
    tests = sorted({located(bug.test) for bug in BUGS})
    options = ["-o", "addopts=", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", *options, *tests],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_test_is_found_by_its_name_wherever_it_stands():
    here = "tests/quality/test_planted_bugs.py"
    name = "test_a_test_is_found_by_its_name_wherever_it_stands"
    assert located("test_planted_bugs.py") == here
    assert located(f"{name}[any]") == f"{here}::{name}[any]"
    assert located(f"test_planted_bugs.py::{name}") == f"{here}::{name}"
    with pytest.raises(LookupError, match="in no file"):
        located("test_that_nobody_wrote")
    with pytest.raises(LookupError, match=r"__init__\.py, .*: not in one"):
        located("__init__.py")


# What finds the place of a change -----------------------------------------------------------------

SOURCE = '''
import math

class Ball:
    def volume(self, radius):
        """4/3 π r³."""
        def cube(side):
            return math.pow(side, 3)
        total = 4 / 3 * math.pi * cube(radius)
        return total
'''


@pytest.mark.parametrize(
    ("path", "change", "old", "new"),
    [
        ("Ball.volume", replace("4 / 3", "3 / OLD"), "4 / 3", "3 / (4 / 3)"),
        (
            "Ball.volume.total",
            value("OLD + OLD"),
            "4 / 3",
            "4 / 3 * math.pi * cube(radius) + 4 / 3",
        ),
        ("Ball.volume.cube", argument("pow", 1, "OLD - 1"), "side, 3", "side, 3 - 1"),
        ("Ball.volume", first("radius = 0"), "def cube", "radius = 0\n        def cube"),
    ],
    ids=["expression", "variable", "argument", "statement"],
)
def test_a_change_is_made_where_it_says_and_nowhere_else(path, change, old, new):
    assert SOURCE.count(old) == 1
    assert changed(SOURCE, path, change) == ast.unparse(ast.parse(SOURCE.replace(old, new)))


def test_a_change_does_not_mind_how_the_source_is_written():
    rewritten = SOURCE.replace("4 / 3", "( 4/3 )").replace(
        "class", "MINE = 1  # of a ball\n\nclass"
    )
    assert len(rewritten) > len(SOURCE)
    change = replace("4 / 3", "1")
    made = changed(rewritten, "Ball.volume", change).replace("MINE = 1\n", "")
    assert made == changed(SOURCE, "Ball.volume", change)


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        ("Ball.area", value("0"), "Ball.area: `area` is there 0 times, not once"),
        ("Ball.volume", replace("radius + 1", "0"), "`radius \\+ 1` is there 0 times"),
        ("Ball.volume", replace("math", "cmath"), "`math` is there 2 times"),
        ("Ball.volume", value("0"), "a value is there 0 times"),
        ("Ball.volume", argument("pow", "exponent", "2"), "an argument exponent is there 0 times"),
        ("Ball.volume.total", first("pass"), "no function"),
        ("Ball.volume.total", value("OLD"), "nothing has changed"),
        ("Ball.volume.total", value("OLD * diameter"), "nothing binds diameter"),
    ],
)
def test_a_change_that_finds_another_source_is_refused(path, change, said):
    with pytest.raises(LookupError, match=said):
        changed(SOURCE, path, change)
