"""The scalar head: an output is the expected return itself (DQN)."""

from collections.abc import Callable

import optax

from jaxql.bellman.arguments import function
from jaxql.losses.backups import expected_target
from jaxql.losses.batch import of_action
from jaxql.types import Array, Head


def scalar(penalty: Callable[[Array], Array] = optax.huber_loss) -> Head:
    """Returns the head of action values [N, A]; its loss is penalty(target - Q(obs, action)).

    Args:
      penalty: of one TD error: `optax.huber_loss`, or `optax.l2_loss` for 0.5 * error**2.

    Source: Mnih et al. (2015), algorithm 1, https://doi.org/10.1038/nature14236

    >>> import jax.numpy as jnp
    >>> print(scalar().loss(jnp.array([[1.0, 0.0]]), jnp.array([0]), jnp.array([1.5])))
    [0.125]
    """

    function("scalar: penalty", penalty)

    def loss(q: Array, action: Array, target: Array) -> Array:
        return penalty(target - of_action(q, action))

    return Head(outputs=None, q_values=lambda q: q, target=expected_target, loss=loss)
