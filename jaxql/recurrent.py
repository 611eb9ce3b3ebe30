"""Networks that remember: what a ring keeps of memory, sequences of rows, and their loss.

The memory with which an episode starts is all zeros, and so it is again after a row that is not valid. The `extra` of a
stored row is the memory after its observation, so that a sequence may start at any row that follows a stored one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxql import bellman
from jaxql.bellman import SIGNED_HYPERBOLIC_PAIR
from jaxql.losses import Result, weighted_mean
from jaxql.replay import stacked
from jaxql.types import Array, Sequence, Step


def restarted(memory, valid):
    """The memory [B, ...] left after rows `valid` [B]: zeros after one that is not.

    >>> print(restarted(jnp.array([1.0, 2.0]), jnp.array([True, False])))
    [1. 0.]
    """
    return jax.tree.map(lambda x: jnp.where(valid.reshape(valid.shape + (1,) * (x.ndim - valid.ndim)), x, 0), memory)


def remembered(rows: Step, t, env):
    """The memory of an env before its observation of tick t; rows [T, B] are a ring's.

    Before tick 0 it is zeros, for the slot of the row before is still blank, hence not valid.
    """
    last = (t - 1) % len(rows.valid)
    return restarted(jax.tree.map(lambda x: x[last, env], rows.extra), rows.valid[last, env])


def sequence(rows: Step, t, env, weight, gamma, length: int, stack: int, *, n: int) -> Sequence:
    """The rows t .. t + length - 1 of one env, with n-step returns: a `view` of replay, whose n_step is `length`.

    Returns stop at each end of either kind, and at the end of the sequence; see `bellman.n_step_windows`.
    """
    ticks = t + jnp.arange(length + 1)
    window = jax.tree.map(lambda x: x[ticks[:-1] % len(x), env], rows._replace(obs=(), extra=()))
    steps = bellman.n_step_windows(window.reward, window.terminated, window.truncated, window.valid, n, gamma)
    return Sequence(
        obs=jax.vmap(lambda tick: stacked(rows, tick, env, stack))(ticks),
        action=window.action,
        reward=steps.reward,
        discount=steps.discount,
        bootstrap_index=steps.bootstrap_index,
        valid=window.valid,
        memory=remembered(rows, t, env),
        weight=weight,
    )


def unroll(apply: Callable, params, obs, memory, valid) -> tuple[Any, Any]:
    """(outputs [N, T, ...], memory [N, ...] afterwards) of a network that sees observations [N, T, ...] in turn.

    It has `memory` [N, ...] before the first, and starts anew after a row of `valid` [N, T] that is not.

    >>> count = lambda params, obs, memory: (memory, memory + 1)
    >>> print(unroll(count, (), jnp.zeros((1, 4)), jnp.zeros(1), jnp.array([[True, False, True, True]]))[0])
    [[0. 1. 0. 1.]]
    """

    def step(memory, row):
        obs, valid = row
        output, memory = apply(params, obs, memory)
        return restarted(memory, valid), output

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
    penalty: Callable = optax.l2_loss,
    tx_pair: bellman.TxPair = SIGNED_HYPERBOLIC_PAIR,
) -> Result:
    """The R2D2 loss: weighted mean of penalty(h(R_t + discount_t * h^-1(Q'(s_{t+m}, a*))) - Q(s_t, a_t)) over rows.

    a* = argmax_a Q(s_{t+m}, a), R_t is the reward of the m <= n steps, h rescales values. Both networks start from the
    stored memory and see `burn_in` observations, which are neither learned from nor differentiated.

    Args:
      params, target_params: the online and the target network's.
      sequences: N of them, of L rows; those of weight 0, and rows that are not valid, do not count.
      apply: (params, obs, memory) -> (q [N, A], memory), as in `Network`; illegal actions may be -inf.
      burn_in: rows before those that are learned from, less than L.
      penalty: of one TD error.
      tx_pair: h and its inverse.

    Returns:
      The loss, and (td_errors, q_values), both [N, L - burn_in]: errors on the scale of h, 0 where a row does not
      count, and the values of the actions taken on the true scale.

    Source: Kapturowski et al. (2019), sections 2.3 and 3, in the text, https://openreview.net/pdf?id=r1lyTjAqYX
    """
    early, late = (
        jax.tree.map(lambda x, part=part: x[:, part], sequences._replace(memory=(), weight=(), index=()))
        for part in (slice(0, burn_in), slice(burn_in, None))
    )

    def values(params):
        _, memory = unroll(apply, params, early.obs, sequences.memory, early.valid)
        valid = jnp.pad(late.valid, ((0, 0), (0, 1)))
        return unroll(apply, params, late.obs, jax.lax.stop_gradient(memory), valid)[0]

    def following(q):
        return jnp.take_along_axis(q, late.bootstrap_index[..., None] - burn_in, axis=1)

    q = values(params)
    td_errors = bellman.transformed_n_step_q_learning(
        q[:, :-1],
        late.action,
        following(values(target_params)),
        jnp.argmax(following(q), axis=-1),
        late.reward,
        late.discount,
        n=1,  # the windows hold n steps already
        tx_pair=tx_pair,
    )
    weight = jnp.where(late.valid, sequences.weight[:, None], 0)
    td_errors = jnp.where(weight > 0, td_errors, 0)
    q_values = tx_pair.apply_inv(jnp.take_along_axis(q[:, :-1], late.action[..., None], axis=-1)[..., 0])
    return weighted_mean(penalty(td_errors), weight), (td_errors, q_values)


def sequence_priority(td_errors, valid, eta=0.9) -> Array:
    """The error [N] for which a sequence is prioritised: eta max|e| + (1 - eta) mean|e| over its valid rows [N, T].

    Source: Kapturowski et al. (2019), section 2.3, https://openreview.net/pdf?id=r1lyTjAqYX

    >>> print(sequence_priority(jnp.array([[-4.0, 2.0, 9.0]]), jnp.array([[True, True, False]]), eta=0.5))
    [3.5]
    """
    sizes = jnp.where(valid, jnp.abs(td_errors), 0)
    mean = jnp.sum(sizes, axis=-1) / jnp.maximum(jnp.sum(valid, axis=-1), 1)
    return eta * jnp.max(sizes, axis=-1) + (1 - eta) * mean
