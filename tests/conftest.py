"""Settings for every test: NumPy-style rank promotion, PPO's classic [N, 1] against [N] bug, is
an error, and a test may run in float64 (`@pytest.mark.usefixtures("x64")`)."""

import os

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_platforms", jax.config.jax_platforms or "cpu")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Commands keep what they compile in a folder of the tests, not in the user's."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
