"""Whole-batch losses: pure functions of parameters, target parameters and transitions.

All share a form: `loss(params, target_params, transitions, apply, ...)` returns the weighted mean over the batch and
(td_errors [N], q_values [N]), the errors of the expected values and the values of the actions taken. Common arguments:

  params: the online network's parameters, with respect to which the loss is differentiated.
  target_params: the target network's; no gradient flows into them.
  transitions: N rows; see `Transition`. n-step returns and endings are in its reward and discount; rows of weight 0 do
    not count.
  apply: (params, obs) -> (output, memory), as in `Network`; illegal actions of next_obs may have all outputs -inf.
  double: the online network chooses the next action, the target network evaluates it.
  mask: [N, A] the legal actions of next_obs; if None, next_obs["action_mask"] where there is one.
  key: passed on, as `apply(params, obs, key=...)`, to networks that draw fractions or noise: another key each time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxql import bellman, distributional
from jaxql.bellman.core import batched, checking, safe_multiply, select_action, select_action_row, td_target
from jaxql.distributional import Quantiles
from jaxql.types import Array, Transition

Result = tuple[Array, tuple[Array, Array]]


class _Outputs(NamedTuple):
    now: Any  # of the online network at obs
    value: Any  # of the target network at next_obs
    selector: Any  # of the network that chooses, at next_obs


def weighted_mean(x, weight) -> Array:
    """sum(w x) / sum(w) over [N]: rows of weight 0 leave the learning rate alone; 0 if there are no others.

    Args:
      x, weight: [N] each.

    Raises:
      ValueError: they differ in shape.

    Source: Sutton & Barto (2018), equation 5.6, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(weighted_mean(jnp.array([1.0, 3.0, 99.0]), jnp.array([1.0, 1.0, 0.0])))
    2.0
    """
    x, weight = jnp.asarray(x), jnp.asarray(weight)
    if x.shape != weight.shape:
        raise ValueError(f"weighted_mean: weight has shape {weight.shape}; it needs that of x, {x.shape}")
    return jnp.sum(weight * x) / jnp.maximum(jnp.sum(weight), jnp.finfo(x.dtype).tiny)


@batched("AM", "")
def _taken(outputs, action):
    """What a head [..., A, M] says of the action taken: [..., M]."""
    return select_action_row(outputs, action)


def _rows(transitions) -> Transition:
    """The transitions, unless a field lacks the N rows of the actions: then ValueError, naming it.

    Under `jaxql.bellman.checked` a row of weight 0 has action 0, which passes: its own does not count.
    """
    shape = np.shape(transitions.action)
    if len(shape) != 1:
        raise ValueError(f"action has shape {shape}; it needs [N], an action for each row")
    for name in ("reward", "discount", "weight"):
        if np.shape(getattr(transitions, name)) != shape:
            raise ValueError(f"{name} has shape {np.shape(getattr(transitions, name))}; it needs {shape}, as action")
    for name in ("obs", "next_obs"):
        for leaf in jax.tree.leaves(getattr(transitions, name)):
            if np.shape(leaf)[:1] != shape:
                raise ValueError(f"{name} has shape {np.shape(leaf)}; it needs {shape[0]} rows, as action")
    if checking():
        return transitions._replace(action=jnp.where(transitions.weight == 0, 0, transitions.action))
    return transitions


def _counted(x, weight):
    """`x` [N, ...] where the row counts, else 0: so that nothing, not even a NaN, comes of a row of weight 0."""
    return jnp.where(jnp.reshape(weight == 0, weight.shape + (1,) * (x.ndim - weight.ndim)), 0, x)


def _legal(q, obs, mask=None):
    """Values [N, A] at these observations, illegal actions at -inf."""
    if mask is None and isinstance(obs, dict):
        mask = obs.get("action_mask")
    if mask is None:
        return q
    if jnp.shape(mask) != q.shape:
        raise ValueError(f"mask has shape {jnp.shape(mask)}; it needs that of the action values, {q.shape}")
    return jnp.where(jnp.asarray(mask, bool), q, -jnp.inf)


def _call(apply, params, obs, key, draw):
    """The output of a network; of this draw of its fractions or noise if there is a key."""
    return apply(params, obs)[0] if key is None else apply(params, obs, key=jax.random.fold_in(key, draw))[0]


def _outputs(params, target_params, transitions, apply, double, key, redraw=False) -> tuple[Transition, _Outputs]:
    """The rows, and the outputs that a loss reads; with `redraw` and a key the target chooses by a draw of its own."""
    transitions = _rows(transitions)
    now = _call(apply, params, transitions.obs, key, 0)
    value = selector = _call(apply, target_params, transitions.next_obs, key, 1)
    if double or (redraw and key is not None):
        selector = _call(apply, params if double else target_params, transitions.next_obs, key, 2)
    return transitions, _Outputs(now=now, value=value, selector=selector)


def dqn_loss(
    params: Any,
    target_params: Any,
    transitions: Transition,
    apply: Callable,
    *,
    double: bool = False,
    penalty: Callable = optax.huber_loss,
    mask: Array | None = None,
    key: Array | None = None,
) -> Result:
    """The DQN loss of a batch: weighted mean of penalty(reward + discount * max_a Q'(next_obs, a) - Q(obs, action)).

    Args, as at the head of this module, and:
      apply: its output is q [N, A].
      penalty: of one TD error: `optax.huber_loss`, or `optax.l2_loss` for 0.5 * error**2.

    Returns:
      The loss, and (td_errors [N], q_values [N]): target - Q(obs, action), and Q(obs, action).

    Raises:
      ValueError: the rows of an argument are not N, or mask is not [N, A].

    Source: Mnih et al. (2013), equation 2, https://arxiv.org/abs/1312.5602, with the target network of Mnih et al.
    (2015), algorithm 1, https://doi.org/10.1038/nature14236; double: van Hasselt, Guez & Silver (2016), equation 4,
    https://arxiv.org/abs/1509.06461

    >>> table = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([1]), reward=jnp.array([1.0]),
    ...                   discount=jnp.array([0.5]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> loss, (td_errors, q_values) = dqn_loss(table, table, rows, lambda params, obs: (params[obs], ()))
    >>> print(loss, td_errors)
    1.0 [1.5]
    """
    transitions, q = _outputs(params, target_params, transitions, apply, double, key)
    td_errors = _td_errors(q.now, q.value, _legal(q.selector, transitions.next_obs, mask), transitions)
    return _scalar_result(q.now, td_errors, transitions, penalty)


def _scalar_result(q, td_errors, transitions, penalty) -> Result:
    """The loss of TD errors, and what is reported beside it."""
    q_values = select_action(q, transitions.action)
    losses = penalty(_counted(td_errors, transitions.weight))
    return weighted_mean(losses, transitions.weight), (td_errors, q_values)


def _td_errors(q_tm1, q_t, q_selector, transitions):
    return bellman.double_q_learning(
        q_tm1, transitions.action, transitions.reward, transitions.discount, q_t, q_selector
    )


def munchausen_loss(
    params: Any,
    target_params: Any,
    transitions: Transition,
    apply: Callable,
    *,
    temperature: float = 0.03,
    alpha: float = 0.9,
    floor: float = -1.0,
    penalty: Callable = optax.huber_loss,
    mask: Array | None = None,
    key: Array | None = None,
) -> Result:
    """The Munchausen DQN loss of a batch: weighted mean of penalty(`jaxql.bellman.munchausen_q_learning`).

    There is no `double`: the target averages over a policy and chooses no action.

    Args, as at the head of this module, and:
      apply: its output is q [N, A]; illegal actions of obs too may be -inf, or 0 in obs["action_mask"].
      temperature, alpha, floor: as in `jaxql.bellman.munchausen_q_learning`; they may be traced.
      penalty: of one TD error.

    Returns:
      The loss, and (td_errors [N], q_values [N]): target - Q(obs, action), and Q(obs, action).

    Raises:
      ValueError: the rows of an argument are not N, or mask is not [N, A].

    Source: Vieillard, Pietquin & Geist (2020), equation 2, https://arxiv.org/abs/2007.14430

    >>> table = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([0]), reward=jnp.array([1.0]),
    ...                   discount=jnp.array([0.5]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> loss, (td_errors, q_values) = munchausen_loss(table, table, rows, lambda params, obs: (params[obs], ()))
    >>> print(f"{td_errors[0]:.4f}")  # 1 - 0.9 + 0.5 * 3
    1.6000
    """
    transitions, outputs = _outputs(params, target_params, transitions, apply, False, key)
    q_tm1_target = _legal(_call(apply, target_params, transitions.obs, key, 3), transitions.obs)
    td_errors = bellman.munchausen_q_learning(
        outputs.now,
        transitions.action,
        transitions.reward,
        transitions.discount,
        _legal(outputs.value, transitions.next_obs, mask),
        q_tm1_target,
        temperature=temperature,
        alpha=alpha,
        floor=floor,
    )
    return _scalar_result(outputs.now, td_errors, transitions, penalty)


def c51_loss(
    params: Any,
    target_params: Any,
    transitions: Transition,
    apply: Callable,
    *,
    atoms: Array,
    double: bool = False,
    value: Callable = distributional.mean,
    divergence: bool = False,
    mask: Array | None = None,
    key: Array | None = None,
) -> Result:
    """The C51 loss of a batch: weighted mean of the cross-entropy of Z(obs, action) to the projected target.

    The target is reward + discount * Z'(next_obs, a*), and a* has the greatest value of Z'.

    Args, as at the head of this module, and:
      apply: its output is logits [N, A, M].
      atoms: [M] in ascending order.
      value: (atoms [M], probabilities [N, A, M]) -> [N, A], what a* maximises; see `distributional.risk`.
      divergence: whether KL(target || Z(obs, action)) [N], Rainbow's priority, is given in place of the td_errors.

    Returns:
      The loss, and (td_errors [N], q_values [N]): projected target's mean - Z(obs, action)'s, and the latter.

    Raises:
      ValueError: the rows of an argument are not N, or mask is not [N, A].

    Source: Bellemare, Dabney & Munos (2017), equation 7 and algorithm 1, https://arxiv.org/abs/1707.06887; divergence:
    Hessel et al. (2018), section "The Integrated Agent", https://arxiv.org/abs/1710.02298

    >>> table = jnp.zeros((2, 1, 3))
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([0]), reward=jnp.array([0.5]),
    ...                   discount=jnp.array([0.0]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> apply = lambda params, obs: (params[obs], ())
    >>> loss, (td_errors, q_values) = c51_loss(table, table, rows, apply, atoms=jnp.array([-1.0, 0.0, 1.0]))
    >>> print(loss, td_errors)
    1.0986123 [0.5]
    """
    transitions, logits = _outputs(params, target_params, transitions, apply, double, key)
    q_selector = value(atoms, distributional.probabilities(logits.selector))
    q_selector = jnp.where(jnp.all(logits.selector == -jnp.inf, axis=-1), -jnp.inf, q_selector)
    q_selector = _legal(q_selector, transitions.next_obs, mask)
    target = distributional.c51_target(transitions.reward, transitions.discount, logits.value, q_selector, atoms)
    taken = _taken(logits.now, transitions.action)
    counted = _counted(target, transitions.weight)
    losses = distributional.cross_entropy(_counted(taken, transitions.weight), counted)
    q_values = distributional.categorical_mean(taken, atoms)
    if divergence:
        errors = losses - jnp.sum(jax.scipy.special.entr(counted), axis=-1)
    else:
        errors = distributional.mean(atoms, target) - q_values
    return weighted_mean(losses, transitions.weight), (errors, q_values)


def quantile_loss(
    params: Any,
    target_params: Any,
    transitions: Transition,
    apply: Callable,
    *,
    kappa: float = 1.0,
    double: bool = False,
    value: Callable = distributional.mean,
    mask: Array | None = None,
    key: Array | None = None,
) -> Result:
    """The loss of QR-DQN, IQN and FQF: weighted mean of the quantile Huber loss of Z(obs, action) to the target.

    The target is reward + discount * Z'(next_obs, a*), and a* has the greatest value of Z'.

    Args, as at the head of this module, and:
      apply: its output is quantiles [N, A, M] at the midpoints of M equal parts (QR-DQN), or a pair (quantiles, taus)
        with the fractions [M] or [N, M] at which they were evaluated (IQN), or `Quantiles` with the probabilities of
        each too (FQF). With a key the network is asked thrice: online, target, and to choose the next action.
      kappa: threshold of the Huber loss, which is divided by it; 0 for absolute errors. It may be traced.
      value: (quantiles [N, A, M], their probabilities or None) -> [N, A], what a* maximises; see `distributional.risk`.

    Returns:
      The loss, and (td_errors [N], q_values [N]): mean of the target - mean of Z(obs, action), and the latter.

    Raises:
      ValueError: the rows of an argument are not N, taus are not as many as quantiles, or mask is not [N, A].

    Source: Dabney et al. (2018), algorithm 1, https://arxiv.org/abs/1710.10044; equation 3,
    https://arxiv.org/abs/1806.06923

    >>> table = jnp.zeros((2, 1, 2))
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([0]), reward=jnp.array([2.5]),
    ...                   discount=jnp.array([0.0]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> loss, (td_errors, q_values) = quantile_loss(table, table, rows, lambda params, obs: (params[obs], ()))
    >>> print(loss, td_errors)
    2.0 [2.5]
    """
    transitions, outputs = _outputs(params, target_params, transitions, apply, double, key, redraw=True)
    now, then, chooser = (_as_quantiles(x) for x in outputs)
    q_selector = _legal(value(chooser.values, _per_action(chooser)), transitions.next_obs, mask)
    target = distributional.quantile_target(transitions.reward, transitions.discount, then.values, q_selector)
    return _quantile_result(now, target, then.probs, transitions, kappa)


def _quantile_result(now: Quantiles, target, probs, transitions, kappa) -> Result:
    """The quantile Huber loss to target quantiles [N, M] of probabilities `probs`, and what is reported beside it."""
    taken = _taken(now.values, transitions.action)
    predicted, wanted = (_counted(x, transitions.weight) for x in (taken, target))
    losses = distributional.quantile_huber(predicted, now.taus, wanted, kappa=kappa)
    q_values = distributional.mean(taken, now.probs)
    td_errors = distributional.mean(target, probs) - q_values
    return weighted_mean(losses, transitions.weight), (td_errors, q_values)


def munchausen_quantile_loss(
    params: Any,
    target_params: Any,
    transitions: Transition,
    apply: Callable,
    *,
    temperature: float = 0.03,
    alpha: float = 0.9,
    floor: float = -1.0,
    kappa: float = 1.0,
    mask: Array | None = None,
    key: Array | None = None,
) -> Result:
    """The loss of M-IQN: weighted mean of the quantile Huber loss of Z(obs, action) to the Munchausen target.

    The target is reward + alpha * clip(temperature * log pi(action), floor, 0) + discount * sum_a pi'[a] (Z'(next_obs,
    a) - temperature * log pi'[a]); pi and pi' are softmax(Q' / temperature) at obs and next_obs, Q' the mean of Z'.

    Args, as at the head of this module, and:
      apply, kappa: as in `quantile_loss`.
      temperature, alpha, floor: as in `jaxql.bellman.munchausen_q_learning`; they may be traced.

    Returns:
      The loss, and (td_errors [N], q_values [N]): mean of the target - mean of Z(obs, action), and the latter.

    Raises:
      ValueError: as `quantile_loss`.

    Source: Vieillard, Pietquin & Geist (2020), equation 2, https://arxiv.org/abs/2007.14430; on quantiles: Dabney et
    al. (2018), equation 3, https://arxiv.org/abs/1806.06923

    >>> table = jnp.array([[[0.0, 0.0], [1.0, 1.0]], [[2.0, 4.0], [2.0, 4.0]]])
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([1]), reward=jnp.array([1.0]),
    ...                   discount=jnp.array([0.5]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> apply = lambda params, obs: (params[obs], ())
    >>> loss, (td_errors, q_values) = munchausen_quantile_loss(table, table, rows, apply)
    >>> print(f"{td_errors[0]:.4f}")  # 1 + 0.5 * (3 + 0.03 * log 2) - 1
    1.5104
    """
    transitions, outputs = _outputs(params, target_params, transitions, apply, False, key)
    before = _call(apply, target_params, transitions.obs, key, 3)
    now, then, before = (_as_quantiles(x) for x in (outputs.now, outputs.value, before))
    target = _munchausen_target(
        then.values,
        _legal(distributional.mean(then.values, _per_action(then)), transitions.next_obs, mask),
        _legal(distributional.mean(before.values, _per_action(before)), transitions.obs),
        transitions.action,
        transitions.reward,
        transitions.discount,
        temperature=temperature,
        alpha=alpha,
        floor=floor,
    )
    return _quantile_result(now, target, then.probs, transitions, kappa)


@batched("AM", "A", "A", "", "", "")
def _munchausen_target(quantiles_t, q_t, q_tm1, a_tm1, r_t, discount_t, *, temperature, alpha, floor):
    """Target quantiles [..., M] of M-IQN, constants."""
    log_policy, log_policy_t = (temperature * jax.nn.log_softmax(q / temperature) for q in (q_tm1, q_t))
    policy_t = jnp.exp(log_policy_t / temperature)
    reward = r_t + alpha * jnp.clip(log_policy[a_tm1], floor, 0)
    v_t = jnp.sum(safe_multiply(policy_t[:, None], quantiles_t - log_policy_t[:, None]), axis=0)
    return jax.lax.stop_gradient(td_target(reward, discount_t, v_t))


def _as_quantiles(output) -> Quantiles:
    """What a quantile network gave, with the fractions of QR-DQN where it gave none."""
    if isinstance(output, tuple):
        return Quantiles(*output)
    return Quantiles(values=output, taus=distributional.midpoints(output.shape[-1]))


def _per_action(quantiles: Quantiles):
    """The probabilities, [M] or [N, A, M], beside values [N, A, M]."""
    if quantiles.probs is None or quantiles.probs.ndim == 1:
        return quantiles.probs
    return jnp.broadcast_to(quantiles.probs[:, None, :], quantiles.values.shape)


def hl_gauss_loss(
    params: Any,
    target_params: Any,
    transitions: Transition,
    apply: Callable,
    *,
    edges: Array,
    sigma: float | None = None,
    double: bool = False,
    mask: Array | None = None,
    key: Array | None = None,
) -> Result:
    """The HL-Gauss loss of a batch: weighted mean of the cross-entropy to hl_gauss(reward + discount * max_a Q').

    Args, as at the head of this module, and:
      apply: its output is logits [N, A, M] of bins; Q is their mean at the centers of the bins.
      edges: [M + 1] of the bins, in ascending order.
      sigma: standard deviation of the Gaussian; 0.75 of the mean width of a bin if None.

    Returns:
      The loss, and (td_errors [N], q_values [N]): the scalar target - Q(obs, action), and Q(obs, action).

    Raises:
      ValueError: the rows of an argument are not N, or mask is not [N, A].

    Source: Farebrother et al. (2024), equations 3.1 and 3.3, https://arxiv.org/abs/2403.03950

    >>> table = jnp.zeros((2, 1, 2))
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([0]), reward=jnp.array([0.5]),
    ...                   discount=jnp.array([0.0]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> apply = lambda params, obs: (params[obs], ())
    >>> loss, (td_errors, q_values) = hl_gauss_loss(table, table, rows, apply, edges=jnp.array([-1.0, 0.0, 1.0]))
    >>> print(loss, td_errors)
    0.6931472 [0.5]
    """
    transitions, logits = _outputs(params, target_params, transitions, apply, double, key)

    def encode(*args):
        return distributional.hl_gauss_target(*args, edges, sigma=sigma)

    return _histogram_loss(logits, distributional.centers(edges), encode, transitions, mask)


def two_hot_loss(
    params: Any,
    target_params: Any,
    transitions: Transition,
    apply: Callable,
    *,
    atoms: Array,
    double: bool = False,
    mask: Array | None = None,
    key: Array | None = None,
) -> Result:
    """The two-hot loss of a batch: weighted mean of the cross-entropy to two_hot(reward + discount * max_a Q').

    As `hl_gauss_loss`, but with `atoms` [M], in ascending order, in place of bins.

    Source: Farebrother et al. (2024), equations 3.1 and 3.2, https://arxiv.org/abs/2403.03950

    >>> table = jnp.zeros((2, 1, 2))
    >>> rows = Transition(obs=jnp.array([0]), action=jnp.array([0]), reward=jnp.array([0.5]),
    ...                   discount=jnp.array([0.0]), next_obs=jnp.array([1]), weight=jnp.ones(1))
    >>> apply = lambda params, obs: (params[obs], ())
    >>> loss, (td_errors, q_values) = two_hot_loss(table, table, rows, apply, atoms=jnp.array([-1.0, 1.0]))
    >>> print(loss, td_errors)
    0.6931472 [0.5]
    """
    transitions, logits = _outputs(params, target_params, transitions, apply, double, key)

    def encode(*args):
        return distributional.two_hot_target(*args, atoms)

    return _histogram_loss(logits, atoms, encode, transitions, mask)


def _histogram_loss(logits: _Outputs, atoms, encode, transitions, mask) -> Result:
    """Cross-entropy to an encoding of a scalar target, `encode(reward, discount, q_t, q_selector)`."""
    q_t, q_selector = (distributional.categorical_mean(x, atoms) for x in (logits.value, logits.selector))
    q_selector = _legal(q_selector, transitions.next_obs, mask)
    target = encode(transitions.reward, transitions.discount, q_t, q_selector)
    taken = _taken(logits.now, transitions.action)
    losses = distributional.cross_entropy(*(_counted(x, transitions.weight) for x in (taken, target)))
    td_errors = _td_errors(distributional.categorical_mean(logits.now, atoms), q_t, q_selector, transitions)
    return weighted_mean(losses, transitions.weight), (td_errors, distributional.categorical_mean(taken, atoms))
