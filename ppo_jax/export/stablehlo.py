"""Writes any policy as policy.stablehlo, a compiled program's source for CPU, CUDA and TPU."""

import jax
from jax import export

from ppo_jax.export.interface import Interface

PLATFORMS = ("cpu", "cuda", "tpu")


def serialize(interface: Interface) -> bytes:
    """What `jax.export.deserialize` reads; the first axis of every array is of any length."""
    (batch,) = export.symbolic_shape("batch")
    inputs = {
        name: jax.ShapeDtypeStruct((batch, *one.shape), one.dtype)
        for name, one in interface.inputs.items()
    }
    return bytes(export.export(jax.jit(interface.step), platforms=PLATFORMS)(**inputs).serialize())
