"""The training program; the scan that drives it is an argument."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.types import Agent, Step


def train(agent: Agent, env_step, carry, *, warmup: int, rounds: int, ticks: int, updates: int, scan=jax.lax.scan):
    """`warmup` ticks without learning, then `rounds` of `ticks` ticks and `updates` updates.

    A round is `ticks - 1` plain ticks (act, step, observe) and a last one. An agent with `learns_last` learns after
    the last tick; any other between its act and its step, so that the device learns while the emulator works.

    Args:
      agent: its pure functions; jit them first where `scan` is `host_scan`.
      env_step: (env, action) -> (env, (next_obs, reward, terminated, truncated, valid)) of B envs.
      carry: (state, env, obs).
      warmup, rounds, ticks, updates: counts, of ticks, rounds, ticks a round and updates a round; the first two may be
        traced if `scan` is a `bounded_scan`.
      scan: `jax.lax.scan` for JAX envs, `host_scan` for the real world.

    Returns:
      The carry, and the metrics of every update, leaves [rounds, updates].

    Raises:
      ValueError: ticks, rounds or updates below 1, or a negative warmup.
    """
    known = isinstance(rounds, int) and isinstance(warmup, int)
    if min(ticks, updates) < 1 or known and (rounds < 1 or warmup < 0):
        raise ValueError(f"need ticks, rounds, updates >= 1, warmup >= 0; got {ticks}, {rounds}, {updates}, {warmup}")

    def act(carry):
        state, env, obs = carry
        return state, env, obs, *agent.act(state, obs)

    def advance(acted):
        state, env, obs, action, extra = acted
        env, (next_obs, reward, terminated, truncated, valid) = env_step(env, action)
        step = Step(obs, action, reward, terminated, truncated, next_obs, valid, extra)
        return agent.observe(state, step), env, next_obs

    def improve(carry):
        state, metrics = scan(lambda state, _: agent.learn(state), carry[0], None, updates)
        return (state, *carry[1:]), metrics

    def plain_ticks(carry, length):
        none = isinstance(length, int) and length == 0
        return carry if none else scan(lambda carry, _: (advance(act(carry)), None), carry, None, length)[0]

    def one_round(carry, _):
        acted = act(plain_ticks(carry, ticks - 1))
        if agent.learns_last:
            return improve(advance(acted))
        acted, metrics = improve(acted)
        return advance(acted), metrics

    return scan(one_round, plain_ticks(carry, warmup), None, rounds)


def host_scan(f, carry, xs, length):
    """`jax.lax.scan` turned by hand, so that `f` may touch the real world; `xs` is handed to every turn."""
    ys = []
    for _ in range(length):
        carry, y = f(carry, xs)
        ys.append(y)
    if length <= 8:  # a round's updates: stacked on the device, for the device still computes them
        return carry, _stack(ys)
    return carry, jax.tree.map(lambda *y: np.stack(y), *jax.device_get(ys))


def bounded_scan(most: int):
    """`jax.lax.scan` whose length may be traced: one program for every length up to `most`; results beyond it are 0.

    >>> count = jax.jit(lambda length: bounded_scan(4)(lambda i, _: (i + 1, i), jnp.int32(5), None, length))
    >>> total, ys = count(3)
    >>> print(total, ys)
    8 [5 6 7 0]
    """

    def scan(f, carry, xs, length):
        if isinstance(length, int):
            return jax.lax.scan(f, carry, xs, length)
        y = jax.eval_shape(f, carry, xs)[1]
        ys = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), y)

        def turn(i, both):
            carry, y = f(both[0], xs)
            return carry, jax.tree.map(lambda store, x: store.at[i].set(x), both[1], y)

        return jax.lax.fori_loop(0, length, turn, (carry, ys))

    return scan


@jax.jit
def _stack(ys):
    return jax.tree.map(lambda *y: jnp.stack(y), *ys)


def many(agent: Agent) -> Agent:
    """S agents as one: `init`, `act`, `observe` and `learn` take and give a leading axis [S, ...] everywhere.

    Keys, observations and every number of `hyper` have that axis, so seeds and learning rates may differ; `policy` is
    left as it is, for the parameters of one. Each of the S is equal to itself alone.

    >>> from jaxql.agents.base import Hyper
    >>> from jaxql.agents.q_learning import q_learning
    >>> from jaxql.envs.jax import autoreset, catch
    >>> begin, env_step = autoreset(catch(), num_envs=4)
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> hyper = jax.tree.map(lambda x: jnp.full(3, x), Hyper(epsilon=0.1))
    >>> hyper = hyper._replace(learning_rate=jnp.array([0.0, 0.1, 0.5]))
    >>> agents, (env, obs) = many(q_learning(150, 3)), jax.vmap(begin)(keys)
    >>> carry = agents.init(keys, obs, hyper), env, obs
    >>> (states, *_), metrics = train(agents, jax.vmap(env_step), carry, warmup=0, rounds=50, ticks=1, updates=1)
    >>> states.params["q_values"].shape, metrics["loss"].shape
    ((3, 150, 3), (50, 1, 3))
    >>> print(jnp.any(states.params["q_values"] != 0, axis=(1, 2)))
    [False  True  True]
    """
    return agent._replace(
        init=jax.vmap(agent.init),
        act=jax.vmap(agent.act),
        observe=jax.vmap(agent.observe),
        learn=jax.vmap(agent.learn),
    )


def compiled(agent: Agent) -> Agent:
    """The agent with its functions jit-compiled for `host_scan`; `observe` and `learn` donate the state."""
    return agent._replace(
        act=jax.jit(agent.act),
        observe=jax.jit(agent.observe, donate_argnums=0),
        learn=jax.jit(agent.learn, donate_argnums=0),
        policy=jax.jit(agent.policy),
    )
