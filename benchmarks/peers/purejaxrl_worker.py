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
"""PureJaxRL (a checkout of luchris429/purejaxrl), many agents by `vmap` as it says: `ppo.py`,
`ppo_continuous_action.py` or `ppo_rnn.py`."""

import functools
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import jax_peer
import numpy as np
from flax import linen
from flax.linen import initializers
from no_velocity import CartPoleNoVelocity
from protocol import Options, Peer, require, serve, versions
from tasks import TASKS, Task

NOTE = (
    "a truncation counts as a termination; the value is clipped; threefry, a sort a shuffle, and"
    " the infos of every step are kept, as shipped; but several agents' initial matrices are made"
    " one after another, for as shipped most starts hang on two cores"
)
MORE = {
    "continuous": "gymnax's Pendulum in place of Brax's environments, and layers of 64, not 256",
    "recurrent_shared": "tanh, not ReLU; today's flax has another GRUCell than it calls",
}
RECIPES = ("standard", "acrobot", "continuous", "minatar", "recurrent_shared")
_orthogonal = initializers.orthogonal


def start(options: Options) -> Peer:
    """Import the checkout, compile, warm up."""
    require(options, RECIPES, checkout_of="luchris429/purejaxrl")
    task = TASKS[options.recipe]
    path = str(options.path)
    sys.path[1:1] = [path, f"{path}/purejaxrl"]
    if options.agents > 1:
        vars(initializers)["orthogonal"] = _one_matrix_at_a_time  # before the checkout takes it
    mesh = jax_peer.mesh_of(options)  # before the checkout's imports start jax
    peer = module(task)

    def program(updates: int) -> Any:
        return jax_peer.shared_out(peer.make_train(config(task, updates)), mesh)

    work = jax_peer.Work(program, jax_peer.raw_keys, learning, task.steps_of_update, task.updates)
    turn, compile_seconds = jax_peer.prepare(options, work)
    packages = versions("jax", "gymnax", "flax", "optax", "distrax")
    notes = [NOTE, *filter(None, [MORE.get(options.recipe)]), f"{mesh.size} device(s)"]
    return Peer(turn, compile_seconds, packages, "; ".join(notes))


def _one_matrix_at_a_time(scale: float = 1.0) -> Any:
    """Its initialization without batched LAPACK calls, which on a machine of few cores wait for
    their own threads, in most starts forever."""
    initialize = _orthogonal(scale)

    def one_by_one(key: jax.Array, shape: tuple[int, ...], dtype: Any = float) -> jax.Array:
        return jax.custom_batching.sequential_vmap(lambda key: initialize(key, shape, dtype))(key)

    return one_by_one


def module(task: Task) -> ModuleType:
    """The file that does the task; sizes and environments that it writes into its code have no
    other door than the names that it imports."""
    if task.memory is not None:
        import ppo_rnn

        env = CartPoleNoVelocity()
        vars(ppo_rnn)["gymnax"] = SimpleNamespace(make=lambda _: (env, env.default_params))
        layers = {"relu": getattr(linen, task.activation), "GRUCell": _Gru}
        vars(ppo_rnn)["nn"] = SimpleNamespace(**{**vars(linen), **layers})
        return ppo_rnn
    if task.normalize:
        import gymnax
        import ppo_continuous_action as ppo_continuous

        (width,) = set(task.hidden_sizes)

        def dense(features: int, **others: Any) -> Any:
            return linen.Dense(width if features == 256 else features, **others)

        env, parameters = gymnax.make(task.env)
        space = env.action_space(parameters)
        with_parameters = SimpleNamespace(
            reset=env.reset,
            step=env.step,
            observation_space=lambda _: env.observation_space(parameters),
            action_space=lambda _: space,
        )
        vars(ppo_continuous).update(
            BraxGymnaxWrapper=lambda _: with_parameters,
            ClipAction=functools.partial(ppo_continuous.ClipAction, low=space.low, high=space.high),
            nn=SimpleNamespace(**{**vars(linen), "Dense": dense}),
        )
        return ppo_continuous
    import ppo

    return ppo


class _Gru:
    """A GRU as flax 0.6 called it, for which `ppo_rnn.py` was written: as wide as its input."""

    def __call__(self, carry: jax.Array, inputs: jax.Array) -> Any:
        initialize = initializers.orthogonal()
        return linen.GRUCell(inputs.shape[-1], recurrent_kernel_init=initialize)(carry, inputs)

    @staticmethod
    def initialize_carry(_: jax.Array, batch: tuple[int, ...], size: int) -> jax.Array:
        return jax.numpy.zeros((*batch, size))


def config(task: Task, updates: int) -> dict[str, Any]:
    """The task in its words, with as many updates as a turn has."""
    return {
        "LR": task.learning_rate,
        "NUM_ENVS": task.num_envs,
        "NUM_STEPS": task.num_steps,
        "TOTAL_TIMESTEPS": updates * task.steps_of_update,
        "UPDATE_EPOCHS": task.num_epochs,
        "NUM_MINIBATCHES": task.num_minibatches,
        "GAMMA": task.discount,
        "GAE_LAMBDA": task.gae_lambda,
        "CLIP_EPS": 0.2,
        "ENT_COEF": task.entropy_coefficient,
        "VF_COEF": 0.5,
        "MAX_GRAD_NORM": 0.5,
        "ACTIVATION": task.activation,
        "ENV_NAME": task.env,
        "ANNEAL_LR": True,
        "NORMALIZE_ENV": task.normalize,
        "DEBUG": False,
    }


def learning(outputs: dict[str, Any], _: jax.Array) -> dict[str, Any]:
    """What the episodes that ended in every update, step and environment say."""
    infos = outputs["metric" if "metric" in outputs else "metrics"]
    ended = np.asarray(infos["returned_episode"])
    returns = np.asarray(infos["returned_episode_returns"])
    return jax_peer.learned((returns * ended).sum((2, 3)).T, ended.sum((2, 3)).T)


if __name__ == "__main__":
    serve(start)
