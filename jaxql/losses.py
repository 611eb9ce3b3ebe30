"""Whole-batch losses: pure functions of parameters, target parameters and transitions."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from jaxql import bellman
from jaxql.types import Array, Transition


def weighted_mean(x, weight) -> Array:
    """sum(w x) / sum(w) over [N]: rows of weight 0 leave the learning rate alone; 0 if there are no others.

    >>> print(weighted_mean(jnp.array([1.0, 3.0, 99.0]), jnp.array([1.0, 1.0, 0.0])))
    2.0
    """
    return jnp.sum(weight * x) / jnp.maximum(jnp.sum(weight), jnp.finfo(x.dtype).tiny)


def dqn_loss(
    params: Any,
    target_params: Any,
    transitions: Transition,
    apply: Callable,
    *,
    double: bool = False,
    penalty: Callable = optax.huber_loss,
) -> tuple[Array, tuple[Array, Array]]:
    """The DQN loss of a batch: weighted mean of penalty(reward + discount * max_a Q'(next_obs, a) - Q(obs, action)).

    Args:
      params: the online network's parameters, with respect to which the loss is differentiated.
      target_params: the target network's, Q'; no gradient flows into them.
      transitions: N rows; see `Transition`. n-step returns and endings are in its reward and discount.
      apply: (params, obs) -> (q [N, A], memory), as in `Network`; illegal actions of next_obs have -inf.
      double: the online network chooses the next action, the target network evaluates it.
      penalty: of one TD error: `optax.huber_loss`, or `optax.l2_loss` for 0.5 * error**2.

    Returns:
      The loss, and (td_errors [N], q_values [N]): target - Q(obs, action), and Q(obs, action).

    Source: Mnih et al. (2015), https://doi.org/10.1038/nature14236; double: https://arxiv.org/abs/1509.06461

    >>> table = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([1]), reward=jnp.array([1.0]),
    ...                   discount=jnp.array([0.5]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> loss, (td_errors, q_values) = dqn_loss(table, table, rows, lambda params, obs: (params[obs], ()))
    >>> print(loss, td_errors)
    1.0 [1.5]
    """
    q_tm1 = apply(params, transitions.obs)[0]
    q_t = apply(target_params, transitions.next_obs)[0]
    selector = apply(params, transitions.next_obs)[0] if double else q_t
    td_errors = bellman.double_q_learning(
        q_tm1, transitions.action, transitions.reward, transitions.discount, q_t, selector
    )
    q_values = jnp.take_along_axis(q_tm1, transitions.action[:, None], axis=-1)[:, 0]
    return weighted_mean(penalty(td_errors), transitions.weight), (td_errors, q_values)
