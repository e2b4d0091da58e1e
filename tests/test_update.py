"""One whole update of each recipe against the float64 oracle: losses, gradients, Adam's moments,
parameters, statistics and metrics, in float64 and in float32."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppo_jax import Config, env, loss, network, policy, ppo, recipe, rollout, spaces
from tests import oracle
from tests.quick import quick_jit

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
FLOAT32_CASES = ("notebook", "standard", "fast", "Gaussian", "squashed", "MultiDiscrete")


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


@functools.cache
def walk(actions):
    """An environment that the actions push, and whose observations end with what it received."""
    entries = actions.shape[0]

    def reset(key):
        place = jax.random.normal(key, (3,), float)
        return place, jnp.concatenate([place, jnp.zeros(entries)])

    def step(key, place, action):
        noise = jax.random.normal(key, (3,), float)
        place = 0.9 * place + 0.3 * jnp.sum(action) + 0.3 * noise
        ended = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.1)
        observation = jnp.concatenate([place, jnp.asarray(action, float)])
        return place, env.Step(observation, jnp.cos(place[0]), ended, False)

    box = spaces.Box(-np.inf, np.inf, (3 + entries,))
    return env.Environment(reset, step, box, actions, 6, truncates_early=False)


# Agents that play, in CartPole where no other environment is given.
AGENTS = {
    **{name: (name, {}) for name in SMALL},
    "Gaussian": ("standard", {"env": walk(BOX), "log_std_init": 0.3}),
    "squashed": (
        "fast",
        {
            "env": walk(BOX),
            "log_std_init": -0.5,
            "squash_action": True,
            "entropy_coefficient": 0.05,
        },
    ),
    "MultiDiscrete": ("standard", {"env": walk(CHOICES), "entropy_coefficient": 0.05}),
    "observation statistics": ("standard", {"env": walk(BOX), "normalize_observation": True}),
    "reward statistics": ("fast", {"env": walk(CHOICES), "normalize_reward": True}),
    "statistics of whole episodes": (
        "notebook",
        {"normalize_observation": True, "normalize_reward": True},
    ),
    "terminated time limit": ("standard", {"time_limit": "terminate"}),
    "KL limit": ("standard", {"learning_rate": 2e-2, "target_kl": 1e-3}),
    "all together": (
        "notebook",
        {
            "env": walk(BOX),
            "squash_action": True,
            "normalize_observation": True,
            "normalize_reward": True,
            "time_limit": "terminate",
            "learning_rate": 1e-2,
            "target_kl": 1e-2,
        },
    ),
}


class Problem(NamedTuple):
    """An update to compute, as the library takes it and as the oracle does."""

    config: Config
    params: policy.Params
    adam: tuple  # the optimizer's state
    transitions: rollout.Transition
    log_prob: jax.Array  # [T, N], of the policy that acted
    scale: float
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
    scale = 1.0 if seed == 0 else rng.uniform(0.1, 0.9)
    return Problem(
        config,
        policy.Params(trainable(params), ()),
        adam_state(adam, config),
        *as_transitions(rng, held, capacity),
        scale,
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
def learn(key, params, adam, transitions, log_prob, scale, config):
    """The learning part of `ppo.update`: what it ends with, its batch, and its orders; of a policy
    that acted with other log-probabilities, so that ratios lie on both sides of the edges."""
    own_policy = ppo.policy(config)
    batch = ppo.compute_advantages(params, transitions, None, own_policy, config)
    acted = batch._replace(log_prob=log_prob.reshape(-1))
    orders = orders_of(key, transitions, config)
    learned = ppo.optimize(key, params, adam, acted, scale, own_policy, config)
    return learned, batch, orders


def learn_both_ways(problem):
    """What the library and the oracle make of a problem."""
    learned, batch, orders = learn(
        problem.key,
        problem.params,
        problem.adam,
        problem.transitions,
        problem.log_prob,
        problem.scale,
        problem.config,
    )
    size = problem.judged[2]["reward"].size
    orders = np.asarray(orders)[:, :size]
    expected = oracle.update(problem.settings, *problem.judged, orders, 1 - problem.scale)
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


# A whole update -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("case", CASES)
def test_update_is_the_oracles_in_float64(case, seed):
    problem = make_problem(case, seed)
    (params, state, learned), batch, expected = learn_both_ways(problem)

    adam, (judge, _, held) = moments_of(state), problem.judged
    size, evaluated = held["reward"].size, oracle.evaluate(problem.settings, judge, held)
    np.testing.assert_allclose(batch.log_prob[:size], evaluated.log_prob.ravel(), **FLOAT64)
    for name in ("advantage", "target", "value"):
        wanted = getattr(expected, f"{name}s").ravel()
        np.testing.assert_allclose(getattr(batch, name)[:size], wanted, **FLOAT64)
    assert learned.gradient_steps == len(expected.gradients)
    assert_metrics(metrics_of(learned), expected.metrics, **FLOAT64)
    assert adam.count == expected.adam["count"]
    assert_parameters(adam.mu, expected.adam["mean"], **FLOAT64)
    assert_parameters(adam.nu, expected.adam["square"], **FLOAT64)
    assert_parameters(params, expected.params, **FLOAT64)
    assert all(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves((params, adam.mu)))


@pytest.mark.parametrize("case", FLOAT32_CASES)
def test_update_is_the_oracles_in_float32(case):
    for seed in range(3):
        (params, state, learned), _, expected = learn_both_ways(make_problem(case, seed))
        adam = moments_of(state)
        assert_metrics(metrics_of(learned), expected.metrics, rtol=1e-4, atol=1e-5)
        assert_parameters(adam.mu, expected.adam["mean"], rtol=1e-4, atol=1e-5)
        assert_parameters(adam.nu, expected.adam["square"], rtol=1e-4, atol=1e-5)
        assert_parameters(params, expected.params, rtol=0, atol=1e-5)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.usefixtures("x64")
def test_without_a_limit_no_gradient_is_clipped():
    problem = make_problem("standard", 1)
    limit = problem.config.max_grad_norm
    assert limit < 0.1
    config = problem.config.replace(max_grad_norm=None)
    unclipped = problem._replace(
        config=config,
        adam=adam_state(problem.judged[1], config),
        settings=dataclasses.replace(problem.settings, max_grad_norm=np.inf),
    )
    (params, state, learned), _, expected = learn_both_ways(unclipped)
    assert learned.norms.actor > limit
    assert_parameters(moments_of(state).mu, expected.adam["mean"], **FLOAT64)
    assert_parameters(params, expected.params, **FLOAT64)


@pytest.mark.usefixtures("x64")
def test_nothing_of_an_update_depends_on_the_storage_past_its_episodes():
    problem = make_problem("notebook", 2)
    results = []
    for seed in (5, 6):
        rng = np.random.default_rng(seed)
        other, log_prob = as_transitions(rng, problem.judged[2], 37)
        assert not jnp.array_equal(other.observation, problem.transitions.observation)
        learned = learn_both_ways(problem._replace(transitions=other, log_prob=log_prob))[0]
        results.append(jax.tree.map(np.asarray, learned))
    jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", ["standard", "squashed"])
def test_the_first_minibatch_that_went_too_far_ends_the_update(case):
    problem = make_problem(case, 5)

    def limited(target):
        config = problem.config.replace(target_kl=target)
        settings = dataclasses.replace(problem.settings, target_kl=target)
        (params, state, learned), _, expected = learn_both_ways(
            problem._replace(config=config, settings=settings)
        )
        assert learned.gradient_steps == len(expected.gradients)
        assert_metrics(metrics_of(learned), expected.metrics, **FLOAT64)  # NaN without a step
        assert moments_of(state).count == expected.adam["count"]
        assert_parameters(moments_of(state).nu, expected.adam["square"], **FLOAT64)
        assert_parameters(params, expected.params, **FLOAT64)
        return expected

    every = [scalars["approx_kl"] for scalars in limited(1e6).scalars]
    assert len(every) == problem.config.num_epochs * problem.config.num_minibatches
    assert not limited(0.99 * every[0] / 1.5).scalars
    assert limited(1.01 * every[0] / 1.5).scalars
    # The first divergence above all before it, though not the last so large.
    steps = next(i for i in range(2, len(every) - 1) if every[i] > max(every[:i]))
    assert len(limited(0.99 * every[steps] / 1.5).scalars) == steps


@quick_jit
def update_and_its_parts(state, config):
    """`ppo.update`, and the rollout_state, transitions and orders that it must have had."""
    rollout_key, shuffle_key = jax.random.split(jax.random.fold_in(state.key, state.num_updates))
    own_policy, environment = ppo.policy(config), env.make(config.replace(time_limit="truncate"))
    environment = environment._replace(truncates_early=True)  # keeps every final observation
    rollout_state, transitions = rollout.collect(
        rollout_key, state.params, state.rollout, environment, own_policy, config
    )
    parts = rollout_state, transitions, orders_of(shuffle_key, transitions, config)
    return ppo.update(state, config), parts


def held_of(transitions, num_envs):
    """The valid transitions of a rollout as the oracle's, without their log-probabilities."""
    steps = int(transitions.valid.sum()) // num_envs
    judged = {"observation", "final_observation", "action", "noise", "reward"}
    judged |= {"terminated", "truncated"}
    return {
        name: np.asarray(array[:steps])
        for name, array in transitions._asdict().items()
        if name in judged and not isinstance(array, tuple)
    }


def statistics_of(state):
    """Of observations and of rewards as the oracle's, or None."""
    seen, earned = state.params.statistics, state.reward_statistics
    if seen != ():
        (part,) = seen.parts
        seen = {"count": seen.count, **part._asdict()}
    if earned != ():
        earned = earned._asdict()
    return [None if one == () else jax.tree.map(np.asarray, one) for one in (seen, earned)]


def assert_acted(settings, state, held):
    """That the stored actions are what the policy drew, and the environment received them."""
    params, actions = oracle_tree(state.params.trainable), settings.actions
    if "noise" in held:
        seen = oracle.normalize(statistics_of(state)[0], held["observation"])
        mean = oracle.forward(params["actor"], seen, settings.activation)
        drawn = mean + np.exp(params["log_std"][0][0]) * held["noise"]
        np.testing.assert_allclose(held["action"], drawn, **FLOAT64)
    received = oracle.env_action(actions, held["action"])
    np.testing.assert_allclose(held["final_observation"][..., 3:], received, **FLOAT64)
    if actions.low is not None:
        assert (actions.low <= received).all()
        assert (received <= actions.high).all()
        assert (held["action"] > actions.high).any()


def expected_update(settings, config, state, held, orders, index):
    """What the oracle makes of an agent's update i."""
    params, moments = state.params.trainable, moments_of(state.optimizer_state)
    adam = {
        "count": moments.count,
        "mean": from_halves(moments.mu, params),
        "square": from_halves(moments.nu, params),
    }
    seen, earned = statistics_of(state)
    normalized = held | {"observation": oracle.normalize(seen, held["observation"])}
    log_prob = oracle.evaluate(settings, oracle_tree(params), normalized).log_prob
    return oracle.update(
        settings,
        oracle_tree(params),
        adam,
        held | {"log_prob": log_prob},
        np.asarray(orders)[:, : log_prob.size],
        index / config.num_updates if config.anneal_learning_rate else 0.0,
        seen,
        earned,
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", AGENTS)
def test_an_agents_first_updates_are_the_oracles(case):
    name, overrides = AGENTS[case]
    config = recipe(name, **SMALL[name]).replace(**overrides).check()
    settings = settings_of(config)
    state = quick_jit(ppo.init)(jax.random.key(1), config)
    if settings.actions.low is not None:
        np.testing.assert_array_equal(state.params.trainable["log_std"], [config.log_std_init] * 2)
    steps = []
    for index in range(3):
        (new_state, metrics), (rollout_state, transitions, orders) = update_and_its_parts(
            state, config
        )
        held = held_of(transitions, config.num_envs)
        expected = expected_update(settings, config, state, held, orders, index)
        if not isinstance(config.env, str):
            assert_acted(settings, state, held)
        state = new_state
        assert_metrics(metrics._asdict(), expected.metrics, **FLOAT64)
        adam = moments_of(state.optimizer_state)
        assert_parameters(state.params.trainable, expected.params, **FLOAT64)
        assert_parameters(adam.mu, expected.adam["mean"], **FLOAT64)
        assert_parameters(adam.nu, expected.adam["square"], **FLOAT64)
        assert_same = functools.partial(np.testing.assert_allclose, **FLOAT64)
        jax.tree.map(assert_same, state.rollout, rollout_state)
        merged = [expected.statistics, expected.reward_statistics]
        jax.tree.map(assert_same, statistics_of(state), merged)

        unexplained = np.var(expected.targets - expected.values) / np.var(expected.targets)
        np.testing.assert_allclose(metrics.explained_variance, 1 - unexplained, **FLOAT64)
        assert metrics.env_steps == held["reward"].size
        assert metrics.gradient_steps == len(expected.gradients)
        ended = held["terminated"] | held["truncated"]
        assert metrics.episodes == ended.sum()
        if ended.any():  # in the environment's unit, also where rewards are normalized
            returns = np.asarray(transitions.episode_return)[: len(ended)][ended]
            np.testing.assert_allclose(metrics.episode_return, returns.mean(), **FLOAT64)
        assert state.num_updates == index + 1
        steps.append(int(metrics.gradient_steps))
    # A limit on the KL divergence must have been met, and not at once.
    all_steps = config.num_epochs * -(-held["reward"].size // config.transitions_per_minibatch)
    assert (config.target_kl is not None) == (steps[-1] < all_steps)
    assert min(steps) > 1


# One minibatch ------------------------------------------------------------------------------------


def loss_of(trainable, batch, config):
    return loss.loss(policy.Params(trainable, ()), batch, ppo.policy(config), config)


@quick_jit
def gradient(trainable, batch, config):
    return jax.grad(loss_of, has_aux=True)(trainable, batch, config)


@quick_jit
def gradients_one_by_one(trainable, batch, config):
    """The gradient of each transition's own loss with respect to the networks' last biases."""

    def of_one(one):
        alone = jax.tree.map(lambda leaf: leaf[None], one)
        return jax.grad(loss_of, has_aux=True)(trainable, alone, config)[0]

    gradients = jax.vmap(of_one)(batch)["network"]
    return policy.Halves(*(gradients[name]["output"]["bias"] for name in oracle.NETWORKS))


def random_minibatch(rng, problem, size):
    """Some of a problem's transitions, whose ratios and values have moved past both edges of a
    range of 0.2."""
    params, _, held = problem.judged
    chosen = rng.integers(held["reward"].size, size=size)
    fields = ("observation", "action", "noise", "log_prob")
    minibatch = {
        name: held[name].reshape(-1, *held[name].shape[2:])[chosen]
        for name in fields
        if name in held
    }
    activation = problem.settings.activation
    value = oracle.forward(params["critic"], minibatch["observation"], activation)[:, 0]
    return minibatch | {
        "value": value + rng.uniform(-0.5, 0.5, size),
        "advantage": rng.normal(size=size),
        "target": value + rng.normal(size=size),
    }


def gradient_both_ways(case, seed):
    problem = make_problem(case, seed)
    minibatch = random_minibatch(np.random.default_rng(seed), problem, size=24)
    arrays = {name: jnp.asarray(array) for name, array in minibatch.items()}
    batch = loss.Minibatch(**{"noise": (), **arrays})
    gradients, diagnostics = gradient(problem.params.trainable, batch, problem.config)
    scalars, expected = oracle.losses_and_gradients(problem.settings, problem.judged[0], minibatch)
    scalars = {name: scalars[name] for name in diagnostics._asdict()}
    return gradients, diagnostics, expected, scalars


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_the_oracles_in_float64(case):
    for seed in range(4):
        gradients, diagnostics, expected, scalars = gradient_both_ways(case, seed)
        assert_parameters(gradients, expected, **FLOAT64)
        assert_metrics(diagnostics._asdict(), scalars, **FLOAT64)


@pytest.mark.parametrize("case", FLOAT32_CASES)
def test_losses_and_gradients_are_the_oracles_in_float32(case):
    for seed in range(3):
        gradients, diagnostics, expected, scalars = gradient_both_ways(case, seed)
        # Entries that cancel to nearly nothing keep the rounding of what they cancelled.
        assert_parameters(gradients, expected, rtol=1e-4, atol=1e-6)
        assert_metrics(diagnostics._asdict(), scalars, rtol=1e-4, atol=1e-6)


def zero_networks():
    """Both actions have probability ½ and every value is 0, wherever."""
    return {
        "actor": [(np.zeros((1, 2)), np.zeros(2))],
        "critic": [(np.zeros((1, 1)), np.zeros(1))],
    }


def plain(**hyperparameters):
    """Only the losses as they are: nothing normalized, no entropy bonus, no hidden layer."""
    return recipe(
        "standard",
        env=world(2, observation_size=1),
        hidden_sizes=(),
        normalize_advantage=False,
        entropy_coefficient=0.0,
        num_updates=4,
        value_coefficient=1.0,
        **{"clip_value": False, **hyperparameters},
    )


@pytest.mark.usefixtures("x64")
def test_policy_gradient_stops_only_past_the_edge_that_the_advantage_pushes_to():
    edges = np.array([0.8 - 1e-6, 0.8 + 1e-6, 1.2 - 1e-6, 1.2 + 1e-6])
    ratio = np.tile(edges, 2)
    advantage = np.repeat([3.0, -3.0], 4)
    batch = loss.Minibatch(
        observation=jnp.ones((8, 1)),
        action=jnp.ones(8, jnp.int32),
        noise=(),
        log_prob=jnp.log(0.5 / ratio),
        value=jnp.zeros(8),
        advantage=jnp.asarray(advantage),
        target=jnp.zeros(8),
    )
    slopes = gradients_one_by_one(trainable(zero_networks()), batch, plain()).actor
    # -∂(ρ A)/∂logit of the action taken is -ρ A (1 - ½).
    moves = np.array([True, True, True, False, False, True, True, True])
    expected = np.where(moves, -ratio * advantage / 2, 0)
    np.testing.assert_allclose(slopes, np.stack([-expected, expected], axis=1), **FLOAT64)


@pytest.mark.usefixtures("x64")
def test_a_ratio_at_the_edge_is_not_clipped():
    """The policy that acted has ratios of 1, the edge of a range of 0."""
    params = trainable(zero_networks())
    zeros, action = jnp.zeros(8), jnp.zeros(8, jnp.int32)
    batch = loss.Minibatch(jnp.ones((8, 1)), action, (), zeros - np.log(2), zeros, zeros, zeros)
    diagnostics = gradient(params, batch, plain().replace(clip_range=0.0))[1]
    assert diagnostics.approx_kl == 0
    assert diagnostics.clip_fraction == 0


@pytest.mark.usefixtures("x64")
def test_value_gradient_stops_only_where_the_clipped_square_is_larger():
    moved = np.tile([-0.2 - 1e-6, -0.2 + 1e-6, 0.2 - 1e-6, 0.2 + 1e-6], 2)
    target = np.repeat([3.0, -3.0], 4)
    batch = loss.Minibatch(
        observation=jnp.ones((8, 1)),
        action=jnp.ones(8, jnp.int32),
        noise=(),
        log_prob=jnp.full(8, np.log(0.5)),
        value=jnp.asarray(-moved),  # V is 0
        advantage=jnp.zeros(8),
        target=jnp.asarray(target),
    )
    params = trainable(zero_networks())
    slopes = gradients_one_by_one(params, batch, plain(clip_value=True)).critic[:, 0]
    # Past an edge the square of the clipped value counts where V moved towards the target.
    moves = np.array([True, True, True, False, False, True, True, True])
    np.testing.assert_allclose(slopes, np.where(moves, -target, 0), **FLOAT64)
    slopes = gradients_one_by_one(params, batch, plain(clip_value=False)).critic[:, 0]
    np.testing.assert_allclose(slopes, -target, **FLOAT64)


# Annealing ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_learning_rate_falls_linearly_to_zero_over_the_run():
    config = recipe("standard")
    assert config.num_updates == 976
    updates = np.array([0, 1, 500, 975])
    scales = jax.vmap(ppo.learning_rate_scale, (0, None))(jnp.asarray(updates, jnp.int32), config)
    np.testing.assert_allclose(scales, 1 - updates / 976, rtol=1e-12)


def test_learning_rate_of_the_notebook_is_constant():
    for index in (0, 999):
        assert ppo.learning_rate_scale(jnp.asarray(index), recipe("notebook")) == 1
