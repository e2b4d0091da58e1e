"""Environments of other packages, beside the packages' own steps; a package that is not installed
is skipped by its name."""

import functools
from collections import namedtuple
from importlib import import_module

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import env, ppo, recipe
from ppo_jax.env import check_environment
from ppo_jax.envs import check, suites
from tests.helpers.commands import refused
from tests.helpers.own_parts import refusal
from tests.helpers.quick import quick_jit

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the packages themselves
    pytest.mark.filterwarnings("ignore:Brax System"),  # it is maintained no longer
]
SUITES = [*suites.PACKAGES, "envelope"]
SLOW = {"brax", "craftax", "playground"}  # to compile
Own = namedtuple("Own", "reset step")  # key -> state, observation; -> state, (those of its step)


@pytest.fixture(autouse=True)
def packages_may_promote_ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


def needs(name):
    suite = name.partition("::")[0]
    return pytest.mark.skipif(not suites.is_installed(suite), reason=f"{suite} is not installed")


def installed(*names):
    """Parameters of a test, each a suite or an environment of one."""
    return [
        pytest.param(name, marks=[needs(name), *[pytest.mark.slow] * (name in SLOW)])
        for name in names
    ]


def small(name, **overrides):
    sizes = {"num_envs": 2, "num_steps": 6, "num_minibatches": 2, "num_updates": 2}
    return recipe("fast", env=name, **{**sizes, "hidden_sizes": (8,), "reset_pool": 3, **overrides})


# The oracles: every suite's own environment, as its documentation steps it


def with_state(world):
    """brax's interface: the state holds what there is to know."""
    return Own(
        lambda key: (state := world.reset(key), state.obs),
        lambda _, state, action: (
            state := world.step(state, action),
            (state.obs, state.reward, state.done),
        ),
    )


def own_brax():
    return with_state(import_module("brax.envs").get_environment("inverted_pendulum"))


def own_playground():
    suite = import_module("mujoco_playground").dm_control_suite
    return with_state(suite.load("CartpoleBalance", config_overrides={"impl": "jax"}))


def own_craftax():
    make = import_module("craftax.craftax_env").make_craftax_env_from_name
    world = make("Craftax-Classic-Symbolic-v1", auto_reset=False)
    parameters = world.default_params.replace(day_length=20, max_timesteps=30)

    def step(key, state, action):
        observation, state, reward, done, _ = world.step(key, state, action, parameters)
        return state, (observation, reward, done)

    return Own(lambda key: world.reset(key, parameters)[::-1], step)


def own_jumanji():
    world = import_module("jumanji").make("Snake-v1")

    def reset(key):
        state, timestep = world.reset(key)
        return state, timestep.observation

    def step(_, state, action):
        state, timestep = world.step(state, action)
        return state, (timestep.observation, timestep.reward, timestep.last())

    return Own(reset, step)


def own_navix():
    world = import_module("navix").make("Navix-Empty-5x5-v0")

    def step(_, timestep, action):
        timestep = world.step(timestep, action)
        return timestep, (timestep.observation, timestep.reward, timestep.is_done())

    return Own(lambda key: (timestep := world.reset(key), timestep.observation), step)


def own_envelope():
    """gymnax' CartPole, which jax-envelope names as well; it splits keys in its own way, which
    only a reset's draw depends on."""
    world, parameters = gymnax.make("CartPole-v1")

    def reset(key):
        return world.reset(jax.random.split(key)[1], parameters)[::-1]

    def step(key, state, action):
        observation, state, reward, done, _ = world.step_env(key, state, action, parameters)
        return state, (observation, reward, done)

    return Own(reset, step)


# Their ids, changes of the configuration, an action for each of 40 steps (none: random ones), and
# how the first episode ends: "terminated", "truncated", or not ("")
CASES = {
    "brax": ("brax::inverted_pendulum", {}, np.full((40, 1), 0.3, np.float32), "terminated"),
    "playground": ("playground::CartpoleBalance", {"max_episode_steps": 50}, None, ""),
    "craftax": (
        "craftax::Craftax-Classic-Symbolic-v1",
        {"env_params": {"day_length": 20.0}, "max_episode_steps": 30},
        None,
        "truncated",
    ),
    "jumanji": ("jumanji::Snake-v1", {}, np.full(40, 1), "terminated"),
    # Two forward, to the right, two forward: at the goal.
    "navix": ("navix::Navix-Empty-5x5-v0", {}, np.array([2, 2, 1, 2, 2] * 8), "terminated"),
    "envelope": ("gymnax::CartPole-v1", {}, np.zeros(40, np.int32), "terminated"),
}


@pytest.mark.parametrize("suite", installed(*SUITES))
def test_an_adapter_steps_as_the_suite_itself(suite):
    """From the same key with the same actions, to the first episode's end: every observation, the
    final one too, every reward, and the end, by the right flag."""
    name, changes, actions, ending = CASES[suite]
    config = small(name, **changes)
    ours, own = env.make(config), globals()[f"own_{suite}"]()
    keys = jax.random.split(jax.random.key(2), 40)
    if actions is None:
        actions = jax.vmap(lambda key: check.random_action(key, ours.action_space))(keys)

    @quick_jit
    def play(key):
        def step(states, inputs):
            mine, found = ours.step(inputs[0], states[0], inputs[1])
            theirs, expected = own.step(inputs[0], states[1], inputs[1])
            return (mine, theirs), (found, expected)

        (mine, first), (theirs, expected) = ours.reset(key), own.reset(key)
        return (first, expected), jax.lax.scan(step, (mine, theirs), (keys, jnp.asarray(actions)))[
            1
        ]

    first, (found, (observation, reward, done)) = jax.tree.map(np.asarray, play(jax.random.key(1)))
    steps = int(np.argmax(done)) + 1 if np.any(done) else 40
    assert (steps < 40) == bool(ending)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
    jax.tree.map(close, *first)
    mine, theirs = (found.observation, found.reward), (observation, reward)
    jax.tree.map(lambda one, other: close(one[:steps], other[:steps]), mine, theirs)
    np.testing.assert_array_equal(
        found.terminated[:steps], (done * (ending == "terminated"))[:steps]
    )
    np.testing.assert_array_equal(found.truncated[:steps], (done * (ending == "truncated"))[:steps])


@pytest.mark.parametrize("suite", installed(*SUITES))
def test_an_adapter_has_nothing_that_would_go_wrong_later(suite):
    name, changes, *_ = CASES[suite]
    assert check_environment(small(name, **changes)) == []


TRAINED = {
    "brax": "brax::inverted_pendulum",
    "playground": "playground::CartpoleBalance",
    "craftax": "craftax::Craftax-Classic-Symbolic-v1",
    "jumanji": "jumanji::Game2048-v1",  # without a time limit of its own
    "navix": "navix::Navix-Empty-8x8-v0",
    "envelope": "gymnax::Pendulum-v1",
}


@pytest.mark.parametrize("suite", installed(*SUITES))
def test_a_suite_trains_and_every_step_is_one_of_an_episode(suite):
    """Episodes of three steps, two of each environment in every rollout: no reset takes a step."""
    config = small(TRAINED[suite], max_episode_steps=3, log_std_init=-3.0)  # no pendulum falls yet
    state, metrics = quick_jit(ppo.train)(jax.random.key(0), config)
    for leaf in jax.tree.leaves(state.params):
        assert np.isfinite(leaf).all()
    np.testing.assert_array_equal(metrics.episodes, [4, 4])
    np.testing.assert_array_equal(metrics.episode_length, [3, 3])


# What is special to one of them


@pytest.mark.slow
@needs("craftax")
def test_death_in_craftax_is_a_termination_also_at_the_time_limit():
    environment = env.make(small(TRAINED["craftax"], max_episode_steps=1))
    key = jax.random.key(0)
    state, _ = jax.jit(environment.reset)(key)
    step = quick_jit(lambda state: environment.step(key, state, jnp.int32(0))[1])
    alive, dead = (
        step(state),
        step(state.replace(player_health=jnp.zeros_like(state.player_health))),
    )
    assert (bool(alive.terminated), bool(alive.truncated)) == (False, True)
    assert bool(dead.terminated)


@needs("craftax")
def test_parameters_of_craftax_are_known_by_name():
    config = small(TRAINED["craftax"])
    assert env.parameter(config, "day_length") == 300
    assert env.make(config).max_episode_steps == 10_000
    with pytest.raises(ValueError, match="'day_lenth'; there are: day_length"):
        env.parameter(config, "day_lenth")
    refusal(
        *("max_timesteps is static", "max_episode_steps"),
        env=config.env,
        env_params={"max_timesteps": 5.0},
    )


@needs("jumanji")
def test_jumanjis_games_of_several_agents_are_refused():
    refusal("jumanji::Connector-v3", "10 agents", env="jumanji::Connector-v3")


@needs("navix")
def test_navix_own_time_limit_is_a_truncation():
    config = small("navix::Navix-Empty-8x8-v0", env_kwargs={"max_steps": 5})
    environment = env.make(config)
    assert environment.max_episode_steps == 5
    state, _ = environment.reset(jax.random.key(0))
    step = jax.jit(lambda state: environment.step(jax.random.key(0), state, jnp.int32(0)))
    for count in range(1, 6):
        state, found = step(state)
        assert (bool(found.terminated), bool(found.truncated)) == (False, count == 5)


@pytest.mark.parametrize("name", installed("brax::antt", "craftax::Craftax-v1", "jumanji::snake"))
def test_an_unknown_id_names_its_neighbours(name):
    suite, _, identifier = name.partition("::")
    near = {"antt": "ant", "Craftax-v1": "Craftax-Pixels-v1", "snake": "Snake-v1"}[identifier]
    refusal(f"'{name}' is unknown to {suite}", "near it: ", near, env=name)


# Where nothing is installed


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(suites, "find_spec", lambda _: None)


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("suite", suites.PACKAGES)
def test_an_absent_package_is_one_line_with_the_extra(suite):
    remedy = f"environments of {suite} need its package: pip install 'ppo-jax[{suite}]'"
    refused(2, remedy, "train", "--env", f"{suite}::any", "--num-updates", 1)
    refused(2, remedy, "envs", suite)


@pytest.mark.usefixtures("nothing_installed")
def test_any_other_suite_is_jax_envelopes():
    refused(2, "no adapter for the suite 'kinetix'", "train", "--env", "kinetix::any")
    refusal("pip install 'ppo-jax[envelope]'", "brax, craftax, jumanji", env="kinetix::any")


@pytest.mark.parametrize(
    ("version", "said"), [((3, 11), ", on Python 3.12 or later"), ((3, 12), "")]
)
@pytest.mark.usefixtures("nothing_installed")
def test_what_needs_a_later_python_says_so(monkeypatch, version, said):
    monkeypatch.setattr(suites.sys, "version_info", version)
    with pytest.raises(ValueError, match=rf"pip install 'ppo-jax\[navix\]'{said}$"):
        suites.find("navix::any")
