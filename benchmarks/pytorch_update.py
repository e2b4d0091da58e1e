"""python -m benchmarks.pytorch_update RECIPE STYLE BEFORE.npz AFTER.npz: the steps of one update.

The PyTorch programs that the benchmarks measure, on numbers from elsewhere, in float64: so that
others can see whether they take the same steps. `BEFORE` holds the networks, actor first, as
`parameter/0`, `parameter/1` ... (weights [out, in] and biases), Adam's moments `mean/0` ...,
`square/0` ... and `count`, a batch `batch/NAME` [M, ...], and the epochs' orders `orders`
[epochs, M] with their `minibatch_size`. `AFTER` holds `parameter/0` ... and each step's
`loss/NAME`.
"""

import argparse
import dataclasses
from collections import defaultdict

import numpy as np
import torch

from benchmarks import pytorch_compiled, pytorch_ppo, pytorch_tuned

STYLES = {
    "plain": pytorch_ppo.PLAIN,
    "tuned": pytorch_tuned.STYLE,
    "compiled": pytorch_compiled.STYLE,
}


def update(recipe: str, style: pytorch_ppo.Style, before: dict[str, np.ndarray]) -> dict:
    """What an update of the recipe, in that style, makes of the arrays before."""
    arrays = {name: torch.tensor(array).contiguous() for name, array in before.items()}
    count = sum(name.startswith("parameter/") for name in before)
    layers = count // 4  # a weight and a bias each, in each of two networks
    hidden = tuple(len(before[f"parameter/{2 * layer}"]) for layer in range(layers - 1))
    settings = dataclasses.replace(pytorch_ppo.RECIPES[recipe], hidden=hidden)
    actor, critic = (one.double() for one in pytorch_ppo.make_networks(settings, recipe))
    parameters = [*actor.parameters(), *critic.parameters()]
    for index, parameter in enumerate(parameters):
        parameter.data = arrays[f"parameter/{index}"]
    optimizers = style.make_optimizers(actor, critic, settings, recipe)  # may copy the parameters
    owner = {
        parameter: optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for index, parameter in enumerate(parameters):
        owner[parameter].state[parameter] = {
            "step": torch.tensor(float(before["count"])),
            "exp_avg": arrays[f"mean/{index}"],
            "exp_avg_sq": arrays[f"square/{index}"],
        }
    batch = {
        name.removeprefix("batch/"): array
        for name, array in arrays.items()
        if name.startswith("batch/")
    }
    losses = defaultdict(list)
    for order in arrays["orders"]:
        for chosen in order.split(int(before["minibatch_size"])):
            minibatch = {name: array[chosen] for name, array in batch.items()}
            step = style.update_minibatch(actor, critic, optimizers, minibatch, settings, recipe)
            for name, loss in step.items():
                losses[f"loss/{name}"].append(loss)
    found = {f"parameter/{i}": one.detach().numpy() for i, one in enumerate(parameters)}
    return found | {name: np.array(each) for name, each in losses.items()}


def main() -> None:
    """Read the arrays, take the steps, write what they came to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", choices=pytorch_ppo.RECIPES)
    parser.add_argument("style", choices=STYLES)
    parser.add_argument("before")
    parser.add_argument("after")
    options = parser.parse_args()
    with np.load(options.before) as before:
        found = update(options.recipe, STYLES[options.style], dict(before))
    np.savez(options.after, **found)


if __name__ == "__main__":
    main()
