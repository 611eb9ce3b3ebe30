"""The largest total reward, at discount 1. Nothing contracts, so the values must be shown to be those of a policy."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.errors import UserError
from jaxql.planning import sweeps
from jaxql.planning.arguments import is_concrete
from jaxql.planning.end_components import endless_reward
from jaxql.planning.evaluation import policy_values
from jaxql.planning.numbers import normalise, rounding_error, where_legal
from jaxql.types import MDP, Array

REMEDY = (
    "at discount 1 its value is not finite; give a discount below 1, a step_limit (best_return) or a horizon "
    "(finite_horizon), or take relative_value_iteration, which finds the best reward a step"
)


def check_ends(mdp: MDP) -> None:
    """Raises UserError, naming a state, if its total reward is infinite for every policy, or for some policy +inf.

    A resting state allows a policy to earn nothing more, for ever or until an end. A state from which no actions lead
    to a resting state or to an end earns for ever. A state of an end component earns without bound if the best reward
    a step within the component is above 0. A traced model is not checked.
    """
    if not is_concrete(mdp):
        return
    next_state, probability, reward, ends = (np.asarray(x) for x in mdp[:4])
    legal = np.ones(probability.shape[:2], bool) if mdp.legal is None else np.asarray(mdp.legal)
    possible = (probability > 0) & legal[..., None]
    free = legal & (~possible | (reward == 0)).all(axis=-1)
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
            f"from state {int(np.argmin(good))} no actions lead to an end, or to where nothing more is earned; {REMEDY}"
        )
    rich = endless_reward(mdp)
    if rich is not None:
        raise UserError(f"from state {rich} a positive reward a step can be earned for ever; {REMEDY}")


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
    residual = jnp.max(jnp.abs(best - values if of_states else sweeps.change_of_q(table, q, past.q)))
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
    mdp: MDP,
    table: sweeps.Table,
    tolerance: Array,
    max_iterations: Array,
    initial: Array | None,
    *,
    dtype: Any,
    method: Any,
) -> dict[str, Any]:
    """Sweeps until the values of the greedy policy satisfy Bellman's equation.

    After each failed proof the sweeps go on until the residual is ten times smaller. The first is tried at `tolerance`,
    or at 1e-6 if it is infinite.
    """
    model, of_states = normalise(mdp), jax.eval_shape(method.init, table, initial)[0].ndim == 1
    sweep = functools.partial(_sweep, table, of_states)
    unknown = jnp.float64(jnp.inf)
    first = jnp.zeros_like(table.reward_mean) if initial is None else jnp.broadcast_to(initial, table.reward_mean.shape)
    first = where_legal(table.legal, first, -jnp.inf)
    start = _Sweeps(first, jnp.zeros(first.shape[1], jnp.int32), jnp.int32(0), unknown, jnp.bool_(False))

    def attempt(carry):
        state, threshold, _, _ = carry

        def unfinished(s):
            return ~((s.residual <= threshold) | s.floor | (s.iterations >= max_iterations))

        state = jax.lax.while_loop(unfinished, sweep, sweep(state))
        values = policy_values(model, state.policy, jnp.float64(1))
        q = sweeps.backup(table, values)
        noise = 64 * jnp.finfo(jnp.float64).eps * (1 + jnp.max(jnp.abs(where_legal(table.legal, q, 0))))
        proven = jnp.max(jnp.abs(jnp.max(q, axis=0) - values)) <= noise  # False where a value is NaN
        return state, threshold / 10, proven, q

    def unproven(carry):
        state, _, proven, _ = carry
        return ~(proven | state.floor | (state.iterations >= max_iterations))

    threshold = jnp.where(jnp.isfinite(tolerance), tolerance, 1e-6)
    state, _, proven, q = jax.lax.while_loop(unproven, attempt, (start, threshold, jnp.bool_(False), start.q))
    q = jnp.where(proven, q, state.q)
    return dict(
        values=jnp.max(q, axis=0),
        q_values=q.T,
        policy=state.policy,
        iterations=state.iterations,
        residual=state.residual,
        converged=proven & (rounding_error(where_legal(table.legal, q, 0), dtype) <= tolerance),
        error_bound=unknown,
        loss_bound=unknown,
        span_loss_bound=unknown,
    )
