"""`jax.jit` for tests, which run dozens of programs a few times each: slow code that compiles in a
quarter of the time is the better bargain."""

import functools

import jax
import jax.numpy as jnp

OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


def compiles(options):
    """Whether this version of XLA knows these options."""
    try:
        jax.jit(jnp.negative, compiler_options=options).lower(1.0).compile()
    except Exception:
        return False
    return True


quick_jit = functools.partial(jax.jit, compiler_options=OPTIONS if compiles(OPTIONS) else None)
