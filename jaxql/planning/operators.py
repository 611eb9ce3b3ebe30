"""The Bellman operators of an `MDP` and what is greedy in them; they keep the dtype they are given."""

import jax.numpy as jnp
import numpy as np  # noqa: F401 (the examples use it)

from jaxql.errors import UserError
from jaxql.planning.numbers import lowest_argmax, tree_sum
from jaxql.types import MDP, Array


def action_values(mdp: MDP, values: Array, discount) -> Array:
    """One step ahead: q[s, a] = sum_k p[s, a, k] (r[s, a, k] + discount * (0 if ends[s, a, k] else values[next])).

    Args: `values` [S]; `discount` scalar in [0, 1]. Returns q [S, A]. Source: Sutton & Barto (2018), equation 4.6.

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [1.0])))
    >>> float(action_values(loop, np.ones(1), 0.5)[0, 0])
    2.5
    """
    ahead = jnp.where(mdp.ends, 0, jnp.asarray(values)[mdp.next_state])
    return tree_sum(mdp.probability * (mdp.reward + discount * ahead))


def bellman_optimality(mdp: MDP, values: Array, discount) -> Array:
    """(T v)(s) = max_a q[s, a], [S] -> [S]: monotone, and in the maximum norm a contraction by `discount`.

    Source: Puterman (1994), equation 6.2.2 and proposition 6.2.4. https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [1.0])))
    >>> bellman_optimality(loop, np.ones(1), 0.5).tolist()
    [2.5]
    """
    return jnp.max(action_values(mdp, values, discount), axis=-1)


def bellman_expectation(mdp: MDP, policy: Array, values: Array, discount) -> Array:
    """(T_pi v)(s) = sum_a pi[s, a] q[s, a], [S]; `policy` is [S] of action indices or [S, A] of probabilities.

    Source: Puterman (1994), equation 6.1.10. https://doi.org/10.1002/9780470316887

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [1.0])))
    >>> bellman_expectation(loop, np.array([0]), np.ones(1), 0.5).tolist()
    [2.5]
    """
    return average(policy, action_values(mdp, values, discount))


def average(policy: Array, q: Array) -> Array:
    """Mean [S] of q [S, A] under a policy: [S] of action indices, or [S, A] of probabilities.

    Source: Sutton & Barto (2018), exercise 3.18 and the outer sum of equation 3.14.
    http://incompleteideas.net/book/the-book-2nd.html

    >>> average(np.array([[0.5, 0.5]]), jnp.array([[1.0, 3.0]])).tolist()
    [2.0]
    """
    policy = jnp.asarray(policy)
    if policy.ndim == 1:
        return jnp.take_along_axis(q, policy[:, None], axis=-1)[:, 0]
    return jnp.sum(jnp.where(policy == 0, 0, policy.astype(q.dtype) * q), axis=-1)


def greedy_policy(q: Array, tie: str = "lowest") -> Array:
    """The greedy policy of q [S, A]: `tie="lowest"` gives [S] int32, `tie="uniform"` [S, A], equal among equals.

    Raises UserError for any other `tie`.

    Source: Sutton & Barto (2018), equation 4.9. http://incompleteideas.net/book/the-book-2nd.html

    >>> greedy_policy(np.array([[1.0, 1.0, 0.0]]), tie="uniform").tolist()
    [[0.5, 0.5, 0.0]]
    """
    q = jnp.asarray(q)
    if tie == "lowest":
        return lowest_argmax(q)
    if tie != "uniform":
        raise UserError(f'tie is {tie!r}; it must be "lowest" or "uniform"')
    best = q == jnp.max(q, axis=-1, keepdims=True)
    return best / jnp.sum(best, axis=-1, keepdims=True)
