"""Many agents in one program: each the agent it is alone, frozen by itself when it diverges, shared
out over devices, and summed up."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppo_jax import evaluate, population, ppo, recipe
from tests.helpers.populations import (
    AGENTS,
    EPISODES,
    SEED,
    SETTINGS_OF,
    STORAGE,
    TOLERANCE,
    VICTIM,
    assert_nothing,
    batch_of,
    compiled,
    host,
    joined,
    own_config,
    per_agent,
    poison,
    without,
)
from tests.helpers.quick import quick_jit
from tests.helpers.share_out import AGENTS_ON
from tests.helpers.statistics_by_definition import integrated_iqm
from tests.helpers.tiny_recipes import SETTINGS, configured
from tests.helpers.trees import lane, numbers, same_bits


@pytest.fixture
def standard():
    return batch_of("standard", SETTINGS)


@pytest.fixture
def pendulum():
    return batch_of("pendulum", SETTINGS_OF["pendulum"])


@pytest.fixture(params=["standard", "pendulum", pytest.param("notebook", marks=pytest.mark.slow)])
def batch(request):
    return batch_of(request.param, SETTINGS_OF[request.param])


# Agents together, and alone


def test_agent_i_has_the_key_of_seed_plus_i_whatever_their_number():
    keys = jax.random.key_data(population.agent_keys(5, 4))
    np.testing.assert_array_equal(keys, [[0, 5], [0, 6], [0, 7], [0, 8]])  # threefry's own seeding
    for agent in range(4):
        np.testing.assert_array_equal(keys[agent], jax.random.key_data(jax.random.key(5 + agent)))
        alone = population.agent_keys(5 + agent, 1)
        np.testing.assert_array_equal(keys[agent], jax.random.key_data(alone)[0])
    last = jax.random.key_data(population.agent_keys(2**32 - 2, 2))
    np.testing.assert_array_equal(last, [[0, 2**32 - 2], [0, 2**32 - 1]])
    with_traced = jax.jit(population.agent_keys, static_argnums=1)(jnp.uint32(5), 4)
    np.testing.assert_array_equal(jax.random.key_data(with_traced), keys)


@pytest.mark.parametrize(("agents", "agents_at_once"), [(1, None), (2, None), (4, 2)])
def test_hyperparameters_of_another_number_of_agents_are_refused(agents, agents_at_once):
    config = recipe("fast").replace(learning_rate=jnp.array([1e-3, 2e-3, 3e-3]))
    message = rf"config\.learning_rate has 3 values for {agents} agents; give one for each"
    with pytest.raises(ValueError, match=message):
        population.train(population.agent_keys(0, agents), config, agents_at_once)


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey, np.arange, int])
def test_what_is_no_key_for_each_agent_is_refused(make):
    with pytest.raises(ValueError, match=r"give a key for each agent, such as population\.agent_k"):
        population.train(make(3), recipe("fast"))


def test_agents_with_their_own_hyperparameters_are_the_agents_alone(batch):
    """For every hyperparameter: init, and two updates, by the core's own functions."""
    start = host(batch.states)
    states, metrics = host(batch.run(batch.states, batch.configs, 2))
    init = quick_jit(ppo.init)
    for agent, setting in enumerate(batch.settings):
        config = own_config(batch.config, setting)
        state, rows = init(jax.random.key(SEED + agent), config), []
        for many, one in zip(numbers(lane(start, agent)), numbers(state), strict=True):
            np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-6)
        for _ in range(2):
            state, row = batch.run_alone(state, config)
            rows.append((row, 1))
        together = lane(states, agent), lane(metrics, np.s_[:2, agent])
        pairs = zip(numbers(together), numbers((state, joined(*rows))), strict=True)
        for many, one in pairs:
            np.testing.assert_allclose(many, one, **TOLERANCE, err_msg=setting)


def test_statistics_are_each_agents_own(pendulum):
    """As NumPy makes them of what the agent itself observed and was paid: nobody else's is in."""
    states = host(pendulum.run(pendulum.states, pendulum.configs, 2)[0])
    count, (moments,) = states.params.statistics
    np.testing.assert_array_equal(count, 32)
    np.testing.assert_array_equal(states.reward_statistics.count, 32)
    assert len(np.unique(moments.mean, axis=0)) == len(pendulum.settings)
    assert len(np.unique(states.reward_statistics.m2)) == len(pendulum.settings)
    for agent, setting in enumerate(pendulum.settings):
        config = own_config(pendulum.config, setting)
        state, seen = lane(pendulum.states, agent), []
        for _ in range(2):
            state, _, transitions = pendulum.update_alone(state, config)
            seen.append((transitions.observation, transitions.reward))
        observed, rewards = (
            np.concatenate(leaves).astype(float) for leaves in zip(*seen, strict=True)
        )
        observed = observed.reshape(-1, 3)
        np.testing.assert_allclose(moments.mean[agent], observed.mean(0), rtol=1e-3, atol=1e-4)
        expected = observed.var(0) * len(observed)
        np.testing.assert_allclose(moments.m2[agent], expected, rtol=1e-3)
        returns, carried = [], np.zeros(config.num_envs)
        for reward in rewards:  # no episode of 30 steps ends here
            carried = config.discount * carried + reward
            returns.append(carried)
        own = lane(states.reward_statistics, agent)
        np.testing.assert_allclose(own.mean, np.mean(returns), rtol=1e-3)
        np.testing.assert_allclose(own.m2, np.var(returns) * np.size(returns), rtol=1e-3)
        np.testing.assert_allclose(own.returns, carried, rtol=1e-3)


@pytest.fixture(scope="module")
def in_parts():
    """`population.run`, five agents at a time: the last part is filled up."""
    assert AGENTS % 5
    run = quick_jit(population.run, static_argnums=(3, 4))
    return lambda states, configs: run(states, configs, 2, STORAGE, 5)


def test_agents_in_batches_are_the_agents_together(standard, in_parts):
    together = host(standard.run(standard.states, standard.configs, 2))
    parts = host(in_parts(standard.states, standard.configs))
    for many, one in zip(numbers(parts), numbers(together), strict=True):
        np.testing.assert_allclose(many, one, **TOLERANCE)


def test_a_broken_agent_leaves_the_others_of_all_parts_alone(standard, in_parts):
    """Also the last one, which fills its part up."""
    calm, broken = standard.states, AGENTS - 1
    params = jax.tree.map(lambda leaf: leaf.at[broken].set(jnp.nan), calm.params)
    states, metrics = in_parts(calm._replace(params=params), standard.configs)
    assert_nothing(lane(host(metrics), np.s_[:2, broken]))
    for one, other, axis in zip(
        (states, metrics), in_parts(calm, standard.configs), (0, 1), strict=True
    ):
        assert same_bits(without(one, broken, axis), without(other, broken, axis))


def test_rows_beyond_the_updates_are_zeros(batch):
    metrics = host(batch.run(batch.states, batch.configs, 2)[1])
    for leaf in metrics:
        assert leaf.shape == (STORAGE, len(batch.settings))
        assert not np.any(leaf[2:])
    assert np.all(metrics.gradient_steps[:2] > 0)


def test_chunks_of_any_length_make_the_same_bits(standard):
    whole, metrics = standard.run(standard.states, standard.configs, 4)
    middle, first = standard.run(standard.states, standard.configs, 1)
    end, second = standard.run(middle, standard.configs, 3)
    assert same_bits(end, whole)
    assert same_bits(joined((first, 1), (second, 3)), joined((metrics, 4)))
    nothing, none = standard.run(end, standard.configs, 0)
    assert same_bits(nothing, end)
    assert not any(np.any(leaf) for leaf in none)


def test_greedy_returns_are_each_agents_own(standard):
    """With its own parameters, its own environment, and episodes of its own key's third child."""
    keys, config = standard.keys, standard.config
    returns = compiled(population.evaluate, static_argnums=3)(
        standard.states.params, standard.configs, keys, EPISODES
    )
    assert returns.shape == (AGENTS, EPISODES)
    alone = quick_jit(evaluate.evaluate, static_argnums=3)
    for agent, setting in enumerate(SETTINGS):
        expected = alone(
            lane(standard.states.params, agent),
            configured(config, setting),
            jax.random.fold_in(keys[agent], 2),
            EPISODES,
        )
        np.testing.assert_array_equal(returns[agent], expected)
    assert len(np.unique(returns, axis=0)) > AGENTS / 2


# Agents that diverge: each is frozen by itself, to the bit, and the others go on as without it


INJECTIONS = (
    *("rate of 1e38", "NaN hyperparameter"),
    *("NaN params", "NaN moments", "NaN worlds", "infinite critic"),
)


@pytest.mark.parametrize("injection", INJECTIONS)
def test_an_agent_that_cannot_go_on_keeps_its_state_and_the_others_theirs(standard, injection):
    """All to the bit."""
    assert_frozen_alone(standard, injection)


OF_STATISTICS = ("NaN statistics", "NaN reward statistics", "infinite reward statistics")


@pytest.mark.parametrize("injection", [*OF_STATISTICS, "NaN params", "NaN worlds"])
def test_an_agent_with_statistics_that_cannot_go_on_keeps_them(pendulum, injection):
    assert_frozen_alone(pendulum, injection)


def assert_frozen_alone(batch, injection):
    calm, calm_metrics = batch.run(batch.states, batch.configs, 2)
    assert (calm.num_updates == 2).all()
    assert np.isfinite(calm_metrics.policy_loss).all()
    states, configs = poison(batch, injection)
    frozen, metrics = batch.run(states, configs, 2)
    kept = lane(host(states), VICTIM)
    assert same_bits(lane(host(frozen), VICTIM), kept)
    assert kept.num_updates == 0
    assert_nothing(lane(host(metrics), np.s_[:2, VICTIM]))
    assert not any(np.any(leaf[2:]) for leaf in host(metrics))
    assert same_bits(without(frozen, VICTIM), without(calm, VICTIM))
    assert same_bits(without(metrics, VICTIM, 1), without(calm_metrics, VICTIM, 1))
    again, metrics = batch.run(frozen, configs, 2)
    assert same_bits(lane(host(again), VICTIM), kept)
    assert_nothing(lane(host(metrics), np.s_[:2, VICTIM]))


LATE = np.arange(SETTINGS.index("discount"), AGENTS)


@pytest.fixture(scope="module")
def late():
    """A run in which the agents LATE diverge one after another, for their critics climb the loss:
    configuration, states, metrics."""
    batch = batch_of("standard", SETTINGS)
    configs = per_agent(lambda leaf: leaf.at[LATE].set(leaf[0]), batch.configs)
    rates = configs.critic_learning_rate.at[LATE].set(-np.logspace(17, 17.6, len(LATE)))
    configs = configs.replace(critic_learning_rate=rates, num_updates=STORAGE)
    return configs, *batch.run(batch.states, configs, STORAGE)


def test_an_agent_that_diverges_late_keeps_the_state_before(standard, late):
    """That of a run which ends there; the batch's other agents go on as without it."""
    configs, states, metrics = late[0], *host(late[1:])
    updates = states.num_updates
    assert len(set(updates[LATE])) >= 3
    assert 0 < updates[LATE].min() <= updates[LATE].max() < STORAGE
    others = np.delete(np.arange(AGENTS), LATE)
    assert (updates[others] == STORAGE).all()
    for agent in LATE:
        until, rows = host(standard.run(standard.states, configs, updates[agent]))
        assert same_bits(lane(states, agent), lane(until, agent))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(lane(until.params, agent)))
        before = lane(metrics, np.s_[: updates[agent], agent])
        assert same_bits(before, lane(rows, np.s_[: updates[agent], agent]))
        assert np.isfinite(before.value_loss).all()
        assert (before.env_steps == 16).all()
        assert_nothing(lane(metrics, np.s_[updates[agent] :, agent]))
    own = standard.configs.replace(num_updates=STORAGE)
    calm, calm_metrics = standard.run(standard.states, own, STORAGE)
    assert same_bits(without(states, LATE), without(calm, LATE))
    assert same_bits(without(metrics, LATE, 1), without(calm_metrics, LATE, 1))


def test_the_update_that_was_not_taken_was_not_finite(standard, late):
    """By the core's own update, which freezes nothing."""
    configs, states, _ = late
    pick = jax.jit(
        lambda both, agent: (lane(both[0], agent), per_agent(lambda leaf: leaf[agent], both[1]))
    )
    for agent in (0, *LATE):
        state, row = standard.run_alone(*pick((states, configs), agent))
        learned = state.params, row.policy_loss, row.value_loss, row.critic_grad_norm
        finite = all(np.isfinite(leaf).all() for leaf in numbers(learned))
        assert finite == (agent not in LATE)


def test_an_agent_that_diverges_in_a_later_chunk_is_frozen_there(standard, late):
    configs, states, metrics = late
    middle, first = standard.run(standard.states, configs, 5)
    end, second = standard.run(middle, configs, 3)
    assert same_bits(end, states)
    assert same_bits(joined((first, 5), (second, 3)), metrics)


# Agents shared out over several devices


@pytest.fixture(scope="module")
def on_one_device():
    """What `share_out` does, on this process's one device."""
    batch = batch_of("standard", SETTINGS)
    states, configs = poison(batch, "rate of 1e38")
    after, metrics = batch.run(states, configs, 2)
    evaluate = compiled(population.evaluate, static_argnums=3)
    return states, after, metrics, evaluate(after.params, configs, batch.keys, EPISODES)


@pytest.mark.slow
@pytest.mark.parametrize("devices", AGENTS_ON)
def test_agents_shared_out_over_devices_are_the_agents_on_one(devices, on_one_device, tmp_path):
    """Each device has its share and waits for no other; counts are the same from the start."""
    path = tmp_path / "shared.npz"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"
        " --xla_backend_optimization_level=0",  # which compiles in less time
    }
    command = [sys.executable, "-m", "tests.helpers.share_out", str(path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    with np.load(path) as arrays:
        leaves = iter([arrays[name] for name in arrays.files])
    count = AGENTS_ON[devices]
    states, after, metrics, returns = on_one_device
    for expected in numbers(states):
        np.testing.assert_allclose(next(leaves), expected[:count], rtol=1e-5, atol=1e-6)
    for expected in numbers(after):
        np.testing.assert_allclose(next(leaves), expected[:count], **TOLERANCE)
    for name, expected in metrics._asdict().items():
        leaf = next(leaves)
        np.testing.assert_allclose(leaf, expected[:, :count], **TOLERANCE, err_msg=name)
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            np.testing.assert_array_equal(leaf[0], expected[0, :count], err_msg=name)
    np.testing.assert_array_equal(next(leaves), returns[:count])
    assert after.num_updates.tolist() == [2 * (agent != VICTIM) for agent in range(AGENTS)]


# Statistics over agents


UPDATES, LANES, COUNTED = 7, 13, 9
summarize = jax.jit(population.summarize)


@pytest.fixture(scope="module")
def metrics():
    """Made-up metrics [updates, agents] in which agents have no episodes now and then, agents 2
    and 5 freeze at updates 2 and 4, and the last four lanes, which do not count, hold rubbish."""
    draw = np.random.default_rng(0)
    values = {
        name: draw.normal(400, 100, (UPDATES, LANES)).astype(np.float32)
        for name in ppo.Metrics._fields
    }
    episodes = draw.integers(0, 3, (UPDATES, LANES))
    episodes[3, :COUNTED] = 0
    values |= {"episodes": episodes, "env_steps": draw.integers(100, 10**6, (UPDATES, LANES))}
    values["gradient_steps"] = draw.integers(1, 64, (UPDATES, LANES))
    for agent, update in ((2, 2), (5, 4)):
        for name, leaf in values.items():
            counts = name in ("episodes", "env_steps", "gradient_steps")
            leaf[update:, agent] = 0 if counts else np.nan
    for name in ("episode_return", "episode_length"):
        values[name][values["episodes"] == 0] = np.nan
    for name, leaf in values.items():
        rubbish = [1, 10**6, 0, 7] if leaf.dtype == int else [np.nan, np.inf, 1e30, -np.inf]
        values[name][:, COUNTED:] = rubbish
    return ppo.Metrics(**{name: jnp.asarray(leaf) for name, leaf in values.items()})


def test_statistics_are_numpys_over_the_agents_that_count(metrics):
    counted = np.arange(LANES) < COUNTED
    summary = summarize(metrics, counted, 420.0)
    own = {
        name: np.asarray(leaf, np.float64)[:, :COUNTED] for name, leaf in metrics._asdict().items()
    }
    assert summary.agents.tolist() == [9, 9, 8, 8, 7, 7, 7]
    for name in ("env_steps", "gradient_steps", "episodes"):
        leaf = getattr(summary, name)
        assert leaf.dtype == jnp.int32
        np.testing.assert_array_equal(leaf, own.pop(name).sum(axis=1))
    assert summary.means.keys() == own.keys()
    for update in range(UPDATES):
        for name, values in own.items():
            known = values[update][~np.isnan(values[update])]
            expected = known.mean() if known.size else np.nan
            np.testing.assert_allclose(summary.means[name][update], expected, rtol=1e-5)
        known = own["episode_return"][update]
        known = known[~np.isnan(known)]
        returns = lane(summary.returns, update)
        assert returns.count == known.size
        if not known.size:
            assert update == 3
            assert np.isnan([returns.mean, returns.iqm, returns.solved, *returns.quantiles]).all()
            continue
        np.testing.assert_allclose(returns.mean, known.mean(), rtol=1e-5)
        np.testing.assert_allclose(returns.iqm, integrated_iqm(known), rtol=1e-5)
        expected = np.quantile(known, [0.05, 0.25, 0.5, 0.75, 0.95])
        np.testing.assert_allclose(returns.quantiles, expected, rtol=1e-5)
        np.testing.assert_allclose(returns.solved, np.mean(known >= 420), rtol=1e-6)


def test_an_environment_without_a_threshold_has_no_solved_fraction(metrics):
    summary = jax.eval_shape(population.summarize, metrics, jnp.ones(LANES, bool), None)
    assert summary.returns.solved.shape == (UPDATES,)
    summary = summarize(metrics, np.ones(LANES, bool), jnp.nan)
    assert np.isnan(summary.returns.solved).all()


def test_a_sweep_of_numbers_that_agents_begin_with_is_planned_as_one_agent():
    swept = recipe("fast", env="Pendulum-v1", log_std_init=jnp.zeros(6))
    assert population.cpu_agents_at_once(swept) == population.CPU_AGENTS_AT_ONCE
