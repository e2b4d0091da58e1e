"""Settings for every test: NumPy-style rank promotion, PPO's classic [N, 1] against [N] bug, is
an error, and a test may run in float64 (`@pytest.mark.usefixtures("x64")`). The default tests
compile quickly; in slow ones trainings compile as users' do."""

import os

import jax
import pytest

from ppo_jax.run import compiled

pytest.register_assert_rewrite("tests.helpers")  # asserts of helpers say as much as those of tests

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_platforms", jax.config.jax_platforms or "cpu")


def pytest_addoption(parser):
    parser.addoption(
        "--compile-as-users-do", action="store_true", help="no program is compiled quickly"
    )


def pytest_configure(config):
    from tests.helpers import quick  # after the helpers' registration above

    if config.option.compile_as_users_do:
        quick.WANTED.clear()
    elif config.option.markexpr == "not slow":
        quick.start_jax()
        compiled.build = quick.once_a_process(compiled.build)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Commands keep what they compile in a folder of the tests, which all workers share, not in
    the user's."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["XDG_CACHE_HOME"] = str(shared / "cache")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
