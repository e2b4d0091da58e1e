"""The compiled rollout holds no critic: nobody reads its value there, and XLA removes it."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from ppo_jax import env, network, policy, population, recipe, rollout

SMALL = recipe("standard", num_envs=2, num_steps=4, hidden_sizes=(16,))
OUTPUTS = 2
FREE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element"}  # they move no data


class ActorOnly(network.MLP):
    """The built-in perceptron without a critic."""

    def __call__(self, observation):
        inputs = self.encode(observation)
        return self.actor(inputs), jnp.zeros(len(inputs))


class Consulting(network.MLP):
    """A perceptron whose actions depend on the critic's value."""

    def __call__(self, observation):
        outputs, value = super().__call__(observation)
        return outputs * value[:, None], value


def work(config, agents):
    """Arithmetic and kernels of the compiled rollouts of so many agents, which are not run."""
    environment, own_policy = env.make(config), policy.make(config)

    def collect(state):
        return rollout.collect(
            state.key, state.params, state.rollout, environment, own_policy, config
        )

    def one(states):
        return jax.tree.map(
            lambda leaf: leaf[None], collect(jax.tree.map(lambda leaf: leaf[0], states))
        )

    keys = population.agent_keys(0, agents)
    states = jax.eval_shape(lambda: population.init(keys, config))
    program = jax.jit(jax.vmap(collect) if agents > 1 else one).lower(states)
    program = program.compile({"xla_backend_optimization_level": 0})  # in less time
    operations = Counter(re.findall(r" ([a-z-]+)\(", program.as_text()))
    kernels = {name: count for name, count in operations.items() if name not in FREE}
    return program.cost_analysis()["flops"], kernels


@pytest.fixture(scope="module")
def actors():
    """The work of actors without a critic, by their number."""
    config = SMALL.replace(network=ActorOnly(OUTPUTS, SMALL.hidden_sizes))
    return {agents: work(config, agents) for agents in (1, 2)}


@pytest.mark.parametrize("agents", [1, 2])
def test_a_rollout_does_no_more_than_the_actors(agents, actors):
    assert work(SMALL, agents) == actors[agents]


def test_a_critic_that_acts_is_seen(actors):
    config = SMALL.replace(network=Consulting(OUTPUTS, SMALL.hidden_sizes))
    flops, kernels = work(config, 1)
    assert flops > actors[1][0]
    assert kernels != actors[1][1]
