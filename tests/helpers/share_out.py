"""What a process with several devices does: `python -m tests.helpers.share_out FILE.npz`."""

import re
import sys

import jax
import numpy as np

from ppo_jax import population
from tests.helpers.populations import (
    CONFIGS,
    EPISODES,
    SEED,
    STORAGE,
    compiled,
    per_agent,
    varied,
    with_huge_rate,
)
from tests.helpers.tiny_recipes import SETTINGS
from tests.helpers.trees import numbers

AGENTS_ON = {3: 9, 8: 8}  # devices: agents; with 8, one a device
COLLECTIVE = re.compile(r"all-reduce|all-gather|all-to-all|collective|reduce-scatter|send|recv")


def share_out(path):
    """Agents made, trained (one of them frozen at once) and judged on all devices of this process;
    what they came to is left in a file."""
    devices = jax.devices()
    mesh = jax.sharding.Mesh(np.array(devices), ("agents",))
    agents, rows = population.AGENTS, population.TIME_AGENTS
    count = AGENTS_ON[len(devices)]
    keys = population.agent_keys(SEED, count)
    configs = with_huge_rate(varied(CONFIGS["standard"], SETTINGS))
    configs = per_agent(lambda leaf: leaf[:count], configs)

    init = population.shard_over_agents(population.init, mesh, agents)
    states = compiled(init)(keys, configs)

    def run(states, configs, num_updates):
        return population.run(states, configs, num_updates, STORAGE)

    chunk = jax.jit(population.shard_over_agents(run, mesh, (agents, rows))).lower(
        states, configs, 2
    )
    chunk = chunk.compile(compiler_options=population.COMPILER_OPTIONS)
    after, metrics = chunk(states, configs, 2)

    def judge(params, configs, keys):
        return population.evaluate(params, configs, keys, EPISODES)

    returns = compiled(population.shard_over_agents(judge, mesh, agents))(
        after.params, configs, keys
    )

    share = count // len(devices)
    for axis, leaves in ((0, (states, after, returns)), (1, metrics)):
        for leaf in jax.tree.leaves(leaves):
            assert leaf.shape[axis] == count
            assert [shard.device for shard in leaf.addressable_shards] == devices
            for place, shard in enumerate(leaf.addressable_shards):
                assert shard.data.shape[axis] == share
                assert shard.index[axis] == slice(place * share, (place + 1) * share)

    # The pattern finds what it looks for in a program whose devices wait for each other.
    together = population.shard_over_agents(
        lambda x: jax.lax.psum(x, "agents"), mesh, population.REPLICATED
    )
    assert COLLECTIVE.search(jax.jit(together).lower(returns).compile().as_text())
    assert not COLLECTIVE.search(chunk.as_text())
    np.savez(path, *numbers((states, after, metrics, returns)))


if __name__ == "__main__":
    share_out(sys.argv[1])
