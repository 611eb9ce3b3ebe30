"""The fully parameterised quantile head: the network proposes the fractions of its quantiles too (FQF)."""

import jax
import jax.numpy as jnp

from jaxql import distributional
from jaxql.bellman.arguments import NOT_NEGATIVE, check_count, function
from jaxql.losses.batch import of_action
from jaxql.losses.heads.quantile import Measure, measured, target_quantiles
from jaxql.types import Array, Backup, FullQuantiles, Head, Scalar


def full_quantile(
    num_fractions: int = 32,
    *,
    kappa: Scalar = 1.0,
    entropy_coefficient: Scalar = 0.0,
    measure: Measure = distributional.mean,
) -> Head:
    """Returns the head of `FullQuantiles`; its loss is the quantile Huber loss plus the loss of the proposed fractions.

    The two do not meet: no gradient of the former reaches the fractions, none of the latter the quantiles. From the
    latter entropy_coefficient * H is taken, where H is the entropy of the fractions' distances: it keeps them apart.

    Args:
      num_fractions: K.
      kappa: threshold of the Huber loss, which is divided by it; 0 for absolute errors. It may be traced.
      entropy_coefficient: weight of the entropy, at least 0; it may be traced.
      measure: (quantiles [N, A, K], their probabilities) -> [N, A], what the greedy action maximises.

    Raises:
      ValueError: num_fractions is no whole number above 0, or kappa or entropy_coefficient is negative.

    Source: Yang et al. (2019), algorithm 1 and proposition 1, https://arxiv.org/abs/1911.02140; the entropy:
    `ent_coef` of the FQF of Tianshou, https://github.com/thu-ml/tianshou

    >>> output = FullQuantiles(jnp.array([[[1.0, 3.0]]]), jnp.array([[0.0, 0.75, 1.0]]), jnp.array([[[2.0]]]))
    >>> print(full_quantile(2).q_values(output))
    [[1.5]]
    """

    check_count("full_quantile: num_fractions", num_fractions)
    NOT_NEGATIVE("full_quantile: kappa", kappa)
    function("full_quantile: measure", measure)
    NOT_NEGATIVE("full_quantile: entropy_coefficient", entropy_coefficient)

    def target(output: FullQuantiles, backup: Backup, reward: Array, discount: Array) -> Array:
        return target_quantiles(output.values, backup, reward, discount)

    def loss(output: FullQuantiles, action: Array, target: Array) -> Array:
        values, at_edges = of_action(output.values, action), of_action(output.at_edges, action)
        taus = jax.lax.stop_gradient((output.edges[:, 1:] + output.edges[:, :-1]) / 2)
        proposed = distributional.fraction_loss(output.edges, at_edges, values)
        proposed = proposed - entropy_coefficient * distributional.fraction_entropy(output.edges)
        return distributional.quantile_huber(values, taus, target, kappa=kappa) + proposed

    def mean(output: FullQuantiles) -> Array:
        return distributional.mean(output.values, probabilities(output))

    return Head(
        outputs=None,
        q_values=lambda output: measured(measure, output.values, probabilities(output)),
        target=target,
        loss=loss,
        mean=mean,
        fractions=num_fractions,
        proposes=True,
    )


def probabilities(output: FullQuantiles) -> Array:
    """Returns the probability [N, A, K] that each value stands for: the distance between its edges.

    >>> output = FullQuantiles(jnp.array([[[1.0, 3.0]]]), jnp.array([[0.0, 0.75, 1.0]]), jnp.array([[[2.0]]]))
    >>> print(probabilities(output))
    [[[0.75 0.25]]]
    """
    return jnp.broadcast_to(jnp.diff(output.edges, axis=-1)[:, None, :], output.values.shape)
