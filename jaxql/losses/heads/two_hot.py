"""The two-hot head: an output holds the logits of atoms, learned towards the two around a scalar target."""

from jaxql import distributional
from jaxql.losses.backups import expected_target
from jaxql.losses.heads.categorical import support_of
from jaxql.losses.heads.hl_gauss import classification_loss
from jaxql.types import Array, Backup, Head


def two_hot(v_min: float = -10.0, v_max: float = 10.0, num_atoms: int = 51, *, atoms: Array | None = None) -> Head:
    """Returns the head of logits [N, A, M] of atoms; its loss is the cross-entropy to two_hot(target).

    Args:
      v_min, v_max: the least and the greatest of evenly spaced atoms.
      num_atoms: M.
      atoms: [M] in ascending order, in place of evenly spaced ones.

    Raises:
      ValueError: as `categorical`.

    Source: Farebrother et al. (2024), equations 3.1 and 3.2, https://arxiv.org/abs/2403.03950

    >>> import jax.numpy as jnp
    >>> print(two_hot(-1.0, 1.0, 2).q_values(jnp.zeros((1, 1, 2))))
    [[0.]]
    """
    support = support_of("two_hot", v_min, v_max, num_atoms, atoms)

    def mean(logits: Array) -> Array:
        return distributional.categorical_mean(logits, support)

    def target(logits_next: Array, backup: Backup, reward: Array, discount: Array) -> Array:
        return distributional.two_hot(expected_target(mean(logits_next), backup, reward, discount), support)

    return Head(outputs=len(support), q_values=mean, target=target, loss=classification_loss)
