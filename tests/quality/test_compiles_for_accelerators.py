"""Every recipe compiles for accelerators that are not here, so that no change breaks what was never
run. Skipped where jax has no plugin for the device, which `pip` installs without a driver:
`jax-cuda13-plugin` and `jax-cuda13-pjrt` of jax's own version, `--no-deps`, and `jax[tpu]`."""

import json
import os
import subprocess
import sys

import pytest

from ppo_jax.recipes import RECIPES

# In a process of its own, with a plan's own programs: jax must not start a device for it.
COMPILE = """
import json, sys
import jax
from ppo_jax import population, recipe
from ppo_jax.run import absent, compiled, program
from ppo_jax.run.errors import DeviceError
name, own, agents, options = *sys.argv[1:3], int(sys.argv[3]), json.loads(sys.argv[4])
try:
    chosen = absent.select(name)
except DeviceError as error:
    sys.exit(f"skip: {error}")
options = {"num_updates": 2, "total_timesteps": None, **options}
wanted = {**population.COMPILER_OPTIONS, **absent.compiler_options(name)}
programs = compiled.build(recipe(own, **options), agents * len(chosen), chosen, wanted)
loops = [loop for one in programs for loop in program.launches(one.as_text())[1]]
from jax._src import xla_bridge
found = programs.memory(), [loop.trips for loop in loops], sorted(xla_bridge._backends)
print(json.dumps(found))
"""
SERIAL = 23  # agents, and the trips of no other loop
CASES = [
    *(pytest.param(name, 2, {}, id=name) for name in RECIPES),
    pytest.param("fast", 32, {}, id="fast-32"),  # which XLA could not compile for a GPU
    pytest.param("notebook", SERIAL, {}, id="notebook-23"),  # of which a TPU took one by one
    pytest.param("standard", 2, {"network": "gru"}, id="gru"),
]


@pytest.mark.slow
@pytest.mark.parametrize("device", ["gpu:h100", "tpu:v5e:2x2"])
@pytest.mark.parametrize(("own", "agents", "options"), CASES)
def test_a_recipe_compiles(device, own, agents, options):
    check_that_it_compiles(device, own, agents, options)


@pytest.mark.slow
def test_pallas_kernels_compile():
    """Of a world whose steps draw random numbers."""
    options = {"env": "PointRobot-misc", "kernel": "pallas"}
    check_that_it_compiles("gpu:h100", "standard", 2, options)


def check_that_it_compiles(device, own, agents, options):
    given = [device, own, str(agents), json.dumps(options)]
    command = [sys.executable, "-c", COMPILE, *given]
    env = {**os.environ, "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # for tests side by side
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env)
    if "skip: " in result.stderr:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr
    needed, trips, started = json.loads(result.stdout)
    assert 1e4 < needed < 1e8
    assert SERIAL not in trips
    assert started == ["cpu"]
