"""Every recipe solves CartPole, on as many of 16 seeds as it promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import env, evaluate, ppo, recipe

pytestmark = pytest.mark.slow

SEEDS = 16


def greedy_scores(name):
    """The mean greedy return of 100 episodes, of each of 16 agents after its whole run."""
    config = recipe(name)

    def score(key):
        state, metrics = ppo.train(key, config)
        returns = evaluate.evaluate(state.params, config, jax.random.fold_in(key, 1), 100)
        return returns.mean(), metrics

    keys = jax.vmap(jax.random.key)(jnp.arange(SEEDS))
    scores, metrics = jax.jit(jax.vmap(score))(keys)
    print(f"{name}: {np.sort(np.asarray(scores))}")
    return np.asarray(scores), jax.tree.map(np.asarray, metrics)


@pytest.mark.parametrize("name", ["standard", "fast"])
def test_cartpole_is_solved_on_15_of_16_seeds(name):
    scores, _ = greedy_scores(name)
    assert np.sum(scores >= env.SOLVED_AT["CartPole-v1"]) >= 15, np.sort(scores)


def test_notebook_solves_cartpole_on_most_seeds():
    scores, metrics = greedy_scores("notebook")
    reached = np.nanmax(metrics.episode_return, axis=1) >= env.SOLVED_AT["CartPole-v1"]
    assert reached.sum() > SEEDS / 2
    assert np.sum(scores >= env.SOLVED_AT["CartPole-v1"]) > SEEDS / 2, np.sort(scores)
