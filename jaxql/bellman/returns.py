"""Returns of a sequence: time is the first axis of an equation, batch axes come before it."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman.arguments import TRACE, as_real
from jaxql.bellman.core import (
    batched,
    check_steps,
    legal_discount,
    maybe_stop_gradient,
    promoted,
    safe_multiply,
    select_action,
    td_target,
)
from jaxql.types import Array

# The steps of the recursions, from the last row to the first. Defined once, so that eager calls compile them once.


def _lambda_return(g, row):
    r, discount, v, trace = row
    g = td_target(r, discount, safe_multiply(1 - trace, v) + safe_multiply(trace, g))
    return g, g


def _off_policy_return(g, row):
    q, v, r, discount, c = row
    g = td_target(r, discount, v + safe_multiply(c, g - q))
    return g, g


@batched("T", "T", "T", "T?", lambda_=TRACE)
def lambda_returns(
    r_t: Array, discount_t: Array, v_t: Array, lambda_: ArrayLike = 1.0, stop_target_gradients: bool = False
) -> Array:
    """Lambda-returns [..., T]: G_t = r_t + discount_t * ((1 - lambda_t) v_t + lambda_t G_{t+1}), with G_T = v_{T-1}.

    Args:
      r_t, discount_t, v_t: [..., T] rewards, discounts and state values, in step: v_t follows r_t.
      lambda_: the trace, a number or [..., T].
      stop_target_gradients: True makes the returns constants.

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

    `v_t` is [..., T] (only its last entry counts), [...] or a number. All else is as in `lambda_returns` at lambda 1.

    Source: Sutton & Barto (2018), equation 3.9, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(discounted_returns(jnp.ones(3), jnp.full(3, 0.5), 8.0))
    [2.75 3.5  5.  ]
    """
    given = dict(r_t=r_t, discount_t=discount_t, v_t=v_t)
    r_t, discount_t, v_t = (as_real(f"discounted_returns: {name}", x) for name, x in given.items())
    rows = max(r_t, discount_t, key=jnp.ndim)
    if v_t.shape in ((), rows.shape[:-1]):
        v_t = jnp.broadcast_to(v_t[..., None], rows.shape)
    return lambda_returns(r_t, discount_t, v_t, 1.0, stop_target_gradients)


@batched("T", "T", "T", None, "T?", lambda_t=TRACE)
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
      stop_target_gradients: True makes the returns constants.

    Raises:
      ValueError: n is not positive, or lengths or batch axes differ.

    Source: Sutton & Barto (2018), equation 7.1, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(n_step_bootstrapped_returns(jnp.ones(3), jnp.full(3, 0.5), jnp.full(3, 8.0), n=2))
    [3.5 3.5 5. ]
    """
    check_steps("n_step_bootstrapped_returns", n)
    r_t, discount_t, v_t, lambda_t = promoted(r_t, discount_t, v_t, lambda_t)
    length = r_t.shape[0]

    def window(x, beyond):  # [T, n]: entries t .. t + n - 1, padded by `beyond` past the end
        padded = jnp.concatenate([x, jnp.full((n - 1,), beyond, x.dtype)])
        return jnp.stack([padded[i : i + length] for i in range(n)], axis=-1)

    # Past the end: reward 0, discount 1 and the last value. These leave the bootstrap unchanged.
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
      stop_target_gradients: True makes the returns constants.

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
      c_t: [..., T] traces; the last one does not count.
      pi_t: [..., T, A] the target policy.
      stop_target_gradients: True makes the returns constants.

    Raises:
      ValueError: lengths or batch axes differ.

    Source: Munos et al. (2016), equation 3 and table 1, https://arxiv.org/abs/1606.02647

    >>> print(general_off_policy_returns_from_action_values(jnp.array([[3.0, 1.0], [5.0, 3.0]]), jnp.array([0, 1]),
    ...           jnp.ones(2), jnp.full(2, 0.5), jnp.ones(2), jnp.full((2, 2), 0.5)))
    [2. 3.]
    """
    q_a_t, v_t = select_action(q_t, a_t), jnp.sum(safe_multiply(pi_t, q_t), axis=-1)
    discount_t = legal_discount(discount_t, q_t)
    return general_off_policy_returns_from_q_and_v(q_a_t[:-1], v_t, r_t, discount_t, c_t[:-1], stop_target_gradients)
