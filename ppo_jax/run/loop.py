"""One run from start to end: compile, train in chunks, evaluate, write."""

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import __version__, env, network, population, ppo
from ppo_jax.config import Config
from ppo_jax.run import folder
from ppo_jax.run.failure import DEVICE, DIVERGED, Failure, Interrupted
from ppo_jax.run.log import Log
from ppo_jax.run.saved import to_arrays
from ppo_jax.run.screen import Screen

EVAL_EPISODES = 100
_CHUNK_SECONDS = 0.25  # the screen, the files and signals wait for no more than a chunk
_CHUNK_UPDATES = 64


@dataclasses.dataclass(frozen=True)
class Job:
    """What to run, and where it goes."""

    recipe: str
    config: Config
    seed: int
    num_seeds: int
    path: Path
    device: str


def run(job: Job, screen: Screen) -> dict[str, Any]:
    """Train the job's agents, evaluate them, and write everything to its folder.

    Returns the summary. Raises Failure for what the user can mend, Interrupted after a signal:
    then the parameters and metrics so far have been written.
    """
    device = _device(job.device)
    _check_environment(job.config)
    folder.create(job.path)
    folder.write_json(job.path / folder.CONFIG, _settings(job))
    _introduce(job, device, screen)
    with _device_errors(job):
        summary = _run(job, device, screen)
    folder.write_json(job.path / folder.SUMMARY, summary)
    if len(summary["diverged_seeds"]) == job.num_seeds:
        raise Failure(
            "every agent diverged: its parameters are not finite; lower learning_rate"
            f" {job.config.learning_rate}",
            DIVERGED,
        )
    return summary


def _run(job: Job, device: jax.Device, screen: Screen) -> dict[str, Any]:
    started = time.perf_counter()
    agents = f"{job.num_seeds:,} agent{'s' if job.num_seeds > 1 else ''}"
    with screen.waiting(f"compiling {job.recipe} for {agents}"):
        programs = _compile(job)
        states = programs.init(jnp.uint32(job.seed), job.config)
        jax.block_until_ready(states)
    compile_seconds = time.perf_counter() - started
    with Log(job.path, job.seed, job.num_seeds, ppo.Metrics._fields) as log:
        states, train_seconds, stopped_by = _train(job, programs.chunk, states, log, screen)
    arrays = to_arrays(states.params)
    folder.write_arrays(job.path / folder.PARAMETERS, arrays)
    summary = {
        "finished": stopped_by is None,
        "recipe": job.recipe,
        "env": job.config.env,
        "seed": job.seed,
        "num_seeds": job.num_seeds,
        "num_updates": log.updates,
        "env_steps": log.env_steps,
        "compile_seconds": compile_seconds,
        "train_seconds": train_seconds,
        "steps_per_second": log.env_steps / train_seconds,
        "diverged_seeds": _diverged(arrays, job.seed),
        "eval_episodes": EVAL_EPISODES,
        "eval_return_per_seed": None,
        "solved_at": env.SOLVED_AT.get(job.config.env),
        "solved_fraction": None,
        "device": f"{device.platform} ({device.device_kind})",
        "versions": {"ppo_jax": __version__, "jax": jax.__version__},
    }
    if stopped_by is not None:
        folder.write_json(job.path / folder.SUMMARY, summary)
        raise Interrupted(stopped_by)
    with screen.waiting(f"evaluating {EVAL_EPISODES} fresh episodes of {agents}, greedily"):
        eval_returns = programs.evaluate(states.params, jnp.uint32(job.seed), job.config)
        means = np.asarray(eval_returns, np.float64).mean(axis=1)
    summary["eval_return_per_seed"] = [mean if math.isfinite(mean) else None for mean in means]
    if summary["solved_at"] is not None:
        summary["solved_fraction"] = float(np.mean(means >= summary["solved_at"]))
    return summary


class _Programs(NamedTuple):
    init: Callable[..., ppo.TrainState]
    chunk: Callable[..., tuple[ppo.TrainState, ppo.Metrics]]
    evaluate: Callable[..., jax.Array]


def _storage(config: Config) -> int:
    return min(config.num_updates or 1, _CHUNK_UPDATES)


def _compile(job: Job) -> _Programs:
    """The run's three programs, compiled at the same time: XLA leaves cores idle with one."""
    seed = jax.ShapeDtypeStruct((), jnp.uint32)

    def make_init(seed: jax.Array, config: Config) -> ppo.TrainState:
        return population.init(population.agent_keys(seed, job.num_seeds), config)

    def run_chunk(states: ppo.TrainState, config: Config, num_updates: jax.Array):
        return population.run(states, config, num_updates, _storage(config))

    def run_evaluation(params: network.Parameters, seed: jax.Array, config: Config) -> jax.Array:
        keys = population.agent_keys(seed, job.num_seeds)
        return population.evaluate(params, config, keys, EVAL_EPISODES)

    states = jax.eval_shape(make_init, seed, job.config)
    jobs: tuple[tuple[Any, tuple[Any, ...]], ...] = (
        (jax.jit(make_init), (seed, job.config)),
        (jax.jit(run_chunk, donate_argnums=0), (states, job.config, 1)),
        (jax.jit(run_evaluation), (states.params, seed, job.config)),
    )
    with ThreadPoolExecutor(len(jobs)) as pool:
        return _Programs(*pool.map(lambda job: _build(*job), jobs))


def _build(function: Any, arguments: tuple[Any, ...]) -> Any:
    return function.lower(*arguments).compile(compiler_options=population.COMPILER_OPTIONS)


def _train(
    job: Job,
    chunk: Callable[..., tuple[ppo.TrainState, ppo.Metrics]],
    states: ppo.TrainState,
    log: Log,
    screen: Screen,
) -> tuple[ppo.TrainState, float, int | None]:
    """Run chunk after chunk; returns the states, the seconds, and the signal that stopped it."""
    total = job.config.num_updates or 0
    done, size = 0, 1
    waiting: dict[str, np.ndarray] = {}
    started = time.perf_counter()
    with _stop_on_signals() as stopped, screen.training(total) as progress:
        while done < total and not stopped:
            began = time.perf_counter()
            states, rows = chunk(states, job.config, size)
            if waiting:  # written while the device computes the next chunk
                log.write(waiting)
            jax.block_until_ready(rows)
            waiting = {name: np.asarray(leaf)[:size] for name, leaf in rows._asdict().items()}
            done += size
            seconds = (time.perf_counter() - began) / size
            size = max(1, min(round(_CHUNK_SECONDS / seconds), _storage(job.config), total - done))
            steps = log.env_steps + int(waiting["env_steps"].sum(dtype=np.int64))
            progress.show(done, steps, time.perf_counter() - started, _latest_return(waiting))
        if waiting:  # unless a signal came before the first chunk
            log.write(waiting)
    return states, time.perf_counter() - started, stopped[0] if stopped else None


def _latest_return(metrics: dict[str, np.ndarray]) -> float:
    """Mean return of the chunk's episodes, over all agents; NaN where none ended."""
    episodes = metrics["episodes"].sum(dtype=np.int64)
    returns = np.nansum(metrics["episode_return"] * metrics["episodes"])
    return float(returns / episodes) if episodes else math.nan


@contextmanager
def _stop_on_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM: the loop ends after its chunk; a second one ends at once."""
    received: list[int] = []

    def receive(number: int, _: Any) -> None:
        received.append(number)
        signal.signal(number, signal.SIG_DFL)

    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, receive)
    except ValueError:  # not the main thread: signals are its caller's matter
        pass
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _diverged(arrays: dict[str, np.ndarray], seed: int) -> list[int]:
    """Seeds of the agents with a parameter that is not finite."""
    bad = [~np.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) for leaf in arrays.values()]
    return [seed + int(agent) for agent in np.flatnonzero(np.any(bad, axis=0))]


def _device(name: str) -> jax.Device:
    try:
        if name == "cpu":
            jax.config.update("jax_platforms", "cpu")  # do not take a GPU's memory either
        device = jax.devices(None if name == "auto" else name)[0]
        jax.config.update("jax_default_device", device)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise Failure(
            f"--device {name}: jax finds none ({reason}); use --device auto, or install the"
            " extra 'ppo-jax[cuda]' or 'ppo-jax[tpu]'",
            DEVICE,
        ) from error
    return device


@contextmanager
def _device_errors(job: Job) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise Failure(
            f"the device failed with {job.num_seeds} agents of {job.config.num_envs} environments"
            f" ({reason}); fewer of either need less memory",
            DEVICE,
        ) from error


def _check_environment(config: Config) -> None:
    try:
        environment = env.make(config)
        jax.eval_shape(environment.reset, jax.random.key(0))
    except (ValueError, ImportError) as error:
        raise Failure(str(error)) from error


def _settings(job: Job) -> dict[str, Any]:
    fields = {field.name: getattr(job.config, field.name) for field in dataclasses.fields(Config)}
    if job.config.total_timesteps is not None:
        fields["num_updates"] = None  # it follows
    fields["env_params"] = dict(job.config.env_params)
    return {
        "recipe": job.recipe,
        "seed": job.seed,
        "num_seeds": job.num_seeds,
        "config": fields,
        "versions": {"ppo_jax": __version__, "jax": jax.__version__},
    }


def _introduce(job: Job, device: jax.Device, screen: Screen) -> None:
    config = job.config
    screen.say(
        f"ppo_jax {__version__}: {job.recipe} on {config.env}, seed {job.seed}"
        f"{f' to {job.seed + job.num_seeds - 1}' if job.num_seeds > 1 else ''},"
        f" on {device.platform} ({device.device_kind})"
    )
    if config.total_timesteps is not None:
        steps = (config.num_updates or 0) * config.batch_size
        if steps != config.total_timesteps:
            screen.say(
                f"{config.total_timesteps:,} steps are no whole number of updates of"
                f" {config.batch_size:,}: {config.num_updates:,} updates, {steps:,} steps will run"
            )
