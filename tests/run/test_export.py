"""Exported policies: every format gives the agent's greedy actions."""

import functools
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from jax import export as jax_export

from ppo_jax import evaluate, population, ppo, recipe
from ppo_jax.export import folder, interface
from ppo_jax.run import export, train
from tests.helpers import exported, quick

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
FEED_FORWARD = [name for name in exported.CASES if name not in ("gru", "own with memory")]
MEMORY = ["gru", "own with memory"]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The function of a case that gives the folder of its export."""
    base = tmp_path_factory.mktemp("exported")

    @functools.cache
    def written(name):
        return write(name, base / name)

    return written


def write(name, out):
    """Export the agent of a case; only "parts" is evaluated, which compiles for seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population, "COMPILER_OPTIONS", quick.options())
        if name != "parts":
            patch.setattr(evaluate, "evaluate", lambda *_: jnp.arange(float(_[3])))
        _, contents, _ = folder.make(exported.agent(name), jax.random.key(3))
    out.mkdir()
    for file, content in contents.items():
        (out / file).write_bytes(content)
    return out


def read(out):
    """The contract, and the examples' inputs and outputs as arrays."""
    contract = json.loads((out / "contract.json").read_text())
    arrays = {
        kind: {
            one["name"]: np.array(contract["examples"][kind][one["name"]], one["dtype"])
            for one in contract[kind]
        }
        for kind in ("inputs", "outputs")
    }
    return contract, arrays["inputs"], arrays["outputs"]


def check(found, wanted):
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_allclose(found[name], array, **CLOSE, err_msg=name)


def as_given(inputs):
    """Observations as the environment of a feed-forward case gives them."""
    if "observation.goal" in inputs:
        parts = {part: inputs[f"observation.{part}"] for part in ("goal", "image", "vector")}
        return {"observation": parts, "reward": inputs["previous_reward"]}
    if "previous_action" in inputs:
        return {"observation": inputs["observation"], "action": inputs["previous_action"]}
    return inputs["observation"]


@pytest.mark.parametrize("name", FEED_FORWARD)
def test_the_examples_are_greedy_actions(written, name):
    agent, (contract, inputs, outputs) = exported.agent(name), read(written(name))
    wanted = np.asarray(quick.quick_jit(agent.act)(as_given(inputs)))
    check(outputs, {"action": wanted})
    assert len(wanted) == 16
    assert len(np.unique(wanted.reshape(16, -1), axis=0)) > 1
    assert all(one["shape"][0] == "batch" for one in contract["inputs"] + contract["outputs"])


@pytest.mark.parametrize("name", MEMORY)
def test_the_examples_of_a_network_with_memory_are_consecutive_steps(written, name):
    agent, (_, inputs, outputs) = exported.agent(name), read(written(name))
    own, start = ppo.policy(agent.config), inputs["start"]
    observation = inputs["observation"]
    if name == "gru":
        parts = {part: inputs[f"previous_{part}"] for part in ("action", "reward")}
        observation = {"observation": observation, **parts}
    rows = jax.tree.map(lambda leaf: leaf[:, None], (observation, start))
    unroll = quick.quick_jit(own.unroll)
    distribution, _, memory = unroll(agent.params, rows[0], own.initial_memory(1), rows[1])
    memory = (
        {"memory": memory["actor"]}
        if name == "gru"
        else {f"memory.{part}": leaf for part, leaf in memory.items()}
    )
    memory = {part: np.asarray(leaf[:, 0]) for part, leaf in memory.items()}
    left = {f"next_{part}": leaf for part, leaf in memory.items()}
    check(outputs, {"action": np.asarray(distribution.mode()[:, 0]), **left})
    assert len(np.unique(outputs["action"])) > 1
    assert start[0]
    assert 1 < start.sum() < 16
    for part, leaf in memory.items():
        np.testing.assert_allclose(inputs[part][1:], leaf[:-1], **CLOSE)
        assert not inputs[part][0].any()


@pytest.mark.parametrize("name", exported.BUILT_IN)
@pytest.mark.parametrize("rows", [16, 3])
def test_onnx_gives_the_examples(written, name, rows):
    out = written(name)
    onnx.checker.check_model(str(out / "policy.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(out / "policy.onnx")
    _, inputs, outputs = read(out)
    wanted = {part: array[:rows] for part, array in outputs.items()}
    given = {part: array[:rows] for part, array in inputs.items()}
    check(dict(zip(wanted, session.run([*wanted], given), strict=True)), wanted)


@pytest.mark.parametrize("name", exported.CASES)
def test_stablehlo_gives_the_examples(written, name):
    out = written(name)
    policy = jax_export.deserialize((out / "policy.stablehlo").read_bytes())
    assert policy.platforms == ("cpu", "cuda", "tpu")
    _, inputs, outputs = read(out)
    check(policy.call(**inputs), outputs)


REPLAY = """
import json
from pathlib import Path
import numpy as np
for folder in map(Path, sys.argv[1:]):
    sys.path.insert(0, str(folder))
    from run_policy import Policy
    contract = json.loads((folder / "contract.json").read_text())
    given = contract["examples"]["inputs"]
    inputs = {one["name"]: np.array(given[one["name"]], one["dtype"]) for one in contract["inputs"]}
    policy, actions = Policy(folder), []
    found = policy.run(**inputs)
    for index in range(16):
        if inputs.get("start", np.zeros(16))[index]:
            policy.reset()
        own = {name: array[index] for name, array in inputs.items()}
        parts = {name: own[name] for name in own if name not in ("memory", "start")}
        actions.append(policy(parts["observation"] if len(parts) == 1 else parts))
    np.savez(folder / "found.npz", one_by_one=np.stack(actions), **found)
"""


@pytest.fixture(scope="module")
def replayed(written, tmp_path_factory):
    """The function of a case that gives what NumPy alone made of its examples."""
    folders = {name: written(name) for name in exported.BUILT_IN}
    packages = tmp_path_factory.mktemp("python") / "packages"
    exported.run_without_jax(packages, REPLAY, *folders.values())
    return lambda name: dict(np.load(folders[name] / "found.npz"))


@pytest.mark.parametrize("name", exported.BUILT_IN)
def test_numpy_alone_gives_the_examples(written, replayed, name):
    found, (_, _, outputs) = replayed(name), read(written(name))
    one_by_one = {"action": found.pop("one_by_one")}
    check(found, outputs)
    check(one_by_one, {"action": outputs["action"]})


def test_run_policy_is_short(written):
    assert len((written("discrete") / "run_policy.py").read_text().splitlines()) < 60


def test_actions_lie_within_the_bounds_and_observations_are_clipped(written):
    """So that the cases tell whether both are inside."""
    _, inputs, outputs = read(written("clipped"))
    low, high = [-0.5, -0.5], [0.5, 1.0]
    action = outputs["action"]
    at_bounds = (action == np.float32(low)) | (action == np.float32(high))
    assert at_bounds.any()
    assert not at_bounds.all()
    statistics = exported.agent("clipped").params.statistics
    count, ((mean, m2),) = jax.tree.map(np.asarray, statistics)
    scaled = (inputs["observation"] - mean) / np.sqrt(m2 / count)
    assert (np.abs(scaled) > 10).any()
    assert not (np.abs(scaled) > 10).all()
    squashed = read(written("squashed"))[2]["action"]
    assert squashed.shape == (16, 2, 1)
    assert (squashed > -0.5).all()
    assert (squashed < [[0.5], [1.0]]).all()


@pytest.mark.parametrize("name", ["discrete", "parts", "gru"])
def test_the_card_is_a_model_card_and_its_code_runs(written, name, monkeypatch):
    out = written(name)
    monkeypatch.chdir(out)
    monkeypatch.syspath_prepend(str(out))
    monkeypatch.delitem(sys.modules, "run_policy", raising=False)
    card = (out / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    about, results = yaml.safe_load(front), json.loads((out / "results.json").read_text())
    assert about["library_name"] == "ppo-jax"
    assert {"reinforcement-learning", "Environment"} <= set(about["tags"])
    (result,) = about["model-index"][0]["results"]
    assert result["task"]["type"] == "reinforcement-learning"
    reward = f"{results['mean_reward']:.4g} +/- {results['std_reward']:.4g}"
    assert [(one["type"], one["value"]) for one in result["metrics"]] == [("mean_reward", reward)]
    _, _, outputs = read(out)
    codes, found = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE), {}
    assert len(codes) == 4
    for code in codes:
        exec(compile(code, "README.md", "exec"), found)
        if "actions" in found:
            check({"action": np.asarray(found.pop("actions"))}, {"action": outputs["action"]})
    np.testing.assert_allclose(found["action"], outputs["action"][-1], **CLOSE)


def test_results_are_those_of_episodes(written):
    """Every episode of it has 5 steps of reward 1."""
    results = json.loads((written("parts") / "results.json").read_text())
    del results["eval_datetime"]
    assert results == {
        "mean_reward": 5.0,
        "std_reward": 0.0,
        "is_deterministic": True,
        "n_eval_episodes": 100,
    }


def test_a_network_of_ones_own_is_stablehlo_alone(written):
    for name in ("own", "own with memory"):
        files = {file.name for file in written(name).iterdir()}
        assert files == {"policy.stablehlo", "contract.json", "results.json", "README.md"}
        card = (written(name) / "README.md").read_text()
        assert "run_policy.py are left out: the network is your own" in card
        assert "onnxruntime" not in card


def test_without_onnx_the_other_files_are_written(monkeypatch):
    monkeypatch.setattr(folder, "find_spec", lambda _: None)
    agent = exported.agent("discrete")
    files, (note,) = folder._policies(agent, interface.make(agent))
    assert set(files) == {"policy.stablehlo", "policy.npz", "run_policy.py"}
    assert note == "policy.onnx is left out: onnx is not installed; pip install onnx"


@pytest.mark.usefixtures("x64")
def test_in_float64_types_are_the_environments(tmp_path):
    out = write("clipped", tmp_path / "out")
    _, inputs, outputs = read(out)
    assert {array.dtype for array in (*inputs.values(), *outputs.values())} == {np.dtype(float)}
    session = onnxruntime.InferenceSession(out / "policy.onnx")
    check({"action": session.run(["action"], inputs)[0]}, outputs)


PLAY = """
import gymnasium
sys.path.insert(0, sys.argv[1])
from run_policy import Policy
policy, world, returns = Policy(sys.argv[1]), gymnasium.make("CartPole-v1"), []
for seed in range(100):
    observation, done, total = world.reset(seed=seed)[0], False, 0.0
    while not done:
        observation, reward, terminated, truncated, _ = world.step(int(policy(observation)))
        total, done = total + reward, terminated or truncated
    returns.append(total)
print(sum(returns) / len(returns))
"""


@pytest.mark.slow
def test_a_trained_agent_plays_gymnasiums_cartpole_with_numpy_alone(tmp_path):
    run = train(recipe("fast"), out=tmp_path / "run")
    out = export(run, 0, tmp_path / "out")
    mean = float(exported.run_without_jax(tmp_path / "packages", PLAY, out))
    assert mean >= 475
    results = json.loads((out / "results.json").read_text())
    assert results["mean_reward"] >= 475
