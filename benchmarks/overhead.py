"""What the host spends on a vector tick besides emulation and learning: an emulator and an agent that do nothing."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import interleaved
from jaxql import loop
from jaxql.agents.base import Hyper, after, new_state
from jaxql.types import Agent

TICKS = 300


class Still:
    """A vector env whose step returns at once, always the same."""

    def __init__(self, env):
        self.env, self.outcome = env, env.step(np.zeros(env.num_envs, np.int64))

    def __getattr__(self, name):
        return getattr(self.env, name)

    def step(self, action):
        return self.outcome


def idle_agent() -> Agent:
    """It stores nothing, learns nothing and always takes action 0."""
    return Agent(
        init=lambda key, obs, hyper: new_state(key, hyper, params=(), data=()),
        act=lambda state, obs: (jnp.zeros(len(obs), jnp.int32), ()),
        observe=lambda state, step: after(state, step, data=()),
        learn=lambda state: (state._replace(updates=state.updates + 1), {"loss": 0.0}),
        policy=lambda params, obs, memory, key, epsilon=0.0: (jnp.zeros(len(obs), jnp.int32), memory),
    )


def rows(quick: bool = False):
    calls = {num_envs: ticking(num_envs) for num_envs in ((16,) if quick else (1, 8, 16, 32))}
    for num_envs, row in interleaved(calls, repeats=3 if quick else 15).items():
        yield {"part": "overhead", "name": "a tick", "envs": num_envs, "milliseconds": 1e3 * row["seconds"] / TICKS}


def ticking(num_envs: int):
    """A call of no arguments that plays TICKS ticks."""
    from jaxql import envs

    agent, env = loop.compiled(idle_agent()), envs.make("PongNoFrameskip-v4", num_envs, seed=0, purpose="train")
    obs = env.reset()
    env._env = Still(env._env)
    carry = agent.init(jax.random.key(0), obs, Hyper()), (), obs

    def call():
        nonlocal carry
        carry, _ = loop.train(agent, env.step, carry, warmup=0, rounds=TICKS, ticks=1, updates=1, scan=loop.host_scan)
        return carry

    return call
