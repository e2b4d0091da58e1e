"""What the commands say of themselves, without the seconds of jax."""

import re
import subprocess
import sys

import pytest

from ppo_jax import __version__
from ppo_jax.cli import COMMANDS
from tests.helpers.commands import run_command

# Of each command an option that it alone has, or a word of its own.
OWN = {
    "train": "--stop-when-solved",
    "evaluate": "evaluation.json",
    "replay": "--how",
    "film": "--grid",
    "export": "ONNX",
    "plan": "--group-size",
    "report": "--out",
    "envs": "solved",
}
ASK = """
import sys
from ppo_jax import cli
try: code = cli.main(sys.argv[1:])
except SystemExit as ended: code = ended.code
print(code, *sorted({"jax", "gymnax", "matplotlib", "orbax"} & set(sys.modules)))
"""


@pytest.mark.parametrize("command", [*COMMANDS, ""])
def test_help_answers_without_jax(command):
    """Its import alone takes longer than help may."""
    arguments = [command, "--help"] if command else ["--help"]
    result = subprocess.run(
        [sys.executable, "-c", ASK, *arguments], capture_output=True, text=True, timeout=60
    )
    *said, last = result.stdout.splitlines()
    assert (last, result.stderr) == ("0", "")
    wanted = [OWN[command]] if command else list(COMMANDS)
    assert all(any(word in line for line in said) for word in wanted)


def test_every_command_has_its_help_tested():
    assert set(OWN) == set(COMMANDS)


@pytest.mark.parametrize("module", ["ppo_jax.train", "ppo_jax.replay"])
def test_the_modules_are_the_commands(module):
    result = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0
    assert OWN[module.partition(".")[2]] in result.stdout
    assert f"usage: ppo-jax {module.partition('.')[2]}" in result.stdout


def test_the_version_is_told_without_jax():
    result = subprocess.run(
        [sys.executable, "-c", ASK, "--version"], capture_output=True, text=True, timeout=60
    )
    assert result.stdout.splitlines() == [f"ppo_jax {__version__}", "0"]
    assert run_command("train", "--version") == (0, f"ppo_jax {__version__}\n", "")


def test_without_a_command_the_commands_are_listed():
    code, said, error = run_command()
    assert (code, error) == (2, "")
    assert all(f"  {name} " in said for name in COMMANDS)
    assert run_command("--help") == (0, said, "")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("--num-seeds 3", "--num-seeds is not a command; did you mean ppo-jax train --num-seeds?"),
        ("trian", "trian is not a command; did you mean ppo-jax train?"),
        ("evalute runs/x", "evalute is not a command; did you mean ppo-jax evaluate?"),
        ("xyz", f"xyz is not a command; there are {', '.join(COMMANDS)}"),
    ],
)
def test_what_is_not_a_command_names_the_nearest(arguments, hint):
    assert run_command(*arguments.split()) == (2, "", f"ppo_jax: {hint}\n")


def test_help_describes_every_option_with_the_recipes_own_defaults():
    _, said, _ = run_command("train", "--help")
    assert "Reward discount γ" in said
    assert "(default: 0.98)" in said
    for box in ("algorithm", "agents", "stopping", "storage", "machine", "console"):
        assert f" {box} options " in said
    assert "--gamma" in said
    assert "--recipe {notebook,standard,fast} " in said
    assert "custom" not in said
    _, said, _ = run_command("train", "--help", "--recipe", "notebook")
    assert "(default: 0.003)" in said


def test_plan_says_what_it_does():
    _, said, _ = run_command("plan", "--help")
    assert "Say what a training would need, in memory and time" in said
    assert "Train PPO agents" not in said


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_a_default_once(command):
    """tyro says (default: None) by itself; what that means stands in the sentence before."""
    _, said, _ = run_command(command, "--help")
    words = " ".join(line.strip("│ ") for line in said.splitlines())
    assert not re.search(r"\((none|default): [^()]*\)\. \(", words)
    assert "(default: )" not in words


def test_help_shows_the_row_of_the_environment():
    _, said, _ = run_command("train", "--help", "--env", "Pendulum-v1")
    assert "Pendulum-v1" in said
    assert "(default: 0.95)" in said
