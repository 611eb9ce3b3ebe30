"""The HL-Gauss head: an output holds the logits of bins, learned towards a Gaussian around a scalar target."""

from jaxql import distributional
from jaxql.bellman.arguments import EDGES, POSITIVE, check_count
from jaxql.losses.backups import expected_target
from jaxql.losses.batch import of_action
from jaxql.losses.heads.categorical import support_of
from jaxql.types import Array, Backup, Head, Scalar


def hl_gauss(
    v_min: float = -10.0,
    v_max: float = 10.0,
    num_bins: int = 51,
    *,
    edges: Array | None = None,
    sigma: Scalar | None = None,
) -> Head:
    """Returns the head of logits [N, A, M] of bins; its loss is the cross-entropy to hl_gauss(target).

    Args:
      v_min, v_max: the ends of evenly wide bins.
      num_bins: M.
      edges: [M + 1] of the bins, in strictly ascending order, in place of evenly wide ones.
      sigma: standard deviation of the Gaussian, above 0; None: 0.75 of the mean width of a bin.

    Raises:
      ValueError: as `categorical`, or sigma is not above 0.

    Source: Farebrother et al. (2024), equations 3.1 and 3.3, https://arxiv.org/abs/2403.03950

    >>> import jax.numpy as jnp
    >>> print(hl_gauss(-1.0, 1.0, 2).q_values(jnp.zeros((1, 1, 2))))
    [[0.]]
    """
    if edges is None:
        check_count("hl_gauss: num_bins", num_bins)
    support = support_of("hl_gauss", v_min, v_max, num_bins + 1, edges, EDGES)
    if sigma is not None:
        POSITIVE("hl_gauss: sigma", sigma)

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
