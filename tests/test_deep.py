"""What deep agents share, against optax."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxql.agents import deep


@pytest.mark.parametrize("most", [0.5, 100.0])
def test_a_gradient_above_the_limit_is_scaled_down_to_it(most):
    rng = np.random.default_rng(0)
    gradient = {"kernel": jnp.asarray(rng.normal(size=(7, 3))), "bias": jnp.asarray(rng.normal(size=3))}
    got, _ = deep.limited(most).update(gradient, deep.limited(most).init(gradient))
    want, _ = optax.clip_by_global_norm(most).update(gradient, optax.EmptyState())
    for name in gradient:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-6)
    np.testing.assert_allclose(deep.norm(gradient), optax.tree.norm(gradient), rtol=1e-6)


def test_a_gradient_of_zeros_stays():
    got, _ = deep.limited(1.0).update({"x": jnp.zeros(3)}, optax.EmptyState())
    np.testing.assert_array_equal(got["x"], np.zeros(3))
