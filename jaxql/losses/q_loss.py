"""The one loss of every variant of deep Q-learning: any backup with any head."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxql.bellman.arguments import function
from jaxql.bellman.core import legal_discount
from jaxql.losses.backups import ActionValues, expected_target, greedy
from jaxql.losses.batch import checked_rows, legal, of_action, weighted_mean, where_rows
from jaxql.losses.heads.scalar import scalar
from jaxql.types import Array, Backup, BackupRule, Head, Transition

# The draws of noise or fractions of a loss. One that chooses the next action does not evaluate it; see `q_loss`.
NOW, TARGET, CHOICE, TARGET_NOW = range(4)


class LossInfo(NamedTuple):
    """The report of a loss on each row."""

    td_errors: Array  # [N] the target's expected value, before any projection, - Q(obs, action); 0 in rows of weight 0
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
    from the backup. No gradient flows into it. Outputs in half precision are computed with in float32.

    Args:
      params: the online network's parameters, with respect to which the loss is differentiated.
      target_params: the target network's.
      transitions: N rows; see `Transition`. n-step returns and endings are in its reward and discount. Rows of weight 0
        do not count, whatever they hold; where the discount is 0, neither does next_obs. A next state in which no
        action is legal counts as an end: there is nothing to bootstrap from. Under `bellman.checked` it raises.
      apply: (params, obs) -> (output, memory), as in `Network`; illegal actions may have outputs -inf.
      backup: the target rule; see `jaxql.losses.backups`.
      head: what the output means; see `jaxql.losses.heads`. None: `scalar()`.
      second_target_params: of a second critic, for `clipped_double`.
      mask: [N, A] the legal actions of next_obs; None: next_obs["action_mask"] where there is one.
      key: passed on, as `apply(params, obs, key=...)`, to networks that draw fractions or noise. The online network
        draws for obs and, where it chooses, for next_obs; the target network for its target and, where it draws
        fractions, once more to choose. A second critic draws what the first draws, so that equals stay equal.

    Returns:
      The loss, and its `LossInfo`.

    Raises:
      ValueError: the rows of an argument or of the network's output are not N, the mask or the values of the head are
        not [N, A], the backup's answer has other shapes, or it reads a value that is not there.

    Source: Mnih et al. (2015), algorithm 1, https://doi.org/10.1038/nature14236; for distributions, Bellemare, Dabney &
    Munos (2017), algorithm 1, https://arxiv.org/abs/1707.06887

    >>> table = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([1]), reward=jnp.array([1.0]),
    ...                   discount=jnp.array([0.5]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> loss, info = q_loss(table, table, rows, lambda params, obs: (params[obs], ()))
    >>> print(loss, info.td_errors)
    1.0 [1.5]
    """
    function("q_loss: apply", apply)
    function("q_loss: backup", backup)
    head, rows = head or scalar(), checked_rows(transitions)
    counts = rows.weight != 0
    frozen, frozen_target, frozen_second = jax.lax.stop_gradient((params, target_params, second_target_params))

    def ask(params, obs, draw: int):
        output = apply(params, obs)[0] if key is None else apply(params, obs, key=jax.random.fold_in(key, draw))[0]
        return jax.tree.map(lambda x: _rows_of(x, len(counts)), output)

    def now_values(output):
        return legal(head.q_values(output), rows.obs)

    def next_values(output):
        return legal(head.q_values(output), rows.next_obs, mask)

    output, output_next = ask(params, rows.obs, NOW), ask(frozen_target, rows.next_obs, TARGET)
    redraws = key is not None and head.fractions > 0 and not head.proposes
    judged = CHOICE if redraws else TARGET
    values = ActionValues(
        rows.action,
        target_now=lambda: now_values(ask(frozen_target, rows.obs, TARGET_NOW)),
        target_next=lambda: next_values(ask(frozen_target, rows.next_obs, judged) if redraws else output_next),
        online_next=lambda: next_values(ask(frozen, rows.next_obs, CHOICE)),
        **(
            {}
            if second_target_params is None
            else {"second_next": lambda: next_values(ask(frozen_second, rows.next_obs, judged))}
        ),
    )
    mean = head.mean or head.q_values
    discount = legal_discount(rows.discount, _of_actions(next_values(output_next)))
    goes_on = discount != 0
    output, output_next = where_rows(counts, output), where_rows(goes_on, output_next)
    mean_next = _of_actions(mean(output_next))
    answer = _settled(backup(values), mean_next.shape, goes_on, counts)
    target, expected = jax.lax.stop_gradient(
        (
            head.target(output_next, answer, rows.reward, discount),
            expected_target(mean_next, answer, rows.reward, discount),
        )
    )
    target, seen = where_rows(counts, target), jax.lax.stop_gradient(output)
    q_values = of_action(mean(seen), rows.action)
    td_errors = where_rows(counts, expected - q_values)
    priorities = td_errors if head.priority is None else head.priority(seen, rows.action, target)
    loss = weighted_mean(head.loss(output, rows.action, target), rows.weight)
    return loss, LossInfo(td_errors, q_values, priorities)


def _rows_of(x: Array, rows: int) -> Array:
    """Returns an output, float32 if it is less, that has these rows."""
    if jnp.shape(x)[:1] != (rows,):
        raise ValueError(f"the network's output has shape {jnp.shape(x)}; it needs {rows} rows, as action")
    return jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))


def _of_actions(values: Array) -> Array:
    """Returns a head's values, which are [N, A]."""
    if values.ndim != 2:
        raise ValueError(f"the head's values have shape {values.shape}; they need [N, A]")
    return values


def _settled(answer: Backup, shape: tuple[int, ...], goes_on: Array, counts: Array) -> Backup:
    """Returns the answer to values of this shape, a constant, finite where the next state or the row does not count."""
    for name, needed in (("policy", shape), ("shift", shape), ("bonus", shape[:1])):
        x = getattr(answer, name)
        if x is not None and jnp.shape(x) != needed:
            raise ValueError(f"the backup's {name} has shape {jnp.shape(x)}; it needs {needed}")
    answer = jax.lax.stop_gradient(answer)
    first = jnp.arange(shape[1])[None] == 0
    policy = jnp.where(goes_on[:, None], answer.policy, first.astype(answer.policy.dtype))
    return Backup(policy, where_rows(goes_on, answer.shift), where_rows(counts, answer.bonus))
