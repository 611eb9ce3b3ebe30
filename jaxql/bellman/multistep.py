"""TD errors of a sequence: time is the first axis of an equation, batch axes come before it."""

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman.arguments import TRACE, UNITS
from jaxql.bellman.core import batched, legal_discount, select_action
from jaxql.bellman.returns import lambda_returns
from jaxql.types import Array


@batched("T", "T", "T", "T", "T?", lambda_=TRACE)
def td_lambda(
    v_tm1: Array, r_t: Array, discount_t: Array, v_t: Array, lambda_: ArrayLike, stop_target_gradients: bool = True
) -> Array:
    """TD errors [..., T] of state values towards their lambda-returns: G_t - v_tm1; see `lambda_returns`.

    Source: Sutton & Barto (2018), equations 12.4 and 12.18, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(td_lambda(jnp.ones(3), jnp.ones(3), jnp.full(3, 0.5), jnp.zeros(3), 1.0))
    [0.75 0.5  0.  ]
    """
    return lambda_returns(r_t, discount_t, v_t, lambda_, stop_target_gradients) - v_tm1


@batched("TA", "T", "T", "T", "TA", "T", "T?", lambda_=TRACE)
def sarsa_lambda(
    q_tm1: Array,
    a_tm1: Array,
    r_t: Array,
    discount_t: Array,
    q_t: Array,
    a_t: Array,
    lambda_: ArrayLike,
    stop_target_gradients: bool = True,
) -> Array:
    """TD errors [..., T] of SARSA(lambda): the lambda-return of v_t = q_t[a_t], less q_tm1[a_tm1].

    Args:
      q_tm1: [..., T, A] action values before each reward.
      a_tm1: [..., T] the actions taken there.
      r_t, discount_t: [..., T] rewards and discounts; 0 past a termination.
      q_t: [..., T, A] action values after each reward, the target network's for instance.
      a_t: [..., T] the actions taken there.
      lambda_: the trace, a number or [..., T].
      stop_target_gradients: True makes the target a constant.

    Raises:
      ValueError: lengths or batch axes differ.

    Source: Sutton & Barto (2018), equation 12.19, http://incompleteideas.net/book/the-book-2nd.html

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 1])
    >>> print(sarsa_lambda(q, a, jnp.ones(2), jnp.full(2, 0.5), q, a, 0.0))
    [ 1. -1.]
    """
    discount_t = legal_discount(discount_t, q_t)
    returns = lambda_returns(r_t, discount_t, select_action(q_t, a_t), lambda_, stop_target_gradients)
    return returns - select_action(q_tm1, a_tm1)


@batched("TA", "T", "T", "T", "TA", "T?", lambda_=TRACE)
def q_lambda(
    q_tm1: Array,
    a_tm1: Array,
    r_t: Array,
    discount_t: Array,
    q_t: Array,
    lambda_: ArrayLike,
    stop_target_gradients: bool = True,
) -> Array:
    """TD errors [..., T] of Q(lambda): the lambda-return of v_t = max_a q_t[a], less q_tm1[a_tm1].

    With a number for `lambda_` this is Peng's Q(lambda), `peng_q_lambda`, whatever actions were taken. With traces
    [..., T] that are 0 where the action at t is not greedy it is Watkins's, `watkins_q_lambda`. Shapes and
    errors are as in `sarsa_lambda`.

    Source: Sutton & Barto (2018), equation 12.20 with the maximum as its expectation,
    http://incompleteideas.net/book/the-book-2nd.html; Peng & Williams (1996), https://doi.org/10.1007/BF00114731

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 0])
    >>> print(q_lambda(q, a, jnp.ones(2), jnp.full(2, 0.5), q, 1.0))
    [2.5 1. ]
    """
    discount_t = legal_discount(discount_t, q_t)
    returns = lambda_returns(r_t, discount_t, jnp.max(q_t, axis=-1), lambda_, stop_target_gradients)
    return returns - select_action(q_tm1, a_tm1)


@batched("TA", "T", "T", "T", "TA", "", lambda_=UNITS)
def peng_q_lambda(
    q_tm1: Array,
    a_tm1: Array,
    r_t: Array,
    discount_t: Array,
    q_t: Array,
    lambda_: ArrayLike,
    stop_target_gradients: bool = True,
) -> Array:
    """TD errors [..., T] of Peng's Q(lambda): `q_lambda` with one lambda throughout.

    The trace is never cut, so rewards after an exploratory action count, uncorrected. For lambda above 0 the fixed
    point lies between the values of the behaviour and the optimal values. In exchange the returns are long. Shapes and
    errors are as in `sarsa_lambda`; `lambda_` is a number.

    Source: Sutton & Barto (2018), equation 12.20 with the maximum as its expectation,
    http://incompleteideas.net/book/the-book-2nd.html; Peng & Williams (1996), https://doi.org/10.1007/BF00114731

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 0])
    >>> print(peng_q_lambda(q, a, jnp.ones(2), jnp.full(2, 0.5), q, 1.0))
    [2.5 1. ]
    """
    return q_lambda(q_tm1, a_tm1, r_t, discount_t, q_t, lambda_, stop_target_gradients)


@batched("TA", "T", "T", "T", "TA", "T", "T?", lambda_=TRACE)
def watkins_q_lambda(
    q_tm1: Array,
    a_tm1: Array,
    r_t: Array,
    discount_t: Array,
    q_t: Array,
    a_t: Array,
    lambda_: ArrayLike,
    stop_target_gradients: bool = True,
) -> Array:
    """TD errors [..., T] of Watkins's Q(lambda): `q_lambda` with the trace cut where a_t is not greedy in q_t.

    Rewards after an exploratory action do not count: there the return bootstraps from max_a q_t[a]. An action that
    ties for the maximum is greedy. Shapes and errors are as in `sarsa_lambda`.

    Source: Sutton & Barto (2018), figure 12.12, http://incompleteideas.net/book/the-book-2nd.html; as Munos et al.
    (2016), equation 3, with c = lambda where a_t is greedy and 0 elsewhere, https://arxiv.org/abs/1606.02647

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 0])
    >>> print(watkins_q_lambda(q, a, jnp.ones(2), jnp.full(2, 0.5), q, a, 1.0))
    [1.5 1. ]
    """
    greedy = select_action(q_t, a_t) == jnp.max(q_t, axis=-1)
    return q_lambda(q_tm1, a_tm1, r_t, discount_t, q_t, lambda_ * greedy, stop_target_gradients)
