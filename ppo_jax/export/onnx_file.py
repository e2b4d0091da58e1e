"""Writes a graph as policy.onnx."""

from typing import Any

import numpy as np
from onnx import checker, helper, numpy_helper

from ppo_jax import __version__
from ppo_jax.export.graph import Graph
from ppo_jax.export.interface import Interface

_OPSET, _IR_VERSION = 15, 8  # what runtimes for browsers and game engines read as well


def serialize(graph: Graph, interface: Interface) -> bytes:
    """The content of an ONNX file; the first axis of inputs and outputs is of any length."""

    def describe(arrays: dict[str, Any]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, _type(array.dtype), ["batch", *array.shape])
            for name, array in arrays.items()
        ]

    nodes = [
        helper.make_node(one.operator, one.inputs, [one.output], **_as_onnx(one.attributes))
        for one in graph.nodes
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    made = helper.make_graph(
        nodes, "policy", describe(interface.inputs), describe(interface.outputs), constants
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    about = {"producer_name": "ppo_jax", "producer_version": __version__}
    model = helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION, **about)
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _as_onnx(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: _type(one) if name == "to" else one for name, one in attributes.items()}


def _type(dtype: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
