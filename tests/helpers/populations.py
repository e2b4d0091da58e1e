"""Small populations in one compiled program, an agent for every hyperparameter, and what makes one
diverge."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import population, ppo, recipe, rollout
from tests.helpers.quick import quick_jit
from tests.helpers.tiny_recipes import FIXED, SETTINGS, TINY, WHOLE, configured
from tests.helpers.trees import nan_like, numbers, stack

SEED, STORAGE, EPISODES = 7, 8, 5
AGENTS = len(SETTINGS)
# The learning rate is annealed to 0 over two updates. Beyond them it is negative: losses grow until
# they overflow, the sooner the larger the rate, which makes agents that diverge late.
SHORT = {**TINY, "num_updates": 2}
CONFIGS = {
    "standard": recipe("standard", **FIXED, **SHORT, max_episode_steps=30),
    "notebook": recipe("notebook", **WHOLE, **SHORT),
}
# Of the notebook's hyperparameters only these are [agents]; the others are one number for all.
SOME = ("base", "critic_learning_rate", "discount", "env_params")
# Continuous actions within swept bounds, with statistics of observations and of rewards.
CONFIGS["pendulum"] = recipe(
    "standard",
    **FIXED,
    **{**SHORT, "env_params": {"max_torque": 2.0}},
    env="Pendulum-v1",
    max_episode_steps=30,
    squash_action=True,
    normalize_observation=True,
    normalize_reward=True,
    target_kl=1.0,
)
OF_PENDULUM = {
    "env_params": {"max_torque": 0.5},
    "target_kl": 1e-6,
    "log_std_init": -1.0,
    "discount": 0.5,
}
TOLERANCE = {"rtol": 1e-3, "atol": 2e-5}  # as in test_transforms
compiled = functools.partial(jax.jit, compiler_options=population.COMPILER_OPTIONS)


def own_config(config, setting):
    if config.env == "Pendulum-v1" and setting != "base":
        return config.replace(**{setting: OF_PENDULUM[setting]})
    return configured(config, setting)


def varied(config, settings):
    """The configuration with what any of the settings changes as [agents]."""
    own = stack([own_config(config, setting) for setting in settings])
    return config.replace(**{name: getattr(own, name) for name in settings if name != "base"})


def update_alone(state, config):
    """One update by the core's own function, its metrics [1], and the transitions it collected."""
    collect, seen = rollout.collect, []

    def recording_collect(*arguments):
        after, transitions = collect(*arguments)
        seen.append(transitions)
        return after, transitions

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollout, "collect", recording_collect)
        state, row = ppo.update(state, config)
    return state, jax.tree.map(lambda leaf: leaf[None], row), seen[0]


def per_agent(function, configs):
    """The configuration with the function of all hyperparameters that are [agents]."""
    return jax.tree.map(lambda leaf: function(leaf) if jnp.ndim(leaf) else leaf, configs)


class Batch:
    """An agent for every setting, each with its own seed, in one compiled program."""

    def __init__(self, name, settings):
        self.config, self.settings = CONFIGS[name], settings
        self.keys = population.agent_keys(SEED, len(settings))
        self.configs = varied(self.config, settings)
        self.states = compiled(population.init)(self.keys, self.configs)
        self._run = compiled(population.run, static_argnums=3)
        self.update_alone = quick_jit(update_alone)

    def run_alone(self, state, config):
        return self.update_alone(state, config)[:2]

    def run(self, states, configs, num_updates):
        return self._run(states, configs, int(num_updates), STORAGE)


batch_of = functools.cache(Batch)
SETTINGS_OF = {"standard": SETTINGS, "notebook": SOME, "pendulum": ("base", *OF_PENDULUM)}


def host(tree):
    """The tree in NumPy: slices of it compile nothing."""
    return jax.tree.unflatten(jax.tree.structure(tree), numbers(tree))


def without(tree, agents, axis=0):
    return jax.tree.map(lambda leaf: np.delete(leaf, agents, axis), host(tree))


def joined(*chunks):
    """The metrics of chunks, each with the number of its updates, as one."""
    parts = [jax.tree.map(lambda leaf, n=size: leaf[:n], host(rows)) for rows, size in chunks]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def assert_nothing(rows):
    """Metrics of a frozen agent: no counts, and no values."""
    for name, leaf in rows._asdict().items():
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            assert not np.any(leaf), name
        else:
            assert np.isnan(leaf).all(), name


VICTIM = 2


def with_huge_rate(configs):
    """The configuration in which the victim overflows in its first update."""
    return configs.replace(learning_rate=configs.learning_rate.at[VICTIM].set(1e38))


def poison(batch, injection):
    """The batch's states and configuration with the victim's made such that it cannot go on."""
    states, configs = batch.states, batch.configs

    def spoil(tree):
        bad = nan_like(tree)
        return jax.tree.map(lambda leaf, nan: leaf.at[VICTIM].set(nan[VICTIM]), tree, bad)

    if injection == "rate of 1e38":
        return states, with_huge_rate(configs)
    if injection == "NaN hyperparameter":
        return states, configs.replace(clip_range=configs.clip_range.at[VICTIM].set(jnp.nan))
    if injection == "NaN params":
        return states._replace(params=spoil(states.params)), configs
    if injection == "NaN moments":
        return states._replace(optimizer_state=spoil(states.optimizer_state)), configs
    if injection == "NaN worlds":
        return states._replace(rollout=spoil(states.rollout)), configs
    if injection == "NaN statistics":
        statistics = spoil(states.params.statistics)
        return states._replace(params=states.params._replace(statistics=statistics)), configs
    if injection == "NaN reward statistics":
        return states._replace(reward_statistics=spoil(states.reward_statistics)), configs
    if injection == "infinite reward statistics":  # by which rewards become 0, which is finite
        m2 = states.reward_statistics.m2.at[VICTIM].set(jnp.inf)
        reward_statistics = states.reward_statistics._replace(m2=m2)
        return states._replace(reward_statistics=reward_statistics), configs

    def infinite(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        first = name.endswith("critic/hidden_0/bias")
        return leaf.at[VICTIM, 0].set(jnp.inf) if first else leaf

    return jax.tree_util.tree_map_with_path(infinite, states), configs
