"""The README of an exported policy: a model card as the Hugging Face Hub reads it."""

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

_TEMPLATE = Path(__file__).with_name("card.md")


def text(
    contract: dict[str, Any], results: dict[str, Any], files: Collection[str], notes: Sequence[str]
) -> str:
    """The card of a folder with these files; notes say why others are missing."""
    environment, parts = contract["environment"], [one["name"] for one in contract["inputs"]]
    observations = [one["name"] for one in contract["inputs"] if "space" in one]
    observation = ", ".join(f'"{name}": inputs["{name}"][index]' for name in observations)
    previous = {"previous" for name in parts if name.startswith("previous_")}
    present = {*files, *parts, *previous}
    reset = '\n    if inputs["start"][index]:\n        policy.reset()' * ("start" in present)
    template = re.sub(  # what the folder lacks is left out
        r"<!-- (\S+) -->\n(.*?)<!-- end -->\n",
        lambda section: section[2] * (section[1] in present),
        _TEMPLATE.read_text(),
        flags=re.DOTALL,
    )
    made = template.format(
        quoted=json.dumps(environment["id"]),
        environment=environment["id"],
        version=contract["versions"]["ppo-jax"],
        reward=f"{results['mean_reward']:.4g} +/- {results['std_reward']:.4g}",
        episodes=results["n_eval_episodes"],
        notes="".join(f"\n{note}.\n" for note in notes),
        arrays="\n".join(
            f"| {kind} `{one['name']}` | {one['dtype']} | {', '.join(map(str, one['shape']))} |"
            for kind in ("input", "output")
            for one in contract[f"{kind}s"]
        ),
        reset=reset,
        observation=observation,
    )
    return re.sub(r"\n{3,}", "\n\n", made)  # where a part of it is empty
