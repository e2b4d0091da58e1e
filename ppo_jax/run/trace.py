"""One agent of a run again: trained from its key, compared with what was saved, and watched while
it plays."""

import csv
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppo_jax import __version__, env, policy
from ppo_jax.config import Config, with_hyperparameters
from ppo_jax.run import devices, folder
from ppo_jax.run.agent import Agent, Request, load
from ppo_jax.run.failure import DEVICE, Failure
from ppo_jax.run.log import LEADING
from ppo_jax.run.retrain import compare, retrain
from ppo_jax.run.saved import to_parameters
from ppo_jax.run.screen import Screen

TRACE = "trace.csv"


class Trace(NamedTuple):
    """What an agent saw and did in every step of its episodes, [T, episodes, ...].

    `valid` is false after an episode's end.
    """

    observation: Any  # that the agent acted on
    action: jax.Array  # as the environment received it
    reward: jax.Array
    value: jax.Array  # V(observation)
    policy: dict[str, jax.Array]  # what the distribution says of itself, [T, episodes, n] each
    terminated: jax.Array
    truncated: jax.Array
    valid: jax.Array


def play(
    params: policy.Params, config: Config, key: jax.Array, num_episodes: int, sampled: bool
) -> Trace:
    """Fresh episodes, greedy or sampled, each to its end or the time limit T; pure and jittable.

    With the same key the greedy episodes are those of `evaluate.evaluate`.
    """
    environment, own_policy = env.make(config), policy.make(config)
    assert environment.max_episode_steps is not None
    shape = environment.max_episode_steps, num_episodes
    reset_key, step_key = jax.random.split(key)
    env_state, observation = jax.vmap(environment.reset)(jax.random.split(reset_key, num_episodes))
    step_keys = jax.vmap(
        lambda index: jax.random.split(jax.random.fold_in(step_key, index), num_episodes)
    )(jnp.arange(shape[0]))
    noise = own_policy.noise(jax.random.fold_in(key, 2), shape)

    def step(carry: Any, drawn: tuple[jax.Array, jax.Array]) -> Any:
        env_state, observation, memory, start, active = carry
        keys, noise = drawn
        distribution, value, memory = own_policy.apply(params, observation, memory, start)
        action = own_policy.env_action(
            distribution.sample(noise) if sampled else distribution.mode()
        )
        env_state, timestep = jax.vmap(environment.step)(keys, env_state, action)
        one = Trace(
            observation=observation,
            action=action,
            reward=timestep.reward,
            value=value,
            policy=distribution.describe(),
            terminated=timestep.terminated,
            truncated=timestep.truncated,
            valid=active,
        )
        active = active & ~(timestep.terminated | timestep.truncated)
        start = jnp.zeros(num_episodes, bool)
        return (env_state, timestep.observation, memory, start, active), one

    begins = jnp.ones(num_episodes, bool)
    carry = env_state, observation, own_policy.initial_memory(num_episodes), begins, begins
    return jax.lax.scan(step, carry, (step_keys, noise))[1]


def replay(request: Request, screen: Screen) -> dict[str, Any]:
    """Train the agent again (or load it), compare it, play with it, and write what was found.

    Returns the summary. Raises Failure for what the user can mend.
    """
    chosen = _devices(request)
    agent = load(request)
    folder.create(request.out)
    with folder.file_system(request.out):
        (request.out / TRACE).unlink(missing_ok=True)
    _introduce(request, agent, chosen, screen)
    with _refusals(request):
        again = None if request.how == "load" else retrain(request, agent, chosen, screen)
        trace = _play(request, agent, again.params if again else agent.params)
    if again:
        _write_metrics(request.out / folder.METRICS, agent, again.metrics)
    _write_trace(request.out / TRACE, trace)
    found = compare(agent, again) if again else {"frozen_after": _frozen_after(request)}
    summary = _summary(request, agent, found, trace, chosen)
    folder.write_json(request.out / folder.SUMMARY, summary)
    return summary


def _play(request: Request, agent: Agent, params: dict[str, np.ndarray]) -> Trace:
    trace = jax.jit(play, static_argnums=(3, 4))(
        to_parameters(params, agent.config),
        with_hyperparameters(agent.config, agent.hyperparameters),
        jax.random.key(request.seed),
        request.episodes,
        request.sampled,
    )
    return jax.tree.map(np.asarray, trace)


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
    own = ", ".join(f"{name} {value:.4g}" for name, value in agent.hyperparameters.items())
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


def _frozen_after(request: Request) -> int | None:
    return request.summary.get("frozen_agents", {}).get(str(request.agent))


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
    columns: dict[str, Any] = {
        **_columns("observation", trace.observation, always_numbered=True),
        **_columns("action", trace.action),
        "reward": trace.reward,
        "value": trace.value,
    }
    for name, numbers in trace.policy.items():
        columns |= _columns(name, numbers, always_numbered=True)
    columns |= {
        "terminated": trace.terminated.astype(int),
        "truncated": trace.truncated.astype(int),
    }
    with folder.file_system(path), open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["episode", "step", *columns])
        for episode, step in np.argwhere(trace.valid.T):
            rows.writerow([episode, step, *(values[step, episode] for values in columns.values())])


def _columns(name: str, tree: Any, always_numbered: bool = False) -> dict[str, np.ndarray]:
    """A column [T, episodes] for every number of the arrays [T, episodes, ...]."""
    flat = [np.reshape(leaf, (*leaf.shape[:2], -1)) for leaf in jax.tree.leaves(tree)]
    numbers = [one for leaf in flat for one in np.moveaxis(leaf, -1, 0)]
    if len(numbers) == 1 and not always_numbered:
        return {name: numbers[0]}
    return {f"{name}_{index}": one for index, one in enumerate(numbers)}


def _summary(
    request: Request, agent: Agent, found: dict[str, Any], trace: Trace, chosen: list[jax.Device]
) -> dict[str, Any]:
    returns = np.sum(trace.reward, axis=0, where=trace.valid, dtype=float).tolist()
    return {
        "run": str(request.run),
        "agent": agent.number,
        "seed": agent.seed,
        "setting": agent.setting,
        "coefficients": agent.hyperparameters,
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
