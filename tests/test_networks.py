"""Networks: shapes, dtypes, scaling, sizes of the published ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql.networks import (
    Impala,
    NoisyDense,
    QNetwork,
    accepts,
    default_network,
    from_flax,
    is_image,
    make_network,
    shrink_and_perturb,
    with_action_mask,
)
from jaxql.types import EnvSpec, FullQuantiles, Network

ATARI = EnvSpec(jax.ShapeDtypeStruct((2, 4, 84, 84), jnp.uint8), num_actions=6, num_envs=2, stack=4)


def size(params):
    return sum(x.size for x in jax.tree.leaves(params))


def impala_size(width):
    """Parameters of the network of Espeholt et al. (2018), figure 3, right, for 84 x 84 x 4 and 6 actions."""
    total, before = 0, 4
    for channels in (16 * width, 32 * width, 32 * width):
        total += (
            before + 4 * channels
        ) * 9 * channels + 5 * channels  # one convolution, then two in each of two blocks
        before = channels
    return total + 11 * 11 * before * 256 + 256 + 256 * 6 + 6


@pytest.mark.often("nature-cnn-1687206", "der-cnn-203750")
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # counted by hand from the papers' layers, with biases
        ("nature-cnn", 4 * 64 * 32 + 32 + 32 * 16 * 64 + 64 + 64 * 9 * 64 + 64 + 3136 * 512 + 512 + 512 * 6 + 6),
        ("nips-cnn", 4 * 64 * 16 + 16 + 16 * 16 * 32 + 32 + 2592 * 256 + 256 + 256 * 6 + 6),
        ("der-cnn", 4 * 25 * 32 + 32 + 32 * 25 * 64 + 64 + 576 * 256 + 256 + 256 * 6 + 6),
        ("impala-cnn", impala_size(1)),
    ],
)
def test_convolutional_networks_are_the_papers(name, parameters):
    network = make_network(name, ATARI)
    obs = jnp.zeros((3, 4, 84, 84), jnp.uint8)
    params = jax.jit(network.init)(jax.random.key(0), obs)
    assert size(params) == parameters
    q, memory = jax.jit(network.apply)(params, obs)
    assert q.shape == (3, 6)
    assert memory == ()
    assert {x.dtype for x in jax.tree.leaves((params, q))} == {jnp.result_type(float)}


def test_width_multiplies_the_channels_and_dense_width_is_the_hidden_layers():
    obs = jnp.zeros((1, 4, 84, 84), jnp.uint8)
    shapes = jax.eval_shape(make_network("impala-cnn", ATARI, width=2).init, jax.random.key(0), obs)
    assert size(shapes) == impala_size(2)
    network = make_network("der-cnn", ATARI, width=3, dense_width=10)
    modules = jax.eval_shape(network.init, jax.random.key(0), obs)["params"]
    assert [modules[name]["kernel"].shape[-1] for name in ("Conv_0", "Conv_1", "Dense_0")] == [96, 192, 10]


def slow_conv(x, parameters):
    """3 x 3 with zeros around, [H, W, C], by its definition."""
    kernel, (height, width, _) = np.asarray(parameters["kernel"], np.float64), x.shape
    y = np.zeros((height, width, kernel.shape[-1])) + np.asarray(parameters["bias"])
    for i, j, u, v in np.ndindex(height, width, 3, 3):
        if 0 <= i + u - 1 < height and 0 <= j + v - 1 < width:
            y[i, j] += x[i + u - 1, j + v - 1] @ kernel[u, v]
    return y


def slow_pool(x):
    """The maximum of every second 3 x 3 patch; an odd row of padding goes below and to the right."""
    height, width = (-(-side // 2) for side in x.shape[:2])
    first = [((side - 1) * 2 + 3 - full) // 2 for side, full in zip((height, width), x.shape, strict=False)]
    y = np.empty((height, width, x.shape[-1]))
    for i, j in np.ndindex(height, width):
        top, left = 2 * i - first[0], 2 * j - first[1]
        y[i, j] = x[max(top, 0) : top + 3, max(left, 0) : left + 3].max((0, 1))
    return y


@pytest.mark.often("matmul")
@pytest.mark.parametrize("method", ["xla", "matmul"])
def test_impala_is_its_figure(method):
    module = Impala((2, 3), method)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 8, 9, 2))
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape), module.init(jax.random.key(0), jnp.asarray(x))
    )
    got = module.apply(params, jnp.asarray(x))
    for image, one in zip(x, got, strict=True):
        layers = iter(f"Conv_{i}" for i in range(10))
        for _ in range(2):
            image = slow_pool(slow_conv(image, params["params"][next(layers)]))
            for _ in range(2):
                inner = slow_conv(np.maximum(image, 0), params["params"][next(layers)])
                image = image + slow_conv(np.maximum(inner, 0), params["params"][next(layers)])
        np.testing.assert_allclose(one, np.maximum(image, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.often("mlp")
@pytest.mark.parametrize("name", ["nature-cnn", pytest.param("impala-cnn", marks=pytest.mark.slow), "mlp"])
def test_shrinking_keeps_a_share_of_convolutions_alone(name):
    spec = ATARI._replace(obs=jax.ShapeDtypeStruct((2, 4, 40, 40), jnp.uint8))
    network = make_network(name, spec, (8, 8), layer_norm=True, dueling=True, dense_width=8)
    obs = jnp.zeros(spec.obs.shape, jnp.uint8)
    old, new = (jax.jit(network.init)(jax.random.key(seed), obs) for seed in (0, 1))
    old, new = (jax.tree.map(lambda x, i=i: x + i, tree) for i, tree in enumerate((old, new)))  # biases too
    mixed = shrink_and_perturb(old, new, 0.25)["params"]
    encoders = {
        "nature-cnn": [f"{kind}_{i}" for kind in ("Conv", "LayerNorm") for i in range(3)],
        "impala-cnn": ["Impala_0"],
        "mlp": [],
    }[name]
    assert set(mixed) > set(encoders)
    for module in mixed:
        share = 0.25 if module in encoders else 0.0
        want = jax.tree.map(lambda x, y, a=share: a * x + (1 - a) * y, old["params"][module], new["params"][module])
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), mixed[module], want)


def images(*shape, dtype=bool, stack=1):
    return EnvSpec(jax.ShapeDtypeStruct((2, *shape), dtype), num_actions=3, num_envs=2, stack=stack)


@pytest.mark.parametrize("dtype", [bool, jnp.float32, jnp.uint8])
def test_minatars_network_is_the_papers(dtype):
    spec, obs = images(10, 10, 4, dtype=dtype), jnp.ones((3, 10, 10, 4), dtype)
    assert is_image(spec) and default_network(spec) == "minatar-cnn"
    network = make_network("minatar-cnn", spec)
    params = network.init(jax.random.key(0), obs)
    assert size(params) == 9 * 4 * 16 + 16 + 8 * 8 * 16 * 128 + 128 + 128 * 3 + 3  # counted by hand, with biases
    assert network.apply(params, obs)[0].shape == (3, 3)


@pytest.mark.often("matmul")
@pytest.mark.parametrize("method", ["auto", "matmul"])
def test_bfloat16_rounds_what_convolutions_multiply_and_nothing_else(method):
    rng = np.random.default_rng(5)
    spec = EnvSpec(jax.ShapeDtypeStruct((4, 4, 84, 84), jnp.uint8), num_actions=3, num_envs=4, stack=4)
    obs = jnp.asarray(rng.integers(256, size=spec.obs.shape, dtype=np.uint8))
    exact, rounded = (
        make_network("nips-cnn", spec, convolution=method, bfloat16=bfloat16) for bfloat16 in (False, True)
    )
    params = exact.init(jax.random.key(0), obs)

    def both(network):
        f = jax.value_and_grad(lambda params: jnp.sum(network.apply(params, obs)[0] ** 2))
        return jax.tree.leaves(jax.jit(f)(params))

    assert jax.tree.structure(rounded.init(jax.random.key(0), obs)) == jax.tree.structure(params)
    for got, want in zip(both(rounded), both(exact), strict=True):
        assert got.dtype == want.dtype == jnp.result_type(float)
        error = jnp.linalg.norm((got - want).ravel()) / jnp.linalg.norm(want.ravel())
        assert 1e-5 < error < 0.1


@pytest.mark.often("minatar-cnn", "nature-cnn")
@pytest.mark.parametrize("name", ["nature-cnn", "nips-cnn", "minatar-cnn", "impala-cnn"])
def test_the_smallest_image_that_accepts(name):
    """`accepts` is whether the network can be built at all, for every side up to 40."""
    for side in range(1, 41):
        spec = images(4, side, 40, dtype=jnp.uint8, stack=4)
        network = make_network(name, spec)
        try:
            shapes = jax.eval_shape(network.init, jax.random.key(0), spec.obs)
            built = all(x.size for x in jax.tree.leaves(shapes))
        except Exception:  # of XLA, flax or the initialiser
            built = False
        assert accepts(name, spec) == built, side


def test_auto_takes_the_first_network_that_accepts():
    assert default_network(ATARI) == default_network(images(36, 36, 3, dtype=jnp.uint8)) == "nature-cnn"
    assert default_network(images(84, 84, 3, dtype=jnp.float32)) == "nature-cnn"
    assert default_network(images(2, 2, 3)) == "mlp"


@pytest.mark.trust(8)
def test_bytes_are_scaled_once_and_channels_are_where_they_should_be():
    convolutions = ((2, 3, 1),)
    first = from_flax(QNetwork(2, (4,), convolutions=convolutions, channels_first=True))
    last = from_flax(QNetwork(2, (4,), convolutions=convolutions, channels_first=False))
    obs = np.random.default_rng(0).integers(256, size=(2, 4, 8, 8), dtype=np.uint8)
    params = first.init(jax.random.key(0), obs)
    q = first.apply(params, obs)[0]
    np.testing.assert_allclose(last.apply(params, np.moveaxis(obs, 1, -1))[0], q, rtol=1e-5)
    scaled = (obs / 255).astype(q.dtype)
    np.testing.assert_allclose(first.apply(params, scaled)[0], q, rtol=1e-5)


def test_mlp_sees_indices_as_one_hot_and_boxes_flat():
    table = from_flax(QNetwork(3, hidden=(), num_states=5))
    params = table.init(jax.random.key(0), jnp.zeros(2, jnp.int32))
    kernel = jax.tree.leaves(params)[-1]
    np.testing.assert_allclose(table.apply(params, jnp.array([4, 0]))[0], kernel[jnp.array([4, 0])], rtol=1e-6)
    boxes = from_flax(QNetwork(3))
    params = boxes.init(jax.random.key(0), jnp.zeros((2, 4, 5)))
    assert boxes.apply(params, jnp.zeros((7, 4, 5)))[0].shape == (7, 3)


def test_images_are_recognised():
    assert is_image(ATARI)
    assert not is_image(ATARI._replace(obs=jax.ShapeDtypeStruct((2, 4), jnp.float32)))
    assert is_image(ATARI._replace(obs={"observation": ATARI.obs, "action_mask": None}))


def test_masks_hide_illegal_actions_from_value_and_gradient():
    network = with_action_mask(make_network("mlp", EnvSpec(jax.ShapeDtypeStruct((2, 3), jnp.float32), 4, 2)))
    obs = {"observation": jnp.ones((2, 3)), "action_mask": jnp.array([[1, 1, 0, 0], [0, 1, 1, 1]], jnp.int8)}
    params = network.init(jax.random.key(0), obs)
    q = network.apply(params, obs)[0]
    np.testing.assert_array_equal(jnp.isinf(q), 1 - obs["action_mask"])
    gradient = jax.grad(lambda p: jnp.max(network.apply(p, obs)[0][0]))(params)
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(gradient))


BOX = EnvSpec(jax.ShapeDtypeStruct((2, 3), jnp.float32), 4, 2)
OBS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


@pytest.mark.often("variant1-shape1", "variant3-shape3")
@pytest.mark.parametrize(
    ("variant", "shape"),
    [
        (dict(), (5, 4)),
        (dict(outputs=7), (5, 4, 7)),
        (dict(outputs=7, dueling=True, noisy=True, layer_norm=True), (5, 4, 7)),
        (dict(fractions=6), (5, 4, 6)),
        (dict(fractions=6, dueling=True, noisy=True), (5, 4, 6)),
    ],
)
def test_variants_have_the_shape_a_head_needs_and_draw_only_with_a_key(variant, shape):
    network = make_network("mlp", BOX, (16, 8), **variant)
    params = network.init(jax.random.key(0), OBS)
    first, again, keyed, same, other = (
        network.apply(params, OBS, key=key)[0] for key in (None, None, *map(jax.random.key, (1, 1, 2)))
    )
    if "fractions" in variant:
        np.testing.assert_allclose(first[1][0], (np.arange(6) + 0.5) / 6, rtol=1e-6)
        assert first[1].shape == (5, 6)
        assert np.unique(keyed[1]).size == 30, "each row draws its own fractions"
        first, again, keyed, same, other = (output[0] for output in (first, again, keyed, same, other))
    assert first.shape == shape
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(keyed, same)
    assert np.any(keyed != other) == ("noisy" in variant or "fractions" in variant)


def test_advantages_of_a_dueling_network_average_to_nothing():
    network = make_network("mlp", BOX, (16,), dueling=True)
    params = network.init(jax.random.key(0), OBS)
    values = params["params"]["Dense_3"]  # streams in order: advantages (hidden, output), then the value
    assert values["kernel"].shape == (16, 1)
    shifted = jax.tree.map(lambda x: x, params)
    shifted["params"]["Dense_1"]["bias"] += 5.0  # the same for all advantages: it changes nothing
    np.testing.assert_allclose(network.apply(shifted, OBS)[0], network.apply(params, OBS)[0], atol=1e-6)
    shifted["params"]["Dense_3"]["bias"] += 5.0
    np.testing.assert_allclose(network.apply(shifted, OBS)[0], network.apply(params, OBS)[0] + 5, atol=1e-5)


def test_noise_is_the_papers_and_one_for_the_batch():
    layer = NoisyDense(20)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 30)), float)
    params = layer.init(jax.random.key(0), x)
    weights = params["params"]
    np.testing.assert_allclose(weights["kernel_sigma"], 0.5 / np.sqrt(30), rtol=1e-6)
    assert np.abs(weights["kernel"]).max() <= 1 / np.sqrt(30)
    draws = jax.vmap(lambda key: layer.apply(params, x, rngs={"draws": key}))(
        jax.random.split(jax.random.key(1), 20_000)
    )
    mean = layer.apply(params, x)
    twice = layer.apply(params, jnp.stack([x[0], x[0]]), rngs={"draws": jax.random.key(3)})
    np.testing.assert_allclose(twice[0], twice[1], rtol=1e-6)
    noise = np.asarray(draws) - np.asarray(mean)
    # f(e)**2 = |e|, so the variance is sigma**2 E|e_out| (sum_i x_i**2 E|e_in| + 1)
    half = np.sqrt(2 / np.pi)
    expected = 0.25 / 30 * half * (np.sum(x**2, axis=-1) * half + 1)
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=5 * np.sqrt(expected.max() / 20_000))
    np.testing.assert_allclose(noise.var(axis=0).mean(axis=-1), expected, rtol=0.05)


@pytest.mark.often("variant0-gru", "variant1-lstm")
@pytest.mark.parametrize("core", ["lstm", "gru"])
@pytest.mark.parametrize("variant", [dict(), dict(dueling=True, layer_norm=True, outputs=5)])
def test_a_recurrent_network_remembers_and_zeros_are_a_fresh_memory(core, variant):
    network = make_network("mlp", BOX, (16, 8), core=core, core_width=6, **variant)
    params = network.init(jax.random.key(0), OBS)
    output, memory = network.apply(params, OBS)
    assert output.shape == ((5, 4, 5) if variant else (5, 4))
    assert {(x.shape, x.dtype) for x in jax.tree.leaves(memory)} == {((5, 6), jnp.result_type(float))}
    fresh = network.apply(params, OBS, jax.tree.map(jnp.zeros_like, memory))
    jax.tree.map(np.testing.assert_array_equal, fresh, (output, memory))
    later, _ = network.apply(params, OBS, memory)
    assert np.all(np.any(later != output, axis=-1)), "the same is seen, but not for the first time"
    alone = network.apply(params, OBS[1:2], jax.tree.map(lambda x: x[1:2], memory))[0]
    np.testing.assert_allclose(alone[0], later[1], rtol=1e-4, atol=1e-7)


PROPOSING = [dict(), dict(dueling=True, layer_norm=True), dict(noisy=True, dueling=True)]


def proposal(params):
    """The layer that proposes fractions: the one as wide as there are of them, 6."""
    return next(x for name, x in params["params"].items() if name.startswith("Dense") and x["bias"].shape == (6,))


def proposing(variant, seed=0):
    """A network that proposes 6 fractions, far from even ones, and its parameters."""
    network = make_network("mlp", BOX, (16, 8), fractions=6, proposes=True, **variant)
    params = network.init(jax.random.key(seed), OBS)
    layer = proposal(params)
    layer["kernel"] += 100 * jax.random.normal(jax.random.key(seed), layer["kernel"].shape, layer["kernel"].dtype)
    return network, params


@pytest.mark.often("variant0")
@pytest.mark.parametrize("variant", PROPOSING)
def test_proposed_fractions_ascend_from_0_to_1_and_differ_from_row_to_row(variant):
    network, params = proposing(variant)
    output = network.apply(params, OBS)[0]
    assert isinstance(output, FullQuantiles)
    assert [x.shape for x in output] == [(5, 4, 6), (5, 7), (5, 4, 5)]
    assert {x.dtype for x in output} == {jnp.result_type(float)}
    assert np.all(output.edges[:, 0] == 0) and np.all(output.edges[:, -1] == 1)
    assert np.all(np.diff(output.edges) >= 0) and np.all(np.std(output.edges[:, 1:-1], axis=0) > 1e-3)
    again = network.apply(params, OBS, key=jax.random.key(1))[0]
    assert np.any(again.values != output.values) == ("noisy" in variant), "it draws noise, and no fractions"
    np.testing.assert_array_equal(again.edges, output.edges)


@pytest.mark.parametrize("variant", PROPOSING)
def test_values_and_values_at_edges_are_one_quantile_function(variant):
    """With edges 0 0 0 1 1 1 1 the midpoints are 0 0 1/2 1 1 1, and both are evaluated at 0 and at 1."""
    network, params = proposing(variant)
    layer = proposal(params)
    layer["kernel"] = jnp.zeros_like(layer["kernel"])
    layer["bias"] = jnp.array([0.0, 0.0, 1e9, 0.0, 0.0, 0.0], layer["bias"].dtype)
    output = network.apply(params, OBS, key=jax.random.key(2))[0]
    np.testing.assert_array_equal(output.edges[0], [0, 0, 0, 1, 1, 1, 1])
    for edge, middle in ((0, 0), (1, 1), (2, 3), (4, 5)):
        np.testing.assert_allclose(output.at_edges[..., edge], output.values[..., middle], rtol=1e-5, atol=1e-6)
    assert np.any(np.abs(output.values[..., 3] - output.values[..., 0]) > 1e-5)


@pytest.mark.often("variant2")
@pytest.mark.parametrize("variant", PROPOSING)
def test_quantiles_send_no_gradient_to_the_proposal_nor_it_to_the_trunk(variant):
    network, params = proposing(variant)
    own = next(name for name, x in params["params"].items() if x is proposal(params))

    def moved(part):
        """The modules into which the gradient of a part of the output flows."""
        f = jax.grad(lambda params: jnp.sum(jnp.sin(7 * part(network.apply(params, OBS)[0]))))
        slopes = jax.jit(f)(params)["params"]
        return {name for name in slopes if any(np.any(x) for x in jax.tree.leaves(slopes[name]))}

    assert moved(lambda output: output.edges) == {own}
    for part in (lambda output: output.values, lambda output: output.at_edges):
        assert moved(part) == set(params["params"]) - {own}


def test_values_at_edges_cost_nothing_where_they_are_not_read():
    network, params = proposing(dict())

    def dots(read):
        lowered = jax.jit(lambda params: read(network.apply(params, OBS)[0])).lower(params)
        return lowered.compile().as_text().count(" dot(")

    assert dots(lambda output: output.values) < dots(lambda output: (output.values, output.at_edges))


@pytest.mark.often("variant0")
@pytest.mark.parametrize("variant", [dict(), dict(proposes=True)])
def test_masks_hide_quantiles_and_leave_fractions(variant):
    """Even where there are as many fractions as actions."""
    obs = {"observation": OBS, "action_mask": np.tile([True, False, True, True], (5, 1))}
    network = make_network("mlp", BOX, (16, 8), fractions=4, **variant)
    params = network.init(jax.random.key(0), OBS)
    bare, output = network.apply(params, OBS)[0], with_action_mask(network).apply(params, obs)[0]
    assert type(output) is type(bare)
    for x, y in zip(output, bare, strict=True):
        if x.ndim == 3:
            assert np.all(x[:, 1] == -np.inf)
            x, y = x[:, ::2], y[:, ::2]
        np.testing.assert_array_equal(x, y)


def test_masks_hide_every_logit_of_an_action():
    say = Network(init=None, apply=lambda params, obs, memory=(), key=None: (jnp.zeros((5, 4, 3)), memory))
    obs = {"observation": OBS, "action_mask": np.tile([1, 0, 1, 1], (5, 1))}
    output = with_action_mask(say).apply((), obs)[0]
    np.testing.assert_array_equal(jnp.isinf(output), np.tile(np.array([0, 1, 0, 0])[:, None], (5, 1, 3)))
