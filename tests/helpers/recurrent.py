"""Networks with memory as users write them, worlds to remember in, and updates laid open."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ppo_jax import env, ppo, rollout, spaces
from ppo_jax.env import Environment, Step

LIMIT = 4  # steps of an episode


class Trace(nn.Module):
    """A user's module: a fading trace of its inputs and the number of steps, which begin at other
    numbers than 0, for both heads."""

    num_outputs: Any

    def initial_memory(self, num_envs):
        return {"trace": jnp.full((num_envs, 3), 0.5), "age": jnp.full(num_envs, 7, jnp.int32)}

    @nn.compact
    def __call__(self, observation, memory, start):
        fresh = self.initial_memory(len(start))
        old = jnp.where(start[:, None], fresh["trace"], memory["trace"])
        age = jnp.where(start, fresh["age"], memory["age"])
        flat = [leaf.reshape(len(start), -1) for leaf in jax.tree.leaves(observation)]
        inputs = jnp.concatenate([*(leaf.astype(float) for leaf in flat), old], axis=1)
        trace = nn.tanh(nn.Dense(3, name="torso")(inputs))
        hidden = jnp.concatenate([trace, jnp.sin(age.astype(trace.dtype))[:, None]], axis=1)
        value = nn.Dense(1, name="value")(hidden)[:, 0]
        several = isinstance(self.num_outputs, tuple)
        sizes = self.num_outputs if several else (self.num_outputs,)
        heads = tuple(nn.Dense(size)(hidden) for size in sizes)
        return (heads if several else heads[0]), value, {"trace": trace, "age": age + 1}


class Wrong(nn.Module):
    """A module with memory that breaks the contract in one way."""

    what: str

    def initial_memory(self, num_envs):
        if self.what == "raises":
            raise RuntimeError("nothing to remember\nand more")
        if self.what == "cell":
            return nn.GRUCell(3).initialize_carry(jax.random.key(0), (num_envs, 3))
        return jnp.zeros((5,) if self.what == "without environments" else (num_envs, 3))

    @nn.compact
    def __call__(self, observation, memory, start):
        logits, value = nn.Dense(2)(observation), nn.Dense(1)(observation)[:, 0]
        if self.what == "pair":
            return logits, value
        if self.what == "wider":
            memory = jnp.concatenate([memory, memory], axis=-1)
        if self.what == "whole numbers":
            memory = memory.astype(jnp.int32)
        if self.what == "another tree":
            memory = {"memory": memory}
        if self.what == "logits":
            logits = jnp.concatenate([logits, logits], axis=1)
        return logits, value, memory


VECTOR = spaces.Box(-np.inf, np.inf, (3,))


def drift(action_space, limit=LIMIT, ends=0.25, space=VECTOR, observe=lambda state: 5 * state + 2):
    """An environment that drifts where actions push it, and ends at random or after `limit`
    steps."""

    def reset(key):
        state = jax.random.normal(key, (3,), float)
        return state, observe(state)

    def step(key, state, action):
        push = jnp.sum(jnp.asarray(action, float))
        state = 0.9 * state + 0.3 * push + 0.3 * jax.random.normal(key, (3,), float)
        ended = jax.random.bernoulli(jax.random.fold_in(key, 1), ends)
        return state, Step(observe(state), jnp.cos(state[0]) + push, ended, False)

    return Environment(reset, step, space, action_space, limit, truncates_early=False)


def random_params(config, seed=0):
    """Random parameters, all large: they compile faster than initial ones, and feel their memory
    more."""
    random = np.random.default_rng(seed)
    params = jax.eval_shape(ppo.policy(config).init, jax.random.key(0))

    def draw(leaf):
        return jnp.asarray(random.normal(size=leaf.shape) / 2, leaf.dtype)

    trainable, statistics = jax.tree.map(draw, params.trainable), zeros(params.statistics)
    return params._replace(trainable=trainable, statistics=statistics)


def zeros(types):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), types)


def some_state(key, config):
    """An agent with `random_params`."""
    state = zeros(jax.eval_shape(ppo.init, key, config)._replace(key=()))
    environment, policy = env.make(config), ppo.policy(config)
    return state._replace(
        params=random_params(config),
        rollout=rollout.start(key, environment, policy, config.num_envs),
        key=key,
    )


def updates_laid_open(config, number, offset=0.0):
    """The function of a key that makes an agent's first updates, and gives of each the state before
    it, the metrics, and what was inside: transitions, batch, and what the policy says of the batch
    with its environments in the opposite order.

    offset: what log-probabilities of the policy that acted are moved by, at most.
    """

    def update(state, _):
        inside = {}
        collect, optimize, make_policy = rollout.collect, ppo.optimize, ppo.policy

        def recording_policy(config):
            own = make_policy(config)

            def noise(*arguments):
                inside["noise"] = own.noise(*arguments)
                return inside["noise"]

            return own._replace(noise=noise)

        def correlated(fresh):
            """The noise of every action, by the definition, of what was drawn afresh."""
            if isinstance(state.rollout.noise, tuple):
                return fresh
            rho, noises = config.noise_correlation, [state.rollout.noise]
            for drawn, begins in zip(fresh, inside["transitions"].start, strict=True):
                goes_on = rho * noises[-1] + (1 - rho**2) ** 0.5 * drawn
                noises.append(jnp.where(begins[:, None], drawn, goes_on))
            return jnp.stack(noises[1:])

        def recording_collect(*arguments):
            after, transitions = collect(*arguments)
            inside["transitions"] = transitions
            return after, transitions

        def recording_optimize(key, params, optimizer_state, batch, num_updates, policy, config):
            turned = jax.tree.map(lambda leaf: leaf[:, ::-1], batch._replace(memory=()))
            distribution, value, _ = policy.unroll(
                params,
                turned.observation,
                jax.tree.map(lambda leaf: leaf[::-1], batch.memory),
                turned.start,
            )
            inside["log_prob"] = batch.log_prob
            moved = offset * jax.random.uniform(key, batch.log_prob.shape, float, -1, 1)
            batch = batch._replace(log_prob=batch.log_prob + moved)
            inside["batch"] = batch
            inside["orders"] = ppo.epoch_orders(
                key, config.num_envs, config.num_envs, config.num_epochs
            )
            inside["ratio"] = jnp.exp(distribution.log_prob(turned.action) - turned.log_prob)
            inside["value"] = value - turned.value
            inside["acted"] = distribution.sample(correlated(inside["noise"])[:, ::-1])[:, ::-1]
            return optimize(key, params, optimizer_state, batch, num_updates, policy, config)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ppo, "policy", recording_policy)
            patch.setattr(rollout, "collect", recording_collect)
            patch.setattr(ppo, "optimize", recording_optimize)
            after, metrics = ppo.update(state, config)
        return after, {"before": state._replace(key=()), "metrics": metrics, **inside}

    def run(key):
        state, every = jax.lax.scan(update, some_state(key, config), length=number)
        return state._replace(key=()), every

    return run
