"""Keys are addresses; and numbers of JAX's default generator, drawn faster on CPUs.

On CPUs JAX runs the rounds of Threefry in a loop, whose turns cost a few numbers more than the numbers themselves. Here
they are written out for a few, and the numbers are the same.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl, threefry_prng_impl

FEW = 64  # numbers; more are drawn in JAX's loop, for XLA would draw each anew wherever it is broadcast
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def address(key, *places, loops=False):
    """A key for these places (a purpose, a counter, ...): the same draw the same, whoever asks and in whatever order.

    With `loops` as JAX's own are, for a network: rounds written out for each of the keys it derives compile slowly.

    >>> key = jax.random.key(0)
    >>> same = jax.random.fold_in(jax.random.fold_in(key, 3), 14)
    >>> print(jax.random.uniform(address(key, 3, 14)) == jax.random.uniform(same))
    True
    """
    key = key if loops else without_loops(key)
    for place in places:
        key = jax.random.fold_in(key, place)
    return key


def without_loops(key):
    """A key that draws the same numbers as `key`, on CPUs without a loop; a key of another generator stays as it is."""
    default = str(jax.random.key_impl(key)) == "threefry2x32" and jax.config.jax_threefry_partitionable
    if not default or jax.default_backend() != "cpu":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=UNROLLED)


def _threefry(key, high, low):
    """Two words of the shape of `high` and `low`, the counter's. Source: Salmon et al. (2011), section 4.2,
    https://doi.org/10.1145/2063384.2063405
    """
    keys = key[0], key[1], key[0] ^ key[1] ^ np.uint32(0x1BD11BDA)
    x, y = high + keys[0], low + keys[1]
    for i in range(5):
        for rotation in ROTATIONS[i % 2]:
            x = x + y
            y = x ^ (y << np.uint32(rotation) | y >> np.uint32(32 - rotation))
        x, y = x + keys[(i + 1) % 3], y + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x, y


def _counters(shape):
    return jnp.zeros(shape, jnp.uint32), jnp.arange(np.prod(shape, dtype=int), dtype=jnp.uint32).reshape(shape)


def _split(key, shape):
    return jnp.stack(_threefry(key, *_counters(shape)), axis=-1)


def _bits(key, width, shape):
    if np.prod(shape, dtype=int) > FEW:
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
