"""What is trained by ours and by the peers: one description for all, which each worker translates.

Standard library only: a worker imports this in a virtual environment that has nothing of ours.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Task:
    """An environment, and the work of an update; rewards and steps are gymnax's."""

    env: str
    low: float
    """A return that counts as nothing learned, 0 of the normalized area."""
    high: float
    """The best known return, 1 of the normalized area."""
    num_envs: int = 4
    num_steps: int = 128
    updates: int = 976
    """Of a full training."""
    num_epochs: int = 4
    num_minibatches: int = 4
    learning_rate: float = 2.5e-4
    """Annealed linearly to 0."""
    discount: float = 0.99
    gae_lambda: float = 0.95
    entropy_coefficient: float = 0.01
    clip_value: bool = True
    normalize: bool = False
    """Observations and rewards by running statistics."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    memory: str | None = None
    """`apart`: actor and critic each a layer, a GRU of 64 and a head, as Ajax has them; `shared`: a
    layer, a GRU of 128, then a layer and a head each, as PureJaxRL has them."""

    @property
    def steps_of_update(self) -> int:
        """Environment steps of an update."""
        return self.num_envs * self.num_steps

    @property
    def minibatch_size(self) -> int:
        """Transitions of a minibatch."""
        return self.steps_of_update // self.num_minibatches

    @property
    def steps(self) -> int:
        """Environment steps of a full training."""
        return self.updates * self.steps_of_update


_CARTPOLE = Task("CartPole-v1", low=0, high=500)  # as the recipe `standard`
_RECURRENT = Task(
    "CartPoleNoVelocity-v1",
    low=0,
    high=500,
    updates=488,
    learning_rate=1e-3,
    hidden_sizes=(64,),
    memory="apart",
)

TASKS: dict[str, Task] = {
    "standard": _CARTPOLE,
    "acrobot": dataclasses.replace(_CARTPOLE, env="Acrobot-v1", low=-500, high=-69.1),
    # 300,000 steps; the settings are those of `fast` but for one optimizer of both networks.
    "continuous": Task(
        "Pendulum-v1",
        low=-1500,
        high=-150,
        num_envs=16,
        updates=147,
        num_epochs=10,
        num_minibatches=8,
        learning_rate=7e-4,
        discount=0.96,
        entropy_coefficient=0.0,
        clip_value=False,
        normalize=True,
        activation="relu",
    ),
    # PureJaxRL's configuration of the MinAtar games, a million steps.
    "minatar": Task(
        "Breakout-MinAtar",
        low=0,
        high=80,
        num_envs=64,
        updates=122,
        num_minibatches=8,
        learning_rate=5e-3,
        activation="relu",
    ),
    "recurrent": _RECURRENT,
    "recurrent_shared": dataclasses.replace(_RECURRENT, hidden_sizes=(128,), memory="shared"),
}
