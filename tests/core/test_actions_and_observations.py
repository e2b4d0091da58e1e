"""What environments receive, and what networks see, of all kinds of spaces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ppo_jax import ppo, spaces
from tests.helpers.own_parts import (
    HIGH,
    LOW,
    SMALL,
    TREE,
    Shared,
    collected,
    init,
    refused_network,
    teller,
    tree_world,
    types,
)
from tests.helpers.quick import quick_jit
from tests.helpers.recurrent import some_state

# Actions


def squash(u, low, high):
    return low + (high - low) * (np.tanh(np.asarray(u, float)) + 1) / 2


@pytest.mark.parametrize("squashed", [False, True])
def test_an_environment_receives_actions_within_its_bounds_and_in_their_shape(squashed):
    """While the transition keeps what the policy drew."""
    box = spaces.Box(LOW, HIGH, (2, 3))
    config = SMALL.replace(env=teller(box), log_std_init=1.0, squash_action=squashed)
    _, transitions = collected(config)
    drawn = np.asarray(transitions.action, float)
    assert drawn.shape == (8, 2, 6)
    low, high = LOW.ravel(), HIGH.ravel()
    assert ((drawn < low) | (drawn > high)).any(axis=(0, 1)).all()
    expected = squash(drawn, low, high) if squashed else np.clip(drawn, low, high)
    received = transitions.final_observation[..., 1:]
    np.testing.assert_allclose(received, expected, atol=1e-6)


def test_an_environment_receives_every_entry_of_a_multidiscrete_action():
    config = SMALL.replace(env=teller(spaces.MultiDiscrete((2, 5))))
    _, transitions = collected(config)
    np.testing.assert_array_equal(transitions.final_observation[..., 1:], transitions.action)
    assert transitions.action.max(axis=(0, 1)).tolist() == [1, 4]


@pytest.mark.parametrize(
    ("space", "squashed"),
    [
        (spaces.MultiDiscrete((2, 5)), False),
        (spaces.Box(LOW, HIGH, (2, 3)), False),
        (spaces.Box(LOW, HIGH, (2, 3)), True),
    ],
)
def test_acting_gives_what_the_environment_receives(space, squashed):
    config = SMALL.replace(env=teller(space), log_std_init=2.0, squash_action=squashed)
    observations = np.random.default_rng(0).normal(size=(4, 5, 1 + np.prod(space.shape)))

    @quick_jit
    def act(key):
        params = ppo.policy(config).init(key)
        return [ppo.act(params, observations, config, own) for own in (None, key)]

    for actions in map(np.asarray, act(jax.random.key(0))):
        assert actions.shape == (4, 5, *space.shape)
        if isinstance(space, spaces.Box):
            low, high = np.float32(space.low), np.float32(space.high)
            assert (actions >= low).all()
            assert (actions <= high).all()
        else:
            assert np.issubdtype(actions.dtype, np.integer)
            assert (actions >= 0).all()
            assert (actions < np.array(space.nvec)).all()


class Constant(nn.Module):
    """A mean that no observation changes."""

    mean: float

    @nn.compact
    def __call__(self, observation):
        bias = nn.initializers.constant(self.mean)
        zeros = nn.initializers.zeros
        mean = nn.Dense(1, kernel_init=zeros, bias_init=bias, name="actor")(observation)
        return mean, nn.Dense(1, name="critic")(observation)[:, 0]


@pytest.mark.parametrize("mean", [-0.3, 1.5, 30.0])
@pytest.mark.parametrize("squashed", [False, True])
def test_bounds_that_depend_on_swept_parameters_clip_and_squash(mean, squashed):
    torques = jnp.array([0.5, 1.0, 2.0])

    @jax.vmap
    def act(torque):
        config = SMALL.replace(
            env="Pendulum-v1",
            env_params={"max_torque": torque},
            network=Constant(mean),
            squash_action=squashed,
        )
        params = ppo.policy(config).init(jax.random.key(0))
        return ppo.act(params, jnp.ones(3), config)

    limit = np.asarray(torques, float)
    expected = squash(mean, -limit, limit) if squashed else np.clip(mean, -limit, limit)
    np.testing.assert_allclose(act(torques)[:, 0], expected, atol=1e-6)


def test_infinite_bounds_cannot_be_squashed_onto():
    box = spaces.Box(np.array([0.0, -np.inf]), 1.0, (2,))
    refused_network("squash_action", "infinite", env=teller(box), squash_action=True)
    assert init(SMALL.replace(env=teller(box))).params.trainable["log_std"].shape == (2,)


def test_bounds_that_are_the_same_cannot_be_squashed_onto():
    box = spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 0.0]), (2,))
    refused_network("squash_action", "low below high", env=teller(box), squash_action=True)


def test_choices_cannot_be_squashed():
    refused_network("squash_action", "Discrete(2)", env="CartPole-v1", squash_action=True)


def test_actions_without_a_policy_are_refused():
    world = teller()._replace(action_space=spaces.Dict({"a": spaces.Discrete(2)}))
    refused_network("Dict", "Discrete, MultiDiscrete and Box", env=world)


# Observations


def test_a_rollout_keeps_the_parts_of_an_observation_and_their_types():
    _, transitions = collected(TREE)
    time = np.stack([np.arange(8) % 5] * 2, axis=1)
    for observation, when in (
        (transitions.observation, time),
        (transitions.final_observation, time + 1),
    ):
        assert {name: part.dtype.name for name, part in observation.items()} == {
            "vector": "float32",
            "image": "uint8",
            "goal": "int32",
        }
        np.testing.assert_array_equal(observation["image"][..., 3, 2, 0], 51 * when)
        np.testing.assert_array_equal(observation["goal"], when % 3)
        np.testing.assert_allclose(observation["vector"][..., 1], -when / 4)


def test_mlp_takes_all_parts_of_an_observation():
    """One-hot, divided by 255, flattened and side by side, in jax's order of the names."""
    config = TREE.replace(initialization="uniform")
    params = ppo.policy(config).init(jax.random.key(0))
    rng = np.random.default_rng(0)
    goal, image = rng.integers(3, size=7), rng.integers(256, size=(7, 4, 4, 1), dtype=np.uint8)
    observation = {"vector": rng.normal(size=(7, 2)), "image": image, "goal": goal}
    inputs = np.hstack([np.eye(3)[goal], image.reshape(7, 16) / 255, observation["vector"]])
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, float), params.trainable["network"])
    hidden, output = layers["critic"]["hidden_0"], layers["critic"]["output"]
    expected = np.tanh(inputs @ hidden["kernel"] + hidden["bias"]) @ output["kernel"]
    np.testing.assert_allclose(
        ppo.value(params, observation, config), (expected + output["bias"])[:, 0], atol=1e-6
    )


@pytest.mark.parametrize("normalized", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_network_of_ones_own_trains_on_all_parts(normalized):
    config = TREE.replace(network=Shared(2), normalize_observation=normalized)
    before = some_state(jax.random.key(0), config)
    state, metrics = quick_jit(ppo.update)(before, config)
    assert np.isfinite(metrics.policy_loss)
    assert metrics.actor_grad_norm > 0
    assert metrics.critic_grad_norm == 0  # a shared torso is the actor's
    assert types(state.params.trainable) == types(before.params.trainable)


def test_a_part_that_the_space_lacks_is_refused():
    world = tree_world()
    space = spaces.Dict({"image": world.observation_space.spaces["image"]})
    refused_network("['goal']", "space lacks", env=world._replace(observation_space=space))


@pytest.mark.parametrize(
    ("env", "observation", "said"),
    [
        ("CartPole-v1", np.zeros((2, 3)), r"is \(2, 3\); it must be \(4,\), after any axes"),
        ("CartPole-v1", [0.0] * 4, r"is \[\(\), \(\), \(\), \(\)\]; it must be \(4,\)"),
        ("CartPole-v1", {}, r"is \{\}; it must be \(4,\)"),
        (TREE.env, np.zeros(2), r"is \(2,\); it must be \{'goal': \(\), 'image': \(4, 4, 1\)"),
    ],
)
def test_an_observation_of_another_shape_is_refused(env, observation, said):
    config = SMALL.replace(env=env)
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(
            lambda key: ppo.act(ppo.policy(config).init(key), observation, config),
            jax.random.key(0),
        )
