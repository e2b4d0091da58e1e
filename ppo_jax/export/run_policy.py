"""Runs an exported policy with NumPy alone: `Policy(folder)(observation)` gives the action."""

import json
from pathlib import Path

import numpy as np


def _convolve(image, kernel, bias, strides):
    """[B, C, H, W], [K, C, h, w], [K] -> [B, K, H', W']."""
    windows = np.lib.stride_tricks.sliding_window_view(image, kernel.shape[2:], axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1]]
    return np.einsum("bcyxhw,kchw->bkyx", windows, kernel, optimize=True) + bias[:, None, None]


_OPERATORS: dict = {  # of ONNX
    **{"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide},
    **{"Max": np.maximum, "Min": np.minimum, "Equal": np.equal, "Where": np.where},
    **{"MatMul": np.matmul, "Tanh": np.tanh, "Gather": np.take, "Reshape": np.reshape},
    **{"Conv": _convolve, "Relu": lambda x: np.maximum(x, 0), "Cast": lambda x, to: x.astype(to)},
    "Sigmoid": lambda x: (np.tanh(x / 2) + 1) / 2,
    "Flatten": lambda x, axis: x.reshape(len(x), -1),
    "Transpose": lambda x, perm: x.transpose(perm),
    "Concat": lambda *parts, axis: np.concatenate(parts, axis),
    "ArgMax": lambda x, axis, keepdims: x.argmax(axis, keepdims=bool(keepdims)),
}


class Policy:
    """The greedy policy of an exported folder; one with memory carries it from call to call."""

    def __init__(self, folder="."):
        with np.load(Path(folder, "policy.npz")) as file:
            self._arrays = dict(file)
        self._ranks, self._memory_size, self._nodes = json.loads(str(self._arrays.pop("graph")))
        self.reset()

    def reset(self):
        """Forget everything: the next observation begins an episode."""
        self._memory = None

    def __call__(self, observation):
        """The action for an observation, or for a batch of them; give parts by name in a dict."""
        named = observation if isinstance(observation, dict) else {"observation": observation}
        parts = {name: np.asarray(part) for name, part in named.items()}
        is_one = all(part.ndim == self._ranks[name] for name, part in parts.items())
        inputs = {name: part[None] if is_one else part for name, part in parts.items()}
        rows, fresh = len(next(iter(inputs.values()))), self._memory is None
        memory = np.zeros((rows, self._memory_size), np.float32) if fresh else self._memory
        outputs = self.run(**inputs, memory=memory, start=np.full(rows, fresh))
        self._memory = outputs.get("next_memory")
        return outputs["action"][0] if is_one else outputs["action"]

    def run(self, **inputs):
        """The outputs [B, ...] for all inputs [B, ...], by their names in contract.json."""
        values = {**self._arrays, **inputs}
        for operator, names, output, attributes in self._nodes:
            values[output] = _OPERATORS[operator](*(values[name] for name in names), **attributes)
        return {name: values[name] for name in ("action", "next_memory") if name in values}
