"""ppo-jax envs: the table of environments."""

import gymnax

from ppo_jax import env
from tests.helpers.commands import run_command


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
