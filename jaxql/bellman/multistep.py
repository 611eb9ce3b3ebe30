"""Returns and TD errors of a sequence: time is the first axis of an equation, batch axes come before it."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman.core import (
    batched,
    check_steps,
    maybe_stop_gradient,
    promoted,
    safe_multiply,
    select_action,
    static_where,
    td_target,
)
from jaxql.types import Array, Scalar

# Steps of the recursions, from the last row to the first; outside of the equations, so that eager calls compile once.


def _lambda_return(g, row):
    r, discount, v, trace = row
    g = td_target(r, discount, safe_multiply(1 - trace, v) + safe_multiply(trace, g))
    return g, g


def _off_policy_return(g, row):
    q, v, r, discount, c = row
    g = td_target(r, discount, v + safe_multiply(c, g - q))
    return g, g


def _td_error(e, row):
    delta, discount, trace = row
    e = td_target(delta, discount, safe_multiply(trace, e))
    return e, e


@batched("T", "T", "T", "T?")
def lambda_returns(
    r_t: Array, discount_t: Array, v_t: Array, lambda_: ArrayLike = 1.0, stop_target_gradients: bool = False
) -> Array:
    """Lambda-returns [..., T]: G_t = r_t + discount_t * ((1 - lambda_t) v_t + lambda_t G_{t+1}), with G_T = v_{T-1}.

    Args:
      r_t, discount_t, v_t: [..., T] rewards, discounts and state values, in step: v_t follows r_t.
      lambda_: the trace, a number or [..., T].
      stop_target_gradients: whether the returns are constants.

    Raises:
      ValueError: lengths or batch axes differ.

    Source: Sutton & Barto (2018), equation 12.18, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(lambda_returns(jnp.ones(3), jnp.full(3, 0.5), jnp.zeros(3), 1.0))
    [1.75 1.5  1.  ]
    """
    r_t, discount_t, v_t, lambda_ = promoted(r_t, discount_t, v_t, lambda_)
    rows = r_t, discount_t, v_t, jnp.broadcast_to(lambda_, r_t.shape)
    _, returns = jax.lax.scan(_lambda_return, v_t[-1], rows, reverse=True)
    return maybe_stop_gradient(returns, stop_target_gradients)


def discounted_returns(
    r_t: ArrayLike, discount_t: ArrayLike, v_t: ArrayLike, stop_target_gradients: bool = False
) -> Array:
    """Discounted returns [..., T]: G_t = r_t + discount_t * G_{t+1}, bootstrapped with the last v_t.

    `v_t` is [..., T] (only its last entry counts), [...] or a number. Otherwise as `lambda_returns` with lambda 1.

    Source: Sutton & Barto (2018), equation 3.9, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(discounted_returns(jnp.ones(3), jnp.full(3, 0.5), 8.0))
    [2.75 3.5  5.  ]
    """
    r_t, discount_t, v_t = jnp.asarray(r_t), jnp.asarray(discount_t), jnp.asarray(v_t)
    rows = max(r_t, discount_t, key=jnp.ndim)
    if v_t.shape in ((), rows.shape[:-1]):
        v_t = jnp.broadcast_to(v_t[..., None], rows.shape)
    return lambda_returns(r_t, discount_t, v_t, 1.0, stop_target_gradients)


@batched("T", "T", "T", None, "T?")
def n_step_bootstrapped_returns(
    r_t: Array, discount_t: Array, v_t: Array, n: int, lambda_t: ArrayLike = 1.0, stop_target_gradients: bool = False
) -> Array:
    """n-step returns [..., T]: G_t = r_t + discount_t * (r_{t+1} + ... discount_{t+n-1} * v_{t+n-1}).

    Near the end of the sequence the window shortens and bootstraps from the last v_t. With `lambda_t` below 1 each
    step mixes in its own value, as in `lambda_returns`.

    Args:
      r_t, discount_t, v_t: [..., T] in step: v_t follows r_t. A discount of 0 ends the window.
      n: the number of steps, a positive Python integer.
      lambda_t: the trace, a number or [..., T].
      stop_target_gradients: whether the returns are constants.

    Raises:
      ValueError: n is not positive, or lengths or batch axes differ.

    Source: Sutton & Barto (2018), equation 7.1, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(n_step_bootstrapped_returns(jnp.ones(3), jnp.full(3, 0.5), jnp.full(3, 8.0), n=2))
    [3.5 3.5 5. ]
    """
    check_steps("n_step_bootstrapped_returns", n)
    r_t, discount_t, v_t, lambda_t = promoted(r_t, discount_t, v_t, lambda_t)
    length = r_t.shape[0]

    def window(x, beyond):  # [T, n]: entries t .. t + n - 1, continued past the end by `beyond`
        padded = jnp.concatenate([x, jnp.full((n - 1,), beyond, x.dtype)])
        return jnp.stack([padded[i : i + length] for i in range(n)], axis=-1)

    # Past the end: reward 0, discount 1 and the last value, which leaves the bootstrap as it is.
    rewards, discounts, values = window(r_t, 0), window(discount_t, 1), window(v_t, v_t[-1])
    traces = window(jnp.broadcast_to(lambda_t, r_t.shape), 1)
    target = values[:, -1]
    for i in reversed(range(n)):
        mixed = safe_multiply(1 - traces[:, i], values[:, i]) + safe_multiply(traces[:, i], target)
        target = td_target(rewards[:, i], discounts[:, i], mixed)
    return maybe_stop_gradient(target, stop_target_gradients)


@batched("S", "T", "T", "T", "S")
def general_off_policy_returns_from_q_and_v(
    q_t: Array, v_t: Array, r_t: Array, discount_t: Array, c_t: Array, stop_target_gradients: bool = False
) -> Array:
    """Off-policy returns [..., T]: G_t = r_t + discount_t * (v_t + c_t (G_{t+1} - q_t)).

    The last one is r_t + discount_t * v_t.

    Args:
      q_t: [..., T - 1] values of the actions that the behaviour took.
      v_t, r_t, discount_t: [..., T] values of the states under the target policy, rewards and discounts, in step.
      c_t: [..., T - 1] traces. With pi the target and mu the behaviour policy at the action taken: pi / mu is
        importance sampling, lambda is Q(lambda), lambda * pi tree backup, lambda * min(1, pi / mu) Retrace.
      stop_target_gradients: whether the returns are constants.

    Raises:
      ValueError: lengths or batch axes differ, or q_t and c_t are not one step shorter than the others.

    Source: Munos et al. (2016), equation 3 and table 1, https://arxiv.org/abs/1606.02647

    >>> print(general_off_policy_returns_from_q_and_v(jnp.array([3.0]), jnp.array([2.0, 4.0]), jnp.ones(2),
    ...                                               jnp.full(2, 0.5), jnp.array([1.0])))
    [2. 3.]
    """
    if q_t.shape[0] != r_t.shape[0] - 1:
        raise ValueError(
            f"general_off_policy_returns_from_q_and_v: q_t and c_t have length {q_t.shape[0]}, r_t {r_t.shape[0]}; "
            f"they need one step less than r_t"
        )
    q_t, v_t, r_t, discount_t, c_t = promoted(q_t, v_t, r_t, discount_t, c_t)
    last = td_target(r_t[-1], discount_t[-1], v_t[-1])
    rows = q_t, v_t[:-1], r_t[:-1], discount_t[:-1], c_t
    _, returns = jax.lax.scan(_off_policy_return, last, rows, reverse=True)
    return maybe_stop_gradient(jnp.append(returns, last), stop_target_gradients)


@batched("TA", "T", "T", "T", "T", "TA")
def general_off_policy_returns_from_action_values(
    q_t: Array, a_t: Array, r_t: Array, discount_t: Array, c_t: Array, pi_t: Array, stop_target_gradients: bool = False
) -> Array:
    """Off-policy returns [..., T]: `general_off_policy_returns_from_q_and_v` with v_t = sum_a pi_t[a] q_t[a].

    Args:
      q_t: [..., T, A] action values; one of probability 0 does not count in v_t, whatever its value.
      a_t, r_t, discount_t: [..., T] actions taken, rewards and discounts; a_t follows r_t.
      c_t: [..., T] traces, of which the last does not count.
      pi_t: [..., T, A] the target policy.
      stop_target_gradients: whether the returns are constants.

    Raises:
      ValueError: lengths or batch axes differ.

    Source: Munos et al. (2016), equation 3 and table 1, https://arxiv.org/abs/1606.02647

    >>> print(general_off_policy_returns_from_action_values(jnp.array([[3.0, 1.0], [5.0, 3.0]]), jnp.array([0, 1]),
    ...           jnp.ones(2), jnp.full(2, 0.5), jnp.ones(2), jnp.full((2, 2), 0.5)))
    [2. 3.]
    """
    q_a_t, v_t = select_action(q_t, a_t), jnp.sum(safe_multiply(pi_t, q_t), axis=-1)
    return general_off_policy_returns_from_q_and_v(q_a_t[:-1], v_t, r_t, discount_t, c_t[:-1], stop_target_gradients)


@batched("T", "T", "T", "T?", "N")
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
      rho_tm1: [..., T] how likely the target policy is to take the action before r_t, over the behaviour policy.
      lambda_: the trace, a number or [..., T].
      values: [..., T + 1] state values under the target policy, from before the first reward to after the last.
      stop_target_gradients: whether the targets, errors + values_{t-1}, are constants.

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


@batched("T", "T", "T", "T", "T?")
def td_lambda(
    v_tm1: Array, r_t: Array, discount_t: Array, v_t: Array, lambda_: ArrayLike, stop_target_gradients: bool = True
) -> Array:
    """TD errors [..., T] of state values towards their lambda-returns: G_t - v_tm1; see `lambda_returns`.

    Source: Sutton & Barto (2018), equations 12.4 and 12.18, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(td_lambda(jnp.ones(3), jnp.ones(3), jnp.full(3, 0.5), jnp.zeros(3), 1.0))
    [0.75 0.5  0.  ]
    """
    return lambda_returns(r_t, discount_t, v_t, lambda_, stop_target_gradients) - v_tm1


@batched("TA", "T", "T", "T", "TA", "T", "T?")
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
      stop_target_gradients: whether the target is a constant.

    Raises:
      ValueError: lengths or batch axes differ.

    Source: Sutton & Barto (2018), equation 12.19, http://incompleteideas.net/book/the-book-2nd.html

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 1])
    >>> print(sarsa_lambda(q, a, jnp.ones(2), jnp.full(2, 0.5), q, a, 0.0))
    [ 1. -1.]
    """
    returns = lambda_returns(r_t, discount_t, select_action(q_t, a_t), lambda_, stop_target_gradients)
    return returns - select_action(q_tm1, a_tm1)


@batched("TA", "T", "T", "T", "TA", "T?")
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

    With a number for `lambda_` this is Peng's Q(lambda), `peng_q_lambda`, whatever actions were taken. It is Watkins's
    only if the caller passes traces [..., T] that are 0 where the action at t is not greedy, which `watkins_q_lambda`
    does. Shapes and errors as in `sarsa_lambda`.

    Source: Sutton & Barto (2018), equation 12.20 with the maximum as its expectation,
    http://incompleteideas.net/book/the-book-2nd.html; Peng & Williams (1996), https://doi.org/10.1007/BF00114731

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 0])
    >>> print(q_lambda(q, a, jnp.ones(2), jnp.full(2, 0.5), q, 1.0))
    [2.5 1. ]
    """
    returns = lambda_returns(r_t, discount_t, jnp.max(q_t, axis=-1), lambda_, stop_target_gradients)
    return returns - select_action(q_tm1, a_tm1)


@batched("TA", "T", "T", "T", "TA", "")
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

    The trace is never cut: rewards after an exploratory action count too. Nothing corrects for them, so that for
    lambda above 0 the fixed point lies between the values of the behaviour and the optimal ones; in exchange, returns
    are long. Shapes and errors as in `sarsa_lambda`; `lambda_` is a number.

    Source: Sutton & Barto (2018), equation 12.20 with the maximum as its expectation,
    http://incompleteideas.net/book/the-book-2nd.html; Peng & Williams (1996), https://doi.org/10.1007/BF00114731

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 0])
    >>> print(peng_q_lambda(q, a, jnp.ones(2), jnp.full(2, 0.5), q, 1.0))
    [2.5 1. ]
    """
    return q_lambda(q_tm1, a_tm1, r_t, discount_t, q_t, lambda_, stop_target_gradients)


@batched("TA", "T", "T", "T", "TA", "T", "T?")
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
    """TD errors [..., T] of Watkins's Q(lambda): `q_lambda` whose trace is cut where a_t is not greedy in q_t.

    Rewards after an exploratory action do not count: the return bootstraps from max_a q_t[a] there. An action that
    ties for the maximum is greedy. Shapes and errors as in `sarsa_lambda`.

    Source: Sutton & Barto (2018), figure 12.12, http://incompleteideas.net/book/the-book-2nd.html; as Munos et al.
    (2016), equation 3, with c = lambda where a_t is greedy and 0 elsewhere, https://arxiv.org/abs/1606.02647

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 0])
    >>> print(watkins_q_lambda(q, a, jnp.ones(2), jnp.full(2, 0.5), q, a, 1.0))
    [1.5 1. ]
    """
    greedy = select_action(q_t, a_t) == jnp.max(q_t, axis=-1)
    return q_lambda(q_tm1, a_tm1, r_t, discount_t, q_t, lambda_ * greedy, stop_target_gradients)


@batched("TA", "T", "T", "T", "TA", "T", "TA", "T?")
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

    Actions not taken count by their values q_t, the one taken by what followed it: no behaviour policy is needed.
    `pi_t` [..., T, A] is the target policy; shapes and errors otherwise as in `sarsa_lambda`. For the return see
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
    """c_t [T] of Retrace: lambda min(1, pi / mu)."""
    return jnp.minimum(1, select_action(pi_t, a_t) / (mu_t + eps)) * lambda_


@batched("TA", "TA", "T", "T", "T", "T", "TA", "T", "T?")
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
      stop_target_gradients: whether the target is a constant.

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


@batched("T", "S", "T", "T", "T", "S", "S?")
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
    """TD errors [..., T] of Retrace(lambda) for any kind of action, of which only values are known.

    Args:
      q_tm1: [..., T] values of the actions taken before each reward.
      q_t: [..., T - 1] values of the actions taken after each reward but the last.
      v_t, r_t, discount_t: [..., T] state values under the target policy, rewards and discounts, in step.
      log_rhos: [..., T - 1] log pi / mu of the actions of q_t.
      lambda_: the trace, a number or [..., T - 1].
      stop_target_gradients: whether the target is a constant.

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
