# /// script
# requires-python = ">=3.12"
# dependencies = ["ajax-rl==0.4.0", "gymnax==1.0.1", "jax==0.10.2", "flax==0.12.8", "optax==0.2.8"]
# ///
# mypy: disable-error-code="import-not-found"
"""Ajax's PPO, every number of agents by `vmap` as its `train` does."""

from typing import Any

import jax
import jax_peer
from protocol import FULL_UPDATES, STEPS_OF_UPDATE, Options, Peer, require, serve, versions

NOTE = (
    "the same work as `standard`, truncations included; a constant learning rate; no evaluation"
    " without logging; final_return is not told"
)
_LAYERS = ("64", "tanh", "64", "tanh")


def start(options: Options) -> Peer:
    """Compile and warm up."""
    require(options)
    mesh = jax_peer.mesh_of(options)  # before jax starts, which building the agent does
    from ajax.agents.PPO.PPO import PPO

    agent = PPO(
        "CartPole-v1",
        n_envs=4,
        n_steps=128,
        n_epochs=4,
        num_minibatches=4,
        actor_learning_rate=2.5e-4,
        critic_learning_rate=2.5e-4,
        actor_architecture=_LAYERS,
        critic_architecture=_LAYERS,
        ent_coef=0.01,
    )

    def program(updates: int) -> Any:
        train = agent.get_make_train()(
            env_args=agent.env_args,
            actor_optimizer_args=agent.actor_optimizer_args,
            critic_optimizer_args=agent.critic_optimizer_args,
            network_args=agent.network_args,
            agent_config=agent.agent_config,
            total_timesteps=updates * STEPS_OF_UPDATE,
            num_episode_test=1,
            run_ids=[],
        )

        def several(keys: jax.Array) -> Any:
            return jax.vmap(train)(keys, jax.numpy.arange(len(keys)))

        agents = jax.sharding.PartitionSpec("agents")
        return jax.shard_map(several, mesh=mesh, in_specs=agents, out_specs=agents, check_vma=False)

    work = jax_peer.Work(program, jax_peer.raw_keys, lambda *_: {}, STEPS_OF_UPDATE, FULL_UPDATES)
    turn, compile_seconds = jax_peer.prepare(options, work)
    packages = versions("ajax-rl", "jax", "gymnax", "flax", "optax")
    return Peer(turn, compile_seconds, packages, f"{NOTE}; {mesh.size} device(s)")


if __name__ == "__main__":
    serve(start)
