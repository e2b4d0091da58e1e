"""Random updates of every kind of policy, as the library takes them and as the oracle does."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppo_jax import Config, env, network, policy, ppo, recipe, rollout, spaces
from tests.helpers import oracle
from tests.helpers.quick import quick_jit

FLOAT64 = {"rtol": 1e-10, "atol": 1e-12}
# Small sizes, the recipe's own hyperparameters.
SMALL = {
    "notebook": {
        "min_transitions": 13,
        "max_episode_steps": 25,
        "minibatch_size": 8,
        "num_epochs": 3,
        "num_updates": 4,
        "hidden_sizes": (9,),
    },
    "standard": {
        "num_envs": 3,
        "num_steps": 16,
        "max_episode_steps": 15,
        "num_epochs": 2,
        "num_updates": 4,
        "hidden_sizes": (8, 7),
    },
    "fast": {
        "num_envs": 2,
        "num_steps": 15,
        "max_episode_steps": 12,
        "num_epochs": 3,
        "num_minibatches": 5,
        "num_updates": 4,
        "hidden_sizes": (6,),
    },
}
BOX = spaces.Box(-0.5, np.array([0.5, 1.0]), (2,))
CHOICES = spaces.MultiDiscrete((2, 3))
# Each recipe as it is, and with its switches turned, and each kind of action; the number of actions
# is another size.
CASES = {
    "notebook": ("notebook", 2, {}),
    "notebook, turned": (
        "notebook",
        4,
        {
            "activation": "tanh",
            "hidden_sizes": (5, 4),
            "normalize_advantage": True,
            "recompute_advantage": False,
            "clip_value": True,
            "joint_grad_norm": True,
            "anneal_learning_rate": True,
        },
    ),
    "notebook, one minibatch holds all": (
        "notebook",
        3,
        {"minibatch_size": 64, "normalize_advantage": True, "critic_learning_rate": None},
    ),
    "standard": ("standard", 2, {}),
    "standard, turned": (
        "standard",
        5,
        {
            "activation": "relu",
            "clip_value": False,
            "joint_grad_norm": False,
            "critic_learning_rate": 7e-3,
            "minibatch_size": 6,
        },
    ),
    "fast": ("fast", 2, {}),
    "fast, turned": (
        "fast",
        3,
        {
            "hidden_sizes": (),
            "clip_value": True,
            "normalize_advantage": False,
            "recompute_advantage": True,
            "critic_learning_rate": 1e-2,
        },
    ),
    "Gaussian": ("standard", BOX, {"joint_grad_norm": False}),
    "squashed": ("fast", BOX, {"squash_action": True, "entropy_coefficient": 0.05}),
    "squashed, whole episodes": ("notebook", BOX, {"squash_action": True}),
    "MultiDiscrete": ("notebook", CHOICES, {"entropy_coefficient": 0.05}),
}
FLOAT32_CASES = (
    *("notebook", "standard", "squashed"),
    *(pytest.param(case, marks=pytest.mark.slow) for case in ("fast", "Gaussian", "MultiDiscrete")),
)


@functools.cache
def world(actions, observation_size=4):
    """An environment of these sizes, for policies; nothing is ever played in it.

    actions: their space, or the number of them.
    """

    def reset(_):
        return (), jnp.zeros(observation_size)

    def step(_, state, action):
        return state, env.Step(jnp.zeros(observation_size), jnp.zeros(()), False, False)

    box = spaces.Box(-1, 1, (observation_size,))
    space = spaces.Discrete(actions) if isinstance(actions, int) else actions
    return env.Environment(reset, step, box, space, 25)


class Problem(NamedTuple):
    """An update to compute, as the library takes it and as the oracle does."""

    config: Config
    params: policy.Params
    adam: tuple  # the optimizer's state
    transitions: rollout.Transition
    log_prob: jax.Array  # [T, N], of the policy that acted
    num_updates: float  # before this one
    settings: oracle.Settings
    judged: tuple  # the oracle's params, adam and rollout
    key: jax.Array


def make_problem(case, seed):
    """A random problem: seed 0 has the recipe's own hyperparameters, the others random ones."""
    name, actions, overrides = CASES[case]
    rng = np.random.default_rng([seed, list(CASES).index(case)])
    # The recipe for CartPole: without a name, an environment has the general row of `fast`.
    config = recipe(name, **SMALL[name] | overrides).replace(env=world(actions))
    if seed > 0:
        config = config.replace(**random_hyperparameters(rng, config, seed)).check()
    # Storage for 37 transitions of whole episodes, of which some are held.
    num_valid, capacity = (config.num_steps,) * 2
    if config.whole_episodes:
        num_valid, capacity = (33, 37, 16, 13)[seed % 4], 37
    settings = settings_of(config)
    params, adam, held, _ = oracle.random_problem(
        rng,
        config.activation,
        num_steps=num_valid,
        num_envs=config.num_envs,
        num_actions=np.sum(network.num_outputs(config.env.action_space)),
        hidden_sizes=config.hidden_sizes,
        actions=settings.actions,
    )
    if not config.squash_action:
        held.pop("noise", None)  # no other entropy needs it
    if config.whole_episodes and not held["terminated"][-1]:
        held["truncated"][-1] = True
    progress = 0.0 if seed == 0 else rng.uniform(0.1, 0.9)
    config = config.replace(anneal_learning_rate=seed > 0)
    return Problem(
        config,
        policy.Params(trainable(params), ()),
        adam_state(adam, config),
        *as_transitions(rng, held, capacity),
        progress * config.num_updates,
        settings,
        (params, adam, held),
        jax.random.key(seed),
    )


def random_hyperparameters(rng, config, seed):
    """Every hyperparameter at random; odd seeds clip every gradient, even seeds few."""
    hyperparameters = {
        "learning_rate": 10 ** rng.uniform(-4, -2),
        "adam_epsilon": 10 ** rng.uniform(-8, -4),
        "max_grad_norm": rng.uniform(0.02, 0.1) if seed % 2 else rng.uniform(2, 5),
        "discount": rng.uniform(0.7, 1),
        "gae_lambda": rng.uniform(0, 1),
        "clip_range": 10 ** rng.uniform(-2, -0.5),
        "value_coefficient": rng.uniform(0.2, 2),
        "entropy_coefficient": rng.uniform(0, 0.2),
    }
    if config.critic_learning_rate is not None:
        hyperparameters["critic_learning_rate"] = 10 ** rng.uniform(-4, -2)
    return hyperparameters


def settings_of(config):
    critic_rate = config.critic_learning_rate
    other = {
        "critic_learning_rate": config.learning_rate if critic_rate is None else critic_rate,
        "joint_clipping": config.joint_grad_norm,
        "minibatch_size": config.transitions_per_minibatch,
        "actions": actions_of(env.make(config).action_space, config.squash_action),
    }
    same = oracle.Settings.__dataclass_fields__.keys() - other
    return oracle.Settings(**other, **{name: getattr(config, name) for name in same})


def actions_of(space, squash):
    """A space's actions as the oracle's."""
    match space:
        case spaces.Discrete():
            return oracle.Actions()
        case spaces.MultiDiscrete(nvec):
            return oracle.Actions(nvec=nvec)
    bounds = [np.broadcast_to(np.asarray(bound), space.shape) for bound in (space.low, space.high)]
    return oracle.Actions("squashed" if squash else "gaussian", None, *bounds)


def trainable(tree):
    """The oracle's parameters (or moments, or gradients) as the library's."""

    def network(layers):
        names = [f"hidden_{index}" for index in range(len(layers) - 1)]
        return {
            name: {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
            for name, (kernel, bias) in zip([*names, "output"], layers, strict=True)
        }

    log_std = {"log_std": jnp.asarray(tree["log_std"][0][0])} if "log_std" in tree else {}
    return {"network": {name: network(tree[name]) for name in oracle.NETWORKS}, **log_std}


def adam_state(adam, config):
    """The oracle's moments as the state of the built-in optimizer."""
    moments = optax.ScaleByAdamState(
        jnp.asarray(adam["count"], jnp.int32),
        policy.halves(trainable(adam["mean"]))[0],
        policy.halves(trainable(adam["square"]))[0],
    )
    clip = (optax.EmptyState(),) if config.max_grad_norm is not None else ()
    return (*clip, moments, optax.EmptyState())


def moments_of(state):
    """Adam's count and moments in the optimizer's state."""
    return next(part for part in state if isinstance(part, optax.ScaleByAdamState))


def oracle_tree(tree):
    """The library's trainable parameters as the oracle's."""
    networks = {
        name: [
            (np.asarray(layer["kernel"]), np.asarray(layer["bias"])) for layer in layers.values()
        ]
        for name, layers in tree["network"].items()
    }
    log_std = {"log_std": [(np.asarray(tree["log_std"]),)]} if "log_std" in tree else {}
    return networks | log_std


def from_halves(vectors, like):
    """Vectors of both halves as the oracle's tree."""
    return oracle_tree(policy.halves(like)[1](vectors))


def as_transitions(rng, held, capacity):
    """The oracle's rollout [T, N, ...] and its log-probabilities in capacity of so many steps, the
    rest invalid and absurd."""
    shape = held["reward"].shape

    def store(array):
        tail = (capacity - shape[0], *array.shape[1:])
        if array.dtype == bool:
            return jnp.asarray(np.concatenate([array, rng.random(tail) < 0.5]))
        rubbish = rng.integers(2, size=tail).astype(array.dtype)
        if array.dtype == np.float64:
            rubbish = 1e6 * rng.normal(size=tail)
        return jnp.asarray(np.concatenate([array, rubbish]))

    stored = {name: store(array) for name, array in held.items() if name != "log_prob"}
    transitions = rollout.Transition(
        **{"noise": (), **stored},
        episode_return=store(np.zeros(shape)),
        episode_length=store(np.zeros(shape, np.int32)),
        valid=jnp.broadcast_to(jnp.arange(capacity)[:, None] < shape[0], (capacity, shape[1])),
    )
    return transitions, store(held["log_prob"])


def orders_of(key, transitions, config):
    """Its order of the valid transitions in every epoch, and after them nothing of use."""
    capacity, num_valid = transitions.valid.size, jnp.sum(transitions.valid)
    capacity += -capacity % config.transitions_per_minibatch
    return ppo.epoch_orders(key, capacity, num_valid, config.num_epochs)


@quick_jit
def learn(key, params, adam, transitions, log_prob, num_updates, config):
    """The learning part of `ppo.update`: what it ends with, its batch, and its orders; of a policy
    that acted with other log-probabilities, so that ratios lie on both sides of the edges."""
    own_policy = ppo.policy(config)
    batch = ppo.compute_advantages(params, transitions, None, own_policy, config)
    acted = batch._replace(log_prob=log_prob.reshape(-1))
    orders = orders_of(key, transitions, config)
    learned = ppo.optimize(key, params, adam, acted, num_updates, own_policy, config)
    return learned, batch, orders


def learn_from(problem):
    """What the library makes of a problem, its batch and its orders of what is valid."""
    names = "key", "params", "adam", "transitions", "log_prob", "num_updates", "config"
    learned, batch, orders = learn(*(getattr(problem, name) for name in names))
    return learned, batch, np.array(orders)[:, : problem.judged[2]["reward"].size]


def learn_and_orders(problem):
    """What the library makes of a problem, its valid batch and orders."""
    learned, batch, orders = learn_from(problem)
    batch = batch._replace(log_prob=problem.log_prob.reshape(-1))  # of the policy that acted
    return learned, jax.tree.map(lambda leaf: leaf[: orders.shape[1]], batch), orders


def learn_both_ways(problem):
    """What the library and the oracle make of a problem."""
    learned, batch, orders = learn_from(problem)
    progress = problem.num_updates / problem.config.num_updates
    expected = oracle.update(problem.settings, *problem.judged, orders, progress)
    return learned, batch, expected


def assert_parameters(actual, expected, rtol, atol):
    """The library's trainable tree, or vectors of its halves, against the oracle's tree."""
    if isinstance(actual, policy.Halves):
        actual = policy.halves(trainable(expected))[1](actual)
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(trainable(expected)), strict=True)
    for number, wanted in pairs:
        np.testing.assert_allclose(number, wanted, rtol=rtol, atol=atol)


def assert_metrics(metrics, expected, rtol, atol):
    for name, wanted in expected.items():
        np.testing.assert_allclose(metrics[name], wanted, rtol=rtol, atol=atol, err_msg=name)


def metrics_of(learned):
    norms = learned.norms
    return learned.diagnostics._asdict() | {
        "actor_grad_norm": norms.actor,
        "critic_grad_norm": norms.critic,
    }
