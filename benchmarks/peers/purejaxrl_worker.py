# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "jax==0.10.2",
#     "gymnax==0.0.9",
#     "flax==0.12.8",
#     "optax==0.2.8",
#     "distrax==0.1.9",
#     "brax==0.14.2",
#     "navix==0.7.4",
# ]
# ///
# mypy: disable-error-code="import-not-found"
"""PureJaxRL's `ppo.py` (a checkout of luchris429/purejaxrl), many agents by `vmap` as it says."""

import sys
from typing import Any

import jax
import jax_peer
import numpy as np
from flax.linen import initializers
from protocol import FULL_UPDATES, STEPS_OF_UPDATE, Options, Peer, require, serve, versions

NOTE = (
    "the same work as `standard`; a truncation counts as a termination; threefry, a sort a shuffle,"
    " and the infos of every step are kept, as shipped; but several agents' initial matrices are"
    " made one after another, for as shipped most starts hang on two cores"
)
_orthogonal = initializers.orthogonal


def start(options: Options) -> Peer:
    """Import the checkout, compile, warm up."""
    require(options, checkout_of="luchris429/purejaxrl")
    path = str(options.path)
    sys.path[1:1] = [path, f"{path}/purejaxrl"]
    if options.agents > 1:
        vars(initializers)["orthogonal"] = _one_matrix_at_a_time  # before ppo.py takes it
    mesh = jax_peer.mesh_of(options)  # before the checkout's imports start jax
    from ppo import make_train

    def program(updates: int) -> Any:
        return jax_peer.shared_out(make_train(config(updates)), mesh)

    work = jax_peer.Work(program, jax_peer.raw_keys, learning, STEPS_OF_UPDATE, FULL_UPDATES)
    turn, compile_seconds = jax_peer.prepare(options, work)
    packages = versions("jax", "gymnax", "flax", "optax", "distrax")
    return Peer(turn, compile_seconds, packages, f"{NOTE}; {mesh.size} device(s)")


def _one_matrix_at_a_time(scale: float = 1.0) -> Any:
    """Its initialization without batched LAPACK calls, which on a machine of few cores wait for
    their own threads, in most starts forever."""
    initialize = _orthogonal(scale)

    def one_by_one(key: jax.Array, shape: tuple[int, ...], dtype: Any = float) -> jax.Array:
        return jax.custom_batching.sequential_vmap(lambda key: initialize(key, shape, dtype))(key)

    return one_by_one


def config(updates: int) -> dict[str, Any]:
    """Its own configuration of CartPole, with as many updates as a turn has."""
    return {
        "LR": 2.5e-4,
        "NUM_ENVS": 4,
        "NUM_STEPS": 128,
        "TOTAL_TIMESTEPS": updates * STEPS_OF_UPDATE,
        "UPDATE_EPOCHS": 4,
        "NUM_MINIBATCHES": 4,
        "GAMMA": 0.99,
        "GAE_LAMBDA": 0.95,
        "CLIP_EPS": 0.2,
        "ENT_COEF": 0.01,
        "VF_COEF": 0.5,
        "MAX_GRAD_NORM": 0.5,
        "ACTIVATION": "tanh",
        "ENV_NAME": "CartPole-v1",
        "ANNEAL_LR": True,
        "DEBUG": False,
    }


def learning(outputs: dict[str, Any], _: jax.Array) -> dict[str, Any]:
    """What the episodes that ended in every update, step and environment say."""
    ended = np.asarray(outputs["metrics"]["returned_episode"])
    returns = np.asarray(outputs["metrics"]["returned_episode_returns"])
    return jax_peer.learned((returns * ended).sum((2, 3)).T, ended.sum((2, 3)).T)


if __name__ == "__main__":
    serve(start)
