"""Transitions from the current policy: fixed-length rollouts, and whole episodes."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppo_jax import fast, kernels, spaces
from ppo_jax.config import Config
from ppo_jax.env import Environment
from ppo_jax.policy import Params, Policy

LARGEST_RESETS = 2**31  # bytes of reset states that one batch of agents may hold
_LARGE = 1024  # bytes of an observation of which only truncations' final ones are ever stored


class Transition(NamedTuple):
    """Steps of N environments, time-major [T, N, ...].

    `final_observation` is what a step really led to, also where a reset followed it: of every step
    [T, N, ...], or, without memory and where `truncation_slots` gives K, of each environment's
    truncations alone [K, N, ...], one after another.
    `valid` is false past the end of whole episodes. The episode's return and length are those of
    the episode that the step belongs to, counted up to and including it. A network with memory has
    its memory before the first step and where episodes begin kept as well.
    """

    observation: Any  # [T, N, ...], as the environment gives them
    action: jax.Array  # [T, N, ...], as the policy drew them
    noise: Any  # [T, N, ...], that they were drawn with, where their entropy needs it; else ()
    reward: jax.Array  # [T, N]
    terminated: jax.Array  # [T, N]
    truncated: jax.Array  # [T, N]
    final_observation: Any  # [T, N, ...] or [K, N, ...]
    episode_return: jax.Array  # [T, N]
    episode_length: jax.Array  # [T, N]
    valid: Any  # [T, N]; within a rollout of fixed length ()
    memory: Any = ()  # [N, ...], before the first step
    start: Any = ()  # [T, N], whether an episode begins here

    @property
    def done(self) -> jax.Array:
        """Whether the episode ended here, [T, N]."""
        return self.terminated | self.truncated

    @property
    def has_every_final(self) -> bool:
        """Whether final observations are those of every step, not of truncations alone."""
        return len(jax.tree.leaves(self.final_observation)[0]) == len(self.reward)


class RolloutState(NamedTuple):
    """Where the N environments stand: all that a rollout needs to go on."""

    env_state: Any
    observation: Any  # [N, ...]
    memory: Any  # of the network, [N, ...]; () where it has none
    start: jax.Array  # [N], whether an episode begins here
    episode_return: jax.Array  # [N], of the running episode
    episode_length: jax.Array  # [N]
    noise: Any  # [N, K], of the last action, where it is continuous; else ()


class _Noise(NamedTuple):
    """Everything random in a rollout, drawn before its loop: a draw in a loop's body is a small
    loop of its own, and slow."""

    action: jax.Array  # [T, N, ...]
    step_key: jax.Array  # [T, N]
    reset: Any  # (state, observation) of every reset [T, N, ...], or its place in the pool [T, N]


def start(key: jax.Array, environment: Environment, policy: Policy, num_envs: int) -> RolloutState:
    """N freshly reset environments.

    Returns:
        Every leaf [N, ...], N = num_envs; no episode has a step yet.
    """
    space = environment.action_space
    env_state, observation = jax.vmap(environment.reset)(jax.random.split(key, num_envs))
    return RolloutState(
        env_state=env_state,
        observation=observation,
        memory=policy.initial_memory(num_envs),
        start=jnp.ones(num_envs, bool),
        episode_return=jnp.zeros(num_envs),
        episode_length=jnp.zeros(num_envs, jnp.int32),
        noise=jnp.zeros((num_envs, space.size)) if isinstance(space, spaces.Box) else (),
    )


def length(config: Config, environment: Environment) -> int:
    """T, the steps that a rollout holds: its capacity.

    Whole episodes fill it only in part: the longest case holds one transition less than
    `min_transitions` when an episode of the full time limit begins.
    """
    if config.min_transitions is None:
        assert config.num_steps is not None
        return config.num_steps
    assert environment.max_episode_steps is not None
    return config.min_transitions - 1 + environment.max_episode_steps


def collect(
    key: jax.Array,
    params: Params,
    state: RolloutState,
    environment: Environment,
    policy: Policy,
    config: Config,
) -> tuple[RolloutState, Transition]:
    """One update's transitions with the current policy.

    Fixed-length rollouts reset an environment that is done and go on. Whole episodes stop, with
    every later step invalid, when an episode has ended and `min_transitions` are held.

    Args:
        key: For everything random in the rollout.
        params: Of the policy that acts; no gradient flows into them.
        state: From `start` or the rollout before.
        environment: From `env.make`.

    Returns:
        The state after the last step.
        The transitions, [T, N, ...], T from `length`; rewards in the environment's own unit.

    Raises:
        ValueError: Where the reset states would take more than 2 GiB.
    """
    check_resets(config, environment)
    shape = length(config, environment), config.num_envs
    draw = partial(_draw, environment=environment, policy=policy, reset_pool=config.reset_pool)
    if config.kernel == "pallas":
        from ppo_jax.kernels import noise as noise_kernel  # Pallas takes a while to import

        kernels.check(config)
        noise, pool = noise_kernel.draw(key, draw, shape)
    else:
        # Without the barrier XLA draws them in two kernels on a GPU.
        noise, pool = draw(jax.lax.optimization_barrier(jax.random.split(key, 3)), shape)
    every_final = policy.has_memory or config.kernel == "pallas"
    slots = None if every_final else truncation_slots(config, environment)
    is_large = sum(leaf.nbytes for leaf in jax.tree.leaves(state.observation)) > _LARGE * shape[1]
    params = jax.lax.stop_gradient(params)  # what was seen is given
    minimum, memory = config.min_transitions, state.memory

    def step(policy: Policy, carry: Any, noise: _Noise) -> Any:
        state, finals, num_collected, done = carry
        act = partial(_act, params, policy, config.noise_correlation)
        next_state, transition = _step(act, state, ~done, noise, pool, environment, policy)
        if slots is not None and is_large:
            finals, transition = _keep_truncated(finals, transition)
        if minimum is None:
            transition = transition._replace(valid=())
        else:
            next_state = where(done, state, next_state)
            num_collected = num_collected + ~done
            done = done | (transition.done[0] & (num_collected >= minimum))
        return (next_state, finals, num_collected, done), transition

    finals: Any = _no_finals(state.observation, slots) if slots is not None and is_large else ()
    carry: Any = state, finals, jnp.zeros((), jnp.int32), jnp.zeros((), bool)
    if config.kernel == "pallas":
        from ppo_jax.kernels import rollout as kernel  # Pallas takes a while to import

        (state, finals, *_), transitions = kernel.scan(step, carry, noise, params, policy, config)
    else:
        (state, finals, *_), transitions = fast.scan(partial(step, policy), carry, noise)
    if minimum is None:
        transitions = transitions._replace(valid=jnp.ones(shape, bool))
    if slots is not None:
        kept = finals.observation if is_large else _truncated_rows(transitions, slots)
        transitions = transitions._replace(final_observation=kept)
    return state, transitions._replace(memory=memory)


class _Finals(NamedTuple):
    """The final observations of truncations so far, and their number in each environment."""

    observation: Any  # [K, N, ...]
    number: jax.Array  # [N]


def _no_finals(observation: Any, slots: int) -> _Finals:
    leaves = jax.tree.map(lambda leaf: jnp.zeros((slots, *leaf.shape), leaf.dtype), observation)
    return _Finals(leaves, jnp.zeros(len(jax.tree.leaves(observation)[0]), jnp.int32))


def _keep_truncated(finals: _Finals, transition: Transition) -> tuple[_Finals, Transition]:
    """The final observation put in its place where it was a truncation's, and not stored else."""
    slots = len(jax.tree.leaves(finals.observation)[0])
    truncated = transition.truncated & transition.valid
    here = truncated[None] & (jnp.arange(slots)[:, None] == finals.number[None])
    repeated = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf[None], (slots, *leaf.shape)),
        transition.final_observation,
    )
    kept = _Finals(where(here, repeated, finals.observation), finals.number + truncated)
    return kept, transition._replace(final_observation=())


def _truncated_rows(transitions: Transition, slots: int) -> Any:
    """The final observations [K, N, ...] of truncations, from those of every step [T, N, ...];
    zeros where there are fewer."""
    number = jnp.cumsum(transitions.truncated & transitions.valid, axis=0, dtype=jnp.int32)
    wanted = jnp.arange(1, slots + 1)[:, None, None]
    steps = jnp.argmax(number[None] == wanted, axis=1)  # the first with so many truncations

    def rows(leaf: jax.Array) -> jax.Array:
        return jnp.take_along_axis(leaf, steps.reshape(*steps.shape, *(1,) * (leaf.ndim - 2)), 0)

    kept = jax.tree.map(rows, transitions.final_observation)
    return where(number[-1:] >= wanted[..., 0], kept, jax.tree.map(jnp.zeros_like, kept))


def next_values(
    params: Params,
    transitions: Transition,
    values: jax.Array,
    memories: Any,
    state: RolloutState,
    policy: Policy,
) -> jax.Array:
    """V of the state that each step really led to.

    Where the episode went on, that is the next step's own value; so only the rollout's last
    observations and those of truncations are evaluated here, or all final observations where
    those of every step are stored.

    Args:
        params: Those that the rollout was collected with.
        transitions: [T, N, ...].
        values: [T, N], of the transitions' observations.
        memories: [T, N, ...], after these observations; () for a network without memory.
        state: After the rollout's last step.

    Returns:
        [T, N], in the values' unit. After a termination it is finite and has no meaning.
    """
    if transitions.has_every_final:
        found = policy.apply(params, transitions.final_observation, memories)[1]
        return jnp.where(transitions.terminated, 0, found)  # of what may have ended in infinity
    few = jax.tree.map(
        lambda final, last: jnp.concatenate([final, last[None]]),
        transitions.final_observation,
        state.observation,
    )
    *final, after = policy.apply(params, few)[1]
    following = jnp.concatenate([values[1:], after[None]])
    truncated = transitions.truncated & transitions.valid
    slot = jnp.cumsum(truncated, axis=0, dtype=jnp.int32) - 1
    for index, own in enumerate(final):
        here = truncated & (slot == index)
        following = jnp.where(here, jnp.broadcast_to(own[None], values.shape), following)
    return following


def truncation_slots(config: Config, environment: Environment) -> int | None:
    """K, the truncations of one environment that a rollout can hold, where only the time limit
    truncates; None where every step's final observation is stored.
    """
    limit, steps = environment.max_episode_steps, length(config, environment)
    if environment.truncates_early or limit is None:
        return None
    slots = (steps - 1) // limit + 1
    return slots if 4 * slots <= steps else None


def reset_bytes(config: Config, environment: Environment) -> int:
    """Bytes of the reset states that one agent's rollout holds."""
    one = jax.eval_shape(environment.reset, jax.random.key(0))
    number = config.reset_pool or length(config, environment) * config.num_envs
    return number * sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))


def check_resets(config: Config, environment: Environment, agents: int = 1) -> None:
    """Refuse a batch of agents that would hold more than 2 GiB of reset states.

    Args:
        agents: How many train at once.

    Raises:
        ValueError: In one line, with the remedy.
    """
    needed = agents * reset_bytes(config, environment)
    if needed > LARGEST_RESETS:
        together = f" for {agents} agents at once" if agents > 1 else ""
        raise ValueError(
            f"a fresh reset state for every step takes {needed / 2**30:.1f} GiB{together}, more"
            " than 2 GiB; give --reset-pool (reset_pool), such as 256"
        )


def _act(
    params: Params,
    policy: Policy,
    correlation: jax.Array | float,
    state: RolloutState,
    noise: jax.Array,
) -> tuple[jax.Array, jax.Array, Any]:
    """The actions drawn with the noise ξ [N, ...], the noise they were drawn with, and the memory.

    Of continuous actions it is ε_t = ρ ε_{t-1} + √(1 - ρ²) ξ_t, and ξ_t where an episode begins:
    as likely as ξ_t itself, so that log-probabilities stay as they are.
    """
    distribution, _, memory = policy.apply(params, state.observation, state.memory, state.start)
    if not isinstance(state.noise, tuple):
        correlated = correlation * state.noise + jnp.sqrt(1 - correlation**2) * noise
        noise = where(state.start, noise, correlated)
    return distribution.sample(noise), noise, memory


def _step(
    act: Callable[[RolloutState, jax.Array], tuple[jax.Array, jax.Array, Any]],
    state: RolloutState,
    valid: jax.Array,
    noise: _Noise,
    pool: Any,
    environment: Environment,
    policy: Policy,
) -> tuple[RolloutState, Transition]:
    action, own_noise, memory = act(state, noise.action)
    env_state, timestep = jax.vmap(environment.step)(
        noise.step_key, state.env_state, policy.env_action(action)
    )
    transition = Transition(
        observation=state.observation,
        action=action,
        noise=own_noise if policy.entropy_needs_noise else (),
        reward=timestep.reward,
        terminated=timestep.terminated,
        truncated=timestep.truncated,
        final_observation=timestep.observation,
        episode_return=state.episode_return + timestep.reward,
        episode_length=state.episode_length + 1,
        valid=jnp.broadcast_to(valid, timestep.reward.shape),
        start=state.start if policy.has_memory else (),
    )
    done = transition.done
    fresh = noise.reset if pool is None else jax.tree.map(lambda leaf: leaf[noise.reset], pool)
    env_state, observation = where(done, fresh, (env_state, timestep.observation))
    return (
        RolloutState(
            env_state=env_state,
            observation=observation,
            memory=memory,
            start=done,
            episode_return=jnp.where(done, 0, transition.episode_return),
            episode_length=jnp.where(done, 0, transition.episode_length),
            noise=() if isinstance(state.noise, tuple) else own_noise,
        ),
        transition,
    )


def _draw(
    keys: jax.Array,
    shape: tuple[int, int],
    environment: Environment,
    policy: Policy,
    reset_pool: int | None,
) -> tuple[_Noise, Any]:
    """All noise of a rollout of three keys, and the pool of reset states; none where every step has
    its own."""
    action_key, step_key, reset_key = keys
    size = math.prod(shape)

    def unflatten(flat: jax.Array) -> jax.Array:
        return flat.reshape(*shape, *flat.shape[1:])

    # All draws are flat: XLA compiles those several times faster than [T, N, ...] ones.
    reset_keys = jax.random.split(reset_key, reset_pool or size)
    pool = jax.vmap(environment.reset)(reset_keys)
    resets: Any = pool
    if reset_pool is not None:
        place_key = jax.random.fold_in(reset_key, reset_pool)  # after those of the pool's states
        resets = jax.random.randint(place_key, (size,), 0, reset_pool)
    noise = _Noise(
        action=policy.noise(action_key, shape),
        step_key=unflatten(jax.random.split(step_key, size)),
        reset=jax.tree.map(unflatten, resets),
    )
    return noise, None if reset_pool is None else pool


def where(condition: jax.Array, yes: Any, no: Any) -> Any:
    """`jnp.where` over pytrees.

    Args:
        condition: Its axes are the leading ones of every leaf.
        yes: Where the condition is true.
        no: Elsewhere; like `yes`.
    """

    def select(one: jax.Array, other: jax.Array) -> jax.Array:
        extra = (1,) * (one.ndim - condition.ndim)
        return jnp.where(condition.reshape(*condition.shape, *extra), one, other)

    return jax.tree.map(select, yes, no)
