# /// script
# requires-python = ">=3.11"
# dependencies = ["rejax==0.1.3", "gymnax==0.0.9", "jax==0.10.2", "flax==0.12.8", "optax==0.2.8"]
# ///
# mypy: disable-error-code="import-not-found"
"""rejax's PPO, many agents by `vmap` as it says."""

from typing import Any

import jax
import jax_peer
import optax
from protocol import FULL_UPDATES, STEPS_OF_UPDATE, Options, Peer, require, serve, versions

NOTE = (
    "actor and critic apart, each with its own Adam (ε 1e-8) and elementwise clipping at 0.5; LeCun"
    " instead of orthogonal initial matrices; a truncation counts as a termination; its evaluations"
    " are switched off; final_return is of 128 sampled episodes after the turn"
)


def start(options: Options) -> Peer:
    """Compile and warm up."""
    require(options)
    mesh = jax_peer.mesh_of(options)  # before rejax's imports start jax
    from rejax import PPO
    from rejax.evaluate import evaluate

    def algorithm(updates: int) -> Any:
        # Nothing to evaluate: its evaluations are environment steps that nobody learns from.
        return PPO.create(**config(updates)).replace(eval_callback=lambda *_: ())

    def program(updates: int) -> Any:
        algo = algorithm(updates)
        return jax_peer.shared_out(lambda key: algo.train(rng=key)[0], mesh)

    @jax.jit
    @jax.vmap
    def returns(state: Any, key: jax.Array) -> jax.Array:
        algo = algorithm(1)
        limit = algo.env_params.max_steps_in_episode
        act = algo.make_act(state)
        return evaluate(act, key, algo.env, algo.env_params, 128, limit)[1].mean()

    def learning(states: Any, keys: jax.Array) -> dict[str, Any]:
        return {"final_return": float(returns(states, keys).mean())}

    work = jax_peer.Work(program, jax_peer.raw_keys, learning, STEPS_OF_UPDATE, FULL_UPDATES)
    turn, compile_seconds = jax_peer.prepare(options, work)
    packages = versions("rejax", "jax", "gymnax", "flax", "optax")
    return Peer(turn, compile_seconds, packages, f"{NOTE}; {mesh.size} device(s)")


def config(updates: int) -> dict[str, Any]:
    """`standard` as near as it goes."""
    steps = updates * STEPS_OF_UPDATE
    return {
        "env": "CartPole-v1",
        "agent_kwargs": {"activation": "tanh", "hidden_layer_sizes": (64, 64)},
        "total_timesteps": steps,
        "eval_freq": steps,
        "skip_initial_evaluation": True,
        "num_envs": 4,
        "num_steps": 128,
        "num_epochs": 4,
        "num_minibatches": 4,
        "learning_rate": optax.linear_schedule(2.5e-4, 0.0, updates * 16),
        "max_grad_norm": 0.5,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "clip_eps": 0.2,
        "ent_coef": 0.01,
        "vf_coef": 0.5,
    }


if __name__ == "__main__":
    serve(start)
