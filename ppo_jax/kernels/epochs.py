"""An update's epochs as one GPU kernel: every minibatch's gradient, clipping and Adam.

One block of threads trains one agent. Parameters and moments stay in memory of the block's own
from one minibatch to the next.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ppo_jax import kernels, loss, optimizer
from ppo_jax.config import Config
from ppo_jax.kernels import memory, network
from ppo_jax.kernels.actor_critic import ActorCritic, rows_at
from ppo_jax.policy import Halves, Params, Policy, split

_WARPS = 16


class _Inputs(NamedTuple):
    """What the kernel reads; every tree flat, leaf by leaf."""

    constants: Any  # of the actor and critic
    arrays: Any  # among the hyperparameters and the number of updates
    orders: Any  # [epochs, capacity]
    num_valid: Any  # [1]
    batch: Any  # [B, ...]
    trainable: Any
    optimizer_state: Any


class _Outputs(NamedTuple):
    """What the kernel writes, as `_Inputs` flat."""

    trainable: Any
    optimizer_state: Any
    count: Any  # of applied steps, [1]
    means: Any  # over them, of diagnostics and norms, [1] each


def optimize(
    orders: jax.Array,
    num_valid: jax.Array | int,
    params: Params,
    optimizer_state: Any,
    batch: loss.Minibatch,
    num_updates: jax.Array | int,
    policy: Policy,
    config: Config,
) -> tuple[Any, Any, jax.Array, loss.Diagnostics, optimizer.GradNorms]:
    """The gradient steps of `ppo.optimize`, its minibatches in these orders [epochs, capacity].

    Returns the trainable parameters, the optimizer's state, the number of applied steps, and the
    means over them of diagnostics and gradient norms.

    Raises ValueError, in one line, for what the kernel does not serve.
    """
    kernels.check(config)
    size, num_diagnostics = config.transitions_per_minibatch, len(loss.Diagnostics._fields)
    rows = memory.padded(size)
    trainable, join = params.trainable, split(params.trainable)[1]
    places = network.places(trainable)
    state_places = network.state_places(optimizer_state, trainable)
    batch = batch._replace(valid=None)
    parts = batch.observation, batch.action, batch.noise
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), parts)
    actor_critic = ActorCritic(params, policy, config.activation, *one)
    arrays, hyperparameters_of = memory.numbers((config, num_updates))

    def epochs_kernel(inputs: _Inputs, outputs: _Outputs, barrier: Any) -> None:
        new, new_state = outputs.trainable, outputs.optimizer_state
        lane = jax.lax.broadcasted_iota(jnp.int32, (rows,), 0)
        own_config, own_updates = hyperparameters_of(inputs.arrays)
        transformation = optimizer.make(own_config, own_updates)
        held = inputs.num_valid[0]
        num_minibatches = (held + size - 1) // size

        def loss_of(optimized: Halves, minibatch: loss.Minibatch) -> Any:
            given = actor_critic(rows, inputs.constants, join(optimized), minibatch.observation)
            own = policy._replace(unroll=lambda *_: (*given, ()))
            total, diagnostics = loss.loss(params, minibatch, own, own_config)
            # Times a one that is no constant: Triton's lowering has no rule for -1.0.
            return total * (held > 0).astype(total.dtype), diagnostics

        def step(index: jax.Array, carry: Any) -> Any:
            sums, taken, stopped = carry
            epoch, first = index // num_minibatches, index % num_minibatches * size
            chosen = inputs.orders[epoch, first + jnp.minimum(lane, size - 1)]
            minibatch = _minibatch_at(chosen, inputs.batch)
            if rows > size or config.whole_episodes:
                minibatch = minibatch._replace(valid=(lane < size) & (first + lane < held))
            given, _ = split(memory.read(places, new))
            gradients, diagnostics = jax.grad(loss_of, has_aux=True)(given, minibatch)
            barrier()  # what follows is read only now: registers would not hold all of it
            optimized, _ = split(memory.read(places, new))
            state = memory.read(state_places, new_state)
            updates, later = transformation.update(gradients, state, optimized)
            row = diagnostics, optimizer.norms(gradients, own_config)
            after = (
                optax.apply_updates(optimized, updates),
                later,
                jax.tree.map(jnp.add, sums, row),
                taken + 1,
            )
            if own_config.target_kl is not None:
                stopped |= diagnostics.approx_kl > 1.5 * own_config.target_kl
                before = optimized, state, sums, taken
                after = jax.tree.map(partial(jnp.where, stopped), before, after)
            optimized, state, *totals = after
            barrier()  # all have read before any of them writes
            memory.write(places, new, join(optimized))
            memory.write(state_places, new_state, state)
            barrier()
            return *totals, stopped

        memory.write(places, new, memory.read(places, inputs.trainable))
        state = memory.read(state_places, inputs.optimizer_state)
        memory.write(state_places, new_state, state)
        barrier()
        zero = jnp.zeros((), like.dtype)
        sums = loss.Diagnostics(*[zero] * num_diagnostics), optimizer.GradNorms(zero, zero)
        carry = sums, jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        steps = config.num_epochs * num_minibatches
        sums, taken, _ = jax.lax.fori_loop(0, steps, step, carry)
        outputs.count[0] = taken
        for ref, total in zip(outputs.means, jax.tree.leaves(sums), strict=True):
            ref[0] = total / taken

    like = batch.log_prob
    number = jax.ShapeDtypeStruct((1,), like.dtype)
    flat = partial(jax.tree.map, jnp.ravel)
    written = memory.call(
        epochs_kernel,
        _Inputs(
            actor_critic.constants,
            arrays,
            orders,
            jnp.full(1, num_valid, jnp.int32),
            batch,
            flat(trainable),
            flat(optimizer_state),
        ),
        _Outputs(
            jax.tree.map(_flat, trainable),
            jax.tree.map(_flat, optimizer_state),
            jax.ShapeDtypeStruct((1,), jnp.int32),
            [number] * (num_diagnostics + len(optimizer.GradNorms._fields)),
        ),
        _WARPS,
    )
    means = [mean[0] for mean in written.means]
    return (
        jax.tree.map(_reshaped, written.trainable, trainable),
        jax.tree.map(_reshaped, written.optimizer_state, optimizer_state),
        written.count[0],
        loss.Diagnostics(*means[:num_diagnostics]),
        optimizer.GradNorms(*means[num_diagnostics:]),
    )


def _minibatch_at(chosen: jax.Array, batch: Any) -> loss.Minibatch:
    """The transitions of such places: what the policy sees and did as entries, numbers as vectors
    [M]."""
    parts = {name: getattr(batch, name) for name in ("observation", "action", "noise")}
    vectors = jax.tree.map(lambda ref: ref[chosen], batch._replace(**dict.fromkeys(parts, ())))
    return vectors._replace(**rows_at(parts, chosen))


def _flat(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((leaf.size,), leaf.dtype)


def _reshaped(leaf: jax.Array, like: jax.Array) -> jax.Array:
    return leaf.reshape(like.shape)
