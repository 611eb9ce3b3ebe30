"""The convolutions by matrix products and by oneDNN against XLA's, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql import onednn
from jaxql.convolution import convolve

HERE = onednn.is_here(jnp.result_type(float))
METHODS = ["products", pytest.param("onednn", marks=pytest.mark.skipif(not HERE, reason=f"needs {onednn.NEEDS}"))]
SHAPES = [  # height, width, channels, kernel, stride, features
    (84, 84, 4, 8, 4, 16),
    (20, 20, 16, 4, 2, 32),
    (9, 9, 64, 3, 1, 64),
    (11, 13, 3, 3, 2, 5),  # a kernel that the stride does not divide, and sides that do not fit
    (7, 7, 2, 7, 3, 4),
    (5, 6, 1, 2, 3, 2),  # a stride that skips pixels
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("height", "width", "channels", "size", "stride", "features"), SHAPES)
def test_values_and_gradients_are_xlas(height, width, channels, size, stride, features, method):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, height, width, channels)))
    w = jnp.asarray(rng.normal(size=(size, size, channels, features)) / size)

    def both(method):
        def total(x, w):
            y = convolve(x, w, stride, method)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(x, w)

    tolerance = 1e-10 if x.dtype == jnp.float64 else 1e-4
    for got, want in zip(*(jax.tree.leaves(both(name)) for name in (method, "xla")), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * max(1, np.abs(want).max()))


@pytest.mark.parametrize("method", METHODS)
def test_vmapped_over_kernels_it_is_each_of_them(method):
    rng = np.random.default_rng(1)
    x, w = jnp.asarray(rng.normal(size=(2, 8, 8, 3))), jnp.asarray(rng.normal(size=(4, 4, 4, 3, 5)))
    together = jax.vmap(lambda w: convolve(x, w, 2, method))(w)
    np.testing.assert_allclose(together, jnp.stack([convolve(x, one, 2, "xla") for one in w]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["xla", *METHODS])
@pytest.mark.parametrize(("height", "width", "channels", "size", "stride", "features"), SHAPES)
def test_padding_is_zeros_on_every_side(height, width, channels, size, stride, features, method):
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(2, height, width, channels)))
    w = jnp.asarray(rng.normal(size=(size, size, channels, features)) / size)
    padded = np.zeros((2, height + 2, width + 2, channels))
    padded[:, 1:-1, 1:-1] = x
    want = convolve(jnp.asarray(padded), w, stride, "xla")
    np.testing.assert_allclose(convolve(x, w, stride, method, padding=1), want, rtol=1e-4, atol=1e-4)
