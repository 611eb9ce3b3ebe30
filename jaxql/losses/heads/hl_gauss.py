"""The HL-Gauss head: an output holds the logits of bins, learned towards a Gaussian around a scalar target."""

from typing import Any

from jaxql import distributional
from jaxql.losses.backups import expected_target
from jaxql.losses.batch import of_action
from jaxql.losses.heads.categorical import evenly_spaced
from jaxql.types import Array, Backup, Head


def hl_gauss(
    v_min: float = -10.0,
    v_max: float = 10.0,
    num_bins: int = 51,
    *,
    edges: Array | None = None,
    sigma: float | None = None,
) -> Head:
    """Returns the head of logits [N, A, M] of bins; its loss is the cross-entropy to hl_gauss(target).

    Args:
      v_min, v_max: the ends of evenly wide bins.
      num_bins: M.
      edges: [M + 1] of the bins, in ascending order, in place of evenly wide ones.
      sigma: standard deviation of the Gaussian; None: 0.75 of the mean width of a bin.

    Source: Farebrother et al. (2024), equations 3.1 and 3.3, https://arxiv.org/abs/2403.03950

    >>> import jax.numpy as jnp
    >>> print(hl_gauss(-1.0, 1.0, 2).q_values(jnp.zeros((1, 1, 2))))
    [[0.]]
    """
    support: Any = evenly_spaced(v_min, v_max, num_bins + 1) if edges is None else edges

    def mean(logits: Array) -> Array:
        return distributional.categorical_mean(logits, distributional.centers(support))

    def target(logits_next: Array, backup: Backup, reward: Array, discount: Array) -> Array:
        scalar = expected_target(mean(logits_next), backup, reward, discount)
        return distributional.hl_gauss(scalar, support, sigma)

    return Head(outputs=len(support) - 1, q_values=mean, target=target, loss=classification_loss)


def classification_loss(logits: Array, action: Array, target: Array) -> Array:
    """Returns the cross-entropy [N] of the logits [N, A, M] of the actions taken [N] to the target [N, M].

    Source: Farebrother et al. (2024), equation 3.1, https://arxiv.org/abs/2403.03950

    >>> import jax.numpy as jnp
    >>> print(classification_loss(jnp.zeros((1, 1, 2)), jnp.array([0]), jnp.array([[0.5, 0.5]])))
    [0.6931472]
    """
    return distributional.cross_entropy(of_action(logits, action), target)
