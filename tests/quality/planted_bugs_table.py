"""Bugs that PPO is known for: where, which change makes each, and the test that must fail then."""

import dataclasses

from tests.quality.planted_bugs_changes import Change, argument, first, replace, value


@dataclasses.dataclass(frozen=True)
class Bug:
    """One mistake."""

    name: str
    what: str
    place: str
    change: Change
    test: str
    """What is expected to fail, `test_name[parameters]` wherever it stands, small so that it is
    fast."""


BY_HAND = "test_advantages_on_numbers_by_hand"
EVERY_PATTERN = "test_every_pattern_of_ends_agrees_with_the_definition"
GRADIENTS = "test_losses_and_gradients_are_the_oracles_in_float64"
UPDATE = "test_update_is_the_oracles_in_float64"
PLAYED = "test_an_agents_first_updates_are_the_oracles"
UPDATES = f"{PLAYED}[standard]"
EPOCHS = "test_every_epoch_visits_every_valid_transition_once[19]"
RESETS = "test_no_two_resets_are_the_same"
ACTIONS = "test_actions_are_drawn_from_the_policy_each_by_itself"
RUNNING = "test_episode_return_and_length_restart_after_each_end_and_cross_rollouts"
ORTHOGONAL = "test_orthogonal_kernels_are_orthonormal_times_their_gain[sizes0]"
FIRST_RATIO = "test_every_first_ratio_is_one[('standard', 'mlp', 'clipped', True, 'float32')]"
STATISTICS = f"{PLAYED}[observation statistics]"
REWARDS = f"{PLAYED}[reward statistics]"
RECEIVED = "test_an_environment_receives_actions_within_its_bounds_and_in_their_shape"

RETURNS = (
    Bug(
        "truncation-as-termination",
        "GAE gives a truncated step no value of the state that it led to.",
        "returns:gae.continues",
        replace("terminated", "done"),
        BY_HAND,
    ),
    Bug(
        "trace-crosses-truncations",
        "GAE's sum goes on from a truncated episode into the next one.",
        "returns:gae.decay",
        replace("done", "terminated"),
        BY_HAND,
    ),
    Bug(
        "own-value-for-the-next",
        "The temporal difference looks ahead to the value of the state that it starts from.",
        "returns:gae.deltas",
        replace("next_values", "values"),
        BY_HAND,
    ),
    Bug(
        "no-discount-in-delta",
        "The temporal difference takes the next value undiscounted.",
        "returns:gae.continues",
        replace("discount", "1.0"),
        BY_HAND,
    ),
    Bug(
        "rewards-shifted",
        "Every step gets the reward of the step after it.",
        "returns:gae.deltas",
        replace("rewards", "jnp.roll(rewards, -1, axis=0)"),
        EVERY_PATTERN,
    ),
    Bug(
        "targets-without-values",
        "The critic learns the advantages instead of the returns.",
        "ppo:compute_advantages",
        argument("Minibatch", "target", "advantages"),
        f"{UPDATE}[standard-1]",
    ),
)

ROLLOUTS = (
    Bug(
        "time-limit-as-termination",
        "An episode that the time limit cuts off is reported as terminated.",
        "envs/sources:_from_gymnax.step",
        argument("Step", 2, "OLD | truncated"),
        "test_termination_and_truncation_at_once_are_both_flagged",
    ),
    Bug(
        "bootstrap-from-the-reset",
        "The observation after an episode's last step is that of the reset, and so is its value.",
        "rollout:_step",
        argument(
            "Transition",
            "final_observation",
            "where(timestep.terminated | timestep.truncated, noise.reset[1], OLD)",
        ),
        "test_steps_are_those_of_gymnax",
    ),
    Bug(
        "steps-share-their-noise",
        "The noise of actions is drawn once a rollout, with one key for all its steps.",
        "rollout:_draw",
        argument("_Noise", "action", "jnp.stack([policy.noise(action_key, shape[1:])] * shape[0])"),
        ACTIONS,
    ),
    Bug(
        "steps-share-a-key",
        "A random environment gets the same key in every step of a rollout.",
        "rollout:_draw",
        argument(
            "_Noise",
            "step_key",
            "jnp.broadcast_to(jax.random.split(step_key, shape[1]), shape)",
        ),
        "test_a_random_world_draws_for_every_step_by_itself",
    ),
    Bug(
        "resets-share-a-key",
        "All resets of a rollout have one key, and lead to one state.",
        "rollout:_draw.reset_keys",
        value("jnp.broadcast_to(reset_key, (reset_pool or size,))"),
        RESETS,
    ),
    Bug(
        "updates-share-a-key",
        "Every update draws from the root key as it is, without its own number folded in.",
        "ppo:update",
        replace("jax.random.fold_in(state.key, state.num_updates)", "state.key"),
        RESETS,
    ),
    Bug(
        "rollouts-are-greedy",
        "The rollout takes the most probable action: nothing is explored.",
        "rollout:_act",
        replace("distribution.sample(noise)", "distribution.mode()"),
        ACTIONS,
    ),
    Bug(
        "log-prob-of-another-action",
        "The old log-probability is that of the most probable action, not of the one taken.",
        "ppo:compute_advantages",
        argument("Minibatch", "log_prob", "distribution.log_prob(distribution.mode())"),
        f"{UPDATE}[standard-1]",
    ),
    Bug(
        "return-counts-a-reward-twice",
        "A new episode's return starts with the last reward of the one before.",
        "rollout:_step",
        argument(
            "RolloutState",
            "episode_return",
            "jnp.where(done, timestep.reward, transition.episode_return)",
        ),
        RUNNING,
    ),
    Bug(
        "length-off-by-one",
        "The length of every episode but the first counts the reset as a step.",
        "rollout:_step",
        argument("RolloutState", "episode_length", "jnp.where(done, 1, transition.episode_length)"),
        RUNNING,
    ),
)

LOSSES = (
    Bug(
        "deviation-of-a-sample",
        "Advantages are normalized by the sample's deviation (ddof 1), as torch.std has it.",
        "loss:_advantage",
        replace("jnp.var", "partial(OLD, ddof=1)"),
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "normalized-over-the-batch",
        "Advantages are normalized once over the batch instead of in each minibatch.",
        "ppo:optimize",
        first(
            """
if config.normalize_advantage:
    centered = batch.advantage - jnp.mean(batch.advantage, where=batch.valid)
    deviation = jnp.std(batch.advantage, where=batch.valid)
    batch = batch._replace(advantage=centered / (deviation + 1e-8))
    config = config.replace(normalize_advantage=False)
"""
        ),
        f"{UPDATE}[standard-1]",
    ),
    Bug(
        "ratio-always-1",
        "The old log-probability is that of the new parameters: nothing is ever clipped.",
        "loss:loss.log_ratio",
        replace("batch.log_prob", "jax.lax.stop_gradient(distribution.log_prob(batch.action))"),
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "ratio-inverted",
        "The ratio is that of the old probability to the new one.",
        "loss:loss.log_ratio",
        value("-OLD"),
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "clip-takes-the-larger",
        "The surrogate is the larger of the plain and the clipped one: no bound on the move.",
        "loss:loss.policy_loss",
        replace("jnp.minimum", "jnp.maximum"),
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "clip-range-lopsided",
        "The ratio is clipped at 1 / (1 + ε) from below instead of 1 - ε.",
        "loss:loss.clipped",
        argument("clip", 1, "1 / (1 + config.clip_range)"),
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "policy-loss-ascends",
        "The policy loss lacks its minus sign: actions better than expected become rarer.",
        "loss:loss.policy_loss",
        value("-OLD"),
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "advantage-sign-flipped",
        "The advantage is what the critic expected minus what was got.",
        "loss:_advantage",
        argument("stop_gradient", 0, "-OLD"),
        f"{GRADIENTS}[notebook]",
    ),
    Bug(
        "advantage-not-detached",
        "The policy's gradient flows through the advantage into the critic.",
        "loss:_advantage",
        replace("jax.lax.stop_gradient", "jnp.asarray"),
        f"{GRADIENTS}[notebook]",
    ),
    Bug(
        "value-loss-without-half",
        "The value loss is the whole square: twice its weight.",
        "loss:_half_square",
        replace("0.5", "1.0"),
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "value-coefficient-twice",
        "The value loss is weighed once more where the losses are added.",
        "loss:loss.total",
        replace("value_loss", "config.value_coefficient * OLD"),
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "value-clip-takes-the-smaller",
        "The value loss is the smaller of the plain and the clipped square.",
        "loss:_half_square",
        replace("jnp.maximum", "jnp.minimum"),
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "entropy-sign",
        "Entropy is punished instead of rewarded.",
        "loss:loss.total",
        replace("entropy", "-OLD"),
        f"{GRADIENTS}[standard]",
    ),
    Bug(
        "entropy-ignored",
        "The entropy bonus is computed and left out of the loss.",
        "loss:loss.total",
        replace("entropy", "0.0"),
        f"{GRADIENTS}[standard]",
    ),
)

EPOCHS_AND_OPTIMIZERS = (
    Bug(
        "shuffle-with-replacement",
        "An epoch draws transitions with replacement: some come twice, a third never.",
        "ppo:epoch_orders",
        replace(
            "shuffle.permute(key, positions, num_valid)",
            "jax.random.randint(key, (capacity,), 0, num_valid)",
        ),
        EPOCHS,
    ),
    Bug(
        "epochs-share-a-key",
        "All epochs of an update visit the transitions in the same order.",
        "ppo:epoch_orders",
        replace("jax.random.split(key, num_epochs)", "jnp.broadcast_to(key, (num_epochs,))"),
        EPOCHS,
    ),
    Bug(
        "updates-share-their-orders",
        "The orders come from the agent's root key: every update shuffles alike.",
        "ppo:update",
        argument("optimize", 0, "state.key"),
        UPDATES,
    ),
    Bug(
        "last-minibatch-dropped",
        "The last rows of an epoch, too few for a whole minibatch, are never learned from.",
        "ppo:optimize.num_minibatches",
        value("num_valid // size"),
        f"{UPDATE}[notebook-1]",
    ),
    Bug(
        "annealed-by-gradient-steps",
        "Annealing counts gradient steps where the run's length is in updates.",
        "ppo:update",
        argument("optimize", 4, 'optax.tree.get(state.optimizer_state, "count")'),
        UPDATES,
    ),
    Bug(
        "annealed-too-early",
        "The learning rate is 0 already in the last update, which learns nothing.",
        "optimizer:learning_rate_scale",
        replace(
            "jnp.asarray(num_updates, float) / config.num_updates",
            "jnp.asarray(num_updates, float) / (config.num_updates - 1)",
        ),
        "test_learning_rate_falls_linearly_to_zero_over_the_run",
    ),
    Bug(
        "norms-clipped-apart",
        "Each network's gradient is clipped by itself where the joint norm was asked for.",
        "optimizer:_factors",
        replace("[jnp.hypot(*own)] * 2", "own"),
        f"{UPDATE}[standard-1]",
    ),
    Bug(
        "clipped-entry-by-entry",
        "Gradients are clipped entry by entry, which bends their direction.",
        "optimizer:make.clip",
        replace(
            "gradient * factor",
            "jnp.clip(gradient, -config.max_grad_norm, config.max_grad_norm)",
        ),
        f"{UPDATE}[standard-1]",
    ),
    Bug(
        "epsilon-in-the-root",
        "Adam's ε is added inside the square root.",
        "optimizer:make.adam",
        value("optax.scale_by_adam(b1=0.9, b2=0.999, eps=0.0, eps_root=config.adam_epsilon)"),
        f"{UPDATE}[standard-1]",
    ),
    Bug(
        "default-epsilon",
        "Adam keeps its default ε, 1e-8, whatever the configuration says.",
        "optimizer:make",
        argument("scale_by_adam", "eps", "1e-8"),
        f"{UPDATE}[standard-1]",
    ),
    Bug(
        "no-bias-correction",
        "Adam uses its moments as they are: the first steps are too large.",
        "optimizer:make.adam",
        value(
            """OLD._replace(
                update=lambda gradients, state, _=None: (
                    jax.tree.map(
                        lambda mean, square: mean / (jnp.sqrt(square) + config.adam_epsilon),
                        (state := OLD.update(gradients, state)[1]).mu,
                        state.nu,
                    ),
                    state,
                )
            )"""
        ),
        f"{UPDATE}[standard-1]",
    ),
)

AGENTS = (
    Bug(
        "gain-of-the-policy-head",
        "The policy head starts with gain 1 instead of 0.01: far from uniform.",
        "network:init_built_in",
        replace("0.01", "1.0"),
        ORTHOGONAL,
    ),
    Bug(
        "biases-not-zero",
        "Orthogonal initialization leaves the biases at a constant.",
        "network:_init_orthogonal",
        replace("jnp.zeros(kernel.shape[1])", "jnp.full(kernel.shape[1], 0.1)"),
        ORTHOGONAL,
    ),
    Bug(
        "networks-share-a-key",
        "Actor and critic are initialized from one key, with the same hidden layers.",
        "network:init_built_in",
        replace("jax.random.split(key)", "(key, key)"),
        "test_no_two_initial_numbers_are_correlated[orthogonal]",
    ),
    Bug(
        "agents-share-a-key",
        "All agents of a batch have the seed's own key: one agent, many times.",
        "population:agent_keys",
        replace("jnp.arange(num_seeds, dtype=jnp.uint32)", "0 * OLD"),
        "test_agent_i_has_the_key_of_seed_plus_i_whatever_their_number",
    ),
    Bug(
        "frozen-agent-goes-on",
        "An agent that diverged takes the update that made it NaN.",
        "population:run.step",
        replace(
            "rollout.where(all_finite, (attempted, row), (states, none))",
            "(attempted, rollout.where(all_finite, row, none))",
        ),
        "test_an_agent_that_cannot_go_on_keeps_its_state_and_the_others_theirs[rate of 1e38]",
    ),
    Bug(
        "variance-explained-of-the-values",
        "Explained variance is measured against the variance of the values, not of the returns.",
        "ppo:_summarize",
        replace("jnp.var(steps.target, where=valid)", "jnp.var(steps.value, where=valid)"),
        UPDATES,
    ),
    Bug(
        "evaluation-samples",
        "Greedy evaluation samples its actions.",
        "evaluate:evaluate.step",
        replace(
            "distribution.mode()",
            "distribution.sample(own_policy.noise(own_key, (num_episodes,)))",
        ),
        "test_evaluation_is_a_greedy_loop_over_gymnax",
    ),
)

DOORS = (
    Bug(
        "statistics-merged-before-the-optimization",
        "The gradient steps see observations by statistics that the policy did not act with.",
        "ppo:update",
        argument(
            "optimize",
            1,
            """OLD._replace(
                statistics=normalize.merge(
                    OLD.statistics, transitions.observation, transitions.valid
                )
            )""",
        ),
        FIRST_RATIO,
    ),
    Bug(
        "statistics-of-the-next-observations",
        "The statistics are of where the steps led, not of what was acted on.",
        "ppo:update",
        argument(
            "merge",
            1,
            """jax.tree.map(
                lambda seen, last: jnp.concatenate([seen[1:], last[None]]),
                OLD,
                rollout_state.observation,
            )""",
        ),
        STATISTICS,
    ),
    Bug(
        "statistics-without-the-means-move",
        "Merged, the squared deviations lack that of the two means.",
        "normalize:_merge",
        replace("jnp.square(delta)", "0 * OLD"),
        STATISTICS,
    ),
    Bug(
        "reward-mean-subtracted",
        "Rewards are centered as observations are: a constant reward becomes none.",
        "normalize:scale_rewards.scaled",
        replace("rewards", "(rewards - mean)"),
        REWARDS,
    ),
    Bug(
        "discounted-return-crosses-episodes",
        "The discounted return of which the deviation is taken goes on past an episode's end.",
        "normalize:scale_rewards",
        replace(
            "jnp.where(fresh, 0, jnp.where(valid, discount, 1.0))",
            "jnp.where(valid, discount, 1.0)",
        ),
        REWARDS,
    ),
    Bug(
        "log-prob-of-the-clipped-action",
        "The old log-probability is that of what the environment received, not of what was drawn.",
        "ppo:compute_advantages",
        argument(
            "Minibatch",
            "log_prob",
            "distribution.log_prob(policy.env_action(transitions.action))",
        ),
        FIRST_RATIO,
    ),
    Bug(
        "clipped-action-stored",
        "The transition holds what the environment received: not what the density is of.",
        "rollout:_step",
        argument("Transition", "action", "policy.env_action(OLD)"),
        f"{RECEIVED}[False]",
    ),
    Bug(
        "log-slope-averaged",
        "A squashed action's log-determinant is the mean over its entries, not their sum.",
        "distributions:TanhNormal._log_slope",
        replace("fast.sum_entries", "(lambda entries: jnp.mean(entries, axis=-1))"),
        f"{GRADIENTS}[squashed]",
    ),
    Bug(
        "squashed-onto-the-unit-box",
        "Squashed actions are in ±1, whatever the bounds.",
        "actions:_box_actions.env_action",
        replace("lows + (highs - lows) * (jnp.tanh(action) + 1) / 2", "jnp.tanh(action)"),
        f"{RECEIVED}[True]",
    ),
    Bug(
        "stop-that-does-not-last",
        "A minibatch beyond target_kl is left out, and those after it are learned from again.",
        "ppo:optimize.step.stopped",
        replace("carry.stopped", "False"),
        "test_the_first_minibatch_that_went_too_far_ends_the_update[standard]",
    ),
    Bug(
        "terminating-limit-bootstrapped",
        "A time limit that is part of the task still counts the value of what would follow.",
        "envs/wrappers:terminating.step",
        argument("_replace", "terminated", "found.terminated"),
        "test_the_library_counts_for_environments_that_do_not[True-terminate-None]",
    ),
)

MEMORY = (
    Bug(
        "memory-crosses-episodes",
        "The recurrent unit does not forget where an episode begins.",
        "network:Recurrent.__call__",
        replace("jnp.where(start[:, None], 0, memory)", "memory"),
        "test_an_episode_begins_with_initial_memory[gru]",
    ),
    Bug(
        "gradient-stops-at-a-step",
        "The way back through a network with memory is cut between steps.",
        "recurrence:_pull",
        replace("jax.tree.map(jnp.add, own, later)", "own"),
        "test_it_equals_a_scan_of_the_step[inner-7-True]",
    ),
    Bug(
        "truncation-without-memory",
        "The value after a truncation is that of an agent that remembers nothing.",
        "rollout:next_values",
        replace(
            "policy.apply(params, transitions.final_observation, memories)",
            "policy.apply(params, transitions.final_observation,"
            " jax.tree.map(jnp.zeros_like, memories))",
        ),
        "test_a_truncation_goes_on_with_the_value_of_what_memory_has_seen",
    ),
    Bug(
        "memory-of-other-environments",
        "A minibatch's sequences begin with the memories of the first environments.",
        "ppo:_minibatches.environments_at.memory",
        replace("leaf[chosen]", "leaf[: len(chosen)]"),
        "test_a_recurrent_agents_updates_are_the_oracles[gru]",
    ),
    Bug(
        "child-keeps-its-memory",
        "A child of a generation goes on with the memory of the policy that it had.",
        "pbt:evolve",
        replace("states.rollout.start | is_child", "states.rollout.start"),
        "test_a_child_begins_with_initial_memory_in_its_own_environments",
    ),
    Bug(
        "noise-crosses-episodes",
        "Correlated noise goes on from one episode into the next.",
        "rollout:_act.noise",
        value("correlated"),
        "test_the_correlation_is_the_one_asked_for_within_an_episode_and_none_across[0.7]",
    ),
)

BUGS = RETURNS + ROLLOUTS + LOSSES + EPOCHS_AND_OPTIMIZERS + AGENTS + DOORS + MEMORY
