"""The categorical head: an output holds the logits of fixed returns, the atoms (C51)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxql import distributional
from jaxql.bellman.arguments import ASCENDING, REAL, Rule, check_count, function
from jaxql.losses.backups import with_bonus
from jaxql.losses.batch import of_action
from jaxql.types import Array, Backup, Head


def categorical(
    v_min: float = -10.0,
    v_max: float = 10.0,
    num_atoms: int = 51,
    *,
    atoms: Array | None = None,
    measure: Callable[[Array, Array], Array] | None = None,
) -> Head:
    """Returns the head of logits [N, A, M] of M returns; its loss is the cross-entropy to the projected target.

    The target is the mixture over next actions of reward + bonus + discount * (Z' + shift), projected onto the atoms.
    Its priorities are the divergences KL(target || Z(obs, action)), as in Rainbow.

    Args:
      v_min, v_max: the least and the greatest of evenly spaced atoms.
      num_atoms: M.
      atoms: [M] in ascending order, in place of evenly spaced ones.
      measure: (atoms [M], probabilities [N, A, M]) -> [N, A], what the greedy action maximises; see
        `jaxql.distributional.risk`. None: the mean.

    Raises:
      ValueError: v_min is not below v_max, num_atoms is no whole number above 0, or the atoms are out of order.

    Source: Bellemare, Dabney & Munos (2017), equation 7 and algorithm 1, https://arxiv.org/abs/1707.06887; priorities:
    Hessel et al. (2018), section "The Integrated Agent", https://arxiv.org/abs/1710.02298

    >>> print(categorical(-1.0, 1.0, 3).q_values(jnp.array([[[0.0, 0.0, 0.0], [-9e9, -9e9, 0.0]]])))
    [[0. 1.]]
    """
    support = support_of("categorical", v_min, v_max, num_atoms, atoms)
    if measure is not None:
        function("categorical: measure", measure)

    def mean(logits: Array) -> Array:
        return distributional.categorical_mean(logits, support)

    def measured(logits: Array) -> Array:
        illegal = jnp.all(logits == -jnp.inf, axis=-1)
        return jnp.where(
            illegal, -jnp.inf, (measure or distributional.mean)(support, distributional.probabilities(logits))
        )

    def target(logits_next: Array, backup: Backup, reward: Array, discount: Array) -> Array:
        probs = backup.policy[..., None] * distributional.probabilities(logits_next)  # [N, A, M]
        values = jnp.asarray(support)[None]  # [1, M]
        if backup.shift is None:  # all actions share their values
            probs = jnp.sum(probs, axis=1)
        else:
            shift = jnp.where(backup.policy == 0, 0, backup.shift)
            values = (values[None] + shift[..., None]).reshape(len(shift), -1)  # [N, A M]
            probs = probs.reshape(values.shape)
        returns = with_bonus(reward, backup)[:, None] + discount[:, None] * values
        return distributional.categorical_l2_project(returns, probs, support)

    def loss(logits: Array, action: Array, target: Array) -> Array:
        return distributional.cross_entropy(of_action(logits, action), target)

    def divergence(logits: Array, action: Array, target: Array) -> Array:
        return loss(logits, action, target) - jnp.sum(jax.scipy.special.entr(target), axis=-1)

    return Head(
        outputs=len(support),
        q_values=mean if measure is None else measured,
        target=target,
        loss=loss,
        mean=mean,
        priority=divergence,
    )


def support_of(
    head: str, v_min: float, v_max: float, number: int, given: Any = None, rule: Rule = ASCENDING, of: str = "num_atoms"
) -> Any:
    """Returns the support of a head: the one given, or numbers [number] from `v_min` to `v_max`, evenly spaced.

    They lie on the host: a head allocates nothing on a device. Where v_min is -v_max they are exactly symmetric.

    Args:
      head: its name, for messages.
      v_min, v_max, number: of evenly spaced numbers.
      given: [number] in their place, or None.
      rule: the order that they must have.
      of: the argument that the number comes from, for messages.

    Raises:
      ValueError: v_min is not below v_max, the number is no whole number above 0, or the order is wrong.

    >>> print(support_of("categorical", 0.0, 1.0, 3))
    [0.  0.5 1. ]
    """
    if given is not None:
        if np.ndim(given) != 1 or not len(given):
            raise ValueError(f"{head}: the support has shape {np.shape(given)}; it needs one axis that is not empty")
        rule(f"{head}: the support", given)
        return given
    REAL(f"{head}: v_min", v_min)
    REAL(f"{head}: v_max", v_max)
    check_count(f"{head}: {of}", number)
    if not v_min < v_max:
        raise ValueError(f"{head}: v_min is {v_min} and v_max {v_max}; v_min must be less")
    grid = np.linspace(v_min, v_max, number)
    return ((grid - grid[::-1]) / 2 if v_min == -v_max and number > 1 else grid).astype(jnp.result_type(float))
