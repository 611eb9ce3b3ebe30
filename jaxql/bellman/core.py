"""How an equation for one transition becomes one for any batch, and what all equations share."""

import functools
import inspect

import jax
import jax.numpy as jnp


def batched(*core_ranks: int):
    """Batches an equation written for one transition or sequence, whose leading parameters have these ranks.

    The axes before the core are the batch: the same for all arguments, or absent. Anything else raises ValueError, for
    a reward of [B, 1] beside values of [B, A] would silently give errors of [B, B]. Parameters after the leading ones
    are options, shared by the whole batch. Integers and booleans are promoted where the equation computes with them.
    """

    def decorate(equation):
        signature = inspect.signature(equation)
        names = list(signature.parameters)[: len(core_ranks)]

        @functools.wraps(equation)
        def call(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            arrays = [jnp.asarray(bound.arguments.pop(name)) for name in names]
            batches = [x.shape[: max(x.ndim - rank, 0)] for x, rank in zip(arrays, core_ranks, strict=True)]
            full = next(filter(None, batches), ())
            for name, x, rank, batch in zip(names, arrays, core_ranks, batches, strict=True):
                if x.ndim < rank or batch not in ((), full):
                    raise ValueError(
                        f"{equation.__name__}: {name} has shape {x.shape}; it needs {rank} axes of its own, and before "
                        f"them the batch axes {full} of the other arguments, or none"
                    )
            mapped = functools.partial(equation, **bound.arguments)
            for _ in full:
                mapped = jax.vmap(mapped, [0 if batch else None for batch in batches])
            return mapped(*arrays)

        return call

    return decorate


def product(factor, x):
    """factor * x, where 0 times an infinity or a NaN is 0."""
    return factor * jnp.where((factor == 0) & ~jnp.isfinite(x), 0, x)


def bootstrap(r_t, discount_t, v_t):
    """r_t + discount_t * v_t; past an end (discount 0) not even an infinite v_t counts."""
    return r_t + product(discount_t, v_t)


def stopped(target, stop):
    """The target as a constant where `stop` is true, which may be traced."""
    return jnp.where(stop, jax.lax.stop_gradient(target), target)


def same_length(**sequences):
    """Raises ValueError unless all sequences have the same length."""
    lengths = {name: x.shape[0] for name, x in sequences.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"sequences must have one length T, got {lengths}")
