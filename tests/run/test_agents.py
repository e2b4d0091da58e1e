"""Who is trained: settings, seeds, batches, and the share of each process."""

import itertools

import numpy as np
import pytest

from ppo_jax import recipe
from ppo_jax.run import agents
from ppo_jax.run.experiment import Experiment
from tests.helpers.agents import make_table

CONFIG = recipe("fast")


def described(table):
    return [tuple(table.describe(setting).values()) for setting in range(table.num_settings)]


def test_the_configurations_own_setting_is_first_and_not_twice():
    """Its place in the grid, or whether it is there at all, makes no difference."""
    table = make_table("learning_rate=1e-2,2.5e-3,1e-4", "discount=0.9,0.98")
    assert described(table) == [
        (2.5e-3, 0.98),
        *((1e-2, 0.9), (1e-2, 0.98), (2.5e-3, 0.9), (1e-4, 0.9), (1e-4, 0.98)),
    ]
    table = make_table("learning_rate=1e-2,1e-4", "discount=0.9")
    assert described(table) == [(2.5e-3, 0.98), (1e-2, 0.9), (1e-4, 0.9)]
    table = make_table("learning_rate=2.5e-3")
    assert described(table) == [(2.5e-3,)]
    assert table.num_settings == 1


def test_a_settings_own_values_are_the_environments_or_what_others_default_to():
    table = make_table("env_params.force_mag=5", "critic_learning_rate=1")
    assert described(table) == [(10.0, 2.5e-3), (5.0, 1.0)]
    config = recipe("fast", env_params={"force_mag": 7.0})
    assert described(make_table("env_params.force_mag=5", config=config)) == [(7.0,), (5.0,)]


def test_every_setting_has_every_seed():
    table = make_table("discount=0.5,0.75", seed=2**32 - 3, num_seeds=3)
    assert (table.num_settings, len(table)) == (3, 9)
    assert table.seeds.dtype == np.uint32
    assert list(zip(table.setting, table.seeds, strict=True)) == list(
        itertools.product(range(3), range(2**32 - 3, 2**32))
    )
    alone = make_table(num_seeds=4)
    assert (alone.num_settings, alone.values) == (1, {})
    assert alone.seeds.tolist() == [0, 1, 2, 3]
    assert alone.setting.tolist() == [0] * 4
    assert alone.describe(0) == {}


def test_agents_are_configured_with_their_settings_values():
    table = make_table("discount=0.5,0.75", "env_params.force_mag=5", num_seeds=2)
    config = table.configure(np.array([5, 0, 3]))
    assert config.discount.tolist() == np.float32([0.75, 0.98, 0.5]).tolist()
    assert config.env_params["force_mag"].tolist() == [5, 10, 5]
    assert config.learning_rate == CONFIG.learning_rate
    assert make_table(num_seeds=2).configure(np.array([0, 1])) == CONFIG


def test_agents_that_evolve_begin_each_with_its_own_draw():
    """The draws are of the run's seed, whatever the order in which agents are asked for."""
    options = {"evolve": ("clip_range=uniform:0.1:0.4",), "num_seeds": 6}
    drawn = make_table(**options).configure(np.arange(6)).clip_range
    assert len(set(drawn.tolist())) == 6
    assert ((drawn >= 0.1) & (drawn <= 0.4)).all()
    some = make_table(**options).configure(np.array([4, 1])).clip_range
    assert some.tolist() == drawn[[4, 1]].tolist()
    other = make_table(**options, seed=1).configure(np.arange(6)).clip_range
    assert not set(other.tolist()) & set(drawn.tolist())


def test_a_search_does_not_depend_on_the_agents_seeds_and_is_crossed_with_the_grid():
    search = {"search": ("learning_rate=log:1e-5:1e-2",), "samples": 3}
    own, *settings = described(make_table("discount=0.5,0.75", seed=1, num_seeds=2, **search))
    assert own == (0.98, 2.5e-3)
    assert [discount for discount, _ in settings] == [0.5] * 3 + [0.75] * 3
    rates = [rate for _, rate in settings]
    assert rates[:3] == rates[3:]
    assert len(set(rates)) == 3
    others = make_table(seed=9, **search)
    assert [rate for (rate,) in described(others)[1:]] == rates[:3]


def real(batches):
    """The agents in each batch, without the lanes that only fill it."""
    return [lanes[lanes >= 0].tolist() for lanes in batches]


@pytest.mark.parametrize("lanes", range(1, 9))
def test_batches_hold_every_agent_once_and_the_last_is_filled_up(lanes):
    table = make_table("discount=0.5,0.75", num_seeds=2)  # six agents
    batches = list(table.batches(lanes))
    assert all(len(one) == lanes for one in batches)
    assert [agent for one in real(batches) for agent in one] == list(range(6))
    assert len(batches) == -(-6 // lanes)


@pytest.mark.parametrize("lanes", [1, 2, 3, 5])
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_the_agents_out_in_as_many_batches_each(processes, lanes):
    table = make_table("discount=0.5,0.75,0.25", num_seeds=2)  # eight agents
    shares = [list(table.batches(lanes, process, processes)) for process in range(processes)]
    assert len({len(batches) for batches in shares}) == 1
    assert all(len(one) == lanes for batches in shares for one in batches)
    found = [agent for batches in shares for one in real(batches) for agent in one]
    assert found == list(range(8))
    places = [
        (agent, batch, lane)
        for batches in shares
        for batch, agents_of in enumerate(real(batches))
        for lane, agent in enumerate(agents_of)
    ]
    assert list(zip(range(8), *table.place(lanes, processes), strict=True)) == sorted(places)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(("finished", "current"), [((), (0, 1)), ((0, 1), (2, 3)), ((0, 3), ())])
def test_a_resumed_run_goes_on_with_its_batch_and_what_is_not_finished(
    processes, finished, current
):
    """Whatever process had an agent before."""
    table = make_table(num_seeds=8)
    shares = [
        real(table.batches(2, process, processes, finished, current))
        for process in range(processes)
    ]
    assert len({len(batches) for batches in shares}) == 1
    found = sorted(agent for batches in shares for one in batches for agent in one)
    assert found == sorted(set(range(8)) - set(finished))
    if current:
        assert sorted(agent for batches in shares for agent in batches[0]) == list(current)


@pytest.mark.parametrize(
    ("group_size", "processes", "devices", "lanes"),
    [
        (None, 1, 1, 6),
        (None, 1, 4, 8),
        (4, 1, 1, 4),
        (4, 1, 3, 6),
        (20, 1, 1, 6),
        (None, 2, 2, 4),
        (None, 4, 1, 2),
    ],
)
def test_the_lanes_are_a_multiple_of_the_devices(group_size, processes, devices, lanes):
    table = make_table("discount=0.5,0.75", num_seeds=2, group_size=group_size)
    assert table.lanes(processes, devices) == lanes


@pytest.mark.parametrize(
    ("config", "name", "message"),
    [
        (CONFIG, "env_params.force", "CartPole-v1 has no parameter 'force'; there are: gravity, "),
        (CONFIG, "env_params.max_steps_in_episode", "static; give max_episode_steps"),
        (
            recipe("fast", max_grad_norm=None),
            "max_grad_norm",
            "max_grad_norm has no numeric default; set --max-grad-norm",
        ),
        (
            recipe("fast", env="Acrobot-v1"),
            "env_params.available_torque",
            "available_torque of Acrobot-v1 is an array; only a number varies",
        ),
        (CONFIG, "num_epochs", "num_epochs is static"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(config, name, message):
    with pytest.raises(ValueError) as error:
        make_table(f"{name}=1", config=config)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "options", "best"),
    [
        ({}, {"sweep": ("learning_rate=0.1,0.2",)}, 500),
        ({"env": "FourRooms-misc"}, {}, 1),
        ({"env": "Asterix-MinAtar"}, {}, None),
        ({"env_params": {"gravity": 5.0}}, {}, None),
        ({"max_episode_steps": 100}, {}, None),
        ({"env": "DeepSea-bsuite", "env_kwargs": {"size": 20}}, {}, None),
        ({}, {"sweep": ("env_params.gravity=5,10",)}, None),
        ({}, {"evolve": ("env_params.gravity=log:5:10",), "num_seeds": 4}, None),
    ],
)
def test_the_best_known_return_is_that_of_an_unchanged_environment(fields, options, best):
    experiment = Experiment(recipe("fast", **fields)).replace(**options)
    found = agents.best_known(experiment, experiment.algorithm.env)
    assert (found and found.value) == best
