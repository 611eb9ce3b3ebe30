"""Soft policies, and where policies spend their time."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.errors import UserError
from jaxql.planning.arguments import check_discount, check_policy, known
from jaxql.planning.evaluation import policy_rows
from jaxql.planning.model import check
from jaxql.planning.numbers import double, double_policy, dtype_of, in_float64, round_to
from jaxql.planning.operators import greedy_policy
from jaxql.planning.sweeps import lay_out
from jaxql.types import MDP, Array


def softmax_policy(q: Array, temperature=1.0) -> Array:
    """pi[s, a] proportional to exp(q[s, a] / temperature): [S, A] -> [S, A]; -inf in q is never chosen.

    Raises: UserError unless `temperature` > 0.

    Source: Sutton & Barto (2018), equation 13.2, with q / temperature for preferences,
    http://incompleteideas.net/book/the-book-2nd.html

    >>> softmax_policy(np.array([[1.0, 1.0]])).tolist()
    [[0.5, 0.5]]
    """
    if known(temperature) and not float(temperature) > 0:
        raise UserError(f"temperature is {temperature}; it must be above 0; for 0 use greedy_policy")
    q = jnp.asarray(q)
    q = q.astype(jnp.result_type(q, 0.0))
    legal = q > -jnp.inf
    below = jnp.where(legal, q - jnp.max(q, axis=-1, keepdims=True), 0)
    return jax.nn.softmax(jnp.where(legal, below / temperature, -jnp.inf), axis=-1)


def epsilon_soft_policy(q: Array, epsilon, tie: str = "lowest") -> Array:
    """pi[s, a] = epsilon / A + (1 - epsilon) greedy[s, a]: [S, A] -> [S, A]; ties as in `greedy_policy`.

    Raises: UserError unless `epsilon` is in [0, 1].

    Source: Sutton & Barto (2018), the weights in equation 5.2, http://incompleteideas.net/book/the-book-2nd.html

    >>> epsilon_soft_policy(np.array([[0.0, 1.0]]), 0.5).tolist()
    [[0.25, 0.75]]
    """
    if known(epsilon) and not 0 <= float(epsilon) <= 1:
        raise UserError(f"epsilon is {epsilon}; it must lie in [0, 1]")
    q = jnp.asarray(q)
    greedy = greedy_policy(q, tie)
    dtype = jnp.result_type(q, 0.0)
    odds = jax.nn.one_hot(greedy, q.shape[-1], dtype=dtype) if greedy.ndim < q.ndim else greedy.astype(dtype)
    return epsilon / q.shape[-1] + (1 - epsilon) * odds


def stationary_distribution(mdp: MDP, policy: Array) -> Array:
    """d [S] with d = d P_pi and sum(d) = 1: the share of steps that a policy spends in each state.

    An episode that ends is followed by another, so the steps after an end are distributed as `start`. Solved exactly,
    in [S, S] memory. NaN where it is not unique: a policy that may settle in either of two places.

    Args: `policy` [S] of action indices or [S, A] of probabilities.
    Returns: [S] in the dtype of the rewards.
    Raises: UserError for a model or policy that makes no sense.

    Source: Sutton & Barto (2018), equation 10.8, http://incompleteideas.net/book/the-book-2nd.html

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> stationary_distribution(loop, np.array([0])).tolist()
    [1.0]
    """
    check(mdp)
    check_policy(mdp, policy)
    dtype = dtype_of(mdp)

    def found(mdp, policy):
        return round_to(_stationary(double(mdp), double_policy(policy)), dtype)

    return in_float64(found, mdp._replace(step_limit=None), policy)


def discounted_occupancy(mdp: MDP, policy: Array, discount, start: Array | None = None) -> Array:
    """x[s] = sum_t discount**t P(s_t = s): how often, discounted, an episode visits each state before it ends; [S].

    x = start + discount P_pi' x, solved exactly in [S, S] memory; x @ r_pi is the expected return, and sum(x) is
    1 / (1 - discount) where nothing ends. At discount 1 x counts visits, and is NaN if episodes need not end.

    Args: `policy` [S] of action indices or [S, A] of probabilities; `start` [S], the model's own if None.
    Raises: UserError for a model, policy, discount or start that makes no sense.

    Source: Sutton & Barto (2018), equation 9.2 with the discount as a factor of its second term,
    http://incompleteideas.net/book/the-book-2nd.html

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> discounted_occupancy(loop, np.array([0]), 0.75).tolist()
    [4.0]
    """
    mdp = mdp if start is None else mdp._replace(start=start)
    check(mdp)
    check_discount(discount)
    check_policy(mdp, policy)
    dtype = dtype_of(mdp)

    def found(mdp, policy, discount):
        return round_to(_occupancy(double(mdp), double_policy(policy), double(discount)), dtype)

    return in_float64(found, mdp._replace(step_limit=None), policy, discount)


def _going_on(mdp, policy):
    """P_pi [S, S] without what ends, and the start as a distribution."""
    rows = policy_rows(lay_out(mdp, jnp.float64(1)), policy)
    states = len(mdp.start)
    here = jnp.broadcast_to(jnp.arange(states, dtype=jnp.int32)[None], rows.next_state.shape)
    matrix = jnp.zeros((states, states)).at[here, rows.next_state].add(rows.weight)
    return matrix, mdp.start / jnp.sum(mdp.start)


def _refined_solve(matrix, target):
    """Solution of x @ matrix = target, or NaN where there is none or it is not unique."""
    x = jnp.linalg.solve(matrix.T, target)
    inverse_norm = jnp.max(jnp.sum(jnp.abs(jnp.linalg.inv(matrix)), axis=0))
    singular = ~(inverse_norm * jnp.finfo(jnp.float64).eps * len(target) < 1e-3)
    return jnp.where(singular, jnp.nan, jnp.maximum(x, 0))


@jax.jit
def _stationary(mdp, policy):
    matrix, start = _going_on(mdp, policy)
    ending = jnp.maximum(1 - jnp.sum(matrix, axis=1), 0)
    chain = matrix + jnp.where(ending > 1e-14, ending, 0)[:, None] * start[None]
    found = _refined_solve(jnp.eye(len(start)) - chain + 1 / len(start), jnp.full(len(start), 1 / len(start)))
    return found / jnp.sum(found)


@jax.jit
def _occupancy(mdp, policy, discount):
    matrix, start = _going_on(mdp, policy)

    def one_step_on(_, reached):
        return reached | jnp.any((matrix > 0) & reached[:, None], axis=0)

    reached = jax.lax.fori_loop(np.int32(0), np.int32(len(start)), one_step_on, start > 0)
    matrix = jnp.where(reached[:, None], matrix, 0)  # where no episode comes it need not end
    return _refined_solve(jnp.eye(len(start)) - discount * matrix, start)
