"""Sums, roundings and dtypes: how planners compute in float64 whatever JAX's default, and round once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.planning.arguments import known
from jaxql.types import MDP


def in_float64(f, *args, slope=None):
    """f(*args) inside `jax.enable_x64`; reverse mode differentiates it as slope(result, *args), or as f itself.

    The pullback is made and called inside too, with floats in float64: outside, JAX would transpose what f did to them
    in float32.
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

    if all(known(x) for x in jax.tree.leaves(args)):
        return inside(f)(*args)
    run = jax.custom_vjp(inside(f))
    run.defvjp(inside(forward), inside(backward))
    return inside(run)(*args)


def _is_float(x):
    return jnp.issubdtype(x.dtype, jnp.floating)


def _wide(tree):
    return jax.tree.map(lambda x: double(x) if _is_float(x) else x, tree)


def tree_sum(x):
    """Sum over the last axis by halves: the error grows with log2(K), where one after another it may grow with K."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x = jnp.concatenate([x[..., :half] + x[..., half : 2 * half], x[..., 2 * half :]], axis=-1)
    return x[..., 0]


def lowest_argmax(q):
    """Lowest index of the largest, int32 throughout: an outer jit without float64 cannot lower jnp's argmax of it."""
    action = jax.lax.broadcasted_iota(jnp.int32, q.shape, q.ndim - 1)
    best = q == jnp.max(q, axis=-1, keepdims=True)
    return jnp.min(jnp.where(best, action, jnp.int32(q.shape[-1] - 1)), axis=-1)


def rounded(x, dtype):
    """x as `dtype` will hold it, still float64; two conversions in a row XLA may drop."""
    return x if dtype == jnp.float64 else jax.lax.reduce_precision(x, jnp.finfo(dtype).nexp, jnp.finfo(dtype).nmant)


def rounding(x, dtype):
    return jnp.max(jnp.abs(x - rounded(x, dtype)))


def unit_of(dtype):
    """By how much of itself a number of this dtype was rounded, and by how much at most if it is very small.

    The latter is half of the smallest number, or where conversions to float64 lose more, the smallest they keep.
    """
    kept = jnp.finfo(jnp.promote_types(dtype, jnp.float32)).tiny
    return float(jnp.finfo(dtype).eps) / 2, max(float(jnp.finfo(dtype).smallest_subnormal) / 2, float(kept))


def dtype_of(mdp):
    """The dtype of the answer, as it is outside float64 mode."""
    return jnp.result_type(0.0, mdp.reward)


def double(x):
    """Floats of a pytree as float64; an MDP's bools and indices, and its step limit, stay."""
    if isinstance(x, MDP):
        floats = {name: double(getattr(x, name)) for name in ("probability", "reward", "start")}
        return x._replace(next_state=jnp.asarray(x.next_state), ends=jnp.asarray(x.ends), step_limit=None, **floats)
    return jax.lax.convert_element_type(x, np.float64)


def double_policy(policy):
    policy = jnp.asarray(policy)
    return policy if policy.ndim == 1 else double(policy) / jnp.sum(double(policy), axis=-1, keepdims=True)


def probabilities(policy, num_actions):
    return policy if policy.ndim == 2 else jax.nn.one_hot(policy, num_actions, dtype=jnp.float64)


def normalised(mdp):
    """Thirds in float32 add up to 1.00000003, and undiscounted that compounds."""
    return mdp._replace(probability=mdp.probability / tree_sum(mdp.probability)[..., None])


def round_to(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
