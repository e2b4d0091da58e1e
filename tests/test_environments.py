"""Every environment of gymnax: made, or refused in one line; and what the core may import."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppo_jax
from ppo_jax import env, network, ppo, recipe

SMALL = recipe("fast", num_envs=2, num_steps=4, num_minibatches=2, num_updates=2, hidden_sizes=(8,))

BUILTIN = [name for name in gymnax.registered_envs if not name.startswith("Probe-")]
CONTINUOUS = [
    "MountainCarContinuous-v0",
    "Pendulum-v1",
    "PointRobot-misc",
    "Reacher-misc",
    "Swimmer-misc",
]
NEEDS_DATA = ["MNISTBandit-bsuite"]
DISCRETE = [name for name in BUILTIN if name not in CONTINUOUS + NEEDS_DATA]
# The code of gymnax 1.0.1 itself mixes 32 and 64 bits in these.
BROKEN_IN_X64 = [
    "DiscountingChain-bsuite",
    "Freeway-MinAtar",
    "GaussianBandit-misc",
    "MetaMaze-misc",
]
# Of every kind one; the others, which take longer together, are marked slow.
REPRESENTATIVE = [
    "BernoulliBandit-misc",
    "CartPole-v1",
    "Catch-bsuite",
    "DeepSea-bsuite",
    "FourRooms-misc",
    "FrozenLake-misc",
    "MetaMaze-misc",
    "UmbrellaChain-bsuite",
]


def marked(broken=()):
    """All environments with discrete actions as test parameters."""
    fails = pytest.mark.xfail(raises=TypeError, reason="gymnax", strict=False)
    return [
        pytest.param(
            name,
            marks=[pytest.mark.slow] * (name not in REPRESENTATIVE) + [fails] * (name in broken),
        )
        for name in DISCRETE
    ]


def refusal(*fragments, **overrides):
    """That `env.make` refuses, in one line that has all fragments."""
    with pytest.raises(ValueError) as caught:
        env.make(SMALL.replace(**overrides))
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


# What is refused


def test_an_unknown_environment_names_its_neighbours():
    refusal("'CartPole-v2'", "CartPole-v1", env="CartPole-v2")
    refusal("'breakout'", "Breakout-MinAtar", env="breakout")


def test_an_unknown_environment_like_no_other_says_where_to_look():
    refusal("'xyzzy'", "registered_envs", env="xyzzy")


def test_an_unknown_parameter_names_those_that_there_are():
    refusal("'gravty'", "gravity", "force_mag", env_params={"gravty": 9.8})


def test_the_time_limit_is_no_traced_parameter():
    refusal("max_episode_steps", env_params={"max_steps_in_episode": 100})


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_actions_are_refused(name):
    refusal(name, "Box", "Discrete", env=name)


@pytest.mark.parametrize("reason", ["no route to host", "no route to host\nand more\nof it"])
def test_an_environment_whose_data_are_absent_is_refused(monkeypatch, reason):
    def unreachable(*_):
        raise OSError(reason)

    monkeypatch.setattr("gymnax.utils.load_mnist._download", unreachable)
    refusal("MNISTBandit-bsuite", "no route to host", env="MNISTBandit-bsuite")


def test_a_gymnax_that_knows_no_truncation_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.0.9")
    with pytest.raises(ImportError, match=r"gymnax 0\.0\.9 does not tell .*gymnax>=1\.0\.1"):
        env.make(recipe("fast", env="Any-v0"))


# Parameters and observations


def one_step(config, action=1):
    environment = env.make(config)
    state, _ = environment.reset(jax.random.key(0))
    return environment.step(jax.random.key(1), state, jnp.int32(action))[1].observation


def test_a_parameter_takes_effect_and_can_be_traced_and_swept():
    cartpole, parameters = gymnax.make("CartPole-v1")
    forces = jnp.array([5.0, 10.0, 20.0])
    swept = jax.jit(
        jax.vmap(lambda force: one_step(SMALL.replace(env_params={"force_mag": force})))
    )
    _, state = cartpole.reset_env(jax.random.key(0), parameters)
    expected = [
        cartpole.step_env(jax.random.key(1), state, 1, parameters.replace(force_mag=float(force)))[
            0
        ]
        for force in forces
    ]
    np.testing.assert_allclose(swept(forces), np.stack(expected), atol=1e-6)
    np.testing.assert_allclose(one_step(SMALL), expected[1], atol=1e-6)
    assert np.ptp(expected, axis=0).max() > 0.1


def test_the_time_limit_is_the_environments_own_unless_given():
    assert env.make(SMALL).max_episode_steps == 500
    assert env.make(SMALL.replace(max_episode_steps=7)).max_episode_steps == 7
    assert env.make(SMALL.replace(env="MountainCar-v0")).max_episode_steps == 200


def test_image_observations_are_flattened_in_order():
    environment = env.make(SMALL.replace(env="Breakout-MinAtar"))
    breakout, parameters = gymnax.make("Breakout-MinAtar")
    image, _ = breakout.reset_env(jax.random.key(0), parameters)
    _, observation = environment.reset(jax.random.key(0))
    assert image.shape == (10, 10, 4)
    assert environment.observation_size == 400
    np.testing.assert_array_equal(observation, np.asarray(image, np.float32).ravel())
    batch = jnp.stack([image, jnp.zeros_like(image), image])
    np.testing.assert_array_equal(
        environment.flatten(batch), np.asarray(batch, np.float32).reshape(3, 400)
    )


def test_discrete_observations_are_one_hot():
    environment = env.make(SMALL.replace(env="FrozenLake-misc"))
    assert environment.observation_size == 16
    np.testing.assert_array_equal(environment.flatten(jnp.arange(16)), np.eye(16))
    _, observation = environment.reset(jax.random.key(0))
    np.testing.assert_array_equal(observation, np.eye(16)[0])


@pytest.mark.parametrize(
    ("name", "shape"),
    [("CartPole-v1", (4,)), ("Breakout-MinAtar", (10, 10, 4)), ("FrozenLake-misc", ())],
)
def test_acting_and_valuing_take_raw_observations_of_any_leading_shape(name, shape):
    config = SMALL.replace(env=name, initialization="uniform")
    environment = env.make(config)
    params = network.init(
        jax.random.key(0), config, environment.observation_size, environment.num_actions
    )
    observations = np.random.default_rng(0).integers(16, size=(2, 3, *shape))

    @jax.jit
    def ask(observations):
        return (
            ppo.value(params, observations, config),
            ppo.act(params, observations, config),
            ppo.act(params, observations, config, jax.random.key(1)),
        )

    value, action, sampled = ask(observations)
    assert value.shape == action.shape == sampled.shape == (2, 3)
    assert np.ptp(value) > 0
    one_value, one_action, _ = ask(observations[1, 2])
    np.testing.assert_allclose(value[1, 2], one_value, rtol=1e-5)
    assert action[1, 2] == one_action


# Every environment, x64 or not: the types of a run never change


def types(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


def assert_update_keeps_types(name):
    """By tracing alone: init and update have stable carries."""
    env._load.cache_clear()  # some of gymnax's environments hold arrays, of when they were made
    config = SMALL.replace(env=name)
    state = jax.eval_shape(ppo.init, jax.random.key(0), config)
    after, metrics = jax.eval_shape(ppo.update, state, config)
    assert types(after) == types(state)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    assert state.rollout.observation.shape[:1] == (*metrics.env_steps.shape, 2)
    width = jnp.zeros(()).dtype
    floats = state.params, state.optimizer_state[1:], state.rollout.observation, metrics.value_loss
    assert {leaf.dtype for leaf in jax.tree.leaves(floats)} <= {width}


def test_every_environment_is_accounted_for():
    assert set(CONTINUOUS + NEEDS_DATA + BROKEN_IN_X64) < set(BUILTIN)
    assert len(DISCRETE) >= 20


@pytest.mark.parametrize("name", marked())
def test_types_are_stable_in_float32(name):
    assert_update_keeps_types(name)


@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types:FutureWarning")
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", marked(BROKEN_IN_X64))
def test_types_are_stable_in_float64(name):
    assert_update_keeps_types(name)


@pytest.mark.parametrize("name", ["DeepSea-bsuite", "FourRooms-misc", "MetaMaze-misc"])
def test_an_environment_with_arrays_of_its_own_may_first_be_made_inside_a_trace(name):
    """And again inside another: nothing of the first trace is kept."""
    env._load.cache_clear()
    for _ in range(2):
        jax.eval_shape(lambda: env.make(SMALL.replace(env=name)).reset(jax.random.key(0)))
    env.make(SMALL.replace(env=name)).reset(jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize("name", DISCRETE)
def test_every_environment_runs(name):
    config = SMALL.replace(env=name)
    state, metrics = jax.jit(ppo.train)(jax.random.key(0), config)
    assert metrics.env_steps.tolist() == [8, 8]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


# What the core may import

COMMANDS = ("train", "replay")
CORE = sorted(
    path for path in Path(ppo_jax.__file__).parent.glob("*.py") if path.stem not in COMMANDS
)
SHELL = {
    "ppo_jax.run",
    "ppo_jax.train",
    "time",
    "os",
    "rich",
    "tyro",
    "tensorboardX",
    "matplotlib",
    "signal",
    "pathlib",
    "sys.stdout",
    "sys.stderr",
    "print",
    "open",
}


def names_used(path):
    """Modules that a file imports, at any depth of its code, and what it takes from `sys` and
    the built-ins."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = "ppo_jax" if node.level else None
            module = ".".join(part for part in (package, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_the_core_never_touches_the_shell(path):
    used = {".".join(name.split(".")[:depth]) for name in names_used(path) for depth in (1, 2)}
    assert not used & SHELL


def test_only_env_knows_gymnax():
    knowing = [path.stem for path in CORE if any(n.startswith("gymnax") for n in names_used(path))]
    assert knowing == ["env"]


def python(code):
    """What a fresh interpreter prints, as JSON."""
    return json.loads(
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=100
        ).stdout
    )


def test_the_configuration_is_made_without_jax_or_gymnax():
    heavy = python(
        "import sys, json, ppo_jax, ppo_jax.config as c; c.recipe('standard', num_envs=8);"
        "print(json.dumps([m for m in ('jax', 'gymnax', 'optax', 'flax') if m in sys.modules]))"
    )
    assert heavy == []


@pytest.mark.parametrize(
    "imports",
    [
        "from ppo_jax import Config",
        "from ppo_jax import ppo; from ppo_jax.config import Config",
    ],
)
def test_config_is_a_pytree_of_its_hyperparameters(imports):
    leaves = python(
        f"{imports}\nimport jax, json\n"
        "config = Config(learning_rate=0.125, env_params={'force_mag': 5.0})\n"
        "print(json.dumps(jax.tree.leaves(config)))"
    )
    assert {0.125, 5.0} < set(leaves)
    assert all(isinstance(leaf, float) for leaf in leaves)
