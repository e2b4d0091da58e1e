"""What the network sees of the step before: the action and the reward, zeros where an episode
begins."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ppo_jax import env, evaluate, ppo, recipe, spaces
from tests.helpers.own_parts import SMALL, collected, init, tree_world, types
from tests.helpers.problems import BOX, CHOICES
from tests.helpers.quick import quick_jit
from tests.helpers.recurrent import LIMIT, drift, random_params

BOTH = {"previous_action": True, "previous_reward": True}
SPACES = {
    "discrete": spaces.Discrete(3),
    "choices": CHOICES,
    "clipped": BOX,
    "squashed": spaces.Box(-0.5, np.array([[0.5], [1.0]]), (2, 1)),
}


def configured(actions, **overrides):
    world = drift(SPACES[actions])._replace(truncates_early=True)  # so all final ones are kept
    squash = {"squash_action": actions == "squashed"}
    return SMALL.replace(env=world, log_std_init=1.0, **{**BOTH, **squash, **overrides})


@functools.cache
def rollout_of(actions):
    """A rollout's final state and transitions, and what the environment received, [T, N, ...]."""
    config = configured(actions)
    after, transitions = collected(config, random_params(config))
    received = ppo.policy(config).env_action(transitions.action)
    return after, jax.tree.map(np.asarray, transitions), np.asarray(received)


def encoded(actions, received):
    """What the environment received as the network sees it: one-hot entry by entry, or as it is."""
    match SPACES[actions]:
        case spaces.Discrete(n):
            return np.eye(n)[received]
        case spaces.MultiDiscrete(nvec):
            rows = [np.eye(n)[received[..., entry]] for entry, n in enumerate(nvec)]
            return np.concatenate(rows, axis=-1)
    return received


@pytest.mark.parametrize("actions", SPACES)
def test_the_network_sees_the_action_and_the_reward_before(actions):
    after, transitions, received = rollout_of(actions)
    seen, done = transitions.observation, transitions.terminated | transitions.truncated
    wanted = encoded(actions, received)
    assert seen["action"].shape == wanted.shape
    assert not seen["action"][0].any()
    assert not seen["reward"][0].any()
    for name, given in (("action", wanted), ("reward", transitions.reward)):
        ended = done.reshape(*done.shape, *(1,) * (given.ndim - 2))
        goes_on = np.where(ended, 0, given)
        np.testing.assert_allclose(seen[name][1:], goes_on[:-1], atol=1e-6)
        np.testing.assert_allclose(after.observation[name], goes_on[-1], atol=1e-6)
        # What an episode ends with has them as well, which its value is estimated from.
        final = transitions.final_observation[name]
        np.testing.assert_allclose(final, given, atol=1e-6)
    assert transitions.truncated.any()
    assert (wanted[done].reshape(done.sum(), -1) != 0).any(axis=1).all()
    assert len(np.unique(transitions.reward)) > 2


def test_an_action_beyond_its_bounds_is_seen_as_it_was_received():
    _, transitions, received = rollout_of("clipped")
    assert (received != transitions.action).any()
    assert (received >= -0.5).all()
    assert (received <= [0.5, 1]).all()


def test_the_environments_own_observation_is_what_it_was():
    for overrides in ({"previous_action": False}, {"previous_reward": False}):
        config = configured("clipped", **overrides)
        state = init(config).rollout
        (left_out,) = overrides
        names = {"observation", "action", "reward"} - {left_out.removeprefix("previous_")}
        assert set(state.observation) == names
        assert state.observation["observation"].shape == (2, 3)
    neither = init(configured("clipped", previous_action=False, previous_reward=False))
    assert neither.rollout.observation.shape == (2, 3)


class Told(nn.Module):
    """A user's module, which is told of everything by name."""

    num_outputs: int

    @nn.compact
    def __call__(self, observation):
        assert list(observation) == ["action", "observation", "reward"]
        batch = len(observation["reward"])
        assert observation["action"].shape == (batch, 3)
        assert observation["observation"].shape == (batch, 3)
        assert observation["reward"].shape == (batch,)
        hidden = jnp.concatenate([observation["observation"], observation["action"]], axis=1)
        return nn.Dense(self.num_outputs)(hidden), observation["reward"]


def test_a_users_module_gets_them_by_name():
    init(configured("discrete", network=Told))


@pytest.mark.parametrize(
    ("actions", "width"), [("discrete", 3 + 3), ("choices", 3 + 5), ("squashed", 3 + 2)]
)
@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_built_in_networks_see_all_in_one_row(network, actions, width):
    params = init(configured(actions, network=network)).params.trainable["network"]
    for half in params.values():
        layer = half["gru"]["ir"] if network == "gru" else half["hidden_0"]
        assert layer["kernel"].shape[0] == width + 1


def test_parts_of_an_observation_stay_parts():
    """And whole numbers and images in it what they are."""
    state = init(SMALL.replace(env=tree_world(), normalize_observation=True, **BOTH))
    shapes = types(state.rollout.observation["observation"])
    assert shapes["image"] == ((2, 4, 4, 1), jnp.uint8)
    # action, goal, image, vector and reward, of which the goal is not normalized.
    assert [part != () for part in state.params.statistics.parts] == [True, False, True, True, True]


def test_both_are_right_in_evaluation():
    """As what is played step by step says, whose returns are those of `evaluate.evaluate`."""
    config = configured("discrete", hidden_sizes=())

    @quick_jit
    def play(key):
        params = random_params(config)
        trace = evaluate.play(params, config, key, 3, sampled=False)
        return trace, evaluate.evaluate(params, config, key, 3)

    trace, returns = jax.tree.map(np.asarray, play(jax.random.key(0)))
    assert len(trace.reward) == LIMIT
    seen = trace.observation
    assert not seen["action"][0].any()
    assert not seen["reward"][0].any()
    np.testing.assert_array_equal(seen["action"][1:], np.eye(3)[trace.action[:-1]])
    np.testing.assert_array_equal(seen["reward"][1:], trace.reward[:-1])
    np.testing.assert_allclose(returns, (trace.reward * trace.valid).sum(axis=0), rtol=1e-5)


def test_a_time_limit_that_is_part_of_the_task_is_one_here_as_well():
    environment = env.make(configured("discrete", time_limit="terminate", max_episode_steps=1))

    @quick_jit
    def step(key):
        state, observation = environment.reset(key)
        return observation, environment.step(key, state, jnp.int32(2))[1]

    first, found = step(jax.random.key(0))
    assert not first["action"].any()
    assert found.terminated
    np.testing.assert_array_equal(found.observation["action"], [0, 0, 1])
    assert found.observation["reward"] == found.reward


# CartPole without velocities ----------------------------------------------------------------------


def test_cartpole_without_velocities_is_cartpole_of_which_less_is_seen():
    names = "CartPole-v1", "CartPoleNoVelocity-v1"
    assert set(names) <= set(env.names())
    assert env.SOLVED_AT[names[0]] == env.SOLVED_AT[names[1]]
    full, less = (env.make(recipe("fast", env=name)) for name in names)
    assert less.max_episode_steps == full.max_episode_steps == 500
    assert less.action_space.n == 2
    assert less.observation_space.shape == (2,)
    for bound in ("low", "high"):
        whole, part = (getattr(one.observation_space, bound) for one in (full, less))
        np.testing.assert_array_equal(part, np.asarray(whole)[[0, 2]])

    def steps(environment):
        def step(state, inputs):
            key, action = inputs
            return environment.step(key, state, action)

        @quick_jit
        def play(key):
            state, first = environment.reset(key)
            keys, actions = jax.random.split(key, 40), jnp.arange(40) % 3 % 2
            return first, jax.lax.scan(step, state, (keys, actions))[1]

        return play(jax.random.key(1))

    (first, found), (own_first, own) = steps(full), steps(less)
    np.testing.assert_array_equal(own_first, first[jnp.array([0, 2])])
    np.testing.assert_array_equal(own.observation, found.observation[:, jnp.array([0, 2])])
    for name in ("reward", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(own, name), getattr(found, name))
    assert own.terminated.any()
    assert not own.terminated[:5].any()
