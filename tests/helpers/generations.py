"""Made-up agents for population-based training."""

import jax.numpy as jnp
import numpy as np

from ppo_jax import normalize, policy, population, ppo, rollout

RATES = ("log", 1e-6, 1e-1)


def some_states(seed, agents, num_updates):
    """States with random leaves, NaN in some of them: a generation looks at `num_updates` only."""
    random = np.random.default_rng(seed)
    matrices = random.standard_normal((3, agents, 2, 3)).astype(np.float32)
    matrices[:, random.random(agents) < 0.2] = np.nan
    moments = random.standard_normal((3, agents)).astype(np.float32)
    returns = random.standard_normal((agents, 4)).astype(np.float32)
    return ppo.TrainState(
        params=policy.Params(
            {"network": {"kernel": jnp.asarray(matrices[0])}},
            normalize.Statistics(
                jnp.asarray(moments[0]), ((), normalize.Moments(*jnp.asarray(matrices[:2, :, 0])))
            ),
        ),
        optimizer_state=(jnp.asarray(random.integers(0, 99, agents)), jnp.asarray(matrices[1])),
        rollout=rollout.RolloutState(
            env_state=(),
            observation=jnp.asarray(matrices[2]),
            memory=(),
            start=jnp.asarray(random.random((agents, 2)) < 0.5),
            episode_return=jnp.asarray(matrices[2, :, :, 0]),
            episode_length=jnp.asarray(random.integers(0, 99, (agents, 2))),
            noise=(),
        ),
        reward_statistics=normalize.RewardStatistics(
            *map(jnp.asarray, moments), jnp.asarray(returns)
        ),
        key=population.agent_keys(100 * seed, agents),
        num_updates=jnp.asarray(num_updates, jnp.int32),
    )
