"""Sizes that compile soon, and one change of every hyperparameter."""

# Adam's large ε keeps rounding errors small where the gradient is: agents alone and in a batch
# differ by little more than float32 does.
TINY = {
    "num_updates": 4,
    "num_epochs": 2,
    "hidden_sizes": (8,),
    "learning_rate": 1e-2,
    "critic_learning_rate": 1e-2,
    "adam_epsilon": 1e-2,
    "env_params": {"force_mag": 10.0},
}
FIXED = {"num_envs": 2, "num_steps": 8, "num_minibatches": 2}
WHOLE = {"min_transitions": 12, "max_episode_steps": 16, "minibatch_size": 8}
# One change of every hyperparameter, large enough to be felt within two updates.
HYPERPARAMETERS = {
    "learning_rate": 2e-2,
    "critic_learning_rate": 2e-2,
    "adam_epsilon": 1.0,
    "max_grad_norm": 1e-2,
    "discount": 0.5,
    "gae_lambda": 0.5,
    "clip_range": 1e-4,
    "value_coefficient": 0.01,
    "entropy_coefficient": 1.0,
    "env_params": {"force_mag": 5.0},
}
SETTINGS = ("base", *HYPERPARAMETERS)


def configured(config, setting):
    if setting == "base":
        return config
    return config.replace(**{setting: HYPERPARAMETERS[setting]})
