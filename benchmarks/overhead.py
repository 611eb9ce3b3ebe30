"""What the host spends on a vector tick besides emulation and learning: an emulator and an agent that do nothing.

A tick is the median over turns of the mean of TICKS ticks; its parts are medians of single ones, so they sum to less.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import interleaved
from jaxql import loop
from jaxql.agents.state import Hyper, count_step, new_state
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
        observe=lambda state, step: count_step(state, step, data=()),
        learn=lambda state: (state._replace(updates=state.updates + 1), {"loss": jnp.zeros(1)}),
        policy=lambda params, obs, memory, key, epsilon=0.0: (jnp.zeros(len(obs), jnp.int32), memory),
    )


def rows(quick: bool = False):
    sizes = (16,) if quick else (1, 8, 16, 32)
    found = interleaved({num_envs: ticking(num_envs) for num_envs in sizes}, repeats=3 if quick else 15)
    for num_envs in sizes:
        seconds = {"a tick": [found[num_envs]["seconds"] / TICKS]}
        ticking(num_envs, seconds)()
        for name, times in seconds.items():
            yield {"part": "overhead", "name": name, "envs": num_envs, "milliseconds": 1e3 * float(np.median(times))}


def ticking(num_envs: int, seconds: dict | None = None):
    """A call of no arguments that plays TICKS ticks; the seconds of every part of each are added to `seconds`."""
    from jaxql import envs

    def clocked(name, f):
        def timed(*args):
            began = time.perf_counter()
            result = f(*args)
            seconds.setdefault(name, []).append(time.perf_counter() - began)
            return result

        return f if seconds is None else timed

    agent, env = loop.jit_agent(idle_agent()), envs.make("PongNoFrameskip-v4", num_envs, seed=0, purpose="train")
    obs = env.reset()
    env._env = Still(env._env)
    carry = agent.init(jax.random.key(0), obs, Hyper()), (), obs
    agent = agent._replace(
        **{name: clocked(f"its {name}", getattr(agent, name)) for name in ("act", "observe", "learn")}
    )
    step = clocked("the env's checks and copies", env.step)

    def call():
        nonlocal carry
        carry, _ = loop.train(agent, step, carry, warmup=0, rounds=TICKS, rollout_length=1, scan=loop.host_scan)
        return carry

    return call
