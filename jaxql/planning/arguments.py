"""Checks of arguments whose values are concrete. A traced value is not checked."""

import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxql.errors import UserError
from jaxql.types import MDP

LIMIT = 2**31 - 1  # steps are counted in int32
BELOW_1 = math.nextafter(1, 0)


def is_concrete(x: object) -> bool:
    """True unless x, or an array in it, is traced."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(x))


def is_one(discount: Any) -> bool:
    """True if the discount is concrete and 1."""
    return is_concrete(discount) and float(discount) == 1


def sum_tolerance(dtype: Any) -> float:
    """Largest distance from 1 accepted of a sum of probabilities of this dtype."""
    return max(1e-5, 4 * float(jnp.finfo(dtype).eps)) if jnp.issubdtype(dtype, jnp.inexact) else 1e-5


def as_array(name: str, x: Any) -> Any:
    """x as an array of real numbers or bools: itself if it is one, else NumPy's. Raises UserError, naming it."""
    try:
        array = x if isinstance(x, np.ndarray | jax.Array) else np.asarray(x)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} is no array: {' '.join(str(error).split())}") from error
    if not (
        array.dtype == bool or jnp.issubdtype(array.dtype, jnp.integer) or jnp.issubdtype(array.dtype, jnp.floating)
    ):
        raise UserError(f"{name} has dtype {array.dtype}; it must hold real numbers")
    return array


def check_number(name: str, x: Any, low: float, high: float, allowed: str) -> None:
    """Raises UserError unless x is one real number in [low, high], or traced."""
    if isinstance(x, str | bytes | None | list | tuple | dict):
        raise UserError(f"{name} is {x!r}; it must be {allowed}")
    if as_array(name, x).ndim != 0:
        raise UserError(f"{name} has shape {np.shape(x)}; it must be {allowed}; for several, use jax.vmap")
    if is_concrete(x) and not low <= float(x) <= high:
        raise UserError(f"{name} is {float(x)}; it must be {allowed}")


def check_discount(discount: Any) -> None:
    check_number("discount", discount, 0, 1, "a number in [0, 1]")


def whole_number(name: str, x: Any, low: int, high: int = LIMIT, others: str = "") -> Any:
    """x as an int, or as it is if it is traced. Raises UserError unless it is a whole number in low..high."""
    if isinstance(x, Tracer) and x.ndim == 0 and jnp.issubdtype(x.dtype, jnp.integer):
        return x
    scalar = isinstance(x, numbers.Real) or (isinstance(x, np.ndarray | jax.Array) and x.ndim == 0)
    number = x if scalar else math.nan
    if isinstance(x, Tracer | bool | np.bool_) or not (low <= number <= high and int(number) == number):
        raise UserError(f"{name} is {x!r}; it must be a whole number in {low}..{high}{others}")
    return int(number)


def check_policy(mdp: MDP, policy: ArrayLike) -> Any:
    """The policy as an array. Raises UserError unless it takes legal actions of a model that `check_mdp` returned."""
    shape, found = mdp.probability.shape[:2], as_array("policy", policy)
    if found.shape not in (shape, shape[:1]):
        raise UserError(f"policy has shape {found.shape}; it must be {shape[:1]}, actions, or {shape}, their odds")
    if not is_concrete((found, mdp.legal)):
        return found
    odds = np.asarray(found)
    if odds.ndim == 1 and (odds.dtype.kind not in "iu" or (odds < 0).any() or (odds >= shape[1]).any()):
        raise UserError(f"policy [S] must hold actions, whole numbers in 0..{shape[1] - 1}; probabilities are [S, A]")
    if odds.ndim == 2:
        off, near = np.abs(odds.sum(axis=-1, dtype=np.float64) - 1), sum_tolerance(odds.dtype)
        wrong = (odds < 0).any(axis=-1) | ~(off <= near)
        if wrong.any():
            state = int(np.argmax(wrong))
            raise UserError(f"policy has {odds[state].tolist()} in state {state}; probabilities must sum to 1")
    if mdp.legal is not None:
        legal = np.asarray(mdp.legal)
        taken = odds > 0 if odds.ndim == 2 else odds[:, None] == np.arange(shape[1])
        if (taken & ~legal).any():
            state, action = (int(x) for x in np.argwhere(taken & ~legal)[0])
            others = np.flatnonzero(legal[state]).tolist()
            raise UserError(f"policy takes action {action} in state {state}, whose legal actions are {others}")
    return found


def resolve_step_limit(mdp: MDP, step_limit: Any, name: str = "step_limit", others: str = ', None, or "mdp"') -> Any:
    """The step limit as an int, None or a traced number; "mdp" stands for the limit of the model."""
    limit = mdp.step_limit if isinstance(step_limit, str) and step_limit == "mdp" else step_limit
    return None if limit is None else whole_number(name, limit, 0, others=others)


def check_tolerance(tolerance: Any) -> None:
    if tolerance is not None:
        check_number(
            "tolerance", tolerance, 5e-324, float(np.finfo(float).max), "finite and above 0, such as 1e-6, or None"
        )
