"""Tests stand by themselves: what several of them need lies in tests/helpers."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FOLDERS = ("core", "run", "cli", "reliability", "quality")
FILES = sorted(path for folder in FOLDERS for path in (TESTS / folder).rglob("test_*.py"))


def imported(source):
    """Modules that a file imports, and what it takes from packages."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "").startswith("import"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant))


def is_allowed(name):
    package, *rest = name.split(".")
    is_test = any(part.startswith("test_") for part in (package, *rest))
    return package != "benchmarks" and not is_test


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_test_imports_a_test_or_a_benchmark(path):
    assert [name for name in imported(path.read_text()) if not is_allowed(name)] == []
