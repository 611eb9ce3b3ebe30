"""The implicit quantile head: an output holds quantiles and the drawn fractions at which they were evaluated (IQN)."""

from jaxql import distributional
from jaxql.bellman.arguments import NOT_NEGATIVE, check_count, function
from jaxql.distributional import Quantiles
from jaxql.losses.batch import of_action
from jaxql.losses.heads.quantile import Measure, measured, target_quantiles
from jaxql.types import Array, Backup, Head, Scalar


def implicit_quantile(num_fractions: int = 32, *, kappa: Scalar = 1.0, measure: Measure = distributional.mean) -> Head:
    """Returns the head of (quantiles [N, A, K], fractions [N, K]); its loss is the quantile Huber loss.

    With a key the network is asked thrice: at obs, for the target, and to choose the next action.

    Args:
      num_fractions: K.
      kappa: threshold of the Huber loss, which is divided by it; 0 for absolute errors. It may be traced.
      measure: (quantiles [N, A, K], None) -> [N, A], what the greedy action maximises.

    Raises:
      ValueError: num_fractions is no whole number above 0, or kappa is negative.

    Source: Dabney et al. (2018), equation 3, https://arxiv.org/abs/1806.06923

    >>> import jax.numpy as jnp
    >>> output = jnp.array([[[1.0, 3.0]]]), jnp.array([[0.25, 0.75]])
    >>> print(implicit_quantile(2).q_values(output))
    [[2.]]
    """

    check_count("implicit_quantile: num_fractions", num_fractions)
    NOT_NEGATIVE("implicit_quantile: kappa", kappa)
    function("implicit_quantile: measure", measure)

    def target(output: tuple[Array, Array], backup: Backup, reward: Array, discount: Array) -> Array:
        return target_quantiles(output[0], backup, reward, discount)

    def loss(output: tuple[Array, Array], action: Array, target: Array) -> Array:
        quantiles = Quantiles(*output)
        return distributional.quantile_huber(of_action(quantiles.values, action), quantiles.taus, target, kappa=kappa)

    return Head(
        outputs=None,
        q_values=lambda output: measured(measure, output[0]),
        target=target,
        loss=loss,
        mean=lambda output: distributional.mean(output[0]),
        fractions=num_fractions,
    )
