"""Returns of a sequence: time is the first axis of an equation, batch axes come before it."""

import jax
import jax.numpy as jnp

from jaxql.bellman.core import batched, bootstrap, same_length, stopped
from jaxql.types import Array


@batched(1, 1, 1)
def lambda_returns(r_t, discount_t, v_t, lambda_=1.0, stop_target_gradients=False) -> Array:
    """Lambda-returns [..., T]: G_t = r_t + discount_t * ((1 - lambda_t) v_t + lambda_t G_{t+1}), with G_T = v_{T-1}.

    Args:
      r_t, discount_t, v_t: [..., T] rewards, discounts and state values, in step: v_t follows r_t.
      lambda_: the trace, a number or [T].
      stop_target_gradients: whether the returns are constants.

    Raises:
      ValueError: lengths or batch axes differ.

    Source: Sutton & Barto (2018), equation 12.18, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(lambda_returns(jnp.ones(3), jnp.full(3, 0.5), jnp.zeros(3), 1.0))
    [1.75 1.5  1.  ]
    """
    same_length(r_t=r_t, discount_t=discount_t, v_t=v_t)
    dtype = jnp.result_type(r_t, discount_t, v_t, lambda_, 1.0)  # the weak 1.0 turns integers into floats
    r_t, discount_t, v_t = (x.astype(dtype) for x in (r_t, discount_t, v_t))
    lambda_t = jnp.broadcast_to(jnp.asarray(lambda_, dtype), r_t.shape)

    def backwards(g, row):
        r, discount, v, trace = row
        g = bootstrap(r, discount, (1 - trace) * v + trace * g)
        return g, g

    _, returns = jax.lax.scan(backwards, v_t[-1], (r_t, discount_t, v_t, lambda_t), reverse=True)
    return stopped(returns, stop_target_gradients)


def discounted_returns(r_t, discount_t, v_t, stop_target_gradients=False) -> Array:
    """Discounted returns [..., T]: G_t = r_t + discount_t * G_{t+1}, bootstrapped with the last v_t.

    `v_t` is [..., T] (only its last entry counts) or [...]. Otherwise as `lambda_returns` with lambda 1.

    Source: Sutton & Barto (2018), equation 3.9, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(discounted_returns(jnp.ones(3), jnp.full(3, 0.5), 8.0))
    [2.75 3.5  5.  ]
    """
    r_t, v_t = jnp.asarray(r_t), jnp.asarray(v_t)
    v_t = v_t[..., None] if v_t.ndim < max(r_t.ndim, 1) else v_t
    bootstrap = jnp.broadcast_to(v_t, r_t.shape) if v_t.shape[-1] == 1 else v_t
    return lambda_returns(r_t, discount_t, bootstrap, 1.0, stop_target_gradients)


@batched(1, 1, 1)
def n_step_bootstrapped_returns(r_t, discount_t, v_t, n, lambda_t=1.0, stop_target_gradients=False) -> Array:
    """n-step returns [..., T]: G_t = r_t + discount_t * (r_{t+1} + ... discount_{t+n-1} * v_{t+n-1}).

    Near the end of the sequence the window shortens and bootstraps from the last v_t. With `lambda_t` below 1 each
    step mixes in its own value, as in `lambda_returns`.

    Args:
      r_t, discount_t, v_t: [..., T] in step: v_t follows r_t. A discount of 0 ends the window.
      n: the number of steps, a positive Python integer.
      lambda_t: the trace, a number or [T].
      stop_target_gradients: whether the returns are constants.

    Raises:
      ValueError: n is not positive, or lengths or batch axes differ.

    Source: Sutton & Barto (2018), equation 7.1, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(n_step_bootstrapped_returns(jnp.ones(3), jnp.full(3, 0.5), jnp.full(3, 8.0), n=2))
    [3.5 3.5 5. ]
    """
    same_length(r_t=r_t, discount_t=discount_t, v_t=v_t)
    if n < 1:
        raise ValueError(f"n_step_bootstrapped_returns: n is {n}; a window has at least 1 step")
    length = r_t.shape[0]
    lambda_t = jnp.broadcast_to(jnp.asarray(lambda_t), (length,))

    def window(x, beyond):  # [T, n]: entries t .. t + n - 1, continued past the end by `beyond`
        padded = jnp.concatenate([x, jnp.full((n - 1,), beyond, x.dtype)])
        return jnp.stack([padded[i : i + length] for i in range(n)], axis=-1)

    # Past the end: reward 0, discount 1 and the last value, which leaves the bootstrap as it is.
    rewards, discounts, traces = window(r_t, 0), window(discount_t, 1), window(lambda_t, 1)
    values = window(v_t, v_t[-1])
    target = values[:, -1]
    for i in reversed(range(n)):
        mixed = (1 - traces[:, i]) * values[:, i] + traces[:, i] * target
        target = bootstrap(rewards[:, i], discounts[:, i], mixed)
    return stopped(target, stop_target_gradients)
