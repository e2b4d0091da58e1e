"""Agents shared out over several devices are the agents on one."""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import population
from tests.helpers.populations import (
    AGENTS,
    EPISODES,
    TOLERANCE,
    VICTIM,
    batch_of,
    compiled,
    poison,
)
from tests.helpers.share_out import AGENTS_ON
from tests.helpers.tiny_recipes import SETTINGS
from tests.helpers.trees import numbers


@pytest.fixture(scope="module")
def on_one_device():
    """What `share_out` does, on this process's one device."""
    batch = batch_of("standard", SETTINGS)
    states, configs = poison(batch, "rate of 1e38")
    after, metrics = batch.run(states, configs, 2)
    evaluate = compiled(population.evaluate, static_argnums=3)
    return states, after, metrics, evaluate(after.params, configs, batch.keys, EPISODES)


@pytest.mark.parametrize(
    "devices",
    [pytest.param(count, marks=pytest.mark.slow if count > 2 else ()) for count in AGENTS_ON],
)
def test_agents_shared_out_over_devices_are_the_agents_on_one(devices, on_one_device, tmp_path):
    """Each device has its share and waits for no other; counts are the same from the start."""
    path = tmp_path / "shared.npz"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"
        " --xla_backend_optimization_level=0",  # which compiles in less time
    }
    command = [sys.executable, "-m", "tests.helpers.share_out", str(path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    with np.load(path) as arrays:
        leaves = iter([arrays[name] for name in arrays.files])
    count = AGENTS_ON[devices]
    states, after, metrics, returns = on_one_device
    for expected in numbers(states):
        np.testing.assert_allclose(next(leaves), expected[:count], rtol=1e-5, atol=1e-6)
    for expected in numbers(after):
        np.testing.assert_allclose(next(leaves), expected[:count], **TOLERANCE)
    for name, expected in metrics._asdict().items():
        leaf = next(leaves)
        np.testing.assert_allclose(leaf, expected[:, :count], **TOLERANCE, err_msg=name)
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            np.testing.assert_array_equal(leaf[0], expected[0, :count], err_msg=name)
    np.testing.assert_array_equal(next(leaves), returns[:count])
    assert after.num_updates.tolist() == [2 * (agent != VICTIM) for agent in range(AGENTS)]
