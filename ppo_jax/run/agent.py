"""An agent of a run, as the run's folder has it."""

import csv
import dataclasses
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ppo_jax import ppo
from ppo_jax.config import Config
from ppo_jax.run import folder, loop
from ppo_jax.run.failure import FILE_SYSTEM, Failure
from ppo_jax.run.job import Job
from ppo_jax.run.roster import Roster, saved_numbers
from ppo_jax.run.saved import read_config

_BROKEN = (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)


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
    hyperparameters: dict[str, float]  # of those that vary
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


def load(request: Request) -> Agent:
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
        shape = {"processes": request.processes, "lanes": request.lanes}
        saved = saved_numbers(everyone, shape, count)
        if request.agent not in saved:
            raise Failure(f"--agent is {request.agent}; {_saved(count, len(numbers))}")
        row = int(np.searchsorted(saved, request.agent))
        agent = Agent(
            number=request.agent,
            lane=int(lane[request.agent]),
            roster=everyone,
            config=job.config,
            hyperparameters=_hyperparameters(job, everyone, request.agent),
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
            config=read_config(settings),
            seed=settings["seed"],
            num_seeds=settings["num_seeds"],
            path=request.run,
            axes={name: tuple(values) for name, values in settings["sweep"].items()},
            ranges={name: tuple(bounds) for name, bounds in settings["search"].items()},
            num_samples=settings["samples"],
            evolve={name: tuple(bounds) for name, bounds in settings.get("evolve", {}).items()},
        )


def _hyperparameters(job: Job, everyone: Roster, number: int) -> dict[str, float]:
    """The agent's hyperparameters, of those that vary; of those that evolved the last ones."""
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
