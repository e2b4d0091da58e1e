"""The README of an exported policy: a model card as the Hugging Face Hub reads it."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TEMPLATE = Path(__file__).with_name("card.md")
_FILES = {
    "policy.onnx": "the policy for ONNX Runtime, also in browsers, C++ and game engines",
    "policy.stablehlo": "the policy for JAX on CPU, CUDA and TPU",
    "policy.npz": "the policy for `run_policy.py`, which needs NumPy alone",
    "run_policy.py": "`Policy(folder)(observation)` gives the action",
    "contract.json": "names, types and shapes, the environment, versions, 16 examples",
    "results.json": "the evaluation",
    "film.gif": "a greedy episode, with what the policy says of its actions and the critic's value",
}
_NUMPY = """
With NumPy alone, one observation after another:

```python
from run_policy import Policy

policy = Policy(".")
for index in range(16):{reset}
    action = policy({observation})
```
"""
_ONNX = """
With `pip install onnxruntime`:

```python
import onnxruntime

session = onnxruntime.InferenceSession("policy.onnx")
(actions,) = session.run(["action"], inputs)
```
"""
_JAX = """
With `pip install jax flatbuffers`:

```python
from jax import export

with open("policy.stablehlo", "rb") as file:
    policy = export.deserialize(file.read())
actions = policy.call(**inputs)["action"]
```
"""
_PREVIOUS = """\
`previous_action` and `previous_reward` are those of the step before, zeros where an episode begins;
a discrete action is one-hot.
"""
_MEMORY = """\
Give `next_memory` back as `memory` at the next step. `start` is true where an episode begins: the
memory given there has no effect.
"""


def text(
    contract: dict[str, Any], results: dict[str, Any], files: Sequence[str], notes: Sequence[str]
) -> str:
    """The card of a folder with these files; notes say why others are missing."""
    environment, parts = contract["environment"], [one["name"] for one in contract["inputs"]]
    observations = [one["name"] for one in contract["inputs"] if "space" in one]
    has_memory = "start" in parts
    observation = ", ".join(f'"{name}": inputs["{name}"][index]' for name in observations)
    observation = f"{{{observation}}}"
    if observations == ["observation"]:
        observation = 'inputs["observation"][index]'
    reset = '\n    if inputs["start"][index]:\n        policy.reset()' * has_memory
    previous = any(name.startswith("previous_") for name in parts)
    codes = {
        "run_policy.py": _NUMPY.format(reset=reset, observation=observation),
        "policy.onnx": _ONNX,
        "policy.stablehlo": _JAX,
    }
    made = _TEMPLATE.read_text().format(
        quoted=json.dumps(environment["id"]),
        environment=environment["id"],
        version=contract["versions"]["ppo-jax"],
        reward=f"{results['mean_reward']:.4g} +/- {results['std_reward']:.4g}",
        episodes=results["n_eval_episodes"],
        files="\n".join(f"| `{name}` | {_FILES[name]} |" for name in files),
        notes="".join(f"\n{note}.\n" for note in notes),
        arrays="\n".join(
            f"| {kind} `{one['name']}` | {one['dtype']} | {', '.join(map(str, one['shape']))} |"
            for kind in ("input", "output")
            for one in contract[f"{kind}s"]
        ),
        meaning=_PREVIOUS * previous + _MEMORY * has_memory,
        codes="".join(code for name, code in codes.items() if name in files),
    )
    return re.sub(r"\n{3,}", "\n\n", made)  # where a part of it is empty
