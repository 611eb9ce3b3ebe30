"""Q-updates a second of many tabular agents in one program, each in an exact MDP taken from Gymnasium.

The agents are spread over all devices; a CPU counts as a device for each of its cores.
"""

import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.measure import interleaved
from jaxql import loop, planning
from jaxql.agents.q_learning import q_learning
from jaxql.agents.state import Hyper
from jaxql.envs.jax import autoreset, from_mdp

TICKS = 1_000
TAXI_TICKS = 10_000  # between looks at whether all are there


def rows(quick: bool = False):
    cores = len(os.sched_getaffinity(0))
    if jax.default_backend() == "cpu" and jax.device_count() < cores:
        flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={cores}"
        command = [sys.executable, "-m", "benchmarks", "tabular", *(["--quick"] if quick else [])]
        output = subprocess.run(
            command, env=os.environ | {"XLA_FLAGS": flags}, stdout=subprocess.PIPE, check=True
        ).stdout
        yield from map(json.loads, output.splitlines())
        return
    yield from _throughput(quick)
    if not quick:
        yield _taxi()


def _keys(number: int):
    """Keys of the agents, as many on each device."""
    everywhere = NamedSharding(Mesh(np.array(jax.devices()), ("agents",)), PartitionSpec("agents"))
    return jax.device_put(jax.random.split(jax.random.key(0), number), everywhere)


def _throughput(quick):
    for env, agents in (("FrozenLake-v1", 10_000), ("Taxi-v4", 1_000)):
        start, run = program(planning.from_gymnasium(env), TICKS)
        carry = start(_keys(agents))

        def call(run=run):
            nonlocal carry
            carry = run(carry)
            return carry

        (row,) = interleaved({env: call}, repeats=3 if quick else 7).values()
        yield {
            "part": "tabular",
            "name": f"q-learning, {env}",
            "agents": agents,
            "million_updates_per_second": agents * TICKS / row["seconds"] / 1e6,
            "compile_seconds": row["first_call"],
        }


def program(mdp, ticks, initial_value=0.0, **hyper):
    """(keys -> carry, carry -> carry after `ticks` ticks and updates) of one agent for each key."""
    jax_env = from_mdp(mdp)
    agent = q_learning(jax_env.num_states, jax_env.num_actions, initial_value=initial_value)
    begin, env_step = autoreset(jax_env, num_envs=1)
    hyper = Hyper(**(dict(learning_rate=0.3, discount=0.8, epsilon=0.1, exploration_steps=100_000.0) | hyper))

    def start(key):
        env, obs = begin(key)
        return agent.init(key, obs, hyper), env, obs

    def run(carry):
        return loop.train(agent, env_step, carry, warmup=0, rounds=ticks, rollout_length=1)[0]

    return jax.jit(jax.vmap(start)), jax.jit(jax.vmap(run), donate_argnums=0)


def _taxi(seeds: int = 1_000, least: float = 0.5):
    """Until every one of the agents has a greedy policy within `least` of the optimum over all starts.

    Taxi is deterministic, so that the learning rate may be 1; what was never tried looks better than it is.
    """
    mdp = planning.from_gymnasium("Taxi-v4")
    best = float(planning.best_return(mdp))
    hyper = dict(learning_rate=1.0, discount=0.9, epsilon=0.05, exploration_steps=1.0)
    start, run = program(mdp, TAXI_TICKS, initial_value=4.0, **hyper)
    worth = jax.jit(jax.vmap(lambda q: planning.expected_return(mdp, planning.greedy_policy(q))))
    began = time.perf_counter()
    keys = _keys(seeds)
    carry = jax.device_put(start(keys), keys.sharding)
    run, worth = (f.lower(x).compile() for f, x in ((run, carry), (worth, carry[0].params["q_values"])))
    jax.block_until_ready(carry)
    compiled = time.perf_counter()
    chunk, returns = 0, np.array(-np.inf)
    while returns.min() <= best - least and chunk < 200:
        carry = jax.block_until_ready(run(carry))
        returns, chunk = np.asarray(worth(carry[0].params["q_values"])), chunk + 1
    return {
        "part": "tabular",
        "name": "Taxi-v4 to the optimum",
        "agents": seeds,
        "ticks": chunk * TAXI_TICKS,
        "seconds": time.perf_counter() - compiled,
        "compile_seconds": compiled - began,
        "share_at_optimum": float(np.mean(returns > best - least)),
    }
