"""Says in contract.json what an exported policy takes and gives, with examples of both."""

from importlib import metadata
from typing import Any

import jax
import numpy as np

from ppo_jax import env, evaluate, objects, population, spaces
from ppo_jax.export.interface import NEXT, Interface
from ppo_jax.run.saved import Agent

FORMAT = 1
EXAMPLES = 16
_STEPS = 64  # at most, of each of as many episodes, from which the examples are taken


def describe(agent: Agent, interface: Interface, key: jax.Array) -> dict[str, Any]:
    """The content of contract.json."""
    config, action_space = agent.config, {"action": interface.action_space}
    return {
        "format": FORMAT,
        "deterministic": True,
        "environment": {
            "id": objects.name(config.env),
            "kwargs": dict(config.env_kwargs),
            "params": {name: float(value) for name, value in config.env_params.items()},
            "max_episode_steps": env.make(config).max_episode_steps,
            "previous_action": config.previous_action,
            "previous_reward": config.previous_reward,
        },
        "inputs": _describe_arrays(interface.inputs, interface.observations),
        "outputs": _describe_arrays(interface.outputs, action_space),
        "versions": {name: metadata.version(name) for name in ("ppo-jax", "jax", "gymnax")},
        "examples": _find_examples(agent, interface, key),
    }


def _describe_arrays(arrays: dict[str, Any], kinds: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "dtype": str(array.dtype),
            "shape": ["batch", *array.shape],
            **({"space": _describe_space(kinds[name])} if name in kinds else {}),
        }
        for name, array in arrays.items()
    ]


def _describe_space(space: Any) -> dict[str, Any]:
    match space:
        case spaces.Discrete(n):
            return {"type": "Discrete", "n": n}
        case spaces.MultiDiscrete(nvec):
            return {"type": "MultiDiscrete", "nvec": list(nvec)}
    bounds = {"low": to_json(space.low), "high": to_json(space.high)}
    return {"type": "Box", "shape": list(space.shape), **bounds}


def _find_examples(agent: Agent, interface: Interface, key: jax.Array) -> dict[str, Any]:
    """Inputs and outputs of steps of greedy episodes, [16, ...] each: spread over the episodes, or
    for a network with memory one step after another."""
    steps = min(env.make(agent.config).max_episode_steps or _STEPS, _STEPS)
    play = jax.jit(
        evaluate.play, static_argnums=(3, 4, 5), compiler_options=population.COMPILER_OPTIONS
    )
    trace = play(agent.params, agent.config, key, EXAMPLES, False, steps)
    every = np.argwhere(np.asarray(trace.valid).T)  # episode by episode
    spread = np.linspace(0, len(every) - 1, EXAMPLES).astype(int)
    chosen = every[np.arange(EXAMPLES) if interface.has_memory else spread]
    episodes, times = chosen[:, 0], chosen[:, 1]  # [16]
    leaves = [np.asarray(leaf)[times, episodes] for leaf in jax.tree.leaves(trace.observation)]
    observations = dict(zip(interface.observations, leaves, strict=True))
    step, rows = jax.jit(interface.step, compiler_options=population.COMPILER_OPTIONS), []
    carried = {
        name: np.zeros((1, *one.shape), one.dtype)
        for name, one in interface.inputs.items()
        if NEXT + name in interface.outputs
    }
    for index, time in enumerate(times.tolist()):
        inputs = {name: leaf[index, None] for name, leaf in observations.items()} | carried
        if interface.has_memory:
            inputs["start"] = np.array([time == 0])
        outputs = jax.tree.map(np.asarray, step(**inputs))
        carried = {name: outputs[NEXT + name] for name in carried}
        rows.append({"inputs": inputs, "outputs": outputs})
    arrays = jax.tree.map(lambda *each: np.concatenate(each), *rows)
    order = {"inputs": interface.inputs, "outputs": interface.outputs}  # jax sorts by name
    return {
        kind: {name: to_json(arrays[kind][name]) for name in names} for kind, names in order.items()
    }


def to_json(array: Any) -> Any:
    """An array as numbers and lists, floats no longer than they need be; none for what is
    infinite."""
    array = np.asarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        return array.tolist()
    short = array.astype(str).astype(float).astype(object)
    short[~np.isfinite(array)] = None
    return short.tolist()
