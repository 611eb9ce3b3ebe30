"""Off-policy TD errors of a sequence: time is the first axis of an equation, batch axes come before it."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman.arguments import NOT_NEGATIVE, TRACE
from jaxql.bellman.core import batched, promoted, safe_multiply, select_action, static_where, td_target
from jaxql.bellman.returns import (
    general_off_policy_returns_from_action_values,
    general_off_policy_returns_from_q_and_v,
)
from jaxql.types import Array, Scalar


def _td_error(e, row):
    delta, discount, trace = row
    e = td_target(delta, discount, safe_multiply(trace, e))
    return e, e


@batched("T", "T", "T", "T?", "N", lambda_=TRACE)
def importance_corrected_td_errors(
    r_t: Array,
    discount_t: Array,
    rho_tm1: Array,
    lambda_: ArrayLike,
    values: Array,
    stop_target_gradients: bool = False,
) -> Array:
    """Off-policy TD errors [..., T]: rho_{t-1} e_t, with e_t = delta_t + discount_t lambda_t rho_t e_{t+1}.

    delta_t = r_t + discount_t * values_t - values_{t-1} is the one-step error.

    Args:
      r_t, discount_t: [..., T] rewards and discounts.
      rho_tm1: [..., T] probability of the action before r_t under the target policy, over that under the behaviour.
      lambda_: the trace, a number or [..., T].
      values: [..., T + 1] state values under the target policy, from before the first reward to after the last.
      stop_target_gradients: True makes the targets, errors + values_{t-1}, constants.

    Raises:
      ValueError: lengths or batch axes differ, or values is not one step longer than r_t.

    Source: Sutton & Barto (2018), equation 12.24, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(importance_corrected_td_errors(jnp.ones(2), jnp.full(2, 0.5), jnp.array([1.0, 2.0]), 1.0, jnp.zeros(3)))
    [2. 2.]
    """
    if values.shape[0] != r_t.shape[0] + 1:
        raise ValueError(
            f"importance_corrected_td_errors: values has length {values.shape[0]}, r_t {r_t.shape[0]}; "
            f"it needs one step more than r_t"
        )
    r_t, discount_t, rho_tm1, lambda_, values = promoted(r_t, discount_t, rho_tm1, lambda_, values)
    v_tm1, v_t = values[:-1], values[1:]
    deltas = td_target(r_t, discount_t, v_t) - v_tm1
    traces = lambda_ * jnp.append(rho_tm1[1:], jnp.ones_like(rho_tm1[:1]))
    _, errors = jax.lax.scan(_td_error, jnp.zeros_like(v_t[-1]), (deltas, discount_t, traces), reverse=True)
    errors = rho_tm1 * errors
    return static_where(stop_target_gradients, jax.lax.stop_gradient(errors + v_tm1) - v_tm1, errors)


@batched("TA", "T", "T", "T", "TA", "T", "TA", "T?", lambda_=TRACE)
def tree_backup(
    q_tm1: Array,
    a_tm1: Array,
    r_t: Array,
    discount_t: Array,
    q_t: Array,
    a_t: Array,
    pi_t: Array,
    lambda_: ArrayLike = 1.0,
    stop_target_gradients: bool = True,
) -> Array:
    """TD errors [..., T] of tree backup(lambda): the off-policy return with c_t = lambda pi_t[a_t], less q_tm1[a_tm1].

    Actions not taken count by their values q_t, the action taken by its return. No behaviour policy is needed. `pi_t`
    [..., T, A] is the target policy. Other shapes and errors are as in `sarsa_lambda`. For the return see
    `general_off_policy_returns_from_action_values`. With a greedy pi_t this is Watkins's Q(lambda).

    Source: Sutton & Barto (2018), equation 7.16, http://incompleteideas.net/book/the-book-2nd.html, for lambda 1;
    Munos et al. (2016), equation 3 and table 1, https://arxiv.org/abs/1606.02647

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 0])
    >>> print(tree_backup(q, a, jnp.ones(2), jnp.full(2, 0.5), q, a, jnp.full((2, 2), 0.5)))
    [1.875 0.5  ]
    """
    c_t = select_action(pi_t, a_t) * lambda_
    returns = general_off_policy_returns_from_action_values(q_t, a_t, r_t, discount_t, c_t, pi_t, stop_target_gradients)
    return returns - select_action(q_tm1, a_tm1)


def retrace_traces(pi_t: Array, mu_t: Array, a_t: ArrayLike, lambda_: ArrayLike, eps: Scalar) -> Array:
    """The traces c_t [T] of Retrace: lambda min(1, pi / mu)."""
    return jnp.minimum(1, select_action(pi_t, a_t) / (mu_t + eps)) * lambda_


@batched("TA", "TA", "T", "T", "T", "T", "TA", "T", "T?", lambda_=TRACE, eps=NOT_NEGATIVE)
def retrace(
    q_tm1: Array,
    q_t: Array,
    a_tm1: Array,
    a_t: Array,
    r_t: Array,
    discount_t: Array,
    pi_t: Array,
    mu_t: Array,
    lambda_: ArrayLike,
    eps: Scalar = 1e-8,
    stop_target_gradients: bool = True,
) -> Array:
    """TD errors [..., T] of Retrace(lambda): the off-policy return with c_t = lambda min(1, pi/mu), less q_tm1[a_tm1].

    Args:
      q_tm1, q_t: [..., T, A] action values before and after each reward.
      a_tm1, a_t: [..., T] the actions taken there.
      r_t, discount_t: [..., T] rewards and discounts; 0 past a termination.
      pi_t: [..., T, A] the target policy at t.
      mu_t: [..., T] the probability with which the behaviour took a_t.
      lambda_: the trace, a number or [..., T].
      eps: added to mu_t.
      stop_target_gradients: True makes the target a constant.

    Raises:
      ValueError: lengths or batch axes differ.

    Source: Munos et al. (2016), equation 3 and table 1, https://arxiv.org/abs/1606.02647

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 0])
    >>> print(retrace(q, q, a, a, jnp.ones(2), jnp.full(2, 0.5), jnp.full((2, 2), 0.5), jnp.ones(2), 1.0))
    [1.875 0.5  ]
    """
    c_t = retrace_traces(pi_t, mu_t, a_t, lambda_, eps)
    returns = general_off_policy_returns_from_action_values(q_t, a_t, r_t, discount_t, c_t, pi_t, stop_target_gradients)
    return returns - select_action(q_tm1, a_tm1)


@batched("T", "S", "T", "T", "T", "S", "S?", lambda_=TRACE)
def retrace_continuous(
    q_tm1: Array,
    q_t: Array,
    v_t: Array,
    r_t: Array,
    discount_t: Array,
    log_rhos: Array,
    lambda_: ArrayLike,
    stop_target_gradients: bool = True,
) -> Array:
    """TD errors [..., T] of Retrace(lambda) for any kind of action, from the values of the actions taken.

    Args:
      q_tm1: [..., T] values of the actions taken before each reward.
      q_t: [..., T - 1] values of the actions taken after each reward except the last.
      v_t, r_t, discount_t: [..., T] state values under the target policy, rewards and discounts, in step.
      log_rhos: [..., T - 1] log pi / mu of the actions of q_t.
      lambda_: the trace, a number or [..., T - 1].
      stop_target_gradients: True makes the target a constant.

    Raises:
      ValueError: lengths or batch axes differ, or q_t and log_rhos are not one step shorter than the others.

    Source: Munos et al. (2016), equation 3 and table 1, https://arxiv.org/abs/1606.02647

    >>> print(retrace_continuous(jnp.zeros(2), jnp.array([3.0]), jnp.array([2.0, 4.0]), jnp.ones(2), jnp.full(2, 0.5),
    ...                          jnp.zeros(1), 1.0))
    [2. 3.]
    """
    c_t = jnp.exp(jnp.minimum(0, log_rhos)) * lambda_
    returns = general_off_policy_returns_from_q_and_v(q_t, v_t, r_t, discount_t, c_t, stop_target_gradients)
    return returns - q_tm1
