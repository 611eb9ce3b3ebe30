"""The losses that have a name: short pairs of a backup and a head for `q_loss`.

All share its form, `loss(params, target_params, transitions, apply, ...)` -> (loss, LossInfo), and its arguments; see
`jaxql.losses.q_loss`. `**options` are its `backup`, `mask`, `key` and `second_target_params`.
"""

from collections.abc import Callable
from typing import Any

import optax

from jaxql import distributional
from jaxql.losses import backups, heads
from jaxql.losses.q_loss import LossInfo, q_loss
from jaxql.types import Array, Scalar, Transition

Result = tuple[Array, LossInfo]


def dqn_loss(
    params: Any,
    target_params: Any,
    transitions: Transition,
    apply: Callable,
    *,
    penalty: Callable[[Array], Array] = optax.huber_loss,
    **options: Any,
) -> Result:
    """The DQN loss: weighted mean of penalty(reward + discount * max_a Q'(next_obs, a) - Q(obs, action)).

    Args, as `q_loss`, and:
      apply: its output is q [N, A].
      penalty: of one TD error.

    Source: Mnih et al. (2013), equation 2, https://arxiv.org/abs/1312.5602, with the target network of Mnih et al.
    (2015), algorithm 1, https://doi.org/10.1038/nature14236

    >>> import jax.numpy as jnp
    >>> table = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([1]), reward=jnp.array([1.0]),
    ...                   discount=jnp.array([0.5]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> loss, info = dqn_loss(table, table, rows, lambda params, obs: (params[obs], ()))
    >>> print(loss, info.td_errors)
    1.0 [1.5]
    """
    return q_loss(params, target_params, transitions, apply, head=heads.scalar(penalty), **options)


def double_dqn_loss(
    params: Any, target_params: Any, transitions: Transition, apply: Callable, **options: Any
) -> Result:
    """The double DQN loss: `dqn_loss` with the `double` backup.

    Source: van Hasselt, Guez & Silver (2016), equation 4, https://arxiv.org/abs/1509.06461

    >>> import jax.numpy as jnp
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([0]), reward=jnp.array([1.0]),
    ...                   discount=jnp.array([0.5]), next_obs=jnp.array([0]), weight=jnp.ones(1))
    >>> online, target = jnp.array([[0.0, 1.0]]), jnp.array([[4.0, 2.0]])
    >>> print(double_dqn_loss(online, target, rows, lambda params, obs: (params[obs], ()))[1].td_errors)
    [2.]
    """
    return dqn_loss(params, target_params, transitions, apply, backup=backups.double, **options)


def munchausen_loss(
    params: Any,
    target_params: Any,
    transitions: Transition,
    apply: Callable,
    *,
    temperature: Scalar = 0.03,
    alpha: Scalar = 0.9,
    floor: Scalar = -1.0,
    **options: Any,
) -> Result:
    """The Munchausen DQN loss: `dqn_loss` with the `munchausen` backup.

    Args, as `dqn_loss`, and:
      temperature, alpha, floor: as in `jaxql.losses.backups.munchausen`; they may be traced.

    Source: Vieillard, Pietquin & Geist (2020), equation 2, https://arxiv.org/abs/2007.14430

    >>> import jax.numpy as jnp
    >>> table = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([0]), reward=jnp.array([1.0]),
    ...                   discount=jnp.array([0.5]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> loss, info = munchausen_loss(table, table, rows, lambda params, obs: (params[obs], ()))
    >>> print(f"{info.td_errors[0]:.4f}")  # 1 - 0.9 + 0.5 * 3
    1.6000
    """
    rule = backups.munchausen(temperature, alpha, floor)
    return dqn_loss(params, target_params, transitions, apply, backup=rule, **options)


def c51_loss(
    params: Any, target_params: Any, transitions: Transition, apply: Callable, *, atoms: Array, **options: Any
) -> Result:
    """The C51 loss: weighted mean of the cross-entropy of Z(obs, action) to the projected target.

    Args, as `q_loss`, and:
      apply: its output is logits [N, A, M].
      atoms: [M] in ascending order.

    Source: Bellemare, Dabney & Munos (2017), equation 7 and algorithm 1, https://arxiv.org/abs/1707.06887

    >>> import jax.numpy as jnp
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([0]), reward=jnp.array([0.5]),
    ...                   discount=jnp.array([0.0]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> look_up = lambda params, obs: (params[obs], ())
    >>> table, atoms = jnp.zeros((2, 1, 3)), jnp.array([-1.0, 0.0, 1.0])
    >>> loss, info = c51_loss(table, table, rows, look_up, atoms=atoms)
    >>> print(loss, info.td_errors)
    1.0986123 [0.5]
    """
    return q_loss(params, target_params, transitions, apply, head=heads.categorical(atoms=atoms), **options)


def quantile_loss(
    params: Any,
    target_params: Any,
    transitions: Transition,
    apply: Callable,
    *,
    kappa: Scalar = 1.0,
    measure: Callable[..., Array] = distributional.mean,
    **options: Any,
) -> Result:
    """The QR-DQN loss: weighted mean of the quantile Huber loss of Z(obs, action) to the target.

    Args, as `q_loss`, and:
      apply: its output is quantiles [N, A, M] at the midpoints of M equal parts.
      kappa, measure: as in `jaxql.losses.heads.quantile`.

    Source: Dabney et al. (2018), algorithm 1, https://arxiv.org/abs/1710.10044

    >>> import jax.numpy as jnp
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([0]), reward=jnp.array([0.5]),
    ...                   discount=jnp.array([0.0]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> look_up = lambda params, obs: (params[obs], ())
    >>> table = jnp.zeros((2, 1, 2))
    >>> loss, info = quantile_loss(table, table, rows._replace(reward=jnp.array([2.5])), look_up)
    >>> print(loss, info.td_errors)
    2.0 [2.5]
    """
    head = heads.quantile(kappa=kappa, measure=measure)
    return q_loss(params, target_params, transitions, apply, head=head, **options)


def implicit_quantile_loss(
    params: Any,
    target_params: Any,
    transitions: Transition,
    apply: Callable,
    *,
    kappa: Scalar = 1.0,
    measure: Callable[..., Array] = distributional.mean,
    **options: Any,
) -> Result:
    """The IQN loss: weighted mean of the quantile Huber loss at drawn fractions.

    Args, as `q_loss`, and:
      apply: its output is (quantiles [N, A, K], fractions [N, K]).
      kappa, measure: as in `jaxql.losses.heads.implicit_quantile`.

    Source: Dabney et al. (2018), equation 3, https://arxiv.org/abs/1806.06923

    >>> import jax.numpy as jnp
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([0]), reward=jnp.array([0.5]),
    ...                   discount=jnp.array([0.0]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> table, drawn = jnp.zeros((2, 1, 1)), jnp.full((1, 1), 0.5)
    >>> print(implicit_quantile_loss(table, table, rows, lambda params, obs: ((params[obs], drawn), ()))[0])
    0.0625
    """
    head = heads.implicit_quantile(kappa=kappa, measure=measure)
    return q_loss(params, target_params, transitions, apply, head=head, **options)


def full_quantile_loss(
    params: Any,
    target_params: Any,
    transitions: Transition,
    apply: Callable,
    *,
    kappa: Scalar = 1.0,
    entropy_coefficient: Scalar = 0.0,
    measure: Callable[..., Array] = distributional.mean,
    **options: Any,
) -> Result:
    """The FQF loss: weighted mean of the quantile Huber loss and the loss of the proposed fractions.

    Args, as `q_loss`, and:
      apply: its output is `jaxql.losses.heads.FullQuantiles`.
      kappa, entropy_coefficient, measure: as in `jaxql.losses.heads.full_quantile`.

    Source: Yang et al. (2019), algorithm 1, https://arxiv.org/abs/1911.02140

    >>> import jax.numpy as jnp
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([0]), reward=jnp.array([0.5]),
    ...                   discount=jnp.array([0.0]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> edges, none = jnp.array([[0.0, 1.0]]), jnp.zeros((1, 1, 0))
    >>> said = lambda params, obs: (heads.FullQuantiles(params[obs], edges, none), ())
    >>> table = jnp.zeros((2, 1, 1))
    >>> print(full_quantile_loss(table, table, rows, said)[0])
    0.0625
    """
    head = heads.full_quantile(kappa=kappa, entropy_coefficient=entropy_coefficient, measure=measure)
    return q_loss(params, target_params, transitions, apply, head=head, **options)


def hl_gauss_loss(
    params: Any,
    target_params: Any,
    transitions: Transition,
    apply: Callable,
    *,
    edges: Array,
    sigma: Scalar | None = None,
    **options: Any,
) -> Result:
    """The HL-Gauss loss: weighted mean of the cross-entropy to hl_gauss(reward + discount * max_a Q').

    Args, as `q_loss`, and:
      apply: its output is logits [N, A, M] of bins; Q is their mean at the centers of the bins.
      edges: [M + 1] of the bins, in ascending order.
      sigma: standard deviation of the Gaussian; None: 0.75 of the mean width of a bin.

    Source: Farebrother et al. (2024), equations 3.1 and 3.3, https://arxiv.org/abs/2403.03950

    >>> import jax.numpy as jnp
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([0]), reward=jnp.array([0.5]),
    ...                   discount=jnp.array([0.0]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> look_up = lambda params, obs: (params[obs], ())
    >>> table = jnp.zeros((2, 1, 2))
    >>> loss, info = hl_gauss_loss(table, table, rows, look_up, edges=jnp.array([-1.0, 0.0, 1.0]))
    >>> print(loss, info.td_errors)
    0.6931472 [0.5]
    """
    head = heads.hl_gauss(edges=edges, sigma=sigma)
    return q_loss(params, target_params, transitions, apply, head=head, **options)


def two_hot_loss(
    params: Any, target_params: Any, transitions: Transition, apply: Callable, *, atoms: Array, **options: Any
) -> Result:
    """The two-hot loss: weighted mean of the cross-entropy to two_hot(reward + discount * max_a Q').

    Args, as `q_loss`, and:
      apply: its output is logits [N, A, M].
      atoms: [M] in ascending order.

    Source: Farebrother et al. (2024), equations 3.1 and 3.2, https://arxiv.org/abs/2403.03950

    >>> import jax.numpy as jnp
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([0]), reward=jnp.array([0.5]),
    ...                   discount=jnp.array([0.0]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> look_up = lambda params, obs: (params[obs], ())
    >>> table = jnp.zeros((2, 1, 2))
    >>> loss, info = two_hot_loss(table, table, rows, look_up, atoms=jnp.array([-1.0, 1.0]))
    >>> print(loss, info.td_errors)
    0.6931472 [0.5]
    """
    return q_loss(params, target_params, transitions, apply, head=heads.two_hot(atoms=atoms), **options)
