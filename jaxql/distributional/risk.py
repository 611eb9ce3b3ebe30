"""Mean, variance and risk measures of a distribution.

A distribution is values [..., N] and their probs [..., N]. A categorical one is (atoms, probabilities(logits)).
Quantiles are (quantiles, None), each of probability 1 / N, or (quantiles, probs). Either array may lack the batch axes
of the other.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from jax.typing import ArrayLike

from jaxql.bellman.arguments import LEVEL, POSITIVES, REAL, REALS, UNITS, function
from jaxql.bellman.core import batched, drop_unweighted, paired_sum, promoted, safe_multiply
from jaxql.types import Array, Scalar


def _with_probs(values: Array, probs: Array | None) -> tuple[Array, Array]:
    """The values and their probabilities, 1 / N each if None."""
    n = values.shape[0]
    return values, jnp.full(n, 1 / n, jnp.result_type(values, 1.0)) if probs is None else probs


def _ascending(values: Array, probs: Array) -> tuple[Array, Array, Array]:
    """The values in ascending order, their probabilities, and the cumulative probabilities."""
    order = jnp.argsort(values)
    return values[order], probs[order], jnp.cumsum(probs[order])


@batched("N", "N")
def mean(values: Array, probs: Array | None = None) -> Array:
    """Expected value [...]: sum_i probs_i values_i. Values of probability 0 do not count, even if infinite.

    Args:
      values: [..., N].
      probs: [..., N]; 1 / N each if None.

    Raises:
      ValueError: lengths or batch axes differ.

    Source: Goodfellow, Bengio & Courville (2016), equation 3.9, https://www.deeplearningbook.org

    >>> print(mean(jnp.array([0.0, 1.0, 5.0])))
    2.0
    """
    values, probs = _with_probs(values, probs)
    return paired_sum(safe_multiply(probs, values))


@batched("N", "N")
def variance(values: Array, probs: Array | None = None) -> Array:
    """Variance [...]: sum_i probs_i (values_i - mean)^2; arguments and errors as in `mean`.

    Source: Goodfellow, Bengio & Courville (2016), equation 3.12, https://www.deeplearningbook.org

    >>> print(variance(jnp.array([0.0, 2.0])), variance(jnp.array([0.0, 2.0]), jnp.array([0.25, 0.75])))
    1.0 0.75
    """
    values, probs = _with_probs(values, probs)
    values = drop_unweighted(probs, values)
    return mean((values - mean(values, probs)) ** 2, probs)


@batched("N", "N", level=LEVEL)
def cvar(values: Array, probs: Array | None = None, *, level: Scalar) -> Array:
    """Conditional value at risk [...]: the mean of the worst (lowest) part, of mass `level`, of a distribution.

    It is (1 / level) times the integral of the quantile function from 0 to level; at level 1 the mean.

    Args:
      values: [..., N], in any order.
      probs: [..., N]; 1 / N each if None.
      level: 0 < level <= 1, a number that may be traced; a traced 0 gives the limit, the worst value.

    Raises:
      ValueError: lengths or batch axes differ, or level is out of range.

    Source: Acerbi & Tasche (2002), definition 2.6, the tail mean, https://doi.org/10.1016/S0378-4266(02)00283-2; of
    losses without atoms: Rockafellar & Uryasev (2000), equation 3, https://doi.org/10.21314/JOR.2000.038

    >>> print(cvar(jnp.array([4.0, 0.0, 8.0, 2.0]), level=0.5))
    1.0
    """
    values, probs = _with_probs(values, probs)
    values, probs, upto = _ascending(values, probs)
    level = jnp.clip(jnp.asarray(level, upto.dtype), jnp.finfo(upto.dtype).tiny, 1)
    counted = jnp.clip(level - (upto - probs), 0, probs)
    return jnp.sum(safe_multiply(counted / jnp.sum(counted), values))


@batched("N", "N", level=LEVEL)
def value_at_risk(values: Array, probs: Array | None = None, *, level: Scalar) -> Array:
    """Value at risk [...]: the lower quantile F^-1(level), the smallest x with P(Z <= x) >= level.

    Args:
      values: [..., N], in any order.
      probs: [..., N]; 1 / N each if None. Their sums are compared with the level up to rounding.
      level: 0 < level <= 1, a number that may be traced.

    Raises:
      ValueError: lengths or batch axes differ, or level is out of range.

    Source: Rockafellar & Uryasev (2000), equation 2, https://doi.org/10.21314/JOR.2000.038

    >>> print(value_at_risk(jnp.array([4.0, 0.0, 8.0, 2.0]), level=0.5))
    2.0
    """
    values, probs = _with_probs(values, probs)
    values, _, upto = _ascending(*promoted(values, probs))
    lowest = jnp.asarray(level, upto.dtype) * (1 - 8 * jnp.finfo(upto.dtype).eps)
    return values[jnp.argmax(upto >= lowest * upto[-1])]


@batched("N", "N", beta=REAL)
def entropic(values: Array, probs: Array | None = None, *, beta: Scalar) -> Array:
    """Entropic risk [...] as a certainty equivalent: -log(sum_i probs_i exp(-beta values_i)) / beta.

    Positive beta is risk-averse, negative beta risk-seeking. At beta 0 it is the mean; near 0, the mean minus beta / 2
    times the variance. As beta grows it falls to the smallest value. Values of probability 0 do not count.

    Args:
      values: [..., N].
      probs: [..., N]; 1 / N each if None.
      beta: a number that may be traced, in units of 1 / value.

    Raises:
      ValueError: lengths or batch axes differ.

    Source: Detlefsen & Scandolo (2005), section 5, in the text, less its sign,
    https://doi.org/10.1007/s00780-005-0159-6

    >>> print(f"{entropic(jnp.array([0.0, 1.0]), beta=1.0):.4f} {entropic(jnp.array([0.0, 1.0]), beta=0.0)}")
    0.3799 0.5
    """
    values, probs = _with_probs(values, probs)
    beta = jnp.asarray(beta, probs.dtype)
    slope, values = jnp.where(beta == 0, 1, beta), drop_unweighted(probs, values)
    exponents = jnp.where(probs > 0, -slope * values, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(exponents))
    below = jnp.where((probs > 0) & jnp.isfinite(top), exponents - top, 0)
    small = jnp.sum(probs * jnp.expm1(below))  # exact near 0, where the logarithm of the sum is not
    rest = jnp.where(small < -0.5, jnp.log(jnp.sum(probs * jnp.exp(below))), jnp.log1p(jnp.maximum(small, -0.5)))
    return jnp.where(beta == 0, mean(values, probs), -(top + rest) / slope)


@batched("N", "N", distortion=function)
def distorted_mean(values: Array, probs: Array | None = None, *, distortion: Callable[[Array], Array]) -> Array:
    """Distorted expectation [...]: the mean of F^-1(distortion(tau)) over tau uniform in [0, 1], computed exactly.

    A network that takes fractions as inputs does not need this: give it distortion(tau) and take the mean.

    Args:
      values: [..., N], in any order.
      probs: [..., N]; 1 / N each if None. No gradient flows into them.
      distortion: tau -> fraction, not decreasing, 0 at 0: `lambda tau: wang(tau, -0.75)`. Fractions above
        distortion(1) do not count: `lambda tau: 0.25 * tau` gives the CVaR at level 0.25.

    Raises:
      ValueError: lengths or batch axes differ.

    Source: Dabney et al. (2018), the mean that equation 1 maximises, https://arxiv.org/abs/1806.06923

    >>> print(distorted_mean(jnp.array([4.0, 0.0]), distortion=lambda tau: tau**0.5))
    3.0
    """
    values, probs = _with_probs(values, probs)
    values, _, upto = _ascending(values, jax.lax.stop_gradient(probs))

    # taus[i] is the greatest tau with distortion(tau) <= upto[i]: above it the quantile function exceeds values[i].
    low, high = jnp.zeros_like(upto), jnp.ones_like(upto)
    for _ in range(jnp.finfo(upto.dtype).nmant + 3):  # a JAX loop would compile anew at every call outside of jit
        middle = (low + high) / 2
        fits = distortion(middle) <= upto
        low, high = jnp.where(fits, middle, low), jnp.where(fits, high, middle)
    taus = low.at[-1].set(1)
    return jnp.sum(safe_multiply(jnp.diff(taus, prepend=jnp.zeros(1, taus.dtype)), values))


def power_distortion(tau: ArrayLike, eta: ArrayLike) -> Array:
    """Power distortion [...]: tau^(1 / (1 + |eta|)) if eta >= 0, else 1 - (1 - tau)^(1 / (1 + |eta|)).

    Args:
      tau: [...] fractions in [0, 1].
      eta: a number, or of a shape that broadcasts with tau's.

    Negative eta is risk-averse, positive eta risk-seeking, 0 neutral. With eta = n - 1 the distorted mean is the mean
    of the best of n draws; with eta = 1 - n, of the worst.

    Source: Dabney et al. (2018), section 4, in the text, https://arxiv.org/abs/1806.06923; as the best of several
    draws: GX-Chen et al. (2026), equation 17, https://arxiv.org/abs/2606.03962

    >>> print(power_distortion(0.25, 1.0), power_distortion(0.75, -1.0))
    0.5 0.5
    """
    UNITS("power_distortion: tau", tau)
    REALS("power_distortion: eta", eta)
    tau = jnp.asarray(tau)
    seeks = jnp.asarray(eta) >= 0
    raised = jnp.where(seeks, tau, 1 - tau) ** (1 / (1 + jnp.abs(eta)))
    return jnp.where(seeks, raised, 1 - raised)


def wang(tau: ArrayLike, eta: ArrayLike) -> Array:
    """Wang's distortion [...]: Phi(Phi^-1(tau) + eta), Phi the normal distribution function.

    Negative eta is risk-averse. Arguments as in `power_distortion`.

    Source: Dabney et al. (2018), section 4, in the text, https://arxiv.org/abs/1806.06923; numbered in Zhang et
    al. (2025), equation 5, who weigh quantiles by its slope, so that positive eta is averse there,
    https://arxiv.org/abs/2507.20382

    >>> print(wang(0.5, 0.0))
    0.5
    """
    UNITS("wang: tau", tau)
    REALS("wang: eta", eta)
    dtype = jnp.result_type(tau, eta, 1.0)
    exact = jnp.promote_types(dtype, jnp.float32)  # the normal quantile function has no bfloat16
    return ndtr(ndtri(jnp.asarray(tau, exact)) + jnp.asarray(eta, exact)).astype(dtype)


def cpw(tau: ArrayLike, eta: ArrayLike) -> Array:
    """Cumulative probability weighting [...]: tau^eta / (tau^eta + (1 - tau)^eta)^(1 / eta).

    Measured in people, eta is about 0.71. Below 1 it overrates rare outcomes, good and bad; 1 is neutral. It increases
    in tau for eta above about 0.28. Arguments as in `power_distortion`, with eta above 0.

    Source: Tversky & Kahneman (1992), equation 6, https://doi.org/10.1007/BF00122574; 0.71: Dabney et
    al. (2018), section 4, https://arxiv.org/abs/1806.06923

    >>> print(cpw(0.5, 1.0))
    0.5
    """
    UNITS("cpw: tau", tau)
    POSITIVES("cpw: eta", eta)
    rise, fall = jnp.asarray(tau) ** eta, (1 - jnp.asarray(tau)) ** eta
    return rise / (rise + fall) ** (1 / jnp.asarray(eta))
