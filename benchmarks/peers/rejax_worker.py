# /// script
# requires-python = ">=3.11"
# dependencies = ["rejax==0.1.3", "gymnax==0.0.9", "jax==0.10.2", "flax==0.12.8", "optax==0.2.8"]
# ///
# mypy: disable-error-code="import-not-found"
"""rejax's PPO, many agents by `vmap` as it says."""

from typing import Any

import jax
import jax_peer
import numpy as np
import optax
from protocol import POINTS, Options, Peer, require, serve, versions
from tasks import TASKS, Task

NOTE = (
    "actor and critic apart, each with its own Adam (ε 1e-8) and elementwise clipping at 0.5; LeCun"
    " instead of orthogonal initial matrices; a truncation counts as a termination; the value is"
    " clipped; its evaluations are switched off, but for a learning curve, which has the mean of"
    " 16 sampled episodes at each of its points; final_return is of 128 sampled episodes after the"
    " turn"
)
RECIPES = ("standard", "acrobot", "continuous", "minatar")  # it has no memory


def start(options: Options) -> Peer:
    """Compile and warm up."""
    require(options, RECIPES)
    task = TASKS[options.recipe]
    mesh = jax_peer.mesh_of(options)  # before rejax's imports start jax
    from rejax import PPO
    from rejax.evaluate import evaluate

    def returns(algo: Any, state: Any, key: jax.Array, episodes: int) -> jax.Array:
        limit = algo.env_params.max_steps_in_episode
        act = algo.make_act(state)
        return evaluate(act, key, algo.env, algo.env_params, episodes, limit)[1].mean()

    def algorithm(updates: int) -> Any:
        # Nothing to evaluate: its evaluations are environment steps that nobody learns from.
        return PPO.create(**config(task, updates)).replace(eval_callback=lambda *_: ())

    def program(updates: int) -> Any:
        algo = algorithm(updates)
        if not (options.curves and updates == task.updates):
            return jax_peer.shared_out(lambda key: algo.train(rng=key), mesh)
        # Its `train` evaluates after equal numbers of updates only.
        numbers = np.diff(np.arange(POINTS + 1) * updates // POINTS)

        def train(key: jax.Array) -> Any:
            def part(state: Any, number: jax.Array) -> Any:
                state = jax.lax.fori_loop(0, number, lambda _, s: algo.train_iteration(s), state)
                return state, returns(algo, state, state.rng, 16)

            return jax.lax.scan(part, algo.init_state(key), numbers)

        return jax_peer.shared_out(train, mesh)

    @jax.jit
    @jax.vmap
    def final(state: Any, key: jax.Array) -> jax.Array:
        return returns(algorithm(1), state, key, 128)

    def learning(outputs: Any, keys: jax.Array) -> dict[str, Any]:
        states, evaluations = outputs
        curves = {"curves": np.round(np.float64(evaluations), 3).tolist()} if options.curves else {}
        return {"final_return": float(final(states, keys).mean()), **curves}

    work = jax_peer.Work(program, jax_peer.raw_keys, learning, task.steps_of_update, task.updates)
    turn, compile_seconds = jax_peer.prepare(options, work)
    packages = versions("rejax", "jax", "gymnax", "flax", "optax")
    return Peer(turn, compile_seconds, packages, f"{NOTE}; {mesh.size} device(s)")


def config(task: Task, updates: int) -> dict[str, Any]:
    """The task as near as it goes."""
    steps = updates * task.steps_of_update
    minibatches = updates * task.num_epochs * task.num_minibatches
    return {
        "env": task.env,
        "agent_kwargs": {
            "activation": task.activation,
            "hidden_layer_sizes": task.hidden_sizes,
        },
        "total_timesteps": steps,
        "eval_freq": steps,
        "skip_initial_evaluation": True,
        "num_envs": task.num_envs,
        "num_steps": task.num_steps,
        "num_epochs": task.num_epochs,
        "num_minibatches": task.num_minibatches,
        "learning_rate": optax.linear_schedule(task.learning_rate, 0.0, minibatches),
        "max_grad_norm": 0.5,
        "gamma": task.discount,
        "gae_lambda": task.gae_lambda,
        "clip_eps": 0.2,
        "ent_coef": task.entropy_coefficient,
        "vf_coef": 0.5,
        "normalize_observations": task.normalize,
        "normalize_rewards": task.normalize,
        "reward_normalization_discount": task.discount,
    }


if __name__ == "__main__":
    serve(start)
