"""TD errors of one transition: variants of Q-learning that change the target."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman.arguments import NOT_NEGATIVE, NOT_POSITIVE, UNIT
from jaxql.bellman.core import batched, legal_discount, maybe_stop_gradient, select_action, td_target
from jaxql.types import Array, Scalar


@batched("A", "", "", "", "A", action_gap_scale=UNIT)
def persistent_q_learning(
    q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t: Array,
    action_gap_scale: Scalar,
    stop_target_gradients: bool = True,
) -> Array:
    """TD error [...] that favours repeating: r_t + discount_t * ((1 - k) max_a q_t[a] + k q_t[a_tm1]) - q_tm1[a_tm1].

    k is `action_gap_scale`, in [0, 1]. An a_tm1 that is illegal at t (-inf) cannot be repeated: the bootstrap is then
    the maximum. Other shapes and errors are as in `q_learning`.

    Source: Bellemare et al. (2016), the operator T_PAL under theorem 1, https://arxiv.org/abs/1512.04860, mixed by k
    as in rlax

    >>> print(persistent_q_learning(jnp.array([1.0, 2.0]), 0, 1.0, 0.5, jnp.array([0.0, 4.0]), 0.5))
    1.0
    """
    v_t, repeated = jnp.max(q_t), select_action(q_t, a_tm1)
    repeated = jnp.where(repeated == -jnp.inf, v_t, repeated)
    v_t = (1 - action_gap_scale) * v_t + action_gap_scale * repeated
    target = td_target(r_t, legal_discount(discount_t, q_t), v_t)
    return maybe_stop_gradient(target, stop_target_gradients) - select_action(q_tm1, a_tm1)


@batched("A", "", "", "", "A", "A", action_gap_scale=UNIT)
def advantage_learning(
    q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t: Array,
    q_tm1_target: Array,
    *,
    action_gap_scale: Scalar = 0.9,
    stop_target_gradients: bool = True,
) -> Array:
    """TD error [...] of Q-learning with wider action gaps: that of `q_learning` - k (max_a q'[a] - q'[a_tm1]).

    k is `action_gap_scale`, in [0, 1]; below 1 the optimal policy stays optimal. q' is `q_tm1_target` [..., A], the
    values at t - 1 that measure the gap: of the target network, or `q_tm1` for a table. They are part of the target, as
    q_t is. A worse action is pushed further below the best; an illegal one (-inf) has no gap. Shapes and errors are as
    in `q_learning`.

    Source: Bellemare et al. (2016), theorem 1 and the operator T_AL that it admits, https://arxiv.org/abs/1512.04860

    >>> q, q_t = jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])
    >>> print(advantage_learning(q, 0, 1.0, 0.5, q_t, q, action_gap_scale=0.5))
    1.5
    """
    taken = select_action(q_tm1_target, a_tm1)
    gap = jnp.max(q_tm1_target) - taken
    gap = jnp.where(taken == -jnp.inf, 0, gap)  # of an illegal action there is none
    target = td_target(r_t, legal_discount(discount_t, q_t), jnp.max(q_t)) - action_gap_scale * gap
    return maybe_stop_gradient(target, stop_target_gradients) - select_action(q_tm1, a_tm1)


@batched("A", "", "", "", "A", "A", "A")
def clipped_double_q_learning(
    q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t_value: Array,
    q_t_other: Array,
    q_t_selector: Array,
    stop_target_gradients: bool = True,
) -> Array:
    """TD error [...] towards the lower value: r_t + discount_t * min(q_t_value[b], q_t_other[b]) - q_tm1[a_tm1].

    b = argmax_a q_t_selector[a]. `q_t_value` and `q_t_other` [..., A] are the target networks of two critics; in the
    tabular algorithm `q_t_selector` is the first of the two. Shapes and errors as in `q_learning`.

    Source: Fujimoto, van Hoof & Meger (2018), equation 10, https://arxiv.org/abs/1802.09477

    >>> q = jnp.array([0.0, 1.0])
    >>> print(clipped_double_q_learning(q, 0, 1.0, 0.5, jnp.array([9.0, 4.0]), jnp.array([9.0, 2.0]), q))
    2.0
    """
    best = jnp.argmax(q_t_selector)
    v_t = jnp.minimum(select_action(q_t_value, best), select_action(q_t_other, best))
    target = td_target(r_t, legal_discount(discount_t, q_t_selector), v_t)
    return maybe_stop_gradient(target, stop_target_gradients) - select_action(q_tm1, a_tm1)


def soft_maximum(q: Array, temperature: Scalar) -> Array:
    """temperature * log sum_a exp(q[a] / temperature) [...] of q [..., A], without overflow in value or gradient.

    At temperature 0 it is the maximum. Where every action is illegal (-inf) it is -inf.
    """
    legal = q != -jnp.inf
    some = jnp.any(legal, axis=-1)
    most = jnp.where(some, jnp.max(q, axis=-1), 0)
    largest = jax.lax.stop_gradient(most)
    warm = temperature > jnp.finfo(jnp.result_type(q, 1.0)).tiny
    temperature = jnp.where(warm, temperature, 1)
    below = jnp.where(legal, q - largest[..., None], 0)
    size = jnp.sum(jnp.where(legal, jnp.exp(below / temperature), 0), axis=-1)
    soft = largest + temperature * jnp.log(jnp.where(some, size, 1))
    return jnp.where(some, jnp.where(warm, soft, most), -jnp.inf)


def scaled_log_softmax(q: Array, temperature: Scalar) -> Array:
    """temperature * log softmax(q / temperature) [..., A] of q [..., A]; -inf of an illegal action.

    At temperature 0 it is q - max q.
    """
    legal = q != -jnp.inf
    largest = jax.lax.stop_gradient(jnp.max(q, axis=-1, keepdims=True))
    below = jnp.where(legal, q - jnp.where(largest == -jnp.inf, 0, largest), -jnp.inf)
    return jnp.where(legal, below - soft_maximum(below, temperature)[..., None], -jnp.inf)


@batched("A", "", "", "", "A", temperature=NOT_NEGATIVE)
def soft_q_learning(
    q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t: Array,
    *,
    temperature: Scalar = 0.03,
    stop_target_gradients: bool = True,
) -> Array:
    """TD error [...] for rewards plus temperature * entropy: r_t + discount_t * v_t - q_tm1[a_tm1].

    v_t = temperature * log sum_a exp(q_t[a] / temperature) is the value of the policy softmax(q_t / temperature) plus
    its entropy. It exceeds the maximum by at most temperature * log A. At temperature 0, the limit, this is
    `q_learning`. An illegal action (-inf) does not count. Shapes and errors are as in `q_learning`.

    Source: Haarnoja et al. (2017), theorem 1, https://arxiv.org/abs/1702.08165; for a finite choice of actions
    Vieillard, Pietquin & Geist (2020), equation 1, https://arxiv.org/abs/2007.14430

    >>> q, q_t = jnp.zeros(2), jnp.log(jnp.array([1.0, 3.0]))
    >>> print(f"{soft_q_learning(q, 0, 1.0, 1.0, q_t, temperature=1.0):.4f}")
    2.3863
    """
    target = td_target(r_t, legal_discount(discount_t, q_t), soft_maximum(q_t, temperature))
    return maybe_stop_gradient(target, stop_target_gradients) - select_action(q_tm1, a_tm1)


@batched("A", "", "", "", "A", "A", temperature=NOT_NEGATIVE, alpha=UNIT, floor=NOT_POSITIVE)
def munchausen_q_learning(
    q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t: Array,
    q_tm1_target: Array,
    *,
    temperature: Scalar = 0.03,
    alpha: Scalar = 0.9,
    floor: Scalar = -1.0,
    stop_target_gradients: bool = True,
) -> Array:
    """TD error [...] of Munchausen Q-learning: `soft_q_learning` with part of the log-policy added to the reward.

    r_t + alpha * clip(temperature * log pi(a_tm1), floor, 0) + discount_t * v_t - q_tm1[a_tm1], where pi is
    softmax(q_tm1_target / temperature) and v_t is that of `soft_q_learning`.

    Args:
      q_tm1, a_tm1, r_t, discount_t, q_t: as in `q_learning`; an illegal action (-inf) does not count.
      q_tm1_target: [..., A] values at t - 1 of the network of q_t, the target network; part of the target.
      temperature: of the policy and of its entropy, at least 0; at 0, the limit, the policy is greedy.
      alpha: the weight of the log-policy in the reward, in [0, 1].
      floor: lower bound of the scaled log-policy, at most 0; it is the log-policy of an illegal action.
      stop_target_gradients: True makes the target a constant.

    Raises:
      ValueError: as `q_learning`.

    Source: Vieillard, Pietquin & Geist (2020), equation 2, https://arxiv.org/abs/2007.14430

    >>> q, q_t = jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])
    >>> print(f"{munchausen_q_learning(q, 0, 1.0, 0.5, q_t, q):.4f}")
    1.1000
    """
    log_policy = select_action(scaled_log_softmax(q_tm1_target, temperature), a_tm1)
    reward = r_t + alpha * jnp.clip(log_policy, floor, 0)
    target = td_target(reward, legal_discount(discount_t, q_t), soft_maximum(q_t, temperature))
    return maybe_stop_gradient(target, stop_target_gradients) - select_action(q_tm1, a_tm1)
