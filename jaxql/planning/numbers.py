"""Sums, roundings and dtypes. Planners compute in float64, whatever JAX's default, and round once at the end."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxql.planning.arguments import is_concrete
from jaxql.types import MDP, Array, Scalar


def in_float64(f: Callable[..., Any], *args: Any, slope: Callable[..., Any] | None = None) -> Any:
    """f(*args), computed inside `jax.enable_x64`.

    Reverse mode differentiates slope(result, *args) in its place; without `slope`, f itself. The pullback is made and
    called inside `jax.enable_x64` too, with float64 arguments. Outside of it JAX would transpose f in float32.
    """

    def inside(f):
        def call(*args):
            with jax.enable_x64(True):
                return f(*args)

        return call

    def forward(*args):
        result = f(*args)
        return result, (args, result)

    def backward(kept, change):
        args, result = kept
        _, pull = jax.vjp(f if slope is None else partial(slope, result), *_wide(args))
        leaves, like = jax.tree.flatten(args)
        slopes = zip(leaves, like.flatten_up_to(pull(change)), strict=True)
        return like.unflatten([s.astype(x.dtype) if _is_float(x) else None for x, s in slopes])

    if all(is_concrete(x) for x in jax.tree.leaves(args)):
        return inside(f)(*args)
    run = jax.custom_vjp(inside(f))
    run.defvjp(inside(forward), inside(backward))
    return inside(run)(*args)


def _is_float(x):
    return jnp.issubdtype(x.dtype, jnp.floating)


def _wide(tree):
    return jax.tree.map(lambda x: to_float64(x) if _is_float(x) else x, tree)


def where_legal(legal: Array | None, x: Array, otherwise: Scalar) -> Array:
    """x where an action is legal; x itself if all are."""
    return x if legal is None else jnp.where(legal, x, otherwise)


def pairwise_sum(x: Array) -> Array:
    """Sum over the last axis by halves: the error grows with log2(K), that of a running sum with K."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x = jnp.concatenate([x[..., :half] + x[..., half : 2 * half], x[..., 2 * half :]], axis=-1)
    return x[..., 0]


def lowest_argmax(q: Array) -> Array:
    """argmax over the last axis, lowest index on ties, int32 throughout.

    An outer jit without float64 cannot lower `jnp.argmax` of a float64 array.
    """
    action = jax.lax.broadcasted_iota(jnp.int32, q.shape, q.ndim - 1)
    best = q == jnp.max(q, axis=-1, keepdims=True)
    return jnp.min(jnp.where(best, action, jnp.int32(q.shape[-1] - 1)), axis=-1)


def rounded(x: Array, dtype: Any) -> Array:
    """x rounded to the precision of `dtype`, still float64. XLA may drop a pair of conversions, so none is made."""
    return x if dtype == jnp.float64 else jax.lax.reduce_precision(x, jnp.finfo(dtype).nexp, jnp.finfo(dtype).nmant)


def rounding_error(x: Array, dtype: Any) -> Array:
    """Largest change of x by rounding it to `dtype`."""
    return jnp.max(jnp.abs(x - rounded(x, dtype)))


def dtype_rounding(dtype: Any) -> tuple[float, float]:
    """(relative, absolute) rounding error of a number of this dtype; the absolute one counts for tiny numbers.

    The absolute error is half of the smallest number, or the smallest number that a conversion to float64 keeps if
    that is larger.
    """
    kept = jnp.finfo(jnp.promote_types(dtype, jnp.float32)).tiny
    return float(jnp.finfo(dtype).eps) / 2, max(float(jnp.finfo(dtype).smallest_subnormal) / 2, float(kept))


def answer_dtype(mdp: MDP) -> Any:
    """The dtype of the rewards as a float, outside float64 mode: that of the answer."""
    return jnp.result_type(0.0, mdp.reward)


def to_float64(x: Any) -> Any:
    """A number, or the floats of an MDP, as float64. The step limit of an MDP is dropped."""
    if isinstance(x, MDP):
        floats = {name: to_float64(getattr(x, name)) for name in ("probability", "reward", "start")}
        others = {name: jnp.asarray(getattr(x, name)) for name in ("next_state", "ends")}
        legal = None if x.legal is None else jnp.asarray(x.legal)
        return x._replace(step_limit=None, legal=legal, **others, **floats)
    return jax.lax.convert_element_type(x, np.float64)


def policy_to_float64(policy: ArrayLike) -> Array:
    """A policy [S] as it is, or [S, A] as float64 probabilities that sum to 1."""
    policy = jnp.asarray(policy)
    return policy if policy.ndim == 1 else to_float64(policy) / jnp.sum(to_float64(policy), axis=-1, keepdims=True)


def policy_probabilities(policy: Array, num_actions: int) -> Array:
    """Probabilities [S, A] of a policy [S] or [S, A]."""
    return policy if policy.ndim == 2 else jax.nn.one_hot(policy, num_actions, dtype=jnp.float64)


def normalise(mdp: MDP) -> MDP:
    """The model with probabilities that sum to 1.

    Three thirds in float32 sum to 1.00000003, an error that compounds at discount 1.
    """
    return mdp._replace(probability=mdp.probability / pairwise_sum(mdp.probability)[..., None])


def cast_floats(tree: Any, dtype: Any) -> Any:
    """The pytree with its floats as `dtype`."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
