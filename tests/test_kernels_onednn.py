"""What convolutions by oneDNN have of their own; their numbers are compared with the other methods' elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql.kernels import convolve, matmul, notes, onednn

WHY_NOT = onednn.unavailable(jnp.result_type(float))
here = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@here
def test_a_gradient_by_parts_is_the_whole():
    """Of 96 images, whose kernel's gradient is summed over three parts, and in a loop."""
    rng = np.random.default_rng(2)
    x, w = jnp.asarray(rng.normal(size=(96, 8, 8, 3))), jnp.asarray(rng.normal(size=(4, 4, 3, 5)))

    def into_w(convolve):
        gradient = jax.grad(lambda w: jnp.sum(jnp.sin(convolve(x, w, 2))))
        return jax.jit(lambda w: jax.lax.scan(lambda w, _: (w - 1e-3 * gradient(w), None), w, None, 2)[0])(w)

    np.testing.assert_allclose(into_w(onednn.convolve), into_w(matmul.convolve), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not onednn.is_available(jnp.bfloat16), reason="needs a CPU that multiplies bfloat16")
@pytest.mark.parametrize("images", [3, 512])  # the second in two parts
def test_bfloat16_products_have_float32_sums(images):
    """So that an error is that of rounding inputs and result, 2**-9 each, however many terms a sum has."""
    rng = np.random.default_rng(4)
    x, w, g = (
        jnp.asarray(rng.uniform(size=shape), jnp.bfloat16)
        for shape in ((images, 6, 6, 8), (3, 3, 8, 4), (images, 4, 4, 4))
    )

    def parts(x, w, g):
        y, pull = jax.vjp(lambda x, w: onednn.convolve(x, w, 1), x, w)
        return y, *pull(g)

    exact = jax.jit(parts)(*(a.astype(jnp.float32) for a in (x, w, g)))
    for got, want in zip(jax.jit(parts)(x, w, g), exact, strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2**-8)


@here
@pytest.mark.parametrize("fault", ["wrong", "refused"])
def test_wrong_numbers_and_refused_calls_are_reasons_not_to_use_it(monkeypatch, fault):
    """A jaxlib that has changed what the name stands for, or that no longer knows it."""
    call = onednn._call

    def changed(*args, **options):
        if fault == "refused":
            raise RuntimeError("unknown target\nmore")
        return call(*args, **options) + 1

    onednn._fault.cache_clear()
    monkeypatch.setattr(onednn, "_call", changed)
    try:
        x, w = jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 1))
        np.testing.assert_array_equal(jax.jit(lambda x: convolve(x, w, 2))(x), jnp.full((1, 2, 2, 1), 4.0))
        reason = {"wrong": "oneDNN's numbers are wrong with this jaxlib"}.get(
            fault, "oneDNN cannot be called with this jaxlib (unknown target)"
        )
        assert notes() == [f"convolutions on CPUs: matrix products, because {reason}"]
        with pytest.raises(ValueError, match="cannot be used"):
            convolve(x, w, 2, "onednn")
    finally:
        onednn._fault.cache_clear()


@here
def test_the_first_use_may_be_within_any_trace():
    """The test of its numbers runs while a program is traced, whatever transforms that."""
    for transform in (jax.jit, jax.vmap, jax.grad, jax.checkpoint):
        onednn._fault.cache_clear()
        f = transform(lambda x: jnp.sum(convolve(x * jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 1)), 2)))
        f(jnp.ones(3) if transform is jax.vmap else jnp.ones(()))
        assert onednn.is_available(jnp.float32)
