"""Checks of arguments whose values are concrete. A traced value is not checked."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxql.errors import UserError
from jaxql.types import MDP

LIMIT = 2**31 - 1  # steps are counted in int32


def is_concrete(x: object) -> bool:
    """True unless x is traced."""
    return not isinstance(x, Tracer)


def is_one(discount: Any) -> bool:
    """True if the discount is concrete and 1."""
    return is_concrete(discount) and float(discount) == 1


def sum_tolerance(dtype: Any) -> float:
    """Largest distance from 1 accepted of a sum of probabilities of this dtype."""
    return max(1e-5, 4 * float(jnp.finfo(dtype).eps)) if jnp.issubdtype(dtype, jnp.inexact) else 1e-5


def check_discount(discount: Any) -> None:
    if np.ndim(discount) != 0:
        raise UserError(f"discount has shape {np.shape(discount)}; it must be one number; for several, use jax.vmap")
    if is_concrete(discount) and not 0 <= float(discount) <= 1:
        raise UserError(f"discount is {float(discount)}; it must lie in [0, 1]")


def check_policy(mdp: MDP, policy: ArrayLike) -> None:
    shape = np.shape(mdp.probability)[:2]
    if np.shape(policy) not in (shape, shape[:1]):
        raise UserError(f"policy has shape {np.shape(policy)}; it must be {shape[:1]}, actions, or {shape}, their odds")
    if not is_concrete(policy):
        return
    policy = np.asarray(policy)
    if policy.ndim == 1 and (policy.dtype.kind not in "iu" or (policy < 0).any() or (policy >= shape[1]).any()):
        raise UserError(f"policy [S] must hold actions, whole numbers in 0..{shape[1] - 1}; probabilities are [S, A]")
    off, near = np.abs(policy.sum(axis=-1, dtype=np.float64) - 1), sum_tolerance(policy.dtype)
    if policy.ndim == 2 and not ((policy >= 0).all() and (off <= near).all()):
        state = int(np.argmax((policy < 0).any(axis=-1) | ~(off <= near)))
        raise UserError(f"policy has {policy[state].tolist()} in state {state}; probabilities must sum to 1")


def resolve_step_limit(mdp: MDP, step_limit: Any, name: str = "step_limit", others: str = 'None, or "mdp"') -> Any:
    """The step limit as an int, None or a traced number; "mdp" stands for the limit of the model."""
    limit = mdp.step_limit if isinstance(step_limit, str) and step_limit == "mdp" else step_limit
    if limit is None or not is_concrete(limit):
        return limit
    if isinstance(limit, str | bool) or np.ndim(limit) or not (0 <= limit <= LIMIT and int(limit) == limit):
        raise UserError(f"{name} is {limit!r}; it must be a whole number in 0..{LIMIT}, {others}")
    return int(limit)


def check_stopping(tolerance: Any, max_iterations: Any) -> None:
    if is_concrete(tolerance) and not 0 < tolerance < math.inf:
        raise UserError(f"tolerance is {tolerance}; it must be finite and above 0, such as 1e-6")
    if is_concrete(max_iterations) and not 1 <= max_iterations <= LIMIT:
        raise UserError(f"max_iterations is {max_iterations}; it must lie in 1..{LIMIT}")
