"""Reads an experiment from flags, and a command's options from its dataclass."""

import argparse
import ast
import contextlib
import dataclasses
import difflib
import io
import itertools
import os
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ppo_jax.config import ALIASES, Config, override
from ppo_jax.recipes import RECIPES, row
from ppo_jax.run import xla
from ppo_jax.run.errors import InputError
from ppo_jax.run.experiment import (
    LARGEST_SEED,
    Agents,
    Experiment,
    fields_of,
    read_description,
)
from ppo_jax.run.storage import folder

_ALIASES = {
    f"--{prefix}{name}".replace("_", "-"): f"--{prefix}{field}".replace("_", "-")
    for name, field in ALIASES.items()
    for prefix in (("", "no-") if isinstance(getattr(Config, field), bool) else ("",))
}
_NONE = tyro.conf.arg(help_behavior_hint=lambda known: f"(default: {known or 'none'})")
_REGISTRY = tyro.constructors.ConstructorRegistry()
_OLDEST = {"jax": (0, 10, 2), "gymnax": (1, 0, 1)}


@dataclasses.dataclass(frozen=True)
class Algorithm(Config):
    """What is trained. CleanRL's names, such as --gamma, are understood as well."""

    env: str = "CartPole-v1"
    """A gymnax environment, another package's suite::id, or package.module:factory of one's own."""
    env_kwargs: Annotated[Mapping[str, str], _NONE] = dataclasses.field(default_factory=dict)
    """Arguments of the environment's constructor, such as size 20."""
    env_params: Annotated[Mapping[str, float], _NONE] = dataclasses.field(default_factory=dict)
    """Environment parameters to override, such as force_mag 5.0."""
    network: str = "mlp"
    """mlp, cnn, gru (with memory), or package.module:Class of one's own flax module."""
    optimizer: str | None = None
    """package.module:factory of an optax transformation, instead of clipping, Adam and
    annealing, which None keeps."""

    def __post_init__(self) -> None:
        """Nothing is checked here: flags become a Config first, which refuses in one line."""


@dataclasses.dataclass(frozen=True)
class Flags(Experiment):  # noqa: D101 - its text is that of --help
    __doc__ = Experiment.__doc__

    algorithm: Algorithm = dataclasses.field(default_factory=Algorithm)
    config: str | None = None
    """A run's config.json, to run it again; flags override it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """Options of the commands that read a run."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """Folder of a run of ppo-jax train; to evaluate, film or export also pretrained:ENV."""
    sampled: bool = False
    """Sample the actions (no: take the most probable ones)."""
    seed: int = 0
    """Seed of the episodes."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to compute (auto: the best that jax finds)."""
    quiet: bool = False
    """Print nothing but errors."""
    debug: bool = False
    """Print the traceback of an error."""


def read(arguments: list[str], command: str, about: str | None = None) -> Experiment:
    """The experiment that the flags describe, checked; --help is `about`. Raises InputError."""
    _make_current_folder_importable()
    arguments = _expand(arguments)
    defaults = _defaults(arguments)
    flags = parse(Flags, arguments, command, default=defaults, description=about)
    repeated = {
        name: getattr(flags.agents, name)[len(default) :] or default  # tyro appends to the default
        for name in ("sweep", "search", "evolve")
        for default in [getattr(defaults.agents, name)]
    }
    if flags.agents.recipe not in (*RECIPES, defaults.agents.recipe):
        raise InputError(f"--recipe is {flags.agents.recipe!r}; there are {', '.join(RECIPES)}")
    config = _config(flags.algorithm, defaults.algorithm)
    boxes = flags.agents, flags.stopping, flags.storage, flags.machine, flags.console
    experiment = Experiment(config, *boxes).replace(**repeated)
    return experiment.replace(plan=experiment.console.plan or command == "plan").check()


def parse(kind: Any, arguments: list[str], command: str, **more: Any) -> Any:
    """A command's options, from its dataclass. Raises InputError."""
    prog, said = f"ppo-jax {command}", io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            flat = (tyro.conf.OmitArgPrefixes,)
            return tyro.cli(
                kind, args=arguments, prog=prog, config=flat, registry=_REGISTRY, **more
            )
    except SystemExit as ended:
        if not ended.code:  # --help
            raise
    raise InputError(_shorten(said.getvalue(), [*_names(kind)], f"see {prog} --help"))


@_REGISTRY.primitive_rule
def _whole_numbers(kind: Any) -> tyro.constructors.PrimitiveConstructorSpec[int] | None:
    """Whole numbers may be written 1e6."""

    def read(words: list[str]) -> int:
        number = float(words[0]) if re.fullmatch(r"\d+(\.\d+)?e\d+", words[0]) else 0.5
        return int(number if number.is_integer() else words[0])

    if kind.type is not int:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        1, "INT", read, lambda value: type(value) is int, lambda value: [str(value)]
    )


def _names(kind: Any) -> Iterator[str]:
    """The flags of a command's options."""
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            yield from _names(field.type)
        else:
            yield f"--{field.name.replace('_', '-')}"


def _shorten(box: str, known: list[str], remedy: str) -> str:
    """What tyro's box says is wrong, in one line, with the nearest known flag, the flag's own form,
    or else the remedy."""
    parts = re.split(r"\n.*[─-]{9}.*", box[box.index("\n") :])  # below its title
    lines = [line[1:].rstrip("│ ") for line in next(filter(None, parts)).splitlines()]
    reason = " ".join(line.strip() for line in lines if not line.startswith(" " * 9))  # no help
    reason = re.sub(r"\. +Got errors:.*", "", reason).strip(".! ")
    if re.search(r"options: (true|false|yes|no|on|off|0|1)$", reason, re.IGNORECASE):
        remedy = "a switch takes no value: give --name for yes, --no-name for no"
    elif bare := re.fullmatch(r"Unrecognized options: ([A-Za-z][\w:.-]*)", reason):
        remedy = f"did you mean --env {bare[1]}?" if "--env" in known else remedy
    unknown = re.match(r"Unrecognized options: (--[\w-]+)", reason)
    near = difflib.get_close_matches(unknown[1], [*known, *_ALIASES], n=1) if unknown else []
    form = re.search(r"Argument helptext:.*\n[│ ] +(--.*?) *│?\n", box)
    example = re.search(r"such as (.*?)\.? \(default", " ".join(re.split(r"[│\s]+", box)))
    remedy = f"give {form[1]}" if form else remedy
    remedy += f", such as {example[1]}" if example else ""
    return f"{reason}; {f'did you mean {near[0]}?' if near else remedy}"


def read_options(kind: Any, arguments: list[str], command: str, **least: int) -> Any:
    """The options of a command that reads a run, none below its `least`. Raises InputError."""
    _make_current_folder_importable()
    options = parse(kind, arguments, command)
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and not low <= value < 2**31:
            raise InputError(f"--{name} is {value}; it must be from {low} to {2**31 - 1}")
    if not 0 <= options.seed <= LARGEST_SEED:
        raise InputError(f"--seed is {options.seed}; seeds go from 0 to {LARGEST_SEED}")
    return options


@contextlib.contextmanager
def computing(device: str, what: str, remedy: str) -> Iterator[list[Any]]:
    """Gives the devices of --device, with XLA's flags set; programs compiled meanwhile are cached,
    and where `what` is too much for a device, the error has the remedy."""
    xla.set_flags(1)
    from ppo_jax.run import devices  # jax: seconds, only after the flags have passed

    chosen = devices.select(device)
    with xla.compilation_cache(), devices.device_errors(what, remedy):
        yield chosen


def _make_current_folder_importable() -> None:
    """For package.module:name, as for `python -m`; the installed command's path lacks it."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, "")


def check_versions() -> None:
    """Raise InputError where a package that only imports later is too old."""
    for name, oldest in _OLDEST.items():
        wanted = f"install {name}>={'.'.join(map(str, oldest))}"
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise InputError(f"{name} is not installed; {wanted}") from None
        if tuple(int(number) for number in re.findall(r"\d+", version)[:3]) < oldest:
            raise InputError(f"{name} {version} is too old; {wanted}")


def _expand(arguments: list[str]) -> list[str]:
    """The arguments with aliases replaced, and `--resume` alone as `--resume newest`."""
    expanded = []
    for argument, following in itertools.pairwise([*arguments, "--"]):
        flag, equals, value = argument.partition("=")
        flag = flag.replace("_", "-") if flag.startswith("--") else flag
        expanded.append(f"{_ALIASES[flag]}{equals}{value}" if flag in _ALIASES else argument)
        if argument == "--resume" and following.startswith("-"):
            expanded.append("newest")
    return expanded


def _defaults(arguments: list[str]) -> Flags:
    """The flags' defaults: the recipe's, or those of the run to be repeated or resumed."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--recipe", "--env", "--config", "--resume", "--out"):
        early.add_argument(name, nargs="?", default=None)
    known, _ = early.parse_known_args(arguments)
    if known.config is not None:
        if known.recipe is not None:
            raise InputError(
                f"--config {known.config} has its own recipe; leave out --recipe {known.recipe}"
            )
        return _read_run(Path(known.config), "--config ", "give a run's config.json")
    held = Path(known.out or "", folder.CONFIG)
    if known.resume and known.out and held.exists():
        return _read_run(held, "", "remove it, and give --resume the run's own flags")
    name = known.recipe if known.recipe in RECIPES else "fast"  # `read` refuses another
    algorithm = Algorithm(**row(name, known.env or "CartPole-v1"))
    return Flags(algorithm=algorithm, agents=Agents(recipe=name))


def _read_run(path: Path, flag: str, remedy: str) -> Flags:
    """A run's config.json as flags."""
    try:
        with folder.reading(f"{flag}{path}", f"; {remedy}"):
            experiment = read_description(folder.read_json(path))
            fields = fields_of(experiment.algorithm)
            fields["env_kwargs"] = {name: repr(value) for name, value in fields["env_kwargs"]}
            return Flags(Algorithm(**fields), experiment.agents, experiment.stopping)
    except OSError as error:
        raise InputError(f"{flag}{path}: {error.strerror}; {remedy}") from error


def _config(flags: Algorithm, defaults: Algorithm) -> Config:
    base, asked = _values(defaults), _values(flags)
    given = {name: value for name, value in asked.items() if value != base[name]}
    try:
        return override(Config(**base), **given)
    except ValueError as error:
        raise InputError(str(error)) from error


def _values(flags: Algorithm) -> dict[str, Any]:
    """The fields; the values of --env-kwargs are Python's numbers and booleans, or else text."""
    env_kwargs: dict[str, Any] = dict(flags.env_kwargs)
    for name, text in env_kwargs.items():
        with contextlib.suppress(ValueError, SyntaxError):
            env_kwargs[name] = ast.literal_eval(text)
    return {**vars(flags), "env_kwargs": env_kwargs}
