"""The tables of a run, and what a run counts beyond 32 bits."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np

from ppo_jax import population, ppo, recipe, statistics
from ppo_jax.run import sinks
from ppo_jax.run.agents import table
from ppo_jax.run.experiment import Agents, Experiment
from ppo_jax.run.training import Batch

EACH, CHUNK, CHUNKS = 2**29 - 1, 3, 4  # steps of an agent's update; the agents' total fits int32
COUNTS = ("env_steps", "gradient_steps", "episodes")


def chunk(states, config, size):
    """Made-up rows [updates, lanes] of four lanes."""
    cells = {name: EACH if name in COUNTS else 0.5 for name in ppo.Metrics._fields}
    rows = {name: jnp.full((size, 4), cell) for name, cell in cells.items()}
    return states, ppo.Metrics(**rows)


def summarize(rows, real):
    """Statistics of the lanes that count, as `population.summarize` gives them."""
    value, agents = np.full(CHUNK, 0.5, np.float32), np.full(CHUNK, real.sum())
    returns = statistics.Summary(value, value, np.full((CHUNK, 5), 0.5), value, agents)
    totals = dict.fromkeys(COUNTS, np.full(CHUNK, EACH * real.sum(), np.int32))
    means = {name: value for name in ppo.Metrics._fields if name not in COUNTS}
    return population.Statistics(agents, **totals, means=means, returns=returns)


PROGRAMS = SimpleNamespace(init=lambda *_: (), chunk=chunk, summarize=summarize)


def read(path):
    header, *lines = path.read_text().splitlines()
    return header.split(","), [line.split(",") for line in lines]


def test_tables_count_steps_beyond_32_bits(tmp_path):
    """Of two batches of agents, the second filled up."""
    agents = table(Experiment(recipe("fast"), Agents(sweep=("discount=0.5",), seed=1, num_seeds=3)))
    before, batch = 0, None
    for lanes in agents.batches(4):
        batch = Batch(agents, lanes, PROGRAMS, batch)
        hooks = [sinks.Metrics(tmp_path, agents), sinks.Statistics(tmp_path)]
        for done in range(1, CHUNKS + 1):
            batch.start_chunk(CHUNK)
            batch.finish_chunk()
            for hook in hooks:
                hook.at_boundary(batch)
                hook.while_computing()
            assert batch.env_steps == before + EACH * (lanes >= 0).sum() * CHUNK * done
        for hook in hooks:
            hook.close()
        before = batch.env_steps
    assert before == EACH * CHUNK * CHUNKS * 6 > 2**31

    updates = range(1, CHUNK * CHUNKS + 1)
    header, lines = read(tmp_path / "statistics.csv")
    assert tuple(header) == sinks.STATISTICS
    assert [line[:4] for line in lines] == [
        [str(number), str(update), str(EACH * update), str(count)]
        for number, count in ((1, 4), (2, 2))
        for update in updates
    ]
    header, lines = read(tmp_path / "metrics.csv")
    assert header[:4] == ["update", "seed", "step", "setting"]
    assert [line[:4] for line in lines] == [
        [str(update), str(seed), str(EACH * update), str(setting)]
        for batch in ([(1, 0), (2, 0), (3, 0), (1, 1)], [(2, 1), (3, 1)])
        for update in updates
        for seed, setting in batch
    ]
