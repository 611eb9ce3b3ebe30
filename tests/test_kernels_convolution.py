"""The convolutions by matrix products and by oneDNN against XLA's, in value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql.kernels import convolve, notes, onednn, use_private

WHY_NOT = onednn.unavailable(jnp.result_type(float))
METHODS = ["auto", "matmul", pytest.param("onednn", marks=pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT))]
SHAPES = [  # height, width, channels, kernel, stride, features
    (84, 84, 4, 8, 4, 16),
    (20, 20, 16, 4, 2, 32),
    (9, 9, 64, 3, 1, 64),
    (11, 13, 3, 3, 2, 5),  # a kernel that the stride does not divide, and sides that do not fit
    (7, 7, 2, 7, 3, 4),
    (5, 6, 1, 2, 3, 2),  # a stride that skips pixels
]


@pytest.mark.often(
    "20-20-16-4-2-32-auto",
    "9-9-64-3-1-64-matmul",
    "7-7-2-7-3-4-matmul",
    "11-13-3-3-2-5-onednn",
    "84-84-4-8-4-16-onednn",
    "5-6-1-2-3-2-onednn",
)
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


@pytest.mark.often(
    "7-7-2-7-3-4-matmul", "5-6-1-2-3-2-xla", "84-84-4-8-4-16-auto", "9-9-64-3-1-64-onednn", "20-20-16-4-2-32-matmul"
)
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


def trained_by_vmap(w, x):
    """Gradients of two convolutions, vmapped over their kernels: as of many seeds."""

    def loss(w, x):
        return jnp.sum(convolve(jnp.sin(convolve(x, w, 2)), w, 1) ** 2)

    return jax.vmap(jax.grad(loss), (0, None))(w, x)


def test_many_kernels_are_matrix_products_on_other_platforms():
    """Where XLA is slow with many kernels; with one kernel it is XLA's own convolution."""
    w, x = jnp.ones((5, 3, 3, 4, 4)), jnp.ones((2, 9, 9, 4))
    many, one = jax.jit(trained_by_vmap).trace(w, x), jax.jit(lambda w, x: convolve(x, w, 2)).trace(w[0], x)
    for platform in ("cuda", "tpu"):
        assert "stablehlo.convolution" not in many.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.convolution" in one.lower(lowering_platforms=(platform,)).as_text()


def test_what_other_platforms_compute_is_the_same(monkeypatch):
    """Their branch of the choice, run here: alone, and vmapped over images, over kernels, and over both."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    rng = np.random.default_rng(5)
    x, w = jnp.asarray(rng.normal(size=(3, 2, 9, 9, 4))), jnp.asarray(rng.normal(size=(5, 3, 3, 4, 4)))

    def gradients(method, x, w):
        return jax.grad(lambda x, w: jnp.sum(jnp.sin(convolve(x, w, 2, method, padding=1))), (0, 1))(x, w)

    for axes in ([], [(0, None)], [(None, 0)], [(0, None), (None, 0)], [(None, 0), (0, None)]):
        args = x if (0, None) in axes else x[0], w if (None, 0) in axes else w[0]
        found = []
        for method in ("auto", "xla"):
            f = functools.partial(gradients, method)
            for each in axes:
                f = jax.vmap(f, each)
            found.append(jax.jit(f)(*args))
        for got, want in zip(*found, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_the_switch_leaves_no_private_call():
    args = jnp.ones((1, 6, 6, 2)), jnp.ones((3, 3, 2, 4))
    use_private(False)
    try:
        assert "custom_call" not in jax.jit(lambda x, w: convolve(x, w, 1)).lower(*args).as_text()
        assert notes() == ["convolutions on CPUs: matrix products, because private kernels are switched off"]
        with pytest.raises(ValueError, match='convolution "onednn" cannot be used: private kernels are switched off'):
            convolve(*args, 1, "onednn")
    finally:
        use_private(True)


@pytest.mark.skipif(not onednn.is_available(jnp.float32), reason="needs oneDNN")
def test_programs_for_several_devices_have_no_private_call():
    args = jnp.ones((1, 6, 6, 2), jnp.float32), jnp.ones((3, 3, 2, 4), jnp.float32)
    mesh = jax.sharding.AbstractMesh((2,), ("envs",))
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(lambda x, w: convolve(x, w, 1)).trace(*args)
    assert "custom_call" not in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert notes()[0].endswith("matrix products, because a program for several devices cannot divide oneDNN's work")
