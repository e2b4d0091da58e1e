"""One agent of a run again: trained from its key, compared with what was saved, and watched while
it plays."""

import csv
import dataclasses
import math
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import __version__, env, network, ppo, recipe
from ppo_jax.config import Config, with_coefficients
from ppo_jax.distributions import Categorical
from ppo_jax.run import devices, folder, loop, programs
from ppo_jax.run.failure import DEVICE, FILE_SYSTEM, Failure
from ppo_jax.run.job import Job
from ppo_jax.run.log import LEADING
from ppo_jax.run.programs import Programs
from ppo_jax.run.roster import Roster
from ppo_jax.run.saved import to_arrays, to_parameters
from ppo_jax.run.screen import Screen

TRACE = "trace.csv"
_BROKEN = (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)
_CHUNK_SECONDS = 0.25  # the screen waits for no more than a chunk


@dataclasses.dataclass(frozen=True)
class Request:
    """Which agent to replay, how, and where it goes."""

    run: Path
    settings: dict[str, Any]  # the run's config.json
    summary: dict[str, Any]  # the run's summary.json; empty where there is none
    agent: int
    how: str  # batch, alone or load
    devices: int  # that each process used
    lanes: int  # agents that each of the run's processes trained at once, on all its devices
    processes: int
    device: str
    episodes: int
    sampled: bool
    seed: int  # of the episodes
    out: Path


class Agent(NamedTuple):
    """One agent of a run, as the run's folder has it."""

    number: int
    lane: int  # in the batch of its group
    roster: Roster
    config: Config  # the run's
    coefficients: dict[str, float]  # of those that vary
    params: dict[str, np.ndarray]
    num_updates: int  # that the run made with the agent's group
    curves: dict[str, np.ndarray] | None  # [updates] of the run's metrics.csv, where it kept them

    @property
    def seed(self) -> int:
        """Seed of the agent's key."""
        return int(self.roster.seeds[self.number])

    @property
    def setting(self) -> int:
        """Index of the agent's setting."""
        return int(self.roster.setting[self.number])

    def configure(self, lanes: int) -> Config:
        """The configuration of a batch whose lanes all hold this agent."""
        return self.roster.configure(self.config, np.full(lanes, self.number))


class Retrained(NamedTuple):
    """What became of the agent this time."""

    params: dict[str, np.ndarray]
    metrics: dict[str, np.ndarray]  # [updates]
    made: int  # updates before it froze, or all of them


class Trace(NamedTuple):
    """What an agent saw and did in every step of its episodes, [T, episodes, ...].

    `valid` is false after an episode's end.
    """

    observation: jax.Array  # [T, episodes, D], that the agent acted on
    action: jax.Array
    reward: jax.Array
    value: jax.Array  # V(observation)
    probability: jax.Array  # [T, episodes, A], of every action
    terminated: jax.Array
    truncated: jax.Array
    valid: jax.Array


def play(
    params: network.Parameters, config: Config, key: jax.Array, num_episodes: int, sampled: bool
) -> Trace:
    """Fresh episodes, greedy or sampled, each to its end or the time limit T; pure and jittable.

    With the same key the greedy episodes are those of `evaluate.evaluate`.
    """
    environment = env.make(config)
    shape = environment.max_episode_steps, num_episodes
    reset_key, step_key = jax.random.split(key)
    env_state, observation = jax.vmap(environment.reset)(jax.random.split(reset_key, num_episodes))
    step_keys = jax.vmap(
        lambda index: jax.random.split(jax.random.fold_in(step_key, index), num_episodes)
    )(jnp.arange(shape[0]))
    noise = jax.random.gumbel(jax.random.fold_in(key, 2), (*shape, environment.num_actions))

    def step(carry: tuple[Any, jax.Array, jax.Array], drawn: tuple[jax.Array, jax.Array]):
        env_state, observation, going_on = carry
        keys, noise = drawn
        policy = Categorical(network.apply(params.actor, observation, config.activation))
        action = policy.sample(noise) if sampled else policy.mode()
        env_state, outcome = jax.vmap(environment.step)(keys, env_state, action)
        one = Trace(
            observation=observation,
            action=action,
            reward=outcome.reward,
            value=network.apply(params.critic, observation, config.activation)[..., 0],
            probability=jax.nn.softmax(policy.logits),
            terminated=outcome.terminated,
            truncated=outcome.truncated,
            valid=going_on,
        )
        going_on = going_on & ~(outcome.terminated | outcome.truncated)
        return (env_state, outcome.observation, going_on), one

    carry = env_state, observation, jnp.ones(num_episodes, bool)
    return jax.lax.scan(step, carry, (step_keys, noise))[1]


def replay(request: Request, screen: Screen) -> dict[str, Any]:
    """Train the agent again (or load it), compare it, play with it, and write what was found.

    Returns the summary. Raises Failure for what the user can mend.
    """
    chosen = _devices(request)
    agent = _load(request)
    folder.create(request.out)
    with folder.file_system(request.out):
        (request.out / TRACE).unlink(missing_ok=True)
    _introduce(request, agent, chosen, screen)
    with _refusals(request):
        again = None if request.how == "load" else _retrain(request, agent, chosen, screen)
        trace = _play(request, agent, again.params if again else agent.params)
    if again:
        _write_metrics(request.out / folder.METRICS, agent, again.metrics)
    _write_trace(request.out / TRACE, trace)
    found = _compare(agent, again) if again else {"frozen_after": _frozen_after(request)}
    summary = _summary(request, agent, found, trace, chosen)
    folder.write_json(request.out / folder.SUMMARY, summary)
    return summary


def _load(request: Request) -> Agent:
    """The agent as the run has it. Raises Failure (2) where the run has none, or is not whole."""
    job = _job(request)
    everyone = loop.prepare(job)
    numbers = np.arange(len(everyone.seeds))
    place = numbers % everyone.share(request.processes)  # in its process
    group, lane = np.divmod(place, request.lanes)
    with _reading(request.run):
        with (  # opened here: np.load leaves a broken file open
            open(request.run / folder.PARAMETERS, "rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            params = {name: arrays[name] for name in arrays.files}
        count = len(next(iter(params.values())))
        # Groups train one after another: a run that was stopped saved the first ones, by number.
        saved = np.sort(numbers[np.argsort(group, kind="stable")][:count])
        if request.agent not in saved:
            raise Failure(f"--agent is {request.agent}; {_saved(count, len(numbers))}")
        row = int(np.searchsorted(saved, request.agent))
        agent = Agent(
            number=request.agent,
            lane=int(lane[request.agent]),
            roster=everyone,
            config=job.config,
            coefficients=_coefficients(job, everyone, request.agent),
            params={name: leaf[row] for name, leaf in params.items()},
            num_updates=_updates(request, int(group[request.agent]) + 1),
            curves=None,
        )
        return agent if request.how == "load" else agent._replace(curves=_curves(request, agent))


def _saved(count: int, total: int) -> str:
    if count < total:
        return f"the run was stopped after {count} of its {total} agents, before this one"
    return f"the run's agents are 0 to {total - 1}"


def _job(request: Request) -> Job:
    """What the run was told to do."""
    settings = request.settings
    with _reading(request.run):
        return Job(
            recipe=settings["recipe"],
            config=recipe(settings["recipe"], **settings["config"]),
            seed=settings["seed"],
            num_seeds=settings["num_seeds"],
            path=request.run,
            axes={name: tuple(values) for name, values in settings["sweep"].items()},
            ranges={name: tuple(bounds) for name, bounds in settings["search"].items()},
            num_samples=settings["samples"],
            evolve={name: tuple(bounds) for name, bounds in settings.get("evolve", {}).items()},
        )


def _coefficients(job: Job, everyone: Roster, number: int) -> dict[str, float]:
    """The agent's coefficients, of those that vary; of those that evolved the last ones."""
    if not job.evolve:
        return everyone.describe(int(everyone.setting[number]))
    with open(job.path / folder.EVOLUTION, newline="") as file:
        *_, last = (row for row in csv.DictReader(file) if row["agent"] == str(number))
    return {name: float(last[name]) for name in job.evolve}


@contextmanager
def _reading(run: Path) -> Iterator[None]:
    """Turns what is wrong with a run's files into a Failure of one line."""
    try:
        yield
    except FileNotFoundError as error:
        name = Path(error.filename).name
        raise Failure(f"{run} has no {name}: the run ended before it saved its agents") from error
    except OSError as error:
        raise Failure(f"{error.filename or run}: {error.strerror}", FILE_SYSTEM) from error
    except _BROKEN as error:
        raise Failure(f"{run} is not a whole run ({str(error).splitlines()[0]})") from error


def _play(request: Request, agent: Agent, params: dict[str, np.ndarray]) -> Trace:
    trace = jax.jit(play, static_argnums=(3, 4))(
        to_parameters(params),
        with_coefficients(agent.config, agent.coefficients),
        jax.random.key(request.seed),
        request.episodes,
        request.sampled,
    )
    return jax.tree.map(np.asarray, trace)


def _updates(request: Request, group: int) -> int:
    """Updates that the run made with a group, counted from 1: each may have stopped at its own."""
    with open(request.run / folder.STATISTICS, newline="") as file:
        rows = csv.DictReader(file)
        return max((int(row["update"]) for row in rows if int(row["group"]) == group), default=0)


def _curves(request: Request, agent: Agent) -> dict[str, np.ndarray] | None:
    """The agent's own rows of the run's metrics.csv, [updates]; none where it kept none."""
    path = request.run / folder.METRICS
    if not path.exists():
        return None
    wanted = {"seed": str(agent.seed), "setting": str(agent.setting)}
    with open(path, newline="") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if all(row.get(name, value) == value for name, value in wanted.items())
        ]
    if len(rows) != agent.num_updates:
        raise ValueError(f"{path.name} has {len(rows)} updates of {agent.num_updates}")
    return {
        name: np.array([float(row[name]) if row[name] else math.nan for row in rows])
        for name in ppo.Metrics._fields
    }


def _devices(request: Request) -> list[jax.Device]:
    """As many devices as the run used, or one. Raises Failure (4) where there are fewer."""
    chosen = devices.select(request.device)
    number = request.devices if request.how == "batch" else 1
    if len(chosen) < number:
        raise Failure(
            f"the run used {number} devices, here {'are' if len(chosen) > 1 else 'is'}"
            f" {len(chosen)}; --how alone needs 1 (XLA_FLAGS="
            f"--xla_force_host_platform_device_count={number} makes more of a CPU)",
            DEVICE,
        )
    return chosen[:number]


def _introduce(request: Request, agent: Agent, chosen: list[jax.Device], screen: Screen) -> None:
    own = ", ".join(f"{name} {value:.4g}" for name, value in agent.coefficients.items())
    setting = f", setting {agent.setting}" if agent.roster.num_settings > 1 else ""
    setting += f" ({own})" if own else ""
    screen.say(
        f"ppo_jax {__version__}: agent {agent.number} of {request.run}, seed {agent.seed}{setting},"
        f" on {devices.describe(chosen)}"
    )
    if request.how == "batch":
        before, now = _made_with(request.summary), _made_with(_here(chosen))
        if before != now:
            screen.say(f"the run was made with {before}, this is {now}: bits may differ")


def _here(chosen: list[jax.Device]) -> dict[str, Any]:
    return {
        "device": devices.describe(chosen),
        "versions": {"ppo_jax": __version__, "jax": jax.__version__},
    }


def _made_with(summary: dict[str, Any]) -> str:
    versions = " and ".join(f"{name} {version}" for name, version in summary["versions"].items())
    return f"{versions}, on {summary['device']}"


@contextmanager
def _refusals(request: Request) -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        remedy = "; --how alone needs less of it" if request.how == "batch" else ""
        raise Failure(f"the device failed ({reason}){remedy}", DEVICE) from error


def _retrain(request: Request, agent: Agent, chosen: list[jax.Device], screen: Screen) -> Retrained:
    """The agent again, in its own lane of the run's programs, or alone.

    All other lanes hold the same agent: its bits depend on the program, not on its neighbours.
    """
    lanes = request.lanes if request.how == "batch" else 1
    shape = f"{lanes:,} lane{'s' if lanes > 1 else ''} on {len(chosen)} device"
    shape += "s" if len(chosen) > 1 else ""
    with screen.waiting(f"compiling {request.settings['recipe']} for {shape}"):
        compiled = programs.compile_programs(agent.configure(lanes), lanes, chosen)
    return train(compiled, agent, lanes, screen)


def train(compiled: Programs, agent: Agent, lanes: int, screen: Screen) -> Retrained:
    """Chunk after chunk of the agent's updates, as many as the run made with it."""
    lane, total, most = agent.lane % lanes, agent.num_updates, programs.storage(agent.config)
    config = agent.configure(lanes)
    states = compiled.init(np.full(lanes, agent.seed, np.uint32), config)
    done, size, steps, chunks = 0, 1, 0, []
    started = time.perf_counter()
    with screen.training(total) as progress:
        while done < total:
            began = time.perf_counter()
            states, rows = compiled.chunk(states, config, size)
            chunks.append(_own(rows, size, lane))
            done += size
            each = (time.perf_counter() - began) / size
            steps += int(chunks[-1].env_steps.sum())
            took = time.perf_counter() - started
            progress.show(done, steps, took, _latest(np.asarray(chunks[-1].episode_return)))
            size = max(1, min(round(_CHUNK_SECONDS / each), most, total - done))
    metrics = {
        name: np.concatenate([getattr(chunk, name) for chunk in chunks] or [np.zeros(0)])
        for name in ppo.Metrics._fields
    }
    params = {name: leaf[lane] for name, leaf in to_arrays(states.params).items()}
    return Retrained(params, metrics, int(states.num_updates[lane]))


def _own(rows: ppo.Metrics, size: int, lane: int) -> ppo.Metrics:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:size, lane], rows)


def _latest(returns: np.ndarray) -> float:
    known = returns[~np.isnan(returns)]
    return float(known[-1]) if known.size else math.nan


def _frozen_after(request: Request) -> int | None:
    return request.summary.get("frozen_agents", {}).get(str(request.agent))


def _compare(agent: Agent, again: Retrained) -> dict[str, Any]:
    same = [again.params[name].tobytes() == leaf.tobytes() for name, leaf in agent.params.items()]
    differences = [
        np.abs(again.params[name].astype(float) - leaf).max() for name, leaf in agent.params.items()
    ]
    return {
        "frozen_after": again.made if again.made < agent.num_updates else None,
        "bit_for_bit": all(same),
        "parameter_difference": _number(max(differences)),
        "curves": _compare_curves(agent.curves, again.metrics),
    }


def _compare_curves(
    saved: dict[str, np.ndarray] | None, metrics: dict[str, np.ndarray]
) -> dict[str, Any] | None:
    """The largest differences between the saved and the new learning curves, where both have a
    value, and for how many updates the returns were the same."""
    if saved is None:
        return None
    differences = {
        name: np.nan_to_num(np.abs(ours.astype(float) - saved[name])).max(initial=0)
        for name, ours in metrics.items()
    }
    ours, theirs = metrics["episode_return"], saved["episode_return"]
    # A mean of several episodes may be rounded otherwise; another action makes a larger difference.
    parted = np.flatnonzero(~np.isclose(ours, theirs, rtol=1e-5, atol=0, equal_nan=True))
    return {
        "same_returns": int(parted[0]) if parted.size else len(ours),
        "differences": {name: _number(value) for name, value in differences.items()},
    }


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _write_metrics(path: Path, agent: Agent, metrics: dict[str, np.ndarray]) -> None:
    """The agent's metrics, a row an update, with the columns of the run's own metrics.csv."""
    several = agent.roster.num_settings > 1
    own = (agent.setting,) if several else ()
    steps = np.cumsum(metrics["env_steps"], dtype=np.int64).tolist()
    columns = [values.tolist() for values in metrics.values()]
    with folder.file_system(path), open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*LEADING, *("setting",) * several, *metrics])
        for update, (step, *values) in enumerate(zip(steps, *columns, strict=True), start=1):
            cells = ("" if math.isnan(value) else value for value in values)
            rows.writerow([update, agent.seed, step, *own, *cells])


def _write_trace(path: Path, trace: Trace) -> None:
    names = [f"observation_{index}" for index in range(trace.observation.shape[-1])]
    odds = [f"probability_{index}" for index in range(trace.probability.shape[-1])]
    header = ["episode", "step", *names, "action", "reward", "value", *odds]
    with folder.file_system(path), open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*header, "terminated", "truncated"])
        for episode, step in np.argwhere(trace.valid.T):
            one = jax.tree.map(lambda leaf, at=(step, episode): leaf[at], trace)
            ends = int(one.terminated), int(one.truncated)
            chosen = one.action, one.reward, one.value
            rows.writerow([episode, step, *one.observation, *chosen, *one.probability, *ends])


def _summary(
    request: Request, agent: Agent, found: dict[str, Any], trace: Trace, chosen: list[jax.Device]
) -> dict[str, Any]:
    returns = np.sum(trace.reward, axis=0, where=trace.valid, dtype=float).tolist()
    return {
        "run": str(request.run),
        "agent": agent.number,
        "seed": agent.seed,
        "setting": agent.setting,
        "coefficients": agent.coefficients,
        "how": request.how,
        "num_updates": agent.num_updates,
        "num_parameters": sum(leaf.size for leaf in agent.params.values()),
        "bit_for_bit": None,
        "parameter_difference": None,
        "curves": None,
        **found,
        "sampled": request.sampled,
        "episodes_seed": request.seed,
        "episode_returns": returns,
        "mean_return": float(np.mean(returns)),
        **_here(chosen),
    }
