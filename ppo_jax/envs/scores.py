"""The returns that environments are solved from, and the highest known."""

from typing import NamedTuple

# Mean return of 100 episodes from which gymnasium's registry calls an environment solved.
SOLVED_AT = {
    "CartPole-v1": 475.0,
    "Acrobot-v1": -100.0,
    "MountainCar-v0": -110.0,
    "CartPoleNoVelocity-v1": 475.0,
}


class Best(NamedTuple):
    """The highest mean return there is in an environment, and how that is known."""

    value: float
    kind: str  # "optimum", "bound" (no policy gets more), or "best known"


# docs/environments.md has the sources.
BEST = {
    "CartPole-v1": Best(500, "optimum"),
    "CartPoleNoVelocity-v1": Best(500, "optimum"),
    "Acrobot-v1": Best(-69.1, "best known"),
    "MountainCar-v0": Best(-100.8, "best known"),
    "MountainCarContinuous-v0": Best(96.7, "best known"),
    "Pendulum-v1": Best(-150, "best known"),
    "Catch-bsuite": Best(1, "optimum"),
    "DeepSea-bsuite": Best(0.99, "optimum"),
    "MemoryChain-bsuite": Best(1, "optimum"),
    "UmbrellaChain-bsuite": Best(1, "optimum"),
    "DiscountingChain-bsuite": Best(1.1, "optimum"),
    "SimpleBandit-bsuite": Best(0.5, "optimum"),
    "MNISTBandit-bsuite": Best(1, "optimum"),
    "FourRooms-misc": Best(1, "optimum"),
    "MetaMaze-misc": Best(324, "bound"),
    "PointRobot-misc": Best(12.8, "bound"),
    "BernoulliBandit-misc": Best(89.4, "optimum"),
    "GaussianBandit-misc": Best(8.3, "bound"),
    "Reacher-misc": Best(98, "bound"),
    "Swimmer-misc": Best(494, "bound"),
    "Pong-misc": Best(1000, "optimum"),
    "FrozenLake-misc": Best(0.7442, "optimum"),
}
