"""A greedy policy as a function of named arrays, and what these are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppo_jax import env, policy, spaces
from ppo_jax.run.saved import Agent

NEXT = "next_"  # before the name of a memory that is given back: ONNX takes a name only once


class Interface(NamedTuple):
    """The exported policy; every array has the batch as its first axis, which shapes leave out."""

    inputs: dict[str, jax.ShapeDtypeStruct]
    outputs: dict[str, jax.ShapeDtypeStruct]
    observations: dict[str, Any]  # the space of each input that is a part of an observation
    action_space: spaces.Space
    has_memory: bool
    step: Callable[..., dict[str, jax.Array]]  # inputs by name -> outputs by name


def make(agent: Agent) -> Interface:
    """The greedy policy of an agent as a function of named arrays."""
    environment, own_policy = env.make(agent.config), policy.make(agent.config)
    example = jax.eval_shape(lambda: environment.reset(jax.random.key(0))[1])
    observations = {
        _observation_name(path, agent): leaf for path, leaf in jax.tree.leaves_with_path(example)
    }
    kinds = spaces.leaves(environment.observation_space, example)
    memory = _own_memory(jax.eval_shape(lambda: own_policy.initial_memory(1)), agent)
    memories = {
        _join("memory", path): jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
        for path, leaf in jax.tree.leaves_with_path(memory)
    }
    inputs = {**observations, **memories}
    if own_policy.has_memory:
        inputs["start"] = jax.ShapeDtypeStruct((), bool)

    def step(**given: jax.Array) -> dict[str, jax.Array]:
        return jax.vmap(step_one)(given)  # one by one: no module need know a batch of any size

    def step_one(given: dict[str, jax.Array]) -> dict[str, jax.Array]:
        rows = {name: leaf[None] for name, leaf in given.items()}
        leaves = [rows[name] for name in observations]
        observation = jax.tree.unflatten(jax.tree.structure(example), leaves)
        carried: Any = jax.tree.unflatten(
            jax.tree.structure(memory), [rows[name] for name in memories]
        )
        if _is_gru(agent):
            carried = {"actor": carried, "critic": jnp.zeros_like(carried)}
        distribution, _, carried = own_policy.apply(
            agent.params, observation, carried, rows.get("start")
        )
        left = zip(memories, jax.tree.leaves(_own_memory(carried, agent)), strict=True)
        outputs = {"action": own_policy.env_action(distribution.mode())}
        outputs |= {NEXT + name: leaf for name, leaf in left}
        return {name: leaf[0] for name, leaf in outputs.items()}

    outputs = jax.eval_shape(step_one, inputs)
    named_kinds = dict(zip(observations, kinds, strict=True))
    return Interface(
        inputs, outputs, named_kinds, environment.action_space, own_policy.has_memory, step
    )


def _observation_name(path: Any, agent: Agent) -> str:
    """The name of an observation's part; those that tell of the step before say so."""
    if not (agent.config.previous_action or agent.config.previous_reward):
        return _join("observation", path)
    first, *others = path
    named = {part: f"previous_{part}" for part in ("action", "reward")}
    return _join(named.get(first.key, first.key), others)


def _join(name: str, path: Any) -> str:
    return ".".join([name, *(jax.tree_util.keystr((key,), simple=True) for key in path)])


def _own_memory(memory: Any, agent: Agent) -> Any:
    """The memory that actions depend on: of the built-in network the actor's alone."""
    return memory["actor"] if _is_gru(agent) else memory


def _is_gru(agent: Agent) -> bool:
    return bool(agent.config.network == "gru")
