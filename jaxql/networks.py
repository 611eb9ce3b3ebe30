"""Networks as pairs of pure functions; the only file that imports flax."""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxql.kernels import convolve
from jaxql.types import Network, Spec

Dense = functools.partial(nn.Dense, kernel_init=nn.initializers.he_normal())
# Action values start near 0, so that first targets are rewards and not noise.
Values = functools.partial(nn.Dense, kernel_init=nn.initializers.variance_scaling(0.01, "fan_in", "normal"))


def from_flax(module: nn.Module) -> Network:
    """The Network of a flax.linen module that maps observations [N, ...] to action values [N, A].

    A key given to `apply` feeds the random stream "draws" of the module; without one it draws nothing.
    """

    def apply(params, obs, memory=(), key=None):
        return module.apply(params, obs, rngs=None if key is None else {"draws": key}), memory

    return Network(init=module.init, apply=apply)


def activated(x, layer_norm: bool):
    """ReLU of x, normalised before if asked for."""
    return nn.relu(nn.LayerNorm(param_dtype=x.dtype)(x) if layer_norm else x)


def recurrent_from_flax(module: nn.Module) -> Network:
    """The Network of a flax.linen module (observations [N, ...], memory) -> (action values [N, A], memory)."""

    def apply(params, obs, memory=(), key=None):
        return module.apply(params, obs, memory, rngs=None if key is None else {"draws": key})

    return Network(init=module.init, apply=apply)


class Conv(nn.Module):
    """A convolution [N, H, W, C] -> [N, H', W', features] with bias; see `convolve`.

    With `bfloat16` what it multiplies is rounded to that; its parameters, input and output are not.
    """

    features: int
    size: int
    stride: int
    method: str = "auto"
    padding: int = 0
    bfloat16: bool = False
    kernel_init: Callable = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x):
        shape = self.size, self.size, x.shape[-1], self.features
        kernel = self.param("kernel", self.kernel_init, shape, jnp.result_type(float))
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.result_type(float))
        dtype = jnp.bfloat16 if self.bfloat16 else x.dtype
        y = convolve(x.astype(dtype), kernel.astype(dtype), self.stride, self.method, self.padding).astype(x.dtype)
        return y + jnp.broadcast_to(bias, y.shape)


class Impala(nn.Module):
    """Stages that halve the image [N, H, W, C]: a convolution, a maximum of 3 x 3 pixels, and two residual blocks.

    Source: Espeholt et al. (2018), figure 3, right, https://arxiv.org/abs/1802.01561
    """

    stages: Sequence[int]  # channels of each
    method: str = "auto"
    layer_norm: bool = False
    bfloat16: bool = False

    @nn.compact
    def __call__(self, x):
        for channels in self.stages:
            # Half the variance of other layers, for every block adds to what it is given.
            init = nn.initializers.lecun_normal()
            conv = functools.partial(Conv, channels, 3, 1, self.method, 1, self.bfloat16, init)
            x = nn.max_pool(conv()(x), (3, 3), (2, 2), "SAME")
            for _ in range(2):
                y = conv()(activated(x, self.layer_norm))
                x = x + conv()(activated(y, self.layer_norm))
        return activated(x, self.layer_norm)


class NoisyDense(nn.Module):
    """A dense layer whose weights are mean + sigma * noise, factorised, the same noise for the whole batch.

    y = (W + S * f(e_out) f(e_in)^T) x + b + s * f(e_out), f(e) = sign(e) sqrt(|e|), e standard normal; without a
    stream "draws" the noise is 0. Source: Fortunato et al. (2018), section 3, https://arxiv.org/abs/1706.10295
    """

    features: int
    sigma: float = 0.5

    @nn.compact
    def __call__(self, x):
        width, dtype = x.shape[-1], jnp.result_type(float)
        spread, sigma = width**-0.5, nn.initializers.constant(self.sigma * width**-0.5)

        def uniform(key, shape, dtype):
            return jax.random.uniform(key, shape, dtype, -spread, spread)

        kernel = self.param("kernel", uniform, (width, self.features), dtype)
        bias = self.param("bias", uniform, (self.features,), dtype)
        kernel_sigma = self.param("kernel_sigma", sigma, (width, self.features), dtype)
        bias_sigma = self.param("bias_sigma", sigma, (self.features,), dtype)
        y = x @ kernel
        y = y + jnp.broadcast_to(bias, y.shape)
        if not self.has_rng("draws"):
            return y
        noise = jax.random.normal(self.make_rng("draws"), (width + self.features,), dtype)
        noise = jnp.sign(noise) * jnp.sqrt(jnp.abs(noise))
        e_in, e_out = jnp.broadcast_to(noise[:width], x.shape), jnp.broadcast_to(noise[width:], y.shape)
        return y + ((x * e_in) @ kernel_sigma + jnp.broadcast_to(bias_sigma, y.shape)) * e_out


class QNetwork(nn.Module):
    """Convolutions, hidden layers with ReLUs, and what a head needs: [N, A], or [N, A, outputs].

    Observations are flattened, or one-hot where they are indices; bytes are scaled from 0 .. 255 to 0 .. 1. All but
    the last hidden layer are the trunk; that and the output layer make a stream, of which a dueling network has two.

    Sources: dueling: Wang et al. (2016), equation 9, https://arxiv.org/abs/1511.06581; fractions: Dabney et al. (2018),
    equation 4, https://arxiv.org/abs/1806.06923
    """

    num_actions: int
    hidden: Sequence[int] = (64, 64)
    num_states: int | None = None  # observations are indices below it
    convolutions: Sequence[tuple[int, int, int]] = ()  # features, kernel size and stride of each
    stages: Sequence[int] = ()  # channels of the stages of `Impala`, in their place
    channels_first: bool = False  # images are [N, C, H, W], as stacks of frames are, and not [N, H, W, C]
    outputs: int | None = None
    fractions: int = 0  # above 0: so many are drawn, and the result is (quantiles [N, A, K], fractions [N, K])
    dueling: bool = False
    noisy: bool = False
    layer_norm: bool = False
    convolution: str = "auto"  # the method of `convolve`
    bfloat16: bool = False  # convolutions multiply in it; see `Conv`

    @nn.compact
    def __call__(self, obs):
        return self.head(self.trunk(obs))

    def trunk(self, obs):
        """What the streams read, [N, F]."""
        x = self.features(obs)
        for width in self.hidden[:-1]:
            x = activated(Dense(width, param_dtype=x.dtype)(x), self.layer_norm)
        return x

    def head(self, x):
        """The streams' output, of what the trunk gives."""
        if self.fractions:
            taus = self.taus(len(x), x.dtype)
            waves = jnp.cos(jnp.pi * jnp.arange(64)[None, None] * taus[..., None])  # [N, K, 64]
            x = x[:, None] * nn.relu(Dense(x.shape[-1], param_dtype=x.dtype)(waves))
        y = self.stream(x, self.num_actions)
        if self.dueling:
            y = y - jnp.mean(y, axis=x.ndim - 1, keepdims=True) + self.stream(x, 1)
        return (jnp.swapaxes(y, 1, 2), taus) if self.fractions else y

    def features(self, obs):
        """What the hidden layers read, [N, F]."""
        dtype = jnp.result_type(float)
        if self.num_states is not None:
            return jax.nn.one_hot(obs, self.num_states, dtype=dtype)
        if self.convolutions or self.stages:
            obs = jnp.moveaxis(obs, -3, -1) if self.channels_first else obs
            obs = obs.astype(dtype) / (255 if obs.dtype == jnp.uint8 else 1)
        x = obs.astype(dtype)
        for convolution in self.convolutions:
            x = activated(Conv(*convolution, self.convolution, bfloat16=self.bfloat16)(x), self.layer_norm)
        if self.stages:
            x = Impala(self.stages, self.convolution, self.layer_norm, self.bfloat16)(x)
        return x.reshape(len(x), -1)

    def stream(self, x, rows: int):
        """The last hidden layer and the output [..., rows], or [..., rows, outputs]."""
        for width in self.hidden[-1:]:
            x = activated(self.dense(width)(x), self.layer_norm)
        values = self.dense if self.noisy else Values
        y = values(rows * (self.outputs or 1), **({} if self.noisy else {"param_dtype": x.dtype}))(x)
        return y if self.outputs is None else y.reshape(*y.shape[:-1], rows, self.outputs)

    def dense(self, width: int):
        return NoisyDense(width) if self.noisy else Dense(width, param_dtype=jnp.result_type(float))

    def taus(self, batch: int, dtype):
        """Fractions [N, K]: drawn, or without a stream "draws" the midpoints of K equal parts."""
        if self.has_rng("draws"):
            return jax.random.uniform(self.make_rng("draws"), (batch, self.fractions), dtype)
        return jnp.broadcast_to(
            (jnp.arange(self.fractions, dtype=dtype) + 0.5) / self.fractions, (batch, self.fractions)
        )


class RecurrentQNetwork(QNetwork):
    """A `QNetwork` with a recurrent core between its trunk and its streams; (obs, memory) -> (output, memory).

    The memory of an LSTM is a pair of [N, core_width], of a GRU one of them; () is that of an episode's start, zeros.

    Source: Kapturowski et al. (2019), section 2.3, https://openreview.net/pdf?id=r1lyTjAqYX
    """

    core: str = "lstm"  # or "gru"
    core_width: int = 128

    @nn.compact
    def __call__(self, obs, memory=()):
        x = self.trunk(obs)
        make = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}[self.core]
        cell = make(self.core_width, param_dtype=x.dtype)
        if not jax.tree.leaves(memory):
            memory = cell.initialize_carry(jax.random.key(0), x.shape)
        memory, x = cell(memory, x)
        return self.head(x), memory


CONVOLUTIONAL = {  # features, kernel size and stride of each convolution; width of the hidden layer
    # Mnih et al. (2015), https://doi.org/10.1038/nature14236
    "nature-cnn": (((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512),
    # Mnih et al. (2013), https://arxiv.org/abs/1312.5602
    "nips-cnn": (((16, 8, 4), (32, 4, 2)), 256),
    # van Hasselt et al. (2019), https://arxiv.org/abs/1906.05243
    "der-cnn": (((32, 5, 5), (64, 5, 5)), 256),
    # Young & Tian (2019), https://arxiv.org/abs/1903.03176
    "minatar-cnn": (((16, 3, 1),), 128),
}


def is_image(spec: Spec) -> bool:
    """Whether observations are bytes [B, stack, H, W] or [B, H, W, C], or small [B, H, W, C] of any dtype."""
    obs = observation_of(spec.obs)
    image = isinstance(obs, jax.ShapeDtypeStruct) and obs.ndim == 4
    return image and (obs.dtype == jnp.uint8 or max(obs.shape[1:3]) < 36 and spec.stack == 1)


def fits(name: str, spec: Spec) -> bool:
    """Whether the network called `name` can read these observations: its convolutions must not outgrow an image.

    >>> minatar = Spec(jax.ShapeDtypeStruct((1, 10, 10, 4), bool), num_actions=3, num_worlds=1)
    >>> fits("nature-cnn", minatar), fits("minatar-cnn", minatar)
    (False, True)
    """
    if name == "mlp" or not is_image(spec):
        return name == "mlp"
    side = min(observation_of(spec.obs).shape[2:] if spec.stack > 1 else observation_of(spec.obs).shape[1:3])
    for _, size, stride in CONVOLUTIONAL.get(name, [()])[0]:  # impala-cnn pads: it reads any image
        side = (side - size) // stride + 1
    return side > 0


def natural_network(spec: Spec) -> str:
    """The name of the first network that fits: nature-cnn for images, minatar-cnn for small ones, else mlp."""
    return next(name for name in ("nature-cnn", "minatar-cnn", "mlp") if fits(name, spec))


def observation_of(obs):
    """What a network reads of an observation that may carry an action mask."""
    return obs["observation"] if isinstance(obs, dict) and "action_mask" in obs else obs


def make_network(
    name: str, spec: Spec, hidden: Sequence[int] = (64, 64), *, width: int = 1, dense_width: int = 0, **variant
) -> Network:
    """The network called `name` ("mlp", "impala-cnn" or one of `CONVOLUTIONAL`) for these worlds.

    Args:
      hidden: widths of the MLP's hidden layers.
      width: multiplies the channels of convolutions.
      dense_width: of the hidden layer behind convolutions; 0 for its own.
      **variant: `outputs`, `fractions`, `dueling`, `noisy`, `layer_norm`, `convolution`, `bfloat16` of `QNetwork`; with
        `core` and `core_width` it is a `RecurrentQNetwork`.
    """
    wrapped, module = (recurrent_from_flax, RecurrentQNetwork) if "core" in variant else (from_flax, QNetwork)
    if name == "mlp":
        return wrapped(module(spec.num_actions, tuple(hidden), spec.num_states, **variant))
    if name == "impala-cnn":
        own, layers = 256, dict(stages=(16 * width, 32 * width, 32 * width))
    else:
        convolutions, own = CONVOLUTIONAL[name]
        layers = dict(convolutions=tuple((width * features, *shape) for features, *shape in convolutions))
    return wrapped(module(spec.num_actions, (dense_width or own,), channels_first=spec.stack > 1, **layers, **variant))


def shrunk(params, fresh, keep):
    """`fresh` parameters of a network; those of a `QNetwork`'s convolutions keep * params + (1 - keep) * fresh.

    The layer norms of convolutions are theirs. Other networks have no convolutions.

    Source: Schwarzer et al. (2023), section 3, https://arxiv.org/abs/2305.19452

    >>> params, fresh = ({"params": {"Conv_0": x, "Dense_0": x}} for x in (1.0, 3.0))
    >>> shrunk(params, fresh, 0.25)
    {'params': {'Conv_0': 2.5, 'Dense_0': 3.0}}
    """
    modules = fresh.get("params", {}) if isinstance(fresh, dict) else {}
    convolutions = [name for name in modules if name.startswith("Conv_")]
    norms = [f"LayerNorm_{i}" for i in range(len(convolutions))]
    kept = [name for name in (*convolutions, *norms, "Impala_0") if name in modules]
    mixed = {
        name: jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, params["params"][name], modules[name])
        for name in kept
    }
    return fresh | {"params": modules | mixed} if kept else fresh


def masked(network: Network) -> Network:
    """The network on observations that may be {"observation", "action_mask"}: illegal actions are worth -inf.

    >>> ones = Network(init=lambda key, obs: (), apply=lambda params, obs, memory=(), key=None: (obs * 0 + 1.0, memory))
    >>> obs = {"observation": jnp.zeros((1, 2)), "action_mask": jnp.array([[1, 0]])}
    >>> print(masked(ones).apply((), obs)[0])
    [[  1. -inf]]
    """

    def init(key, obs):
        return network.init(key, observation_of(obs))

    def apply(params, obs, memory=(), key=None):
        output, memory = network.apply(params, observation_of(obs), memory, key)
        if isinstance(obs, dict) and "action_mask" in obs:
            values, *fractions = output if isinstance(output, tuple) else (output,)
            mask = obs["action_mask"].astype(bool).reshape(values.shape[:2] + (1,) * (values.ndim - 2))
            values = jnp.where(mask, values, -jnp.inf)
            output = (values, *fractions) if fractions else values
        return output, memory

    return Network(init=init, apply=apply)
