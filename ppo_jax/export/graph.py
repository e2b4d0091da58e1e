"""A built-in policy as a graph of ONNX operators, which policy.onnx and run_policy.py share."""

from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

from ppo_jax import __version__, network, normalize, spaces
from ppo_jax.export.interface import NEXT, Interface
from ppo_jax.run.saved import Agent
from ppo_jax.run.storage import arrays

_OPSET, _IR_VERSION = 15, 8  # what runtimes for browsers and game engines read as well
_ONE, _ACTOR = np.float32(1), "trainable.network.actor."


class Node(NamedTuple):
    """One operator of ONNX; inputs and output are names of arrays."""

    operator: str
    inputs: list[str]
    output: str
    attributes: dict[str, Any]


class Graph:
    """Nodes in the order in which they run, and the constants that they use."""

    def __init__(self, constants: dict[str, np.ndarray]):
        self.nodes: list[Node] = []
        self.constants = constants

    def add(self, operator: str, *inputs: Any, output: str = "", **attributes: Any) -> str:
        """Append a node and return its output's name; inputs are names, or arrays to keep."""
        names = [one if isinstance(one, str) else self._keep(one) for one in inputs]
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(Node(operator, names, output, attributes))
        return output

    def dense(self, inputs: str, layer: str) -> str:
        """A layer of the network, with its bias, if it has one."""
        product, bias = self.add("MatMul", inputs, f"{layer}.kernel"), f"{layer}.bias"
        return self.add("Add", product, bias) if bias in self.constants else product

    def clip(self, values: str, low: Any, high: Any) -> str:
        """The values within bounds, numbers or [K]."""
        return self.add("Min", self.add("Max", values, np.float32(low)), np.float32(high))

    def _keep(self, array: Any) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name


def build(agent: Agent, interface: Interface) -> Graph:
    """The greedy policy of a built-in network, in float32; inputs and outputs have their own
    types."""
    config, outputs = agent.config, interface.outputs
    graph = Graph(_weights(agent))
    seen, nonlinearity = _encode(graph, agent, interface), config.activation.capitalize()
    if config.network == "cnn":
        features, prefix = _convolve(graph, seen[0], interface, nonlinearity), "layers_1."
    else:
        flat = [graph.add("Flatten", part, axis=1) for part in seen]
        features, prefix = graph.add("Concat", *flat, axis=1), ""
    if config.network == "gru":
        features, prefix = _recur(graph, features), "perceptron."
        memory = NEXT + "memory"
        graph.add("Cast", features, to=str(outputs[memory].dtype), output=memory)
    for index in range(len(config.hidden_sizes)):
        features = graph.add(nonlinearity, graph.dense(features, f"{prefix}hidden_{index}"))
    action = _act(graph, graph.dense(features, f"{prefix}output"), agent, interface)
    graph.add("Cast", action, to=str(outputs["action"].dtype), output="action")
    return graph


def to_onnx(graph: Graph, interface: Interface) -> bytes:
    """The graph as an ONNX file; the first axis of inputs and outputs is of any length."""
    from onnx import checker, helper, numpy_helper  # an extra

    def kind(dtype: Any) -> int:
        return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def describe(arrays: dict[str, Any]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, kind(array.dtype), ["batch", *array.shape])
            for name, array in arrays.items()
        ]

    nodes = []
    for operator, inputs, output, attributes in graph.nodes:
        own: dict[str, Any] = {
            name: kind(one) if name == "to" else one for name, one in attributes.items()
        }
        nodes.append(helper.make_node(operator, inputs, [output], **own))
    constants = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    made = helper.make_graph(
        nodes, "policy", describe(interface.inputs), describe(interface.outputs), constants
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    about = {"producer_name": "ppo_jax", "producer_version": __version__}
    model = helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION, **about)
    checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _weights(agent: Agent) -> dict[str, np.ndarray]:
    """The actor's weights by their names in parameters.npz, without what is common to them; kernels
    of convolutions as ONNX has them, [K, C, h, w]."""
    weights = {}
    for name, array in arrays.to_named(agent.params).items():
        if name.startswith(_ACTOR):
            kernel = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
            weights[name.removeprefix(_ACTOR)] = kernel.astype(np.float32)
    return weights


def _encode(graph: Graph, agent: Agent, interface: Interface) -> list[str]:
    """The parts of the observation as `policy.make` encodes them for the network."""
    statistics, seen = agent.params.statistics, []
    known = [()] * len(interface.observations)
    moments = statistics.parts if agent.config.normalize_observation else known
    for (name, kind), part in zip(interface.observations.items(), moments, strict=True):
        floats = graph.add("Cast", name, to="float32")
        if isinstance(kind, spaces.Discrete):
            floats = _one_hot(graph, floats, (kind.n,))
        elif isinstance(kind, spaces.MultiDiscrete):
            floats = _one_hot(graph, floats, kind.nvec)
        elif part:
            floats = _normalize(graph, floats, part, np.float32(statistics.count))
        elif interface.inputs[name].dtype == np.uint8:
            floats = graph.add("Div", floats, np.float32(255))
        seen.append(floats)
    return seen


def _one_hot(graph: Graph, floats: str, sizes: tuple[int, ...]) -> str:
    """[B, K], or [B], -> [B, ΣA], with a 1 for each entry."""
    entries = np.repeat(np.arange(len(sizes)), sizes)
    values = np.concatenate([np.arange(size, dtype=np.float32) for size in sizes])
    each = graph.add("Gather", graph.add("Flatten", floats, axis=1), entries, axis=1)
    return graph.add("Cast", graph.add("Equal", each, values), to="float32")


def _normalize(graph: Graph, floats: str, part: normalize.Moments, count: np.float32) -> str:
    """As `normalize.apply`, with the statistics as they are."""
    if count == 0:
        return floats
    mean, m2 = (np.asarray(array, np.float32) for array in part)
    deviation = np.sqrt(m2 / np.maximum(count, _ONE) + np.float32(normalize.EPSILON))
    scaled = graph.add("Div", graph.add("Sub", floats, mean), deviation)
    return graph.clip(scaled, -normalize.CLIP, normalize.CLIP)


def _convolve(graph: Graph, image: str, interface: Interface, nonlinearity: str) -> str:
    """The torso of `cnn`, [B, H, W, C] -> [B, D]; ONNX has the channels before the height."""
    (observation,) = (interface.inputs[name] for name in interface.observations)
    image = graph.add("Transpose", image, perm=[0, 3, 1, 2])
    for index, (_, _, stride) in enumerate(network.convolutions(observation.shape[:2])):
        layer = f"layers_0.convolution_{index}"
        weights = f"{layer}.kernel", f"{layer}.bias"
        image = graph.add(nonlinearity, graph.add("Conv", image, *weights, strides=[stride] * 2))
    return graph.add("Flatten", graph.add("Transpose", image, perm=[0, 2, 3, 1]), axis=1)


def _recur(graph: Graph, inputs: str) -> str:
    """The unit of `gru`, which gives its memory. Cho et al., arXiv:1406.1078, eq. 5 to 8."""
    old, start = graph.add("Cast", "memory", to="float32"), graph.add("Flatten", "start", axis=1)
    memory = graph.add("Where", start, np.float32(0), old)

    def gate(name: str) -> str:
        both = graph.dense(inputs, f"gru.i{name}"), graph.dense(memory, f"gru.h{name}")
        return graph.add("Sigmoid", graph.add("Add", *both))

    reset, update = gate("r"), gate("z")
    kept = graph.add("Mul", reset, graph.dense(memory, "gru.hn"))
    new = graph.add("Tanh", graph.add("Add", graph.dense(inputs, "gru.in"), kept))
    renewed = graph.add("Mul", graph.add("Sub", _ONE, update), new)
    return graph.add("Add", renewed, graph.add("Mul", update, memory))


def _act(graph: Graph, outputs: str, agent: Agent, interface: Interface) -> str:
    """The most probable action, as the environment receives it."""
    match interface.action_space:
        case spaces.Discrete():
            return graph.add("ArgMax", outputs, axis=1, keepdims=0)
        case spaces.MultiDiscrete(nvec):
            columns = [
                graph.add("Gather", outputs, np.arange(*ends), axis=1)
                for ends in pairwise(accumulate(nvec, initial=0))
            ]
            each = [graph.add("ArgMax", one, axis=1, keepdims=1) for one in columns]
            return graph.add("Concat", *each, axis=1)
    space: Any = interface.action_space
    low, high = (
        np.broadcast_to(np.asarray(bound, np.float32), space.shape).reshape(-1)
        for bound in (space.low, space.high)
    )
    if agent.config.squash_action:
        unit = graph.add("Add", graph.add("Tanh", outputs), _ONE)
        half = graph.add("Div", graph.add("Mul", unit, high - low), np.float32(2))
        outputs = graph.add("Add", half, low)
    else:
        outputs = graph.clip(outputs, low, high)
    return graph.add("Reshape", outputs, np.array([-1, *space.shape]))
