# mypy: disable-error-code="import-not-found"
"""What the workers on JAX share: agents over devices, compiling apart from running, fresh seeds."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import reading
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from protocol import STEPS_OF_UPDATE, Options, learning_curve, timed, updates_of_turn

Train = Callable[[jax.Array], Any]
# The seed of what warms up: one that no turn reaches.
_WARM_UP = 1_000_000
_TRIAL_STEPS = 65_536  # environment steps of a pilot, at most


@dataclasses.dataclass(frozen=True)
class Work:
    """What differs between the JAX peers."""

    program: Callable[[int], Callable[[jax.Array], Any]]
    """Updates of one agent -> the training of the agents of keys [agents, ...], not yet jitted."""
    keys: Callable[[int, int], jax.Array]
    """(turn's seed, agents) -> keys that no other turn has."""
    learning: Callable[[Any, jax.Array], dict[str, Any]]
    """What a full training's outputs and keys say about returns, outside the turn's time."""
    env_steps: int | Callable[[Any], int]
    """Environment steps of an update of one agent, or outputs -> those of all agents."""
    full_updates: int
    """Updates of a full training."""
    compiler_options: dict[str, Any] | None = None


def mesh_of(options: Options) -> Mesh:
    """As many devices as the options allow and the agents can be shared out over equally."""
    if options.device is not None:
        return Mesh(np.array(reading.absent.select(options.device)), ("agents",))
    count = min(len(jax.devices()), options.devices or len(jax.devices()))
    return Mesh(np.array(jax.devices()[: math.gcd(count, options.agents)]), ("agents",))


def shared_out(train: Train, mesh: Mesh) -> Callable[[jax.Array], Any]:
    """One agent's training as all agents', vmapped, each device with its share of them."""
    if mesh.size == 1:
        return _several(train)
    agents = PartitionSpec("agents")
    return jax.shard_map(
        _several(train), mesh=mesh, in_specs=agents, out_specs=agents, check_vma=False
    )


def _several(train: Train) -> Callable[[jax.Array], Any]:
    """The training vmapped, but one agent as its users train one: without."""

    def agents(keys: jax.Array) -> Any:
        if len(keys) > 1:
            return jax.vmap(train)(keys)
        return jax.tree.map(lambda leaf: jax.numpy.asarray(leaf)[None], train(keys[0]))

    return agents


def raw_keys(seed: int, agents: int) -> jax.Array:
    """Raw uint32 keys, [agents, 2], as the peers take them."""
    return jax.random.split(jax.random.PRNGKey(seed), agents)


def learned(sums: Any, episodes: Any) -> dict[str, Any]:
    """What the sums of returns and the numbers of the episodes that ended in every update, both
    [updates, agents], say about a full training."""
    sums, episodes = np.asarray(sums, float), np.asarray(episodes)
    last = episodes[-10:].sum()
    return {
        "curves": [
            learning_curve(*agent)
            for agent in zip(sums.T.tolist(), episodes.T.tolist(), strict=True)
        ],
        "final_return": float(sums[-10:].sum() / last) if last else None,
    }


def program_bytes(program: Any) -> int:
    """What the program's results and all that it holds beside them need, on all devices."""
    analysis = program.memory_analysis()
    each = analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    return each * len(program.input_shardings[0][0].device_set)


def compiled_for(options: Options, work: Work) -> dict[str, Any]:
    """An update of the work, compiled for a device that is not here, and read."""
    assert options.device is not None
    by_agent = NamedSharding(mesh_of(options), PartitionSpec("agents"))
    keys = jax.eval_shape(lambda: work.keys(0, options.agents))
    keys = jax.ShapeDtypeStruct(keys.shape, keys.dtype, sharding=by_agent)
    training = work.program(reading.UPDATES)
    return reading.read(training, (keys,), options.device)


def prepare(options: Options, work: Work) -> tuple[Callable[[], dict[str, Any]], float]:
    """Compile and warm up; a function that runs a turn, and the seconds of compiling."""
    if options.device is not None:
        row = compiled_for(options, work)
        return lambda: {"env_steps": 0, "seconds": 0.0, **row}, row["compile_seconds"]

    def compiled(updates: int) -> Any:
        jitted = jax.jit(work.program(updates))
        lowered = jitted.lower(work.keys(0, options.agents))
        return lowered.compile(work.compiler_options)

    def run(program: Any, seed: int) -> tuple[Any, float]:
        keys = jax.block_until_ready(work.keys(seed, options.agents))
        return timed(lambda: jax.block_until_ready(program(keys)))

    def pilot(updates: int) -> float:
        program = compiled(updates)
        run(program, _WARM_UP)
        return run(program, _WARM_UP)[1]

    steps = STEPS_OF_UPDATE if callable(work.env_steps) else work.env_steps
    trial = max(1, min(16, _TRIAL_STEPS // (steps * options.agents)))
    updates = min(updates_of_turn(options, pilot, trial), work.full_updates)
    started = time.perf_counter()
    program = compiled(updates)
    compile_seconds = time.perf_counter() - started
    if options.plan:
        needed = {"env_steps": 0, "seconds": 0.0, "program_bytes": program_bytes(program)}
        return lambda: needed, compile_seconds
    if not options.curves:  # whose turn is not timed
        run(program, _WARM_UP)
    seeds = itertools.count(options.seed)

    def turn() -> dict[str, Any]:
        seed = next(seeds)
        outputs, seconds = run(program, seed)
        if callable(work.env_steps):
            env_steps = work.env_steps(outputs)
        else:
            env_steps = updates * work.env_steps * options.agents
        result = {"env_steps": env_steps, "seconds": seconds, "updates": updates}
        if updates == work.full_updates:
            result |= work.learning(outputs, work.keys(seed, options.agents))
        return result

    return turn, compile_seconds
