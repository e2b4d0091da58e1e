"""Config and the recipes: what they say, what they refuse, and what can be traced."""

import ast
import dataclasses
import inspect
import itertools
import json
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import Config, recipe
from ppo_jax.recipes import FAST, RECIPES


def test_the_recipes_are_those_of_the_specification():
    notebook, standard = recipe("notebook"), recipe("standard")
    assert (notebook.num_envs, notebook.min_transitions, notebook.minibatch_size) == (1, 32, 32)
    assert (notebook.num_updates, notebook.total_timesteps) == (1000, None)
    assert (notebook.learning_rate, notebook.critic_learning_rate) == (1e-3, 3e-3)
    assert (notebook.hidden_sizes, notebook.activation) == ((100,), "relu")
    assert notebook.recompute_advantage
    assert not any((notebook.joint_grad_norm, notebook.anneal_learning_rate, notebook.clip_value))
    assert (standard.batch_size, standard.num_updates) == (512, 976)
    assert (standard.learning_rate, standard.adam_epsilon) == (2.5e-4, 1e-5)
    assert (standard.entropy_coefficient, standard.value_coefficient) == (0.01, 0.5)
    assert standard.clip_value
    assert standard.joint_grad_norm
    assert recipe() == recipe("fast") == Config()


@pytest.mark.parametrize("name", RECIPES)
def test_every_number_that_sizes_no_array_has_its_place_in_the_pytree(name):
    config = recipe(name)
    static = {f.name for f in dataclasses.fields(Config) if f.metadata["static"]}
    leaves = {path[0].name for path, _ in jax.tree_util.tree_leaves_with_path(config)}
    traced = {f.name for f in dataclasses.fields(Config)} - static - {"env_params"}
    none = {"target_kl"} | ({"critic_learning_rate"} if name != "notebook" else set())
    assert leaves == traced - none


def test_every_field_has_a_docstring_and_a_default_that_its_rule_allows():
    body = ast.parse(textwrap.dedent(inspect.getsource(Config))).body[0].body
    documented = {
        field.target.id
        for field, after in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr)
    }
    fields = dataclasses.fields(Config)
    assert documented == {field.name for field in fields}
    for field in fields:
        value, rule = getattr(Config(), field.name), field.metadata["rule"]
        if value is None:
            assert field.metadata["optional"], field.name
        else:
            assert rule.holds(dict(value) if field.name == "env_kwargs" else value), field.name


def test_fast_is_a_row_for_an_environments_name_and_a_general_one_for_all_else():
    general = recipe("fast", env="MNISTBandit-bsuite")
    assert {"CartPole-v1", "Pendulum-v1", "Breakout-MinAtar"} <= set(FAST)
    for name, row in FAST.items():
        config = recipe("fast", env=name)
        assert config == Config(env=name, **row)
        assert config != general.replace(env=name)
    assert general.normalize_observation
    own = object()
    assert recipe("fast", env=own) == general.replace(env=own)
    assert recipe("fast", env="module:factory") == general.replace(env="module:factory")
    suite = general.replace(env="jumanji::Maze-v0", reset_pool=64)
    assert recipe("fast", env="jumanji::Maze-v0") == suite
    assert recipe("fast").replace(env="Pendulum-v1").num_envs == recipe("fast").num_envs
    assert recipe("fast", env="Pendulum-v1", num_envs=2).num_envs == 2
    standard = recipe("standard", env="Pendulum-v1")
    assert standard == recipe("standard").replace(env="Pendulum-v1")


def test_of_two_fields_that_say_the_same_the_newer_wins():
    config = recipe("standard", num_updates=10)
    assert (config.num_updates, config.total_timesteps) == (10, None)
    config = config.replace(total_timesteps=5000)
    assert (config.num_updates, config.total_timesteps) == (9, 5000)
    config = config.replace(num_envs=8)  # the budget stays, the updates follow
    assert (config.num_updates, config.total_timesteps) == (4, 5000)
    config = config.replace(minibatch_size=64)
    assert (config.num_minibatches, config.transitions_per_minibatch) == (None, 64)
    assert config.replace(num_minibatches=2).transitions_per_minibatch == 512


def test_a_list_of_sizes_and_whole_numbers_for_hyperparameters_are_taken():
    config = recipe("fast", hidden_sizes=[32], discount=1)
    assert config.hidden_sizes == (32,)
    assert isinstance(config.discount, float)
    assert recipe("fast", num_envs=np.int64(4)).num_envs == 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"learning_rat": 1.0}, "did you mean learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it must be positive"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"learning_rate": -1e-3}, "learning_rate is -0.001"),
        ({"learning_rate": "fast"}, "it must be a number"),
        ({"learning_rate": jnp.array([])}, "learning_rate is empty"),
        ({"learning_rate": jnp.array([1e-3, -1.0])}, "learning_rate is -1.0; it must be positive"),
        ({"critic_learning_rate": 0.0}, "critic_learning_rate is 0.0"),
        ({"discount": 1.01}, "discount is 1.01; it must be between 0 and 1"),
        ({"gae_lambda": -0.1}, "gae_lambda is -0.1"),
        ({"clip_range": 0.0}, "clip_range is 0.0"),
        ({"entropy_coefficient": -1.0}, "entropy_coefficient is -1.0; it must be at least 0"),
        ({"value_coefficient": -1.0}, "value_coefficient is -1.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0"),
        ({"adam_epsilon": 0.0}, "adam_epsilon is 0.0"),
        ({"env_params": {"force_mag": float("inf")}}, "env_params force_mag is inf"),
        ({"env_params": [5.0]}, r"env_params is \[5.0\]; it must be a mapping of names to numbers"),
        ({"env_kwargs": 3}, "env_kwargs is 3; it must map names to values"),
        ({"env_kwargs": {"size": [1]}}, "env_kwargs cannot be hashed: its size is a list"),
        ({"log_std_init": float("inf")}, "log_std_init is inf; it must be finite"),
        ({"target_kl": 0.0}, "target_kl is 0.0; it must be positive and finite"),
        ({"target_kl": "0.1"}, "target_kl is '0.1'; it must be a number"),
        ({"log_std_init": None}, "log_std_init is None; it must be finite"),
        ({"reset_pool": 0}, "reset_pool is 0; it must be a whole number of at least 1"),
        ({"reset_pool": 1.5}, "reset_pool is 1.5"),
        ({"time_limit": "cut"}, "time_limit is 'cut'; it must be truncate or terminate"),
        ({"normalize_observation": 1}, "normalize_observation is 1; it must be True or False"),
        ({"normalize_reward": None}, "normalize_reward is None"),
        ({"squash_action": "yes"}, "squash_action is 'yes'; it must be True or False"),
        (
            {"network": "resnet"},
            "network is 'resnet'; it must be mlp, cnn, gru, package.module:Class",
        ),
        ({"optimizer": "adam"}, "optimizer is 'adam'; it must be package.module:factory"),
        ({"num_envs": 0}, "num_envs is 0; it must be a whole number of at least 1"),
        ({"num_envs": 2.5}, "num_envs is 2.5"),
        ({"num_envs": True}, "num_envs is True"),
        ({"num_epochs": None}, "num_epochs is None"),
        ({"num_steps": -1}, "num_steps is -1"),
        ({"hidden_sizes": (64, 0)}, "hidden_sizes is"),
        ({"activation": "gelu"}, "activation is 'gelu'; it must be tanh or relu"),
        ({"initialization": "zeros"}, "initialization is 'zeros'"),
        ({"clip_value": 1}, "clip_value is 1; it must be True or False"),
        ({"env": ""}, "env is ''; it must be an environment, or the name of one"),
        ({"num_envs": 3, "num_steps": 7, "num_minibatches": 4}, "3 environments × 7 steps = 21"),
        ({"num_envs": 3, "num_steps": 7, "num_minibatches": 4}, "the nearest that does is 3"),
        ({"num_envs": 1, "num_steps": 4, "num_minibatches": 4}, "cannot be normalized"),
        ({"num_minibatches": 4, "minibatch_size": 4}, "say the same thing twice"),
        ({"num_updates": 4, "total_timesteps": 4096}, "say the same thing twice"),
        ({"total_timesteps": 100}, "less than one update: .* give at least"),
        ({"num_steps": None}, "num_steps is missing"),
        ({"num_minibatches": None}, "give either num_minibatches or minibatch_size"),
        ({"min_transitions": 32}, "num_envs is .* whole episodes"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_with_value_and_remedy(overrides, message):
    with pytest.raises(ValueError, match=message) as refusal:
        recipe("fast", **overrides)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"total_timesteps": 1000}, "give num_updates"),
        ({"num_steps": 32}, "give min_transitions"),
        ({"num_minibatches": 4}, "give minibatch_size"),
        ({"minibatch_size": None}, "minibatch_size is missing"),
        ({"num_envs": 2}, "num_envs is 2"),
    ],
)
def test_whole_episodes_refuse_what_has_no_meaning_for_them(overrides, message):
    with pytest.raises(ValueError, match=message):
        recipe("notebook", **overrides)


def test_whole_episodes_have_no_batch_size():
    assert recipe("fast", num_envs=4, num_steps=32).batch_size == 128
    with pytest.raises(ValueError, match="no fixed number of transitions"):
        _ = recipe("notebook").batch_size


def test_two_lengths_that_disagree_are_refused():
    """Also where neither is the newer."""
    fields = {f.name: getattr(recipe("standard"), f.name) for f in dataclasses.fields(Config)}
    assert Config(**fields).num_updates == 976
    with pytest.raises(ValueError, match="is 976 updates of 512 steps, but num_updates is 975"):
        Config(**fields | {"num_updates": 975})


def test_a_run_needs_a_length():
    with pytest.raises(ValueError, match="give either total_timesteps or num_updates"):
        Config(total_timesteps=None)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gamma", "did you mean discount?"),
        ("norm_obs", "did you mean normalize_observation?"),
        ("learning_rat", "did you mean learning_rate?"),
        ("quux", "there are env, env_kwargs, "),
    ],
)
def test_an_unknown_field_names_what_it_may_have_meant(name, hint):
    with pytest.raises(ValueError, match=re.escape(f"no field '{name}'; {hint}")):
        recipe("fast", **{name: 1})


def test_an_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match="'notebok' is unknown; choose notebook, standard, fast"):
        recipe("notebok")


def test_hyperparameters_may_be_arrays_tracers_and_placeholders():
    recipe("fast", learning_rate=jnp.array([1e-3, 1e-2])).check()
    config = recipe("fast")

    def rate(value):
        return recipe("fast", learning_rate=value).learning_rate * 2

    assert jax.jit(jax.vmap(rate))(jnp.array([1.0, 2.0])).tolist() == [2.0, 4.0]
    axes = jax.tree.map(lambda _: None, config).replace(learning_rate=0)
    batched = config.replace(learning_rate=jnp.array([1.0, 2.0]))
    doubled = jax.vmap(lambda config: config.learning_rate * 2, in_axes=(axes,))(batched)
    assert doubled.tolist() == [2.0, 4.0]


def test_a_hyperparameter_changes_no_static_part_and_a_size_does():
    def structure(**overrides):
        return jax.tree.structure(recipe("fast", **overrides))

    assert structure(learning_rate=1.0, discount=0.5) == structure()
    assert structure(num_envs=16) != structure()


def test_a_configuration_survives_json():
    kwargs = {"size": 20, "map": "4x4"}
    config = recipe("standard", env_params={"force_mag": 5.0}, num_envs=8, env_kwargs=kwargs)
    assert config.env_kwargs == (("map", "4x4"), ("size", 20))
    fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    assert Config(**json.loads(json.dumps(fields))) == config


def python(code):
    """What a fresh interpreter prints, as JSON."""
    return json.loads(
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=100
        ).stdout
    )


def test_the_configuration_is_made_without_jax_or_gymnax():
    heavy = python(
        "import sys, json, ppo_jax; from ppo_jax.recipes import recipe;"
        "recipe('standard', num_envs=8);"
        "print(json.dumps([m for m in ('jax', 'gymnax', 'optax', 'flax') if m in sys.modules]))"
    )
    assert heavy == []


@pytest.mark.parametrize(
    "imports",
    [
        "from ppo_jax import Config",
        "from ppo_jax import ppo; from ppo_jax.config import Config",
    ],
)
def test_config_is_a_pytree_of_its_hyperparameters(imports):
    leaves = python(
        f"{imports}\nimport jax, json\n"
        "config = Config(learning_rate=0.125, env_params={'force_mag': 5.0})\n"
        "print(json.dumps(jax.tree.leaves(config)))"
    )
    assert {0.125, 5.0} < set(leaves)
    assert all(isinstance(leaf, float) for leaf in leaves)
