"""docs/details.md has a row for every detail, and names code and tests that there are."""

import ast
import dataclasses
import importlib
import re
from functools import cache, reduce
from pathlib import Path

import pytest

import ppo_jax
from ppo_jax import Config

ROOT = Path(ppo_jax.__file__).parents[1]
CELLS = re.compile(r"^\| (A?\d+) \| (.+) \| (.+) \| (.+) \|$", re.MULTILINE)
ROWS = CELLS.findall((ROOT / "docs" / "details.md").read_text())
FIELDS = {field.name for field in dataclasses.fields(Config)}
VALUES = {"notebook", "standard", "fast", "cnn", "gru", "uniform"}  # of fields, and the recipes


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


@cache
def functions(path):
    """The names of a file's functions."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def resolve(reference):
    """What module.name or module.Class.name is in the package."""
    module, *names = reference.split(".")
    return reduce(getattr, names, importlib.import_module(f"ppo_jax.{module}"))


def test_there_is_a_row_for_every_detail():
    numbers = [number for number, *_ in ROWS]
    assert numbers == [*map(str, range(1, 38)), "A1", "A2", "A3", "A4"]


@pytest.mark.parametrize(("number", "detail", "here", "tests"), ROWS, ids=[row[0] for row in ROWS])
def test_code_and_tests_of_a_row_are_there(number, detail, here, tests):
    code = [name for name in quoted(here) if "." in name]
    assert {name for name in quoted(here) if "." not in name} <= FIELDS | VALUES
    for reference in code:
        resolve(reference)
    names = quoted(tests)
    assert ", ".join(f"`{name}`" for name in names) == tests or (tests == "—" and not names)
    for path, _, function in (name.partition("::") for name in names):
        assert function in functions(path)
    # Code comes first, and a test with it, unless the row says that the detail is absent.
    if not here.startswith("Absent"):
        assert here.startswith(f"`{code[0]}`")
        assert names


@pytest.mark.parametrize("reference", ["loss.no_such", "no_such.loss", "policy.Policy.no_such"])
def test_code_that_is_not_there_is_found(reference):
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        resolve(reference)
