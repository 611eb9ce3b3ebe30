"""Losses of recurrent networks, from sequences of rows (R2D2).

The memory with which an episode starts is all zeros, and so it is again after a row that is not valid.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxql import bellman
from jaxql.bellman import SIGNED_HYPERBOLIC_PAIR
from jaxql.bellman.arguments import UNIT, check_count, function, pair
from jaxql.bellman.core import legal_discount
from jaxql.losses.batch import weighted_mean, where_counted, where_rows
from jaxql.losses.q_loss import LossInfo
from jaxql.replay.sequences import reset_memory
from jaxql.types import Array, Scalar, Sequence


def unroll(apply: Callable, params: Any, obs: Any, memory: Any, valid: Array) -> tuple[Any, Any]:
    """Returns (outputs [N, T, ...], memory [N, ...] afterwards) of a network that sees obs [N, T, ...] in turn.

    It has `memory` [N, ...] before the first, and starts anew after a row of `valid` [N, T] that is not.

    Source: Kapturowski et al. (2019), section 3, in the text, https://openreview.net/pdf?id=r1lyTjAqYX

    >>> count = lambda params, obs, memory: (memory, memory + 1)
    >>> print(unroll(count, (), jnp.zeros((1, 4)), jnp.zeros(1), jnp.array([[True, False, True, True]]))[0])
    [[0. 1. 0. 1.]]
    """

    function("unroll: apply", apply)
    return _unroll(apply, params, obs, memory, valid)


@functools.partial(jax.jit, static_argnums=0, inline=True)  # compiled once for each `apply`, outside of jit too
def _unroll(apply, params, obs, memory, valid):
    def step(memory, row):
        obs, valid = row
        output, memory = apply(params, obs, memory)
        return reset_memory(memory, valid), output

    def swapped(tree):
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)

    memory, outputs = jax.lax.scan(step, memory, swapped((obs, valid)))
    return swapped(outputs), memory


def r2d2_loss(
    params: Any,
    target_params: Any,
    sequences: Sequence,
    apply: Callable,
    *,
    burn_in: int = 0,
    penalty: Callable[[Array], Array] = optax.l2_loss,
    tx_pair: bellman.TxPair = SIGNED_HYPERBOLIC_PAIR,
) -> tuple[Array, LossInfo]:
    """Returns the R2D2 loss: the mean of penalty(h(R_t + discount_t * h^-1(Q'(s_{t+m}, a*))) - Q(s_t, a_t)) over rows.

    a* = argmax_a Q(s_{t+m}, a), R_t is the reward of the m <= n steps, h rescales values. Both networks start from the
    stored memory and see `burn_in` observations, which are neither learned from nor differentiated.

    Args:
      params, target_params: the online and the target network's.
      sequences: N of them, of L rows. Those of weight 0 do not count, whatever they hold, nor do rows that are not
        valid, whose observations are finite.
      apply: (params, obs, memory) -> (q [N, A], memory), as in `Network`; illegal actions may be -inf.
      burn_in: rows before those that are learned from, less than L.
      penalty: of one TD error.
      tx_pair: h and its inverse.

    A next state in which no action is legal counts as an end.

    Returns:
      The loss, and its LossInfo, of [N, L - burn_in]: errors on the scale of h, 0 where a row does not
      count, and the values of the actions taken on the true scale.

    Source: Kapturowski et al. (2019), sections 2.3 and 3, in the text, https://openreview.net/pdf?id=r1lyTjAqYX

    >>> look_up = lambda params, obs, memory: (params[obs], memory)
    >>> rows = Sequence(obs=jnp.array([[0, 1]]), action=jnp.array([[0]]), reward=jnp.array([[3.0]]),
    ...                 discount=jnp.zeros((1, 1)), bootstrap_index=jnp.array([[1]]), valid=jnp.ones((1, 1), bool),
    ...                 memory=jnp.zeros(1), weight=jnp.ones(1))
    >>> table = jnp.zeros((2, 2))
    >>> loss, info = r2d2_loss(table, table, rows, look_up)
    >>> print(f"{loss:.4f} {info.td_errors[0, 0]:.4f}")  # h(3) = sqrt(4) - 1 + 0.003
    0.5030 1.0030
    """
    check_count("r2d2_loss: burn_in", burn_in, 0)
    if burn_in >= sequences.action.shape[1]:
        raise ValueError(f"r2d2_loss: burn_in is {burn_in}; it must be less than the {sequences.action.shape[1]} rows")
    pair("r2d2_loss: tx_pair", tx_pair)
    counts = sequences.weight != 0
    sequences = sequences._replace(
        obs=where_counted(counts, sequences.obs), memory=where_rows(counts, sequences.memory)
    )
    nothing: Any = ()
    rows = sequences._replace(memory=nothing, weight=nothing, index=nothing)
    early, late = (
        jax.tree.map(lambda x, part=part: x[:, part], rows) for part in (slice(0, burn_in), slice(burn_in, None))
    )

    def values(params):
        _, memory = unroll(apply, params, early.obs, sequences.memory, early.valid)
        valid = jnp.pad(late.valid, ((0, 0), (0, 1)))
        return unroll(apply, params, late.obs, jax.lax.stop_gradient(memory), valid)[0]

    def following(q):
        return jnp.take_along_axis(q, late.bootstrap_index[..., None] - burn_in, axis=1)

    q, target_next = values(params), following(values(target_params))
    weight = jnp.where(late.valid, sequences.weight[:, None], 0)
    discount = legal_discount(jnp.where(weight > 0, late.discount, 0), target_next)
    td_errors = bellman.transformed_n_step_q_learning(
        q[:, :-1],
        late.action,
        target_next,
        jnp.argmax(following(q), axis=-1),
        late.reward,
        discount,
        n=1,  # the windows hold n steps already
        tx_pair=tx_pair,
    )
    td_errors = jnp.where(weight > 0, td_errors, 0)
    q_values = tx_pair.apply_inv(jnp.take_along_axis(q[:, :-1], late.action[..., None], axis=-1)[..., 0])
    return weighted_mean(penalty(td_errors), weight), LossInfo(td_errors, q_values, jnp.abs(td_errors))


def sequence_priority(td_errors: Array, valid: Array, eta: Scalar = 0.9) -> Array:
    """Returns the priority [N] of sequences: eta max|e| + (1 - eta) mean|e| over the errors of valid rows [N, T].

    Source: Kapturowski et al. (2019), section 2.3, https://openreview.net/pdf?id=r1lyTjAqYX

    >>> print(sequence_priority(jnp.array([[-4.0, 2.0, 9.0]]), jnp.array([[True, True, False]]), eta=0.5))
    [3.5]
    """
    UNIT("sequence_priority: eta", eta)
    sizes = jnp.where(valid, jnp.abs(td_errors), 0)
    mean = jnp.sum(sizes, axis=-1) / jnp.maximum(jnp.sum(valid, axis=-1), 1)
    return eta * jnp.max(sizes, axis=-1) + (1 - eta) * mean
