"""python -m tests.planted_bugs: do the tests notice the bugs that PPO is known for?

Plants one bug at a time in a copy of the package, and asks of the tests named beside it that one
of them fails: by an assertion, for a program that breaks would say so by itself. Before that all of
them must pass on a copy without a bug. Exits with 1 if a bug survived.
"""

import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Options:
    """Plant bugs one at a time, and show that the tests catch each."""

    only: tuple[str, ...] = ()
    """Names of the bugs to plant (none given: all)."""
    jobs: int = 1
    """Bugs tested at the same time."""
    out: Path = Path("tests/planted_bugs.json")
    """File for the results."""


@dataclasses.dataclass(frozen=True)
class Bug:
    """One mistake: in `file` of the package, `old`, which is there once, becomes `new`."""

    name: str
    what: str
    file: str
    old: str
    new: str
    test: str
    """In the folder of tests: what is expected to fail, small so that it is fast."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What pytest made of a copy."""

    code: int
    failed: str | None
    """The first test that failed by an assertion."""
    seconds: float
    """By pytest's own count: imports and compilation, but not the start of Python."""
    last_lines: str

    @property
    def caught(self) -> bool:
        """Whether a test failed; an error in collecting, say, is another exit code."""
        return self.code == 1 and self.failed is not None


# The bugs -----------------------------------------------------------------------------------------

BY_HAND = "test_returns.py::test_advantages_on_numbers_by_hand"
EVERY_PATTERN = "test_returns.py::test_every_pattern_of_ends_agrees_with_the_definition"
GRADIENTS = "test_update.py::test_losses_and_gradients_are_the_oracles_in_float64"
UPDATE = "test_update.py::test_update_is_the_oracles_in_float64"
PLAYED = "test_update.py::test_an_agents_first_updates_are_the_oracles"
UPDATES = f"{PLAYED}[standard]"
EPOCHS = "test_shuffle.py::test_every_epoch_visits_every_valid_transition_once[19]"
RESETS = "test_rollout.py::test_no_two_resets_are_the_same"
ACTIONS = "test_rollout.py::test_actions_are_drawn_from_the_policy_each_by_itself"
RUNNING = (
    "test_rollout.py::test_episode_return_and_length_restart_after_each_end_and_cross_rollouts"
)
ORTHOGONAL = "test_network.py::test_orthogonal_kernels_are_orthonormal_times_their_gain[sizes0]"
FIRST_RATIO = (
    "test_first_ratio.py::test_every_first_ratio_is_one[standard-mlp-clipped-True-float32]"
)
STATISTICS = f"{PLAYED}[observation statistics]"
REWARDS = f"{PLAYED}[reward statistics]"
RECEIVED = (
    "test_own_parts.py::test_an_environment_receives_actions_within_its_bounds_and_in_their_shape"
)
TARGET_KL = "test_update.py::test_the_first_minibatch_that_went_too_far_ends_the_update[standard]"
TIME_LIMIT = (
    "test_own_parts.py::test_the_library_counts_for_environments_that_do_not[True-terminate-None]"
)

RETURNS = (
    Bug(
        "truncation-as-termination",
        "GAE gives a truncated step no value of the state that it led to.",
        "returns.py",
        "discount * (1 - terminated.astype(values.dtype))",
        "discount * (1 - done.astype(values.dtype))",
        BY_HAND,
    ),
    Bug(
        "trace-crosses-truncations",
        "GAE's sum goes on from a truncated episode into the next one.",
        "returns.py",
        "discount * gae_lambda * (1 - done.astype(values.dtype))",
        "discount * gae_lambda * (1 - terminated.astype(values.dtype))",
        BY_HAND,
    ),
    Bug(
        "own-value-for-the-next",
        "The temporal difference looks ahead to the value of the state that it starts from.",
        "returns.py",
        "continues * next_values - values",
        "continues * values - values",
        BY_HAND,
    ),
    Bug(
        "no-discount-in-delta",
        "The temporal difference takes the next value undiscounted.",
        "returns.py",
        "continues = discount * (1",
        "continues = 1.0 * (1",
        BY_HAND,
    ),
    Bug(
        "rewards-shifted",
        "Every step gets the reward of the step after it.",
        "returns.py",
        "deltas = rewards + continues",
        "deltas = jnp.roll(rewards, -1, axis=0) + continues",
        EVERY_PATTERN,
    ),
    Bug(
        "targets-without-values",
        "The critic learns the advantages instead of the returns.",
        "ppo.py",
        "target=advantages + values",
        "target=advantages",
        f"{UPDATE}[standard-1]",
    ),
)

ROLLOUTS = (
    Bug(
        "time-limit-as-termination",
        "An episode that the time limit cuts off is reported as terminated.",
        "env.py",
        "Step(observation, reward, terminated, jnp.asarray(truncated))",
        "Step(observation, reward, terminated | truncated, jnp.asarray(truncated))",
        "test_rollout.py::test_termination_and_truncation_at_once_are_both_flagged",
    ),
    Bug(
        "bootstrap-from-the-reset",
        "The observation after an episode's last step is that of the reset, and so is its value.",
        "rollout.py",
        "final_observation=timestep.observation",
        (
            "final_observation=_where(\n"
            "            timestep.terminated | timestep.truncated,\n"
            "            noise.reset[1],\n"
            "            timestep.observation,\n"
            "        )"
        ),
        "test_rollout.py::test_steps_are_those_of_gymnax",
    ),
    Bug(
        "steps-share-their-noise",
        "The noise of actions is drawn once a rollout, with one key for all its steps.",
        "rollout.py",
        "action=policy.noise(action_key, shape)",
        "action=jnp.stack([policy.noise(action_key, shape[1:])] * shape[0])",
        ACTIONS,
    ),
    Bug(
        "steps-share-a-key",
        "A random environment gets the same key in every step of a rollout.",
        "rollout.py",
        "unflatten(jax.random.split(step_key, size))",
        "jnp.broadcast_to(jax.random.split(step_key, shape[1]), shape)",
        "test_rollout.py::test_a_random_world_draws_for_every_step_by_itself",
    ),
    Bug(
        "resets-share-a-key",
        "All resets of a rollout have one key, and lead to one state.",
        "rollout.py",
        "jax.random.split(reset_key, reset_pool or size)",
        "jnp.broadcast_to(reset_key, (reset_pool or size,))",
        RESETS,
    ),
    Bug(
        "updates-share-a-key",
        "Every update draws from the root key as it is, without its own number folded in.",
        "ppo.py",
        "jax.random.split(jax.random.fold_in(state.key, state.num_updates))",
        "jax.random.split(state.key)",
        RESETS,
    ),
    Bug(
        "rollouts-are-greedy",
        "The rollout takes the most probable action: nothing is explored.",
        "rollout.py",
        ".sample(noise.action)",
        ".mode()",
        ACTIONS,
    ),
    Bug(
        "log-prob-of-another-action",
        "The old log-probability is that of the most probable action, not of the one taken.",
        "ppo.py",
        "log_prob=distribution.log_prob(transitions.action)",
        "log_prob=distribution.log_prob(distribution.mode())",
        f"{UPDATE}[standard-1]",
    ),
    Bug(
        "return-counts-a-reward-twice",
        "A new episode's return starts with the last reward of the one before.",
        "rollout.py",
        "jnp.where(done, 0, transition.episode_return)",
        "jnp.where(done, timestep.reward, transition.episode_return)",
        RUNNING,
    ),
    Bug(
        "length-off-by-one",
        "The length of every episode but the first counts the reset as a step.",
        "rollout.py",
        "jnp.where(done, 0, transition.episode_length)",
        "jnp.where(done, 1, transition.episode_length)",
        RUNNING,
    ),
)

LOSSES = (
    Bug(
        "deviation-of-a-sample",
        "Advantages are normalized by the sample's deviation (ddof 1), as torch.std has it.",
        "loss.py",
        "jnp.std(advantage, where=batch.valid)",
        "jnp.std(advantage, where=batch.valid, ddof=1)",
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "normalized-over-the-batch",
        "Advantages are normalized once over the batch instead of in each minibatch.",
        "ppo.py",
        ("    capacity, size = batch.log_prob.shape[0], config.transitions_per_minibatch\n"),
        (
            "    capacity, size = batch.log_prob.shape[0], config.transitions_per_minibatch\n"
            "    if config.normalize_advantage:\n"
            "        centered = batch.advantage - jnp.mean(batch.advantage, where=batch.valid)\n"
            "        deviation = jnp.std(batch.advantage, where=batch.valid)\n"
            "        batch = batch._replace(advantage=centered / (deviation + 1e-8))\n"
            "        config = config.replace(normalize_advantage=False)\n"
        ),
        f"{UPDATE}[standard-1]",
    ),
    Bug(
        "ratio-always-1",
        "The old log-probability is that of the new parameters: nothing is ever clipped.",
        "loss.py",
        "distribution.log_prob(batch.action) - batch.log_prob",
        "(now := distribution.log_prob(batch.action)) - jax.lax.stop_gradient(now)",
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "ratio-inverted",
        "The ratio is that of the old probability to the new one.",
        "loss.py",
        "distribution.log_prob(batch.action) - batch.log_prob",
        "batch.log_prob - distribution.log_prob(batch.action)",
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "clip-takes-the-larger",
        "The surrogate is the larger of the plain and the clipped one: no bound on the move.",
        "loss.py",
        "jnp.minimum(ratio * advantage",
        "jnp.maximum(ratio * advantage",
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "clip-range-lopsided",
        "The ratio is clipped at 1 / (1 + ε) from below instead of 1 - ε.",
        "loss.py",
        "jnp.clip(ratio, 1 - config.clip_range,",
        "jnp.clip(ratio, 1 / (1 + config.clip_range),",
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "policy-loss-ascends",
        "The policy loss lacks its minus sign: actions better than expected become rarer.",
        "loss.py",
        "policy_loss = -mean(",
        "policy_loss = mean(",
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "advantage-sign-flipped",
        "The advantage is what the critic expected minus what was got.",
        "loss.py",
        "jax.lax.stop_gradient(batch.target - value)",
        "jax.lax.stop_gradient(value - batch.target)",
        f"{GRADIENTS}[notebook]",
    ),
    Bug(
        "advantage-not-detached",
        "The policy's gradient flows through the advantage into the critic.",
        "loss.py",
        "jax.lax.stop_gradient(batch.target - value)",
        "batch.target - value",
        f"{GRADIENTS}[notebook]",
    ),
    Bug(
        "value-loss-without-half",
        "The value loss is the whole square: twice its weight.",
        "loss.py",
        "return 0.5 * square",
        "return square",
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "value-coefficient-twice",
        "The value loss is weighed once more where the losses are added.",
        "loss.py",
        "total = policy_loss + value_loss",
        "total = policy_loss + config.value_coefficient * value_loss",
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "value-clip-takes-the-smaller",
        "The value loss is the smaller of the plain and the clipped square.",
        "loss.py",
        "square = jnp.maximum(",
        "square = jnp.minimum(",
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "entropy-sign",
        "Entropy is punished instead of rewarded.",
        "loss.py",
        "- config.entropy_coefficient * entropy",
        "+ config.entropy_coefficient * entropy",
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "entropy-ignored",
        "The entropy bonus is computed and left out of the loss.",
        "loss.py",
        " - config.entropy_coefficient * entropy",
        "",
        f"{GRADIENTS}[standard]",
    ),
)

EPOCHS_AND_OPTIMIZERS = (
    Bug(
        "shuffle-with-replacement",
        "An epoch draws transitions with replacement: some come twice, a third never.",
        "ppo.py",
        "shuffle.permute(key, positions, num_valid)",
        "jax.random.randint(key, (capacity,), 0, num_valid)",
        EPOCHS,
    ),
    Bug(
        "epochs-share-a-key",
        "All epochs of an update visit the transitions in the same order.",
        "ppo.py",
        "jax.random.split(key, num_epochs)",
        "jnp.broadcast_to(key, (num_epochs,))",
        EPOCHS,
    ),
    Bug(
        "updates-share-their-orders",
        "The orders come from the agent's root key: every update shuffles alike.",
        "ppo.py",
        "shuffle_key, params, state.optimizer_state",
        "state.key, params, state.optimizer_state",
        UPDATES,
    ),
    Bug(
        "last-minibatch-dropped",
        "The last rows of an epoch, too few for a whole minibatch, are never learned from.",
        "ppo.py",
        "num_minibatches = -(-num_valid // size)",
        "num_minibatches = num_valid // size",
        f"{UPDATE}[notebook-1]",
    ),
    Bug(
        "annealed-by-gradient-steps",
        "Annealing counts gradient steps where the run's length is in updates.",
        "ppo.py",
        "learning_rate_scale(state.num_updates, config)",
        'learning_rate_scale(optax.tree.get(state.optimizer_state, "count"), config)',
        UPDATES,
    ),
    Bug(
        "annealed-too-early",
        "The learning rate is 0 already in the last update, which learns nothing.",
        "ppo.py",
        "jnp.asarray(num_updates, float) / config.num_updates",
        "jnp.asarray(num_updates, float) / (config.num_updates - 1)",
        "test_update.py::test_learning_rate_falls_linearly_to_zero_over_the_run",
    ),
    Bug(
        "norms-clipped-apart",
        "Each network's gradient is clipped by itself where the joint norm was asked for.",
        "optimizer.py",
        "own = GradNorms(*[jnp.hypot(*own)] * 2)",
        "own = GradNorms(*own)",
        f"{UPDATE}[standard-1]",
    ),
    Bug(
        "clipped-entry-by-entry",
        "Gradients are clipped entry by entry, which bends their direction.",
        "optimizer.py",
        "lambda gradient, factor: gradient * factor",
        "lambda gradient, factor: jnp.clip(gradient, -config.max_grad_norm, config.max_grad_norm)",
        f"{UPDATE}[standard-1]",
    ),
    Bug(
        "epsilon-in-the-root",
        "Adam's ε is added inside the square root.",
        "optimizer.py",
        "eps=config.adam_epsilon",
        "eps=0.0, eps_root=config.adam_epsilon",
        f"{UPDATE}[standard-1]",
    ),
    Bug(
        "default-epsilon",
        "Adam keeps its default ε, 1e-8, whatever the configuration says.",
        "optimizer.py",
        "eps=config.adam_epsilon",
        "eps=1e-8",
        f"{UPDATE}[standard-1]",
    ),
    Bug(
        "no-bias-correction",
        "Adam uses its moments as they are: the first steps are too large.",
        "optimizer.py",
        "    descend = _on_halves(",
        (
            "    corrected = adam.update\n"
            "\n"
            "    def update(gradients, state, params=None):\n"
            "        state = corrected(gradients, state)[1]\n"
            "        roots = jax.tree.map(jnp.sqrt, state.nu)\n"
            "        divide = lambda mean, root: mean / (root + config.adam_epsilon)\n"
            "        return jax.tree.map(divide, state.mu, roots), state\n"
            "\n"
            "    adam = adam._replace(update=update)\n"
            "    descend = _on_halves("
        ),
        f"{UPDATE}[standard-1]",
    ),
)

AGENTS = (
    Bug(
        "gain-of-the-policy-head",
        "The policy head starts with gain 1 instead of 0.01: far from uniform.",
        "network.py",
        "jax.random.split(key), (0.01, 1.0)",
        "jax.random.split(key), (1.0, 1.0)",
        ORTHOGONAL,
    ),
    Bug(
        "biases-not-zero",
        "Orthogonal initialization leaves the biases at a constant.",
        "network.py",
        "jnp.zeros(bias.shape)",
        "jnp.full(bias.shape, 0.1)",
        ORTHOGONAL,
    ),
    Bug(
        "networks-share-a-key",
        "Actor and critic are initialized from one key, with the same hidden layers.",
        "network.py",
        "jax.random.split(key), (0.01, 1.0)",
        "(key, key), (0.01, 1.0)",
        "test_network.py::test_no_two_initial_numbers_are_correlated[orthogonal]",
    ),
    Bug(
        "agents-share-a-key",
        "All agents of a batch have the seed's own key: one agent, many times.",
        "population.py",
        "jnp.arange(num_seeds, dtype=jnp.uint32)",
        "jnp.zeros(num_seeds, dtype=jnp.uint32)",
        "test_population.py::test_agent_i_has_the_key_of_seed_plus_i_whatever_their_number",
    ),
    Bug(
        "frozen-agent-goes-on",
        "An agent that diverged takes the update that made it NaN.",
        "population.py",
        "states = _select(all_finite, attempted, states)",
        "states = attempted",
        "test_population.py::"
        "test_an_agent_that_cannot_go_on_keeps_its_state_and_the_others_theirs[rate of 1e38]",
    ),
    Bug(
        "variance-explained-of-the-values",
        "Explained variance is measured against the variance of the values, not of the returns.",
        "ppo.py",
        "unexplained / jnp.var(batch.target,",
        "unexplained / jnp.var(batch.value,",
        UPDATES,
    ),
    Bug(
        "evaluation-samples",
        "Greedy evaluation samples its actions.",
        "evaluate.py",
        "action = distribution.mode()",
        "action = distribution.sample(own_policy.noise(own_key, (num_episodes,)))",
        "test_transforms.py::test_evaluation_is_a_greedy_loop_over_gymnax",
    ),
)

DOORS = (
    Bug(
        "statistics-merged-before-the-optimization",
        "The gradient steps see observations by statistics that the policy did not act with.",
        "ppo.py",
        "shuffle_key, params, state.optimizer_state",
        "shuffle_key,\n"
        "        params._replace(\n"
        "            statistics=normalize.merge(\n"
        "                params.statistics, transitions.observation, transitions.valid\n"
        "            )\n"
        "        ),\n"
        "        state.optimizer_state",
        FIRST_RATIO,
    ),
    Bug(
        "statistics-of-the-next-observations",
        "The statistics are of where the steps led, not of what was acted on.",
        "ppo.py",
        "normalize.merge(params.statistics, transitions.observation, transitions.valid)",
        "normalize.merge(\n"
        "        params.statistics,\n"
        "        jax.tree.map(\n"
        "            lambda seen, last: jnp.concatenate([seen[1:], last[None]]),\n"
        "            transitions.observation,\n"
        "            rollout_state.observation,\n"
        "        ),\n"
        "        transitions.valid,\n"
        "    )",
        STATISTICS,
    ),
    Bug(
        "statistics-without-the-means-move",
        "Merged, the squared deviations lack that of the two means.",
        "normalize.py",
        "before.m2 + new.m2 + jnp.square(delta) * (count * number / total)",
        "before.m2 + new.m2",
        STATISTICS,
    ),
    Bug(
        "reward-mean-subtracted",
        "Rewards are centered as observations are: a constant reward becomes none.",
        "normalize.py",
        "jnp.clip(rewards / jnp.sqrt(",
        "jnp.clip((rewards - mean) / jnp.sqrt(",
        REWARDS,
    ),
    Bug(
        "discounted-return-crosses-episodes",
        "The discounted return of which the deviation is taken goes on past an episode's end.",
        "normalize.py",
        "return jnp.where(done & valid, 0, current), current",
        "return current, current",
        REWARDS,
    ),
    Bug(
        "log-prob-of-the-clipped-action",
        "The old log-probability is that of what the environment received, not of what was drawn.",
        "ppo.py",
        "log_prob=distribution.log_prob(transitions.action)",
        "log_prob=distribution.log_prob(policy.env_action(transitions.action))",
        FIRST_RATIO,
    ),
    Bug(
        "clipped-action-stored",
        "The transition holds what the environment received: not what the density is of.",
        "rollout.py",
        "action=action,",
        "action=policy.env_action(action),",
        f"{RECEIVED}[False]",
    ),
    Bug(
        "log-slope-averaged",
        "A squashed action's log-determinant is the mean over its entries, not their sum.",
        "distributions.py",
        "fast.sum_entries(squashed + half)",
        "jnp.mean(squashed + half, axis=-1)",
        f"{GRADIENTS}[squashed]",
    ),
    Bug(
        "squashed-onto-the-unit-box",
        "Squashed actions are in ±1, whatever the bounds.",
        "policy.py",
        "lows + (highs - lows) * (jnp.tanh(action) + 1) / 2",
        "jnp.tanh(action)",
        f"{RECEIVED}[True]",
    ),
    Bug(
        "stop-that-does-not-last",
        "A minibatch beyond target_kl is left out, and those after it are learned from again.",
        "ppo.py",
        "carry.stopped | (diagnostics.approx_kl > 1.5 * config.target_kl)",
        "diagnostics.approx_kl > 1.5 * config.target_kl",
        TARGET_KL,
    ),
    Bug(
        "terminating-limit-bootstrapped",
        "A time limit that is part of the task still counts the value of what would follow.",
        "env.py",
        "found._replace(terminated=found.terminated | found.truncated)",
        "found",
        TIME_LIMIT,
    ),
)

BUGS = RETURNS + ROLLOUTS + LOSSES + EPOCHS_AND_OPTIMIZERS + AGENTS + DOORS


# Planting them, and looking -----------------------------------------------------------------------


def planted(bug: Bug) -> str:
    """The file's text with the bug in it."""
    text = (ROOT / "ppo_jax" / bug.file).read_text()
    if (count := text.count(bug.old)) != 1:
        raise SystemExit(f"{bug.name}: {bug.file} has {bug.old!r} {count} times, not once")
    changed = text.replace(bug.old, bug.new)
    compile(changed, bug.file, "exec")  # a bug that nobody could run is none
    return changed


def try_out(bug: Bug) -> Outcome:
    """The bug's test, with the bug."""
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        Path(folder, "ppo_jax", bug.file).write_text(planted(bug))
        return run(Path(folder), [bug.test])


def try_out_nothing(bugs: Iterable[Bug]) -> Outcome:
    """The tests of all the bugs, without any."""
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        return run(Path(folder), dict.fromkeys(bug.test for bug in bugs))


def copy(folder: Path) -> None:
    """Copy the package, its tests, and their settings."""
    for name in ("ppo_jax", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


# The package may be installed from elsewhere: what is tested must be the copy. Pytest itself never
# exits with 99.
PYTEST = """
import pathlib, sys, ppo_jax, pytest
if pathlib.Path.cwd() not in pathlib.Path(ppo_jax.__file__).resolve().parents:
    print(f"{ppo_jax.__file__} was imported, which is not the copy")
    sys.exit(99)
sys.exit(pytest.main(sys.argv[1:]))
"""
FAILED = re.compile(r"^FAILED tests/(.*?) - (?:AssertionError|assert )", re.MULTILINE)
SECONDS = re.compile(r" in ([\d.]+)s", re.MULTILINE)


def run(folder: Path, tests: Iterable[str]) -> Outcome:
    """Run tests of the folder's copy, in a process of their own, up to the first that fails."""
    arguments = ["-x", "-q", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)]
    result = subprocess.run(
        [sys.executable, "-c", PYTEST, *arguments],
        cwd=folder,
        # Wide lines: pytest cuts the reasons of its summary to the terminal's width.
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "1000"},
        capture_output=True,
        text=True,
        check=False,
    )
    failed, seconds = FAILED.search(result.stdout), SECONDS.findall(result.stdout)
    return Outcome(
        result.returncode,
        failed[1] if failed else None,
        float(seconds[-1]) if seconds else 0.0,
        "\n".join((result.stdout + result.stderr).strip().splitlines()[-12:]),
    )


# What it came to ----------------------------------------------------------------------------------


def chosen(options: Options) -> list[Bug]:
    """The bugs to plant, every one of which can be."""
    names = [bug.name for bug in BUGS]
    assert len(set(names)) == len(names), "two bugs have one name"
    if unknown := set(options.only) - set(names):
        raise SystemExit(f"no bug {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    bugs = [bug for bug in BUGS if not options.only or bug.name in options.only]
    for bug in bugs:
        planted(bug)
    return bugs


def report(bugs: list[Bug], outcomes: list[Outcome], console: Console) -> None:
    """Print what became of every bug, and more of those that no assertion caught."""
    table = Table("bug", "caught by", "seconds")
    for bug, outcome in zip(bugs, outcomes, strict=True):
        said = Text(str(outcome.failed)) if outcome.caught else Text("nothing", "bold red")
        table.add_row(bug.name, said, f"{outcome.seconds:.1f}")
    console.print(table)
    for bug, outcome in zip(bugs, outcomes, strict=True):
        if not outcome.caught:
            console.print(f"{bug.name}: pytest ended with {outcome.code}")
            console.print(outcome.last_lines, markup=False)


def record(bugs: list[Bug], outcomes: list[Outcome]) -> dict[str, object]:
    """The results, and what they were had with."""
    return {
        "command": " ".join(["python -m tests.planted_bugs", *sys.argv[1:]]),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("jax", "numpy", "pytest")},
        "caught": sum(outcome.caught for outcome in outcomes),
        "planted": len(bugs),
        "seconds": total_seconds(outcomes),
        "bugs": [
            {
                "name": bug.name,
                "what": bug.what,
                "file": f"ppo_jax/{bug.file}",
                "caught": outcome.caught,
                "test": f"tests/{outcome.failed}" if outcome.caught else None,
                "seconds": outcome.seconds,
            }
            for bug, outcome in zip(bugs, outcomes, strict=True)
        ],
    }


def total_seconds(outcomes: list[Outcome]) -> float:
    """Pytest's, of all the bugs: not what a process waited for on a busy machine."""
    return round(sum(outcome.seconds for outcome in outcomes), 1)


def main(options: Options) -> int:
    """Plant, test, print the table, write the data; 1 if a bug survived."""
    console = Console(width=150)
    bugs = chosen(options)
    sound = try_out_nothing(bugs)
    if sound.code != 0:
        console.print("the tests fail without a bug:")
        console.print(sound.last_lines, markup=False)
        return 1
    with ThreadPoolExecutor(options.jobs) as pool:
        watched = partial(track, total=len(bugs), console=console, description="planting")
        outcomes = list(watched(pool.map(try_out, bugs)))
    report(bugs, outcomes, console)
    caught = sum(outcome.caught for outcome in outcomes)
    console.print(f"{caught} of {len(bugs)} bugs caught, {total_seconds(outcomes):.0f} s")
    options.out.write_text(json.dumps(record(bugs, outcomes), indent=2) + "\n")
    return int(caught < len(bugs))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
