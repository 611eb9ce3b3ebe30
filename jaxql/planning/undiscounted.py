"""The best total reward: discount 1, where nothing contracts and a policy must be shown to attain the values."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxql.planning import sweeps
from jaxql.planning.evaluation import policy_values
from jaxql.planning.numbers import normalised, rounding
from jaxql.types import Array


class _Sweeps(NamedTuple):
    q: Array  # [A, S]
    policy: Array  # [S] greedy; an action stays until another is better, so among equals it is one that got ahead
    iterations: Array
    residual: Array
    floor: Array  # bool: the residual is below the rounding


def _sweep(table, of_states, past: _Sweeps) -> _Sweeps:
    values = jnp.max(past.q, axis=0)
    q = sweeps.backup(table, values)
    best = jnp.max(q, axis=0)
    residual = jnp.max(jnp.abs(best - values if of_states else q - past.q))
    return _Sweeps(
        q=q,
        policy=jnp.where(_of(past.policy, q) < best, sweeps.greedy(q), past.policy),
        iterations=past.iterations + 1,
        residual=residual,
        floor=table.most * residual <= sweeps.noise(table, values, q) / 4,
    )


def _of(policy, q):
    return jnp.take_along_axis(q, policy[None], axis=0)[0]


@functools.partial(jax.jit, static_argnames=("dtype", "method"))
def solve(mdp, table, tolerance, max_iterations, dtype, method) -> dict:
    """Sweeps until the policy so far satisfies Bellman's equation; each round asks for ten times less change."""
    model, of_states = normalised(mdp), jax.eval_shape(method.begin, table)[0].ndim == 1
    sweep = functools.partial(_sweep, table, of_states)
    unknown = jnp.float64(jnp.inf)
    nothing = jnp.zeros_like(table.gain)
    start = _Sweeps(nothing, jnp.zeros(nothing.shape[1], jnp.int32), jnp.int32(0), unknown, jnp.bool_(False))

    def attempt(carry):
        state, threshold, _, _ = carry

        def unfinished(s):
            return ~((s.residual <= threshold) | s.floor | (s.iterations >= max_iterations))

        state = jax.lax.while_loop(unfinished, sweep, sweep(state))
        values = policy_values(model, state.policy, jnp.float64(1))
        q = sweeps.backup(table, values)
        noise = 64 * jnp.finfo(jnp.float64).eps * (1 + jnp.max(jnp.abs(q)))
        proven = jnp.max(jnp.abs(jnp.max(q, axis=0) - values)) <= noise  # False where a value is NaN
        return state, threshold / 10, proven, q

    def unproven(carry):
        state, _, proven, _ = carry
        return ~(proven | state.floor | (state.iterations >= max_iterations))

    state, _, proven, q = jax.lax.while_loop(unproven, attempt, (start, tolerance, jnp.bool_(False), start.q))
    q = jnp.where(proven, q, state.q)
    return dict(
        values=jnp.max(q, axis=0),
        q_values=q.T,
        policy=state.policy,
        iterations=state.iterations,
        residual=state.residual,
        converged=proven & (rounding(q, dtype) <= tolerance),
        error_bound=unknown,
        loss_bound=unknown,
        span_loss_bound=unknown,
    )
