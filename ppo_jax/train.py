"""python -m ppo_jax.train: train agents from the command line."""

import argparse
import ast
import contextlib
import dataclasses
import itertools
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

import tyro

from ppo_jax import __version__
from ppo_jax.config import OBJECTS, Config, override
from ppo_jax.recipes import RECIPES, row
from ppo_jax.run import folder, settings, xla
from ppo_jax.run.failure import Failure, exit_code
from ppo_jax.run.screen import Screen

_LARGEST_SEED = 2**32 - 1
_MOST_TRANSITIONS = 2**31 - 1  # of all agents at once in one update, counted in 32 bits
_OLDEST = {"jax": (0, 10, 2), "gymnax": (1, 0, 1)}


@dataclasses.dataclass(frozen=True)
class Flags(Config):
    """Train PPO agents on a gymnax environment or your own, all of it compiled into one program.

    Every field of the recipe is a flag. What was trained is written to a folder under runs/:
    config.json, metrics.csv, parameters.npz, summary.json and TensorBoard events.
    """

    env: str = "CartPole-v1"
    """A gymnax environment, or package.module:factory of one's own."""
    env_kwargs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Arguments of the environment's constructor, such as size 20."""
    network: str = "mlp"
    """mlp, cnn, or package.module:Class of one's own flax module."""
    optimizer: str | None = None
    """package.module:factory of an optax transformation, instead of clipping, Adam and
    annealing (none: those)."""
    recipe: Literal["notebook", "standard", "fast"] = "fast"
    """Where the defaults come from: the original teaching algorithm, the field's common CartPole
    configuration, or ours, tuned for each environment."""
    seed: int = 0
    """Agent i has the key of seed + i."""
    num_seeds: int = 1
    """Agents trained at once, each with its own seed."""
    sweep: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Values of a hyperparameter, name=1,2,3; several make a grid, with every seed in each
    setting."""
    search: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Range of a hyperparameter to search at random, name=log:1e-5:1e-2 or name=uniform:0:1."""
    samples: int = 0
    """Settings that the search draws."""
    evolve: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Range of a hyperparameter that evolves (population-based training), in the search's form:
    every agent draws its own, and the worst quarter goes on as the best one's children."""
    evolve_every: int = 20
    """Updates between generations; in each, most agents should end an episode."""
    curves: bool = True
    """Keep every agent's own metrics: in metrics.csv, about 190 bytes an update and agent."""
    group_size: int | None = None
    """Agents to train at once (none: all); more agents follow in groups of as many."""
    stop_when_solved: float | None = None
    """Stop once this fraction of the agents (1: all) is solved."""
    drop_solved: bool = False
    """Go on without the solved agents whenever they are half of the batch, which compiles again;
    the others' last bits then differ from a run without."""
    evaluate_every: int = 10
    """Updates between the greedy evaluations that stopping and dropping need."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to train (auto: the best that jax finds)."""
    out: str | None = None
    """Folder for the results (none: a fresh one under runs/)."""
    overwrite: bool = False
    """Replace the run that --out holds."""
    resume: Literal["newest", "auto"] | None = None
    """Go on with the run that --out holds, from its newest whole checkpoint (auto: start afresh
    where there is none). --resume alone says newest; other flags are the run's own."""
    checkpoint_every: int | None = None
    """Updates between checkpoints (none: by time alone)."""
    checkpoint_seconds: float | None = 60.0
    """Seconds between checkpoints, at least (none: by updates alone)."""
    checkpoints_kept: int = 3
    """How many of the newest checkpoints to keep."""
    config: str | None = None
    """A run's config.json, to run it again; flags override it."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder (~/.cache/ppo_jax)."""
    plan: bool = False
    """Say what the run would need, in memory and time, after a few updates; train nothing."""
    distributed: bool = False
    """Train together with other processes, each its share of the agents: start the same command on
    every machine; the first writes. In SLURM and in clouds jax finds out the rest."""
    coordinator: str | None = None
    """Address HOST:PORT of the first process, where jax cannot find it."""
    num_processes: int | None = None
    """Number of processes, where jax cannot find it."""
    process_id: int | None = None
    """This process's number, from 0, where jax cannot find it."""
    quiet: bool = False
    """Print nothing but errors."""
    debug: bool = False
    """Print the traceback of an error."""
    version: bool = False
    """Print the version and exit."""

    def __post_init__(self) -> None:
        """Nothing is checked here: flags become a Config first, which refuses in one line."""


_JOB_FLAGS = (
    *("recipe", "seed", "num_seeds", "device", "curves", "group_size", "stop_when_solved"),
    *("drop_solved", "evaluate_every", "evolve_every", "overwrite", "resume"),
    *("checkpoint_every", "checkpoint_seconds", "checkpoints_kept"),
)
_SAVED_FLAGS = (
    *("recipe", "seed", "num_seeds", "samples", "curves", "group_size"),
    *("drop_solved", "stop_when_solved", "evaluate_every", "evolve_every"),
)
_VARIES = ("sweep", "search", "evolve")
_CONFIG_FIELDS = [field.name for field in dataclasses.fields(Config)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run it, and return the process's exit code."""
    return exit_code(_main, arguments)


def _main(arguments: list[str]) -> int:
    _make_current_folder_importable()
    arguments = _spelled_out(arguments)
    defaults = _defaults(arguments)
    flags = tyro.cli(Flags, args=arguments, default=defaults, prog="python -m ppo_jax.train")
    varies: dict[str, Any] = {
        name: _instead(getattr(flags, name), getattr(defaults, name)) for name in _VARIES
    }
    flags = dataclasses.replace(flags, **varies)
    if flags.version:
        print(f"ppo_jax {__version__}")
        return 0
    config = _config(flags, defaults)
    _check(flags)
    axes, ranges = settings.read(flags.sweep, flags.search, flags.samples, config)
    crossed = bool(axes or ranges or flags.group_size)
    evolve = settings.read_evolve(
        flags.evolve, flags.evolve_every, crossed, flags.num_seeds, config
    )
    label = f"{config.env}-{flags.recipe}-seed{flags.seed}".replace(":", ".")
    path = folder.choose(flags.out, label)
    folder.refuse_if_held(path)
    if flags.resume:
        _refuse_nothing(path, flags)
    elif not flags.distributed:
        folder.refuse_another_run(path, flags.overwrite)
    several = settings.count(axes) * max(flags.samples, 1) * flags.num_seeds
    at_once = min(several, flags.group_size or several)
    _refuse_uncountable(config, at_once)
    _refuse_old_versions()
    xla.set_flags(at_once)

    # jax and gymnax: seconds, only after the flags have passed.
    from ppo_jax.run import cache, hosts, loop
    from ppo_jax.run.job import Job

    if flags.distributed:
        hosts.join(flags.coordinator, flags.num_processes, flags.process_id)
    screen = Screen(flags.quiet or not hosts.first())
    job = Job(
        **{name: getattr(flags, name) for name in _JOB_FLAGS},
        config=config,
        path=path,
        axes=axes,
        ranges=ranges,
        num_samples=flags.samples,
        evolve=evolve,
    )
    if flags.plan:
        from ppo_jax.run import plan

        plan.show(job, screen)
        return 0
    with cache.kept() if flags.compilation_cache else contextlib.nullcontext():
        summary = loop.run(job, screen)
    _report(summary, path, screen)
    return 0


def _make_current_folder_importable() -> None:
    """For package.module:name, as for `python -m`; the installed command's path lacks it."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, "")


def _spelled_out(arguments: list[str]) -> list[str]:
    """The arguments with `--resume` alone as `--resume newest`, for a flag needs its value."""
    spelled = []
    for argument, following in itertools.pairwise([*arguments, "--"]):
        spelled.append(argument)
        if argument == "--resume" and following.startswith("-"):
            spelled.append("newest")
    return spelled


def _instead(together: tuple[str, ...], saved: tuple[str, ...]) -> tuple[str, ...]:
    """What was given of a flag, without the run's own, which the parser puts before it; where
    nothing was given, the run's own."""
    return together[len(saved) :] or saved


def _refuse_nothing(path: Path, flags: Flags) -> None:
    """Raise Failure (2) where --resume has nothing to go on with, or contradicts another flag."""
    if flags.out is None:
        raise Failure("--resume needs --out, the folder of the run to go on with")
    if flags.overwrite:
        raise Failure("--resume goes on with the run, --overwrite replaces it; leave out one")
    if flags.distributed:
        raise Failure("--resume: runs of several processes (--distributed) save no checkpoints yet")
    if flags.resume == "newest" and not folder.holds_a_run(path):
        raise Failure(
            f"--out {path} holds no run to resume; --resume auto starts afresh where there is none"
        )


def _defaults(arguments: list[str]) -> Flags:
    """The flags' defaults: the recipe's, or those of the run to be repeated."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--recipe", nargs="?", default=None)
    early.add_argument("--env", nargs="?", default=None)
    early.add_argument("--config", nargs="?", default=None)
    early.add_argument("--resume", nargs="?", default=None)
    early.add_argument("--out", nargs="?", default=None)
    known, _ = early.parse_known_args(arguments)
    if known.resume and known.out and known.config is None:
        held = Path(known.out, folder.CONFIG)
        if held.exists():
            return _read_config(held, "", "remove it, and give --resume the run's own flags")
    if known.config is not None:
        if known.recipe is not None:
            raise Failure(
                f"--config {known.config} has its own recipe; leave out --recipe {known.recipe}"
            )
        return _read_config(Path(known.config), "--config ", "give a run's config.json")
    name = known.recipe if known.recipe in RECIPES else "fast"  # tyro refuses another name
    return Flags(**row(name, known.env or "CartPole-v1"), recipe=cast(Any, name))


def _read_config(path: Path, flag: str, remedy: str) -> Flags:
    try:
        saved = folder.read_json(path)
        fields = {**saved["config"], "hidden_sizes": tuple(saved["config"]["hidden_sizes"])}
        fields["env_kwargs"] = {
            name: repr(value) for name, value in fields.get("env_kwargs", {}).items()
        }
        for name in OBJECTS:
            if isinstance(fields.get(name), dict):
                raise ValueError(
                    f"{name} was the object {fields[name]['object']}, which only Python can give"
                )
        fields |= {name: saved[name] for name in _SAVED_FLAGS if name in saved}
        for name in _VARIES:
            fields[name] = settings.as_flags(saved.get(name, {}))
        _refuse_other_types(fields)
        return Flags(**fields)
    except OSError as error:
        raise Failure(f"{flag}{path}: {error.strerror}; {remedy}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise Failure(f"{flag}{path} is not a run's config.json ({reason}); {remedy}") from error


def _refuse_other_types(fields: Mapping[str, Any]) -> None:
    """Raise ValueError for a value that its flag could not have."""
    hints = get_type_hints(Flags)
    for name, value in fields.items():
        if not _fits(value, hints[name]):
            raise ValueError(f"{name} is {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether the value is of the type; a whole number is a float as well."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value in inner
    if kind is tuple:
        return isinstance(value, tuple) and all(_fits(one, inner[0]) for one in value)
    if kind is Mapping:
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if hint is float or float in inner:
        return isinstance(value, hint | int)
    return isinstance(value, hint)


def _config(flags: Flags, defaults: Flags) -> Config:
    given = {
        name: _value(flags, name)
        for name in _CONFIG_FIELDS
        if getattr(flags, name) != getattr(defaults, name)
    }
    try:
        base = Config(**{name: _value(defaults, name) for name in _CONFIG_FIELDS})
        return override(base, **given)
    except ValueError as error:
        raise Failure(str(error)) from error


def _value(flags: Flags, name: str) -> Any:
    """A field's value; those of --env-kwargs are Python's numbers and booleans, or else text."""
    if name != "env_kwargs":
        return getattr(flags, name)
    return {key: _literal(text) for key, text in flags.env_kwargs.items()}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _check(flags: Flags) -> None:
    if flags.num_seeds < 1:
        raise Failure(f"--num-seeds is {flags.num_seeds}; it must be at least 1")
    for name in (
        *("group_size", "evaluate_every", "evolve_every"),
        *("checkpoint_every", "checkpoints_kept"),
    ):
        if getattr(flags, name) is not None and getattr(flags, name) < 1:
            flag = name.replace("_", "-")
            raise Failure(f"--{flag} is {getattr(flags, name)}; it must be at least 1")
    seconds = flags.checkpoint_seconds
    if seconds is not None and not seconds > 0:
        raise Failure(f"--checkpoint-seconds is {seconds}; it must be above 0, or None")
    if flags.distributed and flags.checkpoint_every:
        raise Failure(
            "--checkpoint-every: runs of several processes (--distributed) save no checkpoints yet"
        )
    if flags.drop_solved and (flags.distributed or flags.evolve):
        raise Failure(
            "--drop-solved makes one process's batch smaller: leave out --distributed and --evolve"
        )
    if flags.distributed and flags.evolve:
        raise Failure("--distributed trains agents apart, and --evolve together; leave out one")
    for name in ("coordinator", "num_processes", "process_id"):
        if not flags.distributed and getattr(flags, name) is not None:
            flag = name.replace("_", "-")
            raise Failure(f"--{flag} {getattr(flags, name)} needs --distributed")
    fraction = flags.stop_when_solved
    if fraction is not None and not 0 < fraction <= 1:
        raise Failure(f"--stop-when-solved is {fraction}; it must be above 0 and at most 1")
    if flags.seed < 0 or flags.seed + flags.num_seeds - 1 > _LARGEST_SEED:
        raise Failure(
            f"--seed is {flags.seed} and --num-seeds {flags.num_seeds}; seeds go from 0 to"
            f" {_LARGEST_SEED}"
        )


def _refuse_uncountable(config: Config, agents: int) -> None:
    transitions = agents * (config.min_transitions or config.batch_size)
    if transitions > _MOST_TRANSITIONS:
        raise Failure(
            f"{agents} agents at once make {transitions} transitions in one update; give at most"
            f" {_MOST_TRANSITIONS}, with --group-size fewer agents at once"
        )


def _refuse_old_versions() -> None:
    for name, oldest in _OLDEST.items():
        wanted = f"install {name}>={'.'.join(map(str, oldest))}"
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise Failure(f"{name} is not installed; {wanted}") from None
        if tuple(int(number) for number in re.findall(r"\d+", version)[:3]) < oldest:
            raise Failure(f"{name} {version} is too old; {wanted}")


def _report(summary: dict[str, Any], path: Path, screen: Screen) -> None:
    returns = [value for value in summary["eval_return_per_seed"] if value is not None]
    mean = sum(returns) / len(returns) if returns else float("nan")
    screen.say(
        f"trained {summary['env_steps']:,} steps in {summary['train_seconds']:.1f} s:"
        f" {summary['steps_per_second']:,.0f} steps/s"
    )
    verdict = f"greedy return {mean:.1f} over {summary['eval_episodes']} fresh episodes"
    if summary["solved_fraction"] is not None:
        agents = len(summary["eval_return_per_seed"])
        solved = round(summary["solved_fraction"] * agents)
        said = "solved" if solved == agents else f"solved by {solved} of {agents} agents"
        said = "not solved" if not solved else said
        verdict = f"{said}: {verdict} (solved at {summary['solved_at']:g})"
    screen.say(verdict)
    if summary["diverged_seeds"]:
        screen.say(
            "diverged, and frozen at the last finite state: agents"
            f" {', '.join(summary['frozen_agents'])}"
        )
    if summary["evolution"]:
        best = summary["evolution"]
        values = ", ".join(f"{name} {value:.4g}" for name, value in best["coefficients"].items())
        screen.say(f"best of the population: agent {best['agent']} with {values}")
    files = [name for name in folder.FILES if (path / name).exists()]
    screen.say(f"wrote {path}{os.sep}: {', '.join(files)}, TensorBoard events")


if __name__ == "__main__":
    sys.exit(main())
