"""The Bellman operators of an `MDP`, on values and on action values, and greedy policies.

They keep the dtype they are given. Values [..., S] and action values [..., S, A] may have leading axes; `mdp` and
`policy` are shared by them. Shapes that differ raise ValueError.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxql.errors import UserError
from jaxql.explore import best_and_legal
from jaxql.planning.model import with_arrays, with_legal_actions
from jaxql.planning.numbers import pairwise_sum, where_legal
from jaxql.types import MDP, Array, Scalar


def action_values(mdp: MDP, values: ArrayLike, discount: Scalar) -> Array:
    """Action values one step ahead: q[s, a] = sum_k p[s, a, k] (r[s, a, k] + discount * values[next_state]).

    The value after a transition that ends is 0. An illegal action, by the rules of `check_mdp`, is worth -inf.

    Args:
      mdp: the model.
      values: [..., S].
      discount: a number in [0, 1].

    Returns: q [..., S, A].
    Raises: ValueError for values of another shape.

    Source: Sutton & Barto (2018), equation 4.6, http://incompleteideas.net/book/the-book-2nd.html

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [1.0])))
    >>> float(action_values(loop, np.ones(1), 0.5)[0, 0])
    2.5
    """

    mdp = with_legal_actions(with_arrays(mdp))
    values = _of_states(mdp, "values", values, 1)
    return _mapped(lambda values: backup(mdp, values, discount), values, 1)


def backup(mdp: MDP, values: Array, discount: Scalar) -> Array:
    """`action_values` [S, A] of a model that `check_mdp` returned."""
    worth = mdp.reward + discount * jnp.where(mdp.ends, 0, values[mdp.next_state])
    worth = jnp.where((mdp.probability == 0) & ~jnp.isfinite(worth), 0, worth)  # a padded successor
    return where_legal(mdp.legal, pairwise_sum(mdp.probability * worth), -jnp.inf)


def bellman_optimality(mdp: MDP, values: ArrayLike, discount: Scalar) -> Array:
    """Optimal backup T v [..., S] of values v [..., S]: (T v)(s) = max_a q[s, a], with q from `action_values`.

    T is monotone, and in the maximum norm a contraction by `discount`. Arguments and errors as in `action_values`.

    Source: Sutton & Barto (2018), equation 4.10, http://incompleteideas.net/book/the-book-2nd.html; a contraction:
    Puterman (1994), proposition 6.2.4, https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [1.0])))
    >>> bellman_optimality(loop, np.ones(1), 0.5).tolist()
    [2.5]
    """
    return jnp.max(action_values(mdp, values, discount), axis=-1)


def bellman_expectation(mdp: MDP, policy: ArrayLike, values: ArrayLike, discount: Scalar) -> Array:
    """Backup T_pi v [..., S] under a policy: (T_pi v)(s) = sum_a pi[s, a] q[s, a], with q from `action_values`.

    `policy` is [S] of action indices or [S, A] of probabilities. Other arguments as in `action_values`.
    Raises: ValueError for values or a policy of another shape.

    Source: Sutton & Barto (2018), equation 4.5, http://incompleteideas.net/book/the-book-2nd.html

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [1.0])))
    >>> bellman_expectation(loop, np.array([0]), np.ones(1), 0.5).tolist()
    [2.5]
    """
    return policy_average(policy, action_values(mdp, values, discount))


def bellman_optimality_q(mdp: MDP, q_values: ArrayLike, discount: Scalar) -> Array:
    """Optimal backup T q [..., S, A] of q [..., S, A]: (T q)(s, a) = sum_k p (r + discount max_b q[next_state, b]).

    T is monotone, and in the maximum norm a contraction by `discount`.

    Raises: ValueError for action values of another shape.

    Source: Sutton & Barto (2018), equation 3.20, http://incompleteideas.net/book/the-book-2nd.html

    >>> loop = MDP(*map(np.asarray, ([[[0], [0]]], [[[1.0], [1.0]]], [[[2.0], [0.0]]], [[[False], [False]]], [1.0])))
    >>> bellman_optimality_q(loop, np.array([[4.0, 2.0]]), 0.5).tolist()
    [[4.0, 2.0]]
    """
    mdp = with_legal_actions(with_arrays(mdp))
    q_values = where_legal(mdp.legal, _of_states(mdp, "q_values", q_values, 2), -jnp.inf)
    return action_values(mdp, jnp.max(q_values, axis=-1), discount)


def bellman_expectation_q(mdp: MDP, policy: ArrayLike, q_values: ArrayLike, discount: Scalar) -> Array:
    """Backup T_pi q [..., S, A] under a policy: sum_k p (r + discount sum_b pi[next_state, b] q[next_state, b]).

    `policy` is [S] of action indices or [S, A] of probabilities.
    Raises: ValueError for action values or a policy of another shape.

    Source: Bellemare, Dabney & Munos (2017), equation 2, https://arxiv.org/abs/1707.06887

    >>> loop = MDP(*map(np.asarray, ([[[0], [0]]], [[[1.0], [1.0]]], [[[2.0], [0.0]]], [[[False], [False]]], [1.0])))
    >>> bellman_expectation_q(loop, np.array([1]), np.array([[4.0, 2.0]]), 0.5).tolist()
    [[3.0, 1.0]]
    """
    mdp = with_arrays(mdp)
    return action_values(mdp, policy_average(policy, _of_states(mdp, "q_values", q_values, 2)), discount)


def _mapped(one, x, rank):
    for _ in range(x.ndim - rank):
        one = jax.vmap(one)
    return one(x)


def _of_states(mdp, name, x, rank):
    """x as an array. Raises ValueError unless its last axes are the model's states, and actions if `rank` is 2."""
    x, shape = jnp.asarray(x), np.shape(mdp.probability)[:rank]
    if x.shape[x.ndim - min(x.ndim, rank) :] != shape:
        raise ValueError(f"{name} has shape {x.shape}; its last axes must be {shape}, those of the model")
    return x


def policy_average(policy: ArrayLike, q: ArrayLike) -> Array:
    """Mean [..., S] of q [..., S, A] under a policy, [S] of action indices or [S, A] of probabilities.

    Raises: ValueError for a policy of another shape.

    Source: Sutton & Barto (2018), equation 7.8, http://incompleteideas.net/book/the-book-2nd.html

    >>> policy_average(np.array([[0.5, 0.5]]), jnp.array([[1.0, 3.0]])).tolist()
    [2.0]
    """
    policy, q = jnp.asarray(policy), jnp.asarray(q)
    if q.ndim < 2 or policy.shape not in (q.shape[-2:], q.shape[-2:-1]):
        raise ValueError(f"policy has shape {policy.shape}; for q {q.shape} it must be its [S] or [S, A]")

    def one(q):
        if policy.ndim == 1:
            return jnp.take_along_axis(q, policy[:, None], axis=-1)[:, 0]
        return jnp.sum(jnp.where(policy == 0, 0, policy.astype(q.dtype) * q), axis=-1)

    return _mapped(one, q, 2)


def greedy_policy(q: ArrayLike, tie: str = "lowest") -> Array:
    """The greedy policy of q [S, A]: argmax_a q[s, a].

    `tie="lowest"` gives the lowest best action, [S] int32. `tie="uniform"` gives probabilities [S, A], shared equally
    by the best actions. `jaxql.explore` says what NaN means, and a row without legal actions.

    Raises UserError for any other `tie`.

    Source: Sutton & Barto (2018), equation 4.9, http://incompleteideas.net/book/the-book-2nd.html

    >>> greedy_policy(np.array([[1.0, 1.0, 0.0]]), tie="uniform").tolist()
    [[0.5, 0.5, 0.0]]
    """
    if tie not in ("lowest", "uniform"):
        raise UserError(f'tie is {tie!r}; it must be "lowest" or "uniform"')
    best, _ = best_and_legal(q)
    if tie == "lowest":
        return jnp.argmax(best, axis=-1).astype(jnp.int32)
    best = best.astype(jnp.result_type(q, 1.0))
    return best / jnp.sum(best, axis=-1, keepdims=True)
