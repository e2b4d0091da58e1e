"""Actor and critic as flax modules: the built-in ones, and what a user's own must be.

A module maps observations [B, ...] to (action_output, value [B]); `action_output` is logits
[B, A] for Discrete(A), a tuple of logits for MultiDiscrete, and the mean [B, K] for a Box of K
entries. Parameters under the top-level name `critic` are the critic's, all others the actor's.

A module that has `initial_memory(num_envs)` is recurrent: it maps (observation, memory, start [B])
to (action_output, value, memory), and resets its memory where `start` says that an episode begins.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.errors import InvalidRngError

from ppo_jax import fast, spaces
from ppo_jax.config import BUILT_IN_NETWORKS, Config
from ppo_jax.objects import check_hashable, explain, first_line, load, name

NumOutputs = int | tuple[int, ...]


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
    """Channels, side and stride of the layers for images of that height and width: below 36 pixels
    a side one, else those of Mnih et al. (2015)."""
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


def has_memory(module: nn.Module) -> bool:
    """Whether a module is recurrent."""
    return callable(getattr(module, "initial_memory", None))


def _nonlinearity(name: str) -> Callable[[jax.Array], jax.Array]:
    return {"tanh": jnp.tanh, "relu": jax.nn.relu}[name]


def orthogonal(gain: float) -> Callable[..., jax.Array]:
    """A flax initializer: orthonormal rows or columns times the gain, without LAPACK.

    Saxe et al., arXiv:1312.6120.
    """

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any = float) -> jax.Array:
        return gain * _draw_orthonormal(key, tuple(shape), jnp.result_type(dtype))

    return _Named(initialize, ("orthogonal", gain))


@partial(jax.jit, static_argnums=(1, 2))  # flax traces initializers whenever it applies a module
def _draw_orthonormal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    gaussian = jax.random.normal(key, shape, dtype).reshape(-1, shape[-1])
    return fast.orthonormal(gaussian).reshape(shape)


class _Named:
    """A function that equals another of the same name: equal modules then share one program."""

    def __init__(self, function: Callable[..., Any], name: tuple[Any, ...]):
        self._function, self._name = function, name

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Named) and self._name == other._name

    def __hash__(self) -> int:
        return hash(self._name)


def init_built_in(key: jax.Array, shapes: Any, initialization: str) -> Any:
    """Initial parameters of a built-in network, of these shapes, from one draw for each half.

    "orthogonal": kernels with orthonormal rows or columns times √2, recurrent ones 1, policy head
    0.01, value head 1, biases zero (Saxe et al., arXiv:1312.6120; Engstrom et al.,
    arXiv:2005.12729).
    "uniform": kernels and biases uniform in ±1/√inputs (LeCun et al., Efficient BackProp, 1998).
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

    Raises ValueError for another space.
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
    """The module that `config.network` names, or is, for observations of these types [...].

    Raises ValueError, in one line, for what is no flax module, or gives other shapes than it must.
    """
    outputs = num_outputs(action_space)
    module = _resolve(config, outputs)
    leaves, structure = jax.tree.flatten(observation)
    types = tuple((leaf.shape, jnp.dtype(leaf.dtype)) for leaf in leaves)
    _check(module, types, structure, outputs, name(config.network), jnp.result_type(float))
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


@lru_cache(maxsize=64)
def _check(
    module: nn.Module, types: Any, structure: Any, outputs: NumOutputs, said: str, _: Any
) -> None:
    """Raise ValueError unless the module gives what it must; kept, for it traces the module."""
    batch = jax.tree.unflatten(
        structure, [jax.ShapeDtypeStruct((_ROWS, *shape), dtype) for shape, dtype in types]
    )
    inputs: tuple[Any, ...] = (batch,)
    try:
        if has_memory(module):
            memory = jax.eval_shape(lambda: initial_memory(module, _ROWS))
            inputs = batch, memory, jax.ShapeDtypeStruct((_ROWS,), bool)
        variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
        if set(variables) != {"params"}:
            others = ", ".join(sorted(set(variables) - {"params"})) or "none"
            raise ValueError(f"its variables are in the collections: {others}; {_ONLY_PARAMS}")
        found = jax.eval_shape(module.apply, variables, *inputs)
    except InvalidRngError as error:
        raise ValueError(f"network {said}: {first_line(error)}; {_ONLY_PARAMS}") from error
    except Exception as error:  # of the user's module
        raise ValueError(f"network {said}: {explain(error)}") from error
    if len(inputs) > 1:
        found = _check_memory(found, inputs[1], said)
    _check_outputs(found, outputs, said)


def initial_memory(module: Any, num_envs: int) -> Any:
    """The memory of fresh episodes [num_envs, ...], its floats as wide as all others."""
    try:
        memory = module.initial_memory(num_envs)
    except AssertionError as error:  # flax's own, without a word, for a cell that is made there
        said = f"initial_memory: {explain(error)}"
        raise ValueError(f"{said}; a cell that is made there needs parent=None") from error
    return jax.tree.map(lambda leaf: as_float(jnp.asarray(leaf)), memory)


def as_float(leaf: jax.Array) -> jax.Array:
    """The leaf, if it holds floats, as floats of the width of all others."""
    return leaf.astype(float) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _check_memory(found: Any, memory: Any, said: str) -> Any:
    """The action output and value of a module with memory, which must keep its memory's shapes."""
    if not isinstance(found, tuple) or len(found) != 3:
        raise ValueError(
            f"network {said} has initial_memory and gives no triple; it must return"
            " (action_output, value, memory)"
        )
    for leaf in jax.tree.leaves(memory):
        if leaf.shape[:1] != (_ROWS,):
            raise ValueError(
                f"network {said}: initial_memory({_ROWS}) has a part of shape {leaf.shape}; every"
                " part's first axis must be num_envs"
            )
    given = jax.eval_shape(lambda tree: jax.tree.map(as_float, tree), found[2])
    before, after = (
        jax.tree.map(lambda leaf: f"{leaf.dtype}{_shape_in_words(leaf)}", tree)
        for tree in (memory, given)
    )
    if before != after:
        raise ValueError(
            f"network {said} gives memory {after}; it must be like initial_memory, {before}"
        )
    return found[:2]


_ROWS = 11  # of the batch that a module is tried with: no usual length of anything else
_ONLY_PARAMS = "only the collection params is served (no batch statistics, no dropout)"


def _check_outputs(found: Any, outputs: NumOutputs, said: str) -> None:
    if not isinstance(found, tuple) or len(found) != 2:
        raise ValueError(f"network {said} gives no pair; it must return (action_output, value)")
    given, value = jax.tree.map(_shape_in_words, found)
    wanted: Any = f"[B, {outputs}]"
    if not isinstance(outputs, int):
        wanted = tuple(f"[B, {each}]" for each in outputs)
    if given != wanted:
        shapes = f"{given}; it must be {wanted}".replace("'", "")
        raise ValueError(f"network {said} gives action_output {shapes}")
    if value != "[B]":
        remedy = "; leave the last axis out: value[:, 0]" if value == "[B, 1]" else ""
        raise ValueError(f"network {said} gives value {value}; it must be [B]{remedy}")


def _shape_in_words(leaf: Any) -> str:
    """A shape as [B, ...], B for the number of rows."""
    rest = [str(length) for length in leaf.shape[1:]]
    return f"[{', '.join(['B', *rest])}]" if leaf.shape[:1] == (_ROWS,) else str(list(leaf.shape))
