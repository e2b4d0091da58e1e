"""One whole update of each recipe against the float64 oracle: losses, gradients, Adam's moments,
parameters, statistics and metrics, in float64 and in float32."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import env, fast, ppo, recipe, rollout, spaces
from tests.helpers import oracle
from tests.helpers.problems import (
    BOX,
    CASES,
    CHOICES,
    FLOAT32_CASES,
    FLOAT64,
    SMALL,
    adam_state,
    as_transitions,
    assert_metrics,
    assert_parameters,
    from_halves,
    learn_both_ways,
    make_problem,
    metrics_of,
    moments_of,
    oracle_tree,
    orders_of,
    settings_of,
)
from tests.helpers.quick import quick_jit, slow_but


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


QUICK_CASES = [
    *("notebook", "notebook, turned", "notebook, one minibatch holds all"),
    *("standard", "standard, turned", "fast, turned", "squashed"),
]
# Together they have what the other agents have one by one.
QUICK_AGENTS = ("standard", "observation statistics", "reward statistics", "all together")
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


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("case", slow_but(CASES, *QUICK_CASES))
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
@pytest.mark.parametrize("case", slow_but(["standard", "squashed"], "standard"))
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
@pytest.mark.parametrize("case", slow_but(AGENTS, *QUICK_AGENTS))
def test_an_agents_first_updates_are_the_oracles(case):
    assert_first_updates(case)


def assert_first_updates(case):
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


@pytest.fixture
def off_the_cpu(monkeypatch):
    """What is traced here is traced as for a GPU, though the CPU runs it."""
    jax.clear_caches()
    monkeypatch.setattr(fast, "_platform", lambda: "tpu")
    monkeypatch.setattr(fast, "STEPS_A_TRIP", 3)  # compiles soon
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("x64", "off_the_cpu")
@pytest.mark.parametrize("case", slow_but(["standard", "notebook"], "notebook"))
def test_off_the_cpu_too_they_are_the_oracles(case):
    assert_first_updates(case)
