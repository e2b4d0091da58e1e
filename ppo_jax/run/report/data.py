"""Reads what a report shows from a run's folder, as plain values; an unfinished run's as well."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ppo_jax import env
from ppo_jax.config import Config
from ppo_jax.recipes import RECIPES, row
from ppo_jax.run import agents, ranking
from ppo_jax.run.agents import AgentTable
from ppo_jax.run.experiment import Experiment, read_description
from ppo_jax.run.report.curves import POINTS, Curve, binned, carried, ends, interquartile
from ppo_jax.run.storage import folder, tables

SEEDS = 30  # drawn as lines of their own
SETTINGS = 8  # of a sweep that are drawn: the default and the best
DIAGNOSTICS = {
    "approx_kl": "KL divergence",
    "clip_fraction": "clip fraction",
    "entropy": "entropy",
    "explained_variance": "explained variance",
    "policy_loss": "policy loss",
    "value_loss": "value loss",
    "actor_grad_norm": "gradient norm, actor",
    "critic_grad_norm": "gradient norm, critic",
    "episode_length": "episode length",
}
_STAND_INS = {"env": "CartPole-v1", "network": "mlp", "optimizer": "an:object"}


class Group(NamedTuple):
    """Agents that a report draws in one color: those of a setting, or of a run."""

    name: str
    seeds: np.ndarray  # [agents]
    curves: dict[str, Curve]  # by metric; "solved" is the share of agents at the threshold
    lines: np.ndarray  # [points, agents], of the first agents, their returns while training
    returns: np.ndarray  # [agents], greedy, at the end; NaN where an agent diverged
    solving: np.ndarray  # [agents], steps to solve; inf where it never did


class Run(NamedTuple):
    """What there is to show of a run."""

    path: Path
    env: str
    table: AgentTable
    description: dict[str, Any]
    summary: dict[str, Any]  # empty while the run trains
    groups: list[Group]  # the best first
    rows: list[dict[str, Any]]  # of the ranking
    updates: int  # so far
    solved_at: float | None
    best: env.Best | None  # the highest return there is; none where it is unknown
    evolution: dict[str, Curve]  # by hyperparameter: of the best agent, and the population's range


def read(
    path: Path,
    table: AgentTable | None = None,
    summary: dict[str, Any] | None = None,
    metrics: dict[str, np.ndarray] | None = None,
) -> Run:
    """What the run of this folder has to show; a caller gives what it has read already.

    Raises OSError without a config.json, ValueError for files that are not a run's.
    """
    saved = folder.read_json(path / folder.CONFIG)
    algorithm = saved.get("algorithm") or {}
    objects = {name for name in _STAND_INS if isinstance(algorithm.get(name), dict)}
    if table is None:
        # Another part stands in for an object, which no file holds; not for an environment whose
        # parameters varied, for the default setting has its own.
        needed = {"env"} if "env_params." in str(saved.get("agents")) else set()
        own = {name: _STAND_INS[name] for name in objects - needed}
        table = agents.table(read_description(saved, **own))
    if summary is None:
        found = (path / folder.SUMMARY).exists()
        summary = folder.read_json(path / folder.SUMMARY) if found else {}
    growing = not summary.get("finished")
    if metrics is None:
        metrics = tables.read_metrics(path / folder.METRICS, table, growing)
    metrics = metrics if metrics and len(metrics["step"]) else {}
    evaluations = tables.read_metrics(path / folder.EVALUATIONS, table, growing)
    described = table.experiment.describe()
    described["algorithm"] |= {name: str(algorithm[name]["object"]) for name in objects}
    described["versions"] = saved.get("versions", {})
    name = described["algorithm"]["env"]
    solved_at = env.SOLVED_AT.get(name)
    rows = summary.get("statistics") or []
    return Run(
        path=path,
        env=name,
        table=table,
        description=described,
        summary=summary,
        groups=_groups(table, summary, metrics, evaluations, rows, solved_at),
        rows=rows,
        updates=len(metrics["step"]) if metrics else summary.get("num_updates", 0),
        solved_at=solved_at,
        best=agents.best_known(table.experiment, name),
        evolution=_evolution(path / folder.EVOLUTION, table, growing),
    )


def options(run: Run) -> Iterator[tuple[str, str, Any]]:
    """What was asked for: box, name and value of every option."""
    for box in ("algorithm", "agents", "stopping"):
        for name, value in run.description[box].items():
            yield box, name, value


def differences(run: Run) -> list[list[str]]:
    """Options whose values are not the recipe's, or the defaults: name, value, usual value."""
    recipe, named = run.description["agents"]["recipe"], run.description["algorithm"]["env"]
    usual = {**vars(Config()), **(row(recipe, named) if recipe in RECIPES else {})}
    if usual["total_timesteps"] is not None:
        usual["num_updates"] = None  # it follows
    defaults = {box: vars(own) for box, own in vars(Experiment()).items()} | {"algorithm": usual}
    found = []
    for box, name, value in options(run):
        default = shown(defaults[box].get(name))
        if name != "env" and shown(value) != default:
            found.append([name, shown(value), default])
    return found


def shown(value: Any) -> str:
    """A value of a configuration, in words."""
    match value:
        case None | () | []:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float() | int():
            return f"{value:,}" if isinstance(value, int) else f"{value:g}"
        case list() | tuple():
            return ", ".join(map(shown, value))
        case dict():
            return ", ".join(f"{name} {shown(one)}" for name, one in value.items()) or "none"
    return str(value)


def _groups(
    table: AgentTable,
    summary: dict[str, Any],
    metrics: dict[str, np.ndarray],
    evaluations: dict[str, np.ndarray],
    rows: list[dict[str, Any]],
    solved_at: float | None,
) -> list[Group]:
    """The settings that are drawn, the best first; unranked ones in their order."""
    ranked = [row["setting"] for row in rows] or list(range(table.num_settings))
    drawn = sorted(ranked, key=lambda setting: setting != 0)[:SETTINGS]
    evaluated = np.array(summary.get("eval_return_per_seed") or [], float)  # None becomes NaN
    solving = ranking.steps_to_solve(metrics, solved_at)
    made = []
    for setting in [one for one in ranked if one in drawn]:
        own = table.setting == setting
        began = own & _have_rows(metrics)
        curves, lines = _curves(_of_agents(metrics, began), solved_at)
        greedy = _of_agents(evaluations, own & _have_rows(evaluations))
        made.append(
            Group(
                name=_label(table, setting),
                seeds=table.seeds[began if began.any() else own],
                curves=curves | _greedy(greedy),
                lines=lines[:, : SEEDS // len(drawn)],
                returns=evaluated[own] if len(evaluated) else evaluated,
                solving=np.zeros(0) if solving is None else solving[began],
            )
        )
    return made


def _have_rows(columns: dict[str, np.ndarray]) -> np.ndarray | bool:
    """Which agents began, [agents]."""
    return ~np.isnan(columns["step"]).all(axis=0) if columns else False


def _of_agents(columns: dict[str, np.ndarray], own: np.ndarray) -> dict[str, np.ndarray]:
    """The columns of these agents, [rows, agents]; no columns of none."""
    return {name: one[:, own] for name, one in columns.items()} if own.any() else {}


def _curves(
    metrics: dict[str, np.ndarray], solved_at: float | None
) -> tuple[dict[str, Curve], np.ndarray]:
    """The curves of all metrics, and the returns of each agent, [points, agents]."""
    curves: dict[str, Curve] = {}
    if not metrics:
        return curves, np.zeros((0, 0))
    frozen, steps = binned(metrics["env_steps"]) == 0, _steps(metrics)
    for metric in (*DIAGNOSTICS, "episode_return"):
        values = np.where(frozen, np.nan, carried(binned(metrics[metric])))
        curves[metric] = Curve(steps, *interquartile(values))
    if solved_at is not None:
        share = (values >= solved_at).mean(axis=1)
        curves["solved"] = Curve(steps, share, *np.full((2, len(share)), np.nan))
    return curves, values


def _greedy(evaluations: dict[str, np.ndarray]) -> dict[str, Curve]:
    """The curve of the evaluations, if there are several; agents that stopped keep their last."""
    if len(evaluations.get("step", ())) < 2:
        return {}
    means = interquartile(ends(carried(evaluations["eval_return"])))
    return {"eval_return": Curve(_steps(evaluations), *means)}


def _steps(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Environment steps of an agent at the ends of the parts of training, [points]: on average over
    those that trained in that part, for the steps of others are of earlier ones."""
    steps = ends(np.fmax.accumulate(columns["step"], axis=0))
    trained = np.diff(steps, axis=0, prepend=0) > 0
    mean = np.where(trained, steps, 0).sum(axis=1) / np.maximum(trained.sum(axis=1), 1)
    return np.maximum.accumulate(mean)


def _label(table: AgentTable, setting: int) -> str:
    values = ", ".join(f"{name} {value:.4g}" for name, value in table.describe(setting).items())
    return f"{values}{' (default)' * (setting == 0)}" if values else "all seeds"


def _evolution(path: Path, table: AgentTable, growing: bool) -> dict[str, Curve]:
    """Each hyperparameter over generations: that of the agent of the best fitness, and the lowest
    and highest of the population."""
    columns = tables.read_metrics(path, table, growing)
    if not len(columns.get("update", ())):
        return {}
    columns = {name: column[-POINTS:] for name, column in columns.items()}
    updates = np.nanmax(columns["update"], axis=1)
    fitness = np.nan_to_num(columns["fitness"], nan=-np.inf)  # [generations, agents]
    known, best = np.isfinite(fitness).any(axis=1), fitness.argmax(axis=1)
    found = {}
    for name in table.experiment.evolving:
        own = columns[name]
        middle = np.where(known, own[np.arange(len(own)), best], np.nan)
        found[name] = Curve(updates, middle, np.nanmin(own, axis=1), np.nanmax(own, axis=1))
    return found
