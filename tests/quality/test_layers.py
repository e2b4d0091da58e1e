"""The layers of the package: the core never touches the shell; only environments know gymnax."""

import ast
from pathlib import Path

import pytest

import ppo_jax

PACKAGE = Path(ppo_jax.__file__).parent
OUTSIDE = {"run", "film", "export", "cli", "train", "replay", "__main__"}
CORE = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if path.relative_to(PACKAGE).with_suffix("").parts[0] not in OUTSIDE
)
SHELL = {
    "ppo_jax.run",
    "ppo_jax.cli",
    "ppo_jax.export",
    "ppo_jax.train",
    "time",
    "os",
    "rich",
    "tyro",
    "tensorboardX",
    "matplotlib",
    "signal",
    "pathlib",
    "sys.stdout",
    "sys.stderr",
    "print",
    "open",
}


def names_used(path):
    """Modules that a file imports, at any depth of its code, and what it takes from `sys` and
    the built-ins."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = "ppo_jax" if node.level else None
            module = ".".join(part for part in (package, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_the_core_never_touches_the_shell(path):
    used = {".".join(name.split(".")[:depth]) for name in names_used(path) for depth in (1, 2)}
    assert not used & SHELL


def test_only_environments_know_gymnax():
    knowing = {
        path.stem if path.parent.name != "envs" else "envs"
        for path in CORE
        if any(name.startswith("gymnax") for name in names_used(path))
    }
    assert knowing == {"envs"}
