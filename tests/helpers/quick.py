"""What compiles quickly, for tests, which run dozens of programs a few times each: slow code that
compiles in a fraction of the time is the better bargain."""

import functools
import os

import jax
import jax.numpy as jnp
import pytest

from ppo_jax import population

_OLDER_EMITTERS = "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
WANTED = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_use_fusion_emitters": False,
}


def start_jax():
    """Start jax so that all that it compiles in this process compiles in half the time.

    The processes that tests begin have the user's flags.
    """
    before = os.environ.get("XLA_FLAGS")
    if "xla_backend_extra_options" not in (before or ""):
        os.environ["XLA_FLAGS"] = f"{before or ''} {_OLDER_EMITTERS}".strip()
    jax.devices()  # XLA reads its flags once
    if before is None:
        os.environ.pop("XLA_FLAGS", None)
    else:
        os.environ["XLA_FLAGS"] = before


@functools.cache
def options():
    """Those that this version of XLA knows, of those that let it compile quickly."""
    known = {name: value for name, value in WANTED.items() if _compiles({name: value})}
    assert known or not WANTED
    return known


def _compiles(options):
    try:
        jax.jit(jnp.negative, compiler_options=options).lower(1.0).compile()
    except Exception:
        return False
    return True


def quick_jit(function, **more):
    """`jax.jit`, quickly compiled."""
    return jax.jit(function, compiler_options=options(), **more)


def slow_but(cases, *quick):
    """The cases, all but the quick ones marked slow."""
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]


def once_a_process(build):
    """`compiled.build`, quickly, and no program twice: most trainings of the tests are of a few
    kinds."""
    known = {}

    @functools.wraps(build)
    def built(config, lanes, chosen, own_options=population.COMPILER_OPTIONS):
        own_options = dict(own_options)
        if chosen[0].platform == "cpu":
            own_options |= options()
        if ":" in f"{config.env} {config.network} {config.optimizer}":  # a file, which may change
            return build(config, lanes, chosen, own_options)
        key = (
            jax.tree.structure(config),
            *map(jax.typeof, jax.tree.leaves(config)),
            lanes,
            *chosen,
            *sorted(own_options.items()),
            jax.config.jax_enable_x64,
            jax.config.jax_default_prng_impl,
        )
        if key not in known:
            known[key] = build(config, lanes, chosen, own_options)
        return known[key]

    return built
