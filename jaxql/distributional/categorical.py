"""Categorical distributions: probabilities, as logits, of fixed atoms (C51)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman.arguments import ASCENDING
from jaxql.bellman.core import (
    batched,
    legal_discount,
    maybe_stop_gradient,
    paired_sum,
    safe_multiply,
    select_action_row,
    td_target,
)
from jaxql.types import Array


@batched("N")
def probabilities(logits: Array) -> Array:
    """Softmax [..., N] of logits [..., N]. Logits that are all -inf (an illegal action) give the uniform distribution.

    Raises:
      ValueError: there is no axis N.

    Source: Sutton & Barto (2018), equation 13.2, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(probabilities(jnp.array([[0.0, 0.0], [-jnp.inf, -jnp.inf]])))
    [[0.5 0.5]
     [0.5 0.5]]
    """
    return jax.nn.softmax(jnp.where(jnp.all(logits == -jnp.inf), 0, logits))


@batched("N", "N")
def categorical_mean(logits: Array, atoms: Array) -> Array:
    """Expected value [...]: sum_i softmax(logits)[i] atoms[i], or -inf where all logits are -inf (an illegal action).

    It also decodes two-hot encodings, and HL-Gauss encodings with `centers(edges)` as their atoms.

    Args:
      logits: [..., N], or [..., A, N] for the values [..., A] of all actions.
      atoms: [N].

    Raises:
      ValueError: lengths or batch axes differ.

    Source: Goodfellow, Bengio & Courville (2016), equation 3.9, https://www.deeplearningbook.org; as an action value:
    Bellemare, Dabney & Munos (2017), algorithm 1, https://arxiv.org/abs/1707.06887

    >>> print(categorical_mean(jnp.zeros(3), jnp.array([0.0, 1.0, 5.0])))
    2.0
    """
    value = paired_sum(safe_multiply(probabilities(logits), atoms))
    return jnp.where(jnp.all(logits == -jnp.inf), -jnp.inf, value)


@batched("N", "N")
def cross_entropy(logits: Array, probs: Array) -> Array:
    """Cross-entropy [...]: -sum_i probs[i] log softmax(logits)[i]; an atom of probability 0 does not count.

    Args:
      logits, probs: [..., N] the prediction and the target.

    Raises:
      ValueError: lengths or batch axes differ.

    Source: Goodfellow, Bengio & Courville (2016), equation 3.51, https://www.deeplearningbook.org; as a loss:
    Bellemare, Dabney & Munos (2017), algorithm 1, https://arxiv.org/abs/1707.06887

    >>> print(cross_entropy(jnp.array([0.0, 0.0, -jnp.inf]), jnp.array([1.0, 0.0, 0.0])))
    0.6931472
    """
    return -jnp.sum(safe_multiply(probs, jax.nn.log_softmax(logits)))


@batched("M", "M", "K", z_q=ASCENDING)
def categorical_l2_project(z_p: Array, probs: Array, z_q: Array) -> Array:
    """Projection [..., K] of the distribution (z_p, probs) onto the support z_q, nearest in the Cramer distance.

    Each atom of z_p is clipped to [z_q[0], z_q[-1]], and splits its probability linearly between its two neighbours in
    z_q. The mass is kept, and so is the mean unless an atom was clipped.

    Args:
      z_p, probs: [..., M] atoms and their probabilities; atoms may be infinite.
      z_q: [..., K] the support, in ascending order.

    Raises:
      ValueError: z_p and probs differ in length, batch axes differ, or z_q is not finite and in ascending order.

    Source: Bellemare, Dabney & Munos (2017), equation 7, https://arxiv.org/abs/1707.06887; for uneven supports
    Rowland et al. (2018), section 3.1, https://arxiv.org/abs/1802.08163

    >>> print(categorical_l2_project(jnp.array([0.25, 9.0]), jnp.array([0.8, 0.2]), jnp.array([0.0, 1.0, 3.0])))
    [0.6 0.2 0.2]
    """
    # rise[k] grows from 0 to 1 between atoms k and k + 1; the difference of two neighbours is the hat of an atom.
    low, gap = z_q[:-1, None], jnp.diff(z_q)[:, None]
    rise = jnp.clip((z_p[None, :] - low) / jnp.where(gap > 0, gap, 1), 0, 1)
    rise = jnp.where(gap > 0, rise, z_p[None, :] >= low)
    edge = jnp.ones((1, z_p.shape[0]), rise.dtype)
    hats = jnp.concatenate([edge, rise]) - jnp.concatenate([rise, 0 * edge])
    return jnp.sum(hats * probs[None, :], axis=-1)  # not a matrix product: accelerators round those


def _target(z_tm1, r_t, discount_t, z_t, logits_t, stop):
    """The distribution of r_t + discount_t * Z_t on z_tm1. Past a termination the logits do not count, even if NaN."""
    probs_t = probabilities(jnp.where(discount_t == 0, 0, logits_t))
    return maybe_stop_gradient(categorical_l2_project(td_target(r_t, discount_t, z_t), probs_t, z_tm1), stop)


@batched("", "", "AN", "A", "N", atoms=ASCENDING)
def c51_target(
    r_t: ArrayLike,
    discount_t: ArrayLike,
    logits_t: Array,
    q_selector: Array,
    atoms: Array,
    *,
    stop_target_gradients: bool = True,
) -> Array:
    """Target probabilities [..., N]: r_t + discount_t * Z_t[a*], a* = argmax_a q_selector[a], projected onto the atoms.

    Args:
      r_t, discount_t: [...] reward, and gamma or 0 past a termination.
      logits_t: [..., A, N] the distributions at t, the target network's for instance.
      q_selector: [..., A] the values to maximise: the means at t, the online network's means, or a risk measure; -inf
        for illegal actions.
      atoms: [N] in ascending order.
      stop_target_gradients: True makes the target a constant.

    Raises:
      ValueError: an argument lacks axes, or lengths or batch axes differ.

    Source: Bellemare, Dabney & Munos (2017), equation 7 and algorithm 1, https://arxiv.org/abs/1707.06887

    >>> atoms, sure = jnp.arange(3.0), jnp.array([-jnp.inf, 0.0, -jnp.inf])
    >>> print(c51_target(0.5, 0.5, jnp.stack([sure, jnp.zeros(3)]), jnp.array([1.0, -jnp.inf]), atoms))
    [0. 1. 0.]
    """
    discount_t = legal_discount(discount_t, q_selector)
    return _target(atoms, r_t, discount_t, atoms, logits_t[jnp.argmax(q_selector)], stop_target_gradients)


@batched("N", "N", "", "", "M", "M", v_atoms_tm1=ASCENDING)
def categorical_td_learning(
    v_atoms_tm1: Array,
    v_logits_tm1: Array,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    v_atoms_t: Array,
    v_logits_t: Array,
    stop_target_gradients: bool = True,
) -> Array:
    """Loss [...] of a categorical state value: cross-entropy of v_logits_tm1 to r_t + discount_t * V_t, projected.

    Args:
      v_atoms_tm1, v_logits_tm1: [..., N] support and logits at t - 1.
      r_t, discount_t: [...] reward, and gamma or 0 past a termination.
      v_atoms_t, v_logits_t: [..., M] support and logits at t.
      stop_target_gradients: True makes the target a constant.

    Raises:
      ValueError: an argument lacks axes, or lengths or batch axes differ.

    Source: Bellemare, Dabney & Munos (2017), equation 7 for the values of a policy, https://arxiv.org/abs/1707.06887

    >>> print(categorical_td_learning(jnp.arange(2.0), jnp.zeros(2), 1.0, 0.0, jnp.arange(2.0), jnp.zeros(2)))
    0.6931472
    """
    target = _target(v_atoms_tm1, r_t, discount_t, v_atoms_t, v_logits_t, stop_target_gradients)
    return cross_entropy(v_logits_tm1, target)


@batched("N", "AN", "", "", "", "M", "AM", q_atoms_tm1=ASCENDING)
def categorical_q_learning(
    q_atoms_tm1: Array,
    q_logits_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_atoms_t: Array,
    q_logits_t: Array,
    stop_target_gradients: bool = True,
) -> Array:
    """Loss [...] of categorical Q-learning (C51): cross-entropy to r_t + discount_t * Z_t[a*], projected.

    a* has the greatest mean under q_logits_t.

    Args:
      q_atoms_tm1, q_logits_tm1: [..., N] and [..., A, N] support and logits at t - 1.
      a_tm1: [...] the action taken, an index into A.
      r_t, discount_t: [...] reward, and gamma or 0 past a termination.
      q_atoms_t, q_logits_t: [..., M] and [..., A, M] support and logits at t.
      stop_target_gradients: True makes the target a constant.

    Raises:
      ValueError: an argument lacks axes, or lengths or batch axes differ.

    Source: Bellemare, Dabney & Munos (2017), equation 7 and algorithm 1, https://arxiv.org/abs/1707.06887

    >>> z, logits = jnp.arange(2.0), jnp.zeros((3, 2))
    >>> print(categorical_q_learning(z, logits, 0, 1.0, 0.9, z, logits))
    0.6931472
    """
    q_t = categorical_mean(q_logits_t, q_atoms_t)
    a_t, discount_t = jnp.argmax(q_t), legal_discount(discount_t, q_t)
    target = _target(q_atoms_tm1, r_t, discount_t, q_atoms_t, q_logits_t[a_t], stop_target_gradients)
    return cross_entropy(select_action_row(q_logits_tm1, a_tm1), target)


@batched("N", "AN", "", "", "", "M", "AM", "A", q_atoms_tm1=ASCENDING)
def categorical_double_q_learning(
    q_atoms_tm1: Array,
    q_logits_tm1: Array,
    a_tm1: ArrayLike,
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_atoms_t: Array,
    q_logits_t: Array,
    q_t_selector: Array,
    stop_target_gradients: bool = True,
) -> Array:
    """Loss [...] of categorical double Q-learning: that of `categorical_q_learning` with a* = argmax_a q_t_selector[a].

    Shapes and errors as in `categorical_q_learning`; `q_t_selector` [..., A] holds scalar action values.

    Source: Bellemare, Dabney & Munos (2017), equation 7 and algorithm 1, https://arxiv.org/abs/1707.06887, with the
    selection of van Hasselt, Guez & Silver (2016), equation 4, https://arxiv.org/abs/1509.06461

    >>> z, logits = jnp.arange(2.0), jnp.zeros((3, 2))
    >>> print(categorical_double_q_learning(z, logits, 0, 1.0, 0.9, z, logits, jnp.arange(3.0)))
    0.6931472
    """
    logits_t, discount_t = q_logits_t[jnp.argmax(q_t_selector)], legal_discount(discount_t, q_t_selector)
    target = _target(q_atoms_tm1, r_t, discount_t, q_atoms_t, logits_t, stop_target_gradients)
    return cross_entropy(select_action_row(q_logits_tm1, a_tm1), target)
