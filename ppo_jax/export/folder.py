"""Writes an exported policy as a folder."""

import json
import os
import re
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from ppo_jax import evaluate, population
from ppo_jax.config import BUILT_IN_NETWORKS
from ppo_jax.export import card, contract, graph, interface
from ppo_jax.export.interface import Interface
from ppo_jax.film import frames
from ppo_jax.run import saved
from ppo_jax.run.console import Console, number
from ppo_jax.run.errors import InputError
from ppo_jax.run.experiment import LARGEST_SEED
from ppo_jax.run.saved import Agent, Run
from ppo_jax.run.storage import folder

ONNX, STABLEHLO, NUMPY = "policy.onnx", "policy.stablehlo", "policy.npz"
SCRIPT, CONTRACT, RESULTS, CARD = "run_policy.py", "contract.json", "results.json", "README.md"
FILM = folder.FILM
FILES = (ONNX, STABLEHLO, NUMPY, SCRIPT, CONTRACT, RESULTS, FILM, CARD)
PLATFORMS = ("cpu", "cuda", "tpu")  # that policy.stablehlo runs on
EPISODES = 100


def export(
    run: str | os.PathLike[str] | Run,
    agent: int,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    overwrite: bool = False,
    quiet: bool = True,
) -> Path:
    """Write an agent's greedy policy in formats that run elsewhere, as `ppo-jax export` does.

    Args:
        run: a run's folder, or what `load` gave, which may hold objects of one's own.
        agent: number of the agent.
        out: folder for the files.
        seed: of the episodes that evaluate it.
        overwrite: replace what the folder holds.
        quiet: print nothing.

    Returns: the folder. Raises ValueError for bad input, OSError for what the file system refuses.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"seed is {seed}; seeds go from 0 to {LARGEST_SEED}")
    path, console = folder.choose_results(out, overwrite), Console(quiet)
    found = (run if isinstance(run, Run) else saved.load(run)).agent(agent)
    key = jax.random.fold_in(jax.random.key(np.uint32(seed)), agent)
    results, contents, notes = make(found, key)
    path.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (path / name).unlink(missing_ok=True)
    for name, content in contents.items():
        folder.write(path / name, content)
    frames.film_agent(found, agent, path / FILM, Console(quiet=True), seed=seed)
    mean, deviation = number(results["mean_reward"]), number(results["std_reward"])
    console.say(f"agent {agent}: mean return {mean} +/- {deviation}, {EPISODES} episodes")
    for note in notes:
        console.say(note)
    written = [name for name in FILES if name in contents or name == FILM]
    console.say(f"wrote {path}{os.sep}: {', '.join(written)}")
    return path


def make(agent: Agent, key: jax.Array) -> tuple[dict[str, Any], dict[str, bytes], list[str]]:
    """The evaluation, the content of every file but the film, and why files are missing."""
    found = interface.make(agent)
    described = contract.describe(agent, found, key)
    results = _evaluate(agent, key)
    policies, notes = _policies(agent, found)
    contents = {**policies, CONTRACT: _as_json(described), RESULTS: _as_json(results)}
    contents[CARD] = card.text(described, results, contents, notes).encode()
    return results, contents, notes


def _policies(agent: Agent, found: Interface) -> tuple[dict[str, bytes], list[str]]:
    """The files that hold the policy, and why some are missing."""
    files = {STABLEHLO: _as_stablehlo(found)}
    if agent.config.network not in BUILT_IN_NETWORKS:
        others = f"{ONNX}, {NUMPY} and {SCRIPT} are left out"
        return files, [f"{others}: the network is your own, of which only {STABLEHLO} can be made"]
    own = graph.build(agent, found)
    files |= {NUMPY: _as_archive(own, found), SCRIPT: Path(__file__).with_name(SCRIPT).read_bytes()}
    if find_spec("onnx") is None:
        return files, [f"{ONNX} is left out: onnx is not installed; pip install onnx"]
    return {**files, ONNX: graph.to_onnx(own, found)}, []


def _as_stablehlo(found: Interface) -> bytes:
    """What `jax.export.deserialize` reads; the first axis of every array is of any length."""
    (batch,) = jax_export.symbolic_shape("batch")
    inputs = {
        name: jax.ShapeDtypeStruct((batch, *one.shape), one.dtype)
        for name, one in found.inputs.items()
    }
    program = jax_export.export(jax.jit(found.step), platforms=PLATFORMS)(**inputs)
    return bytes(program.serialize())


def _as_archive(own: graph.Graph, found: Interface) -> bytes:
    """What run_policy.py reads: the constants, and as JSON the ranks of an observation's parts, the
    size of the memory, and the nodes."""
    ranks = {name: len(found.inputs[name].shape) for name in found.observations}
    memory_size = found.inputs["memory"].shape[0] if found.has_memory else 0
    nodes = json.dumps([ranks, memory_size, own.nodes])
    return folder.as_npz({"graph": np.array(nodes), **own.constants})


def _evaluate(agent: Agent, key: jax.Array) -> dict[str, Any]:
    """The mean of greedy returns, in the words of the Hub."""
    play = jax.jit(
        evaluate.evaluate, static_argnums=3, compiler_options=population.COMPILER_OPTIONS
    )
    returns = np.asarray(play(agent.params, agent.config, key, EPISODES), float)
    return {
        "mean_reward": float(returns.mean()),
        "std_reward": float(returns.std()),
        "is_deterministic": True,
        "n_eval_episodes": EPISODES,
        "eval_datetime": datetime.now().isoformat(),
    }


def _as_json(content: dict[str, Any]) -> bytes:
    """The mapping as JSON, with lists of numbers in a line each."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False, default=str)
    one_line = re.sub(r"\[\n([^][{}]*)\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    return f"{one_line}\n".encode()
