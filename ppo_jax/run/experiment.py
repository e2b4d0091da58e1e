"""The one description of a run: its dataclasses are the flags, the boxes of --help, config.json,
and what a resumed run is compared with. Needs no jax."""

import dataclasses
import difflib
import hashlib
import importlib.util
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tyro

from ppo_jax import __version__, objects
from ppo_jax.config import ALIASES, BOOLEAN, OBJECTS, SIZE, Config, Rule, check_field, one_of
from ppo_jax.config import static as option
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
    "a tuple of texts, such as ('learning_rate=1e-3,1e-2',)",
)
_COUNT = Rule(
    lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    "a whole number of at least 0",
)
_SECONDS = Rule(lambda value: isinstance(value, (int, float)) and value > 0, "above 0, or None")
_FRACTION = Rule(
    lambda value: isinstance(value, (int, float)) and 0 < value <= 1, "above 0 and at most 1"
)
Device = Literal[
    "auto", "cpu", "gpu", "tpu", "gpu:a100", "gpu:h100", "gpu:h200", "tpu:v5e:1x1", "tpu:v5e:2x2"
]
_Repeated = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Agents:
    """Who is trained."""

    # Text, for the flag has no `custom`, which is what a run from Python says.
    recipe: Annotated[str, tyro.conf.arg(metavar=f"{{{','.join(RECIPES)}}}")] = option(
        "fast", one_of(*RECIPES, CUSTOM)
    )
    """Where the defaults come from: the original teaching algorithm, the field's common CartPole
    configuration, or ours, tuned for each environment."""
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
    """Agents trained at once, others follow in groups of as many; None trains all."""
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
    """Updates between greedy evaluations, written to evaluations.csv; None is every 10 updates with
    --stop-when-solved, otherwise at the end alone."""

    @property
    def evaluation_updates(self) -> int | None:
        """Updates between evaluations; none where there are none before the end."""
        return self.evaluate_every or (10 if self.stop_when_solved is not None else None)


@dataclasses.dataclass(frozen=True)
class Storage:
    """Where results and checkpoints go."""

    out: str | None = option(None, _TEXT)
    """Folder for the results; None is a fresh one under runs/."""
    overwrite: bool = option(False, BOOLEAN)
    """Replace the run that --out holds."""
    resume: Literal["newest", "auto"] | None = option(None, one_of("newest", "auto"))
    """Continue the run that --out holds from its newest intact checkpoint (auto: start afresh where
    there is none). --resume alone says newest; other flags are the run's own."""
    checkpoint_every: int | None = option(None, SIZE)
    """Updates between checkpoints; None saves by time alone."""
    checkpoint_seconds: float | None = option(60.0, _SECONDS, optional=True)
    """Seconds between checkpoints, at least; None saves by updates alone."""
    checkpoints_kept: int = option(3, SIZE)
    """How many of the newest checkpoints to keep."""
    render: bool = option(False, BOOLEAN)
    """Film agent 0 at the end: film.gif."""
    track: Literal["wandb", "trackio"] | None = option(None, one_of("wandb", "trackio"))
    """Send the metrics to Weights & Biases or to trackio as well."""
    track_project: str = option("ppo_jax", _TEXT)
    """The project there."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where and with whom to train."""

    device: Device = option("auto", one_of(*get_args(Device)))
    """Where to train (auto: the best that jax finds); with a colon, a device that need not be here:
    only a plan can be made for it."""
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
        """This experiment, with its sweeps in one spelling, if it can be run. Raises InputError."""
        for name in _OPTION_BOXES:
            _check_box(getattr(self, name))
        read: dict[str, Any] = {"sweep": self.axes, "search": self.ranges, "evolve": self.evolving}
        for line in _contradictions(self):
            raise InputError(line)
        return self.replace(**{name: sweeps.to_flags(varied) for name, varied in read.items()})

    def replace(self, **options: Any) -> Self:
        """This experiment with some options changed. Raises InputError for unknown ones."""
        boxes = {name: getattr(self, name) for name in _OPTION_BOXES}
        homes = {option: name for name, box in boxes.items() for option in vars(box)}
        for name, value in options.items():
            if name not in homes:
                field = ALIASES.get(name, name)
                if field in (known.name for known in dataclasses.fields(Config)):
                    given = f"recipe(..., {field}=...)"
                    raise InputError(f"{name} is no option: give the config {given}")
                near = "".join(difflib.get_close_matches(name, homes, n=1))
                hint = f"; did you mean {near}?" if near else ""
                raise InputError(f"no option is called {name}{hint}")
            boxes[homes[name]] = dataclasses.replace(boxes[homes[name]], **{name: value})
        return dataclasses.replace(self, **boxes)

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
    def agents_at_once(self) -> int:
        """Agents trained at once, at most."""
        settings = math.prod(map(len, self.axes.values())) * max(self.agents.samples, 1)
        total = settings * self.agents.num_seeds
        return min(total, self.agents.group_size or total)

    @property
    def label(self) -> str:
        """Name of a fresh folder for the run."""
        label = f"{objects.name(self.algorithm.env)}-{self.agents.recipe}-seed{self.agents.seed}"
        return label.replace(":", ".")

    def describe(self) -> dict[str, Any]:
        """What decides the run's results, as config.json has it."""
        import jax

        config, fields = self.algorithm, fields_of(self.algorithm)
        fields |= {"env_params": dict(config.env_params), "env_kwargs": dict(config.env_kwargs)}
        fields |= {name: objects.describe(fields[name]) for name in OBJECTS}
        sources = {name: _source(getattr(config, name)) for name in OBJECTS}
        return {
            "format": FORMAT,
            "algorithm": fields,
            "agents": dict(vars(self.agents)),
            "stopping": dict(vars(self.stopping)),
            "sources": {name: found for name, found in sources.items() if found},
            "versions": {"ppo_jax": __version__, "jax": jax.__version__},
        }


_OPTION_BOXES = ("agents", "stopping", "storage", "machine", "console")


def fields_of(config: Config) -> dict[str, Any]:
    """The configuration's fields by name; of its two lengths the one that was given."""
    follows = {"num_updates": None} if config.total_timesteps is not None else {}
    return {**vars(config), **follows}


def read_description(saved: Mapping[str, Any], **own: Any) -> Experiment:
    """The experiment of a config.json; a field that it lacks has the default that computes what was
    computed before there was that field.

    `own` are the environment, network and optimizer that a file cannot hold. Raises
    NotImportedError for one that is not given, ValueError for a value that a field cannot have.
    """
    boxes = _boxes(saved)
    fields = {**boxes["algorithm"], **{name: one for name, one in own.items() if one is not None}}
    missing = [name for name in OBJECTS if isinstance(fields.get(name), dict)]
    if missing:
        parts = " and ".join(f"{name} ({fields[name]['object']})" for name in missing)
        given = ", ".join(f"{name}=..." for name in missing)
        raise objects.NotImportedError(
            f"no file holds its {parts}, given as a Python object; in Python,"
            f" load(path, {given}) takes it, and train(config, resume='newest') goes on; commands"
            f" read runs of --{missing[0]} package.module:name"
        )
    agents = Agents(**_with_tuples(boxes["agents"]))
    stopping = Stopping(**_with_tuples(boxes["stopping"]))
    for box in (agents, stopping):
        _check_box(box)
    fields["env_kwargs"] = _with_tuples(fields.get("env_kwargs", {}))
    return Experiment(Config(**fields).check(), agents, stopping)


def differences(asked: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, str]:
    """The fields in which two config.json differ, each with both values in words."""
    ours, theirs = _with_defaults(asked), _with_defaults(saved)
    return {
        name: f"{name} {theirs.get(name)} there, {ours.get(name)} asked for"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    }


def _with_tuples(value: Any) -> Any:
    """What JSON has made of tuples, lists, as tuples again."""
    if isinstance(value, dict):
        return {name: _with_tuples(one) for name, one in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _is_json(value: Any) -> bool:
    try:
        return _with_tuples(json.loads(json.dumps(value))) == value
    except (TypeError, ValueError):
        return False


def _check_box(box: Any) -> None:
    for field in dataclasses.fields(box):
        try:
            check_field(field, getattr(box, field.name))
        except ValueError as error:
            raise InputError(f"--{str(error).replace('_', '-', field.name.count('_'))}") from error


def _contradictions(experiment: Experiment) -> Iterator[str]:
    """What options say that does not go together, a line each."""
    agents, storage, machine = experiment.agents, experiment.storage, experiment.machine
    config, at_once = experiment.algorithm, experiment.agents_at_once
    twice = sorted(experiment.axes.keys() & experiment.ranges.keys())
    if twice:
        yield f"--search {', '.join(twice)} varies twice: --sweep has it as well"
    for name, value in config.env_kwargs:
        if not _is_json(value):
            yield (
                f"env_kwargs {name} is {value!r}, which no config.json can hold; give numbers,"
                " texts, True or False, None, or tuples of these"
            )
    if agents.search and not agents.samples:
        yield "--samples is 0; say how many settings --search draws"
    if agents.samples and not agents.search:
        yield f"--samples is {agents.samples}, but there is no --search to draw them from"
    if agents.evolve and (agents.sweep or agents.search or agents.group_size):
        yield "--evolve goes with none of --sweep, --search and --group-size"
    if agents.evolve and agents.num_seeds < 4:
        yield f"--num-seeds is {agents.num_seeds}; --evolve needs a population of at least 4"
    if agents.evolve and agents.evolve_every >= (config.num_updates or 0):
        yield (
            f"--evolve-every is {agents.evolve_every}, but the run has {config.num_updates}"
            " updates: there would be no second generation"
        )
    if agents.seed + agents.num_seeds - 1 > LARGEST_SEED:
        seeds = f"--seed is {agents.seed} and --num-seeds {agents.num_seeds}"
        yield f"{seeds}; seeds go from 0 to {LARGEST_SEED}"
    if (agents.init_from is None) != (agents.agent is None):
        yield "--init-from RUN and --agent NUMBER go together: one of them is missing"
    transitions = at_once * (config.min_transitions or config.batch_size)
    if transitions > _MOST_TRANSITIONS:
        yield (
            f"{at_once} agents at once make {transitions} transitions in one update; give at most"
            f" {_MOST_TRANSITIONS}, with --group-size fewer agents at once"
        )
    if storage.resume and storage.out is None:
        yield "--resume needs --out, the folder of the run to continue"
    if storage.resume and storage.overwrite:
        yield "--resume continues the run, --overwrite replaces it; leave out one"
    if storage.track and importlib.util.find_spec(storage.track) is None:
        yield f"--track {storage.track}: not installed; pip install 'ppo-jax[{storage.track}]'"
    if ":" in machine.device and not experiment.console.plan:
        yield f"--device {machine.device} is for ppo-jax plan; train on auto, cpu, gpu or tpu"
    if machine.distributed and agents.evolve:
        yield "--distributed trains agents apart, and --evolve together; leave out one"
    for name in ("coordinator", "num_processes", "process_id"):
        if not machine.distributed and getattr(machine, name) is not None:
            yield f"--{name.replace('_', '-')} {getattr(machine, name)} needs --distributed"


def _source(given: Any) -> dict[str, str] | None:
    """File and hash of the module that the user's own part comes from; none for built-in ones."""
    name = given.partition(":")[0] if isinstance(given, str) and ":" in given else None
    if given is not None and not isinstance(given, str):
        own = given[0] if isinstance(given, tuple) else given  # an Environment is of functions
        name = getattr(own, "__module__", type(own).__module__)
    path = Path(getattr(sys.modules.get(name or ""), "__file__", None) or "")
    if path.suffix != ".py":
        return None
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _boxes(saved: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The boxes of a config.json; format 2 and older had the options in one."""
    if saved.get("format", 0) > FORMAT:
        raise ValueError(f"it has format {saved['format']}, and this version reads {FORMAT}")
    if "algorithm" in saved:
        return {name: saved[name] for name in ("algorithm", "agents", "stopping")}
    varied = {name: sweeps.to_flags(saved.get(name, {})) for name in ("sweep", "search", "evolve")}
    agents = {name: {**saved, **varied}[name] for name in vars(Agents()) if name in saved}
    fraction = saved.get("stop_when_solved")  # without it the interval meant nothing
    every = None if fraction is None else saved["evaluate_every"]
    stopping = {"stop_when_solved": fraction, "evaluate_every": every}
    return {"algorithm": saved["config"], "agents": agents, "stopping": stopping}


def _with_defaults(saved: Mapping[str, Any]) -> dict[str, Any]:
    """All fields as JSON has them, with the defaults of what is not there; "none" for none."""
    defaults = Experiment().describe()
    boxes = [{**defaults[name], **box} for name, box in _boxes(saved).items()]
    fields = json.loads(json.dumps(boxes))
    return {
        name: "none" if value is None else value for box in fields for name, value in box.items()
    }
