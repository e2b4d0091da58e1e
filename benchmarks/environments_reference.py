"""What `benchmarks.environments` measures: environments, aims, known optima, published results."""

import dataclasses
from typing import Any

from ppo_jax.env import BEST

# Where published results come from, by the name that the table gives them.
SOURCES = {
    "zoo": "rl-baselines3-zoo, `benchmark.md`: one run each, greedy, ± over episodes of gymnasium's"
    " environment",
    "blines": "gymnax-blines, `docs/lcurves.png`: one seed, read off the figure (± 5 %), gymnax"
    " 0.0.x",
    "gymnax": "gymnax's README of 0.0.x: one agent each, environment steps not given",
    "pgx": "pgx, its PPO curves: exact MinAtar without the limit of 1,000 steps, read off the"
    " figure",
    "cleanrl": "CleanRL, `docs/rl-algorithms/ppo.md`: 3 seeds, ± over seeds, sampled",
    "purejaxrl": "PureJaxRL, `examples/brax_minatar.ipynb`: read off the figure (± 5 %), gymnax"
    " 0.0.x",
}


@dataclasses.dataclass(frozen=True)
class Peer:
    """A published result."""

    who: str
    value: str
    """As it was published, with its spread."""
    steps: int | None
    """Environment steps (none: not published)."""
    source: str
    """A name in SOURCES."""


@dataclasses.dataclass(frozen=True)
class Best:
    """What there is to reach, how that is known, and whence."""

    value: float
    kind: str
    """"optimum", "bound" (no policy gets more), or "best known"."""
    source: str


def _best(name: str, source: str) -> Best:
    """What the package knows of the environment."""
    return Best(*BEST[name], source)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: the recipe `fast` of an environment, trained with many seeds."""

    env: str
    variant: str = ""
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of the recipe to change; without a budget here it is the recipe's own."""
    seeds: int = 32
    episodes: int = 128
    """Episodes of a seed's evaluation, greedy and sampled each."""
    aim: float | None = None
    """Greedy return that the interquartile mean over seeds should reach."""
    at_most: bool = False
    """Whether the aim is an upper bound: a control that must not learn."""
    solved_at: float | None = None
    """Greedy return from which a seed counts as solved (none: the aim)."""
    fraction: float = 0.0
    """Fraction of the seeds that should be solved."""
    slack: float = 1e-4
    """What a return may lack of the aim: rounding, or the standard errors of an evaluation."""
    best: Best | None = None
    peers: tuple[Peer, ...] = ()
    """The best first."""
    note: str = ""
    tried: str = ""
    """What was tried, where the aim is missed."""
    impossible: str = ""
    """Why it is not measured."""

    @property
    def name(self) -> str:
        """The row's name, and that of its run's folder."""
        return "-".join(filter(None, (self.env, self.variant)))

    @property
    def suite(self) -> str:
        """The suite of another package that it comes from; "" for gymnax."""
        return self.env.partition("::")[0] if "::" in self.env else ""


def _steps(number: int, **others: Any) -> dict[str, Any]:
    return {"total_timesteps": number, **others}


# An agent with memory could pass what it must remember through its own actions: the controls
# do not see them.
_WITHOUT_MEMORY = {"network": "mlp", "previous_action": False, "previous_reward": False}
_DQN = Peer("DQN", "-100.8 ± 9.9", 120_000, "zoo")
_QR_DQN = Peer("QR-DQN", "-69.1 ± 10.0", 100_000, "zoo")
_MOUNTAIN_CAR = _best("MountainCar-v0", "DQN, zoo")
_ACROBOT = _best("Acrobot-v1", "QR-DQN, zoo")
_POLE = _best("CartPole-v1", "reward 1 a step, 500 steps")

CLASSIC = (
    Row(
        "CartPole-v1",
        overrides=_steps(100_000),
        aim=500,
        best=_POLE,
        peers=(Peer("PPO", "500.0 ± 0", 100_000, "zoo"),),
    ),
    Row(
        "CartPoleNoVelocity-v1",
        overrides=_steps(100_000),
        aim=500,
        best=_POLE,
        peers=(Peer("RecurrentPPO", "500.0 ± 0", 100_000, "zoo"),),
        note="this library's own: CartPole without its two velocities",
    ),
    Row(
        "CartPoleNoVelocity-v1",
        "mlp",
        overrides=_steps(100_000, **_WITHOUT_MEMORY),
        aim=475,
        at_most=True,
        best=Best(500, "bound", "reward 1 a step, 500 steps"),
        note="the control: without memory it is not solved",
    ),
    Row(
        "Acrobot-v1",
        overrides=_steps(1_000_000, num_envs=16, num_steps=128, num_minibatches=8),
        aim=-75,
        tried="12 settings of rate, discount and entropy with 4 seeds each; this is the best.",
        best=_ACROBOT,
        peers=(Peer("PPO", "-73.5 ± 18.2", 1_000_000, "zoo"), _QR_DQN),
    ),
    Row(
        "Acrobot-v1",
        "100k",
        overrides=_steps(100_000),
        aim=-85,
        best=_ACROBOT,
        peers=(_QR_DQN, Peer("TRPO", "-83.1 ± 18.6", 100_000, "zoo")),
    ),
    Row(
        "MountainCar-v0",
        overrides=_steps(1_000_000),
        aim=-107,
        solved_at=-110,
        fraction=0.95,
        best=_MOUNTAIN_CAR,
        peers=(
            _DQN,
            Peer("TRPO", "-107.3 ± 13.2", 100_000, "zoo"),
            Peer("PPO", "-110.4 ± 19.5", 1_000_000, "zoo"),
        ),
    ),
    Row(
        "MountainCar-v0",
        "250k",
        overrides=_steps(250_000),
        solved_at=-110,
        best=_MOUNTAIN_CAR,
        peers=(_DQN, Peer("PPO", "-118", 250_000, "blines")),
        note="no aim: the fraction of seeds that is solved by then",
    ),
    Row(
        "MountainCarContinuous-v0",
        overrides=_steps(100_000),
        aim=92,
        best=_best("MountainCarContinuous-v0", "ARS, zoo"),
        peers=(
            Peer("SAC", "94.7 ± 1.1", 50_000, "zoo"),
            Peer("TRPO", "92.5 ± 0.4", 50_000, "zoo"),
            Peer("PPO", "88.3 ± 2.6", 20_000, "zoo"),
        ),
        note="gymnax stops the car at the right wall, gymnasium at the left one: the published"
        " results are of a slightly different environment",
    ),
    Row(
        "Pendulum-v1",
        overrides=_steps(150_000),
        aim=-160,
        best=_best("Pendulum-v1", "TD3 -151.9 and DDPG -152.1, zoo"),
        peers=(
            Peer("TD3", "-151.9 ± 90.2", 20_000, "zoo"),
            Peer("PPO", "-172.2 ± 104.2", 100_000, "zoo"),
        ),
    ),
)


def _minatar(name: str, *peers: Peer, episodes: int = 32, **others: Any) -> Row:
    budget = _steps(2_000_000)
    return Row(
        f"{name}-MinAtar",
        **{"overrides": budget, "seeds": 8, "episodes": episodes, "peers": peers, **others},
    )


def _blines(value: str) -> Peer:
    return Peer("PPO", value, 10_000_000, "blines")


def _pgx(value: str) -> Peer:
    return Peer("PPO", value, 20_000_000, "pgx")


_BREAKOUT = (
    _pgx("50"),
    Peer("PPO", "40 ± 15", 10_000_000, "purejaxrl"),
    _blines("23 to 43"),
)

MINATAR = (
    _minatar("Asterix", _pgx("22 to 25"), _blines("15 to 18")),
    _minatar("Breakout", *_BREAKOUT),
    _minatar(
        "Breakout",
        *_BREAKOUT,
        variant="10M",
        overrides=_steps(10_000_000),
        seeds=2,
        aim=45,
        note="an interval over two seeds says little",
    ),
    _minatar("Freeway", _pgx("63.5"), _blines("57 to 59")),
    _minatar("Seaquest", _pgx("54"), note="new in gymnax 1.0"),
    _minatar(
        "SpaceInvaders",
        _pgx("145 to 153"),
        _blines("128 to 132"),
        note="gymnax 1.0.1 mended the game: numbers of 0.0.x are of another one",
    ),
)

BSUITE = (
    Row(
        "Catch-bsuite",
        aim=1,
        best=_best("Catch-bsuite", "every ball caught"),
        peers=(Peer("PPO", "1", 100_000, "blines"),),
    ),
    Row(
        "DeepSea-bsuite",
        overrides=_steps(500_000),
        aim=0.99,
        fraction=0.9,
        best=_best("DeepSea-bsuite", "1 for the treasure, less 0.01 of moves"),
        peers=(Peer("PPO", "0", 150_000, "blines"),),
        note="size 8",
    ),
    Row(
        "MemoryChain-bsuite",
        aim=1,
        best=_best("MemoryChain-bsuite", "the right answer always"),
        peers=(Peer("PPO without memory", "0.1", 150_000, "blines"),),
    ),
    Row(
        "MemoryChain-bsuite",
        "mlp",
        overrides=_WITHOUT_MEMORY,
        episodes=1000,
        aim=0.1,
        at_most=True,
        best=Best(0, "optimum", "chance, without memory"),
        peers=(Peer("PPO without memory", "0.1", 150_000, "blines"),),
        note="the control: nothing may leak, 0 is chance, and 0.1 are three standard errors of a"
        " seed's 1,000 episodes",
    ),
    Row(
        "UmbrellaChain-bsuite",
        episodes=10_000,
        aim=1,
        slack=0.09,
        best=_best("UmbrellaChain-bsuite", "the right choice always"),
        peers=(Peer("PPO", "1", 150_000, "blines"),),
        note="the return has a standard deviation of 3 of pure noise: reached is what lies within"
        " 0.09, three standard errors of a seed's 10,000 episodes",
    ),
    Row(
        "DiscountingChain-bsuite",
        aim=1.1,
        best=_best("DiscountingChain-bsuite", "the best of five chains"),
        peers=(Peer("PPO", "1.1", 150_000, "blines"),),
        note="mapping_seed 0, the default",
    ),
    Row(
        "SimpleBandit-bsuite",
        overrides=_steps(100_000),
        episodes=1000,
        best=_best("SimpleBandit-bsuite", "every policy's return"),
        note="cannot be learned: it pays every policy 0.5",
    ),
    Row(
        "MNISTBandit-bsuite",
        best=_best("MNISTBandit-bsuite", "every digit recognized"),
        impossible="cannot be made offline: gymnax downloads the digits when it makes it",
    ),
)


def _evolved(value: str) -> tuple[Peer, ...]:
    return (Peer("evolution strategies", value, None, "gymnax"),)


MISC = (
    Row(
        "FourRooms-misc",
        aim=1,
        best=_best("FourRooms-misc", "the goal in every episode"),
        peers=(Peer("PPO", "1", 200_000, "blines"),),
        note="published for the walls as an image",
    ),
    Row(
        "MetaMaze-misc",
        aim=100,
        tried="Rollouts of 50 and 200 steps, entropy 0.003 to 0.03, two rates, 600,000 to 1,000,000"
        " steps: 52 to 67 a seed. Larger memories were not tried.",
        best=_best("MetaMaze-misc", "computed for a policy that knows the maze and the goal"),
        peers=_evolved("32"),
    ),
    Row(
        "PointRobot-misc",
        aim=10,
        tried="Rollouts of 25, 50 and 100 steps, correlated noise, σ from e⁻¹, discounts 0.95 to"
        " 0.985, two rates, 2 to 4 seeds each; squashing with whole episodes was best. Normalized"
        " rewards and larger memories were not tried.",
        best=_best("PointRobot-misc", "computed for a policy that knows the hidden goal"),
        peers=_evolved("10"),
    ),
    Row(
        "BernoulliBandit-misc",
        episodes=1000,
        aim=88,
        best=_best("BernoulliBandit-misc", "computed for the Bayes-optimal policy"),
        peers=_evolved("90"),
    ),
    Row(
        "GaussianBandit-misc",
        episodes=1000,
        aim=7,
        tried="Without memory, 0 in every setting. With it, 7.15 with 16 other seeds; 4 never"
        " try the unknown arm. An MLP that sees its previous action gets 6.9.",
        best=_best("GaussianBandit-misc", "computed for a policy that knows the better arm"),
        peers=_evolved("0"),
    ),
    Row(
        "Reacher-misc",
        aim=68,
        tried="tanh and one layer: 33; relu, two layers and 10 epochs: 52 to 61 with 2 seeds each."
        " Layers of 128 were not followed to their end. Gradient ascent through the exact"
        " dynamics, with the same bounds, finds 74.",
        best=_best("Reacher-misc", "computed"),
        note="the aim is the return of a crude controller with inverse kinematics",
    ),
    Row(
        "Swimmer-misc",
        aim=435,
        tried="Rates from 1e-3 to 3e-3, 4 and 8 epochs, two layers, relu: 431 to 440. From σ = 1"
        " and with observation statistics, 40.",
        best=_best("Swimmer-misc", "computed; a controller to the best point gets 485"),
        note="the aim is the return of a controller that swims to the goal",
    ),
    Row(
        "Pong-misc",
        aim=1000,
        best=_best("Pong-misc", "reward 1 a step while the rally lasts, 1,000 steps"),
    ),
    Row(
        "FrozenLake-misc",
        episodes=2000,
        aim=0.73,
        best=_best("FrozenLake-misc", "computed for 100 steps"),
    ),
)

# Worlds of other packages, one of each family.
WORLDS = (
    Row(
        "brax::inverted_pendulum",
        seeds=4,
        aim=1000,
        best=Best(1000, "optimum", "reward 1 a step, 1,000 steps"),
        peers=(Peer("PPO", "951 ± 36", 1_000_000, "cleanrl"),),
        note="published for MuJoCo's InvertedPendulum-v4",
    ),
    Row(
        "craftax::Craftax-Classic-Symbolic-v1",
        seeds=4,
        episodes=32,
        best=Best(22, "optimum", "all 22 achievements"),
        note="published are 90 % of the optimum at 1,000 M steps (arXiv:2402.16801), and nothing"
        " for so few; sampled actions get far more than greedy ones",
    ),
    Row(
        "jumanji::Game2048-v1",
        seeds=4,
        note="episodes end after 1,000 steps; masks are not used, and many a greedy episode stands"
        " still at a move that is not possible: 12 of agent 0's first 20; no PPO is published",
    ),
    Row(
        "navix::Navix-Empty-5x5-v0",
        seeds=8,
        aim=0.9,
        best=Best(1, "optimum", "the goal in every episode"),
    ),
)

ROWS: tuple[Row, ...] = (*CLASSIC, *MINATAR, *BSUITE, *MISC, *WORLDS)
