"""MuJoCo Playground's environments of the DeepMind control suite; robots are left out, for their
models are downloaded."""

from typing import Any

from mujoco_playground import dm_control_suite

from ppo_jax.env import Environment
from ppo_jax.envs.brax_suite import from_state


def names(_: str) -> list[str]:
    """Ids of the control suite."""
    return list(dm_control_suite.ALL_ENVS)


def make(identifier: str, **kwargs: Any) -> Environment:
    """The environment of that id, with fields of its configuration changed, such as ctrl_dt.

    MuJoCo's implementation in JAX runs it, which needs no GPU, unless `impl` is given.
    """
    changes = {"impl": "jax", **kwargs}
    config = dm_control_suite.get_default_config(identifier)
    world = dm_control_suite.load(identifier, config, config_overrides=changes)
    return from_state(world, config.episode_length)
