"""What convolutions by oneDNN have of their own; their numbers are compared with the other methods' elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql import onednn
from jaxql.convolution import by_products, convolve


@pytest.mark.skipif(not onednn.is_here(jnp.result_type(float)), reason=f"needs {onednn.NEEDS}")
def test_a_gradient_by_parts_is_the_whole():
    """Of 96 images, whose kernel's gradient is summed over three parts, and in a loop."""
    rng = np.random.default_rng(2)
    x, w = jnp.asarray(rng.normal(size=(96, 8, 8, 3))), jnp.asarray(rng.normal(size=(4, 4, 3, 5)))

    def into_w(convolve):
        gradient = jax.grad(lambda w: jnp.sum(jnp.sin(convolve(x, w, 2))))
        return jax.jit(lambda w: jax.lax.scan(lambda w, _: (w - 1e-3 * gradient(w), None), w, None, 2)[0])(w)

    np.testing.assert_allclose(into_w(onednn.convolve), into_w(by_products), rtol=1e-4, atol=1e-4)


def test_where_onednn_cannot_be_auto_does_without_and_asking_for_it_is_refused():
    x, w = jnp.ones((1, 4, 4, 1), jnp.bfloat16), jnp.ones((2, 2, 1, 1), jnp.bfloat16)
    assert convolve(x, w, 2).shape == (1, 2, 2, 1)
    with pytest.raises(ValueError, match="needs float32 on one x86 CPU device"):
        convolve(x, w, 2, "onednn")
