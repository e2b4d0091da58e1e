"""What is written otherwise than it reads, because XLA then makes fewer or longer kernels of it.

Every function has the signature and the results of a plain one, which stands beside it as
`plain_...` and runs beyond a bound: many actions, wide observations. What each brings is in
docs/performance.md; tests/core/test_fast.py holds the pairs equal.
"""

from collections.abc import Callable, Iterable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

FEW_INPUTS = 8  # of a layer that becomes part of the next one's kernel, off the CPU
FEW_OUTPUTS = 4  # of a layer that is computed as matrix-vector products
FEW_SHIFTS = 16  # of an image, which a convolution becomes one product of
FEW_ROWS = 8  # observations that a small network takes one by one
FEW_PARAMETERS = 100_000  # of a network that may
FEW_ACTIONS = 32  # whose sums are written out, a term an action
FEW_NUMBERS = 64  # of a transition that becomes a row of one table
FEW_CARRIED = 4096  # numbers that a step of all environments hands on and puts out
STEPS_A_TRIP = 16  # of a loop off the CPU


def _platform() -> str:
    """What is traced now is for a "cpu", "gpu" or "tpu": the device of the mesh in use, which may
    be one that is not here (`jax.sharding.use_abstract_mesh`), or else this process's own."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def _on_cpu() -> bool:
    return _platform() == "cpu"


def plain_dot_general(inputs: jax.Array, kernel: jax.Array, *_: Any, **options: Any) -> jax.Array:
    """inputs @ kernel: [B, D], [D, H] -> [B, H]."""
    return jnp.dot(inputs, kernel, precision=options.get("precision"))


def dot_general(inputs: jax.Array, kernel: jax.Array, *_: Any, **options: Any) -> jax.Array:
    """`plain_dot_general`, by matrix-vector products where there are few outputs or one row: on a
    CPU these and their gradients take a third of the time of one thin matrix product, and may be
    part of a loop that is compiled into one function."""
    product: Callable[..., jax.Array] = partial(jnp.dot, precision=options.get("precision"))
    if kernel.shape[1] <= FEW_OUTPUTS:
        return jnp.stack([product(inputs, column) for column in jnp.unstack(kernel, axis=1)], -1)
    if len(inputs) == 1:
        return product(inputs[0], kernel)[None]
    if len(kernel) <= FEW_INPUTS and not _on_cpu():
        return _outer_products(inputs, kernel)
    return plain_dot_general(inputs, kernel, **options)


def _outer_products(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    columns, rows = jnp.unstack(inputs, axis=1), jnp.unstack(kernel)
    return _sum(jnp.outer(column, row) for column, row in zip(columns, rows, strict=True))


def plain_convolve(
    images: jax.Array, kernel: jax.Array, strides: Any, *_: Any, **options: Any
) -> jax.Array:
    """Convolution without padding: [B, H, W, C], [h, w, C, K] -> [B, H', W', K]."""
    return jax.lax.conv_general_dilated(
        images,
        kernel,
        strides,
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=options.get("precision"),
    )


def convolve(
    images: jax.Array, kernel: jax.Array, strides: Any, *_: Any, **options: Any
) -> jax.Array:
    """`plain_convolve` as one product of patches: the convolutions of many agents at once, each
    with its own kernel, are not in any CPU library."""
    height, width, channels = kernel.shape[0], kernel.shape[1], kernel.shape[3]
    if height * width > FEW_SHIFTS:
        return plain_convolve(images, kernel, strides, **options)
    rows = range(images.shape[1])[: images.shape[1] - height + 1 : strides[0]]
    columns = range(images.shape[2])[: images.shape[2] - width + 1 : strides[1]]
    shifts = [
        images[
            :,
            row : row + rows[-1] + 1 : strides[0],
            column : column + columns[-1] + 1 : strides[1],
        ]
        for row in range(height)
        for column in range(width)
    ]
    patches = jnp.concatenate(shifts, axis=-1)
    matrix = kernel.reshape(-1, channels)
    product = jnp.dot(patches.reshape(-1, len(matrix)), matrix, precision=options.get("precision"))
    return product.reshape(*patches.shape[:-1], channels)


def plain_sum_entries(values: jax.Array) -> jax.Array:
    """Sum over the last axis, [..., K] -> [...]."""
    return jnp.sum(values, axis=-1)


def sum_entries(values: jax.Array) -> jax.Array:
    """`plain_sum_entries`, written out: one kernel, where reductions along a short axis, and their
    gradients, would be ten."""
    if not 0 < values.shape[-1] <= FEW_ACTIONS:
        return plain_sum_entries(values)
    return _sum(_entries(values))


def plain_log_softmax_at(logits: jax.Array, action: jax.Array) -> jax.Array:
    """log softmax(logits)[action]: [..., A], [...] -> [...]."""
    # A sum over a mask, not an index: the gradient stays free of scatters.
    chosen = jax.nn.one_hot(action, logits.shape[-1], dtype=bool)
    return jnp.sum(jnp.where(chosen, jax.nn.log_softmax(logits), 0), axis=-1)


def log_softmax_at(logits: jax.Array, action: jax.Array) -> jax.Array:
    """`plain_log_softmax_at`, its sums over actions written out."""
    if logits.shape[-1] > FEW_ACTIONS:
        return plain_log_softmax_at(logits, action)
    terms = enumerate(_log_softmax(logits))
    return _sum(jnp.where(action == index, log_prob, 0) for index, log_prob in terms)


def plain_softmax_entropy(logits: jax.Array) -> jax.Array:
    """-Σ π log π of π = softmax(logits), [..., A] -> [...]."""
    log_probs = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def softmax_entropy(logits: jax.Array) -> jax.Array:
    """`plain_softmax_entropy`, its sums over actions written out."""
    if logits.shape[-1] > FEW_ACTIONS:
        return plain_softmax_entropy(logits)
    return -_sum(jnp.exp(log_prob) * log_prob for log_prob in _log_softmax(logits))


def _log_softmax(logits: jax.Array) -> list[jax.Array]:
    """log softmax of each of the A actions, [...] each."""
    each = _entries(logits)
    largest = jax.lax.stop_gradient(reduce(jnp.maximum, each))
    shifted = [logit - largest for logit in each]
    log_normalizer = jnp.log(_sum(jnp.exp(logit) for logit in shifted))
    return [logit - log_normalizer for logit in shifted]


def _entries(values: jax.Array) -> list[jax.Array]:
    """Each of the last axis' entries, [..., K] -> K of [...]."""
    if _on_cpu():
        return list(jnp.unstack(values, axis=-1))
    # The gradient of `unstack` is a concatenation, and a kernel with one of so thin parts is what
    # XLA cannot compile for a GPU, or not for some numbers of agents (jaxlib 0.10.2).
    take = partial(jax.lax.index_in_dim, values, axis=-1, keepdims=False)
    return [take(index) for index in range(values.shape[-1])]


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    return reduce(jnp.add, terms)


def plain_argmax(values: jax.Array) -> jax.Array:
    """The index of the first largest of the last axis' values, [..., A] -> [...]."""
    return jnp.argmax(values, axis=-1).astype(jnp.int32)


def argmax(values: jax.Array) -> jax.Array:
    """`plain_argmax` of numbers, written out off the CPU: part of another kernel, where a reduction
    to two results is one of its own."""
    if values.shape[-1] > FEW_ACTIONS or _on_cpu():
        return plain_argmax(values)
    largest, *others = jnp.unstack(values, axis=-1)
    index = jnp.zeros(largest.shape, jnp.int32)
    for position, value in enumerate(others, 1):
        index = jnp.where(value > largest, position, index)
        largest = jnp.maximum(value, largest)
    return index


def plain_together(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The tree of single numbers itself, and what gives it back."""
    return tree, lambda same: same


def together(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """`plain_together`; off the CPU one array of the tree's numbers, and the function that takes it
    apart: what is done to each of them is then one kernel."""
    if _on_cpu():
        return plain_together(tree)
    leaves, structure = jax.tree.flatten(tree)
    place, row = jnp.arange(len(leaves)), jnp.zeros(len(leaves))
    for index, leaf in enumerate(leaves):  # no concatenation, for the reason of `_entries`
        row = jnp.where(place == index, leaf, row)
    return row, lambda row: jax.tree.unflatten(structure, jnp.unstack(row))


def plain_discounted_sums(
    rewards: jax.Array, discounts: jax.Array, bootstrap: jax.Array, reverse: bool = True
) -> jax.Array:
    """G[t] = r[t] + γ[t] G[t+1], G[T] = bootstrap: [T, ...], [T, ...], [...] -> [T, ...]. Not in
    reverse, G[t] = r[t] + γ[t] G[t-1], G[-1] = bootstrap."""

    def step(
        following: jax.Array, inputs: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        reward, discount = inputs
        current = reward + discount * following
        return current, current

    return jax.lax.scan(step, bootstrap, (rewards, discounts), reverse=reverse)[1]


def discounted_sums(
    rewards: jax.Array, discounts: jax.Array, bootstrap: jax.Array, reverse: bool = True
) -> jax.Array:
    """`plain_discounted_sums`; off the CPU by halves, in log T passes over all steps instead of T
    short ones: (r, γ) then (r', γ') is (r + γ r', γ γ'). Blelloch, Prefix Sums (1990)."""
    if _on_cpu():
        return plain_discounted_sums(rewards, discounts, bootstrap, reverse)

    def join(before: Any, after: Any) -> Any:
        return after[0] + after[1] * before[0], after[1] * before[1]

    if reverse:
        parts = [rewards[:-1], rewards[-1:] + discounts[-1:] * bootstrap[None]]
    else:
        parts = [rewards[:1] + discounts[:1] * bootstrap[None], rewards[1:]]
    ended = jnp.concatenate(parts)
    return jax.lax.associative_scan(join, (ended, discounts), reverse=reverse)[0]


def plain_scan(step: Callable[..., Any], carry: Any, inputs: Any, reverse: bool = False) -> Any:
    """`jax.lax.scan`."""
    return jax.lax.scan(step, carry, inputs, reverse=reverse)


def scan(step: Callable[..., Any], carry: Any, inputs: Any, reverse: bool = False) -> Any:
    """`plain_scan`; off the CPU what a step hands on, and what it puts out, is one array each, and
    several steps are one trip: every array would be a kernel, and every trip two more."""
    if _on_cpu():
        return plain_scan(step, carry, inputs, reverse)

    def first(carry: Any, inputs: Any) -> Any:
        return step(carry, jax.tree.map(lambda leaf: leaf[0], inputs))[1]

    outputs = jax.eval_shape(first, carry, inputs)
    leaves = jax.tree.leaves((carry, outputs))
    has_keys = any(jnp.issubdtype(leaf.dtype, jax.dtypes.extended) for leaf in leaves)
    if has_keys or sum(leaf.size for leaf in leaves) > FEW_CARRIED:
        return plain_scan(step, carry, inputs, reverse)

    def packed(flat: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        carried, given = step(_unpack(flat, carry), inputs)
        return _pack(carried), _pack(given)

    flat, rows = jax.lax.scan(packed, _pack(carry), inputs, unroll=STEPS_A_TRIP, reverse=reverse)
    return _unpack(flat, carry), jax.vmap(lambda row: _unpack(row, outputs))(rows)


def _pack(tree: Any) -> jax.Array:
    """All numbers of a tree as one vector of floats, from which `_unpack` makes the same bits."""
    return ravel_pytree(jax.tree.map(_as_float, tree))[0]


def _unpack(flat: jax.Array, like: Any) -> Any:
    zeros = jax.tree.map(lambda leaf: _as_float(jnp.zeros(leaf.shape, leaf.dtype)), like)
    return jax.tree.map(_as_it_was, ravel_pytree(zeros)[1](flat), like)


def plain_draw(draw: Callable[..., jax.Array], key: jax.Array, shape: Any) -> jax.Array:
    """Random numbers of a shape, by a function of `jax.random`."""
    return draw(key, shape)


def draw(draw: Callable[..., jax.Array], key: jax.Array, shape: Any) -> jax.Array:
    """`plain_draw`, drawn flat: XLA compiles that several times faster."""
    size = 1
    for length in shape:
        size *= length
    return draw(key, (size,)).reshape(shape)


def plain_orthonormal(gaussian: jax.Array) -> jax.Array:
    """A Gaussian matrix's orthonormal columns (or rows, where those are fewer), by QR with a
    positive diagonal: uniformly random. Mezzadri, arXiv:math-ph/0609050."""
    tall = gaussian if gaussian.shape[0] >= gaussian.shape[1] else gaussian.T
    columns, upper = jnp.linalg.qr(tall)
    columns = columns * jnp.sign(jnp.diagonal(upper))[None]
    return columns if tall is gaussian else columns.T


def orthonormal(gaussian: jax.Array) -> jax.Array:
    """`plain_orthonormal` by Gram-Schmidt, each column projected twice for accuracy: the calls of
    LAPACK's QR lock up a small machine's threads when many agents are initialized at once."""
    tall = gaussian if gaussian.shape[0] >= gaussian.shape[1] else gaussian.T

    def orthogonalize(index: int, basis: jax.Array) -> jax.Array:
        column = tall[:, index]
        for _ in range(2):
            projection = jnp.dot(basis.T, column, precision=jax.lax.Precision.HIGHEST)
            column = column - jnp.dot(basis, projection, precision=jax.lax.Precision.HIGHEST)
        return basis.at[:, index].set(column / jnp.linalg.norm(column))

    columns = jax.lax.fori_loop(0, tall.shape[1], orthogonalize, jnp.zeros_like(tall))
    return columns if tall is gaussian else columns.T


def plain_rows(function: Callable[..., Any], most: int) -> Callable[..., Any]:
    """The function of (params, rows [B, ...]) itself."""
    del most
    return function


def rows(function: Callable[..., Any], most: int) -> Callable[..., Any]:
    """`plain_rows`, where one agent and many do best with different programs.

    On a CPU one agent takes its few rows one by one: XLA compiles matrix-vector products into a
    loop's own function, while for matrix products it calls a library, and the loop is a list of
    kernels. Elsewhere many agents take `most` rows at a time: activations of a whole rollout of all
    of them would be the largest arrays there are.

    The function must close over nothing that is traced.
    """

    @jax.custom_batching.custom_vmap
    def special(params: Any, batch: Any) -> Any:
        return _one_by_one(function, params, batch) if _on_cpu() else function(params, batch)

    @special.def_vmap
    def _(_: int, batched: Any, params: Any, batch: Any) -> Any:
        def one_agent(params: Any, batch: Any) -> Any:
            if _on_cpu():
                return function(params, batch)
            return in_batches(lambda rows, _: function(params, rows), most, batch, ())

        axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, batched)
        outputs = jax.vmap(one_agent, tuple(axes))(params, batch)
        return outputs, jax.tree.map(lambda _: True, outputs)

    @jax.custom_jvp  # custom_vmap has no derivative
    def differentiable(params: Any, batch: Any) -> Any:
        return special(params, batch)

    @differentiable.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return jax.jvp(function, primals, tangents)

    def applied(params: Any, batch: Any) -> Any:
        count = len(jax.tree.leaves(batch)[0])
        if not _on_cpu():
            return (differentiable if count > most else function)(params, batch)
        numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
        if not 0 < count <= FEW_ROWS or numbers > FEW_PARAMETERS:
            return function(params, batch)
        return jax.lax.platform_dependent(params, batch, cpu=differentiable, default=function)

    return applied


def _one_by_one(function: Callable[..., Any], params: Any, batch: Any) -> Any:
    each = [
        function(params, jax.tree.map(lambda leaf, at=index: leaf[at : at + 1], batch))
        for index in range(len(jax.tree.leaves(batch)[0]))
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *each)


def plain_gather(batch: Any) -> Callable[[jax.Array], Any]:
    """The function of indices [M] that gives those transitions of a batch, every leaf [B, ...]."""
    return lambda chosen: jax.tree.map(lambda leaf: leaf[chosen], batch)


def gather(batch: Any) -> Callable[[jax.Array], Any]:
    """`plain_gather` from one table, a row a transition: one kernel instead of one a leaf."""
    leaves = jax.tree.leaves(batch)
    if sum(leaf.size // len(leaf) for leaf in leaves) > FEW_NUMBERS:
        return plain_gather(batch)
    coded = jax.tree.map(_as_float, batch)
    to_transition = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], coded))[1]
    table = jax.vmap(lambda transition: ravel_pytree(transition)[0])(coded)

    def rows_at(chosen: jax.Array) -> Any:
        transitions = jax.vmap(to_transition)(table[chosen])
        return jax.tree.map(_as_it_was, transitions, batch)

    return rows_at


def _as_float(leaf: jax.Array) -> jax.Array:
    """An integer as wide as a float by its bits, for not all are a float's value."""
    wide = jnp.issubdtype(leaf.dtype, jnp.integer) and leaf.itemsize == _float().itemsize
    return jax.lax.bitcast_convert_type(leaf, _float()) if wide else leaf


def _as_it_was(leaf: jax.Array, like: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(leaf, like.dtype) if leaf.dtype != like.dtype else leaf


def _float() -> Any:
    return jnp.zeros(()).dtype


def plain_slice_row(rows: jax.Array, row: jax.Array, first: jax.Array, size: int) -> jax.Array:
    """rows[row, first : first + size]."""
    return jax.lax.dynamic_slice(rows, (row, first), (1, size))[0]


def slice_row(rows: jax.Array, row: jax.Array, first: jax.Array, size: int) -> jax.Array:
    """`plain_slice_row`; on a TPU entry by entry: slices that begin at another place for each agent
    would be cut in a loop over the agents."""
    if _platform() != "tpu":
        return plain_slice_row(rows, row, first, size)
    return rows.at[row, first + jnp.arange(size)].get(mode="promise_in_bounds")


def plain_in_batches(function: Callable[..., Any], size: int, agents: Any, own: Any) -> Any:
    """The function of (agents, their own numbers), every leaf [agents, ...]."""
    del size
    return function(agents, own)


def in_batches(function: Callable[..., Any], size: int, agents: Any, own: Any) -> Any:
    """`plain_in_batches`, `size` agents at most at a time, one batch after another; the last is
    filled up with the last agent. What kernels hand on to one another then stays in the caches."""
    count = len(jax.tree.leaves(agents)[0])
    batches = -(-count // size)
    size = -(-count // batches)
    filled = jnp.minimum(jnp.arange(batches * size), count - 1)

    def cut(leaf: jax.Array) -> jax.Array:
        whole = leaf if count == batches * size else leaf[filled]
        return whole.reshape(batches, size, *leaf.shape[1:])

    outputs = jax.lax.map(lambda batch: function(*batch), jax.tree.map(cut, (agents, own)))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], outputs)
