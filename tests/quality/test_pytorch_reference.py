"""The PyTorch programs that the benchmarks measure take the steps that we take, in float64."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import oracle
from tests.helpers.problems import FLOAT64, learn_and_orders, make_problem, metrics_of, oracle_tree

pytest.importorskip("torch")
pytest.importorskip("gymnasium")
needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler"
)


def flat(tree):
    """Weights [out, in] and biases of both halves, the actor's first."""
    halves = oracle.halves(tree).values()
    return [np.asarray(array).T for half in halves for layer in half for array in layer]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("notebook", "plain"),
        ("standard", "plain"),
        ("notebook", "tuned"),
        ("standard", "tuned"),
        pytest.param("standard", "compiled", marks=needs_compiler),
        pytest.param("notebook", "compiled", marks=[needs_compiler, pytest.mark.slow]),
    ],
)
def test_the_pytorch_reference_takes_the_same_steps(name, style, tmp_path):
    problem = make_problem(name, seed=0)  # the recipe's own hyperparameters
    params, adam, _ = problem.judged
    config = problem.config
    (trained, _, learned), batch, orders = learn_and_orders(problem)
    trees = {"parameter": params, "mean": adam["mean"], "square": adam["square"]}
    arrays = {
        f"{what}/{index}": array
        for what, tree in trees.items()
        for index, array in enumerate(flat(tree))
    }
    fields = ("observation", "action", "log_prob", "value", "advantage", "target")
    arrays |= {f"batch/{field}": np.asarray(getattr(batch, field)) for field in fields}
    arrays |= {"count": adam["count"], "minibatch_size": config.transitions_per_minibatch}
    before, after = tmp_path / "before.npz", tmp_path / "after.npz"
    np.savez(before, orders=orders, **arrays)
    command = [sys.executable, "-m", "benchmarks.pytorch_update", name, style, before, after]
    subprocess.run(command, check=True, timeout=300)
    found = np.load(after)

    # `clip_grad_norm_` divides by the norm + 1e-6, so a gradient that it clips (norm over the
    # limit) differs by at most 1e-6 / limit of itself, and a parameter by about as much of the way
    # that so many steps of Adam can go. The other styles clip as we do.
    rate = max(config.learning_rate, config.critic_learning_rate or 0.0)
    way = len(found["loss/policy_loss"]) * rate
    atol = 1e-6 / config.max_grad_norm * way if style == "plain" else FLOAT64["atol"]
    tolerance = FLOAT64 | {"atol": atol}  # 9e-8 for `notebook`, 4e-9 for `standard`
    for index, wanted in enumerate(flat(oracle_tree(trained))):
        np.testing.assert_allclose(found[f"parameter/{index}"], wanted, **tolerance)
    losses = [key for key in found.files if key.startswith("loss/")]
    assert len(losses) >= 2
    for key in losses:
        wanted = metrics_of(learned)[key.removeprefix("loss/")]
        np.testing.assert_allclose(found[key].mean(), wanted, **tolerance)
