"""Population-based training: agents that do badly go on from those that do well, with other
hyperparameters. A generation is one pure function over the agents' axis: exploit is a gather,
explore a perturbation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import normalize, ppo, sweep
from ppo_jax.config import Config, check_hyperparameter, with_hyperparameters


def evolve(
    key: jax.Array,
    states: ppo.TrainState,
    config: Config,
    fitness: jax.Array,
    ranges: Mapping[str, sweep.Bounds],
    fraction: float = 0.25,
    factors: Sequence[float] = (0.8, 1.25),
    resample: float = 0.25,
) -> tuple[ppo.TrainState, Config, jax.Array]:
    """One generation: each of the worst agents goes on as a child of a random one of the best.

    Of N agents, n = max(1, ⌊fraction N⌋) are the best and n the worst. A child takes its parent's
    parameters with the observations' statistics, Adam's moments, reward scale and number of
    updates, and of every hyperparameter c in `ranges` clip(f c, low, high), f drawn from
    `factors`, or, with probability `resample`, a new draw from the range. All other agents stay
    as they are, bit for bit.

    A child keeps its own key, so that its updates draw what no other agent's do, and its own
    environments, so that its transitions are not its parent's; episodes under way are finished by
    the new policy, whose memory, if it has one, begins there. Jittable with all after `fitness`
    closed over.

    Args:
        states: Every leaf [N, ...].
        config: Each hyperparameter is a number for all, or [N].
        fitness: [N], higher is better. A NaN, -∞ and a frozen agent are worst, and no parents;
            where all are, nobody has a child. Of equals the lower index is better.
        ranges: Of the hyperparameters that evolve, by name.
        fraction: Share of the agents that are replaced, above 0 and at most ½.
        factors: Numbers f, each as likely as another.
        resample: Probability of a new draw, for each hyperparameter of each child.

    Returns:
        The states.
        The configuration, whose hyperparameters in `ranges` are now [N].
        Each agent's parent, [N]; itself where it stays.

    Raises:
        ValueError: For fewer than 2 agents, a fraction not in (0, ½], a bad range, or a
            hyperparameter that is unknown, static or None.

    Jaderberg et al., arXiv:1711.09846, algorithm 1, with the truncation selection of section 4.1.
    """
    agents = len(states.num_updates)
    if agents < 2 or not 0 < fraction <= 0.5:
        raise ValueError(
            f"{agents} agents and fraction {fraction} make no generation; it needs at least 2"
            " agents and a fraction above 0 and at most 0.5, for no agent is best and worst"
        )
    chex.assert_shape(fitness, (agents,))
    select_key, explore_key = jax.random.split(key)
    frozen = states.num_updates < states.num_updates.max()
    number = max(1, int(fraction * agents + 1e-9))  # 0.29 of 100 are 29, which floats miss
    parents = _select(select_key, jnp.where(frozen, jnp.nan, fitness), number)
    own = {
        name: jnp.broadcast_to(jnp.asarray(value, float), agents)
        for name, value in hyperparameters(config, ranges).items()
    }
    values = _explore(explore_key, own, parents, ranges, factors, resample)
    taken = jax.tree.map(
        lambda leaf: leaf[parents],
        (states.params, states.optimizer_state, states.reward_statistics, states.num_updates),
    )
    params, optimizer_state, reward_statistics, num_updates = taken
    reward_statistics = normalize.inherit(states.reward_statistics, reward_statistics)
    is_child = (parents != jnp.arange(agents))[:, None]
    return (
        states._replace(
            params=params,
            optimizer_state=optimizer_state,
            reward_statistics=reward_statistics,
            num_updates=num_updates,
            # A child's memory is another policy's: its own begins where its environments stand.
            rollout=states.rollout._replace(start=states.rollout.start | is_child),
        ),
        with_hyperparameters(config, values),
        parents,
    )


def evolve_first(
    count: int,
    key: jax.Array,
    states: ppo.TrainState,
    config: Config,
    fitness: jax.Array,
    ranges: Mapping[str, sweep.Bounds],
) -> tuple[ppo.TrainState, dict[str, jax.Array], jax.Array]:
    """`evolve` for the first `count` agents of a batch; the others, which fill it, stay.

    Args:
        count: At least 2; static.
        states: Every leaf [N, ...].
        config: Each hyperparameter in `ranges` is [N].
        fitness: [count].

    Returns:
        The states, every leaf [N, ...].
        The hyperparameters in `ranges`, by name, [N] each.
        The parents, [count].
    """
    own = jax.tree.map(lambda leaf: leaf[:count], states)
    first = jax.tree.map(lambda leaf: leaf[:count] if jnp.ndim(leaf) else leaf, config)
    own, first, parents = evolve(key, own, first, fitness, ranges)
    states, values = jax.tree.map(
        lambda new, old: jnp.concatenate([new, old[count:]]),
        (own, hyperparameters(first, ranges)),
        (states, hyperparameters(config, ranges)),
    )
    return states, values, parents


def fitness(returns: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Each agent's mean episode return over a generation, or, where it ended no episode, the one
    it had before: those that live long are not the worst.

    Args:
        returns: [updates, N], NaN where no episode ended.
        before: [N], of the generation before.

    Returns:
        [N], in the returns' unit; a NumPy array.
    """
    known = ~np.isnan(returns)
    means = returns.sum(axis=0, where=known, dtype=np.float64) / np.maximum(known.sum(axis=0), 1)
    return np.where(known.any(axis=0), means, before).astype(np.float32)


def hyperparameters(config: Config, names: Iterable[str]) -> dict[str, Any]:
    """The configuration's hyperparameters by name.

    Args:
        names: Fields; `env_params.x` is the environment's parameter x.

    Raises:
        ValueError: For a name that is unknown or static, has no value, or only begins a training.
    """
    values = {}
    for name in names:
        check_hyperparameter(name)
        if name == "log_std_init":
            raise ValueError("log_std_init only begins a training; it cannot evolve")
        parameter = name.removeprefix("env_params.")
        of_environment = parameter != name
        value = config.env_params.get(parameter) if of_environment else getattr(config, name)
        if value is None:
            raise ValueError(f"{name} is none; a hyperparameter that evolves starts from a number")
        values[name] = value
    return values


def _select(key: jax.Array, fitness: jax.Array, number: int) -> jax.Array:
    """Every agent's parent [N]: one of the best `number` for each of the worst `number`."""
    themselves = jnp.arange(len(fitness))
    fit = fitness > -jnp.inf  # a NaN is not
    order = jnp.lexsort((themselves, -jnp.where(fit, fitness, -jnp.inf)))
    candidates = jnp.minimum(number, jnp.sum(fit))
    chosen = jax.random.randint(key, (number,), 0, jnp.maximum(candidates, 1))
    parents = themselves.at[order[-number:]].set(order[chosen].astype(themselves.dtype))
    return jnp.where(candidates > 0, parents, themselves)


def _explore(
    key: jax.Array,
    own: Mapping[str, jax.Array],
    parents: jax.Array,
    ranges: Mapping[str, sweep.Bounds],
    factors: Sequence[float],
    resample: float,
) -> dict[str, jax.Array]:
    """The hyperparameters [N] after the generation: the agents' own, or for children other ones
    than their parents'."""
    shape, themselves = (len(ranges), len(parents)), jnp.arange(len(parents))
    factor_key, resample_key, draw_key = jax.random.split(key, 3)
    chosen = jax.random.randint(factor_key, shape, 0, len(factors))
    anew = jax.random.bernoulli(resample_key, resample, shape)
    draws = sweep.search(draw_key, ranges, len(parents))
    values = {}
    for index, (name, (_, low, high)) in enumerate(ranges.items()):
        perturbed = own[name][parents] * jnp.asarray(factors, own[name].dtype)[chosen[index]]
        explored = jnp.clip(jnp.where(anew[index], draws[name], perturbed), low, high)
        values[name] = jnp.where(parents == themselves, own[name], explored)
    return values
