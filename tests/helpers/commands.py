"""Commands of `ppo-jax`, in this process and in one of their own."""

import contextlib
import csv
import io
import subprocess
import sys

from ppo_jax import cli

SMALL = ("--num-envs", "4", "--num-steps", "32", "--hidden-sizes", "8", "--total-timesteps", "1300")
UPDATES = 10  # of SMALL: 1300 steps are not a multiple of 128


def run_command(*arguments):
    """A command in this process: its exit code, and what it printed on both streams."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as ended:  # the flag parser's
            code = ended.code
    return code, out.getvalue(), err.getvalue()


def start(*arguments, **options):
    """A command in a process of its own, begun."""
    return subprocess.Popen(
        [sys.executable, "-m", "ppo_jax", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process, timeout=300):
    """A begun command's exit code, and what it printed on both streams."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def refused(code, fragment, *arguments):
    """That a command ends with this code and one line that has the fragment."""
    found, out, err = run_command(*arguments)
    assert (found, out) == (code, ""), err
    assert fragment in err
    assert err.count("\n") == 1, err


def read_rows(path):
    """The rows of a CSV file, a dict each."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))
