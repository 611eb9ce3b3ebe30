"""The fully parameterised quantile head: the network proposes the fractions of its quantiles too (FQF)."""

import jax
import jax.numpy as jnp

from jaxql import distributional
from jaxql.losses.batch import of_action
from jaxql.losses.heads.quantile import Measure, measured, target_quantiles
from jaxql.types import Array, Backup, FullQuantiles, Head


def full_quantile(num_fractions: int = 32, *, kappa: float = 1.0, measure: Measure = distributional.mean) -> Head:
    """Returns the head of `FullQuantiles`; its loss is the quantile Huber loss plus the loss of the proposed fractions.

    The two do not meet: no gradient of the former reaches the fractions, none of the latter the quantiles.

    Args:
      num_fractions: K.
      kappa: threshold of the Huber loss, which is divided by it; 0 for absolute errors. It may be traced.
      measure: (quantiles [N, A, K], their probabilities) -> [N, A], what the greedy action maximises.

    Source: Yang et al. (2019), algorithm 1 and proposition 1, https://arxiv.org/abs/1911.02140

    >>> output = FullQuantiles(jnp.array([[[1.0, 3.0]]]), jnp.array([[0.0, 0.75, 1.0]]), jnp.array([[[2.0]]]))
    >>> print(full_quantile(2).q_values(output))
    [[1.5]]
    """

    def target(output: FullQuantiles, backup: Backup, reward: Array, discount: Array) -> Array:
        return target_quantiles(output.values, backup, reward, discount)

    def loss(output: FullQuantiles, action: Array, target: Array) -> Array:
        values, at_edges = of_action(output.values, action), of_action(output.at_edges, action)
        taus = jax.lax.stop_gradient((output.edges[:, 1:] + output.edges[:, :-1]) / 2)
        proposed = distributional.fraction_loss(output.edges, at_edges, values)
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
