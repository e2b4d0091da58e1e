# /// script
# requires-python = ">=3.12"
# dependencies = ["ajax-rl==0.4.0", "gymnax==1.0.1", "jax==0.10.2", "flax==0.12.8", "optax==0.2.8"]
# ///
# mypy: disable-error-code="import-not-found"
"""Ajax's PPO, every number of agents by `vmap` as its `train` does."""

from typing import Any

import jax
import jax_peer
import numpy as np
import optax
from flax import struct
from no_velocity import CartPoleNoVelocity
from protocol import Options, Peer, require, serve, versions
from tasks import TASKS, Task

NOTE = (
    "truncations included; the value's loss is not clipped; no evaluation without logging;"
    " learning curves and final_return are of episodes that a wrapper of the environment counts in"
    " trainings that are asked for curves"
)
MORE = {"continuous": "its actions, in ±1, are scaled to the torque, ±2"}
# Its memory is the actor's and the critic's apart.
RECIPES = ("standard", "acrobot", "continuous", "minatar", "recurrent")


def start(options: Options) -> Peer:
    """Compile and warm up."""
    require(options, RECIPES)
    task = TASKS[options.recipe]
    mesh = jax_peer.mesh_of(options)  # before jax starts, which building the agent does

    def program(updates: int) -> Any:
        agent = agent_of(task, updates, options.curves and updates == task.updates)
        train = agent.get_make_train()(
            env_args=agent.env_args,
            actor_optimizer_args=agent.actor_optimizer_args,
            critic_optimizer_args=agent.critic_optimizer_args,
            network_args=agent.network_args,
            agent_config=agent.agent_config,
            # It makes one update more than these steps need.
            total_timesteps=(updates - 1) * task.steps_of_update,
            num_episode_test=1,
            run_ids=[],
        )

        def several(keys: jax.Array) -> Any:
            return jax.vmap(train)(keys, jax.numpy.arange(len(keys)))

        agents = jax.sharding.PartitionSpec("agents")
        return jax.shard_map(several, mesh=mesh, in_specs=agents, out_specs=agents, check_vma=False)

    def learning(outputs: Any, _: jax.Array) -> dict[str, Any]:
        if not options.curves:
            return {}
        counted = outputs[0].collector_state.env_state
        return jax_peer.learned(
            *(np.asarray(leaf).sum(1).T for leaf in (counted.sums, counted.episodes))
        )

    work = jax_peer.Work(program, jax_peer.raw_keys, learning, task.steps_of_update, task.updates)
    turn, compile_seconds = jax_peer.prepare(options, work)
    packages = versions("ajax-rl", "jax", "gymnax", "flax", "optax")
    notes = [NOTE, *filter(None, [MORE.get(options.recipe)]), f"{mesh.size} device(s)"]
    return Peer(turn, compile_seconds, packages, "; ".join(notes))


def agent_of(task: Task, updates: int, curves: bool) -> Any:
    """The task in its words."""
    from ajax.agents.PPO.PPO import PPO
    from ajax.environments.create import build_env_from_id
    from ajax.networks.memory import MemoryConfig

    if task.memory is None:
        env, parameters = build_env_from_id(task.env)
    else:
        env = CartPoleNoVelocity()
        parameters = env.default_params
    if task.env == "Acrobot-v1":
        parameters = None  # the environment's own: Ajax hashes them, and here are arrays among them
    minibatches = updates * task.num_epochs * task.num_minibatches
    learning_rate = optax.linear_schedule(task.learning_rate, 0.0, minibatches)
    layers = tuple(word for size in task.hidden_sizes for word in (str(size), task.activation))
    return PPO(
        counting(env, task, updates) if curves else env,
        env_params=parameters,
        n_envs=task.num_envs,
        n_steps=task.num_steps,
        n_epochs=task.num_epochs,
        num_minibatches=task.num_minibatches,
        actor_learning_rate=learning_rate,
        critic_learning_rate=learning_rate,
        actor_architecture=layers,
        critic_architecture=layers,
        memory=None if task.memory is None else MemoryConfig("gru", 64),
        gamma=task.discount,
        gae_lambda=task.gae_lambda,
        ent_coef=task.entropy_coefficient,
        normalize_observations=task.normalize,
        normalize_rewards=task.normalize,
        reward_normalization_gamma=task.discount if task.normalize else None,
    )


@struct.dataclass
class _Counted:
    """An environment's state, and the episodes that ended in every update so far."""

    env_state: Any
    steps: jax.Array
    episode_return: jax.Array
    sums: jax.Array
    episodes: jax.Array


def counting(env: Any, task: Task, updates: int) -> Any:
    """The environment, whose state tells the episodes that ended in every update."""
    from ajax.wrappers import GymnaxWrapper

    class Counting(GymnaxWrapper):
        def reset(self, key: jax.Array, params: Any = None) -> Any:
            observation, state = env.reset(key, params)
            none = jax.numpy.zeros(updates)
            return observation, _Counted(state, jax.numpy.int32(0), none[0], none, none)

        def step(self, key: jax.Array, state: Any, action: jax.Array, params: Any = None) -> Any:
            observation, inner, reward, terminated, truncated, info = env.step(
                key, state.env_state, action, params
            )
            ended = jax.numpy.logical_or(terminated, truncated)
            episode_return = state.episode_return + reward
            update = state.steps // task.num_steps
            counted = _Counted(
                inner,
                state.steps + 1,
                episode_return * (1 - ended),
                state.sums.at[update].add(episode_return * ended),
                state.episodes.at[update].add(ended),
            )
            return observation, counted, reward, terminated, truncated, info

        def get_obs(self, state: Any, params: Any = None) -> Any:
            return env.get_obs(state.env_state, params)

    return Counting(env)


if __name__ == "__main__":
    serve(start)
