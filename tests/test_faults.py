"""The fault catalogue: what a command answers to every fault, and what it leaves on the disk.

Its rows, and where each is tested; a name without a file is a test here.

Input: every row is one of REFUSED, REFUSED_BY_THE_PARSER or REFUSED_WITH_THE_ENVIRONMENT, named
after it, and test_a_bad_flag_needs_no_jax, but for
    a budget that is no multiple      test_command: test_a_run_says_what_it_does_and_where_it_wrote
    an --out that holds another run   test_command: test_a_folder_that_holds_a_run_is_refused...
    a config.json of other types      test_a_configuration_by_hand_is_refused_in_one_line
    a space that cannot be served     ..., test_an_observation_that_the_networks_cannot_take
    data that are absent              test_an_environment_without_its_data
Versions and devices
    gymnax 0.0.x, unsupported jax     test_an_old_library_is_refused_before_it_is_imported
    x64 on or off                     test_environments: test_types_are_stable_in_float32, _64
    another PRNG or x64 at resume     test_other_random_numbers_or_precision_are_refused_at_resume
    --device without one              test_a_missing_device_is_refused (and in test_command)
    auto names the device             test_command: test_a_run_says_what_it_does_and_where_it_wrote
    out of memory                     test_out_of_memory..., test_a_network_that_no_memory_holds
    seeds that do not divide          test_population: test_agents_shared_out_over_devices...
Checkpoints and files
    truncated, one flipped bit        test_a_damaged_checkpoint..., test_a_damaged_configuration...,
                                      test_a_damaged_summary..., test_damaged_parameters...
    temporary folders, broken ones    test_a_run_goes_on_from_its_newest_whole_checkpoint, test_a_
                                      half_written_checkpoint_is_none, test_none_whole_is_refused
    resume of a finished run          test_a_finished_run_is_left_as_it_is
    resume of nothing                 test_resume_of_nothing (and REFUSED)
    a failed asynchronous save        test_a_save_that_failed_surfaces_at_the_next_boundary
    disk full                         test_a_full_disk_costs_no_checkpoint
    read-only folder, path is a file  test_a_folder_that_cannot_be_written (and in test_command)
    two runs in one folder            test_a_second_run_in_a_folder_is_told_who_holds_it
    a stale lock                      test_a_stale_lock_is_recovered
    another configuration             test_another_configuration_lists_what_differs
    a longer budget                   test_a_longer_budget_is_as_if_uninterrupted,
                                      test_a_budget_that_cannot_change_says_why
    another device count              test_other_devices_are_warned_of
    a later format                    test_a_later_format_names_both_versions
    a pickle, an object array         test_a_pickle_is_refused_and_never_executed
    an absurd declared shape          test_an_absurd_shape_takes_no_memory, test_more_than_...
Running
    SIGINT, SIGTERM                   test_command: test_a_signal_ends_the_run_after_its_chunk...
    a second SIGINT                   test_a_second_signal_ends_the_process_at_once
    SIGTERM while compiling           test_a_signal_while_compiling_leaves_nothing_half_written
    broken pipe                       test_command: test_a_closed_pipe_does_not_stop_the_training
    one agent of many not finite      test_population: test_an_agent_that_cannot_go_on_keeps_its...
    all of them                       test_command: test_agents_that_all_diverge_end_with_code_5
    more than 2^31 steps              test_population: test_the_log_counts_steps_beyond_32_bits
    statistics before any episode     test_before_any_episode_has_ended_there_is_no_mean; cells in
                                      test_sweep_command: test_statistics_are_those_of_the_rows
    TensorBoard after a resume        test_resume: test_a_run_cut_off_twice_ends_as_if_it_had_not...
    headless plots                    test_sweep_command: test_the_curves_are_a_figure
"""

import errno
import io
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
from importlib import metadata
from pathlib import Path

import gymnax
import jax
import numpy as np
import pytest

from benchmarks.fingerprint import fingerprint
from ppo_jax import env, recipe
from ppo_jax.run import checkpoint, folder, load, loop, programs, resume, roster, signals
from ppo_jax.run.checkpoint import Checkpoint
from ppo_jax.run.failure import Failure, exit_code
from ppo_jax.run.job import Job
from ppo_jax.run.keeper import Keeper
from ppo_jax.run.screen import Screen
from ppo_jax.train import main

# With a constant learning rate the budget is no part of the programs: one compilation serves all.
UPDATES, EVERY = 64, 16
OVERRIDES = {"num_envs": 4, "num_steps": 32, "hidden_sizes": (8,), "anneal_learning_rate": False}
SMALL = (
    *("--num-envs", "4", "--num-steps", "32", "--hidden-sizes", "8", "--no-anneal-learning-rate"),
    *("--checkpoint-every", str(EVERY), "--checkpoints-kept", "9", "--quiet"),
)


def answer(capsys, *arguments):
    """The exit code of a command, and what it said on both streams."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as ended:  # the flag parser's
        code = ended.code
    said = capsys.readouterr()
    return code, said.out, said.err


def one_line(error, *fragments):
    assert error.startswith("ppo_jax: ")
    assert error.count("\n") == 1
    for fragment in fragments:
        assert fragment in error


def contents(path):
    """Every file below a folder: its bytes, and when it was written."""
    return {
        file.relative_to(path): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in path.rglob("*")
        if file.is_file()
    }


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty working folder, in which nothing is compiled."""

    def compiled(*_, **__):
        raise AssertionError("it was compiled")

    monkeypatch.setattr(programs, "compile_programs", compiled)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Input: exit 2. The row, the command line, and what the one line must have: value and remedy.


def row(name, arguments, *fragments):
    return pytest.param(arguments, fragments, id=name.replace(" ", "-"))


POSITIVE, SIZE = "it must be positive and finite", "it must be a whole number of at least 1"
LARGEST = "it must be at most 2147483647"
REFUSED = [
    row("learning rate NaN", "--learning-rate nan", "learning_rate is nan", POSITIVE),
    row("learning rate infinite", "--learning-rate inf", "learning_rate is inf", POSITIVE),
    row("learning rate negative", "--learning-rate -1", "learning_rate is -1.0", POSITIVE),
    row("learning rate zero", "--learning-rate 0", "learning_rate is 0.0", POSITIVE),
    row("learning rate infinite in float32", "--learning-rate 1e39", "is 1e+39", "3.4e+38"),
    row("learning rate zero in float32", "--learning-rate 1e-50", "is 1e-50", "1.2e-38"),
    row("critics rate NaN", "--critic-learning-rate nan", "critic_learning_rate is nan", POSITIVE),
    row("discount above 1", "--discount 1.5", "discount is 1.5; it must be between 0 and 1"),
    row("discount negative", "--discount -0.1", "discount is -0.1; it must be between 0 and 1"),
    row("discount NaN", "--discount nan", "discount is nan; it must be between 0 and 1"),
    row("lambda above 1", "--gae-lambda 2", "gae_lambda is 2.0; it must be between 0 and 1"),
    row("lambda negative", "--gae-lambda -1", "gae_lambda is -1.0; it must be between 0 and 1"),
    row("clip range zero", "--clip-range 0", "clip_range is 0.0", POSITIVE),
    row("clip range negative", "--clip-range -1", "clip_range is -1.0", POSITIVE),
    row(
        "entropy negative", "--entropy-coefficient -1", "is -1.0; it must be at least 0 and finite"
    ),
    row("value negative", "--value-coefficient -1", "is -1.0; it must be at least 0 and finite"),
    row("norm zero", "--max-grad-norm 0", "max_grad_norm is 0.0", POSITIVE),
    row("epsilon zero", "--adam-epsilon 0", "adam_epsilon is 0.0", POSITIVE),
    row("no environments", "--num-envs 0", "num_envs is 0", SIZE),
    row("negative environments", "--num-envs -4", "num_envs is -4", SIZE),
    row("no steps", "--num-steps 0", "num_steps is 0", SIZE),
    row("no epochs", "--num-epochs 0", "num_epochs is 0", SIZE),
    row("no minibatches", "--num-minibatches 0", "num_minibatches is 0", SIZE),
    row("empty minibatches", "--minibatch-size -2", "minibatch_size is -2", SIZE),
    row("no updates", "--num-updates 0", "num_updates is 0", SIZE),
    row("no budget", "--total-timesteps 0", "total_timesteps is 0", SIZE),
    row("no time", "--max-episode-steps 0", "max_episode_steps is 0", SIZE),
    row("hidden layer of nothing", "--hidden-sizes 8 0", "(8, 0)", "positive whole numbers"),
    row("no seeds", "--num-seeds 0", "--num-seeds is 0; it must be at least 1"),
    row("negative seeds", "--num-seeds -1", "--num-seeds is -1; it must be at least 1"),
    row("no group", "--group-size 0", "--group-size is 0; it must be at least 1"),
    row("no interval", "--checkpoint-every 0", "--checkpoint-every is 0; it must be at least 1"),
    row("no seconds", "--checkpoint-seconds nan", "--checkpoint-seconds is nan", "or None"),
    row("nothing kept", "--checkpoints-kept 0", "--checkpoints-kept is 0; it must be at least 1"),
    row("huge environments", "--num-envs 100000000000", "num_envs is 100000000000", LARGEST),
    row("huge layer", "--hidden-sizes 99999999999", "hidden_sizes is 99999999999", LARGEST),
    row("huge epochs", "--num-epochs 3000000000", "num_epochs is 3000000000", LARGEST),
    row("huge steps of an update", "--num-epochs 2000000000", "is 8000000000", LARGEST),
    row("huge time limit", "--max-episode-steps 3000000000", "is 3000000000", LARGEST),
    row("huge number of updates", "--num-updates 3000000000", "is 3000000000", LARGEST),
    row("huge budget", f"--total-timesteps {10**22}", "updates in total_timesteps is", LARGEST),
    row(
        "huge batch",
        "--num-envs 1000000 --num-steps 1000000 --num-updates 1",
        "1000000 environments × 1000000 steps = 1000000000000 transitions",
        "give at most 2147483647",
    ),
    row(
        "huge batch of all agents",
        "--num-seeds 4000000000",
        "4000000000 agents at once make 2048000000000 transitions",
        "with --group-size fewer",
    ),
    row(
        "batch that minibatches do not divide",
        "--num-envs 3 --num-minibatches 7",
        "3 environments × 64 steps = 192 transitions, which num_minibatches 7 does not divide",
        "the nearest that does is 6",
    ),
    row(  # a billion candidates
        "huge batch that minibatches do not divide",
        "--num-envs 1000003 --num-steps 1009 --num-minibatches 6",
        "the nearest that does is 1",
    ),
    row(
        "minibatch of one",
        "--num-envs 1 --num-steps 4 --num-minibatches 4",
        "minibatches of 1 transition cannot be normalized",
        "normalize_advantage=False",
    ),
    row("budget below one update", "--total-timesteps 10", "is 10, less", "give at least 512"),
    row("two budgets", "--total-timesteps 5000 --num-updates 3", "twice; give one of them"),
    row("empty environment", ["--env", ""], "env is ''", "an environment, or the name of one"),
    row("unknown network", "--network mpl", "network is 'mpl'", "mlp, cnn, package.module:Class"),
    row("unknown optimizer", "--optimizer adam", "optimizer is 'adam'", "package.module:factory"),
    row("KL limit of nothing", "--target-kl 0", "target_kl is 0.0", "positive and finite"),
    row("initial deviation", "--log-std-init nan", "log_std_init is nan", "finite"),
    row("pool of nothing", "--reset-pool 0", "reset_pool is 0", "a whole number of at least 1"),
    row(
        "a row's own number",
        "--env Pendulum-v1 --num-envs 3 --num-minibatches 7",
        "3 environments × 128 steps = 384 transitions, which num_minibatches 7 does not divide",
    ),
    row(
        "own optimizer beside a sweep",
        "--optimizer optax:sgd --sweep learning_rate=1e-3,1e-2",
        "learning_rate is the built-in optimizer's",
        "leave one of them out",
    ),
    row("seed negative", "--seed -1", "--seed is -1", "seeds go from 0 to 4294967295"),
    row("seed too large", "--seed 4294967296", "is 4294967296", "seeds go from 0 to 4294967295"),
    row("last seed too large", "--seed 4294967295 --num-seeds 2", "seeds go from 0 to 4294967295"),
    row("out is nothing", ["--out", ""], "--out '' is not a path; give a folder"),
    row("out with a NUL", ["--out", "a\0b"], r"--out 'a\x00b' is not a path; give a folder"),
    row("resume with a NUL", ["--resume", "--out", "a\0b"], "is not a path; give a folder"),
    row("resume without out", "--resume", "--resume needs --out"),
    row("resume of nothing", "--resume --out nowhere", "--out nowhere holds no run", "auto"),
    row("resume and overwrite", "--resume --overwrite --out x", "leave out one"),
    row("config absent", "--config absent.json", "absent.json: No such file", "config.json"),
    row("config is a folder", "--config .", "--config .: Is a directory", "config.json"),
    row("parameter not finite", "--env-params force_mag inf", "force_mag is inf", "be finite"),
    row("parameter infinite in float32", "--env-params force_mag 1e39", "force_mag is 1e+39"),
    row("processes of one process", "--num-processes 2", "--num-processes 2 needs --distributed"),
    row("number of one process", "--process-id 0", "--process-id 0 needs --distributed"),
    row("sweep of what sizes arrays", "--sweep num_envs=1,2", "num_envs is static", "can vary"),
    row("search without bounds", "--search discount=1", "is not of the form log:LOW:HIGH"),
]
REFUSED_BY_THE_PARSER = [
    row("unknown flag", "--learning-rte 1", "--learning-rte", "--learning-rate FLOAT"),
    row("unknown short flag", "--sed 1", "--sed", "--seed INT"),
    row("wrong type of a size", "--num-envs many", "'many'", "--num-envs INT"),
    row(
        "wrong type of a hyperparameter", "--learning-rate fast", "'fast'", "--learning-rate FLOAT"
    ),
    row("fraction of a seed", "--seed 1.5", "'1.5'", "--seed INT"),
    row("fraction of a layer", "--hidden-sizes 1.5", "'1.5'", "--hidden-sizes"),
    row("unknown recipe", "--recipe notebok", "'notebok'", "notebook"),
    row("unknown device", "--device abacus", "'abacus'", "cpu"),
    row("unknown activation", "--activation gelu", "'gelu'", "tanh"),
    row("unknown time limit", "--time-limit never", "'never'", "truncate"),
    row("statistics", "--normalize-observation maybe", "maybe"),
    row("argument without a value", "--env-kwargs size", "--env-kwargs"),
    row("resume of what", "--resume oldest --out x", "'oldest'", "newest"),
    row("value missing", "--num-envs", "--num-envs"),
    row("parameter without a value", "--env-params force_mag", "--env-params"),
]
REFUSED_WITH_THE_ENVIRONMENT = [
    row("unknown environment", "--env CartPol", "'CartPol' is unknown", "near it: CartPole-v1"),
    row("environment like no other", "--env xyz", "'xyz' is unknown", "gymnax.registered_envs"),
    row("suite without an adapter", "--env nowhere::it", "there is no adapter for nowhere"),
    row("factory that is absent", "--env nowhere:make", "env 'nowhere:make' does not import"),
    row("factory of another kind", "--env math:pi", "math:pi", "cannot be made"),
    row("network that is absent", "--network nowhere:Net", "'nowhere:Net' does not import"),
    row("network that is none", "--network math:sqrt", "not a flax.linen module"),
    row("optimizer that is none", "--optimizer math:pi", "'math:pi' cannot be made"),
    row("image network", "--network cnn", "cnn takes one image [H, W, C]", "(4,)"),
    row("squashed onto no bounds", "--squash-action --env NoBounds-v0", "finite action bounds"),
    row("unknown argument", "--env-kwargs size 5", "env_kwargs size 5", "CartPole-v1"),
    row(
        "reset states without end",
        "--env Pong-misc --num-envs 4096 --num-minibatches 1",
        "more than 2 GiB",
        "--reset-pool",
    ),
    row("unknown parameter", "--env-params force 5", "'force'; there are: gravity"),
    row("time limit as a parameter", "--env-params max_steps_in_episode 9", "max_episode_steps"),
    row("swept unknown parameter", "--sweep env_params.force=1", "'force'; there are: gravity"),
    row("no threshold", "--env Catch-bsuite --stop-when-solved 1", "leave out --stop-when-solved"),
]


@pytest.fixture(autouse=True, scope="module")
def no_bounds():
    """An environment whose actions have no bounds, by a name of its own."""

    class NoBounds(gymnax.environments.Pendulum):
        def action_space(self, params=None):
            return gymnax.environments.spaces.Box(-np.inf, np.inf, (1,))

    gymnax.register("NoBounds-v0", NoBounds)
    yield
    gymnax.registered_envs.remove("NoBounds-v0")


def split(arguments):
    return arguments.split() if isinstance(arguments, str) else arguments


@pytest.mark.parametrize(("arguments", "fragments"), [*REFUSED, *REFUSED_WITH_THE_ENVIRONMENT])
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    arguments, fragments, capsys, empty
):
    code, said, error = answer(capsys, *split(arguments))
    assert (code, said) == (2, "")
    one_line(error, *fragments)
    assert not list(empty.iterdir())


@pytest.mark.parametrize(("arguments", "fragments"), REFUSED_BY_THE_PARSER)
def test_the_parser_refuses_in_its_box_and_names_the_flag(arguments, fragments, capsys, empty):
    code, said, error = answer(capsys, *split(arguments))
    assert (code, said) == (2, "")
    assert "Traceback" not in error
    for fragment in fragments:
        assert fragment in error
    assert not list(empty.iterdir())


def test_a_bad_flag_needs_no_jax(tmp_path):
    """So it is answered at once; the rows above, in one process."""
    rows = [split(one.values[0]) for one in (*REFUSED, *REFUSED_BY_THE_PARSER)]
    code = (
        "import json, sys\n"
        "from ppo_jax.train import main\n"
        "for row in json.load(sys.stdin):\n"
        "    try: code = main(row)\n"
        "    except SystemExit as ended: code = ended.code\n"
        "    heavy = {'jax', 'gymnax', 'orbax', 'matplotlib'} & set(sys.modules)\n"
        "    assert code == 2 and not heavy, (row, code, heavy)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr[-2000:]


BY_HAND = {
    "seed as text": lambda saved: saved | {"seed": "5"},
    "seeds as a fraction": lambda saved: saved | {"num_seeds": 1.5},
    "recipe unknown": lambda saved: saved | {"recipe": "slow"},
    "sweep as a list": lambda saved: saved | {"sweep": [1]},
    "sweep of nothing": lambda saved: saved | {"sweep": {"discount": []}},
    "size as text": lambda saved: saved | {"config": saved["config"] | {"num_envs": "4"}},
    "rate as text": lambda saved: saved | {"config": saved["config"] | {"learning_rate": "0.1"}},
    "rate not a number": lambda saved: (
        saved | {"config": saved["config"] | {"learning_rate": float("nan")}}
    ),
    "no layers": lambda saved: saved | {"config": saved["config"] | {"hidden_sizes": None}},
    "parameter as text": lambda saved: (
        saved | {"config": saved["config"] | {"env_params": {"force_mag": "5"}}}
    ),
    "unknown field": lambda saved: saved | {"config": saved["config"] | {"num_env": 4}},
    "no configuration": lambda saved: {"recipe": "fast"},
    "configuration as a list": lambda saved: saved | {"config": [1]},
    "a list": lambda saved: [saved],
}


@pytest.mark.parametrize("change", BY_HAND.values(), ids=BY_HAND)
def test_a_configuration_by_hand_is_refused_in_one_line(change, capsys, empty):
    saved = loop.settings(asking(empty))
    (empty / "config.json").write_text(json.dumps(change(saved)))
    code, _, error = answer(capsys, "--config", "config.json", "--out", "run")
    assert code == 2
    one_line(error)
    assert [path.name for path in empty.iterdir()] == ["config.json"]


def test_a_configuration_nested_without_end_is_refused(capsys, empty):
    (empty / "config.json").write_text("[" * 100_000)
    code, _, error = answer(capsys, "--config", "config.json")
    assert code == 2
    one_line(error, "config.json is not a run's config.json")


def test_an_environment_without_its_data(monkeypatch, capsys, empty):
    def unreachable(*_):
        raise OSError("no route to host\nand more of it")

    monkeypatch.setattr("gymnax.utils.load_mnist._download", unreachable)
    code, _, error = answer(capsys, "--env", "MNISTBandit-bsuite")
    assert code == 2
    one_line(error, "MNISTBandit-bsuite cannot be made here: no route to host")
    assert not list(empty.iterdir())


def test_an_observation_that_the_networks_cannot_take(monkeypatch, capsys, empty):
    kind = type(gymnax.make("Catch-bsuite")[0])
    table = gymnax.environments.spaces.Dict({})
    monkeypatch.setattr(kind, "observation_space", lambda *_: table)
    code, _, error = answer(capsys, "--env", "Catch-bsuite")
    assert code == 2
    one_line(error, "the observation has a part without a name, which its space lacks")
    assert not list(empty.iterdir())


# Versions and devices


@pytest.mark.parametrize(
    ("library", "version", "message"),
    [
        ("gymnax", "0.0.9", "gymnax 0.0.9 is too old; install gymnax>=1.0.1"),
        ("jax", "0.4.38", "jax 0.4.38 is too old; install jax>=0.10.2"),
        ("jax", None, "jax is not installed; install jax>=0.10.2"),
    ],
)
def test_an_old_library_is_refused_before_it_is_imported(
    library, version, message, monkeypatch, capsys, empty
):
    installed = metadata.version

    def told(name):
        if name != library:
            return installed(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", told)
    monkeypatch.setitem(sys.modules, "ppo_jax.run.loop", None)  # its import fails
    code, _, error = answer(capsys)
    assert code == 2
    one_line(error, message)
    assert not list(empty.iterdir())


def test_the_command_needs_no_flag(monkeypatch, empty):
    """What would be run is the recipe `fast`."""
    jobs = []
    monkeypatch.setattr(loop, "run", lambda job, _: jobs.append(job))
    monkeypatch.setattr("ppo_jax.train._report", lambda *_: None)
    assert main([]) == 0
    assert jobs[0].config == recipe()


@pytest.mark.parametrize("device", ["gpu", "tpu"])
def test_a_missing_device_is_refused(device, capsys, empty):
    code, _, error = answer(capsys, "--device", device)
    assert code == 4
    one_line(error, f"--device {device}: jax finds none", "use --device auto")
    assert not list(empty.iterdir())


# Runs to damage


def train(*arguments):
    return main([*SMALL, *map(str, arguments)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with checkpoints 1 to 4, of every 16 updates, and 5, of its end."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert train("--num-updates", UPDATES, "--out", out) == 0
    assert checkpoint.committed(out / "checkpoints") == [1, 2, 3, 4, 5]
    return out


@pytest.fixture
def whole(finished, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def killed(whole):
    """A copy as if it had been killed after its third checkpoint."""
    (whole / "summary.json").unlink()
    for number in (4, 5):
        shutil.rmtree(whole / "checkpoints" / str(number))
    return whole


def asking(path, num_updates=UPDATES, **changes):
    """The job of going on with the run in a folder."""
    config = recipe("fast", **OVERRIDES, num_updates=num_updates)
    job = {"recipe": "fast", "config": config, "seed": 0, "num_seeds": 1, "resume": "newest"}
    return Job(path=path, **{**job, **changes})


def found(job, devices=1):
    """What the job goes on from."""
    agents = roster.make(job.config, {}, {}, 0, job.seed, job.num_seeds)
    chosen = jax.local_devices(backend="cpu")[:1] * devices
    return resume.find(job, agents, loop.settings(job), chosen, Screen(quiet=True), 2000)


def refused(function, *arguments, code=2):
    """The one line with which it is refused."""
    with pytest.raises(Failure) as caught:
        function(*arguments)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same_arrays(one, other):
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert (array.dtype, array.shape) == (other.arrays[name].dtype, other.arrays[name].shape)
        assert array.tobytes() == other.arrays[name].tobytes()


def damages(content, generator, count):
    """Copies of the bytes with one bit flipped, or cut off: `count` of each."""
    for bit in generator.integers(8 * len(content), size=count).tolist():
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        yield bytes(flipped)
    for length in generator.integers(len(content), size=count).tolist():
        yield content[:length]


MANY = pytest.param(60, marks=pytest.mark.slow)


# Checkpoints and files


@pytest.mark.parametrize("count", [3, MANY])
def test_a_damaged_checkpoint_is_passed_over_and_never_another_state(killed, capsys, count):
    generator = np.random.default_rng(count)
    job = asking(killed)
    newest = found(job)
    before = checkpoint.read(killed / "checkpoints" / "2", 10**6)
    assert (before.facts["done"], newest.facts["done"]) == (2 * EVERY, 3 * EVERY)
    passed_over = 0
    files = [path for path in (killed / "checkpoints" / "3").rglob("*") if path.is_file()]
    for path in files:
        content = path.read_bytes()
        for damaged in damages(content, generator, count):
            path.write_bytes(damaged)
            capsys.readouterr()
            after, warned = found(job), capsys.readouterr().err
            if after.facts["done"] == 3 * EVERY:  # nobody reads those bits
                same_arrays(after, newest)
                assert warned == ""
            else:
                passed_over += 1
                assert after.facts == before.facts
                same_arrays(after, before)
                one_line(warned, "warning: checkpoint 3 is not whole", "from an earlier one")
        path.unlink()
        after = found(job)
        same_arrays(after, newest if after.facts["done"] == 3 * EVERY else before)
        path.write_bytes(content)
    assert passed_over >= 4 * count  # the facts, the arrays' table and the arrays themselves


@pytest.mark.parametrize("name", ["metrics.csv", "statistics.csv"])
def test_a_damaged_table_makes_its_checkpoints_broken(killed, name, capsys):
    content = bytearray((killed / name).read_bytes())
    content[-1] ^= 1  # after the third checkpoint: nothing of it is kept
    (killed / name).write_bytes(content)
    assert found(asking(killed)).facts["done"] == 3 * EVERY
    (killed / name).write_bytes(content[: len(content) // 2])
    assert found(asking(killed)).facts["done"] in (EVERY, 2 * EVERY)
    assert f"checkpoint 3 is not whole: {name} is shorter than it was" in capsys.readouterr().err
    (killed / name).unlink()
    line = refused(found, asking(killed))
    assert "none of its checkpoints is whole" in line
    assert f"{name}: No such file" in line


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_damaged_configuration_is_refused_or_another_one(killed, count):
    from ppo_jax import train as command

    path = killed / "config.json"
    content, refusals = path.read_bytes(), 0
    for damaged in damages(content, np.random.default_rng(0), count):
        path.write_bytes(damaged)
        refusal = None
        try:
            command._defaults(["--resume", "newest", "--out", str(killed)])
        except Failure as failure:
            refusal = failure
        if refusal:
            refusals += 1
            assert refusal.code == 2
            assert "\n" not in str(refusal)
            assert "remove it, and give --resume the run's own flags" in str(refusal)
    assert refusals > count


def test_a_lost_configuration_is_given_again(killed, capsys, empty):
    """The checkpoint knows it, and refuses another one."""
    (killed / "config.json").write_text("{")
    before = contents(killed)
    code, _, error = answer(capsys, "--resume", "--out", killed)
    assert code == 2
    one_line(error, "is not a run's config.json", "remove it")
    assert contents(killed) == before
    (killed / "config.json").unlink()
    code, _, error = answer(capsys, "--resume", "--out", killed)
    assert code == 2
    one_line(error, "num_envs 4 there, 8 asked for", "hidden_sizes [8] there, [64] asked for")
    assert found(asking(killed)).facts["done"] == 3 * EVERY


def test_a_damaged_summary_is_none(whole, capsys):
    """A run whose end is not known goes on from its last checkpoint."""
    job, path = asking(whole), whole / "summary.json"
    asked = loop.settings(job)
    content = path.read_bytes()
    assert resume.finished(job, asked) == json.loads(content)
    for damaged in damages(content, np.random.default_rng(1), 300):
        path.write_bytes(damaged)
        assert isinstance(resume.finished(job, asked), dict | None)
    path.write_bytes(content[:-9])
    assert resume.finished(job, asked) is None
    assert found(job).facts["done"] == UPDATES
    one_line(capsys.readouterr().err, "warning:", "summary.json is not whole")


@pytest.mark.parametrize("count", [25, MANY])
def test_damaged_parameters_are_refused_or_those_that_were_saved(whole, count):
    path = whole / "parameters.npz"
    content, saved = path.read_bytes(), load(whole).params
    refusals = 0
    for damaged in damages(content, np.random.default_rng(2), count):
        path.write_bytes(damaged)
        try:
            read = load(whole).params
        except ValueError:
            refusals += 1
        else:  # nobody reads those bits
            for one, other in zip(jax.tree.leaves(read), jax.tree.leaves(saved), strict=True):
                np.testing.assert_array_equal(one, other)
    assert refusals > count


def test_a_run_goes_on_from_its_newest_whole_checkpoint(finished, killed, capsys):
    """Past a broken one, one that was never finished, and a lock whose process is gone."""
    (killed / "checkpoints" / "3" / "facts" / "metadata").write_text("{}")
    shutil.copytree(
        killed / "checkpoints" / "3", killed / "checkpoints" / "4.orbax-checkpoint-tmp-17"
    )
    (killed / ".lock").write_text("process 1 on another machine")
    code, _, error = answer(capsys, "--resume", "--out", killed, "--quiet")
    assert code == 0
    one_line(error, "warning: checkpoint 3 is not whole")
    assert fingerprint(killed) == fingerprint(finished)
    summary = json.loads((killed / "summary.json").read_text())
    assert (
        summary["state_sha256"]
        == json.loads((finished / "summary.json").read_text())["state_sha256"]
    )


def test_a_half_written_checkpoint_is_none(killed):
    for number in (1, 2, 3):
        path = killed / "checkpoints" / str(number)
        path.rename(path.with_name(f"{number}.orbax-checkpoint-tmp"))
    assert checkpoint.newest(killed, 10**6, lambda _: None) == (None, [])
    assert "holds no checkpoint to resume from" in refused(found, asking(killed))
    assert found(asking(killed, resume="auto")) is None


def test_none_whole_is_refused(killed, capsys, empty):
    for path in (killed / "checkpoints").glob("*/facts/metadata"):
        path.write_bytes(path.read_bytes()[:-5])
    before = contents(killed)
    for how in ("newest", "auto"):  # never a silent restart
        code, _, error = answer(capsys, "--resume", how, "--out", killed)
        assert code == 2
        one_line(error, "none of its checkpoints is whole", "--overwrite starts the run afresh")
        assert {name: then for name, then in contents(killed).items() if name.name != ".lock"} == {
            name: then for name, then in before.items() if name.name != ".lock"
        }


def test_a_finished_run_is_left_as_it_is(whole, capsys, empty):
    before = contents(whole)
    code, said, error = answer(capsys, "--resume", "--out", whole)
    assert (code, error) == (0, "")
    assert "finished: nothing is left to do" in said
    assert contents(whole) == before


def test_resume_of_nothing(killed, capsys, empty):
    shutil.rmtree(killed / "checkpoints")
    code, _, error = answer(capsys, "--resume", "--out", killed)
    assert code == 2
    one_line(error, "holds no checkpoint to resume from; --resume auto starts afresh")


def test_another_configuration_lists_what_differs(killed, capsys, empty):
    before = contents(killed)
    code, _, error = answer(
        capsys, "--resume", "--out", killed, "--discount", 0.5, "--num-envs", 8, "--seed", 3
    )
    assert code == 2
    one_line(
        error,
        *("discount 0.98 there, 0.5 asked for", "num_envs 4 there, 8 asked for"),
        *("seed 0 there, 3 asked for", "give another folder"),
    )
    assert contents(killed).keys() == before.keys()


def test_a_longer_budget_is_as_if_uninterrupted(whole, tmp_path):
    longer = tmp_path / "longer"
    assert train("--num-updates", UPDATES + 6, "--out", longer) == 0
    assert main(["--resume", "--out", str(whole), "--num-updates", str(UPDATES + 6)]) == 0
    assert fingerprint(whole) == fingerprint(longer)


def test_a_budget_that_cannot_change_says_why(killed):
    assert "it has made 48 updates already" in refused(found, asking(killed, num_updates=40))
    held = checkpoint.read(killed / "checkpoints" / "3", 10**6)
    held.facts["settings"]["config"]["anneal_learning_rate"] = True
    saved(killed, held)
    job = asking(killed, config=recipe("fast", **OVERRIDES | {"anneal_learning_rate": True}))
    line = refused(found, job)
    assert "the learning rate falls to 0 over the whole budget" in line
    assert "start a new run" in line


def saved(path, *checkpoints):
    """Write checkpoints to a run's folder."""
    writer = checkpoint.Writer(path, 9)
    for one in checkpoints:
        writer.save(one)
    writer.close()


@pytest.mark.parametrize("name", ["prng", "x64"])
def test_other_random_numbers_or_precision_are_refused_at_resume(name, killed, capsys, empty):
    other = {
        "prng": lambda: jax.default_prng_impl("rbg"),
        "x64": lambda: jax.enable_x64(True),
    }[name]
    with other():
        code, _, error = answer(capsys, "--resume", "--out", killed)
    assert code == 2
    one_line(error, f"({name}) are", "JAX_DEFAULT_PRNG_IMPL=threefry2x32, JAX_ENABLE_X64=False")


def test_other_devices_are_warned_of(killed, capsys):
    assert found(asking(killed), devices=2).facts["done"] == 3 * EVERY
    one_line(
        capsys.readouterr().err, "device 'cpu (cpu)', now 'cpu (cpu), 2 devices'", "to the bit"
    )


def test_a_later_format_names_both_versions(killed, monkeypatch):
    held = checkpoint.read(killed / "checkpoints" / "3", 10**6)
    with monkeypatch.context() as later:
        later.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
        saved(killed, held)
    line = refused(found, asking(killed))
    assert f"format {checkpoint.FORMAT + 1}" in line
    assert f"reads {checkpoint.FORMAT}" in line


def test_a_checkpoint_of_something_else_is_not_whole(killed, capsys):
    saved(killed, Checkpoint({"agents": np.arange(1)}, {"done": 60}))
    assert found(asking(killed)).facts["done"] == 3 * EVERY
    one_line(capsys.readouterr().err, "checkpoint 4 is not whole: its facts lack solved, lanes")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_never_executed(whole, tmp_path):
    witness = tmp_path / "executed"
    content = np.array([Bomb(witness)], dtype=object)
    np.savez(whole / "parameters.npz", **{"actor.0.kernel": content})
    with pytest.raises(ValueError, match="declares object"):
        load(whole)
    (whole / "parameters.npz").write_bytes(pickle.dumps(Bomb(witness)))
    with pytest.raises(ValueError, match="holds no whole run"):
        load(whole)
    reseal(whole / "checkpoints" / "5", {"dtype": "|O"})
    with pytest.raises(ValueError, match="which is not a number's"):
        checkpoint.read(whole / "checkpoints" / "5", 10**6)
    assert not witness.exists()


def reseal(path, changes):
    """Have a checkpoint's facts declare another array, as if it had been saved so."""
    facts = json.loads((path / "facts" / "metadata").read_text())
    facts.pop("sha256")
    facts["arrays"]["agents"] |= changes
    (path / "facts" / "metadata").write_text(
        json.dumps({**facts, "sha256": checkpoint._seal(facts)})
    )


def restore_shape(path, shape):
    """Have the arrays that orbax reads declare another shape."""
    import tensorstore

    store = tensorstore.KvStore.open(
        {"driver": "ocdbt", "base": f"file://{path / 'arrays'}/"}
    ).result()
    declared = json.loads(store["agents/.zarray"])
    store["agents/.zarray"] = json.dumps({**declared, "shape": shape}).encode()


@pytest.mark.parametrize(
    ("declared", "restored", "message"),
    [
        ([10**12], [10**12], r"it declares 8 TB, where this run has at most 1 MB"),
        ([1], [10**12], "agents has not the type and shape that were saved"),
        ([-(10**12)], [1], "which is no array's"),
        ([1e12], [1], "which is no array's"),
        ([2**62, 4], [1], "it declares"),
    ],
)
def test_an_absurd_shape_takes_no_memory(whole, declared, restored, message):
    path = whole / "checkpoints" / "5"
    reseal(path, {"shape": declared})
    restore_shape(path, restored)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=message):
        checkpoint.read(path, 10**6)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_more_than_a_file_can_have_takes_no_memory(whole):
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_1_0(header, described)
    with zipfile.ZipFile(whole / "parameters.npz", "w") as file:
        file.writestr("actor.0.kernel.npy", header.getvalue())
    tracemalloc.start()
    with pytest.raises(ValueError, match="declares float32 of shape"):
        load(whole)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


# The file system: exit 3


class Limit:
    """No file may become larger than this, as on a full disk."""

    def __init__(self, most_bytes):
        self._most = most_bytes

    def __enter__(self):
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._most, self._before[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


def test_a_save_that_failed_surfaces_at_the_next_boundary(tmp_path):
    numbers = np.random.default_rng(0).normal(size=10**5)
    writer = checkpoint.Writer(tmp_path, 3)
    kept = Keeper(asking(tmp_path), {}, {}, None, writer, None)
    writer.save(Checkpoint({"numbers": numbers}, {"done": 1}))
    writer._manager.wait_until_finished()
    with Limit(10_000):
        writer.save(Checkpoint({"numbers": numbers + 1}, {"done": 2}))  # in the background
        line = refused(until_it_fails, kept, code=3)
    assert "a checkpoint could not be written" in line
    assert "File too large" in line
    assert "the earlier ones are whole" in line
    last, broken = checkpoint.newest(tmp_path, 10**7, lambda _: None)
    assert (last.facts["done"], broken) == (1, [])


def until_it_fails(kept):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        kept.due(1)
        time.sleep(0.02)


def test_a_full_disk_costs_no_checkpoint(finished, tmp_path, capsys):
    out = tmp_path / "run"
    with Limit(20_000):  # half of the events
        code, _, error = answer(capsys, *SMALL, "--num-updates", UPDATES, "--out", out)
    assert code == 3
    one_line(error, "File too large", "give --out a folder that can be written")
    assert not (out / "summary.json").exists()
    numbers = checkpoint.committed(out / "checkpoints")
    assert numbers
    assert found(asking(out)).facts["done"] == EVERY * numbers[-1]
    assert answer(capsys, "--resume", "--out", out, "--quiet") == (0, "", "")
    assert fingerprint(out) == fingerprint(finished)


def unwritable(monkeypatch, number):
    def refuse(self, *_, **__):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_made(number, monkeypatch, capsys, empty):
    unwritable(monkeypatch, number)
    code, _, error = answer(capsys, "--out", "run")
    assert code == 3
    one_line(error, f"run: {os.strerror(number)}; give --out a folder that can be written")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these paths are Linux's")
@pytest.mark.parametrize("path", ["/proc/self/nothing/run", "/dev/null/run", "/dev/full"])
def test_a_path_that_cannot_be_written(path, capsys, empty):
    """Not even by root, whom the next test must do without."""
    code, _, error = answer(capsys, "--out", path)
    assert code == 3
    one_line(error, "give", "a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(capsys, empty):
    (empty / "run").mkdir(mode=0o500)
    code, _, error = answer(capsys, "--out", "run")
    assert code == 3
    one_line(error, "Permission denied; give --out a folder that can be written")


@pytest.mark.parametrize("how", [(), ("--overwrite",), ("--resume",)])
def test_a_second_run_in_a_folder_is_told_who_holds_it(how, killed, capsys, empty):
    before = contents(killed)
    with folder.held(killed):
        code, _, error = answer(capsys, "--out", killed, *how)
    assert code == 3
    one_line(error, f"is being written by process {os.getpid()} on", "wait for it, or give another")
    assert {name: then for name, then in contents(killed).items() if name.name != ".lock"} == {
        name: then for name, then in before.items() if name.name != ".lock"
    }


def test_a_second_run_in_a_fresh_folder_is_refused(capsys, empty):
    with folder.held(empty / "run"):
        code, _, error = answer(capsys, "--out", "run")
    assert code == 3
    one_line(error, f"--out run is being written by process {os.getpid()} on")


def test_a_stale_lock_is_recovered(tmp_path):
    (tmp_path / ".lock").write_text("process 1 on a machine that is long gone, and more of it")
    with folder.held(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on")
        assert "long gone" not in (tmp_path / ".lock").read_text()


# The device: exit 4


def test_out_of_memory_says_what_was_asked_and_costs_no_checkpoint(killed, monkeypatch, capsys):
    def exhausted(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 4000000 bytes.\nAnd more.")

    monkeypatch.setattr(programs, "compile_programs", exhausted)
    before = {name: then for name, (then, _) in contents(killed / "checkpoints").items()}
    code, _, error = answer(capsys, "--resume", "--out", killed, "--quiet")
    assert code == 4
    one_line(
        error,
        *("1 agents of 4 environments", "RESOURCE_EXHAUSTED: 4000000 bytes."),
        *("--plan says what fits", "--group-size trains fewer"),
    )
    assert {name: then for name, (then, _) in contents(killed / "checkpoints").items()} == before
    assert found(asking(killed)).facts["done"] == 3 * EVERY


def test_memory_of_the_host_is_the_devices_too(capsys):
    def exhausted(_):
        return np.zeros(2**62, np.uint8)

    assert exit_code(exhausted, []) == 4
    one_line(capsys.readouterr().err, "out of memory (", "--group-size trains fewer")


@pytest.mark.slow
def test_a_network_that_no_memory_holds(tmp_path, capsys):
    arguments = ("--hidden-sizes", 10**6, 10**6, "--num-updates", 1, "--out", tmp_path / "run")
    code, _, error = answer(capsys, *arguments, "--quiet")
    assert code == 4
    one_line(error, "RESOURCE_EXHAUSTED", "1 agents of 8 environments")


# Running


def test_a_signal_while_compiling_leaves_nothing_half_written(tmp_path):
    out = tmp_path / "run"
    arguments = (*SMALL, "--num-updates", "64", "--no-compilation-cache", "--out", str(out))
    process = subprocess.Popen(
        [sys.executable, "-m", "ppo_jax.train", *arguments], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 100
    while not (out / ".lock").exists():
        assert time.monotonic() < deadline, "the run never began"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert "Traceback" not in error
    assert {path.name for path in out.iterdir()} == {".lock"}
    with folder.held(out):  # nobody holds it any more
        assert found(asking(out, resume="auto")) is None


def test_what_fails_before_it_can_begin_costs_no_run(finished, tmp_path, monkeypatch, capsys):
    """--overwrite takes the old run away only once the new one is compiled."""
    out = shutil.copytree(finished, tmp_path / "run")
    before = contents(out)

    def refuse(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(programs, "compile_programs", refuse)
    code, _, error = answer(capsys, *SMALL, "--num-updates", "64", "--out", out, "--overwrite")
    assert code == 4
    one_line(error, "RESOURCE_EXHAUSTED")
    assert {**contents(out), Path(".lock"): None} == {**before, Path(".lock"): None}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_at_once(number):
    """The first is kept for the loop, the second left to the system; then all is as it was."""
    before = signal.getsignal(number)
    with signals.collected() as stopped:
        os.kill(os.getpid(), number)
        assert stopped == [number]
        assert signal.getsignal(number) == signal.SIG_DFL
    assert signal.getsignal(number) == before


def test_before_any_episode_has_ended_there_is_no_mean(capsys):
    with Screen(quiet=False).training(10) as progress:
        progress.show(1, 128, 1.0, float("nan"))
        progress.show(2, 256, 2.0, 9.5)
        progress.show(3, 384, 3.0, float("nan"))
    first, *later = capsys.readouterr().out.splitlines()
    assert "mean return none yet" in first
    assert all("mean return 9.5" in line for line in later)


def test_the_core_alone_refuses_an_old_gymnax(monkeypatch):
    env._load_named.cache_clear()
    monkeypatch.setattr(metadata, "version", lambda _: "0.0.9")
    with pytest.raises(ImportError, match=r"gymnax 0.0.9 .* install gymnax>=1.0.1"):
        env.make(recipe("fast"))
