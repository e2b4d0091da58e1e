"""The one description of a run: its dataclasses are the flags, the boxes of --help, config.json,
and what a resumed run is compared with. Needs no jax."""

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import tyro

from ppo_jax import __version__, objects
from ppo_jax.config import BOOLEAN, OBJECTS, SIZE, Config, Rule, check_field, one_of
from ppo_jax.recipes import RECIPES
from ppo_jax.run import sweeps
from ppo_jax.run.errors import InputError

FORMAT = 3  # of config.json
CUSTOM = "custom"  # the recipe of a configuration that Python gave
LARGEST_SEED = 2**32 - 1
_MOST_TRANSITIONS = 2**31 - 1  # of all agents at once in one update, counted in 32 bits

_TEXT = Rule(lambda value: isinstance(value, str), "text")
_TEXTS = Rule(
    lambda value: isinstance(value, tuple) and all(isinstance(one, str) for one in value),
    "a tuple of texts",
)
_COUNT = Rule(
    lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    "a whole number of at least 0",
)
_SECONDS = Rule(lambda value: isinstance(value, (int, float)) and value > 0, "above 0, or None")
_FRACTION = Rule(
    lambda value: isinstance(value, (int, float)) and 0 < value <= 1, "above 0 and at most 1"
)
_Repeated = tyro.conf.UseAppendAction[tuple[str, ...]]


def option(default: Any, rule: Rule) -> Any:
    """An option with its default and the rule of its values; None says that there is none."""
    metadata = {"rule": rule, "optional": default is None}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Agents:
    """Who is trained."""

    recipe: Literal["notebook", "standard", "fast", "custom"] = option(
        "fast", one_of(*RECIPES, CUSTOM)
    )
    """Where the defaults come from: the original teaching algorithm, the field's common CartPole
    configuration, or ours, tuned for each environment (custom: a configuration from Python)."""
    seed: int = option(0, _COUNT)
    """Agent i has the key of seed + i."""
    num_seeds: int = option(1, SIZE)
    """Agents trained at once, each with its own seed."""
    sweep: _Repeated = option((), _TEXTS)
    """Values of a hyperparameter, name=1,2,3; several make a grid, with every seed in each
    setting."""
    search: _Repeated = option((), _TEXTS)
    """Range of a hyperparameter to search at random, name=log:1e-5:1e-2 or name=uniform:0:1."""
    samples: int = option(0, _COUNT)
    """Settings that the search draws."""
    evolve: _Repeated = option((), _TEXTS)
    """Range of a hyperparameter that evolves (population-based training), in the search's form:
    every agent draws its own, and the worst quarter continue as children of the best."""
    evolve_every: int = option(20, SIZE)
    """Updates between generations; in each, most agents should end an episode."""
    group_size: int | None = option(None, SIZE)
    """Agents trained at once (none: all); more agents follow in groups of as many."""
    init_from: str | None = option(None, _TEXT)
    """Folder of a run: every agent begins with the parameters of its --agent."""
    agent: int | None = option(None, _COUNT)
    """Number of the agent that --init-from takes."""
    curves: bool = option(True, BOOLEAN)
    """Keep every agent's own metrics: in metrics.csv, about 190 bytes an update and agent."""


@dataclasses.dataclass(frozen=True)
class Stopping:
    """When the agents are evaluated, and training stops early."""

    stop_when_solved: float | None = option(None, _FRACTION)
    """Stop once this fraction of the agents (1: all) is solved."""
    evaluate_every: int | None = option(None, SIZE)
    """Updates between greedy evaluations, written to evaluations.csv (none: every 10 updates with
    --stop-when-solved, otherwise at the end alone)."""

    @property
    def evaluation_updates(self) -> int | None:
        """Updates between evaluations; none where there are none before the end."""
        return self.evaluate_every or (10 if self.stop_when_solved is not None else None)


@dataclasses.dataclass(frozen=True)
class Storage:
    """Where results and checkpoints go."""

    out: str | None = option(None, _TEXT)
    """Folder for the results (none: a fresh one under runs/)."""
    overwrite: bool = option(False, BOOLEAN)
    """Replace the run that --out holds."""
    resume: Literal["newest", "auto"] | None = option(None, one_of("newest", "auto"))
    """Continue the run that --out holds from its newest intact checkpoint (auto: start afresh where
    there is none). --resume alone says newest; other flags are the run's own."""
    checkpoint_every: int | None = option(None, SIZE)
    """Updates between checkpoints (none: by time alone)."""
    checkpoint_seconds: float | None = dataclasses.field(
        default=60.0, metadata={"rule": _SECONDS, "optional": True}
    )
    """Seconds between checkpoints, at least (none: by updates alone)."""
    checkpoints_kept: int = option(3, SIZE)
    """How many of the newest checkpoints to keep."""
    track: Literal["wandb", "trackio"] | None = option(None, one_of("wandb", "trackio"))
    """Send the metrics to Weights & Biases or to trackio as well."""
    track_project: str = option("ppo_jax", _TEXT)
    """The project there."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where and with whom to train."""

    device: Literal["auto", "cpu", "gpu", "tpu"] = option(
        "auto", one_of("auto", "cpu", "gpu", "tpu")
    )
    """Where to train (auto: the best that jax finds)."""
    compilation_cache: bool = option(True, BOOLEAN)
    """Keep compiled programs in the user's cache folder (~/.cache/ppo_jax)."""
    distributed: bool = option(False, BOOLEAN)
    """Train together with other processes, each its share of the agents: start the same command on
    every machine; the first writes. In SLURM and in clouds jax detects the rest."""
    coordinator: str | None = option(None, _TEXT)
    """Address HOST:PORT of the first process, if not auto-detected."""
    num_processes: int | None = option(None, SIZE)
    """Number of processes, if not auto-detected."""
    process_id: int | None = option(None, _COUNT)
    """This process's number, from 0, if not auto-detected."""


@dataclasses.dataclass(frozen=True)
class Screen:
    """What is printed."""

    plan: bool = option(False, BOOLEAN)
    """Say what the run would need, in memory and time, after a few updates; train nothing."""
    quiet: bool = option(False, BOOLEAN)
    """Print nothing but errors."""
    debug: bool = option(False, BOOLEAN)
    """Print the traceback of an error."""
    version: bool = option(False, BOOLEAN)
    """Print the version and exit."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Train PPO agents on a gymnax environment or your own, all of it compiled into one program.

    Every field of the recipe is a flag. What was trained is written to a folder under runs/:
    config.json, metrics.csv, parameters.npz, summary.json and TensorBoard events.
    """

    algorithm: Config = dataclasses.field(default_factory=Config)
    agents: Agents = dataclasses.field(default_factory=Agents)
    stopping: Stopping = dataclasses.field(default_factory=Stopping)
    storage: Storage = dataclasses.field(default_factory=Storage)
    machine: Machine = dataclasses.field(default_factory=Machine)
    console: Screen = dataclasses.field(default_factory=Screen)

    def check(self) -> Self:
        """This experiment, with the sweeps in one spelling, if it can be run. Raises InputError."""
        for name in (*_RESULT_BOXES[1:], "storage", "machine", "console"):
            _check_box(getattr(self, name))
        varied: dict[str, Mapping[str, Any]] = {
            "sweep": self.axes,
            "search": self.ranges,
            "evolve": self.evolving,
        }
        spelled: dict[str, Any] = {name: sweeps.to_flags(read) for name, read in varied.items()}
        twice = sorted(self.axes.keys() & self.ranges.keys())
        if twice:
            raise InputError(f"--search {', '.join(twice)} varies twice: --sweep has it as well")
        _check_agents(self.agents, self.algorithm)
        _check_storage(self.storage, self.machine, bool(self.evolving))
        return dataclasses.replace(self, agents=dataclasses.replace(self.agents, **spelled))

    def replace(self, **options: Any) -> Self:
        """This experiment with some options of its boxes changed, by name.

        Raises InputError for an option that there is not.
        """
        boxes = {}
        for name in (*_RESULT_BOXES[1:], "storage", "machine", "console"):
            box = getattr(self, name)
            own = {key: options.pop(key) for key in _fields_of(box).keys() & options.keys()}
            boxes[name] = dataclasses.replace(box, **own)
        for name in options:
            known = [key for box in boxes.values() for key in _fields_of(box)]
            near = difflib.get_close_matches(name, known, n=1)
            raise InputError(
                f"there is no option {name}" + "".join(f"; did you mean {one}?" for one in near)
            )
        return dataclasses.replace(self, **boxes)

    @property
    def label(self) -> str:
        """Name of a fresh folder for the run."""
        label = f"{objects.name(self.algorithm.env)}-{self.agents.recipe}-seed{self.agents.seed}"
        return label.replace(":", ".")

    @property
    def axes(self) -> sweeps.Axes:
        """Values of the hyperparameters that a grid goes through."""
        return sweeps.read_grid(self.agents.sweep, self.algorithm)

    @property
    def ranges(self) -> sweeps.Ranges:
        """Ranges that a random search draws hyperparameters from."""
        return sweeps.read_ranges("--search", self.agents.search, self.algorithm)

    @property
    def evolving(self) -> sweeps.Ranges:
        """Ranges of the hyperparameters that evolve."""
        return sweeps.read_ranges("--evolve", self.agents.evolve, self.algorithm)

    @property
    def num_settings(self) -> int:
        """Settings of the grid and the search, at most."""
        return math.prod(map(len, self.axes.values())) * max(self.agents.samples, 1)

    @property
    def agents_at_once(self) -> int:
        """Agents trained at once, at most."""
        total = self.num_settings * self.agents.num_seeds
        return min(total, self.agents.group_size or total)

    def describe(self) -> dict[str, Any]:
        """What decides the run's results, as config.json has it."""
        import jax

        config = self.algorithm
        fields = _fields_of(config)
        if config.total_timesteps is not None:
            fields["num_updates"] = None  # it follows
        fields["env_params"], fields["env_kwargs"] = (
            dict(config.env_params),
            dict(config.env_kwargs),
        )
        described = {name: _describe_object(fields[name]) for name in OBJECTS}
        boxes = {name: _fields_of(getattr(self, name)) for name in _RESULT_BOXES[1:]}
        return {
            "format": FORMAT,
            "algorithm": {**fields, **described},
            **boxes,
            "sources": sources(config),
            "versions": {"ppo_jax": __version__, "jax": jax.__version__},
        }


_RESULT_BOXES = ("algorithm", "agents", "stopping")  # what decides a run's results


def read_description(saved: Mapping[str, Any], **own: Any) -> Experiment:
    """The experiment of a config.json; a field that it lacks has the default that computes what was
    computed before there was that field.

    `own` stand for the environment, network and optimizer that a file cannot hold. Raises
    ValueError for an object that is not given, and for a value that a field cannot have.
    """
    saved = _upgraded(saved)
    fields = dict(saved["algorithm"])
    fields |= {name: given for name, given in own.items() if given is not None}
    for name in OBJECTS:
        if isinstance(fields.get(name), dict):
            raise ValueError(
                f"{name} was the object {fields[name]['object']}, which a file cannot hold; give it"
                f" in Python: load(path, {name}=...), or train(config, resume=...)"
            )
    agents, stopping = (
        {name: _as_field(value) for name, value in saved[key].items()} for key in _RESULT_BOXES[1:]
    )
    experiment = Experiment(Config(**fields).check(), Agents(**agents), Stopping(**stopping))
    for name in _RESULT_BOXES[1:]:
        _check_box(getattr(experiment, name))
    return experiment


def differences(asked: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, str]:
    """The fields in which two config.json differ, each with both values in words."""
    one, other = _flat(asked), _flat(saved)
    return {
        name: f"{name} {_in_words(other.get(name))} there, {_in_words(one.get(name))} asked for"
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    }


def sources(config: Config) -> dict[str, dict[str, str]]:
    """The files that the user's own parts come from, with their hashes, by field."""
    found = {}
    for name in OBJECTS:
        given = getattr(config, name)
        if (isinstance(given, str) and ":" not in given) or given is None:
            continue
        kind = given if isinstance(given, type) else type(given)
        module = given.partition(":")[0] if isinstance(given, str) else kind.__module__
        file = getattr(_imported(module), "__file__", None)
        if file and Path(file).suffix == ".py":
            digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
            found[name] = {"file": Path(file).name, "sha256": digest}
    return found


def _imported(module: str) -> Any:
    try:
        return sys.modules.get(module) or importlib.import_module(module)
    except Exception:  # the environment's own check says what is wrong with it
        return None


def _check_box(box: Any) -> None:
    for field in dataclasses.fields(box):
        try:
            check_field(field, getattr(box, field.name))
        except ValueError as error:
            raise InputError(f"--{str(error).replace('_', '-', field.name.count('_'))}") from error


def _check_agents(agents: Agents, config: Config) -> None:
    if agents.search and not agents.samples:
        raise InputError("--samples is 0; say how many settings --search draws")
    if agents.samples and not agents.search:
        raise InputError(f"--samples is {agents.samples}, but no --search draws them")
    if agents.evolve and (agents.sweep or agents.search or agents.group_size):
        raise InputError("--evolve goes with none of --sweep, --search and --group-size")
    if agents.evolve and agents.num_seeds < 4:
        raise InputError(
            f"--num-seeds is {agents.num_seeds}; --evolve needs a population of at least 4"
        )
    if agents.evolve and agents.evolve_every >= (config.num_updates or 0):
        raise InputError(
            f"--evolve-every is {agents.evolve_every}, but the run has {config.num_updates}"
            " updates: there would be no second generation"
        )
    if agents.seed + agents.num_seeds - 1 > LARGEST_SEED:
        raise InputError(
            f"--seed is {agents.seed} and --num-seeds {agents.num_seeds}; seeds go from 0 to"
            f" {LARGEST_SEED}"
        )
    if (agents.init_from is None) != (agents.agent is None):
        raise InputError("--init-from RUN and --agent NUMBER go together: one of them is missing")


def _check_storage(storage: Storage, machine: Machine, evolves: bool) -> None:
    if storage.resume and storage.out is None:
        raise InputError("--resume needs --out, the folder of the run to continue")
    if storage.resume and storage.overwrite:
        raise InputError("--resume continues the run, --overwrite replaces it; leave out one")
    if storage.track and importlib.util.find_spec(storage.track) is None:
        raise InputError(
            f"--track {storage.track}: it is not installed; pip install 'ppo-jax[{storage.track}]'"
        )
    if machine.distributed and evolves:
        raise InputError("--distributed trains agents apart, and --evolve together; leave out one")
    for name in ("coordinator", "num_processes", "process_id"):
        if not machine.distributed and getattr(machine, name) is not None:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} {getattr(machine, name)} needs --distributed")


def check_countable(experiment: Experiment) -> None:
    """Raise InputError where one update makes more transitions than 32 bits count."""
    config, agents = experiment.algorithm, experiment.agents_at_once
    transitions = agents * (config.min_transitions or config.batch_size)
    if transitions > _MOST_TRANSITIONS:
        raise InputError(
            f"{agents} agents at once make {transitions} transitions in one update; give at most"
            f" {_MOST_TRANSITIONS}, with --group-size fewer agents at once"
        )


def _fields_of(box: Any) -> dict[str, Any]:
    return {field.name: getattr(box, field.name) for field in dataclasses.fields(box)}


def _describe_object(given: Any) -> Any:
    """A field that may hold an object, as JSON: an object by the name of its class."""
    if given is None or isinstance(given, str):
        return given
    kind = given if isinstance(given, type) else type(given)
    return {"object": f"{kind.__module__}.{kind.__qualname__}"}


def _as_field(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _upgraded(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json with the boxes of this format; format 2 and older had all but the algorithm in
    one."""
    if "algorithm" in saved:
        return dict(saved)
    varied = {name: sweeps.to_flags(saved.get(name, {})) for name in ("sweep", "search", "evolve")}
    boxes = {
        key: {
            name: value
            for name, value in {**saved, **varied}.items()
            if name in {field.name for field in dataclasses.fields(box)}
        }
        for key, box in (("agents", Agents), ("stopping", Stopping))
    }
    if boxes["stopping"].get("stop_when_solved") is None:
        boxes["stopping"] = {}  # it named an interval that nothing used
    return {**saved, "algorithm": saved["config"], **boxes}


def _flat(description: Mapping[str, Any]) -> dict[str, Any]:
    saved = _upgraded(description)
    defaults = {
        "algorithm": {**_fields_of(Config()), "num_updates": None, "env_kwargs": {}},
        "agents": _fields_of(Agents()),
        "stopping": _fields_of(Stopping()),
    }
    flat: dict[str, Any] = {}
    for name in _RESULT_BOXES:
        flat |= {**defaults[name], **saved[name]}
    return json.loads(json.dumps(flat))


def _in_words(value: Any) -> str:
    return "none" if value is None else str(value)
