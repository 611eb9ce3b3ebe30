"""Transitions as views of a ring: frame stacks and n-step windows."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxql.bellman.arguments import check_count
from jaxql.types import Array, Step, Transition


def stacked(rows: Step, t: Array, env: Array, stack: int) -> Any:
    """Returns the observation of one env at tick t: frames t - stack + 1 .. t, zeros before the last reset.

    A reset follows a row that is not valid. Ticks below 0 fall in slots that are still blank, hence not valid either.
    """
    ticks = t + jnp.arange(1 - stack, 1)
    same_episode = rows.valid[ticks[:-1] % len(rows.valid), env]
    shown = jnp.append(jnp.cumprod(same_episode[::-1])[::-1], 1)

    def view(x):
        frames = x[ticks % len(x), env]
        return jnp.where(shown.reshape(-1, *[1] * (frames.ndim - 1)), frames, 0) if stack > 1 else frames[0]

    return jax.tree.map(view, rows.obs)


def n_step_transition(
    rows: Step, t: Array, env: Array, weight: Array, gamma: Array, n_step: int, stack: int, n: Array | None = None
) -> Transition:
    """Returns the n-step transition of one env at tick t; it stops at the first end of either kind, a life's included.

    reward = sum_{i < m} gamma**i r_{t+i}, discount = gamma**m (0 past a termination), next_obs = obs_{t+m}, m <= n.
    n is `n_step`, or where given a number from 1 to `n_step` that may be traced.
    """
    check_count("n_step", n_step)
    window = jax.tree.map(lambda x: x[(t + jnp.arange(n_step)) % len(x), env], rows._replace(obs=()))
    dtype = jnp.result_type(window.reward, gamma, 1.0)
    gamma = jnp.asarray(gamma, jnp.promote_types(dtype, jnp.float32))  # half precision is rounded once
    taken = jnp.cumprod(jnp.append(True, ~(window.terminated | window.truncated)[:-1])).astype(bool)
    taken = taken if n is None else taken & (jnp.arange(n_step) < n)
    m = jnp.sum(taken, dtype=jnp.int32)
    return Transition(
        obs=stacked(rows, t, env, stack),
        action=window.action[0],
        reward=jnp.sum(jnp.where(taken, gamma ** jnp.arange(n_step) * window.reward, 0)).astype(dtype),
        discount=jnp.where(jnp.any(taken & window.terminated), 0, gamma**m).astype(dtype),
        next_obs=stacked(rows, t + m, env, stack),
        weight=weight,
    )
