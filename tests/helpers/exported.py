"""Agents to export, and a Python that has NumPy and gymnasium, and no JAX."""

import functools
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import spaces
from ppo_jax.env import Environment, Step
from ppo_jax.run.saved import Agent
from tests.helpers.own_parts import SMALL, Shared, tree_world
from tests.helpers.problems import BOX, CHOICES
from tests.helpers.recurrent import Trace, drift, random_params

WIDE = spaces.Box(-0.5, np.array([[0.5], [1.0]]), (2, 1))


def draws(space, draw, action_space):
    """An environment that draws every observation anew."""

    def reset(key):
        return jnp.zeros((), jnp.int32), draw(key)

    def step(key, time, action):
        ended = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.25)
        return time + 1, Step(draw(key), 1.0, ended, False)

    return Environment(reset, step, space, action_space, 4)


def codes():
    nvec = jnp.array([3, 2])
    draw = functools.partial(jax.random.randint, shape=(2,), minval=0, maxval=nvec)
    return draws(spaces.MultiDiscrete((3, 2)), draw, CHOICES)


def pictures(shape, dtype, largest, action_space):
    def draw(key):
        return jax.random.randint(key, shape, 0, largest + 1).astype(dtype)

    return draws(spaces.Box(0, largest, shape, dtype), draw, action_space)


PACKAGES = "numpy", "gymnasium", "cloudpickle", "farama-notifications", "typing_extensions"
PREVIOUS = {"previous_action": True, "previous_reward": True}
CASES = {
    "discrete": {"env": drift(spaces.Discrete(3)), "hidden_sizes": (8, 7)},
    "codes": {"env": codes(), "hidden_sizes": (), "activation": "relu"},
    "clipped": {"env": drift(BOX), "normalize_observation": True},
    "squashed": {"env": drift(WIDE), "squash_action": True, "previous_action": True},
    "parts": {"env": tree_world(), "normalize_observation": True, "previous_reward": True},
    "cnn": {"env": pictures((36, 40, 2), jnp.uint8, 255, BOX), "network": "cnn"},
    "small cnn": {
        "env": pictures((5, 4, 3), jnp.float32, 3, CHOICES),
        "network": "cnn",
        "activation": "relu",
        "normalize_observation": True,
    },
    "gru": {
        "env": drift(spaces.Discrete(3)),
        "network": "gru",
        "memory_size": 5,
        "normalize_observation": True,
        **PREVIOUS,
    },
    "own": {"env": drift(BOX), "network": Shared},
    "own with memory": {"env": drift(spaces.Discrete(3)), "network": Trace},
}
BUILT_IN = [name for name in CASES if not name.startswith("own")]


def agent(name):
    """The agent of a case, with random parameters, and statistics that make some entries large."""
    return _agent(name, jnp.result_type(float))


@functools.cache
def _agent(name, _):
    config = SMALL.replace(**CASES[name])
    params, random = random_params(config), np.random.default_rng(1)
    if config.normalize_observation:
        known = jax.tree.map(
            lambda leaf: jnp.asarray(random.uniform(0.5, 2, leaf.shape), leaf.dtype),
            params.statistics,
        )
        params = params._replace(statistics=known._replace(count=jnp.full((), 4.0)))
    return Agent(config, params, {})


def run_without_jax(folder, code, *arguments):
    """What code prints in a Python whose only packages are NumPy and gymnasium, with what that
    needs; the folder holds them."""
    if not folder.exists():
        folder.mkdir()
        for package in PACKAGES:
            _link(package, folder)
    begin = f"import sys\nsys.path.insert(0, {str(folder)!r})\n"
    check = (
        "try:\n    import jax\nexcept ImportError:\n    pass\nelse:\n    sys.exit('JAX is here')\n"
    )
    command = [sys.executable, "-I", "-S", "-c", begin + check + code, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def _link(package, folder):
    """Link an installed package's folders and modules into another folder."""
    installed = distribution(package)
    for name in {file.parts[0] for file in installed.files} - {"..", "__pycache__"}:
        if not name.endswith("-info"):
            (folder / name).symlink_to(Path(installed.locate_file(name)))
