"""TD errors of one transition."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman.core import batched, maybe_stop_gradient, safe_multiply, select_action, td_target
from jaxql.types import Array, Scalar


@batched("", "", "", "")
def td_learning(
    v_tm1: ArrayLike, r_t: ArrayLike, discount_t: ArrayLike, v_t: ArrayLike, stop_target_gradients: bool = True
) -> Array:
    """TD error [...] of a state value: r_t + discount_t * v_t - v_tm1; all arguments [...].

    Raises:
      ValueError: batch axes differ.

    Source: Sutton & Barto (2018), equation 6.5, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(td_learning(1.0, 2.0, 0.5, 4.0))
    3.0
    """
    return maybe_stop_gradient(td_target(r_t, discount_t, v_t), stop_target_gradients) - v_tm1


@batched("A", "", "", "", "A")
def q_learning(
    q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t: Array,
    stop_target_gradients: bool = True,
) -> Array:
    """TD error [...] of Q-learning: r_t + discount_t * max_a q_t[a] - q_tm1[a_tm1].

    Args:
      q_tm1: [..., A] action values at t - 1.
      a_tm1: [...] the action taken, an index into A.
      r_t: [...] reward.
      discount_t: [...] gamma, or 0 past a termination.
      q_t: [..., A] action values at t, the target network's for instance; -inf for an illegal action.
      stop_target_gradients: whether the target is a constant.

    Raises:
      ValueError: an argument lacks axes, or its batch axes or its A differ from the others'.

    Source: Watkins & Dayan (1992), equation 1, https://doi.org/10.1007/BF00992698

    >>> q_tm1, q_t = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[5.0, 6.0], [7.0, jnp.inf]])
    >>> print(q_learning(q_tm1, jnp.array([0, 1]), jnp.array([1, 1]), jnp.array([0.5, 0.0]), q_t))
    [ 3. -3.]
    """
    return maybe_stop_gradient(td_target(r_t, discount_t, jnp.max(q_t)), stop_target_gradients) - select_action(
        q_tm1, a_tm1
    )


@batched("A", "", "", "", "A", "A")
def double_q_learning(
    q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t_value: Array,
    q_t_selector: Array,
    stop_target_gradients: bool = True,
) -> Array:
    """TD error [...] of double Q-learning: r_t + discount_t * q_t_value[argmax_a q_t_selector[a]] - q_tm1[a_tm1].

    Shapes and errors as in `q_learning`; `q_t_selector` [..., A] (the online network) chooses the action that
    `q_t_value` [..., A] (the target network) evaluates.

    Source: van Hasselt, Guez & Silver (2016), equation 4, https://arxiv.org/abs/1509.06461

    >>> q = jnp.array([0.0, 1.0])
    >>> print(double_q_learning(q, 0, 1.0, 0.5, jnp.array([4.0, 2.0]), q))
    2.0
    """
    v_t = select_action(q_t_value, jnp.argmax(q_t_selector))
    return maybe_stop_gradient(td_target(r_t, discount_t, v_t), stop_target_gradients) - select_action(q_tm1, a_tm1)


@batched("A", "", "", "", "A", "")
def sarsa(
    q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t: Array,
    a_t: ArrayLike,
    stop_target_gradients: bool = True,
) -> Array:
    """TD error [...] of SARSA: r_t + discount_t * q_t[a_t] - q_tm1[a_tm1]; shapes and errors as in `q_learning`.

    Source: Sutton & Barto (2018), equation 6.7, http://incompleteideas.net/book/the-book-2nd.html

    >>> q = jnp.array([0.0, 1.0])
    >>> print(sarsa(q, 0, 1.0, 0.5, jnp.array([4.0, 2.0]), 1))
    2.0
    """
    return maybe_stop_gradient(
        td_target(r_t, discount_t, select_action(q_t, a_t)), stop_target_gradients
    ) - select_action(q_tm1, a_tm1)


@batched("A", "", "", "", "A", "A")
def expected_sarsa(
    q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t: Array,
    probs_a_t: Array,
    stop_target_gradients: bool = True,
) -> Array:
    """TD error [...] of expected SARSA: r_t + discount_t * sum_a probs_a_t[a] q_t[a] - q_tm1[a_tm1].

    Shapes and errors as in `q_learning`; `probs_a_t` [..., A] is the target policy at t. An action of probability 0
    does not count, whatever its value.

    Source: Sutton & Barto (2018), equation 6.9, http://incompleteideas.net/book/the-book-2nd.html

    >>> q = jnp.array([0.0, 1.0])
    >>> print(expected_sarsa(q, 0, 1.0, 0.5, jnp.array([4.0, 2.0]), jnp.array([0.5, 0.5])))
    2.5
    """
    v_t = jnp.sum(safe_multiply(probs_a_t, q_t))
    return maybe_stop_gradient(td_target(r_t, discount_t, v_t), stop_target_gradients) - select_action(q_tm1, a_tm1)


@batched("A", "", "", "", "")
def qv_learning(
    q_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    v_t: ArrayLike,
    stop_target_gradients: bool = True,
) -> Array:
    """TD error [...] of QV-learning: r_t + discount_t * v_t - q_tm1[a_tm1]; v_t [...] is learned by `td_learning`.

    Shapes and errors otherwise as in `q_learning`.

    Source: Sutton & Barto (2018), equation 6.7 with the bootstrap of equation 6.5,
    http://incompleteideas.net/book/the-book-2nd.html; named by Wiering & van Hasselt (2007),
    https://doi.org/10.1109/ADPRL.2007.368200

    >>> print(qv_learning(jnp.array([0.0, 1.0]), 1, 1.0, 0.5, 4.0))
    2.0
    """
    return maybe_stop_gradient(td_target(r_t, discount_t, v_t), stop_target_gradients) - select_action(q_tm1, a_tm1)


@batched("", "", "", "A")
def qv_max(
    v_tm1: ArrayLike, r_t: ArrayLike, discount_t: ArrayLike, q_t: Array, stop_target_gradients: bool = True
) -> Array:
    """TD error [...] of a state value towards the greedy one: r_t + discount_t * max_a q_t[a] - v_tm1.

    `v_tm1` [...]; shapes and errors otherwise as in `q_learning`.

    Source: Sutton & Barto (2018), equation 6.5 with the target of equation 6.8,
    http://incompleteideas.net/book/the-book-2nd.html; named by Wiering & van Hasselt (2009),
    https://doi.org/10.1109/ADPRL.2009.4927532

    >>> print(qv_max(1.0, 1.0, 0.5, jnp.array([0.0, 4.0])))
    2.0
    """
    return maybe_stop_gradient(td_target(r_t, discount_t, jnp.max(q_t)), stop_target_gradients) - v_tm1


@batched("A", "", "", "", "A")
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

    k is `action_gap_scale`, in [0, 1]. Where a_tm1 is illegal at t (-inf) it cannot be repeated, and the bootstrap is
    the maximum. Shapes and errors otherwise as in `q_learning`.

    Source: Bellemare et al. (2016), the operator T_PAL under theorem 1, https://arxiv.org/abs/1512.04860, mixed by k
    as in rlax

    >>> print(persistent_q_learning(jnp.array([1.0, 2.0]), 0, 1.0, 0.5, jnp.array([0.0, 4.0]), 0.5))
    1.0
    """
    v_t, repeated = jnp.max(q_t), select_action(q_t, a_tm1)
    repeated = jnp.where(repeated == -jnp.inf, v_t, repeated)
    v_t = (1 - action_gap_scale) * v_t + action_gap_scale * repeated
    return maybe_stop_gradient(td_target(r_t, discount_t, v_t), stop_target_gradients) - select_action(q_tm1, a_tm1)


@batched("A", "", "", "", "A", "A")
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

    k is `action_gap_scale`, in [0, 1), and q' is `q_tm1_target` [..., A], the values at t - 1 by which the gap is
    measured: the target network's, or `q_tm1` for a table. They are part of the target, as q_t is. The optimal policy
    stays optimal; an action below the best one is pushed further below. Shapes and errors as in `q_learning`.

    Source: Bellemare et al. (2016), theorem 1 and the operator T_AL that it admits, https://arxiv.org/abs/1512.04860

    >>> q, q_t = jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])
    >>> print(advantage_learning(q, 0, 1.0, 0.5, q_t, q, action_gap_scale=0.5))
    1.5
    """
    gap = jnp.max(q_tm1_target) - select_action(q_tm1_target, a_tm1)
    target = td_target(r_t, discount_t, jnp.max(q_t)) - action_gap_scale * gap
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
    """TD error [...] towards the lower of two: r_t + discount_t * min(q_t_value[b], q_t_other[b]) - q_tm1[a_tm1].

    b = argmax_a q_t_selector[a]. `q_t_value` and `q_t_other` [..., A] are the target networks of two critics; in the
    tabular algorithm `q_t_selector` is the first of the two. Shapes and errors as in `q_learning`.

    Source: Fujimoto, van Hoof & Meger (2018), equation 10, https://arxiv.org/abs/1802.09477

    >>> q = jnp.array([0.0, 1.0])
    >>> print(clipped_double_q_learning(q, 0, 1.0, 0.5, jnp.array([9.0, 4.0]), jnp.array([9.0, 2.0]), q))
    2.0
    """
    best = jnp.argmax(q_t_selector)
    v_t = jnp.minimum(select_action(q_t_value, best), select_action(q_t_other, best))
    return maybe_stop_gradient(td_target(r_t, discount_t, v_t), stop_target_gradients) - select_action(q_tm1, a_tm1)


def _soft_maximum(q, temperature):
    """temperature * log sum_a exp(q[a] / temperature): never above or below the finite range, gradients included."""
    legal = q > -jnp.inf
    some = jnp.any(legal)
    largest = jax.lax.stop_gradient(jnp.where(some, jnp.max(q), 0))
    below = jnp.where(legal, q - largest, 0)
    size = jnp.sum(jnp.where(legal, jnp.exp(below / temperature), 0))
    return jnp.where(some, largest + temperature * jnp.log(jnp.where(some, size, 1)), -jnp.inf)


@batched("A", "", "", "", "A")
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

    v_t = temperature * log sum_a exp(q_t[a] / temperature), the value of the policy softmax(q_t / temperature) with its
    entropy. As the temperature (above 0) falls this becomes `q_learning`; it grows by up to temperature * log A. An
    illegal action (-inf) does not count. Shapes and errors as in `q_learning`.

    Source: Haarnoja et al. (2017), theorem 1, https://arxiv.org/abs/1702.08165; for a finite choice of actions
    Vieillard, Pietquin & Geist (2020), equation 1, https://arxiv.org/abs/2007.14430

    >>> q, q_t = jnp.zeros(2), jnp.log(jnp.array([1.0, 3.0]))
    >>> print(f"{soft_q_learning(q, 0, 1.0, 1.0, q_t, temperature=1.0):.4f}")
    2.3863
    """
    v_t = _soft_maximum(q_t, temperature)
    return maybe_stop_gradient(td_target(r_t, discount_t, v_t), stop_target_gradients) - select_action(q_tm1, a_tm1)


@batched("A", "", "", "", "A", "A")
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
      q_tm1_target: [..., A] values at t - 1 of the network that gives q_t: the target network's, part of the target.
      temperature: of the policy and of its entropy, above 0.
      alpha: how much of the log-policy the reward gains, in [0, 1].
      floor: the lowest value of the scaled log-policy, which has no lower bound of its own.
      stop_target_gradients: whether the target is a constant.

    Raises:
      ValueError: as `q_learning`.

    Source: Vieillard, Pietquin & Geist (2020), equation 2, https://arxiv.org/abs/2007.14430

    >>> q, q_t = jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])
    >>> print(f"{munchausen_q_learning(q, 0, 1.0, 0.5, q_t, q):.4f}")
    1.1000
    """
    log_policy = select_action(q_tm1_target, a_tm1) - _soft_maximum(q_tm1_target, temperature)  # times the temperature
    reward = r_t + alpha * jnp.clip(log_policy, floor, 0)
    v_t = _soft_maximum(q_t, temperature)
    return maybe_stop_gradient(td_target(reward, discount_t, v_t), stop_target_gradients) - select_action(q_tm1, a_tm1)
