"""One of several processes that train DQN together: python two_processes.py PORT PROCESS PROCESSES OUT."""

import sys

import jax
import numpy as np
from jax.sharding import Mesh

from jaxql import agents, envs, loop, mesh
from jaxql.agents.state import hyper_of

ENVS = 8
ENTRY = agents.REGISTRY["dqn"]
CONFIG = ENTRY.config(shards=2, gradient_steps=2, capacity=800, hidden=(32,), learning_rate=1e-3, exploration_steps=400)


def trained(make_env, compiled):
    """(leaves of the params, state) after 60 updates on CartPole."""
    env = make_env()
    agent, obs = compiled(ENTRY.make(CONFIG, env.spec)), env.reset()
    state = agent.init(jax.random.key(0), obs, hyper_of(CONFIG))
    plan = dict(warmup=20, rounds=30, rollout_length=1, scan=loop.host_scan)
    (state, *_), _ = loop.train(agent, env.step, (state, (), obs), **plan)
    env.close()
    return jax.tree.leaves(jax.device_get(state.params)), state


if __name__ == "__main__":
    port, process, processes, out = sys.argv[1:]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(processes), int(process), initialization_timeout=60)
    devices = Mesh(jax.devices(), ("envs",))
    params, state = trained(
        lambda: envs.make("CartPole-v1", ENVS // int(processes), mesh=devices),
        lambda agent: mesh.shard_agent(agent, devices),
    )
    assert state.data.rows.reward.addressable_shards[0].data.shape[1] == ENVS // int(processes)
    np.savez(out, *params, env_steps=state.env_steps)
    jax.distributed.shutdown()
