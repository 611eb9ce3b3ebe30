"""Expected returns of episodes within a step limit: of a policy, and of the best one."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxql.errors import UserError
from jaxql.planning.arguments import check_discount, check_policy, is_concrete, is_one, resolve_step_limit
from jaxql.planning.evaluation import policy_evaluation
from jaxql.planning.model import check_mdp
from jaxql.planning.numbers import answer_dtype, cast_floats, in_float64, normalise, policy_to_float64, to_float64
from jaxql.planning.operators import backup, policy_average
from jaxql.planning.solvers import VALUE_ITERATION, solve_any_discount
from jaxql.types import MDP, Array, Scalar


def start_returns(mdp: MDP, policy: ArrayLike, discount: Scalar = 1.0, step_limit: Any = "mdp") -> Array:
    """Expected return [S] of an episode from each state, exactly: the backward recursion over the step limit.

    Args:
      mdp: the model.
      policy: [S] of action indices or [S, A] of probabilities.
      discount: in [0, 1].
      step_limit: "mdp" (the model's own), an int >= 0, or None for no limit, which gives `policy_evaluation`.

    Raises: UserError as `policy_evaluation`, or for an invalid step limit.

    Source: Puterman (1994), equation 4.2.1, https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [1.0])))
    >>> start_returns(loop, np.array([0]), step_limit=3).tolist()
    [6.0]
    """
    check_discount(discount)
    mdp = check_mdp(mdp)
    limit = resolve_step_limit(mdp, step_limit)
    if limit is None:
        return policy_evaluation(mdp, policy, discount)
    policy = check_policy(mdp, policy)
    return _backward(mdp, policy, discount, limit)


def expected_return(mdp: MDP, policy: ArrayLike, discount: Scalar = 1.0, step_limit: Any = "mdp") -> Array:
    """Expected return of an episode, a scalar: the mean of `start_returns` over the start distribution.

    Arguments and errors are those of `start_returns`.

    Source: Puterman (1994), equation 4.2.1, averaged over the start, https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [1.0])))
    >>> float(expected_return(loop, np.array([0]), step_limit=3))
    6.0
    """
    mdp = check_mdp(mdp)
    return _from_start(mdp, start_returns(mdp, policy, discount, step_limit))


def success_probability(mdp: MDP, policy: ArrayLike, step_limit: Any = "mdp") -> Array:
    """Probability that an episode succeeds, for a model whose only reward is a 1 that ends it (FrozenLake).

    It is the expected undiscounted return.

    Raises: UserError if the model has any other reward, or a reward that does not end the episode.

    Source: Puterman (1994), equation 4.2.1, with success as the only reward, https://doi.org/10.1002/9780470316887

    >>> coin = MDP(*map(np.asarray, ([[[0, 0]]], [[[0.5, 0.5]]], [[[1.0, 0.0]]], [[[True, False]]], [1.0])))
    >>> float(success_probability(coin, np.array([0]), step_limit=2))
    0.75
    """
    mdp = check_mdp(mdp)
    if is_concrete(mdp):
        reward, ends = np.asarray(mdp.reward), np.asarray(mdp.ends)
        if np.any((np.asarray(mdp.probability) > 0) & (reward != 0) & ~((reward == 1) & ends)):
            raise UserError("success is a reward of 1 at the end, and this model pays otherwise; use expected_return")
    return expected_return(mdp, policy, 1.0, step_limit)


def best_return(mdp: MDP, discount: Scalar = 1.0, step_limit: Any = "mdp") -> Array:
    """Largest expected return of any policy from the start distribution, a scalar.

    The policy may depend on the time step. Computed by backward induction over `step_limit` ("mdp": the model's own),
    or without a limit by `value_iteration`.

    Raises: UserError as `value_iteration`, and at discount 1 without a step limit if no optimum can be proven.

    Source: Puterman (1994), equation 4.5.1, averaged over the start, https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [1.0])))
    >>> float(best_return(loop, step_limit=3))
    6.0
    """
    mdp = check_mdp(mdp)
    check_discount(discount)
    limit = resolve_step_limit(mdp, step_limit)
    if limit is not None:
        return _from_start(mdp, _backward(mdp, None, discount, limit))
    undiscounted = is_one(discount)
    tolerance = 1.0 if undiscounted else 1e-300  # as close as the dtype gets
    solution = solve_any_discount(VALUE_ITERATION, mdp, discount, tolerance)
    if undiscounted and is_concrete(solution.converged) and not solution.converged:
        raise UserError("no best total reward could be proven at discount 1; give a step_limit, or a discount below 1")
    return _from_start(mdp, solution.values)


def finite_horizon(mdp: MDP, horizon: int, discount: Scalar = 1.0) -> Array:
    """Optimal values [horizon + 1, S] with 0, 1, ..., horizon steps to go: v[0] = 0, v[h + 1] = T v[h].

    With h + 1 steps to go the best action is greedy in `action_values(mdp, v[h], discount)`.

    Raises: UserError for an invalid model, horizon or discount.

    Source: Puterman (1994), equation 4.5.1, https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [1.0])))
    >>> finite_horizon(loop, 2).tolist()
    [[0.0], [2.0], [4.0]]
    """
    mdp = check_mdp(mdp)
    check_discount(discount)
    others = ', or "mdp" where the model has a step limit'
    steps, dtype = resolve_step_limit(mdp, horizon, "horizon", others), answer_dtype(mdp)
    if steps is None:
        raise UserError(f"horizon is {horizon!r}; it must be a whole number{others}")

    def all_values(mdp, discount):
        return cast_floats(_values_to_go(normalise(to_float64(mdp)), to_float64(discount), steps), dtype)

    return in_float64(all_values, mdp._replace(step_limit=None), discount)


@functools.partial(jax.jit, static_argnames="steps")
def _values_to_go(mdp, discount, steps):
    def step(values, _):
        values = jnp.max(backup(mdp, values, discount), axis=-1)
        return values, values

    first = jnp.zeros(len(mdp.start), jnp.float64)
    return jnp.concatenate([first[None], jax.lax.scan(step, first, None, steps)[1]])


def _backward(mdp, policy, discount, steps):
    dtype = answer_dtype(mdp)

    values = functools.partial(_values, recursion=_recursion, dtype=dtype)

    def slope(_, mdp, policy, discount, __):
        return _values.__wrapped__(mdp, policy, discount, steps, recursion=_unrolled, dtype=dtype)

    return in_float64(values, mdp._replace(step_limit=None), policy, discount, steps, slope=slope)


@functools.partial(jax.jit, static_argnames=("recursion", "dtype"))
def _values(mdp, policy, discount, steps, *, recursion, dtype):
    policy = None if policy is None else policy_to_float64(policy)
    return cast_floats(recursion(normalise(to_float64(mdp)), policy, to_float64(discount), steps), dtype)


def _step_back(mdp, policy, discount, values):
    q = backup(mdp, values, discount)
    return jnp.max(q, axis=-1) if policy is None else policy_average(policy, q)


def _recursion(mdp, policy, discount, steps):
    first = jnp.zeros(mdp.probability.shape[0], jnp.float64)
    step = functools.partial(_step_back, mdp, policy, discount)
    return jax.lax.fori_loop(np.int32(0), jnp.int32(steps), lambda _, values: step(values), first)


def _unrolled(mdp, policy, discount, steps):
    """`_recursion` over a static number of steps, which reverse mode needs."""
    first = jnp.zeros(mdp.probability.shape[0], jnp.float64)
    return jax.lax.scan(lambda values, _: (_step_back(mdp, policy, discount, values), None), first, None, steps)[0]


def _from_start(mdp, values):
    return in_float64(functools.partial(_mean_at_start, dtype=answer_dtype(mdp)), mdp.start, values)


@functools.partial(jax.jit, static_argnames="dtype")
def _mean_at_start(start, values, *, dtype):
    start = to_float64(start)
    values = jnp.where(start > 0, to_float64(values), 0)  # other states do not count, even if NaN
    return cast_floats(jnp.sum(start * values) / jnp.sum(start), dtype)
