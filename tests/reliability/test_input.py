"""Bad input ends with code 2 and one line: the value, and what would be right; nothing is
compiled or written."""

import json
import subprocess
import sys

import gymnax
import numpy as np
import pytest

from ppo_jax import recipe
from ppo_jax.run.experiment import Experiment
from tests.helpers.commands import run_command
from tests.helpers.faults import one_line


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
    row("no seeds", "--num-seeds 0", "--num-seeds is 0", SIZE),
    row("negative seeds", "--num-seeds -1", "--num-seeds is -1", SIZE),
    row("no group", "--group-size 0", "--group-size is 0", SIZE),
    row("no interval", "--checkpoint-every 0", "--checkpoint-every is 0", SIZE),
    row("no seconds", "--checkpoint-seconds nan", "--checkpoint-seconds is nan", "or None"),
    row("nothing kept", "--checkpoints-kept 0", "--checkpoints-kept is 0", SIZE),
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
        "--num-seeds 2000000000",
        "2000000000 agents at once make 1024000000000 transitions",
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
    row(
        "unknown network",
        "--network mpl",
        "network is 'mpl'",
        "mlp, cnn, gru, package.module:Class",
    ),
    row("unknown optimizer", "--optimizer adam", "optimizer is 'adam'", "package.module:factory"),
    row("KL limit of nothing", "--target-kl 0", "target_kl is 0.0", "positive and finite"),
    row("initial deviation", "--log-std-init nan", "log_std_init is nan", "finite"),
    row("pool of nothing", "--reset-pool 0", "reset_pool is 0", "a whole number of at least 1"),
    row(
        "a row's own number",
        "--env Pendulum-v1 --num-envs 3 --num-minibatches 7",
        "3 environments × 64 steps = 192 transitions, which num_minibatches 7 does not divide",
    ),
    row(
        "own optimizer beside a sweep",
        "--optimizer optax:sgd --sweep learning_rate=1e-3,1e-2",
        "learning_rate is the built-in optimizer's",
        "leave one of them out",
    ),
    row("huge number of seeds", "--num-seeds 4000000000", "num-seeds is 4000000000", LARGEST),
    row("seed negative", "--seed -1", "--seed is -1", "a whole number of at least 0"),
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
    row("agent without a run", "--agent 1", "--init-from RUN and --agent NUMBER go together"),
    row("run without an agent", "--init-from x", "--init-from RUN and --agent NUMBER go together"),
    row("tracker not installed", "--track trackio", "trackio: not installed", "pip install"),
    row("search without bounds", "--search discount=1", "is not of the form log:LOW:HIGH"),
]
REFUSED_BY_THE_PARSER = [
    row("unknown flag", "--learning-rte 1", "--learning-rte", "did you mean --learning-rate?"),
    row("environment without a flag", "CartPole-v1", "did you mean --env CartPole-v1?"),
    row("unknown short flag", "--sed 1", "--sed", "did you mean --seed?"),
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
    row("environment like no other", "--env xyz", "'xyz' is unknown", "`ppo-jax envs` lists all"),
    row(
        "suite without an adapter",
        "--env nowhere::it",
        "suite 'nowhere'",
    ),
    row("factory that is absent", "--env nowhere:make", "env 'nowhere:make' does not import"),
    row("factory of another kind", "--env math:pi", "math:pi", "cannot be made"),
    row("network that is absent", "--network nowhere:Net", "'nowhere:Net' does not import"),
    row("network that is none", "--network math:sqrt", "not a flax.linen module"),
    row("optimizer that is none", "--optimizer math:pi", "'math:pi' cannot be made"),
    row(
        "optimizer that fails to be made",
        "--optimizer asyncio:get_running_loop",
        "cannot be made: no running event loop",
        "give a function without arguments",
    ),
    row("image network", "--network cnn", "cnn takes one image [H, W, C]", "(4,)"),
    row(
        "minibatches that memory cannot be cut into",
        "--network gru --num-envs 6 --num-minibatches 4",
        "num_minibatches 4 cuts the sequences of 6 environments × 64 steps",
        "num_minibatches 3",
    ),
    row(
        "minibatch that memory cannot be cut into",
        "--network gru --num-envs 6 --minibatch-size 96",
        "minibatch_size 96 cuts the sequences of 6 environments × 64 steps",
        "128",
    ),
    row("whole episodes and memory", "--recipe notebook --network gru", "give num_steps instead"),
    row("correlated choices", "--noise-correlation 0.5", "noise_correlation is 0.5", "Discrete(2)"),
    row("squashed choices", "--squash-action", "squash_action is for continuous", "Discrete(2)"),
    row("squashed onto no bounds", "--squash-action --env NoBounds-v0", "finite action bounds"),
    row("unknown argument", "--env-kwargs size 5", "env_kwargs size 5", "CartPole-v1"),
    row(
        "reset states without end",
        "--env Pong-misc --num-envs 4096 --num-minibatches 1 --total-timesteps 600000",
        "more than 2 GiB",
        "--reset-pool",
    ),
    row("unknown parameter", "--env-params force 5", "'force'; there are: gravity"),
    row("time limit as a parameter", "--env-params max_steps_in_episode 9", "max_episode_steps"),
    row("swept unknown parameter", "--sweep env_params.force=1", "'force'; there are: gravity"),
    row("no kernel", "--kernel pallas --env Acrobot-v1", "operation gather", "--kernel xla"),
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


@pytest.mark.parametrize(
    ("arguments", "fragments"), [*REFUSED, *REFUSED_BY_THE_PARSER, *REFUSED_WITH_THE_ENVIRONMENT]
)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(arguments, fragments, empty):
    code, said, error = run_command("train", *split(arguments))
    assert (code, said) == (2, "")
    one_line(error, *fragments)
    assert not list(empty.iterdir())


def test_a_bad_flag_needs_no_jax(tmp_path):
    """So it is answered at once; the rows above, in one process."""
    rows = [split(one.values[0]) for one in (*REFUSED, *REFUSED_BY_THE_PARSER)]
    code = (
        "import json, sys\n"
        "from ppo_jax.cli import main\n"
        "for row in json.load(sys.stdin):\n"
        "    try: code = main(['train', *row])\n"
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
    "seed as text": lambda saved: saved | {"agents": saved["agents"] | {"seed": "5"}},
    "seeds as a fraction": lambda saved: saved | {"agents": saved["agents"] | {"num_seeds": 1.5}},
    "recipe unknown": lambda saved: saved | {"agents": saved["agents"] | {"recipe": "slow"}},
    "sweep of a number": lambda saved: saved | {"agents": saved["agents"] | {"sweep": [1]}},
    "sweep of nothing": lambda saved: saved | {"agents": saved["agents"] | {"sweep": ["gamma="]}},
    "sweep as a mapping": lambda saved: saved | {"agents": saved["agents"] | {"sweep": {"a": []}}},
    "unknown option": lambda saved: saved | {"agents": saved["agents"] | {"num_seed": 1}},
    "agents as a list": lambda saved: saved | {"agents": [1]},
    "no agents": lambda saved: {name: saved[name] for name in saved if name != "agents"},
    "size as text": lambda saved: saved | {"algorithm": saved["algorithm"] | {"num_envs": "4"}},
    "rate as text": lambda saved: (
        saved | {"algorithm": saved["algorithm"] | {"learning_rate": "0.1"}}
    ),
    "rate not a number": lambda saved: (
        saved | {"algorithm": saved["algorithm"] | {"learning_rate": float("nan")}}
    ),
    "no layers": lambda saved: saved | {"algorithm": saved["algorithm"] | {"hidden_sizes": None}},
    "parameter as text": lambda saved: (
        saved | {"algorithm": saved["algorithm"] | {"env_params": {"force_mag": "5"}}}
    ),
    "unknown field": lambda saved: saved | {"algorithm": saved["algorithm"] | {"num_env": 4}},
    "no configuration": lambda saved: {"recipe": "fast"},
    "configuration as a list": lambda saved: saved | {"algorithm": [1]},
    "a list": lambda saved: [saved],
}


@pytest.mark.parametrize("change", BY_HAND.values(), ids=BY_HAND)
def test_a_configuration_by_hand_is_refused_in_one_line(change, empty):
    saved = Experiment(recipe("fast")).describe()
    (empty / "config.json").write_text(json.dumps(change(saved)))
    code, _, error = run_command("train", "--config", "config.json", "--out", "run")
    assert code == 2
    one_line(error)
    assert [path.name for path in empty.iterdir()] == ["config.json"]


def test_a_configuration_nested_without_end_is_refused(capsys, empty):
    (empty / "config.json").write_text("[" * 100_000)
    code, _, error = run_command("train", "--config", "config.json")
    assert code == 2
    one_line(error, "config.json is corrupt")


def test_an_environment_without_its_data(monkeypatch, empty):
    def unreachable(*_):
        raise OSError("no route to host\nand more of it")

    monkeypatch.setattr("gymnax.utils.load_mnist._download", unreachable)
    code, _, error = run_command("train", "--env", "MNISTBandit-bsuite")
    assert code == 2
    one_line(error, "MNISTBandit-bsuite cannot be made here: no route to host")
    assert not list(empty.iterdir())


def test_an_observation_that_the_networks_cannot_take(monkeypatch, empty):
    kind = type(gymnax.make("Catch-bsuite")[0])
    table = gymnax.environments.spaces.Dict({})
    monkeypatch.setattr(kind, "observation_space", lambda *_: table)
    code, _, error = run_command("train", "--env", "Catch-bsuite")
    assert code == 2
    one_line(error, "the observation has a part without a name, which its space lacks")
    assert not list(empty.iterdir())
