"""Keys of `derive_key` draw what JAX's own draw."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql.kernels import derive_key, notes, use_private
from jaxql.kernels.keys import without_loops

DRAWS = {
    "uniform": lambda key: jax.random.uniform(key, (3, 5)),
    "normal": lambda key: jax.random.normal(key, (7,)),
    "one": jax.random.uniform,
    "none": lambda key: jax.random.uniform(key, (0,)),
    "integers": lambda key: jax.random.randint(key, (9,), 0, 77),
    "bytes": lambda key: jax.random.bits(key, (6,), jnp.uint8),
    "shuffled": lambda key: jax.random.permutation(key, 10),
    "split": lambda key: jax.random.key_data(jax.random.split(key, (2, 3))),
    "folded": lambda key: jax.random.key_data(jax.random.fold_in(key, 2**32 - 1)),
    "many": lambda key: jax.random.uniform(key, (20, 30)),
    "mapped": lambda key: jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (2,)))(jnp.arange(4)),
}


@pytest.mark.often("integers", "bytes", "normal", "split", "one", "none", "folded")
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_numbers_are_jaxs(draw):
    key = jax.random.key(2**31 + 5)
    np.testing.assert_array_equal(draw(derive_key(key, 5, unrolled=False)), draw(derive_key(key, 5)))
    for f in (draw, jax.jit(draw)):
        np.testing.assert_array_equal(f(without_loops(key)), draw(key))


def test_the_numbers_are_jaxs_within_vmap_scan_and_grad():
    def drawn(derive, key, x):
        def turn(total, place):
            return total + x * jnp.sum(jax.random.normal(derive(key, place), (3,))), None

        return jax.lax.scan(turn, jnp.zeros(()), jnp.arange(4))[0]

    keys, found = jax.random.split(jax.random.key(3), 5), []
    for derive in (derive_key, jax.random.fold_in):
        gradient = jax.grad(functools.partial(drawn, derive), 1)
        found.append(jax.jit(jax.vmap(gradient, (0, None)))(keys, 1.0))
    np.testing.assert_array_equal(*found)


def test_other_generators_are_left_alone():
    key = jax.random.key(0, impl="rbg")
    assert derive_key(key, 1).dtype == key.dtype
    with jax.threefry_partitionable(False):
        assert without_loops(jax.random.key(0)).dtype == jax.random.key(0).dtype


def test_other_platforms_have_jaxs_own_program():
    def loops(derive, platform):
        traced = jax.jit(lambda key: jax.random.uniform(derive(key), (4,))).trace(jax.random.key(0))
        return traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.while")

    def ours(key):
        return derive_key(key, 1)

    def jaxs(key):
        return jax.random.fold_in(key, 1)

    for platform in ("cuda", "tpu"):
        assert loops(ours, platform) == loops(jaxs, platform)
    assert loops(ours, "cpu") == 0 < loops(jaxs, "cpu")


def test_the_switch_leaves_keys_as_they_are():
    use_private(False)
    try:
        key = jax.random.key(0)
        assert derive_key(key, 1).dtype == key.dtype
        assert notes() == ["random numbers on CPUs: JAX's own loop, because private kernels are switched off"]
    finally:
        use_private(True)
    assert notes() == []


def test_a_generator_that_cannot_be_unrolled_is_noted():
    with jax.threefry_partitionable(False):
        derive_key(jax.random.key(0), 1)
    assert notes() == ["random numbers on CPUs: JAX's own loop, because jax_threefry_partitionable is off"]
    derive_key(jax.random.key(0), 1)
    assert notes() == []
