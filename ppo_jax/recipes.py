"""The named recipes: what each changes of `Config`'s defaults. Needs neither jax nor gymnax."""

from typing import Any

from ppo_jax.config import Config, override

# The original algorithm, one episode an update (docs/recipes.md has the corrections).
_NOTEBOOK: dict[str, Any] = {
    "num_envs": 1,
    "num_steps": None,
    "min_transitions": 32,
    "total_timesteps": None,
    "num_updates": 1000,
    "num_epochs": 10,
    "num_minibatches": None,
    "minibatch_size": 32,
    "learning_rate": 1e-3,
    "critic_learning_rate": 3e-3,
    "anneal_learning_rate": False,
    "adam_epsilon": 1e-8,
    "joint_grad_norm": False,
    "discount": 0.99,
    "gae_lambda": 1.0,
    "value_coefficient": 2.0,
    "normalize_advantage": False,
    "recompute_advantage": True,
    "hidden_sizes": (100,),
    "activation": "relu",
    "initialization": "uniform",
}

# The field's common CartPole configuration (CleanRL, PureJaxRL).
_STANDARD: dict[str, Any] = {
    "num_envs": 4,
    "num_steps": 128,
    "total_timesteps": 500_000,
    "num_epochs": 4,
    "num_minibatches": 4,
    "learning_rate": 2.5e-4,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "hidden_sizes": (64, 64),
    "clip_value": True,
    "entropy_coefficient": 0.01,
}

# `fast` for an environment that has no row of its own: a common setting for unknown scales.
_GENERAL: dict[str, Any] = {
    "num_envs": 16,
    "num_steps": 128,
    "total_timesteps": 1_000_000,
    "num_epochs": 4,
    "num_minibatches": 8,
    "learning_rate": 1e-3,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "entropy_coefficient": 0.01,
    "hidden_sizes": (64, 64),
    "normalize_observation": True,
}

# What those of other packages share, which have no row either: their resets may cost far more than
# their steps.
_OF_A_SUITE: dict[str, Any] = {**_GENERAL, "reset_pool": 64}

# What the MinAtar games share.
_MINATAR: dict[str, Any] = {
    "num_envs": 64,
    "num_steps": 32,
    "total_timesteps": 2_000_000,
    "num_epochs": 4,
    "num_minibatches": 8,
    "learning_rate": 5e-3,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "entropy_coefficient": 0.01,
    "hidden_sizes": (64, 64),
    "activation": "relu",
}

# `fast` by environment; CartPole's row are the defaults of `Config`.
FAST: dict[str, dict[str, Any]] = {
    "CartPole-v1": {},
    "CartPoleNoVelocity-v1": {
        "num_envs": 16,
        "num_steps": 32,
        "num_epochs": 8,
        "num_minibatches": 8,
        "learning_rate": 5e-3,  # 3e-3 is too slow
        "gae_lambda": 0.95,
        "normalize_observation": True,  # angles are small
        "normalize_reward": True,  # without it fewer seeds get there
        "network": "gru",
        "hidden_sizes": (32,),
        "memory_size": 32,
    },
    "Acrobot-v1": {
        "learning_rate": 5e-3,
        "discount": 0.99,
        "gae_lambda": 0.95,
    },
    "MountainCar-v0": {
        "num_envs": 16,
        "num_steps": 128,  # with 16, one minibatch, it stays at -124 or worse
        "total_timesteps": 1_000_000,
        "num_minibatches": 8,
        "learning_rate": 2e-2,  # 1e-3 ends at -118
        "discount": 0.997,
        "entropy_coefficient": 0.05,
        "normalize_observation": True,
        "normalize_reward": True,
    },
    "MountainCarContinuous-v0": {
        "num_steps": 128,
        "learning_rate": 1e-3,
        "discount": 0.99,
        "gae_lambda": 0.95,
        "normalize_observation": True,
        "normalize_reward": True,
        "noise_correlation": 0.9,  # without it a seed of four ended at -37
    },
    "Pendulum-v1": {
        "num_envs": 16,
        "total_timesteps": 150_000,
        "num_epochs": 10,
        "num_minibatches": 8,
        "learning_rate": 7e-4,
        "joint_grad_norm": False,
        "discount": 0.96,
        "gae_lambda": 0.95,
        "normalize_observation": True,
        "normalize_reward": True,  # an untrained episode costs over 1000
        "hidden_sizes": (64, 64),
        "activation": "relu",  # tanh ends between -180 and -250
    },
    "Asterix-MinAtar": {**_MINATAR, "learning_rate": 1.5e-3},
    "Breakout-MinAtar": _MINATAR,
    "Freeway-MinAtar": {**_MINATAR, "learning_rate": 1.5e-3},
    "Seaquest-MinAtar": {**_MINATAR, "learning_rate": 2.5e-3},  # 1.5e-3 and 5e-3 tied at 800k
    "SpaceInvaders-MinAtar": _MINATAR,
    "Catch-bsuite": {
        "num_envs": 16,
        "num_steps": 32,
        "total_timesteps": 50_000,
        "learning_rate": 5e-3,
        "entropy_coefficient": 0.01,
    },
    "DeepSea-bsuite": {
        # 512 episodes an update: random actions reach the reward once in 256.
        "num_envs": 128,
        "num_steps": 32,
        "total_timesteps": 200_000,
        "learning_rate": 3e-3,
        "entropy_coefficient": 0.05,
    },
    "MemoryChain-bsuite": {
        "num_envs": 64,
        "num_steps": 6,  # one episode
        "total_timesteps": 30_000,
        "num_minibatches": 2,
        "learning_rate": 5e-3,
        "network": "gru",
        "hidden_sizes": (32,),
        "memory_size": 32,
    },
    "UmbrellaChain-bsuite": {
        "num_envs": 64,
        "num_steps": 20,  # two episodes
        "learning_rate": 3e-3,
        "entropy_coefficient": 0.01,
    },
    "DiscountingChain-bsuite": {
        "time_limit": "terminate",  # the clock is observed
        "num_envs": 16,
        "num_steps": 100,  # one episode
        "learning_rate": 5e-3,
        "entropy_coefficient": 0.1,  # with 0.01 one seed of 32 never finds the best first action
    },
    "SimpleBandit-bsuite": {
        "total_timesteps": 5_120,  # every policy gets 0.5
    },
    "FourRooms-misc": {
        "num_envs": 16,
        "total_timesteps": 200_000,
        "learning_rate": 3e-3,
        "discount": 0.98,
        "gae_lambda": 0.95,
        "entropy_coefficient": 0.01,
    },
    "MetaMaze-misc": {
        "time_limit": "terminate",  # the clock is observed
        "num_envs": 16,
        "num_steps": 200,  # one episode
        "total_timesteps": 600_000,
        "learning_rate": 2e-3,
        "discount": 0.985,
        "gae_lambda": 0.95,
        "entropy_coefficient": 0.01,  # 0.03 gets 52.1
        "normalize_observation": True,
        "normalize_reward": True,
        "network": "gru",
        "hidden_sizes": (32,),
        "memory_size": 32,
    },
    "PointRobot-misc": {
        "time_limit": "terminate",  # the clock is observed
        "num_envs": 32,
        "num_steps": 100,  # one episode: the gradient runs from the search to the last goal
        "total_timesteps": 1_000_000,
        "num_minibatches": 8,
        "learning_rate": 2e-3,
        "discount": 0.985,
        "gae_lambda": 0.95,
        "normalize_observation": True,
        "network": "gru",
        "hidden_sizes": (32,),
        "memory_size": 32,
        "squash_action": True,  # the bounds are ±0.1, and sigma 1 clipped to them is bang-bang
    },
    "BernoulliBandit-misc": {
        "time_limit": "terminate",  # the clock is observed
        "num_envs": 64,
        "num_steps": 25,  # a quarter of an episode: the memory is carried on, its gradient is not
        "total_timesteps": 300_000,
        "num_epochs": 6,
        "num_minibatches": 1,
        "learning_rate": 5e-3,
        "discount": 0.95,
        "gae_lambda": 0.9,
        "entropy_coefficient": 0.05,  # at 0, in other runs, some agents kept to one arm
        "network": "gru",
        "hidden_sizes": (32,),
        "memory_size": 32,
    },
    "GaussianBandit-misc": {
        "time_limit": "terminate",  # the clock is observed
        "num_envs": 64,
        "num_steps": 25,  # a quarter of an episode: the memory is carried on, its gradient is not
        "total_timesteps": 400_000,
        "num_epochs": 6,
        "num_minibatches": 1,
        "learning_rate": 5e-3,
        "joint_grad_norm": False,
        "discount": 0.99,
        "gae_lambda": 0.95,
        "entropy_coefficient": 0.03,
        "normalize_reward": True,  # a good arm's return reaches 200
        "network": "gru",  # without memory the first step, to try the arm at, can hardly be told
        "hidden_sizes": (32,),
        "memory_size": 32,
    },
    "Reacher-misc": {
        "num_envs": 16,
        "num_steps": 128,
        "total_timesteps": 1_000_000,
        "num_epochs": 10,
        "num_minibatches": 8,
        "learning_rate": 1e-3,  # 5e-4 is as good, 2e-3 worse
        "joint_grad_norm": False,
        "gae_lambda": 0.95,
        "normalize_observation": True,
        "normalize_reward": True,
        "hidden_sizes": (64, 64),
        "activation": "relu",
        "log_std_init": -0.5,
    },
    "Swimmer-misc": {
        "num_envs": 64,
        "total_timesteps": 1_000_000,
        "num_minibatches": 8,
        "learning_rate": 3e-3,
        "gae_lambda": 0.95,
        "normalize_reward": True,
        "log_std_init": -1.0,  # from 0, with observation statistics, it drifts away: 40
    },
    "Pong-misc": {
        "num_envs": 16,
        "num_steps": 128,
        "total_timesteps": 300_000,
        "num_epochs": 2,
        "gae_lambda": 0.95,
        "entropy_coefficient": 0.01,
        "hidden_sizes": (16,),  # the observation has 3,600 numbers: the first layer is the cost
    },
    "FrozenLake-misc": {
        "time_limit": "terminate",  # the limit of 100 steps is the task's
        "num_envs": 32,
        "num_steps": 128,
        "total_timesteps": 1_000_000,
        "num_minibatches": 8,
        "learning_rate": 2.5e-3,
        "discount": 1.0,  # with 0.995 some seeds end below 0.73
        "gae_lambda": 0.95,
        "entropy_coefficient": 0.02,
    },
    "brax::inverted_pendulum": {**_OF_A_SUITE, "total_timesteps": 200_000},
    "craftax::Craftax-Classic-Symbolic-v1": {
        "num_envs": 32,
        "num_steps": 64,
        "total_timesteps": 500_000,
        "num_epochs": 4,
        "num_minibatches": 8,
        "learning_rate": 1e-3,
        "discount": 0.99,
        "gae_lambda": 0.9,
        "entropy_coefficient": 0.01,
        "hidden_sizes": (64, 64),
        "reset_pool": 16,  # a new world costs six steps and more
    },
    "jumanji::Game2048-v1": {
        **_OF_A_SUITE,
        "max_episode_steps": 1000,
        "discount": 0.997,
        "normalize_reward": True,  # a merge pays up to thousands
        "hidden_sizes": (128, 128),
    },
    "navix::Navix-Empty-5x5-v0": {**_OF_A_SUITE, "total_timesteps": 100_000},
}

RECIPES = ("notebook", "standard", "fast")


def row(name: str, env: Any = "CartPole-v1") -> dict[str, Any]:
    """What a recipe changes of `Config`'s defaults.

    Args:
        name: One of `RECIPES`.
        env: For `fast`, the environment's name; an object, or an unknown name, has the general row.
    """
    if name == "fast":
        named = env if isinstance(env, str) else ""
        general = _OF_A_SUITE if "::" in named else _GENERAL
        return {**FAST.get(named, general), "env": env}
    return {"notebook": _NOTEBOOK, "standard": _STANDARD}[name]


def recipe(name: str = "fast", **overrides: Any) -> Config:
    """The named recipe as a `Config`, with any field overridden by name, and checked.

    Args:
        name: `notebook` is the original teaching algorithm, `standard` the field's common CartPole
            configuration, `fast` is tuned for each environment.
        overrides: Fields of `Config`, `env` among them.

    Raises:
        ValueError: For an unknown recipe or field, or a value out of range.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} is unknown; choose {', '.join(RECIPES)}")
    return override(Config(**row(name, overrides.get("env", "CartPole-v1"))), **overrides)
