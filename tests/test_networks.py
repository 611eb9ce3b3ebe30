"""Networks: shapes, dtypes, scaling, sizes of the published ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql.networks import CNN, MLP, from_flax, is_image, make_network, masked
from jaxql.types import Spec

ATARI = Spec(jax.ShapeDtypeStruct((2, 4, 84, 84), jnp.uint8), num_actions=6, num_worlds=2, stack=4)


def size(params):
    return sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # counted by hand from the papers' layers, with biases
        ("nature-cnn", 4 * 64 * 32 + 32 + 32 * 16 * 64 + 64 + 64 * 9 * 64 + 64 + 3136 * 512 + 512 + 512 * 6 + 6),
        ("nips-cnn", 4 * 64 * 16 + 16 + 16 * 16 * 32 + 32 + 2592 * 256 + 256 + 256 * 6 + 6),
    ],
)
def test_convolutional_networks_are_the_papers(name, parameters):
    network = make_network(name, ATARI)
    obs = jnp.zeros((3, 4, 84, 84), jnp.uint8)
    params = network.init(jax.random.key(0), obs)
    assert size(params) == parameters
    q, memory = network.apply(params, obs)
    assert q.shape == (3, 6)
    assert memory == ()
    assert {x.dtype for x in jax.tree.leaves((params, q))} == {jnp.result_type(float)}


def test_bytes_are_scaled_once_and_channels_are_where_they_should_be():
    convolutions = ((2, 3, 1),)
    first = from_flax(CNN(2, convolutions, 4, channels_first=True))
    last = from_flax(CNN(2, convolutions, 4, channels_first=False))
    obs = np.random.default_rng(0).integers(256, size=(2, 4, 8, 8), dtype=np.uint8)
    params = first.init(jax.random.key(0), obs)
    q = first.apply(params, obs)[0]
    np.testing.assert_allclose(last.apply(params, np.moveaxis(obs, 1, -1))[0], q, rtol=1e-5)
    scaled = (obs / 255).astype(q.dtype)
    np.testing.assert_allclose(first.apply(params, scaled)[0], q, rtol=1e-5)


def test_mlp_sees_indices_as_one_hot_and_boxes_flat():
    table = from_flax(MLP(3, hidden=(), num_states=5))
    params = table.init(jax.random.key(0), jnp.zeros(2, jnp.int32))
    kernel = jax.tree.leaves(params)[-1]
    np.testing.assert_allclose(table.apply(params, jnp.array([4, 0]))[0], kernel[jnp.array([4, 0])], rtol=1e-6)
    boxes = from_flax(MLP(3))
    params = boxes.init(jax.random.key(0), jnp.zeros((2, 4, 5)))
    assert boxes.apply(params, jnp.zeros((7, 4, 5)))[0].shape == (7, 3)


def test_images_are_recognised():
    assert is_image(ATARI)
    assert not is_image(ATARI._replace(obs=jax.ShapeDtypeStruct((2, 4), jnp.float32)))
    assert is_image(ATARI._replace(obs={"observation": ATARI.obs, "action_mask": None}))


def test_masks_hide_illegal_actions_from_value_and_gradient():
    network = masked(make_network("mlp", Spec(jax.ShapeDtypeStruct((2, 3), jnp.float32), 4, 2)))
    obs = {"observation": jnp.ones((2, 3)), "action_mask": jnp.array([[1, 1, 0, 0], [0, 1, 1, 1]], jnp.int8)}
    params = network.init(jax.random.key(0), obs)
    q = network.apply(params, obs)[0]
    np.testing.assert_array_equal(jnp.isinf(q), 1 - obs["action_mask"])
    gradient = jax.grad(lambda p: jnp.max(network.apply(p, obs)[0][0]))(params)
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(gradient))
