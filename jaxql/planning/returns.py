"""What episodes pay: a policy's returns within a step limit, and the best that any policy could have."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.errors import UserError
from jaxql.planning.arguments import check_discount, check_policy, is_one, known, limit_of
from jaxql.planning.evaluation import policy_evaluation
from jaxql.planning.model import check
from jaxql.planning.numbers import double, double_policy, dtype_of, in_float64, normalised, round_to
from jaxql.planning.operators import action_values, average, bellman_optimality
from jaxql.planning.solvers import value_iteration
from jaxql.types import MDP, Array


def start_returns(mdp: MDP, policy: Array, discount=1.0, step_limit: Any = "mdp") -> Array:
    """Expected return [S] of an episode that starts in each state, exactly: the backward recursion over the step limit.

    Args: `policy` [S] of action indices or [S, A] of probabilities; `step_limit` "mdp" (the model's own), an int >= 0,
    or None, which means none: then `policy_evaluation` answers.
    Raises: UserError as there.

    Source: Puterman (1994), equation 4.2.1, https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [1.0])))
    >>> start_returns(loop, np.array([0]), step_limit=3).tolist()
    [6.0]
    """
    check_discount(discount)
    limit = limit_of(mdp, step_limit)
    if limit is None:
        return policy_evaluation(mdp, policy, discount)
    check(mdp)
    check_policy(mdp, policy)
    return _backward(mdp, policy, discount, limit)


def expected_return(mdp: MDP, policy: Array, discount=1.0, step_limit: Any = "mdp") -> Array:
    """Mean of `start_returns` over the start distribution, a scalar: what infinitely many episodes would average.

    Arguments and errors are those of `start_returns`.

    Source: Puterman (1994), equation 4.2.1, averaged over the start, https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [1.0])))
    >>> float(expected_return(loop, np.array([0]), step_limit=3))
    6.0
    """
    return _from_start(mdp, start_returns(mdp, policy, discount, step_limit))


def success_probability(mdp: MDP, policy: Array, step_limit: Any = "mdp") -> Array:
    """Probability that an episode succeeds: earns the reward 1 that ends it, where all else earns 0 (FrozenLake).

    It is then the expected undiscounted return.
    Raises: UserError if the model pays anything else, or pays and goes on.

    Source: Puterman (1994), equation 4.2.1, with success as the only reward, https://doi.org/10.1002/9780470316887

    >>> coin = MDP(*map(np.asarray, ([[[0, 0]]], [[[0.5, 0.5]]], [[[1.0, 0.0]]], [[[True, False]]], [1.0])))
    >>> float(success_probability(coin, np.array([0]), step_limit=2))
    0.75
    """
    if all(known(x) for x in mdp):
        reward, ends = np.asarray(mdp.reward), np.asarray(mdp.ends)
        if np.any((np.asarray(mdp.probability) > 0) & (reward != 0) & ~((reward == 1) & ends)):
            raise UserError("success is a reward of 1 at the end, and this model pays otherwise; use expected_return")
    return expected_return(mdp, policy, 1.0, step_limit)


def best_return(mdp: MDP, discount=1.0, step_limit: Any = "mdp") -> Array:
    """The best expected return that any policy can have from the start, a scalar; it may look at the clock.

    Backward induction over `step_limit` ("mdp": the model's own), or without one `value_iteration`.
    Raises: UserError as `value_iteration`, and if at discount 1 without a step limit no optimum could be proven.

    Source: Puterman (1994), equation 4.5.1, averaged over the start, https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [1.0])))
    >>> float(best_return(loop, step_limit=3))
    6.0
    """
    check(mdp)
    check_discount(discount)
    limit = limit_of(mdp, step_limit)
    if limit is not None:
        return _from_start(mdp, _backward(mdp, None, discount, limit))
    undiscounted = is_one(discount)
    solution = value_iteration(mdp, discount, 1.0 if undiscounted else 1e-300)  # as close as the dtype gets
    if undiscounted and known(solution.converged) and not solution.converged:
        raise UserError("no best total reward could be proven at discount 1; give a step_limit, or a discount below 1")
    return _from_start(mdp, solution.values)


def finite_horizon(mdp: MDP, horizon: int, discount=1.0) -> Array:
    """Optimal values [horizon + 1, S] with 0, 1, ..., horizon steps to go: v[0] = 0, v[h + 1] = T v[h].

    With h + 1 steps to go the best action is greedy in `action_values(mdp, v[h], discount)`: it depends on the clock.
    Raises: UserError for a model, horizon or discount that makes no sense.

    Source: Puterman (1994), equation 4.5.1, https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [1.0])))
    >>> finite_horizon(loop, 2).tolist()
    [[0.0], [2.0], [4.0]]
    """
    check(mdp)
    check_discount(discount)
    others = 'or "mdp" where the model has a step limit'
    steps, dtype = limit_of(mdp, horizon, "horizon", others), dtype_of(mdp)
    if steps is None:
        raise UserError(f"horizon is {horizon!r}; it must be a whole number, {others}")

    def all_values(mdp, discount):
        model, gamma = normalised(double(mdp)), double(discount)
        first = jnp.zeros(len(mdp.start), jnp.float64)

        def step(values, _):
            values = bellman_optimality(model, values, gamma)
            return values, values

        later = jax.lax.scan(step, first, None, steps)[1]
        return round_to(jnp.concatenate([first[None], later]), dtype)

    return in_float64(all_values, mdp._replace(step_limit=None), discount)


def _backward(mdp, policy, discount, steps):
    dtype = dtype_of(mdp)

    def values(mdp, policy, discount, steps, recursion=_recursion):
        policy = None if policy is None else double_policy(policy)
        return round_to(recursion(normalised(double(mdp)), policy, double(discount), steps), dtype)

    def slope(_, mdp, policy, discount, __):
        return values(mdp, policy, discount, steps, _unrolled)

    return in_float64(values, mdp._replace(step_limit=None), policy, discount, steps, slope=slope)


def _step_back(mdp, policy, discount, values):
    q = action_values(mdp, values, discount)
    return jnp.max(q, axis=-1) if policy is None else average(policy, q)


@jax.jit
def _recursion(mdp, policy, discount, steps):
    first = jnp.zeros(mdp.probability.shape[0], jnp.float64)
    step = functools.partial(_step_back, mdp, policy, discount)
    return jax.lax.fori_loop(np.int32(0), jnp.int32(steps), lambda _, values: step(values), first)


def _unrolled(mdp, policy, discount, steps):
    """`_recursion` over a known number of steps, which reverse mode needs."""
    first = jnp.zeros(mdp.probability.shape[0], jnp.float64)
    return jax.lax.scan(lambda values, _: (_step_back(mdp, policy, discount, values), None), first, None, steps)[0]


def _from_start(mdp, values):
    dtype = dtype_of(mdp)

    def mean(start, values):
        start = double(start)
        values = jnp.where(start > 0, double(values), 0)  # where no episode starts, not even NaN counts
        return round_to(jnp.sum(start * values) / jnp.sum(start), dtype)

    return in_float64(mean, mdp.start, values)
