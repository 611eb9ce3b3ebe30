"""Scales on which values may be learned: pairs of an increasing function and its inverse."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxql.bellman.arguments import (
    NOT_NEGATIVE,
    POSITIVES,
    REAL,
    as_real,
    check_count,
    pair,
)
from jaxql.bellman.core import paired_sum
from jaxql.types import Array, Scalar


class TxPair(NamedTuple):
    """An increasing function of a value and its inverse."""

    apply: Callable  # (x [...]) -> y: [...], or [..., N] for a two-hot pair
    apply_inv: Callable  # (y) -> x [...]


def _odd(f, x):
    """The odd function that equals f for x >= 0, where f(0) = 0. Infinities stay, and the gradient at 0 is f'(0).

    (jnp.sign(x) * f(abs(x)) has gradient 0 at 0, where a fresh network is.)
    """
    x = as_real("x", x) * 1.0
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
    NOT_NEGATIVE("signed_hyperbolic: eps", eps)
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

    NOT_NEGATIVE("signed_parabolic: eps", eps)
    return _odd(parabolic, x)


def power(x: ArrayLike, p: ArrayLike) -> Array:
    """sign(x) ((|x| / sqrt(p) + 1)**p - 1) / sqrt(p) [...] of x [...]; power(., 1 / p) is the inverse of power(., p).

    Source: van Hasselt et al. (2019), section 3, https://arxiv.org/abs/1907.03687; that of John & Draper (1980), the
    modulus transformation, scaled by sqrt(p), https://doi.org/10.2307/2986305

    >>> print(f"{power(8.0, 0.5):.4f} {power(power(-8.0, 0.5), 2.0):.4f}")
    3.5484 -8.0000
    """
    POSITIVES("power: p", p)
    root = p**0.5
    return _odd(lambda x: jnp.expm1(p * jnp.log1p(x / root)) / root, x)


def power_pair(p: ArrayLike) -> TxPair:
    """The pair of `power` with exponent p > 0 and its inverse; p below 1 squashes.

    Source: van Hasselt et al. (2019), section 3, https://arxiv.org/abs/1907.03687; the use of any increasing h: Pohlen
    et al. (2018), proposition 3.1, https://arxiv.org/abs/1805.11593

    >>> print(f"{power_pair(0.5).apply_inv(power_pair(0.5).apply(8.0)):.4f}")
    8.0000
    """
    POSITIVES("power_pair: p", p)
    return TxPair(functools.partial(power, p=p), functools.partial(power, p=1 / p))


def _identity(x):
    return jnp.asarray(x)


IDENTITY_PAIR = TxPair(_identity, _identity)


SIGNED_LOGP1_PAIR = TxPair(signed_logp1, signed_expm1)
SIGNED_HYPERBOLIC_PAIR = TxPair(signed_hyperbolic, signed_parabolic)
HYPERBOLIC_SIN_PAIR = TxPair(functools.partial(_odd, jnp.arcsinh), functools.partial(_odd, jnp.sinh))
DISCOUNT_TRANSFORM_PAIR = TxPair(lambda x: -jnp.log1p(-x), lambda x: -jnp.expm1(-x))  # of values below 1


def compose_tx(*tx_list: TxPair) -> TxPair:
    """The composition of the pairs: `apply` in this order, `apply_inv` in the reverse order.

    Source: van Hasselt et al. (2019), section 3, https://arxiv.org/abs/1907.03687; the use of any increasing h: Pohlen
    et al. (2018), proposition 3.1, https://arxiv.org/abs/1805.11593

    >>> pair = compose_tx(power_pair(0.5), SIGNED_LOGP1_PAIR)
    >>> print(jnp.allclose(pair.apply_inv(pair.apply(jnp.array([-3.0, 8.0]))), jnp.array([-3.0, 8.0])))
    True
    """

    for tx in tx_list:
        pair("compose_tx: an argument", tx)

    def apply(x):
        return functools.reduce(lambda x, tx: tx.apply(x), tx_list, x)

    def apply_inv(x):
        return functools.reduce(lambda x, tx: tx.apply_inv(x), reversed(tx_list), x)

    return TxPair(apply, apply_inv)


def _check_bins(name: str, min_value: Any, max_value: Any, num_bins: Any) -> None:
    REAL(f"{name}: min_value", min_value)
    REAL(f"{name}: max_value", max_value)
    check_count(f"{name}: num_bins", num_bins)
    if not any(isinstance(x, Tracer) for x in (min_value, max_value)) and not min_value < max_value:
        raise ValueError(f"{name}: min_value is {min_value} and max_value {max_value}; min_value must be less")


def _two_hot(x, bins):
    """Weights [..., N] of the two bins beside x that average to x, or to the nearest end; bins [N] increase."""
    bins = bins.reshape((1,) * x.ndim + (-1,))
    passed = jnp.clip(
        (x[..., None] - bins[..., :-1]) / jnp.diff(bins), 0, 1
    )  # the part of each interval that is below x
    ends = [(0, 0)] * x.ndim
    return jnp.pad(passed, [*ends, (1, 0)], constant_values=1) - jnp.pad(passed, [*ends, (0, 1)])


def unbiased_transform_pair(min_value: float, max_value: float, num_bins: int, tx: TxPair) -> TxPair:
    """A two-hot pair whose N bins are evenly spaced on the scale of `tx`: [...] <-> weights [..., N].

    The weights average to the value itself, not to its transform; outside the bins, to the nearest of them. Where
    min_value is -max_value and `tx` is odd, the bins are symmetric to the last bit, and even weights average to 0.

    Raises:
      ValueError: min_value is not below max_value, num_bins is no whole number above 0, or tx is no pair.

    Source: Schrittwieser et al. (2020), appendix F, https://arxiv.org/abs/1911.08265, with bins placed so that no
    bias is left; the weights: Farebrother et al. (2024), equation 3.2, https://arxiv.org/abs/2403.03950

    >>> pair = unbiased_transform_pair(-3.0, 3.0, 7, SIGNED_HYPERBOLIC_PAIR)
    >>> print(pair.apply_inv(pair.apply(jnp.array([-2.5, 7.25]))))
    [-2.5   7.25]
    """

    _check_bins("unbiased_transform_pair", min_value, max_value, num_bins)
    pair("unbiased_transform_pair: tx", tx)

    def bins(dtype):
        grid = jnp.linspace(min_value, max_value, num_bins, dtype=dtype)
        symmetric = jnp.equal(min_value, -jnp.asarray(max_value)) & (num_bins > 1)
        return tx.apply_inv(jnp.where(symmetric, (grid - grid[::-1]) / 2, grid))

    def apply(x):
        x = jnp.asarray(x) * 1.0
        return _two_hot(x, bins(x.dtype))

    def apply_inv(weights):
        weights = jnp.asarray(weights) * 1.0
        return paired_sum(weights * bins(weights.dtype).reshape((1,) * (weights.ndim - 1) + (-1,)))

    return TxPair(apply, apply_inv)


def twohot_pair(min_value: float, max_value: float, num_bins: int) -> TxPair:
    """A pair that maps a value to weights [..., N] of the two evenly spaced bins beside it, and back.

    Source: Farebrother et al. (2024), equation 3.2, https://arxiv.org/abs/2403.03950

    >>> print(twohot_pair(0.0, 2.0, 3).apply(jnp.array([0.25, 2.0, 9.0])))
    [[0.75 0.25 0.  ]
     [0.   0.   1.  ]
     [0.   0.   1.  ]]
    """
    _check_bins("twohot_pair", min_value, max_value, num_bins)
    return unbiased_transform_pair(min_value, max_value, num_bins, IDENTITY_PAIR)


def muzero_pair(min_value: float, max_value: float, num_bins: int, tx: TxPair) -> TxPair:
    """The pair of `tx`, then two-hot weights [..., N] over bins evenly spaced on its scale; they average to tx(x).

    Source: Schrittwieser et al. (2020), appendix F, in the text, https://arxiv.org/abs/1911.08265; the weights:
    Farebrother et al. (2024), equation 3.2, https://arxiv.org/abs/2403.03950

    >>> pair = muzero_pair(-3.0, 3.0, 7, SIGNED_HYPERBOLIC_PAIR)
    >>> print(jnp.allclose(pair.apply_inv(pair.apply(jnp.array([-2.5, 7.25]))), jnp.array([-2.5, 7.25])))
    True
    """
    pair("muzero_pair: tx", tx)
    return compose_tx(tx, twohot_pair(min_value, max_value, num_bins))
