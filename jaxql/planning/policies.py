"""Soft policies, and the state distributions of policies."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxql import explore
from jaxql.planning.arguments import as_array, check_discount, check_number, check_policy
from jaxql.planning.evaluation import policy_table
from jaxql.planning.model import check_mdp
from jaxql.planning.numbers import answer_dtype, cast_floats, in_float64, policy_to_float64, to_float64
from jaxql.planning.operators import greedy_policy
from jaxql.planning.sweeps import to_table
from jaxql.types import MDP, Array, Scalar


def softmax_policy(q: ArrayLike, temperature: Scalar = 1.0) -> Array:
    """The softmax policy [S, A] of q [S, A]: pi[s, a] is proportional to exp(q[s, a] / temperature).

    An action of value -inf is never chosen. `jaxql.explore` says what NaN means, and a row without legal actions.

    Raises: UserError unless `temperature` > 0.

    Source: Sutton & Barto (2018), equation 13.2, with q / temperature for preferences,
    http://incompleteideas.net/book/the-book-2nd.html

    >>> softmax_policy(np.array([[1.0, 1.0]])).tolist()
    [[0.5, 0.5]]
    """
    check_number("temperature", temperature, 5e-324, math.inf, "a number above 0; for 0 use greedy_policy")
    return explore.softmax_probabilities(q, temperature)


def epsilon_soft_policy(q: ArrayLike, epsilon: Scalar, tie: str = "lowest") -> Array:
    """The epsilon-greedy policy [S, A] of q [S, A]: epsilon / A(s) + (1 - epsilon) greedy[s, a].

    A(s) is the number of legal actions of s: an action of value -inf is never chosen. Ties are broken as in
    `greedy_policy`. `jaxql.explore` says what NaN means, and a row without legal actions.

    Raises: UserError unless `epsilon` is in [0, 1].

    Source: Sutton & Barto (2018), the weights in equation 5.2, http://incompleteideas.net/book/the-book-2nd.html

    >>> epsilon_soft_policy(np.array([[0.0, 1.0]]), 0.5).tolist()
    [[0.25, 0.75]]
    """
    check_number("epsilon", epsilon, 0, 1, "a number in [0, 1]")
    q = jnp.asarray(q)
    greedy = greedy_policy(q, tie)
    dtype = jnp.result_type(q, 0.0)
    odds = jax.nn.one_hot(greedy, q.shape[-1], dtype=dtype) if greedy.ndim < q.ndim else greedy.astype(dtype)
    _, legal = explore.best_and_legal(q)
    share = legal.astype(dtype) / jnp.maximum(jnp.sum(legal, axis=-1, keepdims=True), 1).astype(dtype)
    return epsilon * share + (1 - epsilon) * odds


def stationary_distribution(mdp: MDP, policy: ArrayLike) -> Array:
    """The share [S] of steps that a policy spends in each state: d with d = d P_pi and sum(d) = 1.

    An episode that ends is followed by another, so the state after an end is distributed as `start`. The solution is
    exact, in [S, S] memory. It is NaN if it is not unique: the policy has more than one recurrent class.

    Args:
      mdp: the model.
      policy: [S] of action indices or [S, A] of probabilities.

    Returns: [S] in the dtype of the rewards.
    Raises: UserError for an invalid model or policy.

    Source: Sutton & Barto (2018), equation 10.8, http://incompleteideas.net/book/the-book-2nd.html

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> stationary_distribution(loop, np.array([0])).tolist()
    [1.0]
    """
    mdp = check_mdp(mdp)
    policy = check_policy(mdp, policy)
    dtype = answer_dtype(mdp)

    def found(mdp, policy):
        return cast_floats(_stationary(to_float64(mdp), policy_to_float64(policy)), dtype)

    return in_float64(found, mdp._replace(step_limit=None), policy)


def discounted_occupancy(mdp: MDP, policy: ArrayLike, discount: Scalar, start: ArrayLike | None = None) -> Array:
    """The discounted number of visits [S] of an episode to each state: x[s] = sum_t discount**t P(s_t = s).

    x = start + discount P_pi' x, solved exactly in [S, S] memory. x @ r_pi is the expected return, and sum(x) is
    1 / (1 - discount) where nothing ends. At discount 1 x counts visits, and is NaN if episodes need not end.

    Args:
      mdp: the model.
      policy: [S] of action indices or [S, A] of probabilities.
      discount: in [0, 1].
      start: [S] distribution of the first state; None is the model's own.

    Raises: UserError for an invalid model, policy, discount or start.

    Source: Sutton & Barto (2018), equation 9.2 with the discount as a factor of its second term,
    http://incompleteideas.net/book/the-book-2nd.html

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> discounted_occupancy(loop, np.array([0]), 0.75).tolist()
    [4.0]
    """
    mdp = check_mdp(mdp)
    mdp = mdp if start is None else check_mdp(mdp._replace(start=as_array("start", start)))
    check_discount(discount)
    policy = check_policy(mdp, policy)
    dtype = answer_dtype(mdp)

    def found(mdp, policy, discount):
        return cast_floats(_occupancy(to_float64(mdp), policy_to_float64(policy), to_float64(discount)), dtype)

    return in_float64(found, mdp._replace(step_limit=None), policy, discount)


def _continuing_matrix(mdp, policy):
    """P_pi [S, S] without the transitions that end, and the start distribution [S]."""
    rows = policy_table(to_table(mdp, jnp.float64(1)), policy)
    states = len(mdp.start)
    here = jnp.broadcast_to(jnp.arange(states, dtype=jnp.int32)[None], rows.next_state.shape)
    matrix = jnp.zeros((states, states)).at[here, rows.next_state].add(rows.weight)
    return matrix, mdp.start / jnp.sum(mdp.start)


def _solve_or_nan(matrix, target):
    """Solution of x @ matrix = target, or NaN where there is none or it is not unique."""
    x = jnp.linalg.solve(matrix.T, target)
    inverse_norm = jnp.max(jnp.sum(jnp.abs(jnp.linalg.inv(matrix)), axis=0))
    singular = ~(inverse_norm * jnp.finfo(jnp.float64).eps * len(target) < 1e-3)
    return jnp.where(singular, jnp.nan, jnp.maximum(x, 0))


@jax.jit
def _stationary(mdp, policy):
    matrix, start = _continuing_matrix(mdp, policy)
    ending = jnp.maximum(1 - jnp.sum(matrix, axis=1), 0)
    chain = matrix + jnp.where(ending > 1e-14, ending, 0)[:, None] * start[None]
    found = _solve_or_nan(jnp.eye(len(start)) - chain + 1 / len(start), jnp.full(len(start), 1 / len(start)))
    return found / jnp.sum(found)


@jax.jit
def _occupancy(mdp, policy, discount):
    matrix, start = _continuing_matrix(mdp, policy)

    def one_step_on(_, reached):
        return reached | jnp.any((matrix > 0) & reached[:, None], axis=0)

    reached = jax.lax.fori_loop(np.int32(0), np.int32(len(start)), one_step_on, start > 0)
    matrix = jnp.where(reached[:, None], matrix, 0)  # a state that no episode reaches may never end
    return _solve_or_nan(jnp.eye(len(start)) - discount * matrix, start)
