"""The quantile head: an output holds quantiles at fixed fractions (QR-DQN)."""

from collections.abc import Callable

import jax.numpy as jnp

from jaxql import distributional
from jaxql.bellman.arguments import NOT_NEGATIVE, check_count, function
from jaxql.bellman.core import safe_multiply, td_target
from jaxql.losses.backups import with_bonus
from jaxql.losses.batch import of_action
from jaxql.types import Array, Backup, Head, Scalar

Measure = Callable[..., Array]


def quantile(num_quantiles: int = 51, *, kappa: Scalar = 1.0, measure: Measure = distributional.mean) -> Head:
    """Returns the head of quantiles [N, A, M] at the midpoints of M equal parts; its loss is the quantile Huber loss.

    The target quantiles are reward + bonus + discount * sum_b policy(b) (quantiles'(b) + shift(b)).

    Args:
      num_quantiles: M.
      kappa: threshold of the Huber loss, which is divided by it; 0 for absolute errors. It may be traced.
      measure: (quantiles [N, A, M], None) -> [N, A], what the greedy action maximises; see
        `jaxql.distributional.risk`.

    Raises:
      ValueError: num_quantiles is no whole number above 0, or kappa is negative.

    Source: Dabney et al. (2018), algorithm 1, https://arxiv.org/abs/1710.10044

    >>> head = quantile(2)
    >>> print(head.loss(jnp.zeros((1, 1, 2)), jnp.array([0]), jnp.array([[2.5, 2.5]])))
    [2.]
    """

    check_count("quantile: num_quantiles", num_quantiles)
    NOT_NEGATIVE("quantile: kappa", kappa)
    function("quantile: measure", measure)

    def target(quantiles_next: Array, backup: Backup, reward: Array, discount: Array) -> Array:
        return target_quantiles(quantiles_next, backup, reward, discount)

    def loss(quantiles: Array, action: Array, target: Array) -> Array:
        taus = distributional.midpoints(quantiles.shape[-1])
        return distributional.quantile_huber(of_action(quantiles, action), taus, target, kappa=kappa)

    return Head(
        outputs=num_quantiles,
        q_values=lambda quantiles: measured(measure, quantiles),
        target=target,
        loss=loss,
        mean=distributional.mean,
    )


def measured(measure: Measure, quantiles: Array, probs: Array | None = None) -> Array:
    """Returns the measure [N, A] of quantiles [N, A, M], and -inf for illegal actions, whose quantiles all are.

    >>> quantiles = jnp.array([[[0.0, 2.0], [-jnp.inf, -jnp.inf]]])
    >>> print(measured(distributional.variance, quantiles))
    [[  1. -inf]]
    """
    illegal = jnp.all(quantiles == -jnp.inf, axis=-1)
    return jnp.where(illegal, -jnp.inf, measure(jnp.where(illegal[..., None], 0, quantiles), probs))


def target_quantiles(quantiles_next: Array, backup: Backup, reward: Array, discount: Array) -> Array:
    """Returns the quantiles [N, M] of reward + bonus + discount * sum_b policy(b) (quantiles_next(b) + shift(b)).

    Args:
      quantiles_next: [N, A, M] at next_obs.
      backup: the answer of a backup.
      reward, discount: [N].

    Source: the mean over actions of quantile functions, as in M-IQN: Vieillard, Pietquin & Geist (2020), equation 2,
    https://arxiv.org/abs/2007.14430

    >>> answer = Backup(policy=jnp.array([[0.0, 1.0]]))
    >>> print(target_quantiles(jnp.array([[[9.0, 9.0], [0.0, 2.0]]]), answer, jnp.array([1.0]), jnp.array([0.5])))
    [[1. 2.]]
    """
    shifted = quantiles_next if backup.shift is None else quantiles_next + backup.shift[..., None]
    value = jnp.sum(safe_multiply(backup.policy[..., None], shifted), axis=1)
    return td_target(with_bonus(reward, backup)[:, None], discount[:, None], value)
