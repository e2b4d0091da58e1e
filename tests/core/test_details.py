"""Details of docs/details.md that no other test holds: images, and actions that are invalid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ppo_jax import ppo, spaces
from ppo_jax.env import Environment, Step
from tests.helpers.own_parts import SMALL, collected, init
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
