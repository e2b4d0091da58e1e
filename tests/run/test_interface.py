"""ppo_jax.run.train: the command from Python."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import recipe
from ppo_jax.run import export, load, train
from ppo_jax.run.storage import folder
from tests.helpers.commands import SMALL, run_command
from tests.helpers.own_parts import SMALL as OWN
from tests.helpers.own_parts import teller

CONFIG = recipe("fast", num_envs=4, num_steps=32, hidden_sizes=(8,), total_timesteps=1300)


def make_shaped(shape):
    """A factory, for the path of this module."""
    assert shape == (2, (3,))
    return teller()


def same(one, other):
    """Whether two pytrees are the same to the bit."""
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in leaves)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return out, train(CONFIG, seed=5, out=str(out))


def test_what_is_returned_is_what_load_gives(run):
    out, returned = run
    loaded = load(out)
    for name in ("params", "metrics", "evaluations", "numbers", "hyperparameters"):
        assert same(getattr(returned, name), getattr(loaded, name)), name
    assert returned.config == loaded.config == CONFIG
    assert returned.summary == loaded.summary
    assert returned.summary["finished"]


def test_an_interpreter_shows_a_run_in_a_line(run):
    assert repr(run[1]) == "<Run of CartPole-v1, agents: 1>"
    assert repr(run[1].agent(0)) == "<Agent of CartPole-v1>"


def test_it_is_the_commands_run(run, tmp_path):
    out = tmp_path / "run"
    assert run_command("train", *SMALL, "--seed", 5, "--quiet", "--out", out) == (0, "", "")
    assert load(out).summary["state_sha256"] == run[1].summary["state_sha256"]
    assert run[1].summary["recipe"] == "custom"


def test_it_is_quiet_unless_told_otherwise(tmp_path, capfd):
    train(CONFIG, out=str(tmp_path / "one"))
    assert capfd.readouterr() == ("", "")
    train(CONFIG, out=str(tmp_path / "other"), quiet=False)
    assert "training 100%" in capfd.readouterr().out


def test_numbers_of_other_libraries_and_tuples_are_saved_and_loaded(tmp_path):
    config = OWN.replace(
        env="tests.run.test_interface:make_shaped",
        env_kwargs={"shape": (2, (np.int64(3),))},
        num_steps=np.int64(8),
        hidden_sizes=(np.int32(8),),
        learning_rate=jnp.float32(1e-3),
        discount=np.float32(0.5),
    )
    run = train(config, num_seeds=np.int64(1), seed=np.int32(3), out=tmp_path / "run")
    assert run.config == config
    assert run.config.env_kwargs == (("shape", (2, (3,))),)
    assert run.summary["seed"] == 3


def test_without_a_folder_it_is_a_fresh_one_under_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(CONFIG)
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("CartPole-v1-custom-seed0-")


def test_fresh_folders_of_the_same_second_are_others(monkeypatch):
    monkeypatch.setattr(folder.time, "strftime", lambda _: "now")
    assert len({folder.choose(None, "label") for _ in range(3)}) == 3


def test_it_trains_beside_the_main_thread(tmp_path):
    """Which alone may catch signals."""
    found = []
    thread = threading.Thread(target=lambda: found.append(train(CONFIG, out=str(tmp_path / "run"))))
    thread.start()
    thread.join()
    assert found[0].summary["finished"]


@pytest.mark.usefixtures("x64")
def test_it_trains_in_the_precision_of_its_thread(tmp_path):
    run = train(CONFIG, out=str(tmp_path / "run"))
    assert {leaf.dtype for leaf in jax.tree.leaves(run.params)} == {np.dtype(np.float64)}
    assert run.summary["finished"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_seeds": 0}, "--num-seeds is 0; it must be a whole number of at least 1"),
        ({"seed": -1}, "--seed is -1"),
        ({"num_sedes": 3}, "num_sedes; did you mean num_seeds?"),
        ({"resume": "newest", "out": None}, "--resume needs --out"),
        ({"resume": "sometimes"}, "--resume is 'sometimes'; it must be newest or auto"),
        ({"sweep": ("discount=2",)}, "discount is 2.0; it must be between 0 and 1"),
        (
            {"sweep": "discount=0.5"},
            "--sweep is 'discount=0.5'; it must be a tuple of texts, such as ('",
        ),
        ({"learning_rate": 1e-3}, "give the config recipe(..., learning_rate=...)"),
        ({"gamma": 0.9}, "give the config recipe(..., discount=...)"),
        ({"hooks": print}, "hooks is a builtin_function_or_method; give a list of hooks"),
        ({"init_from": "nowhere", "agent": 0}, "--init-from nowhere"),
        ({"config": CONFIG.replace(env="CartPol")}, "near it: CartPole-v1"),
        ({"config": CONFIG.replace(discount=2.0)}, "discount is 2.0"),
        ({"config": CONFIG.replace(discount=np.array([0.5, 0.9]))}, "discount is an array of 2"),
        (
            {"config": CONFIG.replace(env_params={"gravity": np.ones(2)})},
            "gravity is an array of 2 values, and a run has one; with sweep=['gravity=1,2']",
        ),
        (
            {"config": CONFIG.replace(env="own:make", env_kwargs={"unit": abs})},
            "env_kwargs unit is <built-in function abs>, which no config.json can hold",
        ),
        ({"plan": True}, "plan=True trains nothing; leave it out, or run ppo-jax plan"),
        ({"distributed": True}, "distributed=True needs jax.distributed.initialize(...)"),
        ({"config": "fast"}, "config is a str; give a Config, such as recipe('fast')"),
    ],
)
def test_bad_input_is_a_value_error_in_one_line_and_nothing_is_written(
    options, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as raised:
        train(**{"config": CONFIG, "out": "run", **options})
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_a_value_error_unless_it_is_to_be_replaced(run, tmp_path):
    out, _ = run
    before = (out / "summary.json").read_bytes()
    with pytest.raises(ValueError, match="holds a run; give another folder"):
        train(CONFIG, out=str(out))
    assert (out / "summary.json").read_bytes() == before
    own = str(tmp_path / "run")
    first = train(CONFIG, out=own)
    again = train(CONFIG, out=own, seed=5, overwrite=True)
    assert again.summary["state_sha256"] == run[1].summary["state_sha256"]
    assert again.summary["state_sha256"] != first.summary["state_sha256"]


def test_what_the_file_system_refuses_is_an_os_error(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        with pytest.raises(OSError, match=str(file)):
            train(CONFIG, out=str(path))


def test_a_seed_that_cannot_be_is_a_value_error(run, tmp_path):
    with pytest.raises(ValueError, match=r"^seed is -1; seeds go from 0 to 4294967295$"):
        export(run[1], 0, tmp_path / "export", seed=-1)


def test_a_device_that_is_not_there_and_divergence_are_runtime_errors(tmp_path):
    with pytest.raises(RuntimeError, match="--device tpu: jax finds none"):
        train(CONFIG, out=str(tmp_path / "run"), device="tpu")
    with pytest.raises(RuntimeError, match="every agent diverged"):
        train(CONFIG.replace(learning_rate=1e38), out=str(tmp_path / "run"))
    assert load(tmp_path / "run").summary["diverged_seeds"] == [0]


def test_a_run_of_objects_is_resumed_and_loaded_with_them(tmp_path):
    """Which its files name, and cannot hold."""
    out = str(tmp_path / "run")
    config = OWN.replace(env=teller(), num_updates=4, anneal_learning_rate=False)

    class Fault:
        def at_boundary(self, batch):
            if batch.num_updates == 4:
                raise RuntimeError("stop here")

    with pytest.raises(ValueError, match="hook Fault"):
        train(config, out=out, hooks=[Fault()], checkpoint_every=2)
    resumed = train(config, out=out, resume="newest")
    assert resumed.summary["finished"]
    assert resumed.agent(0).act(np.zeros(2)) in (0, 1)
    whole = train(config, out=str(tmp_path / "whole"))
    assert whole.summary["state_sha256"] == resumed.summary["state_sha256"]
    with pytest.raises(ValueError, match=r"holds its env .*Environment.*load\(path, env="):
        load(out)
    assert same(load(out, env=teller()).params, resumed.params)
    finished = train(config, out=out, resume="auto")
    assert finished.summary == resumed.summary
