"""Environments, networks and optimizers of one's own: what is taken, and what is refused."""

import dataclasses
import subprocess
import sys
from typing import Any

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import struct
from gymnax.environments import environment as gymnax_environment
from gymnax.environments import spaces as gymnax_spaces
from gymnax.environments.classic_control.cartpole import CartPole

from ppo_jax import env, optimizer, ppo, recipe, rollout, spaces
from ppo_jax.config import with_hyperparameters
from ppo_jax.env import Environment, Step, check_environment

SMALL = recipe("fast", num_envs=2, num_steps=8, num_minibatches=2, num_updates=2, hidden_sizes=(8,))


TWO_ACTIONS = spaces.Discrete(2)


def teller(action_space=TWO_ACTIONS, end=1000, limit=6):
    """An environment that tells its time and the last action that it was given, in a row."""
    width = int(np.prod(action_space.shape))

    def observe(state):
        time, action = state
        return jnp.concatenate([time.astype(float)[None], action])

    def reset(_):
        state = jnp.zeros((), jnp.int32), jnp.zeros(width)
        return state, observe(state)

    def step(_, state, action):
        assert action.shape == action_space.shape
        state = state[0] + 1, jnp.asarray(action, float).reshape(width)
        return state, Step(observe(state), 1.0, state[0] >= end, False)

    space = spaces.Box(-jnp.inf, jnp.inf, (1 + width,))
    return Environment(reset, step, space, action_space, limit)


def make_teller(end=1000):
    """A factory, for the path of this module."""
    return teller(end=end)


@struct.dataclass
class CorridorState(gymnax_environment.EnvState):
    time: int


@struct.dataclass
class CorridorParams:
    step_reward: float = 0.5


class Corridor(gymnax_environment.Environment):
    """A gymnax environment of one's own, without a time limit."""

    def __init__(self, length: int = 3):
        self.length = length

    @property
    def default_params(self):
        return CorridorParams()

    def reset_env(self, key, params):
        return jnp.zeros(1), CorridorState(time=0)

    def step_env(self, key, state, action, params):
        state = CorridorState(time=state.time + 1)
        observation = jnp.asarray(state.time, float)[None]
        return observation, state, params.step_reward, state.time >= self.length, {}

    def observation_space(self, params):
        return gymnax_spaces.Box(0, 100, (1,))

    def action_space(self, params=None):
        return gymnax_spaces.Discrete(2)


class Shared(nn.Module):
    """One torso for both heads."""

    num_outputs: Any
    dtype: Any = None

    @nn.compact
    def __call__(self, observation):
        flat = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(observation)]
        inputs = jnp.concatenate([leaf.astype(float) for leaf in flat], axis=1)
        hidden = nn.tanh(nn.Dense(8, dtype=self.dtype, name="torso")(inputs))
        value = nn.Dense(1, dtype=self.dtype, name="value")(hidden)[:, 0]
        several = isinstance(self.num_outputs, tuple)
        sizes = self.num_outputs if several else (self.num_outputs,)
        heads = tuple(nn.Dense(n, dtype=self.dtype, name=f"head_{n}")(hidden) for n in sizes)
        return (heads if several else heads[0]), value


HERE = __name__


def refusal(*fragments, call=env.make, **overrides):
    """That a configuration is refused, in one line that has all fragments."""
    with pytest.raises(ValueError) as caught:
        call(SMALL.replace(**overrides))
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


def init(config):
    """The types of a fresh agent, by tracing alone."""
    return jax.eval_shape(ppo.init, jax.random.key(0), config)


def refused_network(*fragments, **overrides):
    refusal(*fragments, call=init, **overrides)


def types(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def flags(config, steps=8):
    """(terminated, truncated) of an episode's first steps, [steps] each."""
    environment = env.make(config)
    action = jnp.zeros(environment.action_space.shape, jnp.int32)

    @jax.jit
    def play(key):
        def step(state, key):
            state, step = environment.step(key, state, action)
            return state, (step.terminated, step.truncated)

        return jax.lax.scan(step, environment.reset(key)[0], jax.random.split(key, steps))[1]

    return [np.asarray(one) for one in play(jax.random.key(0))]


# Environments


def test_an_environment_of_ones_own_trains():
    _, metrics = jax.jit(ppo.train)(jax.random.key(0), SMALL.replace(env=teller(end=4)))
    np.testing.assert_array_equal(metrics.episode_length, [4, 4])
    np.testing.assert_array_equal(metrics.episode_return, [4, 4])
    assert metrics.episodes.tolist() == [4, 4]
    assert np.isfinite(metrics.policy_loss).all()


def test_a_factory_in_a_file_is_found_by_its_path(tmp_path, monkeypatch):
    """And is called with `env_kwargs`; its environment keeps what the file says."""
    (tmp_path / "own_worlds.py").write_text(
        f"from {HERE} import make_teller\n\ndef long(times=1):\n    return make_teller(2 * times)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    terminated, _ = flags(SMALL.replace(env="own_worlds:long"))
    np.testing.assert_array_equal(terminated, np.arange(1, 9) >= 2)
    terminated, _ = flags(SMALL.replace(env="own_worlds:long", env_kwargs={"times": 3}))
    np.testing.assert_array_equal(terminated, np.arange(1, 9) >= 6)
    refusal(
        "own_worlds:long",
        "time 3",
        "unexpected keyword argument",
        env="own_worlds:long",
        env_kwargs={"time": 3},
    )


@pytest.fixture
def registered():
    gymnax.register("Probe-corridor", Corridor)
    yield "Probe-corridor"
    gymnax.registered_envs.remove("Probe-corridor")
    del gymnax.registration._registry["Probe-corridor"]
    env._load_named.cache_clear()


def test_a_registered_name_is_taken_with_its_arguments_and_parameters(registered):
    config = SMALL.replace(
        env=registered,
        max_episode_steps=7,
        env_kwargs={"length": 5},
        env_params={"step_reward": 0.25},
    )
    terminated, truncated = flags(config)
    np.testing.assert_array_equal(terminated, np.arange(1, 9) >= 5)
    np.testing.assert_array_equal(truncated, np.arange(1, 9) >= 7)
    environment = env.make(config)
    state, _ = environment.reset(jax.random.key(0))
    assert environment.step(jax.random.key(0), state, jnp.int32(0))[1].reward == 0.25
    refusal(registered, "no time limit", "max_episode_steps", env=registered)


def test_a_gymnax_object_is_the_environment_of_that_name():
    key = jax.random.key(0)
    steps = []
    for given in ("CartPole-v1", CartPole()):
        environment = env.make(SMALL.replace(env=given))
        state, _ = environment.reset(key)
        steps.append(environment.step(key, state, jnp.int32(1))[1])
        assert environment.max_episode_steps == 500
    jax.tree.map(np.testing.assert_array_equal, *steps)


@pytest.mark.parametrize(
    ("name", "kwargs", "shape"),
    [
        ("DeepSea-bsuite", {"size": 5}, (5, 5)),
        ("FourRooms-misc", {"use_visual_obs": True}, (13, 13, 2)),
    ],
)
def test_arguments_change_the_shape_of_observations(name, kwargs, shape):
    config = SMALL.replace(env=name, env_kwargs=kwargs)
    assert init(config).rollout.observation.shape == (2, *shape)
    assert env.make(config).observation_space.shape == shape


def test_a_larger_map_has_more_observations():
    config = SMALL.replace(env="FrozenLake-misc", env_kwargs={"map_name": "8x8"})
    assert env.make(config).observation_space.n == 64
    assert init(config).params.trainable["network"]["actor"]["hidden_0"]["kernel"].shape == (64, 8)


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        (
            {"env": "DeepSea-bsuite", "env_kwargs": {"sise": 5}},
            ["sise 5", "DeepSea-bsuite", "unexpected keyword argument"],
        ),
        ({"env": teller(), "env_kwargs": {"size": 5}}, ["size", "made already", "constructor"]),
        ({"env": teller(), "env_params": {"gravity": 5.0}}, ["gravity", "only a gymnax"]),
        ({"env": f"{HERE}:make_teller", "env_params": {"g": 5.0}}, [f"{HERE}:make_teller", "g"]),
        ({"env": teller(limit=None)}, ["no time limit", "max_episode_steps"]),
        ({"env": Corridor}, ["Corridor is a class", "Corridor()"]),
        ({"env": 5}, ["is a int", "package.module:factory"]),
        ({"env": "json:dumps"}, ["json:dumps", "missing 1 required"]),
        ({"env": "json:JSONDecoder"}, ["json:JSONDecoder is a JSONDecoder", "Environment"]),
        ({"env": "no_such_file:World"}, ["no_such_file:World", "No module named", "module:name"]),
        ({"env": f"{HERE}:no_such"}, [f"{HERE}:no_such", "no attribute 'no_such'"]),
        ({"env": "brax::ant"}, ["brax::ant", "no adapter for brax"]),
    ],
)
def test_what_is_no_environment_is_refused(overrides, fragments):
    refusal(*fragments, **overrides)


def test_arguments_that_cannot_be_hashed_are_refused():
    with pytest.raises(ValueError, match=r"^env_kwargs cannot be hashed: its map is a list; .*$"):
        SMALL.replace(env="FrozenLake-misc", env_kwargs={"map": ["SF", "FG"]})


# Time limits


@pytest.mark.parametrize("max_episode_steps", [None, 3])
@pytest.mark.parametrize("time_limit", ["truncate", "terminate"])
@pytest.mark.parametrize("own", [True, False])
def test_the_library_counts_for_environments_that_do_not(own, time_limit, max_episode_steps):
    """Pendulum counts itself: both end alike."""
    config = SMALL.replace(
        env=teller(limit=5) if own else "Pendulum-v1",
        max_episode_steps=max_episode_steps,
        time_limit=time_limit,
    )
    limit = max_episode_steps or (5 if own else 200)
    assert env.make(config).max_episode_steps == limit
    terminated, truncated = flags(config)
    expected = np.arange(1, 9) >= limit
    np.testing.assert_array_equal(truncated, expected)
    np.testing.assert_array_equal(terminated, expected & (time_limit == "terminate"))


def test_every_episode_is_counted_anew():
    _, transitions = collected(SMALL.replace(env=teller(limit=3)))
    expected = np.arange(8) % 3 == 2
    np.testing.assert_array_equal(transitions.truncated, np.stack([expected] * 2, axis=1))
    assert not transitions.terminated.any()


# Actions


def collected(config, params=None):
    """A rollout's final state and transitions, with fresh parameters."""

    @jax.jit
    def collect(key):
        environment, policy = env.make(config), ppo.policy(config)
        state = rollout.start(key, environment, policy, config.num_envs)
        own = policy.init(key) if params is None else params
        return rollout.collect(key, own, state, environment, policy, config)

    return collect(jax.random.key(0))


LOW, HIGH = np.array([[-0.5, -1, -2], [0, 0.5, -0.1]]), np.array([[0.5, 1, 2], [1, 1.5, 0.1]])


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
        (spaces.Discrete(3), False),
        (spaces.MultiDiscrete((2, 5)), False),
        (spaces.Box(LOW, HIGH, (2, 3)), False),
        (spaces.Box(LOW, HIGH, (2, 3)), True),
        (spaces.Box(-0.1, 0.1), False),
    ],
)
def test_acting_gives_what_the_environment_receives(space, squashed):
    config = SMALL.replace(env=teller(space), log_std_init=2.0, squash_action=squashed)
    params = ppo.policy(config).init(jax.random.key(0))
    width = params.trainable["network"]["actor"]["hidden_0"]["kernel"].shape[0]
    observations = np.random.default_rng(0).normal(size=(4, 5, width))
    for key in (None, jax.random.key(1)):
        actions = np.asarray(ppo.act(params, observations, config, key))
        assert actions.shape == (4, 5, *space.shape)
        if isinstance(space, spaces.Box):
            low, high = np.float32(space.low), np.float32(space.high)
            assert (actions >= low).all()
            assert (actions <= high).all()
        else:
            sizes = np.array(space.n if isinstance(space, spaces.Discrete) else space.nvec)
            assert np.issubdtype(actions.dtype, np.integer)
            assert (actions >= 0).all()
            assert (actions < sizes).all()


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


def test_actions_without_a_policy_are_refused():
    world = teller()._replace(action_space=spaces.Dict({"a": spaces.Discrete(2)}))
    refused_network("Dict", "Discrete, MultiDiscrete and Box", env=world)


# Observations


def tree_world():
    """Its observation is a dict of an image of bytes, a vector and a whole number: the time in
    each."""

    def observe(time):
        return {
            "vector": jnp.stack([time / 4, -time / 4]),
            "image": jnp.full((4, 4, 1), 51 * time, jnp.uint8),
            "goal": time % 3,
        }

    def reset(_):
        time = jnp.zeros((), jnp.int32)
        return time, observe(time)

    def step(_, time, action):
        return time + 1, Step(observe(time + 1), 1.0, False, False)

    space = spaces.Dict(
        {
            "vector": spaces.Box(-1, 1, (2,)),
            "image": spaces.Box(0, 255, (4, 4, 1), jnp.uint8),
            "goal": spaces.Discrete(3),
        }
    )
    return Environment(reset, step, space, spaces.Discrete(2), 5)


TREE = SMALL.replace(env=tree_world())


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
    state, metrics = jax.jit(ppo.train)(jax.random.key(0), config)
    assert np.isfinite(metrics.policy_loss).all()
    assert (metrics.actor_grad_norm > 0).all()
    np.testing.assert_array_equal(metrics.critic_grad_norm, [0, 0])  # a shared torso is the actor's
    before = ppo.policy(config).init(jax.random.key(0)).trainable
    assert types(state.params.trainable) == types(before)


def test_a_part_that_the_space_lacks_is_refused():
    world = tree_world()
    space = spaces.Dict({"image": world.observation_space.spaces["image"]})
    refused_network("['goal']", "space lacks", env=world._replace(observation_space=space))


# Networks


@pytest.mark.parametrize(
    ("space", "num_outputs", "heads"),
    [
        (spaces.Discrete(3), 3, {"head_3"}),
        (spaces.MultiDiscrete((2, 5)), (2, 5), {"head_2", "head_5"}),
        (spaces.Box(LOW, HIGH, (2, 3)), 6, {"head_6"}),
    ],
)
def test_a_class_or_its_path_is_made_with_the_outputs_that_actions_need(space, num_outputs, heads):
    config = SMALL.replace(env=teller(space))
    instance, by_class, by_path = (
        init(config.replace(network=network))
        for network in (Shared(num_outputs), Shared, f"{HERE}:Shared")
    )
    assert types(instance) == types(by_class) == types(by_path)
    assert set(by_class.params.trainable["network"]) == {"torso", "value"} | heads


class Wrong(nn.Module):
    """A module with one thing wrong."""

    what: str
    extra: Any = ()

    @nn.compact
    def __call__(self, observation):
        hidden = nn.tanh(nn.Dense(4)(observation))
        logits, value = nn.Dense(2)(hidden), nn.Dense(1)(hidden)
        if self.what == "dropout":
            logits = nn.Dropout(0.5, deterministic=False)(logits)
        elif self.what == "batch statistics":
            logits = nn.BatchNorm(use_running_average=False)(logits)
        elif self.what == "raises":
            raise RuntimeError("this head is missing\nand more")
        elif self.what == "no pair":
            return logits
        elif self.what == "logits":
            return nn.Dense(3)(hidden), value[:, 0]
        elif self.what == "list":
            return [logits, logits], value[:, 0]
        elif self.what == "mean value":
            return logits, value.mean()
        elif self.what == "column":
            return logits, value
        return logits, value[:, 0]


class NoParameters(nn.Module):
    @nn.compact
    def __call__(self, observation):
        return observation[:, :2], observation[:, 0]


class WithList(nn.Module):
    num_outputs: int
    widths: list[int] = dataclasses.field(default_factory=lambda: [4, 4])


class WithoutField(nn.Module):
    hidden: int


@pytest.mark.parametrize(
    ("network", "fragments"),
    [
        (Wrong("logits"), ["Wrong gives action_output [B, 3]; it must be [B, 2]"]),
        (Wrong("list"), ["Wrong gives action_output [[B, 2], [B, 2]]; it must be [B, 2]"]),
        (Wrong("column"), ["Wrong gives value [B, 1]; it must be [B]", "value[:, 0]"]),
        (Wrong("mean value"), ["Wrong gives value []; it must be [B]"]),
        (Wrong("no pair"), ["Wrong gives no pair", "(action_output, value)"]),
        (Wrong("raises"), ["Wrong: this head is missing"]),
        (Wrong("batch statistics"), ["Wrong", "batch_stats", "only the collection params"]),
        (Wrong("dropout"), ["Wrong", "Dropout", "only the collection params"]),
        (NoParameters(), ["NoParameters", "collections: none", "only the collection params"]),
        (WithList, ["WithList cannot be hashed", "widths is a list", "a tuple for a list"]),
        (f"{HERE}:WithList", ["WithList cannot be hashed", "widths is a list"]),
        (WithoutField, ["WithoutField", "num_outputs", "give an instance"]),
        (lambda observation: observation, ["<lambda> is a function", "not a flax.linen module"]),
        ("json:JSONDecoder", ["json:JSONDecoder is a type", "not a flax.linen module"]),
        ("no_such_file:Network", ["no_such_file:Network", "No module named", "module:name"]),
        (f"{HERE}:no_such", [f"{HERE}:no_such", "no attribute"]),
        ("cnn", ["cnn takes one image [H, W, C]", "(4,)"]),
    ],
)
def test_what_is_no_network_is_refused(network, fragments):
    refused_network(*fragments, network=network)


def test_logits_of_a_multidiscrete_are_a_tuple():
    world = teller(spaces.MultiDiscrete((2, 5)))
    refused_network(
        "action_output [B, 7]; it must be ([B, 2], [B, 5])", env=world, network=Shared(7)
    )


def test_fields_that_cannot_be_hashed_are_refused_by_the_constructor():
    said = r"^network WithList cannot be hashed: its widths is a list; [^\n]* tuple for a list$"
    with pytest.raises(ValueError, match=said):
        SMALL.replace(network=WithList(2))


def test_a_name_that_is_no_network_is_refused_by_the_constructor():
    with pytest.raises(ValueError, match=r"^network is 'mlpp'; it must be mlp, cnn, package.*$"):
        SMALL.replace(network="mlpp")


def test_cnn_takes_one_image_only():
    refused_network("cnn takes one image", "(3,), (4, 4, 1), (2,)", env=TREE.env, network="cnn")
    refused_network("cnn takes one image", "(10, 5)", env="Catch-bsuite", network="cnn")
    params = init(SMALL.replace(env="Breakout-MinAtar", network="cnn")).params
    kernels = [leaf.shape for leaf in jax.tree.leaves(params) if len(leaf.shape) == 4]
    assert kernels == [(3, 3, 4, 16)] * 2


def test_a_module_whose_initializer_calls_lapack_does_not_lock_up():
    """Batched QR of many agents waits for its own threads on few cores."""
    code = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import jax, jax.numpy as jnp, numpy as np
from flax import linen as nn
from ppo_jax import ppo, recipe

class Network(nn.Module):
    @nn.compact
    def __call__(self, hidden):
        for _ in range(6):
            hidden = nn.Dense(64, kernel_init=nn.initializers.orthogonal())(nn.tanh(hidden))
        return nn.Dense(2)(hidden), nn.Dense(1)(hidden)[:, 0]

config = recipe("fast", network=Network())
init = jax.jit(jax.vmap(lambda key: ppo.init(key, config)))
for call in range(20):
    states = jax.block_until_ready(init(jax.random.split(jax.random.key(call), 64)))
kernel = np.asarray(states.params.trainable["network"]["Dense_1"]["kernel"])
np.testing.assert_allclose(kernel[7].T @ kernel[7], np.eye(64), atol=1e-5)
assert np.ptp(kernel[:, 0, 0]) > 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# Types


@pytest.mark.parametrize("dtype", [None, jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("x64", [False, True])
def test_types_are_stable_whatever_a_module_computes_in(x64, dtype):
    with jax.enable_x64(x64):
        config = SMALL.replace(env=tree_world(), network=Shared(2, dtype), normalize_reward=True)
        config = config.replace(normalize_observation=True)
        state = init(config)
        after, metrics = jax.eval_shape(ppo.update, state, config)
    assert types(after) == types(state)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    floats = state.params, state.reward_statistics, metrics.value_loss, metrics.actor_grad_norm
    assert {leaf.dtype.name for leaf in jax.tree.leaves(floats)} == {f"float{64 if x64 else 32}"}


# Optimizers


def adam():
    """A factory, for the path of this module; the built-in optimizer with optax's own parts."""
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(2.5e-3, eps=1e-5))


def not_an_optimizer():
    return 3


OPTIMIZED = SMALL.replace(anneal_learning_rate=False, initialization="uniform")


def assert_close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), one, other)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scale", [1e-3, 10.0])  # gradients that are not clipped, and are
def test_the_built_in_optimizer_does_what_optax_does_leaf_by_leaf(scale):
    params = jax.jit(lambda key: ppo.policy(OPTIMIZED).init(key).trainable)(jax.random.key(0))
    rng = np.random.default_rng(0)
    results = []
    draws = [
        jax.tree.map(lambda leaf: scale * rng.normal(size=leaf.shape), params) for _ in range(3)
    ]
    for config in (OPTIMIZED, OPTIMIZED.replace(optimizer=f"{HERE}:adam")):
        optimized, to_trainable = optimizer.to_optimized(params, config)
        transformation, state = optimizer.make(config, 1.0), optimizer.init(params, config)
        for gradients in draws:
            gradients = optimizer.to_optimized(gradients, config)[0]
            updates, state = transformation.update(gradients, state, optimized)
            optimized = optax.apply_updates(optimized, updates)
        results.append(to_trainable(optimized))
    assert_close(*results)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), results[0], params)
    assert min(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_training_with_optaxs_own_adam_is_training_with_the_built_in_one():
    own, built_in = (
        jax.jit(ppo.train)(jax.random.key(0), OPTIMIZED.replace(optimizer=given))
        for given in (f"{HERE}:adam", None)
    )
    assert_close(own[0].params, built_in[0].params)
    assert_close(own[1], built_in[1])


def test_an_optimizer_may_be_an_object():
    config = OPTIMIZED.replace(optimizer=optax.adam(1e-3))
    state = init(config)
    assert types(state.optimizer_state[0].mu) == types(state.params.trainable)
    after, _ = jax.eval_shape(ppo.update, state, config)
    assert types(after) == types(state)


@pytest.mark.parametrize(
    ("given", "fragments"),
    [
        (3, ["optimizer", "int", "optax.GradientTransformation"]),
        (f"{HERE}:not_an_optimizer", ["optimizer", "int", "optax.GradientTransformation"]),
        ("json:dumps", ["json:dumps", "missing 1 required"]),
        ("no_such_file:adam", ["no_such_file:adam", "No module named"]),
    ],
)
def test_what_is_no_optimizer_is_refused(given, fragments):
    refused_network(*fragments, optimizer=given)


@pytest.mark.parametrize(
    "name", ["learning_rate", "critic_learning_rate", "adam_epsilon", "max_grad_norm"]
)
def test_what_an_optimizer_replaces_cannot_be_swept_beside_it(name):
    config = SMALL.replace(optimizer=optax.adam(1e-3))
    with pytest.raises(ValueError, match=rf"^{name} is the built-in optimizer's, [^\n]*$"):
        with_hyperparameters(config, {name: np.array([1e-3, 1e-2])})
    swept = with_hyperparameters(config, {"discount": np.array([0.9, 0.99])})
    assert swept.discount.tolist() == [0.9, 0.99]


# What would go wrong later


def changed(reset=None, step=None, **fields):
    """A sound environment with one thing changed; `step` changes the pair that a step gives."""
    world = teller()
    if reset:
        fields["reset"] = lambda key: reset(*world.reset(key))
    if step:
        fields["step"] = lambda key, state, action: step(*world.step(key, state, action))
    return world._replace(**fields)


def with_timestep(**values):
    """A step that gives these values."""
    return changed(step=lambda state, step: (state, step._replace(**values)))


def nan_from(time):
    return changed(
        step=lambda state, step: (
            state,
            step._replace(observation=jnp.where(state[0] >= time, jnp.nan, step.observation)),
        )
    )


def raises(*_):
    raise RuntimeError("the wheel came off\nand more")


def branches(state, step):
    return (state, step._replace(terminated=True)) if state[0] > 3 else (state, step)


FINDINGS = {
    "state of another type": (
        changed(step=lambda state, step: ((state[0] + 0.5, state[1]), step)),
        ["state[0] is int32[] after reset and float32[] after step"],
    ),
    "observation of another type": (
        with_timestep(observation=jnp.zeros(2, jnp.int32)),
        ["observation is float32[2] after reset and int32[2] after step"],
    ),
    "observation of another shape": (
        with_timestep(observation=jnp.zeros(3)),
        ["observation is float32[2] after reset and float32[3] after step"],
    ),
    "another structure": (
        changed(step=lambda state, step: (state[0], step)),
        ["the state is PyTreeDef((*, *)) after reset and PyTreeDef(*) after step"],
    ),
    "space of another shape": (
        changed(observation_space=spaces.Box(-1, 1, (5,))),
        ["an observation has shape (2,), and its space (5,)"],
    ),
    "part without a space": (
        changed(reset=lambda state, observation: (state, {"seen": observation})),
        ["['seen']", "give a Dict"],
    ),
    "space that is none": (changed(observation_space=(2,)), ["tuple is not a space"]),
    "no policy": (
        changed(action_space=spaces.Dict({"a": spaces.Discrete(2)})),
        ["Dict", "Discrete, MultiDiscrete and Box"],
    ),
    "reward of a shape": (with_timestep(reward=jnp.ones(1)), ["reward has shape (1,)", "()"]),
    "reward that is no number": (with_timestep(reward=True), ["reward is bool", "a number"]),
    "flag that is no boolean": (with_timestep(terminated=0), ["terminated is int32", "a boolean"]),
    "flag of a shape": (
        with_timestep(truncated=jnp.zeros(1, bool)),
        ["truncated has shape (1,)", "()"],
    ),
    "no timestep": (changed(step=lambda state, step: (state, 1.0)), ["ppo_jax.env.Step"]),
    "raises in a step": (changed(step=raises), ["cannot be traced: the wheel came off"]),
    "raises in a reset": (changed(reset=raises), ["cannot be traced: the wheel came off"]),
    "branches on a tracer": (changed(step=branches), ["cannot be traced", "boolean conversion"]),
    "NaN after a while": (nan_from(4), ["an observation is NaN or infinite after step 4 "]),
    "NaN at once": (
        changed(reset=lambda state, observation: (state, observation * jnp.inf)),
        ["an observation is NaN or infinite after reset"],
    ),
    "infinite reward": (with_timestep(reward=jnp.inf), ["a reward is NaN or infinite", "step 1 "]),
    "no end": (changed(max_episode_steps=None), ["no episode ended in 50 steps", "max_episode"]),
    "no environment": (3, ["is a int", "Environment"]),
    "no name": ("CartPole-v2", ["'CartPole-v2'", "CartPole-v1"]),
    "no file": ("no_such_file:World", ["no_such_file:World"]),
    "no file with that parameter": (
        SMALL.replace(env="CartPole-v1", env_params={"gravty": 1.0}),
        ["gravty", "gravity"],
    ),
}


@pytest.mark.parametrize("what", FINDINGS)
def test_what_is_wrong_with_an_environment_is_found_in_one_line(what):
    world, fragments = FINDINGS[what]
    findings = check_environment(world, num_steps=50)
    assert len(findings) == 1
    assert "\n" not in findings[0]
    for fragment in fragments:
        assert fragment in findings[0]


def test_two_faults_are_two_findings():
    world = with_timestep(reward=jnp.ones(1), terminated=1.5)
    assert len(check_environment(world)) == 2


class Forgetful(Corridor):
    """Its clock changes its type."""

    def step_env(self, key, state, action, params):
        observation, state, reward, terminated, info = super().step_env(key, state, action, params)
        return observation, state.replace(time=state.time + 0.5), reward, terminated, info


def test_a_gymnax_environment_of_ones_own_is_checked_alike():
    assert check_environment(Corridor()) == []
    (finding,) = check_environment(Forgetful())
    assert "state.time is int32[] after reset and float32[] after step" in finding


SOUND = {
    "ends": teller(end=4, limit=None),
    "has a limit": teller(),
    "many choices": teller(spaces.MultiDiscrete((2, 5))),
    "infinite bounds": teller(spaces.Box(LOW, np.inf, (2, 3))),
    "parts": tree_world(),
    "by name": "CartPole-v1",
    "by path": f"{HERE}:make_teller",
    "configured": SMALL.replace(env=teller(limit=None), max_episode_steps=9),
}


@pytest.mark.parametrize("what", SOUND)
def test_nothing_is_found_in_a_sound_environment(what):
    assert check_environment(SOUND[what], num_steps=100) == []
