"""The one loss of every variant of deep Q-learning: any backup with any head."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxql.losses.backups import ActionValues, expected_target, greedy
from jaxql.losses.batch import checked_rows, legal, of_action, weighted_mean, where_rows
from jaxql.losses.heads.scalar import scalar
from jaxql.types import Array, Backup, BackupRule, Head, Transition


class LossInfo(NamedTuple):
    """What a loss reports of each row."""

    td_errors: Array  # [N] the target's expected value - Q(obs, action); 0 in rows of weight 0
    q_values: Array  # [N] Q(obs, action)
    priorities: Array  # [N] errors for a prioritised replay


def q_loss(
    params: Any,
    target_params: Any,
    transitions: Transition,
    apply: Callable,
    *,
    backup: BackupRule = greedy,
    head: Head | None = None,
    second_target_params: Any = None,
    mask: Array | None = None,
    key: Array | None = None,
) -> tuple[Array, LossInfo]:
    """The Q-learning loss of a batch: weighted mean of head.loss(Z(obs, action), target).

    The target is reward + bonus + discount * sum_b policy(b) (Z'(next_obs, b) + shift(b)), with policy, shift and bonus
    from the backup. No gradient flows into it.

    Args:
      params: the online network's parameters, with respect to which the loss is differentiated.
      target_params: the target network's.
      transitions: N rows; see `Transition`. n-step returns and endings are in its reward and discount. Rows of weight 0
        do not count, whatever they hold; where the discount is 0, neither does next_obs.
      apply: (params, obs) -> (output, memory), as in `Network`; illegal actions may have outputs -inf.
      backup: the target rule; see `jaxql.losses.backups`.
      head: what the output means; see `jaxql.losses.heads`. None: `scalar()`.
      second_target_params: of a second critic, for `clipped_double`.
      mask: [N, A] the legal actions of next_obs; None: next_obs["action_mask"] where there is one.
      key: passed on, as `apply(params, obs, key=...)`, to networks that draw fractions or noise: another key each time.

    Returns:
      The loss, and its `LossInfo`.

    Raises:
      ValueError: the rows of an argument are not N, the mask is not [N, A], or the backup reads a value that is not
        there.

    Source: Mnih et al. (2015), algorithm 1, https://doi.org/10.1038/nature14236; for distributions, Bellemare, Dabney &
    Munos (2017), algorithm 1, https://arxiv.org/abs/1707.06887

    >>> table = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([1]), reward=jnp.array([1.0]),
    ...                   discount=jnp.array([0.5]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> loss, info = q_loss(table, table, rows, lambda params, obs: (params[obs], ()))
    >>> print(loss, info.td_errors)
    1.0 [1.5]
    """
    head, rows = head or scalar(), checked_rows(transitions)
    counts = rows.weight != 0
    frozen, frozen_target, frozen_second = jax.lax.stop_gradient((params, target_params, second_target_params))

    def ask(params, obs, draw: int):
        if key is None:
            return apply(params, obs)[0]
        return apply(params, obs, key=jax.random.fold_in(key, draw))[0]

    def next_values(params):
        return legal(head.q_values(ask(params, rows.next_obs, 2)), rows.next_obs, mask)

    output, output_next = ask(params, rows.obs, 0), ask(frozen_target, rows.next_obs, 1)
    redraws = key is not None and head.fractions > 0 and not head.proposes
    values = ActionValues(
        rows.action,
        target_now=lambda: legal(head.q_values(ask(frozen_target, rows.obs, 3)), rows.obs),
        target_next=lambda: (
            next_values(frozen_target) if redraws else legal(head.q_values(output_next), rows.next_obs, mask)
        ),
        online_next=lambda: next_values(frozen),
        **({} if second_target_params is None else {"second_next": lambda: next_values(frozen_second)}),
    )
    goes_on = rows.discount != 0
    answer = _settled(backup(values), goes_on, counts)
    output, output_next = where_rows(counts, output), where_rows(goes_on, output_next)
    target = where_rows(counts, head.target(output_next, answer, rows.reward, rows.discount))
    mean = head.mean or head.q_values
    seen = jax.lax.stop_gradient(output)
    q_values = of_action(mean(seen), rows.action)
    td_errors = expected_target(mean(output_next), answer, rows.reward, rows.discount) - q_values
    td_errors = where_rows(counts, td_errors)
    priorities = td_errors if head.priority is None else head.priority(seen, rows.action, target)
    loss = weighted_mean(head.loss(output, rows.action, target), rows.weight)
    return loss, LossInfo(td_errors, q_values, priorities)


def _settled(answer: Backup, goes_on: Array, counts: Array) -> Backup:
    """Returns the answer as a constant, finite where the next state or the row does not count."""
    answer = jax.lax.stop_gradient(answer)
    anything = jnp.zeros_like(answer.policy).at[:, 0].set(1)
    policy = jnp.where(goes_on[:, None], answer.policy, anything)
    return Backup(policy, where_rows(goes_on, answer.shift), where_rows(counts, answer.bonus))
