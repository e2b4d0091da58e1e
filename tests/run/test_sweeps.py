"""What --sweep, --search and --evolve say, and what they refuse."""

import pytest

from ppo_jax import recipe
from ppo_jax.run import sweeps
from ppo_jax.run.errors import InputError

CONFIG = recipe("fast")


def test_sweeps_and_searches_are_read():
    axes = sweeps.read_grid(
        ["learning-rate=1e-4, 3e-4", " env_params.force_mag =5,-1", "discount=1"], CONFIG
    )
    assert axes == {
        "learning_rate": (1e-4, 3e-4),
        "env_params.force_mag": (5.0, -1.0),
        "discount": (1.0,),
    }
    texts = ["clip_range=uniform:0.1:0.3", "adam-epsilon=log:1e-8:1e-4"]
    ranges = sweeps.read_ranges("--search", texts, CONFIG)
    assert ranges == {"clip_range": ("uniform", 0.1, 0.3), "adam_epsilon": ("log", 1e-8, 1e-4)}
    assert sweeps.read_grid([], CONFIG) == sweeps.read_ranges("--search", [], CONFIG) == {}


def test_what_was_read_is_written_in_one_spelling_that_reads_the_same():
    axes = sweeps.read_grid(["learning-rate=1e-4, 3e-4,0.1", "discount=1"], CONFIG)
    texts = sweeps.to_flags(axes)
    assert texts == ("learning_rate=0.0001,0.0003,0.1", "discount=1.0")
    assert sweeps.read_grid(texts, CONFIG) == axes
    ranges = sweeps.read_ranges("--evolve", ["adam-epsilon=log:1e-8:1e-4"], CONFIG)
    texts = sweeps.to_flags(ranges)
    assert texts == ("adam_epsilon=log:1e-08:0.0001",)
    assert sweeps.read_ranges("--evolve", texts, CONFIG) == ranges


SWEEP_FORM = "is not of the form learning_rate=1e-4,3e-4"
SEARCH_FORM = "is not of the form learning_rate=log:1e-5:1e-2"
RANGE_FORM = "the range is not of the form log:LOW:HIGH or uniform:…"
ENDS = "LOW must be below HIGH, and above 0 for log"
TWICE = "varies twice; give all its values at once"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"'' {SWEEP_FORM}"),
        ("learning_rate", f"'learning_rate' {SWEEP_FORM}"),
        ("learning_rate=", f"'learning_rate=' {SWEEP_FORM}"),
        ("=1,2", f"'=1,2' {SWEEP_FORM}"),
        (" =1", f"' =1' {SWEEP_FORM}"),
        ("discount=0.9,", "'discount=0.9,': '' is not a number"),
        ("discount=high", "'discount=high': 'high' is not a number"),
        ("discount=0.9:0.99", "'discount=0.9:0.99': '0.9:0.99' is not a number"),
        ("discount=0.9=1", "'discount=0.9=1': '0.9=1' is not a number"),
        ("discount=1.1", "'discount=1.1': discount is 1.1; it must be between 0 and 1"),
        ("discount=nan", "'discount=nan': discount is nan; it must be between 0 and 1"),
        (
            "learning_rate=-1",
            "'learning_rate=-1': learning_rate is -1.0; it must be positive and finite",
        ),
        (
            "learning_rate=1e39",
            "'learning_rate=1e39': learning_rate is 1e+39; it must be positive and finite, from"
            " 1.2e-38 to 3.4e+38",
        ),
        ("env_params.x=-1e39", "'env_params.x=-1e39': env_params x is -1e+39; it must be finite"),
        ("env_params.x=inf", "'env_params.x=inf': env_params x is inf; it must be finite"),
        ("num_envs=1,2", "'num_envs=1,2': num_envs is static: it sizes arrays or chooses a"),
        ("num-envs=1,2", "'num-envs=1,2': num_envs is static: it sizes arrays or chooses a"),
        (
            "rate=1",
            "'rate=1': 'rate' is not a sweepable hyperparameter; "
            "there are env_params.NAME, learning_rate",
        ),
        (
            "env_params=1",
            "'env_params=1': 'env_params' is not a sweepable hyperparameter; "
            "did you mean env_params",
        ),
        ("clip_range=0.2", f"'clip_range=0.2': clip_range {TWICE}"),
    ],
)
def test_a_bad_sweep_is_refused_in_one_line_that_has_it(text, message):
    with pytest.raises(InputError) as error:
        sweeps.read_grid(["clip_range=0.1", text], CONFIG)
    assert str(error.value).startswith(f"--sweep {message}")
    assert error.value.code == 2
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("flag", ["--search", "--evolve"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"'' {SEARCH_FORM}"),
        ("discount", f"'discount' {SEARCH_FORM}"),
        ("discount=", f"'discount=' {SEARCH_FORM}"),
        ("discount=0.9:1", f"'discount=0.9:1': {RANGE_FORM}"),
        ("discount=uniform:0.9", f"'discount=uniform:0.9': {RANGE_FORM}"),
        ("discount=uniform:0:1:2", f"'discount=uniform:0:1:2': {RANGE_FORM}"),
        ("discount=normal:0:1", f"'discount=normal:0:1': {RANGE_FORM}"),
        ("discount=log:a:1", "'discount=log:a:1': 'a' is not a number"),
        ("discount=log::1", "'discount=log::1': '' is not a number"),
        ("discount=uniform:1:0", f"'discount=uniform:1:0': {ENDS}"),
        ("discount=uniform:1:1", f"'discount=uniform:1:1': {ENDS}"),
        ("discount=uniform:nan:1", f"'discount=uniform:nan:1': {ENDS}"),
        ("discount=log:0:1", f"'discount=log:0:1': {ENDS}"),
        ("discount=uniform:0:2", "'discount=uniform:0:2': discount is 2.0; it must be between 0"),
        (
            "learning_rate=uniform:0:1",
            "'learning_rate=uniform:0:1': learning_rate is 0.0; it must be positive and finite",
        ),
        ("num_steps=log:1:2", "'num_steps=log:1:2': num_steps is static"),
        (
            "discont=log:1:2",
            "'discont=log:1:2': 'discont' is not a sweepable hyperparameter; "
            "did you mean discount?",
        ),
        ("clip_range=log:0.2:0.3", f"'clip_range=log:0.2:0.3': clip_range {TWICE}"),
    ],
)
def test_a_bad_range_is_refused_in_one_line_that_has_it(flag, text, message):
    with pytest.raises(InputError) as error:
        sweeps.read_ranges(flag, ["clip_range=log:0.1:0.2", text], CONFIG)
    assert str(error.value).startswith(f"{flag} {message}")
    assert error.value.code == 2
    assert "\n" not in str(error.value)
