# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
# mypy: disable-error-code="import-not-found"
"""rl_tools' PPO in C++ (a checkout of rl-tools/rl-tools), built here with g++ and OpenBLAS.

Every agent is a process on one thread, all at once.
"""

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from protocol import (
    STEPS_OF_UPDATE,
    OptionError,
    Options,
    Peer,
    cache_folder,
    peak_memory,
    require,
    serve,
    timed,
    updates_of_turn,
    versions,
)

ACTIVATIONS = {"plain": "TANH", "tuned": "FAST_TANH"}
NOTE = (
    "its own Pendulum instead of CartPole: one continuous action, 3 observed numbers, episodes of"
    " 200 steps without terminations; gradients clipped elementwise at 0.5, constant learning rate,"
    " value loss not clipped, a truncation is cut off; built with -ffast-math as its README does"
)
DRIVER = Path(__file__).with_name("rl_tools_driver.cpp")


def start(options: Options) -> Peer:
    """Build the driver if it is not in the cache, start a process an agent, warm up."""
    require(options, checkout_of="rl-tools/rl-tools")
    if options.style not in ACTIVATIONS:
        raise OptionError(f"style {options.style!r}: there are {', '.join(ACTIVATIONS)}")
    program, build_seconds = build(str(options.path), ACTIVATIONS[options.style])
    agents = [launch(program, seed) for seed in range(options.agents)]
    train(agents, 100)  # warm, or the next is too slow to judge by
    updates = updates_of_turn(options, lambda trial: train(agents, trial))

    def turn() -> dict[str, Any]:
        seconds = train(agents, updates)
        return {
            "env_steps": updates * STEPS_OF_UPDATE * len(agents),
            "seconds": seconds,
            "updates": updates,
            "peak_memory_bytes": sum(peak_memory(agent.pid) for agent in agents),
        }

    commit = output(["git", "-C", str(options.path), "rev-parse", "HEAD"])
    compiler = output(["g++", "-dumpfullversion"])
    packages = {**versions(), "rl_tools": commit[:10], "g++": compiler}
    return Peer(turn, build_seconds, packages, f"{ACTIVATIONS[options.style]}; {NOTE}")


def build(path: str, activation: str) -> tuple[Path, float | None]:
    """The compiled driver and the seconds of its compilation, None where it was in the cache."""
    flags = ["-std=c++17", "-O3", "-ffast-math", "-march=native", f"-DACTIVATION={activation}"]
    flags += ["-DRL_TOOLS_BACKEND_ENABLE_OPENBLAS", "-I", f"{path}/include"]
    commit = output(["git", "-C", path, "rev-parse", "HEAD"])
    content = DRIVER.read_text() + repr(flags) + commit
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    program = cache_folder() / f"rl_tools-{digest}" / "driver"
    if program.exists():
        return program, None
    if shutil.which("g++") is None:
        raise OptionError("rl_tools needs g++ and the headers of OpenBLAS (libopenblas-dev)")
    program.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    partial = program.with_suffix(".partial")
    command = ["g++", *flags, str(DRIVER), "-o", str(partial), "-lopenblas"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if "error" in line]
        raise OptionError(f"g++ could not build rl_tools: {(errors or ['it says nothing'])[0]}")
    partial.rename(program)
    return program, time.perf_counter() - started


def launch(program: Path, seed: int) -> subprocess.Popen[str]:
    """One agent's process, on one thread, with the kernels that OpenBLAS finds best."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    return subprocess.Popen(
        [program, str(seed)],
        env={**ours, "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def train(agents: list[subprocess.Popen[str]], updates: int) -> float:
    """All agents train on for so many updates; the seconds until the last is done."""

    def together() -> None:
        for agent in agents:
            assert agent.stdin is not None
            agent.stdin.write(f"{updates}\n")
            agent.stdin.flush()
        for agent in agents:
            assert agent.stdout is not None
            float(agent.stdout.readline())

    return timed(together)[1]


def output(command: list[str]) -> str:
    """What a command says, or nothing."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return result.stdout.strip()


if __name__ == "__main__":
    serve(start)
