"""In the first gradient step of an update every probability ratio is 1, whatever the recipe, the
network, the actions and the statistics are: the policy that is optimized is the one that acted."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import ppo, recipe, spaces
from tests.helpers.own_parts import Shared
from tests.helpers.quick import quick_jit
from tests.helpers.recurrent import drift, some_state

LIMIT = 6  # steps of an episode
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

# One epoch of one minibatch.
RECIPES = {
    "notebook": {"min_transitions": 12, "minibatch_size": 12 - 1 + LIMIT},
    "standard": {"num_envs": 2, "num_steps": 8, "num_minibatches": 1},
    "fast": {"num_envs": 3, "num_steps": 5, "num_minibatches": 1},
}
ACTIONS = {
    "discrete": (spaces.Discrete(3), {}),
    "multidiscrete": (spaces.MultiDiscrete((2, 3)), {}),
    "clipped": (spaces.Box(-0.5, np.array([0.5, 1.0]), (2,)), {}),
    "squashed": (spaces.Box(-0.5, np.array([[0.5], [1.0]]), (2, 1)), {"squash_action": True}),
}
FACTORS = (
    ("notebook", "standard"),  # whose code is also that of `fast`
    ("mlp", "cnn", "shared"),
    tuple(ACTIONS),
    (False, True),  # statistics
    tuple(TOLERANCE),
)
# A third of all cases: every combination of any three factors' levels is among them.
MANY = [
    case
    for case in itertools.product(*FACTORS)
    if sum(levels.index(level) for levels, level in zip(FACTORS, case, strict=True)) % 3 == 0
]


OBSERVATIONS = {
    "mlp": (),
    "cnn": (
        spaces.Box(0, 255, (4, 4, 2), jnp.uint8),
        lambda state: (
            (128 + 80 * jnp.sin(jnp.arange(32) * state[0] + state[1]))
            .astype(jnp.uint8)
            .reshape(4, 4, 2)
        ),
    ),
    "shared": (
        spaces.Dict({"place": spaces.Discrete(4), "vector": spaces.Box(-9, 9, (3,))}),
        lambda state: {"place": (state[0] > 0).astype(jnp.int32), "vector": 3 * state - 1},
    ),
}


# Every level of every factor.
QUICK = (
    ("standard", "mlp", "clipped", True, "float32"),
    ("standard", "cnn", "discrete", True, "float64"),
    ("standard", "shared", "multidiscrete", False, "float64"),
    ("notebook", "mlp", "squashed", True, "float64"),
    ("notebook", "cnn", "multidiscrete", True, "float32"),
    ("notebook", "shared", "clipped", False, "float64"),
)


@functools.cache
def world(observation, actions):
    """The drifting environment, seen as that network needs it."""
    return drift(ACTIONS[actions][0], LIMIT, 0.15, *OBSERVATIONS[observation])


def configured(recipe_name, network, actions, statistics):
    return recipe(
        recipe_name,
        **RECIPES[recipe_name],
        **ACTIONS[actions][1],
        env=world(network, actions),
        network=Shared if network == "shared" else network,
        hidden_sizes=(4,),
        num_updates=2,
        num_epochs=1,
        normalize_observation=statistics,
        normalize_reward=statistics,
        learning_rate=0.05,
        anneal_learning_rate=False,
    )


def second_update(config, jit, init):
    """An agent's second update, as it optimizes: what the policy says of the batch beside what the
    batch has of it."""
    optimize, make_policy = ppo.optimize, ppo.policy
    noises, found = [], []

    def recording_policy(config):
        own = make_policy(config)

        def noise(*arguments):
            noises.append(own.noise(*arguments))
            return noises[-1]

        return own._replace(noise=noise)

    def recording_optimize(key, params, optimizer_state, batch, num_updates, policy, config):
        distribution, value, _ = policy.apply(params, batch.observation)
        drawn = noises[-1].reshape(-1, noises[-1].shape[-1])
        found.append(
            {
                "ratio": jnp.exp(distribution.log_prob(batch.action) - batch.log_prob),
                "value": value - batch.value,
                "action": batch.action,
                "acted": distribution.sample(drawn),
                "valid": jnp.ones(len(value), bool) if batch.valid is None else batch.valid,
                "count": params.statistics.count if config.normalize_observation else 0,
            }
        )
        return optimize(key, params, optimizer_state, batch, num_updates, policy, config)

    def run(state):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ppo, "policy", recording_policy)
            patch.setattr(ppo, "optimize", recording_optimize)

            def update(state, _):
                state, metrics = ppo.update(state, config)
                return state, (metrics, found.pop())

            return jax.lax.scan(update, state, length=2)[1]

    state = init(jax.random.key(0), config)
    metrics, second = jax.tree.map(lambda leaf: np.asarray(leaf[1]), jit(run)(state))
    valid = second.pop("valid")
    return metrics, {name: leaf[valid] if leaf.ndim else leaf for name, leaf in second.items()}


def assert_first_ratios_are_one(recipe_name, network, actions, statistics, precision, jit, init):
    tolerance = TOLERANCE[precision]
    with jax.enable_x64(precision == "float64"):
        config = configured(recipe_name, network, actions, statistics)
        metrics, second = second_update(config, jit, init)
    assert metrics.gradient_steps == 1
    assert metrics.clip_fraction == 0
    assert abs(metrics.approx_kl) <= tolerance
    assert second["ratio"].dtype == precision
    assert len(second["ratio"]) == metrics.env_steps >= 12
    assert np.abs(second["ratio"] - 1).max() <= tolerance
    assert np.abs(second["value"]).max() <= 10 * tolerance
    np.testing.assert_allclose(second["acted"], second["action"], rtol=0, atol=10 * tolerance)
    assert len(np.unique(second["action"], axis=0)) > 1
    assert (second["count"] > 0) == statistics


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_every_first_ratio_is_one(case):
    """For an agent whose statistics are not empty; and its actions are those that this policy
    draws."""
    assert_first_ratios_are_one(*case, quick_jit, some_state)  # whose parameters compile quickly


def test_every_three_levels_meet():
    for factors in itertools.combinations(range(len(FACTORS)), 3):
        met = {tuple(case[factor] for factor in factors) for case in MANY}
        assert met == set(itertools.product(*(FACTORS[factor] for factor in factors)))


@pytest.mark.slow
@pytest.mark.parametrize("case", [*MANY, ("fast", *QUICK[0][1:])], ids=str)
def test_every_first_ratio_is_one_as_it_is_compiled_for_users(case):
    assert_first_ratios_are_one(*case, jax.jit, jax.jit(ppo.init))
