"""Actor and critic as flax modules: the built-in ones, and a user's own.

All keep the contract of `ppo_jax.network_contract`. Parameters under the top-level name `critic`
are the critic's, all others the actor's.
"""

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ppo_jax import fast, network_contract, spaces
from ppo_jax.config import BUILT_IN_NETWORKS, Config
from ppo_jax.network_contract import NumOutputs
from ppo_jax.objects import check_hashable, first_line, load, name


class Perceptron(nn.Module):
    """Dense layers of these widths, a nonlinearity after each but the last: [B, D] -> [B, H]."""

    sizes: tuple[int, ...]
    activation: str
    head_gain: float

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """The last layer's output."""
        for index, size in enumerate(self.sizes[:-1]):
            hidden = _dense(size, 2**0.5, f"hidden_{index}")
            inputs = _nonlinearity(self.activation)(hidden(inputs))
        return _dense(self.sizes[-1], self.head_gain, "output")(inputs)


def _dense(size: int, gain: float, name: str) -> nn.Dense:
    kernel_init = orthogonal(gain)
    return nn.Dense(size, kernel_init=kernel_init, dot_general=fast.dot_general, name=name)


def convolutions(size: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Channels, side and stride of each layer for images of that height and width: below 36 pixels
    a side one layer, else those of Mnih et al. (2015).
    """
    return [(16, 3, 1)] if min(size) < 36 else [(32, 8, 4), (64, 4, 2), (64, 3, 1)]


class Convolutions(nn.Module):
    """A torso for images [B, H, W, C]."""

    activation: str

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Features [B, D]."""
        for index, (channels, side, stride) in enumerate(convolutions(image.shape[1:3])):
            convolution = nn.Conv(
                channels,
                (side, side),
                stride,
                padding="VALID",
                kernel_init=orthogonal(2**0.5),
                conv_general_dilated=fast.convolve,
                name=f"convolution_{index}",
            )
            image = _nonlinearity(self.activation)(convolution(image))
        return image.reshape(len(image), -1)


class Recurrent(nn.Module):
    """A gated recurrent unit, then a perceptron. Cho et al., arXiv:1406.1078, eq. 5 to 8."""

    memory_size: int
    perceptron: Perceptron

    @nn.compact
    def __call__(
        self, inputs: jax.Array, memory: jax.Array, start: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """[B, D], memory [B, memory_size], start [B] -> [B, H], memory."""
        memory = jnp.where(start[:, None], 0, memory)
        memory, features = nn.GRUCell(self.memory_size, name="gru")(memory, inputs)
        return self.perceptron(features), memory


class _BuiltIn(nn.Module):
    """Separate actor and critic, each a torso and a perceptron."""

    num_outputs: NumOutputs
    hidden_sizes: tuple[int, ...] = (64,)
    activation: str = "tanh"

    def setup(self) -> None:
        """Both networks; the policy's head starts near zero, so that no action is preferred."""
        outputs = self.num_outputs if isinstance(self.num_outputs, int) else sum(self.num_outputs)
        self.actor = self.tower((*self.hidden_sizes, outputs), 0.01)
        self.critic = self.tower((*self.hidden_sizes, 1), 1.0)

    def __call__(self, observation: Any) -> tuple[Any, jax.Array]:
        """(action_output, value [B]) of observations [B, ...]."""
        inputs = self.encode(observation)
        return self.divide(self.actor(inputs)), self.critic(inputs)[:, 0]

    def divide(self, outputs: jax.Array) -> Any:
        """The actor's outputs, for MultiDiscrete a part for each entry."""
        if isinstance(self.num_outputs, int):
            return outputs
        return tuple(jnp.split(outputs, list(accumulate(self.num_outputs))[:-1], axis=-1))

    def tower(self, sizes: tuple[int, ...], head_gain: float) -> Callable[..., Any]:
        """One network."""
        raise TypeError

    def encode(self, observation: Any) -> jax.Array:
        """What both networks see."""
        raise TypeError


class MLP(_BuiltIn):
    """Separate multilayer perceptrons of the flattened observation, all its parts concatenated."""

    def tower(self, sizes: tuple[int, ...], head_gain: float) -> Callable[..., jax.Array]:
        """A perceptron."""
        return Perceptron(sizes, self.activation, head_gain)

    def encode(self, observation: Any) -> jax.Array:
        """All numbers of the observation, [B, D]."""
        flat = [jax.lax.collapse(leaf[..., None], 1) for leaf in jax.tree.leaves(observation)]
        return flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=1)


class CNN(_BuiltIn):
    """Separate convolutional networks for one image [H, W, C]."""

    def tower(self, sizes: tuple[int, ...], head_gain: float) -> Callable[..., jax.Array]:
        """Convolutions, then a perceptron."""
        perceptron = Perceptron(sizes, self.activation, head_gain)
        return nn.Sequential([Convolutions(self.activation), perceptron])

    def encode(self, observation: Any) -> jax.Array:
        """The image itself."""
        images = jax.tree.leaves(observation)
        if len(images) != 1 or images[0].ndim != 4 or min(images[0].shape[1:3]) < 3:
            shapes = ", ".join(str(image.shape[1:]) for image in images)
            raise ValueError(f"cnn takes one image [H, W, C] of at least 3 × 3, not {shapes}")
        return images[0]


class GRU(MLP):
    """Separate recurrent networks of the flattened observation, each with a memory of its own."""

    memory_size: int = 64

    def __call__(  # type: ignore[override]
        self, observation: Any, memory: dict[str, jax.Array], start: jax.Array
    ) -> tuple[Any, jax.Array, dict[str, jax.Array]]:
        """(action_output, value [B], memory) of observations [B, ...]."""
        inputs = self.encode(observation)
        outputs, actor = self.actor(inputs, memory["actor"], start)
        values, critic = self.critic(inputs, memory["critic"], start)
        return self.divide(outputs), values[:, 0], {"actor": actor, "critic": critic}

    def initial_memory(self, num_envs: int) -> dict[str, jax.Array]:
        """Zeros, [num_envs, memory_size] each."""
        return {name: jnp.zeros((num_envs, self.memory_size)) for name in ("actor", "critic")}

    def tower(self, sizes: tuple[int, ...], head_gain: float) -> Callable[..., Any]:
        """A recurrent unit, then a perceptron."""
        return Recurrent(self.memory_size, Perceptron(sizes, self.activation, head_gain))


def _nonlinearity(name: str) -> Callable[[jax.Array], jax.Array]:
    return {"tanh": jnp.tanh, "relu": jax.nn.relu}[name]


def orthogonal(gain: float) -> Callable[..., jax.Array]:
    """A flax initializer: orthonormal rows or columns times the gain, without LAPACK.

    Args:
        gain: What every singular value of the kernel is.

    Returns:
        (key, shape, dtype=float) -> a kernel; axes before the last count as one.

    Saxe et al., arXiv:1312.6120.
    """

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any = float) -> jax.Array:
        return gain * _draw_orthonormal(key, tuple(shape), jnp.result_type(dtype))

    return initialize


@partial(jax.jit, static_argnums=(1, 2))  # flax traces initializers whenever it applies a module
def _draw_orthonormal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    gaussian = jax.random.normal(key, shape, dtype).reshape(-1, shape[-1])
    return fast.orthonormal(gaussian).reshape(shape)


def init_built_in(key: jax.Array, shapes: Any, initialization: str) -> Any:
    """Initial parameters of a built-in network, from one draw for each half.

    Args:
        shapes: Of the parameters that the module's own `init` would give.
        initialization: "orthogonal", kernels with orthonormal rows or columns times √2, those
            of a recurrent unit 1, policy head 0.01, value head 1, biases zero; or "uniform",
            kernels and biases uniform in ±1/√inputs.

    Returns:
        Parameters of these shapes, by the name of the half.

    Saxe et al., arXiv:1312.6120, and Engstrom et al., arXiv:2005.12729; LeCun et al., Efficient
    BackProp (1998).
    """
    init_half = {"orthogonal": _init_orthogonal, "uniform": _init_uniform}[initialization]
    halves = zip(("actor", "critic"), jax.random.split(key), (0.01, 1.0), strict=True)
    return {name: init_half(own, shapes[name], gain) for name, own, gain in halves}


def _init_orthogonal(key: jax.Array, half: Any, head_gain: float) -> Any:
    def init(kernel: jax.Array, gain: float) -> dict[str, jax.Array]:
        return {"kernel": gain * fast.orthonormal(kernel), "bias": jnp.zeros(kernel.shape[1])}

    return _init_layers(partial(jax.random.normal, key), half, 0, init, head_gain)


def _init_uniform(key: jax.Array, half: Any, _: float) -> Any:
    def init(rows: jax.Array, _: float) -> dict[str, jax.Array]:
        bounded = rows * (len(rows) - 1) ** -0.5
        return {"kernel": bounded[:-1], "bias": bounded[-1]}

    # A bias is one more row of its kernel: it shares the kernel's bound.
    draw = partial(jax.random.uniform, key, minval=-1.0, maxval=1.0)
    return _init_layers(draw, half, 1, init, 1.0)


def _init_layers(
    draw: Callable[..., jax.Array],
    half: Any,
    more_rows: int,
    init: Callable[..., dict[str, jax.Array]],
    head_gain: float,
) -> Any:
    """The layers of one network, each from its part of one flat draw: every draw of its own costs
    half a second to compile."""
    found, structure = jax.tree_util.tree_flatten_with_path(half, lambda node: "kernel" in node)
    layers = [layer for _, layer in found]
    gains = [1.0 if "gru" in jax.tree_util.keystr(path) else 2**0.5 for path, _ in found]
    gains[-1] = head_gain
    columns = [layer["kernel"].shape[-1] for layer in layers]
    sizes = [
        layer["kernel"].size + more_rows * width
        for layer, width in zip(layers, columns, strict=True)
    ]
    ends = list(accumulate(sizes))
    pieces = jnp.split(draw((ends[-1],)), ends[:-1])
    made = []
    for layer, width, piece, gain in zip(layers, columns, pieces, gains, strict=True):
        one = init(piece.reshape(-1, width), gain)
        shaped = {**one, "kernel": one["kernel"].reshape(layer["kernel"].shape)}
        made.append({name: shaped[name] for name in layer})  # not every layer has a bias
    return jax.tree.unflatten(structure, made)


def num_outputs(action_space: spaces.Space) -> NumOutputs:
    """A of Discrete(A), nvec of MultiDiscrete, K of a Box of K entries.

    Raises:
        ValueError: For another space.
    """
    match action_space:
        case spaces.Discrete(n):
            return n
        case spaces.MultiDiscrete(nvec):
            return nvec
        case spaces.Box():
            return action_space.size
    raise ValueError(
        f"actions in a {type(action_space).__name__} space have no policy here; there is one for"
        " Discrete, MultiDiscrete and Box"
    )


def make(config: Config, observation: Any, action_space: spaces.Space) -> nn.Module:
    """The module that `config.network` names, or is.

    Args:
        observation: Shape and type of every part of one observation, as the network sees it.
        action_space: It decides the shape of the action output.

    Returns:
        The module, without parameters.

    Raises:
        ValueError: In one line, for what is no flax module, or gives other shapes than it must.
    """
    outputs = num_outputs(action_space)
    module = _resolve(config, outputs)
    leaves, structure = jax.tree.flatten(observation)
    types = tuple((leaf.shape, jnp.dtype(leaf.dtype)) for leaf in leaves)
    network_contract.check(
        module, types, structure, outputs, name(config.network), jnp.result_type(float)
    )
    return module


def _resolve(config: Config, outputs: NumOutputs) -> nn.Module:
    if config.network in BUILT_IN_NETWORKS:
        arguments = outputs, config.hidden_sizes, config.activation
        if config.network == "gru":
            return GRU(*arguments, memory_size=config.memory_size)
        return {"mlp": MLP, "cnn": CNN}[config.network](*arguments)
    given = config.network
    if isinstance(given, str):
        given = load(given, "network")
    if isinstance(given, type) and issubclass(given, nn.Module):
        try:
            given = given(num_outputs=outputs)
        except TypeError as error:
            raise ValueError(
                f"network {name(config.network)}: {first_line(error)}; a class is made with"
                " num_outputs, so give it that field, or give an instance of it"
            ) from error
    if isinstance(given, nn.Module):
        check_hashable(given, "network")
        return given
    raise ValueError(
        f"network {name(config.network)} is a {type(given).__name__}, not a flax.linen module; give"
        " a module, its class, or package.module:Class"
    )
