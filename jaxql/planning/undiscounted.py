"""The largest total reward, at discount 1. Nothing contracts, so the values must be shown to be those of a policy."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.errors import UserError
from jaxql.planning import sweeps
from jaxql.planning.arguments import is_concrete
from jaxql.planning.evaluation import policy_values
from jaxql.planning.numbers import normalise, rounding_error
from jaxql.types import MDP, Array


def check_ends(mdp: MDP) -> None:
    """Raises UserError, naming a state, if its total reward is infinite for every policy.

    A resting state allows a policy to earn nothing more, for ever or until an end. A state from which no actions lead
    to a resting state or to an end earns for ever. A traced model is not checked.
    """
    if not all(is_concrete(x) for x in mdp[:4]):
        return
    next_state, probability, reward, ends = (np.asarray(x) for x in mdp[:4])
    possible = probability > 0
    free = (~possible | (reward == 0)).all(axis=-1)
    rest, before = np.ones(len(possible), bool), np.zeros(len(possible), bool)
    while not np.array_equal(rest, before):
        before = rest
        rest = rest & (free & (~possible | ends | rest[next_state]).all(axis=-1)).any(axis=-1)
    good, before = rest | (possible & ends).any(axis=(1, 2)), np.zeros(len(possible), bool)
    while not np.array_equal(good, before):
        before = good
        good = good | (possible & good[next_state]).any(axis=(1, 2))
    if not good.all():
        raise UserError(
            f"from state {int(np.argmin(good))} no actions lead to an end, or to where nothing more is earned; at "
            "discount 1 its value is not finite; give a discount below 1, or a horizon (finite_horizon)"
        )


class _Sweeps(NamedTuple):
    q: Array  # [A, S]
    policy: Array  # [S] greedy; an action is kept until another is better, so among equals the one that led first
    iterations: Array
    residual: Array
    floor: Array  # bool: the residual is below the rounding error


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
        floor=table.max_discount * residual <= sweeps.sweep_rounding(table, values, q) / 4,
    )


def _of(policy, q):
    return jnp.take_along_axis(q, policy[None], axis=0)[0]


@functools.partial(jax.jit, static_argnames=("dtype", "method"))
def solve(
    mdp: MDP, table: sweeps.Table, tolerance: Array, max_iterations: Array, dtype: Any, method: Any
) -> dict[str, Any]:
    """Sweeps until the values of the greedy policy satisfy Bellman's equation.

    After each failed proof the sweeps go on until the residual is ten times smaller.
    """
    model, of_states = normalise(mdp), jax.eval_shape(method.init, table)[0].ndim == 1
    sweep = functools.partial(_sweep, table, of_states)
    unknown = jnp.float64(jnp.inf)
    nothing = jnp.zeros_like(table.reward_mean)
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
        converged=proven & (rounding_error(q, dtype) <= tolerance),
        error_bound=unknown,
        loss_bound=unknown,
        span_loss_bound=unknown,
    )
