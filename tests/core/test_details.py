"""Details of docs/details.md that no other test holds: images, and what is left to the user."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ppo_jax import ppo, spaces
from ppo_jax.env import Environment, Step
from tests.helpers.own_parts import SMALL, collected, init, teller
from tests.helpers.quick import quick_jit

# Images -------------------------------------------------------------------------------------------


def screen(shape, dtype=jnp.uint8):
    """An environment of images, for policies; nothing is ever played in it."""

    def step(_, state, action):
        return state, Step(jnp.zeros(shape, dtype), 0.0, False, False)

    space = spaces.Box(0, 255 if dtype == jnp.uint8 else 1, shape, dtype)
    return Environment(lambda _: ((), jnp.zeros(shape, dtype)), step, space, spaces.Discrete(6), 9)


def test_cnn_for_large_images_has_the_layers_of_mnih_et_al_twice():
    """Of 84 × 84 × 4; the strides are in the 7 × 7 × 64 numbers that the dense layer takes."""
    config = SMALL.replace(env=screen((84, 84, 4)), network="cnn", hidden_sizes=(512,))
    network = init(config).params.trainable["network"]
    assert set(network) == {"actor", "critic"}
    for half, outputs in (("actor", 6), ("critic", 1)):
        kernels = {leaf.shape for leaf in jax.tree.leaves(network[half]) if len(leaf.shape) > 1}
        convolutions = {(8, 8, 4, 32), (4, 4, 32, 64), (3, 3, 64, 64)}
        assert kernels == {*convolutions, (7 * 7 * 64, 512), (512, outputs)}


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_bytes_of_images_are_divided_by_255(network):
    images = np.random.default_rng(0).integers(256, size=(5, 4, 4, 2), dtype=np.uint8)
    of_bytes, of_floats = (
        SMALL.replace(env=screen((4, 4, 2), dtype), network=network, initialization="uniform")
        for dtype in (jnp.uint8, jnp.float32)
    )
    params = quick_jit(lambda key: ppo.policy(of_bytes).init(key))(jax.random.key(0))
    found = ppo.value(params, images, of_bytes)
    scaled = ppo.value(params, images.astype(np.float32) / 255, of_floats)
    np.testing.assert_allclose(found, scaled, rtol=1e-5, atol=1e-6)
    assert np.ptp(found) > 0.01


# Wrappers, which are functions of an environment --------------------------------------------------


def begin_idle(environment, most):
    """0 to `most` steps of action 0 before an episode."""

    def reset(key):
        state, observation = environment.reset(key)

        def step(index, carry):
            state, found = environment.step(jax.random.fold_in(key, index), carry[0], jnp.int32(0))
            return state, found.observation

        steps = jax.random.randint(key, (), 0, most + 1)
        return jax.lax.fori_loop(0, steps, step, (state, observation))

    return environment._replace(reset=reset)


def repeat_action(environment, times):
    """Every action `times` times: the largest of the last two observations, the sum of rewards."""

    def step(key, state, action):
        found = []
        for own_key in jax.random.split(key, times):
            state, one = environment.step(own_key, state, action)
            found.append(one)
        observation = jnp.maximum(found[-2].observation, found[-1].observation)
        reward = sum(one.reward for one in found)
        return state, found[-1]._replace(observation=observation, reward=reward)

    return environment._replace(step=step)


def sign_rewards(environment):
    def step(key, state, action):
        state, found = environment.step(key, state, action)
        return state, found._replace(reward=jnp.sign(found.reward))

    return environment._replace(step=step)


def stack(environment, frames):
    """The last observations, [frames, ...], the newest last."""

    def reset(key):
        state, observation = environment.reset(key)
        seen = jnp.stack([observation] * frames)
        return (state, seen), seen

    def step(key, state, action):
        state, seen = state
        state, found = environment.step(key, state, action)
        seen = jnp.concatenate([seen[1:], found.observation[None]])
        return (state, seen), found._replace(observation=seen)

    shape = (frames, *environment.observation_space.shape)
    space = spaces.Box(-jnp.inf, jnp.inf, shape)
    return environment._replace(reset=reset, step=step, observation_space=space)


def test_repeated_actions_stacks_and_signs_are_functions_of_an_environment():
    """In an environment that tells its time, of which every step is two here, for 6 steps."""
    world = sign_rewards(stack(repeat_action(teller(), 2), 3))
    _, transitions = collected(SMALL.replace(env=world))
    step = np.arange(8) % 6
    times = 2 * np.maximum(step[:, None] + [-2, -1, 0], 0)
    for observation, expected in (
        (transitions.observation, times),
        (transitions.final_observation, np.column_stack([times[:, 1:], 2 * (step + 1)])),
    ):
        for environment in range(2):
            np.testing.assert_array_equal(observation[:, environment, :, 0], expected)
    np.testing.assert_array_equal(transitions.reward, 1)
    np.testing.assert_array_equal(transitions.done[:, 0], step == 5)


def test_an_idle_beginning_is_a_function_of_an_environment():
    reset = jax.vmap(begin_idle(teller(), 3).reset)
    observation = reset(jax.random.split(jax.random.key(0), 64))[1]
    assert set(np.asarray(observation[:, 0]).tolist()) == {0, 1, 2, 3}


# Actions that are not valid everywhere ------------------------------------------------------------


class Masked(nn.Module):
    """Logits far below all others where the observation says that an action is invalid."""

    num_outputs: int

    @nn.compact
    def __call__(self, observation):
        place = observation["place"]
        logits = nn.Dense(self.num_outputs, name="actor")(place)
        value = nn.Dense(1, name="critic")(place)[:, 0]
        return jnp.where(observation["valid"] > 0, logits, -1e9), value


def corridors():
    """Of four actions two are valid, other ones in every step."""

    def observe(time):
        valid = (jnp.arange(4) + time) % 4 < 2
        return {"place": jnp.sin(jnp.arange(3.0) * time), "valid": valid.astype(jnp.float32)}

    def step(_, time, action):
        reward = jnp.where(action == time % 4, 1.0, 0.0)
        return time + 1, Step(observe(time + 1), reward, False, False)

    space = spaces.Dict({"place": spaces.Box(-1, 1, (3,)), "valid": spaces.Box(0, 1, (4,))})
    start = jnp.zeros((), jnp.int32)
    return Environment(lambda _: (start, observe(start)), step, space, spaces.Discrete(4), 6)


def test_a_network_of_ones_own_can_mask_actions():
    """Those are never drawn, count for nothing in the entropy, and the gradients stay finite."""
    config = SMALL.replace(env=corridors(), network=Masked, num_steps=32, entropy_coefficient=0.1)
    _, transitions = collected(config)
    valid = np.take_along_axis(
        np.asarray(transitions.observation["valid"]), np.asarray(transitions.action)[..., None], 2
    )
    assert valid.all()
    assert set(np.unique(transitions.action)) == {0, 1, 2, 3}
    state, metrics = quick_jit(ppo.train)(jax.random.key(0), config)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert (metrics.actor_grad_norm > 0).all()
    assert 0.1 < metrics.entropy.min() <= metrics.entropy.max() < np.log(2) + 1e-6
