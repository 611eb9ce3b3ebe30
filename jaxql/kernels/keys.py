"""Keys derived from places, and JAX's default random numbers without a loop on CPUs.

On CPUs JAX runs the rounds of Threefry in a loop. For a few numbers its turns cost more than the numbers themselves.
Here the rounds are written out, and the numbers are the same.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl, threefry2x32_p, threefry_prng_impl

from jaxql.kernels import private
from jaxql.types import Array

FEW = 64  # numbers; more are drawn in JAX's loop, for XLA would draw each anew wherever it is broadcast
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def derive_key(key: Array, *places: Array | int, unrolled: bool = True) -> Array:
    """Returns a key for these places (a purpose, a counter, ...): the same key for the same places.

    Args:
      key: any JAX key.
      *places: whole numbers that are folded in, one after another.
      unrolled: write out the rounds of the generator on CPUs. False suits a key from which a network draws its
        parameters: rounds that are written out for each of many keys compile slowly.

    >>> key = jax.random.key(0)
    >>> same = jax.random.fold_in(jax.random.fold_in(key, 3), 14)
    >>> print(jax.random.uniform(derive_key(key, 3, 14)) == jax.random.uniform(same))
    True
    """
    fast = without_loops(key)  # in any case: `notes` tells before the first key that wants it is derived
    key = fast if unrolled else key
    for place in places:
        key = jax.random.fold_in(key, place)
    return key


def without_loops(key: Array) -> Array:
    """Returns a key that draws what `key` draws, on CPUs without a loop. Keys of other generators stay as they are."""
    if str(jax.random.key_impl(key)) != "threefry2x32":
        return key
    reason = "" if private.private_is_used() else private.SWITCHED_OFF
    reason = reason or ("" if jax.threefry_partitionable.value else "jax_threefry_partitionable is off")
    private.note("keys", f"random numbers on CPUs: JAX's own loop, because {reason}" if reason else None)
    return key if reason else jax.random.wrap_key_data(jax.random.key_data(key), impl=UNROLLED)


def _threefry(key, high, low):
    """Two words of the shape of `high` and `low`, the words of the counter."""
    return jax.lax.platform_dependent(
        key[0], key[1], high, low, cpu=_written_out, default=lambda *words: tuple(threefry2x32_p.bind(*words))
    )


def _written_out(key_high, key_low, high, low):
    """Threefry-2x32 with 20 rounds.

    Source: Salmon et al. (2011), section 4.2, https://doi.org/10.1145/2063384.2063405
    """
    keys = key_high, key_low, key_high ^ key_low ^ np.uint32(0x1BD11BDA)
    x, y = high + keys[0], low + keys[1]
    for i in range(5):
        for rotation in ROTATIONS[i % 2]:
            x = x + y
            y = x ^ (y << np.uint32(rotation) | y >> np.uint32(32 - rotation))
        x, y = x + keys[(i + 1) % 3], y + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x, y


def _counters(shape):
    return jnp.zeros(shape, jnp.uint32), jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)


def _split(key, shape):
    return jnp.stack(_threefry(key, *_counters(shape)), axis=-1)


def _bits(key, width, shape):
    if math.prod(shape) > FEW:
        return threefry_prng_impl.random_bits(key, width, shape)
    high, low = _threefry(key, *_counters(shape))
    dtype = f"uint{width}"
    return high.astype(dtype) << 32 | low.astype(dtype) if width == 64 else (high ^ low).astype(dtype)


def _fold_in(key, number):
    return jnp.stack(_threefry(key, jnp.uint32(0), jnp.asarray(number).astype(jnp.uint32)))


UNROLLED = define_prng_impl(
    key_shape=(2,),
    seed=threefry_prng_impl.seed,
    split=_split,
    random_bits=_bits,
    fold_in=_fold_in,
    name="threefry2x32_unrolled",
    tag="fru",
)
