"""Agent tables, from what the flags say."""

from ppo_jax import recipe
from ppo_jax.run import agents
from ppo_jax.run.experiment import Experiment


def make_table(*sweep, config=None, **options):
    """The agents of a grid and whatever other options say."""
    config = recipe("fast") if config is None else config
    return agents.table(Experiment(config).replace(sweep=sweep, **options).check())
