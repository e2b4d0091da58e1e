"""Folders of runs that nobody trained: the files that a run writes, with invented numbers."""

import json
from pathlib import Path

import numpy as np

from ppo_jax import ppo, recipe
from ppo_jax.run import agents
from ppo_jax.run.experiment import Experiment
from ppo_jax.run.storage.tables import Table


def invent_metrics(num_agents, updates, seed=0):
    """Metrics [updates, agents] of agents that learn; in some updates, not the first, no episode
    ended."""
    draw = np.random.default_rng(seed)
    metrics = {name: draw.normal(1, 0.1, (updates, num_agents)) for name in ppo.Metrics._fields}
    progress = np.linspace(0, 1, updates)[:, None] * draw.uniform(0.6, 1.2, num_agents)
    metrics["episode_return"] = np.minimum(500 * progress + draw.normal(0, 20, progress.shape), 500)
    metrics["episode_return"][1:][draw.random(progress[1:].shape) < 0.1] = np.nan
    metrics["env_steps"][:] = 512
    return metrics


def invent_rows(table, means):
    """The ranking of the table's settings by these means, none of a setting that diverged."""
    seeds = len(table) // table.num_settings
    order = sorted(
        range(len(means)), key=lambda setting: -np.inf if means[setting] is None else means[setting]
    )
    return [
        {
            **{"rank": place, "setting": setting, **table.describe(setting), "seeds": seeds},
            **{"iqm": mean, "low": mean and mean - 10, "high": mean and mean + 5},
            **{
                "improvement": 0.5 if setting else None,
                "solved": 0.25,
                "diverged": int(mean is None),
            },
            **{"solved_after_q25": None, "solved_after": None, "solved_after_q75": None},
        }
        for place, setting in enumerate(reversed(order), start=1)
        for mean in [means[setting]]
    ]


def write_run(path, metrics=None, returns=None, *, config=None, means=None, **options):
    """A run's folder, and its agent table. Without `metrics` it has no curves, without `returns`
    it did not end; `means` are its settings' interquartile means, for the ranking."""
    config = recipe("fast") if config is None else config
    experiment = Experiment(config).replace(**options).check()
    table = agents.table(experiment)
    path.mkdir(parents=True)
    Path(path, "config.json").write_text(json.dumps(experiment.describe()))
    if metrics is not None:
        setting = ("setting",) * (table.num_settings > 1)
        file = Table(path / "metrics.csv", ("update", "seed", "step", *setting, *metrics))
        steps = metrics["env_steps"].cumsum(axis=0).astype(int)
        for update in range(len(steps)):
            for agent, seed in enumerate(table.seeds.tolist()):
                own = [table.setting[agent]] * (table.num_settings > 1)
                cells = (column[update, agent] for column in metrics.values())
                file.add(update + 1, seed, steps[update, agent], *own, *cells)
        file.close()
    if returns is not None:
        rows = None if means is None else invent_rows(table, means)
        plain = [None if np.isnan(one) else float(one) for one in returns]
        content = {
            "finished": True,
            "num_updates": config.num_updates,
            "eval_episodes": 100,
            "eval_return_per_seed": plain,
            "diverged_seeds": [0] * plain.count(None),
            "env_steps": 10**6,
            "train_seconds": 2.0,
            "compile_seconds": 5.0,
            "steps_per_second": 5e5,
            "device": "cpu",
            "versions": {"ppo_jax": "0.1.0"},
            "statistics": rows,
        }
        Path(path, "summary.json").write_text(json.dumps(content))
    return table
