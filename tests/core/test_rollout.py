"""What an update collects: fixed-length rollouts, whole episodes, and their statistics.

The transitions are recorded from inside real updates; gymnax's own `step_env` and plain Python
loops over the recorded flags and rewards say what they should have been.
"""

from typing import NamedTuple

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ppo_jax import env, policy, ppo, recipe, rollout
from tests.helpers.own_parts import lottery
from tests.helpers.quick import quick_jit
from tests.helpers.trees import lane

FIXED = recipe(
    "fast",
    num_envs=4,
    num_steps=6,
    max_episode_steps=16,
    num_updates=30,
    num_epochs=1,
    num_minibatches=2,
    hidden_sizes=(8,),
)
EPISODES = recipe("notebook", max_episode_steps=40, num_updates=30, num_epochs=2, hidden_sizes=(8,))


class Recorded(NamedTuple):
    """A run of U updates: all leaves NumPy, [U, ...]; `before` and `after` are TrainStates."""

    before: ppo.TrainState
    after: ppo.TrainState
    metrics: ppo.Metrics
    transitions: rollout.Transition
    noise: np.ndarray  # [U, T, N, ...], that the actions were drawn with


def make_truncating_early(config):
    """The environment, of which every step's final observation is kept."""
    return MAKE(config)._replace(truncates_early=True)


MAKE, MAKE_POLICY, COLLECT = env.make, policy.make, rollout.collect


def record(config):
    """`config`'s run, with the transitions that its updates really collected."""
    collected, drawn = [], []

    def recording_collect(*arguments):
        rollout_state, transitions = COLLECT(*arguments)
        jax.debug.callback(collected.append, transitions, ordered=True)
        return rollout_state, transitions

    def recording_policy(config):
        own = MAKE_POLICY(config)

        def noise(*arguments):
            numbers = own.noise(*arguments)
            jax.debug.callback(drawn.append, numbers, ordered=True)
            return numbers

        return own._replace(noise=noise)

    def run(key):
        def step(state, _):
            after, metrics = ppo.update(state, config)
            return after, (state, after, metrics)

        return jax.lax.scan(step, ppo.init(key, config), length=config.num_updates)[1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(env, "make", make_truncating_early)
        patch.setattr(rollout, "collect", recording_collect)
        patch.setattr(ppo, "policy", recording_policy)
        before, after, metrics = quick_jit(run)(jax.random.key(0))
        jax.effects_barrier()
    transitions = jax.tree.map(lambda *steps: np.stack(steps), *collected)
    as_numpy = [
        jax.tree.map(np.asarray, tree._replace(key=jax.random.key_data(tree.key)))
        for tree in (before, after)
    ]
    return Recorded(*as_numpy, jax.tree.map(np.asarray, metrics), transitions, np.stack(drawn))


@pytest.fixture(scope="module")
def fixed():
    return record(FIXED)


@pytest.fixture(scope="module")
def steps(fixed):
    """All rollouts of the run end to end, [U T, N, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), fixed.transitions)


@pytest.fixture(scope="module")
def episodes():
    return record(EPISODES)


def hidden_layers(half):
    """The kernels and biases of a perceptron before its last layer."""
    count = sum(name.startswith("hidden") for name in half)
    return [(half[f"hidden_{i}"]["kernel"], half[f"hidden_{i}"]["bias"]) for i in range(count)]


def perceptron(half, observation, nonlinearity):
    """A perceptron's output in NumPy float64."""
    half = jax.tree.map(np.float64, half)
    for kernel, bias in hidden_layers(half):
        observation = nonlinearity(observation @ kernel + bias)
    return observation @ half["output"]["kernel"] + half["output"]["bias"]


NONLINEARITIES = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}


# Fixed-length rollouts


def test_a_rollout_is_time_major(fixed):
    updates, time, envs = FIXED.num_updates, FIXED.num_steps, FIXED.num_envs
    arrays = fixed.transitions._asdict()
    for absent in ("noise", "memory", "start"):
        assert arrays.pop(absent) == ()
    shapes = {name: leaf.shape[3:] for name, leaf in arrays.items()}
    assert all(leaf.shape[:3] == (updates, time, envs) for leaf in arrays.values())
    assert {name for name, shape in shapes.items() if shape} == {
        "observation",
        "final_observation",
    }
    assert (shapes["observation"], shapes["final_observation"]) == ((4,), (4,))
    assert fixed.transitions.valid.all()


def test_the_next_observation_is_where_the_step_led_or_a_fresh_reset(steps):
    done = steps.done[:-1]
    following = steps.observation[1:]
    assert done.sum() > 20
    np.testing.assert_array_equal(following[~done], steps.final_observation[:-1][~done])
    assert np.abs(following[done]).max() <= 0.05
    assert np.abs(following[done] - steps.final_observation[:-1][done]).max(axis=1).min() > 0


def test_no_two_resets_are_the_same(fixed, steps):
    first = fixed.before.rollout.observation[0]
    resets = np.concatenate([first, steps.observation[1:][steps.done[:-1]]])
    assert len(np.unique(resets, axis=0)) == len(resets)


def test_steps_are_those_of_gymnax(steps):
    cartpole, parameters = gymnax.make("CartPole-v1")
    _, like = cartpole.reset(jax.random.key(0))
    state = like.replace(
        **dict(zip(("x", "x_dot", "theta", "theta_dot"), steps.observation.T, strict=True)),
        time=steps.episode_length.T - 1,
    )

    def step(state, action):
        observation, _, reward, terminated, _ = cartpole.step_env(
            jax.random.key(0), state, action, parameters
        )
        return observation, reward, terminated

    observation, reward, terminated = jax.jit(jax.vmap(jax.vmap(step)))(state, steps.action.T)
    swap = (1, 0, 2)
    np.testing.assert_allclose(
        steps.final_observation, np.transpose(observation, swap), rtol=0, atol=1e-6
    )
    np.testing.assert_array_equal(steps.reward, reward.T)
    np.testing.assert_array_equal(steps.terminated, terminated.T)


def test_truncation_is_flagged_at_the_time_limit_and_is_no_termination(steps):
    np.testing.assert_array_equal(steps.truncated, steps.episode_length == 16)
    assert (steps.truncated & ~steps.terminated).sum() > 10
    assert (steps.terminated & ~steps.truncated).sum() > 5


def test_termination_and_truncation_at_once_are_both_flagged():
    environment = env.make(FIXED.replace(max_episode_steps=1))
    state, _ = environment.reset(jax.random.key(0))
    _, outcome = environment.step(jax.random.key(1), state.replace(x=3.0), jnp.int32(0))
    assert bool(outcome.terminated)
    assert bool(outcome.truncated)
    _, outcome = environment.step(jax.random.key(1), state, jnp.int32(0))
    assert not outcome.terminated
    assert bool(outcome.truncated)


def test_episode_return_and_length_restart_after_each_end_and_cross_rollouts(fixed, steps):
    """Also what the rollout_state carry from one rollout to the next."""
    total, count = np.zeros(FIXED.num_envs), np.zeros(FIXED.num_envs, int)
    for t in range(len(steps.reward)):
        total, count = total + steps.reward[t], count + 1
        np.testing.assert_array_equal(steps.episode_return[t], total)
        np.testing.assert_array_equal(steps.episode_length[t], count)
        total, count = np.where(steps.done[t], 0, total), np.where(steps.done[t], 0, count)
        if (t + 1) % FIXED.num_steps == 0:
            carried = lane(fixed.after.rollout, t // FIXED.num_steps)
            np.testing.assert_array_equal(carried.episode_return, total)
            np.testing.assert_array_equal(carried.episode_length, count)
            np.testing.assert_array_equal(carried.env_state.time, count)


@pytest.mark.parametrize(("name", "config"), [("fixed", FIXED), ("episodes", EPISODES)])
def test_the_policy_that_acts_is_the_current_one(name, config, request):
    """Every action is the largest of noise and logits, those of the update's first parameters."""
    run = request.getfixturevalue(name)
    nonlinearity = NONLINEARITIES[config.activation]
    for update in range(config.num_updates):
        one = lane(run, update)
        actor = one.before.params.trainable["network"]["actor"]
        scores = perceptron(actor, one.transitions.observation, nonlinearity) + one.noise
        certain = np.abs(np.diff(scores)[..., 0]) > 1e-4
        assert certain.mean() > 0.99
        np.testing.assert_array_equal(
            one.transitions.action[certain], scores.argmax(axis=-1)[certain]
        )
    assert set(np.unique(run.transitions.action)) == {0, 1}
    first = lane(run.before.params.trainable["network"]["actor"], 0)
    later = perceptron(first, run.transitions.observation, nonlinearity) + run.noise
    assert (later.argmax(axis=-1) != run.transitions.action).sum() > 5  # they do change


PLAUSIBLE = 1e-4


def collect_with(probabilities, config):
    """A rollout by a policy with these probabilities of actions, which looks at nothing."""
    environment, own_policy = env.make(config), policy.make(config)
    start_key, key = jax.random.split(jax.random.key(0))
    params = quick_jit(own_policy.init)(start_key)
    output = params.trainable["network"]["actor"]["output"]
    output["kernel"] = jnp.zeros_like(output["kernel"])
    output["bias"] = jnp.log(jnp.array(probabilities))

    @quick_jit
    def collect(key):
        state = rollout.start(start_key, environment, own_policy, config.num_envs)
        return rollout.collect(key, params, state, environment, own_policy, config)[1]

    return jax.tree.map(np.asarray, collect(key))


def test_actions_are_drawn_from_the_policy_each_by_itself():
    config = FIXED.replace(num_envs=64, num_steps=64)
    action = collect_with((0.3, 0.7), config).action
    assert stats.binomtest(int(action.sum()), action.size, 0.7).pvalue > PLAUSIBLE
    over_time, beside = (action[:-1], action[1:]), (action[:, :-1], action[:, 1:])
    for one, other in (over_time, beside):
        table = np.bincount((2 * one + other).ravel(), minlength=4).reshape(2, 2)
        assert stats.chi2_contingency(table).pvalue > PLAUSIBLE


def test_a_random_world_draws_for_every_step_by_itself():
    """A bandit whose second arm pays a standard normal reward."""
    normal = {"mean_mu": 0.0, "sigma_p": 0.0, "sigma_l": 1.0}
    config = FIXED.replace(env="GaussianBandit-misc", env_params=normal, num_envs=32, num_steps=32)
    reward = collect_with((0.0, 1.0), config).reward
    assert stats.kstest(reward.ravel(), "norm").pvalue > PLAUSIBLE
    assert len(np.unique(reward)) > 0.99 * reward.size


# Whole episodes


def test_storage_holds_the_longest_case(episodes):
    assert episodes.transitions.reward.shape == (30, 32 - 1 + 40, 1)


def test_valid_transitions_come_first(episodes):
    valid = episodes.transitions.valid[..., 0]
    held = valid.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(valid, np.arange(valid.shape[1]) < held)


def test_collecting_stops_at_the_first_end_of_an_episode_with_enough_transitions(episodes):
    for done, valid in zip(episodes.transitions.done, episodes.transitions.valid, strict=True):
        ends = np.flatnonzero(done[:, 0]) + 1
        assert valid.sum() == ends[ends >= 32][0]


def test_an_update_holds_whole_episodes_only_and_carries_short_ones_within_it(episodes):
    several = 0
    for update in range(EPISODES.num_updates):
        one = lane(episodes.transitions, (update, slice(None), 0))
        lengths = one.episode_length[one.done & one.valid]
        assert one.valid.sum() == lengths.sum() >= 32
        assert one.episode_length[0] == 1
        assert (np.cumsum(lengths)[:-1] < 32).all()
        several += len(lengths) > 1
    assert several > 5


def test_whole_episodes_end_freshly_reset(episodes):
    rollout_state = episodes.after.rollout
    assert np.abs(rollout_state.observation).max() <= 0.05
    assert len(np.unique(rollout_state.observation, axis=0)) == EPISODES.num_updates
    assert not rollout_state.episode_length.any()
    assert not rollout_state.episode_return.any()
    assert not rollout_state.env_state.time.any()
    np.testing.assert_array_equal(
        episodes.transitions.observation[1:, 0], rollout_state.observation[:-1]
    )


def test_the_time_limit_cuts_whole_episodes(episodes):
    transitions = episodes.transitions
    np.testing.assert_array_equal(
        transitions.truncated[transitions.valid],
        transitions.episode_length[transitions.valid] == 40,
    )


@pytest.fixture(scope="module")
def targets(episodes):
    """The value targets [U, B] that the updates make of such transitions."""
    own_policy = policy.make(EPISODES)

    @jax.jit
    @jax.vmap
    def target_of(params, transitions, rollout_state):
        return ppo.compute_advantages(
            params, transitions, rollout_state, own_policy, EPISODES
        ).target

    return lambda transitions: np.asarray(
        target_of(episodes.before.params, transitions, episodes.after.rollout)
    )


def test_targets_bootstrap_at_a_truncation_and_not_at_a_termination(episodes, targets):
    """Plain discounted returns (λ = 1), by a Python loop in float64."""
    target = targets(episodes.transitions)
    truncations = 0
    for update in range(EPISODES.num_updates):
        one = lane(episodes, update)
        steps = lane(one.transitions, (slice(None), 0))
        critic = one.before.params.trainable["network"]["critic"]
        final_value = perceptron(critic, steps.final_observation, NONLINEARITIES["relu"])[:, 0]
        for t in reversed(range(steps.valid.sum())):
            if steps.terminated[t]:
                expected = steps.reward[t]
            elif steps.truncated[t]:
                expected = steps.reward[t] + 0.99 * final_value[t]
                truncations += 1
            else:
                expected = steps.reward[t] + 0.99 * expected
            np.testing.assert_allclose(target[update, t], expected, rtol=1e-5)
    assert truncations > 3


# Statistics


@pytest.mark.parametrize("name", ["fixed", "episodes"])
def test_every_episode_is_counted_exactly_once(name, request):
    run = request.getfixturevalue(name)
    ended = run.transitions.done & run.transitions.valid
    counts = ended.sum(axis=(1, 2))
    assert ended.sum() > 20
    np.testing.assert_array_equal(run.metrics.episodes, counts)

    lengths, running = [], np.zeros(ended.shape[2], int)
    for update, t in np.ndindex(ended.shape[:2]):
        running += run.transitions.valid[update, t]
        lengths += [(update, length) for length in running[ended[update, t]]]
        running[ended[update, t]] = 0
    for mean in (run.metrics.episode_length, run.metrics.episode_return):  # rewards are 1
        totals = np.where(counts > 0, mean, 0) * counts
        expected = np.bincount(*np.transpose(lengths), minlength=len(counts))
        np.testing.assert_allclose(totals, expected, rtol=1e-6)


@pytest.mark.slow
def test_episodes_of_one_step_are_not_counted_past_the_end():
    """Every step ends an episode here, also those that fill the storage up."""
    config = EPISODES.replace(env="SimpleBandit-bsuite", min_transitions=8, max_episode_steps=5)
    state, metrics = quick_jit(lambda key: ppo.update(ppo.init(key, config), config))(
        jax.random.key(0)
    )
    assert metrics.episodes == metrics.env_steps == 8
    assert metrics.episode_length == 1
    assert state.rollout.episode_length == 0


@pytest.mark.parametrize("name", ["fixed", "episodes"])
def test_every_step_is_of_an_episode_that_ended_or_is_running(name, request):
    run = request.getfixturevalue(name)
    np.testing.assert_array_equal(run.metrics.env_steps, run.transitions.valid.sum(axis=(1, 2)))
    ended = np.nansum(run.metrics.episodes * run.metrics.episode_length)
    running = run.after.rollout.episode_length[-1].sum()
    np.testing.assert_allclose(ended + running, run.metrics.env_steps.sum(), rtol=1e-6)


def test_an_update_in_which_no_episode_ended_says_so(fixed):
    none = ~fixed.transitions.done.any(axis=(1, 2))
    assert none[0]
    assert not none.all()
    np.testing.assert_array_equal(fixed.metrics.episodes == 0, none)
    np.testing.assert_array_equal(np.isnan(fixed.metrics.episode_return), none)
    np.testing.assert_array_equal(np.isnan(fixed.metrics.episode_length), none)


def test_gradient_steps_are_those_of_the_minibatches(fixed, episodes):
    assert (fixed.metrics.gradient_steps == 2).all()
    minibatches = -(-episodes.metrics.env_steps // 32)
    np.testing.assert_array_equal(episodes.metrics.gradient_steps, 2 * minibatches)


def test_a_rollout_can_be_differentiated_and_is_given_data():
    """Pendulum's actions are smooth in log σ."""
    config = FIXED.replace(env="Pendulum-v1")
    environment, own_policy = env.make(config), policy.make(config)
    state = quick_jit(ppo.init)(jax.random.key(0), config)

    def total(params):
        transitions = rollout.collect(
            state.key, params, state.rollout, environment, own_policy, config
        )[1]
        return transitions.action.sum() + transitions.reward.sum()

    value, gradient = quick_jit(jax.value_and_grad(total))(state.params)
    assert np.isfinite(value)
    assert value != 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(("num_envs", "few"), [(8, True), (9, False)])
def test_few_environments_act_one_by_one_and_many_together(num_envs, few):
    """The results are the same and the speed is not (docs/performance.md)."""
    own_policy = policy.make(FIXED)
    params = jax.eval_shape(own_policy.init, jax.random.key(0))
    trace = jax.make_jaxpr(lambda params, seen: own_policy.apply(params, seen)[0].logits)
    program = str(trace(params, jnp.zeros((num_envs, 4))))
    assert ("custom_vmap_call" in program) == few
    assert f"f32[{num_envs},8] = dot_general" in program  # the product that others make


# Final observations of truncations alone


def truncated_observations(transitions, slots):
    """[slots, N, ...]: an environment's final observations of truncations, in their order."""
    kept = np.zeros((slots, *transitions.final_observation.shape[1:]), np.float32)
    for environment in range(kept.shape[1]):
        here = (transitions.truncated & transitions.valid)[:, environment]
        found = transitions.final_observation[here, environment]
        kept[: len(found), environment] = found
    return kept


@pytest.mark.parametrize(("name", "slots"), [("fixed", 1), ("episodes", 2)])
def test_only_truncations_keep_their_final_observations(name, slots, request):
    """CartPole, which only its time limit truncates, beside one that might be so at every step."""
    run, config = request.getfixturevalue(name), {"fixed": FIXED, "episodes": EPISODES}[name]
    own_policy, environment = policy.make(config), env.make(config)
    assert rollout.truncation_slots(config, environment) == slots

    @quick_jit
    @jax.vmap
    def collect_twice(key, state):
        return [
            rollout.collect(
                *(key, state.params, state.rollout),
                *(environment._replace(truncates_early=early), own_policy, config),
            )[1]
            for early in (True, False)
        ]

    keys = jax.random.split(jax.random.key(3), config.num_updates)
    every, few = jax.tree.map(np.asarray, collect_twice(keys, run.before._replace(key=keys)))
    assert few.final_observation.shape[1:] == (slots, config.num_envs, 4)
    truncations = 0
    for update in range(config.num_updates):
        one, other = lane(every, update), lane(few, update)
        np.testing.assert_array_equal(one.action[one.valid], other.action[one.valid])
        np.testing.assert_array_equal(one.valid, other.valid)
        np.testing.assert_allclose(
            other.final_observation, truncated_observations(one, slots), rtol=1e-5, atol=1e-6
        )
        truncations += (one.truncated & one.valid).sum()
    assert truncations > 3


def some_transitions(seed, limit, steps, num_envs, num_valid):
    """Made-up transitions in which an environment is truncated at most every `limit` steps."""
    random = np.random.default_rng(seed)
    shape = steps, num_envs
    truncated = np.zeros(shape, bool)
    for environment in range(num_envs):
        ends = np.cumsum(random.integers(limit, limit + 3, steps)) - random.integers(1, limit + 1)
        truncated[ends[ends < steps], environment] = True
    zeros = np.zeros(shape, np.float32)
    observation, final = random.standard_normal((2, *shape, 4)).astype(np.float32)
    return rollout.Transition(
        observation=observation,
        action=np.zeros(shape, np.int32),
        noise=(),
        reward=zeros,
        terminated=random.random(shape) < 0.1,
        truncated=truncated,
        final_observation=final,
        episode_return=zeros,
        episode_length=zeros,
        valid=np.broadcast_to(np.arange(steps)[:, None] < num_valid, shape),
    )


@pytest.mark.parametrize(
    ("config", "num_valid"),
    [
        (FIXED.replace(num_envs=3, num_steps=24, max_episode_steps=6), 24),
        (EPISODES.replace(max_episode_steps=8, min_transitions=30), 26),
    ],
)
def test_values_after_truncations_are_those_of_their_final_observations(config, num_valid):
    """By the critic in NumPy, of the observations that the steps really led to."""
    environment, own_policy = env.make(config), policy.make(config)
    steps, limit = rollout.length(config, environment), config.max_episode_steps
    slots = rollout.truncation_slots(config, environment)
    assert slots == -(-steps // limit) > 3
    state = quick_jit(ppo.init)(jax.random.key(0), config)
    critic = state.params.trainable["network"]["critic"]

    @jax.jit
    def next_values(transitions):
        values = own_policy.apply(state.params, transitions.observation)[1]
        return rollout.next_values(state.params, transitions, values, (), state.rollout, own_policy)

    def value(observations):
        return perceptron(critic, observations, NONLINEARITIES[config.activation])[..., 0]

    counts = []
    for seed in range(5):
        every = some_transitions(seed, limit, steps, config.num_envs, num_valid)
        few = every._replace(final_observation=truncated_observations(every, slots))
        led_to = np.concatenate([every.observation[1:], state.rollout.observation[None]])
        led_to = np.where(every.truncated[..., None], every.final_observation, led_to)
        # Past the end of whole episodes the number has no meaning.
        meant = every.valid
        actual = np.asarray(next_values(few))
        np.testing.assert_allclose(actual[meant], value(led_to)[meant], rtol=1e-4, atol=1e-5)
        went_on = meant & ~every.truncated & ~every.terminated
        consistent = every._replace(
            final_observation=np.where(went_on[..., None], led_to, every.final_observation)
        )
        known = meant & ~every.terminated
        evaluated = np.asarray(next_values(consistent))
        np.testing.assert_allclose(actual[known], evaluated[known], rtol=1e-4, atol=1e-5)
        counts.append((every.truncated & every.valid).sum(axis=0).max())
    assert max(counts) > 2


@pytest.mark.parametrize(
    ("num_steps", "limit", "early", "slots"),
    [
        *((4, 4, False, 1), (16, 4, False, 4), (17, 4, False, None), (128, 500, False, 1)),
        *(
            (3, 500, False, None),
            (16, 3, False, None),
            (16, 4, True, None),
            (16, None, False, None),
        ),
    ],
)
def test_slots_hold_all_truncations_or_every_step_is_kept(num_steps, limit, early, slots):
    """T steps hold ⌈T / limit⌉ truncations at most; kept apart if that is a quarter or less."""
    environment = lottery()._replace(max_episode_steps=limit, truncates_early=early)
    assert rollout.truncation_slots(FIXED.replace(num_steps=num_steps), environment) == slots
