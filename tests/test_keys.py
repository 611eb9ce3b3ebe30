"""Keys of `jaxql.keys` draw what JAX's own draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql.keys import address, without_loops

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


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_numbers_are_jaxs(draw):
    key = jax.random.key(2**31 + 5)
    np.testing.assert_array_equal(draw(address(key, 5, loops=True)), draw(address(key, 5)))
    for f in (draw, jax.jit(draw)):
        np.testing.assert_array_equal(f(without_loops(key)), draw(key))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="a CPU's generator")
def test_no_loop_is_left():
    program = jax.jit(lambda key: jax.random.uniform(address(key, 1, 2), (4,))).lower(jax.random.key(0))
    assert "while" not in program.as_text()


def test_other_generators_are_left_alone():
    key = jax.random.key(0, impl="rbg")
    assert address(key, 1).dtype == key.dtype
    with jax.threefry_partitionable(False):
        assert without_loops(jax.random.key(0)).dtype == jax.random.key(0).dtype
