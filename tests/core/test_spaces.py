"""Spaces: gymnax's become ours, and every leaf of an observation finds its own."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces as gymnax_spaces

from ppo_jax import network, spaces


def test_gymnaxs_spaces_keep_their_numbers():
    discrete = spaces.convert(gymnax_spaces.Discrete(3))
    assert isinstance(discrete, spaces.Discrete)
    assert (discrete.n, discrete.shape) == (3, ())
    box = spaces.convert(gymnax_spaces.Box(-1.0, np.array([2.0, 3.0]), (2,), jnp.float32))
    assert isinstance(box, spaces.Box)
    assert (box.shape, box.size, box.dtype) == ((2,), 2, jnp.float32)
    np.testing.assert_array_equal(box.high, [2, 3])


def test_dicts_and_tuples_are_converted_throughout():
    inner = gymnax_spaces.Dict({"a": gymnax_spaces.Discrete(2)})
    found = spaces.convert(gymnax_spaces.Tuple([gymnax_spaces.Discrete(4), inner]))
    assert isinstance(found, spaces.Dict)
    assert found.spaces[0].n == 4
    assert found.spaces[1].spaces["a"].n == 2


def test_a_dict_of_ours_may_hold_gymnaxs():
    found = spaces.convert(spaces.Dict({"a": gymnax_spaces.Discrete(2), "b": spaces.Discrete(5)}))
    assert [type(one) for one in found.spaces.values()] == [spaces.Discrete] * 2


@pytest.mark.parametrize("space", [3, None, {"a": spaces.Discrete(2)}])
def test_what_is_no_space_is_refused_in_one_line(space):
    with pytest.raises(ValueError, match=rf"^{type(space).__name__} is not a space; give .*$"):
        spaces.convert(space)


def test_sizes_of_a_multidiscrete_become_whole_numbers():
    space = spaces.MultiDiscrete(np.array([2, 3]))
    assert space.nvec == (2, 3)
    assert all(type(n) is int for n in space.nvec)
    assert space.shape == (2,)
    assert network.num_outputs(space) == (2, 3)


@pytest.mark.parametrize(
    ("space", "wanted"),
    [
        (spaces.Discrete(7), 7),
        (spaces.Box(-1, 1, (2, 3)), 6),
        (spaces.Box(-1, 1), 1),
    ],
)
def test_the_outputs_that_an_action_space_needs(space, wanted):
    assert network.num_outputs(space) == wanted


def test_a_dict_of_actions_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^actions in a Dict space .*Discrete, MultiDiscrete .*$"):
        network.num_outputs(spaces.Dict({"a": spaces.Discrete(2)}))


class Seen(NamedTuple):
    near: int
    far: tuple[int, int]


def test_every_leaf_finds_its_space_in_jaxs_order():
    """Jax sorts a dict's names, whatever their order in the space."""
    spaces_by_name = {"b": spaces.Discrete(2), "a": spaces.Discrete(3)}
    found = spaces.leaves(spaces.Dict(spaces_by_name), {"b": 10, "a": 20})
    assert [space.n for space in found] == [3, 2]
    assert jax.tree.leaves({"b": 10, "a": 20}) == [20, 10]


def test_named_tuples_and_tuples_are_observations_too():
    far = spaces.Dict({0: spaces.Discrete(5), 1: spaces.Discrete(6)})
    space = spaces.Dict({"near": spaces.Discrete(4), "far": far})
    assert [one.n for one in spaces.leaves(space, Seen(1, (2, 3)))] == [4, 5, 6]


@pytest.mark.parametrize(
    ("space", "observation", "part"),
    [
        (spaces.Discrete(2), {"a": 1}, r"\['a'\]"),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"a": 1, "b": 2}, r"\['b'\]"),
        (spaces.Dict({"a": spaces.Discrete(2)}), 1, "without a name"),
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)})}), {"a": 1}, r"\['a'\]"),
    ],
)
def test_an_observation_of_another_structure_is_refused_in_one_line(space, observation, part):
    with pytest.raises(ValueError, match=rf"^the observation has a part {part}, .* give a Dict"):
        spaces.leaves(space, observation)


def test_boxes_like_an_observation_have_the_names_of_its_parts():
    far = {"mask": jnp.ones(4, bool), "pair": (jnp.zeros(()), jnp.zeros(()))}
    observation = Seen(jnp.zeros((2, 3), jnp.int8), far)
    found = spaces.like(observation)
    assert set(found.spaces) == {"near", "far"}
    board, mask, *pair = spaces.leaves(found, observation)
    assert (board.shape, board.dtype, mask.shape, mask.dtype) == ((2, 3), jnp.int8, (4,), bool)
    assert [one.shape for one in pair] == [(), ()]
    assert spaces.like(jnp.zeros(3)).shape == (3,)
