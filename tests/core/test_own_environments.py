"""Environments of one's own: how they are found, time limits, what is wrong with them."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments.classic_control.cartpole import CartPole

from ppo_jax import env, ppo, spaces
from ppo_jax.env import check_environment
from ppo_jax.envs import sources
from tests.helpers.own_parts import (
    HERE,
    LOW,
    SMALL,
    Corridor,
    collected,
    flags,
    init,
    refusal,
    teller,
    tree_world,
)
from tests.helpers.quick import quick_jit

# How they are found


def test_an_environment_of_ones_own_trains():
    _, metrics = quick_jit(ppo.train)(jax.random.key(0), SMALL.replace(env=teller(end=4)))
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


def test_constants_of_a_file_that_is_first_loaded_in_a_trace_are_arrays(tmp_path, monkeypatch):
    (tmp_path / "own_constants.py").write_text(
        f"import jax.numpy as jnp\nfrom {HERE} import make_teller\n\nENDS = jnp.array([3, 4])\n\n"
        "def make():\n    return make_teller(ENDS[1])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = SMALL.replace(env="own_constants:make")
    jax.eval_shape(lambda key: ppo.init(key, config), jax.random.key(0))
    terminated, _ = flags(config)
    np.testing.assert_array_equal(terminated, np.arange(1, 9) >= 4)


@pytest.fixture
def registered():
    gymnax.register("Probe-corridor", Corridor)
    yield "Probe-corridor"
    gymnax.registered_envs.remove("Probe-corridor")
    del gymnax.registration._registry["Probe-corridor"]
    sources._load_named.cache_clear()


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


class CutShort(Corridor):
    """It has no time limit among its parameters, and truncates by a rule of its own."""

    def is_truncated(self, state, params):
        return state.time >= 3


def test_a_gymnax_environment_may_truncate_by_its_own_rule():
    terminated, truncated = flags(SMALL.replace(env=CutShort(5), max_episode_steps=7))
    np.testing.assert_array_equal(truncated, np.arange(1, 9) >= 3)
    np.testing.assert_array_equal(terminated, np.arange(1, 9) >= 5)


def test_a_time_limit_that_is_infinite_is_none():
    endless = CartPole().default_params.replace(max_steps_in_episode=np.inf)
    refusal("no time limit of its own", env=(CartPole(), endless))


@pytest.mark.parametrize(
    ("first", "later", "allowed"),
    [
        (jnp.zeros(2, jnp.int32), jnp.array([0.5, 0.25]), False),
        (jnp.zeros(2, jnp.uint8), jnp.array([300, -1]), False),
        (jnp.zeros(2, bool), jnp.ones(2), False),
        (jnp.zeros(2), jnp.array([1, 2]), True),
        (jnp.zeros(2, jnp.int32), jnp.array([1, 2], jnp.int8), True),
        (jnp.zeros(2, jnp.bfloat16), jnp.ones(2), True),
    ],
)
def test_a_step_whose_numbers_a_resets_type_cannot_hold_is_refused(first, later, allowed):
    world = changed(
        reset=lambda state, _: (state, first),
        step=lambda state, step: (state, step._replace(observation=later)),
        observation_space=spaces.Box(-np.inf, np.inf, (2,)),
    )
    if allowed:
        found = jax.eval_shape(ppo.train, jax.random.key(0), SMALL.replace(env=world))
        assert found[0].rollout.observation.dtype == first.dtype
    else:
        message = f"gives {later.dtype} where its reset gave {first.dtype}; give it one type"
        refusal(message, call=trained, env=world)


def trained(config):
    jax.eval_shape(ppo.train, jax.random.key(0), config)


def test_an_episode_that_terminates_in_infinity_leaves_the_agent_finite():
    """Its last observation is stored, and has no value."""

    def explode(state, step):
        seen = jnp.where(state[0] >= 4, jnp.inf, step.observation)
        return state, step._replace(observation=seen, terminated=state[0] >= 4)

    world = changed(step=explode)
    state, metrics = quick_jit(ppo.train)(jax.random.key(0), SMALL.replace(env=world))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert np.isfinite(metrics.value_loss).all()


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
        ({"env": (teller().reset, teller().step)}, ["is a tuple", "ppo_jax.env.Environment"]),
        ({"env": "json:dumps"}, ["json:dumps", "missing 1 required"]),
        ({"env": "json:JSONDecoder"}, ["json:JSONDecoder is a JSONDecoder", "Environment"]),
        ({"env": "no_such_file:World"}, ["no_such_file:World", "No module named", "module:name"]),
        ({"env": f"{HERE}:no_such"}, [f"{HERE}:no_such", "no attribute 'no_such'"]),
    ],
)
def test_what_is_no_environment_is_refused(overrides, fragments):
    refusal(*fragments, **overrides)


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


def leaves_jax(convert):
    return changed(step=lambda state, step: (state, step._replace(reward=convert(state[0]))))


def line_of(function):
    return function.__code__.co_firstlineno


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
    "no timestep": (
        changed(step=lambda state, step: (state, 1.0)),
        ["step gives (state, a", "give (state, ppo_jax.env.Step(observation, reward, terminated,"],
    ),
    "a gymnasium step": (
        changed(step=lambda state, step: (*step, {})),
        ["step gives a tuple of 5; it must give (state, ppo_jax.env.Step("],
    ),
    "a reset of one thing": (
        changed(reset=lambda state, observation: observation),
        ["reset gives an array; it must give (state, observation)"],
    ),
    "raises in a step": (
        changed(step=raises),
        ["cannot be traced: the wheel came off", f"({__file__}, line {line_of(raises) + 1})"],
    ),
    "raises in a reset": (changed(reset=raises), ["cannot be traced: the wheel came off"]),
    "branches on a tracer": (
        changed(step=branches),
        [
            *("cannot be traced", "boolean conversion", "jnp.where"),
            f"({__file__}, line {line_of(branches) + 1})",
        ],
    ),
    "numpy on a tracer": (
        leaves_jax(np.asarray),
        ["__array__", "; use jax.numpy in place of numpy"],
    ),
    "a number of a tracer": (leaves_jax(float), ["concrete value", "without float() or int()"]),
    "NaN after a while": (nan_from(4), ["an observation is NaN or infinite after step 4 "]),
    "NaN at once": (
        changed(reset=lambda state, observation: (state, observation * jnp.inf)),
        ["an observation is NaN or infinite after reset"],
    ),
    "infinite reward": (with_timestep(reward=jnp.inf), ["a reward is NaN or infinite", "step 1 "]),
    "no limit": (changed(max_episode_steps=None), ["no time limit; give max_episode_steps"]),
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


def test_parameters_of_ones_own_environment_are_no_fault_of_its_functions():
    (finding,) = check_environment(SMALL.replace(env=teller(), env_params={"g": 1.0}))
    assert finding.startswith("env_params g: only a gymnax environment has parameters")


def test_two_faults_are_two_findings():
    world = with_timestep(reward=jnp.ones(1), terminated=1.5)
    assert len(check_environment(world)) == 2


class Forgetful(Corridor):
    """Its clock changes its type."""

    def step_env(self, key, state, action, params):
        observation, state, reward, terminated, info = super().step_env(key, state, action, params)
        return observation, state.replace(time=state.time + 0.5), reward, terminated, info


def test_a_gymnax_environment_of_ones_own_is_checked_alike():
    assert check_environment(SMALL.replace(env=Corridor(), max_episode_steps=9)) == []
    (finding,) = check_environment(Forgetful())
    assert "state.time is int32[] after reset and float32[] after step" in finding


SOUND = {
    "ends": teller(end=4),
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
