"""Quantile distributions: values of the quantile function at fixed, sampled or learned fractions (QR-DQN, IQN, FQF)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman.arguments import FRACTIONS, NOT_NEGATIVE, check_count
from jaxql.bellman.core import (
    batched,
    legal_discount,
    maybe_stop_gradient,
    safe_multiply,
    select_action_row,
    td_target,
)
from jaxql.types import Array, Scalar


class Quantiles(NamedTuple):
    """The output of a quantile network for a batch of observations."""

    values: Array  # [N, A, M] of the quantile function
    taus: Array  # [M] or [N, M] fractions of the quantiles
    probs: Any = None  # [M] or [N, M] probability of each quantile; None if all are 1 / M


def midpoints(n: int) -> Array:
    """The n fractions [n] of QR-DQN: (2 i + 1) / (2 n).

    Source: Dabney et al. (2018), lemma 2, https://arxiv.org/abs/1710.10044

    >>> print(midpoints(2))
    [0.25 0.75]
    """
    check_count("midpoints: n", n)
    return (jnp.arange(n) + 0.5) / n


def _asymmetric(quantiles, taus, targets, kappa):
    """Quantile Huber penalties [N, M] of all pairs, divided by kappa; for kappa = 0 the limit, the absolute error."""
    delta = targets[None, :] - quantiles[:, None]
    size, kappa = jnp.abs(delta), jnp.asarray(kappa, delta.dtype)
    near = 0.5 * jnp.where(size <= kappa, size, 0) ** 2 / jnp.where(kappa > 0, kappa, 1)
    return jnp.abs(taus[:, None] - (delta < 0)) * jnp.where(size <= kappa, near, size - 0.5 * kappa)


@batched("N", "N", "M", taus=FRACTIONS, kappa=NOT_NEGATIVE)
def quantile_huber(quantiles: Array, taus: Array, targets: Array, *, kappa: Scalar = 1.0) -> Array:
    """Quantile Huber loss [...]: sum_i mean_j |taus_i - 1{d_ij < 0}| L(d_ij) / kappa, d_ij = targets_j - quantiles_i.

    L is the Huber loss with threshold kappa. For kappa = 0 the limit is taken: L / kappa = |d|. Divided by kappa, the
    slope of large errors does not depend on it.

    Args:
      quantiles, taus: [..., N] predictions and their fractions.
      targets: [..., M] samples or quantiles of the target; gradients flow into them.
      kappa: threshold, a number that may be traced.

    Raises:
      ValueError: lengths or batch axes differ.

    Source: Dabney et al. (2018), section 2 and equation 3, https://arxiv.org/abs/1806.06923

    >>> print(quantile_huber(jnp.array([0.0]), jnp.array([0.25]), jnp.array([3.0, -3.0])))
    1.25
    """
    return jnp.sum(jnp.mean(_asymmetric(quantiles, taus, targets, kappa), axis=-1))


@batched("", "", "AN", "A")
def quantile_target(
    r_t: ArrayLike, discount_t: ArrayLike, quantiles_t: Array, q_selector: Array, *, stop_target_gradients: bool = True
) -> Array:
    """Target quantiles [..., N]: r_t + discount_t * quantiles_t[a*], a* = argmax_a q_selector[a].

    Args:
      r_t, discount_t: [...] reward, and gamma or 0 past a termination.
      quantiles_t: [..., A, N] at t, the target network's for instance.
      q_selector: [..., A] the values to maximise: the means at t, the online network's means, or a risk measure; -inf
        for illegal actions.
      stop_target_gradients: True makes the target a constant.

    Raises:
      ValueError: an argument lacks axes, or batch axes differ.

    Source: Dabney et al. (2018), algorithm 1, https://arxiv.org/abs/1710.10044; its operator: Bellemare, Dabney & Munos
    (2017), equation 3, https://arxiv.org/abs/1707.06887

    >>> print(quantile_target(1.0, 0.5, jnp.array([[0.0, 2.0], [9.0, 9.0]]), jnp.array([1.0, -jnp.inf])))
    [1. 2.]
    """
    target = td_target(r_t, legal_discount(discount_t, q_selector), quantiles_t[jnp.argmax(q_selector)])
    return maybe_stop_gradient(target, stop_target_gradients)


@batched("N", "N", "M", tau_src=FRACTIONS, huber_param=NOT_NEGATIVE)
def quantile_regression_loss(
    dist_src: Array,
    tau_src: Array,
    dist_target: Array,
    huber_param: Scalar = 0.0,
    stop_target_gradients: bool = True,
) -> Array:
    """Quantile regression loss [...]: sum_i mean_j |tau_src_i - 1{d < 0}| L(d), d = dist_target_j - dist_src_i.

    L is the absolute value, or the Huber loss if huber_param > 0. Unlike in `quantile_huber`, L is not divided by it.

    Args:
      dist_src, tau_src: [..., N] predicted quantiles and their fractions.
      dist_target: [..., M] quantiles or samples of the target.
      huber_param: threshold of the Huber loss, a number that may be traced.
      stop_target_gradients: no effect, as in rlax, which stops the gradient of the indicator only, and that is 0. To
        make dist_target a constant, stop its gradient yourself, as the losses of Q-learning below do.

    Raises:
      ValueError: lengths or batch axes differ.

    Source: Dabney et al. (2018), equations 9 and 10, https://arxiv.org/abs/1710.10044

    >>> print(quantile_regression_loss(jnp.array([0.0]), jnp.array([0.25]), jnp.array([3.0, -3.0])))
    1.5
    """
    losses = _asymmetric(dist_src, tau_src, dist_target, huber_param)
    return jnp.sum(jnp.mean(losses, axis=-1)) * jnp.where(huber_param > 0, huber_param, 1).astype(losses.dtype)


@batched("NA", "N", "", "", "", "KA", "MA", tau_q_tm1=FRACTIONS, huber_param=NOT_NEGATIVE)
def quantile_q_learning(
    dist_q_tm1: Array,
    tau_q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    dist_q_t_selector: Array,
    dist_q_t: Array,
    huber_param: Scalar = 0.0,
    stop_target_gradients: bool = True,
) -> Array:
    """Loss [...] of Q-learning on quantiles: `quantile_regression_loss` to r_t + discount_t * dist_q_t[:, a*].

    a* has the greatest mean under dist_q_t_selector. Distributions are [..., N, A] here, as in rlax.

    Args:
      dist_q_tm1: [..., N, A] quantiles at t - 1.
      tau_q_tm1: [..., N] their fractions.
      a_tm1: [...] the action taken, an index into A.
      r_t, discount_t: [...] reward, and gamma or 0 past a termination.
      dist_q_t_selector, dist_q_t: [..., K, A] and [..., M, A] quantiles at t, to select and to evaluate the action.
      huber_param: threshold of the Huber loss, or 0 for none; it may be traced.
      stop_target_gradients: True makes the target a constant.

    Raises:
      ValueError: an argument lacks axes, or lengths or batch axes differ.

    Source: Dabney et al. (2018), equation 10 and algorithm 1, https://arxiv.org/abs/1710.10044

    >>> print(quantile_q_learning(jnp.zeros((1, 2)), jnp.array([0.5]), 0, 1.0, 0.5, jnp.eye(2), jnp.eye(2)))
    0.625
    """
    q_t = jnp.mean(dist_q_t_selector, axis=0)
    a_t, discount_t = jnp.argmax(q_t), legal_discount(discount_t, q_t)
    target = maybe_stop_gradient(td_target(r_t, discount_t, dist_q_t[:, a_t]), stop_target_gradients)
    return quantile_regression_loss(select_action_row(dist_q_tm1.T, a_tm1), tau_q_tm1, target, huber_param)


@batched("NA", "N", "", "", "", "MA", "A", tau_q_tm1=FRACTIONS, huber_param=NOT_NEGATIVE)
def quantile_expected_sarsa(
    dist_q_tm1: Array,
    tau_q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    dist_q_t: Array,
    probs_a_t: Array,
    huber_param: Scalar = 0.0,
    stop_target_gradients: bool = True,
) -> Array:
    """Loss [...] of expected SARSA on quantiles: the mean under probs_a_t of the losses to each action's target.

    Shapes and errors as in `quantile_q_learning`; `probs_a_t` [..., A] is the target policy at t, a constant if the
    target is. An action of probability 0 does not count, whatever its quantiles.

    Source: Dabney et al. (2018), equations 9 and 10, https://arxiv.org/abs/1710.10044

    >>> policy = jnp.array([0.5, 0.5])
    >>> print(quantile_expected_sarsa(jnp.zeros((1, 2)), jnp.array([0.5]), 0, 1.0, 0.5, jnp.eye(2), policy))
    0.625
    """
    discount_t = legal_discount(discount_t, jnp.max(dist_q_t, axis=0))
    targets = maybe_stop_gradient(td_target(r_t, discount_t, dist_q_t.T), stop_target_gradients)  # [A, M]
    losses = quantile_regression_loss(select_action_row(dist_q_tm1.T, a_tm1), tau_q_tm1, targets, huber_param)
    return jnp.sum(safe_multiply(maybe_stop_gradient(probs_a_t, stop_target_gradients), losses))


@batched("N")
def fractions(logits: Array) -> tuple[Array, Array]:
    """The learned fractions of FQF: taus [..., N + 1], the cumulative softmax from 0 to 1, and midpoints [..., N].

    Args:
      logits: [..., N].

    Raises:
      ValueError: there is no axis N.

    Source: Yang et al. (2019), section 3.4, in the text, https://arxiv.org/abs/1911.02140; the midpoints: Dabney et
    al. (2018), lemma 2, https://arxiv.org/abs/1710.10044

    >>> taus, middles = fractions(jnp.zeros(2))
    >>> print(taus, middles)
    [0.  0.5 1. ] [0.25 0.75]
    """
    inner = jnp.cumsum(jax.nn.softmax(logits))[:-1]
    taus = jnp.concatenate([jnp.zeros(1, inner.dtype), inner, jnp.ones(1, inner.dtype)])
    return taus, (taus[1:] + taus[:-1]) / 2


@batched("P")
def fraction_entropy(taus: Array) -> Array:
    """Entropy [...] of the distances between fractions: -sum_i d_i log d_i, d_i = taus_{i+1} - taus_i; at most log N.

    FQF subtracts a multiple of it from the loss of the fractions, so that they do not collapse. A distance of 0 adds
    nothing, and has no gradient.

    Args:
      taus: [..., N + 1] fractions in ascending order, from `fractions`.

    Raises:
      ValueError: there is no axis of fractions.

    Source: Goodfellow, Bengio & Courville (2016), equation 3.49, https://www.deeplearningbook.org; of the fractions of
    Yang et al. (2019), https://arxiv.org/abs/1911.02140

    >>> print(fraction_entropy(jnp.array([0.0, 0.5, 1.0])))
    0.6931472
    """
    distance = jnp.diff(taus)
    apart = distance > 0
    return -jnp.sum(jnp.where(apart, distance * jnp.log(jnp.where(apart, distance, 1)), 0))


@batched("P", "S", "N")
def fraction_loss(taus: Array, at_taus: Array, at_midpoints: Array) -> Array:
    """Loss [...] of the fractions of FQF: its gradient in taus is that of the 1-Wasserstein error of the step function.

    d W1 / d taus_i = 2 F^-1(taus_i) - F^-1(middle_i) - F^-1(middle_{i-1}) for the N - 1 inner fractions. The two ends
    are fixed. The value, the sum of this times taus, is not a distance. No gradient flows into the quantiles.

    Args:
      taus: [..., N + 1] fractions in ascending order, from `fractions`.
      at_taus: [..., N - 1] the quantile function at the inner ones.
      at_midpoints: [..., N] the quantile function at their midpoints.

    Raises:
      ValueError: lengths do not fit, or batch axes differ.

    Source: Yang et al. (2019), proposition 1, https://arxiv.org/abs/1911.02140

    >>> print(jax.grad(fraction_loss)(jnp.array([0.0, 0.5, 1.0]), jnp.array([4.0]), jnp.array([1.0, 9.0])))
    [ 0. -2.  0.]
    """
    n = at_midpoints.shape[0]
    if (taus.shape[0], at_taus.shape[0]) != (n + 1, n - 1):
        raise ValueError(
            f"fraction_loss: at_midpoints has {n} values; taus needs {n + 1}, not {taus.shape[0]}, "
            f"and at_taus {n - 1}, not {at_taus.shape[0]}"
        )
    slope = 2 * at_taus - at_midpoints[1:] - at_midpoints[:-1]
    return jnp.sum(jax.lax.stop_gradient(slope) * taus[1:-1])
