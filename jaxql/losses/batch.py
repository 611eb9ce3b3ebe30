"""The needs of every loss of a batch: checked rows, weighted means, legal actions, the output of the action taken."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.bellman.arguments import as_real, check_actions
from jaxql.bellman.core import promoted, safe_multiply, select_action
from jaxql.types import Array, Transition


def weighted_mean(x: Array, weight: Array) -> Array:
    """Returns sum(w x) / sum(w) over [N]: rows of weight 0 do not count, whatever they hold; 0 if there are no others.

    Args:
      x, weight: [N] each.

    Raises:
      ValueError: they differ in shape.

    Source: Sutton & Barto (2018), equation 5.6, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(weighted_mean(jnp.array([1.0, 3.0, 99.0]), jnp.array([1.0, 1.0, 0.0])))
    2.0
    """
    x, weight = promoted(as_real("weighted_mean: x", x), as_real("weighted_mean: weight", weight))
    if x.shape != weight.shape:
        raise ValueError(f"weighted_mean: weight has shape {weight.shape}; it needs that of x, {x.shape}")
    return jnp.sum(safe_multiply(weight, x)) / jnp.maximum(jnp.sum(weight), jnp.finfo(x.dtype).tiny)


def checked_rows(transitions: Transition) -> Transition:
    """Returns the transitions, with zeros in place of what rows of weight 0 hold.

    Only next_obs stays as it is: no gradient flows through it.

    Raises:
      ValueError: a field lacks the N rows of the actions, or actions are no integers; the message names it.
    """
    shape = np.shape(as_real("action", transitions.action))
    if len(shape) != 1:
        raise ValueError(f"action has shape {shape}; it needs [N], an action for each row")
    check_actions("action", jnp.asarray(transitions.action))
    for name in ("reward", "discount", "weight"):
        if as_real(name, getattr(transitions, name)).shape != shape:
            raise ValueError(f"{name} has shape {np.shape(getattr(transitions, name))}; it needs {shape}, as action")
    for name in ("obs", "next_obs"):
        for leaf in jax.tree.leaves(getattr(transitions, name)):
            if np.shape(leaf)[:1] != shape:
                raise ValueError(f"{name} has shape {np.shape(leaf)}; it needs {shape[0]} rows, as action")
    weight = jnp.asarray(transitions.weight)
    action, reward, discount = (
        where_rows(weight != 0, jnp.asarray(x)) for x in (transitions.action, transitions.reward, transitions.discount)
    )
    obs = where_counted(weight != 0, transitions.obs)
    return transitions._replace(obs=obs, action=action, reward=reward, discount=discount, weight=weight)


def where_rows(keep: Array, tree: Any) -> Any:
    """Returns a tree of arrays [N, ...] with zeros in the rows where `keep` [N] is False.

    >>> print(where_rows(jnp.array([True, False]), jnp.array([[1.0, 2.0], [jnp.nan, 4.0]])))
    [[1. 2.]
     [0. 0.]]
    """
    return jax.tree.map(lambda x: jnp.where(keep.reshape(keep.shape + (1,) * (x.ndim - 1)), x, 0), tree)


def where_counted(keep: Array, obs: Any) -> Any:
    """Returns observations [N, ...] with zeros in the rows where `keep` [N] is False, unless they are integers.

    A NaN there would spoil even a gradient that is multiplied by 0. Integers, images for instance, hold none.

    >>> floats, integers = where_counted(jnp.array([True, False]), (jnp.array([1.0, jnp.nan]), jnp.array([2, 3])))
    >>> print(floats, integers)
    [1. 0.] [2 3]
    """

    def kept(x: Array) -> Array:
        return where_rows(keep, x) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(kept, jax.tree.map(jnp.asarray, obs))


def legal(q: Array, obs: Any, mask: Array | None = None) -> Array:
    """Returns action values [N, A] with illegal actions at -inf.

    Args:
      q: [N, A].
      obs: observations; `obs["action_mask"]`, where there is one, names the legal actions.
      mask: [N, A], which replaces that of the observations.

    Raises:
      ValueError: the mask is not [N, A].

    >>> print(legal(jnp.array([[1.0, 2.0]]), None, mask=jnp.array([[1, 0]])))
    [[  1. -inf]]
    """
    if mask is None and isinstance(obs, dict):
        mask = obs.get("action_mask")
    if mask is None:
        return q
    if jnp.shape(mask) != q.shape:
        raise ValueError(f"mask has shape {jnp.shape(mask)}; it needs that of the action values, {q.shape}")
    return jnp.where(jnp.asarray(mask, bool), q, -jnp.inf)


def of_action(outputs: Array, action: Array) -> Array:
    """Returns the outputs [N, ...] of the actions taken [N], of outputs [N, A, ...].

    `jaxql.bellman.checked` reports an invalid action.

    >>> print(of_action(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, 0])))
    [2. 3.]
    """
    place = select_action(jnp.broadcast_to(jnp.arange(outputs.shape[1]), outputs.shape[:2]), action)
    return jnp.take_along_axis(outputs, place.reshape(-1, *[1] * (outputs.ndim - 1)), axis=1)[:, 0]
