"""Trees of arrays: an agent of many, many stacked, bits compared, all in one number."""

import jax
import jax.numpy as jnp
import numpy as np


def lane(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)


def numbers(tree):
    """All leaves as NumPy arrays, keys as their data."""

    def convert(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return [convert(leaf) for leaf in jax.tree.leaves(tree)]


def nan_like(tree):
    """The tree with its floats NaN."""
    return jax.tree.map(
        lambda leaf: leaf * jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )


def same_bits(one, other):
    pairs = zip(numbers(one), numbers(other), strict=True)
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


def weighted(tree):
    """One number in which every float counts differently."""
    terms = (
        jnp.sum(jnp.sin(leaf) * (1 + jnp.arange(leaf.size)).reshape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    )
    return sum(terms, jnp.zeros(()))
