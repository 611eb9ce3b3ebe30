"""The training program; the scan that drives it is an argument."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.types import Agent, Step


def train(
    agent: Agent,
    env_step: Callable[[Any, Any], tuple[Any, tuple]],
    carry: tuple[Any, Any, Any],
    *,
    warmup: int,
    rounds: int,
    rollout_length: int,
    scan: Callable = jax.lax.scan,
) -> tuple[tuple[Any, Any, Any], Any]:
    """Returns the carry after `warmup` vector steps without learning and `rounds` of learning, and the metrics.

    A round is `rollout_length` vector steps (act, step, observe) and one `learn`. An agent with `learns_last` learns
    after the last step; any other between its act and its step, so that the device learns while the emulator works.

    Args:
      agent: its pure functions; jit them first where `scan` is `host_scan`.
      env_step: (env, action) -> (env, (next_obs, reward, terminated, truncated, valid)) of B envs.
      carry: (state, env, obs).
      warmup, rounds: counts, which may be traced if `scan` is a `bounded_scan`.
      rollout_length: vector steps of a round.
      scan: `jax.lax.scan` for JAX envs, `host_scan` for the real world.

    Returns:
      The carry, and the metrics of every round, leaves [rounds, ...].

    Raises:
      ValueError: rounds or rollout_length below 1, or a negative warmup.
    """
    known = isinstance(rounds, int) and isinstance(warmup, int)
    if rollout_length < 1 or known and (rounds < 1 or warmup < 0):
        raise ValueError(f"need rounds, rollout_length >= 1, warmup >= 0; got {rounds}, {rollout_length}, {warmup}")

    def act(carry):
        state, env, obs = carry
        return state, env, obs, *agent.act(state, obs)

    def advance(acted):
        state, env, obs, action, extra = acted
        env, (next_obs, reward, terminated, truncated, valid) = env_step(env, action)
        step = Step(obs, action, reward, terminated, truncated, next_obs, valid, extra)
        return agent.observe(state, step), env, next_obs

    def learn(carry):
        state, metrics = agent.learn(carry[0])
        return (state, *carry[1:]), metrics

    def vector_steps(carry, length):
        none = isinstance(length, int) and length == 0
        return carry if none else scan(lambda carry, _: (advance(act(carry)), None), carry, None, length)[0]

    def one_round(carry, _):
        acted = act(vector_steps(carry, rollout_length - 1))
        if agent.learns_last:
            return learn(advance(acted))
        acted, metrics = learn(acted)
        return advance(acted), metrics

    return scan(one_round, vector_steps(carry, warmup), None, rounds)


def host_scan(f: Callable, carry: Any, xs: Any, length: int) -> tuple[Any, Any]:
    """`jax.lax.scan` as a Python loop, so that `f` may touch the real world; `xs` is handed to every turn."""
    ys = []
    for _ in range(length):
        carry, y = f(carry, xs)
        ys.append(y)
    return carry, jax.tree.map(lambda *y: np.stack(y), *jax.device_get(ys))


def bounded_scan(limit: int) -> Callable:
    """Returns a `jax.lax.scan` whose length may be traced: one program for every length up to `limit`.

    Results beyond the length are 0.

    >>> count = jax.jit(lambda length: bounded_scan(4)(lambda i, _: (i + 1, i), jnp.int32(5), None, length))
    >>> total, ys = count(3)
    >>> print(total, ys)
    8 [5 6 7 0]
    """

    def scan(f, carry, xs, length):
        if isinstance(length, int):
            return jax.lax.scan(f, carry, xs, length)
        y = jax.eval_shape(f, carry, xs)[1]
        ys = jax.tree.map(lambda x: jnp.zeros((limit, *x.shape), x.dtype), y)

        def turn(i, both):
            carry, y = f(both[0], xs)
            return carry, jax.tree.map(lambda store, x: store.at[i].set(x), both[1], y)

        return jax.lax.fori_loop(0, length, turn, (carry, ys))

    return scan


def vmap_agent(agent: Agent) -> Agent:
    """Returns S agents as one: `init`, `act`, `observe` and `learn` take and give a leading axis [S, ...] everywhere.

    Keys, observations and every number of `hyper` have that axis, so seeds and learning rates may differ; `policy` is
    left as it is, for the parameters of one. Each of the S is equal to itself alone.

    >>> from jaxql.agents.q_learning import q_learning
    >>> from jaxql.agents.state import Hyper
    >>> from jaxql.envs.jax import autoreset, catch
    >>> begin, env_step = autoreset(catch(), num_envs=4)
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> rates = jnp.array([0.0, 0.1, 0.5])
    >>> hyper = Hyper(learning_rate=rates, epsilon=jnp.full(3, 0.1), discount=jnp.full(3, 0.99))
    >>> agents, (env, obs) = vmap_agent(q_learning(150, 3)), jax.vmap(begin)(keys)
    >>> carry = agents.init(keys, obs, hyper), env, obs
    >>> (states, *_), metrics = train(agents, jax.vmap(env_step), carry, warmup=0, rounds=50, rollout_length=1)
    >>> states.params["q_values"].shape, metrics["loss"].shape
    ((3, 150, 3), (50, 3, 1))
    >>> print(jnp.any(states.params["q_values"] != 0, axis=(1, 2)))
    [False  True  True]
    """
    return agent._replace(
        init=jax.vmap(agent.init),
        act=jax.vmap(agent.act),
        observe=jax.vmap(agent.observe),
        learn=jax.vmap(agent.learn),
    )


def jit_agent(agent: Agent) -> Agent:
    """Returns the agent with its functions jit-compiled for `host_scan`; `observe` and `learn` donate the state."""
    return agent._replace(
        act=jax.jit(agent.act),
        observe=jax.jit(agent.observe, donate_argnums=0),
        learn=jax.jit(agent.learn, donate_argnums=0),
        policy=jax.jit(agent.policy),
        q_values=jax.jit(agent.q_values) if agent.q_values else None,
    )
