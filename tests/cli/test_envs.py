"""ppo-jax envs: the table of environments."""

import gymnax

from ppo_jax import env
from ppo_jax.envs import suites
from tests.helpers.commands import refused, run_command


def test_every_environment_that_trains_by_name_is_listed():
    code, said, error = run_command("envs")
    assert (code, error) == (0, "")
    lines = {line.split()[0]: line.split() for line in said.splitlines() if line.strip()}
    assert set(gymnax.registered_envs) <= set(lines), "gymnax's own"
    assert set(env.names()) <= set(lines)
    assert said.startswith(f"{len(env.names())} environments")
    assert lines["CartPole-v1"] == ["CartPole-v1", "Box(4,)", "Discrete(2)", "500", "475"]
    assert lines["Pendulum-v1"][1:4] == ["Box(3,)", "Box(1,)", "200"]
    assert lines["Catch-bsuite"][-2:] == ["1,000", "–"]
    assert lines["MNISTBandit-bsuite"][1:] == ["cannot", "be", "made", "here"]
    for suite in (*suites.PACKAGES, "envelope"):
        assert lines[suite][1] == ["no", "yes"][suites.is_installed(suite)]


def test_one_environment_has_a_row_of_its_own():
    code, said, _ = run_command("envs", "CartPole-v1")
    assert code == 0
    assert said.splitlines()[-2].split() == ["CartPole-v1", "Box(4,)", "Discrete(2)", "500", "475"]
    refused(2, "near it: CartPole-v1", "envs", "CartPole-v2")
