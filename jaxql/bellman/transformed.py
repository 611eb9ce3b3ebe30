"""Returns and TD errors of values that are learned on another scale, and the scales.

A network that learns h(Q) instead of Q meets smaller numbers: its values are carried back by the inverse of h, the
return is computed on the true scale, and h is applied to it. No reward is clipped.
"""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman import multistep
from jaxql.bellman.core import batched, select_action
from jaxql.types import Array, Scalar


class TxPair(NamedTuple):
    """An increasing function of a value and its inverse."""

    apply: Callable  # (x [...]) -> y: [...], or [..., N] for a two-hot pair
    apply_inv: Callable  # (y) -> x [...]


def _odd(f, x):
    """f, given for x >= 0 with f(0) = 0, continued as an odd function; infinities stay, and f'(0) is right at 0.

    (jnp.sign(x) * f(abs(x)) has gradient 0 at 0, where a fresh network is.)
    """
    x = jnp.asarray(x) * 1.0
    finite = jnp.isfinite(x)
    sign = jnp.where(x < 0, -1.0, 1.0).astype(x.dtype)
    return jnp.where(finite, sign * f(jnp.where(finite, sign * x, 0)), x)


def signed_logp1(x: ArrayLike) -> Array:
    """sign(x) log(|x| + 1) [...] of x [...]; the inverse of `signed_expm1`.

    Source: Hafner et al. (2023), equation 9 of version 2, https://arxiv.org/abs/2301.04104

    >>> print(f"{signed_logp1(-1.0):.4f}")
    -0.6931
    """
    return _odd(jnp.log1p, x)


def signed_expm1(x: ArrayLike) -> Array:
    """sign(x) (exp(|x|) - 1) [...] of x [...]; the inverse of `signed_logp1`.

    Source: Hafner et al. (2023), equation 9 of version 2, https://arxiv.org/abs/2301.04104

    >>> print(f"{signed_expm1(signed_logp1(-7.0)):.4f}")
    -7.0000
    """
    return _odd(jnp.expm1, x)


def signed_hyperbolic(x: ArrayLike, eps: Scalar = 0.001) -> Array:
    """sign(x) (sqrt(|x| + 1) - 1) + eps x [...] of x [...]; the inverse of `signed_parabolic`.

    Source: Pohlen et al. (2018), section 3.2, and proposition A.2 for its inverse, https://arxiv.org/abs/1805.11593

    >>> print(signed_hyperbolic(jnp.array([-3.0, 0.0, 8.0]), eps=0.0))
    [-1.  0.  2.]
    """
    return _odd(lambda x: x / (jnp.sqrt(x + 1) + 1) + eps * x, x)  # the same without cancellation near 0


def signed_parabolic(x: ArrayLike, eps: Scalar = 0.001) -> Array:
    """The inverse [...] of `signed_hyperbolic`: sign(x) ((s + 1)**2 - 1), where s + eps ((s + 1)**2 - 1) = |x|.

    Source: Pohlen et al. (2018), proposition A.2, https://arxiv.org/abs/1805.11593

    >>> print(signed_parabolic(jnp.array([-1.0, 0.0, 2.0]), eps=0.0))
    [-3.  0.  8.]
    """

    def parabolic(y):  # s is the root of eps s**2 + (1 + 2 eps) s - y, in the form that does not cancel
        linear = 1 + 2 * eps
        s = 2 * y / (linear + jnp.sqrt(linear**2 + 4 * eps * y))
        return s * (s + 2)

    return _odd(parabolic, x)


def power(x: ArrayLike, p: ArrayLike) -> Array:
    """sign(x) ((|x| / sqrt(p) + 1)**p - 1) / sqrt(p) [...] of x [...]; power(., 1 / p) is the inverse of power(., p).

    Source: van Hasselt et al. (2019), section 3, https://arxiv.org/abs/1907.03687; that of John & Draper (1980), the
    modulus transformation, scaled by sqrt(p), https://doi.org/10.2307/2986305

    >>> print(f"{power(8.0, 0.5):.4f} {power(power(-8.0, 0.5), 2.0):.4f}")
    3.5484 -8.0000
    """
    root = p**0.5
    return _odd(lambda x: jnp.expm1(p * jnp.log1p(x / root)) / root, x)


def power_pair(p: ArrayLike) -> TxPair:
    """`power` with exponent p > 0 and its inverse: below 1 it squashes.

    Source: van Hasselt et al. (2019), section 3, https://arxiv.org/abs/1907.03687; the use of any increasing h: Pohlen
    et al. (2018), proposition 3.1, https://arxiv.org/abs/1805.11593

    >>> print(f"{power_pair(0.5).apply_inv(power_pair(0.5).apply(8.0)):.4f}")
    8.0000
    """
    return TxPair(functools.partial(power, p=p), functools.partial(power, p=1 / p))


def _identity(x):
    return jnp.asarray(x)


IDENTITY_PAIR = TxPair(_identity, _identity)
SIGNED_LOGP1_PAIR = TxPair(signed_logp1, signed_expm1)
SIGNED_HYPERBOLIC_PAIR = TxPair(signed_hyperbolic, signed_parabolic)
HYPERBOLIC_SIN_PAIR = TxPair(jnp.arcsinh, jnp.sinh)
DISCOUNT_TRANSFORM_PAIR = TxPair(lambda x: -jnp.log1p(-x), lambda x: -jnp.expm1(-x))  # of values below 1


def compose_tx(*tx_list: TxPair) -> TxPair:
    """The pairs one after another: `apply` in this order, `apply_inv` in the reverse order.

    Source: van Hasselt et al. (2019), section 3, https://arxiv.org/abs/1907.03687; the use of any increasing h: Pohlen
    et al. (2018), proposition 3.1, https://arxiv.org/abs/1805.11593

    >>> pair = compose_tx(power_pair(0.5), SIGNED_LOGP1_PAIR)
    >>> print(jnp.allclose(pair.apply_inv(pair.apply(jnp.array([-3.0, 8.0]))), jnp.array([-3.0, 8.0])))
    True
    """

    def apply(x):
        return functools.reduce(lambda x, tx: tx.apply(x), tx_list, x)

    def apply_inv(x):
        return functools.reduce(lambda x, tx: tx.apply_inv(x), reversed(tx_list), x)

    return TxPair(apply, apply_inv)


def _two_hot(x, bins):
    """[..., N]: weights of the two bins beside x, increasing bins [N], that average to x, or to the nearest end."""
    bins = bins.reshape((1,) * x.ndim + (-1,))
    passed = jnp.clip((x[..., None] - bins[..., :-1]) / jnp.diff(bins), 0, 1)  # how far x is into each interval
    ends = [(0, 0)] * x.ndim
    return jnp.pad(passed, [*ends, (1, 0)], constant_values=1) - jnp.pad(passed, [*ends, (0, 1)])


def unbiased_transform_pair(min_value: float, max_value: float, num_bins: int, tx: TxPair) -> TxPair:
    """A two-hot pair whose N bins are evenly spaced on the scale of `tx`: [...] <-> weights [..., N].

    The weights average to the value itself, not to its transform; outside the bins, to the nearest of them.

    Source: Schrittwieser et al. (2020), appendix F, https://arxiv.org/abs/1911.08265, with bins placed so that no
    bias is left; the weights: Farebrother et al. (2024), equation 3.2, https://arxiv.org/abs/2403.03950

    >>> pair = unbiased_transform_pair(-3.0, 3.0, 7, SIGNED_HYPERBOLIC_PAIR)
    >>> print(pair.apply_inv(pair.apply(jnp.array([-2.5, 7.25]))))
    [-2.5   7.25]
    """

    def bins(dtype):
        return tx.apply_inv(jnp.linspace(min_value, max_value, num_bins, dtype=dtype))

    def apply(x):
        x = jnp.asarray(x) * 1.0
        return _two_hot(x, bins(x.dtype))

    def apply_inv(weights):
        weights = jnp.asarray(weights) * 1.0
        return jnp.sum(weights * bins(weights.dtype).reshape((1,) * (weights.ndim - 1) + (-1,)), axis=-1)

    return TxPair(apply, apply_inv)


def twohot_pair(min_value: float, max_value: float, num_bins: int) -> TxPair:
    """A value as the weights [..., N] of the two beside it among evenly spaced bins, and back.

    Source: Farebrother et al. (2024), equation 3.2, https://arxiv.org/abs/2403.03950

    >>> print(twohot_pair(0.0, 2.0, 3).apply(jnp.array([0.25, 2.0, 9.0])))
    [[0.75 0.25 0.  ]
     [0.   0.   1.  ]
     [0.   0.   1.  ]]
    """
    return unbiased_transform_pair(min_value, max_value, num_bins, IDENTITY_PAIR)


def muzero_pair(min_value: float, max_value: float, num_bins: int, tx: TxPair) -> TxPair:
    """`tx`, then two-hot weights [..., N] over bins that are evenly spaced on its scale; the weights average to tx(x).

    Source: Schrittwieser et al. (2020), appendix F, in the text, https://arxiv.org/abs/1911.08265; the weights:
    Farebrother et al. (2024), equation 3.2, https://arxiv.org/abs/2403.03950

    >>> pair = muzero_pair(-3.0, 3.0, 7, SIGNED_HYPERBOLIC_PAIR)
    >>> print(jnp.allclose(pair.apply_inv(pair.apply(jnp.array([-2.5, 7.25]))), jnp.array([-2.5, 7.25])))
    True
    """
    return compose_tx(tx, twohot_pair(min_value, max_value, num_bins))


def transform_values(build_targets: Callable, *value_argnums: int) -> Callable:
    """`build_targets` for transformed values: (tx_pair, *its arguments) -> tx_pair.apply of its result.

    The arguments at `value_argnums` go through tx_pair.apply_inv, whether given by position or by name. Shapes and
    errors are those of `build_targets`, and [..., N] for values [...] where the pair is a two-hot one.

    Source: the operator T_h of Pohlen et al. (2018), section 3.2 and proposition 3.1, https://arxiv.org/abs/1805.11593;
    van Hasselt et al. (2019), section 3, https://arxiv.org/abs/1907.03687

    >>> returns = transform_values(multistep.lambda_returns, 2)
    >>> print(returns(SIGNED_LOGP1_PAIR, jnp.ones(1), jnp.ones(1), v_t=jnp.log(jnp.array([7.0]))).round(3))
    [2.079]
    """
    signature = inspect.signature(build_targets)
    values = [list(signature.parameters)[index] for index in value_argnums]

    def build_transformed(tx_pair, *args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        for name in values:
            bound.arguments[name] = tx_pair.apply_inv(bound.arguments[name])
        return tx_pair.apply(build_targets(*bound.args, **bound.kwargs))

    name = build_targets.__name__
    build_transformed.__name__ = build_transformed.__qualname__ = f"transformed_{name}"
    build_transformed.__doc__ = (
        f"`{name}` of transformed values: (tx_pair, *its arguments); see `transform_values`.\n\n"
        f"Shapes and errors as in `{name}`: [..., T].\n\n"
        f"Source: that of `{name}`, under the operator T_h of Pohlen et al. (2018), proposition 3.1, "
        "https://arxiv.org/abs/1805.11593"
    )
    return build_transformed


transformed_lambda_returns = transform_values(multistep.lambda_returns, 2)
transformed_n_step_returns = transform_values(multistep.n_step_bootstrapped_returns, 2)
transformed_general_off_policy_returns_from_action_values = transform_values(
    multistep.general_off_policy_returns_from_action_values, 0
)

transformed_lambda_returns.__doc__ = (
    f"{transformed_lambda_returns.__doc__}"
    """

>>> v_t = SIGNED_LOGP1_PAIR.apply(jnp.array([7.0, 3.0]))
>>> returns = transformed_lambda_returns(SIGNED_LOGP1_PAIR, jnp.ones(2), jnp.full(2, 0.5), v_t, 1.0)
>>> print(SIGNED_LOGP1_PAIR.apply_inv(returns).round(3))
[2.25 2.5 ]
"""
)
transformed_n_step_returns.__doc__ = (
    f"{transformed_n_step_returns.__doc__}"
    """

>>> v_t = SIGNED_LOGP1_PAIR.apply(jnp.array([7.0, 3.0]))
>>> returns = transformed_n_step_returns(SIGNED_LOGP1_PAIR, jnp.ones(2), jnp.full(2, 0.5), v_t, 1)
>>> print(SIGNED_LOGP1_PAIR.apply_inv(returns).round(3))
[4.5 2.5]
"""
)
transformed_general_off_policy_returns_from_action_values.__doc__ = (
    f"{transformed_general_off_policy_returns_from_action_values.__doc__}"
    """

>>> q_t = SIGNED_LOGP1_PAIR.apply(jnp.array([[7.0, 5.0], [3.0, 1.0]]))
>>> a_t, pi_t = jnp.zeros(2, int), jnp.array([[1.0, 0.0], [1.0, 0.0]])
>>> returns = transformed_general_off_policy_returns_from_action_values(
...     SIGNED_LOGP1_PAIR, q_t, a_t, jnp.ones(2), jnp.full(2, 0.5), jnp.zeros(2), pi_t)
>>> print(SIGNED_LOGP1_PAIR.apply_inv(returns).round(3))
[4.5 2.5]
"""
)


@batched("TA", "T", "T", "T", "TA", "T?")
def transformed_q_lambda(
    q_tm1: Array,
    a_tm1: Array,
    r_t: Array,
    discount_t: Array,
    q_t: Array,
    lambda_: ArrayLike,
    stop_target_gradients: bool = True,
    tx_pair: TxPair = IDENTITY_PAIR,
) -> Array:
    """TD errors [..., T] of Q(lambda) for transformed values: `multistep.q_lambda`, with its return on the true scale.

    q_tm1 and q_t [..., T, A] and the errors are on the scale of `tx_pair`; all else as in `q_lambda`.

    Source: Sutton & Barto (2018), equation 12.20, http://incompleteideas.net/book/the-book-2nd.html, under the operator
    T_h of Pohlen et al. (2018), section 3.2 and proposition 3.1, https://arxiv.org/abs/1805.11593

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 0])
    >>> print(transformed_q_lambda(q, a, jnp.ones(2), jnp.full(2, 0.5), q, 1.0))
    [2.5 1. ]
    """
    v_t = jnp.max(q_t, axis=-1)
    targets = transformed_lambda_returns(tx_pair, r_t, discount_t, v_t, lambda_, stop_target_gradients)
    return targets - select_action(q_tm1, a_tm1)


@batched("TA", "TA", "T", "T", "T", "T", "TA", "T", "T?")
def transformed_retrace(
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
    tx_pair: TxPair = IDENTITY_PAIR,
) -> Array:
    """TD errors [..., T] of Retrace(lambda) for transformed values: `retrace`, with its return on the true scale.

    q_tm1 and q_t [..., T, A] and the errors are on the scale of `tx_pair`; all else as in `retrace`.

    Source: Munos et al. (2016), equation 3 and table 1, https://arxiv.org/abs/1606.02647, under the operator T_h of
    Pohlen et al. (2018), section 3.2 and proposition 3.1, https://arxiv.org/abs/1805.11593

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 0])
    >>> print(transformed_retrace(q, q, a, a, jnp.ones(2), jnp.full(2, 0.5), jnp.full((2, 2), 0.5), jnp.ones(2), 1.0))
    [1.875 0.5  ]
    """
    c_t = multistep.retrace_traces(pi_t, mu_t, a_t, lambda_, eps)
    targets = transformed_general_off_policy_returns_from_action_values(
        tx_pair, q_t, a_t, r_t, discount_t, c_t, pi_t, stop_target_gradients
    )
    return targets - select_action(q_tm1, a_tm1)


@batched("TA", "T", "TA", "T", "T", "T")
def transformed_n_step_q_learning(
    q_tm1: Array,
    a_tm1: Array,
    target_q_t: Array,
    a_t: Array,
    r_t: Array,
    discount_t: Array,
    n: int,
    stop_target_gradients: bool = True,
    tx_pair: TxPair = IDENTITY_PAIR,
) -> Array:
    """TD errors [..., T] of n-step Q-learning: the n-step return of v_t = target_q_t[a_t], less q_tm1[a_tm1].

    Args:
      q_tm1: [..., T, A] values before each reward, on the scale of `tx_pair`.
      a_tm1: [..., T] the actions taken there.
      target_q_t: [..., T, A] values after each reward, on that scale; the return is computed on the true one.
      a_t: [..., T] the actions that bootstrap: argmax of target_q_t, or of the online network's values (double).
      r_t, discount_t: [..., T] rewards and discounts; 0 past a termination.
      n: the number of steps, a positive Python integer; see `n_step_bootstrapped_returns`.
      stop_target_gradients: whether the target is a constant.
      tx_pair: the scale; the identity by default.

    Raises:
      ValueError: n is not positive, or lengths or batch axes differ.

    Source: Sutton & Barto (2018), equation 7.1, http://incompleteideas.net/book/the-book-2nd.html, under the operator
    T_h of Pohlen et al. (2018), section 3.2 and proposition 3.1, https://arxiv.org/abs/1805.11593; Kapturowski et al.
    (2019), section 2.3, in the text, https://openreview.net/pdf?id=r1lyTjAqYX

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 0])
    >>> print(transformed_n_step_q_learning(q, a, q, jnp.argmax(q, -1), jnp.ones(2), jnp.full(2, 0.5), n=2))
    [2.5 1. ]
    """
    targets = transformed_n_step_returns(
        tx_pair, r_t, discount_t, select_action(target_q_t, a_t), n, stop_target_gradients=stop_target_gradients
    )
    return targets - select_action(q_tm1, a_tm1)
