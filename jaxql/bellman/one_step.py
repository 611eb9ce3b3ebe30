"""TD errors of one transition."""

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman.core import (
    batched,
    legal_discount,
    maybe_stop_gradient,
    safe_multiply,
    select_action,
    td_target,
)
from jaxql.types import Array


@batched("", "", "", "")
def td_learning(
    v_tm1: ArrayLike, r_t: ArrayLike, discount_t: ArrayLike, v_t: ArrayLike, stop_target_gradients: bool = True
) -> Array:
    """TD error [...] of a state value: r_t + discount_t * v_t - v_tm1; all arguments [...].

    Raises:
      ValueError: batch axes differ.

    Source: Sutton & Barto (2018), equation 6.5, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(td_learning(1.0, 2.0, 0.5, 4.0))
    3.0
    """
    return maybe_stop_gradient(td_target(r_t, discount_t, v_t), stop_target_gradients) - v_tm1


@batched("A", "", "", "", "A")
def q_learning(
    q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t: Array,
    stop_target_gradients: bool = True,
) -> Array:
    """TD error [...] of Q-learning: r_t + discount_t * max_a q_t[a] - q_tm1[a_tm1].

    Args:
      q_tm1: [..., A] action values at t - 1.
      a_tm1: [...] the action taken, an index into A.
      r_t: [...] reward.
      discount_t: [...] gamma, or 0 past a termination.
      q_t: [..., A] action values at t, the target network's for instance; -inf for an illegal action.
      stop_target_gradients: True makes the target a constant.

    Raises:
      ValueError: an argument lacks axes, or its batch axes or its A differ from the others'.

    Source: Watkins & Dayan (1992), equation 1, https://doi.org/10.1007/BF00992698

    >>> q_tm1, q_t = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[5.0, 6.0], [7.0, jnp.inf]])
    >>> print(q_learning(q_tm1, jnp.array([0, 1]), jnp.array([1, 1]), jnp.array([0.5, 0.0]), q_t))
    [ 3. -3.]
    """
    target = td_target(r_t, legal_discount(discount_t, q_t), jnp.max(q_t))
    return maybe_stop_gradient(target, stop_target_gradients) - select_action(q_tm1, a_tm1)


@batched("A", "", "", "", "A", "A")
def double_q_learning(
    q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t_value: Array,
    q_t_selector: Array,
    stop_target_gradients: bool = True,
) -> Array:
    """TD error [...] of double Q-learning: r_t + discount_t * q_t_value[argmax_a q_t_selector[a]] - q_tm1[a_tm1].

    Shapes and errors as in `q_learning`; `q_t_selector` [..., A] (the online network) chooses the action that
    `q_t_value` [..., A] (the target network) evaluates.

    Source: van Hasselt, Guez & Silver (2016), equation 4, https://arxiv.org/abs/1509.06461

    >>> q = jnp.array([0.0, 1.0])
    >>> print(double_q_learning(q, 0, 1.0, 0.5, jnp.array([4.0, 2.0]), q))
    2.0
    """
    v_t = select_action(q_t_value, jnp.argmax(q_t_selector))
    target = td_target(r_t, legal_discount(discount_t, q_t_selector), v_t)
    return maybe_stop_gradient(target, stop_target_gradients) - select_action(q_tm1, a_tm1)


@batched("A", "", "", "", "A", "")
def sarsa(
    q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t: Array,
    a_t: ArrayLike,
    stop_target_gradients: bool = True,
) -> Array:
    """TD error [...] of SARSA: r_t + discount_t * q_t[a_t] - q_tm1[a_tm1]; shapes and errors as in `q_learning`.

    Source: Sutton & Barto (2018), equation 6.7, http://incompleteideas.net/book/the-book-2nd.html

    >>> q = jnp.array([0.0, 1.0])
    >>> print(sarsa(q, 0, 1.0, 0.5, jnp.array([4.0, 2.0]), 1))
    2.0
    """
    target = td_target(r_t, legal_discount(discount_t, q_t), select_action(q_t, a_t))
    return maybe_stop_gradient(target, stop_target_gradients) - select_action(q_tm1, a_tm1)


@batched("A", "", "", "", "A", "A")
def expected_sarsa(
    q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t: Array,
    probs_a_t: Array,
    stop_target_gradients: bool = True,
) -> Array:
    """TD error [...] of expected SARSA: r_t + discount_t * sum_a probs_a_t[a] q_t[a] - q_tm1[a_tm1].

    Shapes and errors as in `q_learning`; `probs_a_t` [..., A] is the target policy at t. An action of probability 0
    does not count, whatever its value.

    Source: Sutton & Barto (2018), equation 6.9, http://incompleteideas.net/book/the-book-2nd.html

    >>> q = jnp.array([0.0, 1.0])
    >>> print(expected_sarsa(q, 0, 1.0, 0.5, jnp.array([4.0, 2.0]), jnp.array([0.5, 0.5])))
    2.5
    """
    v_t = jnp.sum(safe_multiply(probs_a_t, q_t))
    target = td_target(r_t, legal_discount(discount_t, q_t), v_t)
    return maybe_stop_gradient(target, stop_target_gradients) - select_action(q_tm1, a_tm1)


@batched("A", "", "", "", "")
def qv_learning(
    q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    v_t: ArrayLike,
    stop_target_gradients: bool = True,
) -> Array:
    """TD error [...] of QV-learning: r_t + discount_t * v_t - q_tm1[a_tm1]; v_t [...] is learned by `td_learning`.

    Shapes and errors otherwise as in `q_learning`.

    Source: Sutton & Barto (2018), equation 6.7 with the bootstrap of equation 6.5,
    http://incompleteideas.net/book/the-book-2nd.html; named by Wiering & van Hasselt (2007),
    https://doi.org/10.1109/ADPRL.2007.368200

    >>> print(qv_learning(jnp.array([0.0, 1.0]), 1, 1.0, 0.5, 4.0))
    2.0
    """
    return maybe_stop_gradient(td_target(r_t, discount_t, v_t), stop_target_gradients) - select_action(q_tm1, a_tm1)


@batched("", "", "", "A")
def qv_max(
    v_tm1: ArrayLike, r_t: ArrayLike, discount_t: ArrayLike, q_t: Array, stop_target_gradients: bool = True
) -> Array:
    """TD error [...] of a state value towards the greedy one: r_t + discount_t * max_a q_t[a] - v_tm1.

    `v_tm1` [...]; shapes and errors otherwise as in `q_learning`.

    Source: Sutton & Barto (2018), equation 6.5 with the target of equation 6.8,
    http://incompleteideas.net/book/the-book-2nd.html; named by Wiering & van Hasselt (2009),
    https://doi.org/10.1109/ADPRL.2009.4927532

    >>> print(qv_max(1.0, 1.0, 0.5, jnp.array([0.0, 4.0])))
    2.0
    """
    target = td_target(r_t, legal_discount(discount_t, q_t), jnp.max(q_t))
    return maybe_stop_gradient(target, stop_target_gradients) - v_tm1
