# mypy: disable-error-code="import-not-found"
"""ppo_jax as its command runs it: agents over a device a core, our compiler options.

Runs with the interpreter that has jax and the like; `path` is another checkout of ppo_jax.
"""

import sys
from typing import Any

from protocol import Options, Peer, require, serve, versions
from tasks import TASKS, Task

RECIPES = ("notebook", "standard", "fast")


def config_of(name: str) -> Any:
    """The Config of a recipe, or of a task."""
    from ppo_jax import config, recipe

    if name in RECIPES:
        return recipe(name)
    task = TASKS[name]
    return config.override(
        config.Config(),
        env=task.env,
        num_envs=task.num_envs,
        num_steps=task.num_steps,
        num_updates=task.updates,
        total_timesteps=None,
        num_epochs=task.num_epochs,
        num_minibatches=task.num_minibatches,
        learning_rate=task.learning_rate,
        discount=task.discount,
        gae_lambda=task.gae_lambda,
        entropy_coefficient=task.entropy_coefficient,
        clip_value=task.clip_value,
        normalize_observation=task.normalize,
        normalize_reward=task.normalize,
        **_network(task),
    )


def _network(task: Task) -> dict[str, Any]:
    if task.memory is None:
        return {"hidden_sizes": task.hidden_sizes, "activation": task.activation}
    import networks

    return {"network": {"apart": networks.Apart, "shared": networks.Shared}[task.memory]}


def start(options: Options) -> Peer:
    """Set the flags that the command sets, compile, warm up."""
    require(options, (*RECIPES, *(name for name in TASKS if name not in RECIPES)))
    if options.path is not None:
        sys.path.insert(1, options.path)
    from ppo_jax.run import xla

    # What the caller's XLA_FLAGS say stays.
    xla.set_flags(min(options.agents, options.devices or options.agents))
    import jax
    import jax_peer
    import numpy as np

    from ppo_jax import population

    whole = config_of(options.recipe)
    assert whole.num_updates is not None
    mesh = jax_peer.mesh_of(options)

    def program(updates: int) -> Any:
        config = whole.replace(num_updates=updates, total_timesteps=None)

        def train(keys: jax.Array) -> Any:
            return population.train(keys, config, population.cpu_agents_at_once(config))

        return population.shard_over_agents(
            train, mesh, (population.AGENTS, population.TIME_AGENTS)
        )

    def env_steps(outputs: Any) -> int:
        return int(np.asarray(outputs[1].env_steps, np.int64).sum())

    evaluate = jax.jit(population.evaluate, static_argnums=3)

    def learning(outputs: Any, keys: jax.Array) -> dict[str, Any]:
        states, metrics = outputs
        greedy = evaluate(states.params, whole, keys, 100)
        episodes = np.asarray(metrics.episodes)
        sums = np.where(episodes > 0, np.asarray(metrics.episode_return) * episodes, 0.0)
        return {"greedy_return": float(greedy.mean()), **jax_peer.learned(sums, episodes)}

    work = jax_peer.Work(
        program,
        lambda seed, agents: population.agent_keys(seed * agents, agents),
        learning,
        env_steps,
        whole.num_updates,
        compiler_options=population.COMPILER_OPTIONS,
    )
    turn, compile_seconds = jax_peer.prepare(options, work)
    packages = versions("jax", "gymnax", "optax")
    return Peer(turn, compile_seconds, packages, f"{mesh.size} device(s)")


if __name__ == "__main__":
    serve(start)
