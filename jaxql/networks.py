"""Networks as pairs of pure functions; the only file that imports flax."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxql.convolution import convolve
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


class Conv(nn.Module):
    """A convolution [N, H, W, C] -> [N, H', W', features] with bias and without padding; see `convolve`."""

    features: int
    size: int
    stride: int
    method: str = "auto"

    @nn.compact
    def __call__(self, x):
        shape = self.size, self.size, x.shape[-1], self.features
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.result_type(float))
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.result_type(float))
        y = convolve(x, kernel, self.stride, self.method)
        return y + jnp.broadcast_to(bias, y.shape)


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
    channels_first: bool = False  # images are [N, C, H, W], as stacks of frames are, and not [N, H, W, C]
    outputs: int | None = None
    fractions: int = 0  # above 0: so many are drawn, and the result is (quantiles [N, A, K], fractions [N, K])
    dueling: bool = False
    noisy: bool = False
    layer_norm: bool = False
    convolution: str = "auto"  # the method of `convolve`

    @nn.compact
    def __call__(self, obs):
        x = self.features(obs)
        for width in self.hidden[:-1]:
            x = self.activated(Dense(width, param_dtype=x.dtype)(x))
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
        if self.convolutions:
            obs = jnp.moveaxis(obs, -3, -1) if self.channels_first else obs
            obs = obs.astype(dtype) / (255 if obs.dtype == jnp.uint8 else 1)
        x = obs.astype(dtype)
        for convolution in self.convolutions:
            x = self.activated(Conv(*convolution, self.convolution)(x))
        return x.reshape(len(x), -1)

    def activated(self, x):
        return nn.relu(nn.LayerNorm(param_dtype=x.dtype)(x) if self.layer_norm else x)

    def stream(self, x, rows: int):
        """The last hidden layer and the output [..., rows], or [..., rows, outputs]."""
        for width in self.hidden[-1:]:
            x = self.activated(self.dense(width)(x))
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


# features, kernel size and stride of each convolution; width of the hidden layer
NATURE_CNN = ((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512  # Mnih et al. (2015), https://doi.org/10.1038/nature14236
NIPS_CNN = ((16, 8, 4), (32, 4, 2)), 256  # Mnih et al. (2013), https://arxiv.org/abs/1312.5602
MINATAR_CNN = ((16, 3, 1),), 128  # Young & Tian (2019), https://arxiv.org/abs/1903.03176
CNNS = {"nature-cnn": NATURE_CNN, "nips-cnn": NIPS_CNN, "minatar-cnn": MINATAR_CNN}


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
    for _, size, stride in CNNS[name][0]:
        side = (side - size) // stride + 1
    return side > 0


def natural_network(spec: Spec) -> str:
    """The name of the first network that fits: nature-cnn for images, minatar-cnn for small ones, else mlp."""
    return next(name for name in ("nature-cnn", "minatar-cnn", "mlp") if fits(name, spec))


def observation_of(obs):
    """What a network reads of an observation that may carry an action mask."""
    return obs["observation"] if isinstance(obs, dict) and "action_mask" in obs else obs


def make_network(name: str, spec: Spec, hidden: Sequence[int] = (64, 64), **variant) -> Network:
    """The network called `name` ("mlp", or one of `CNNS`) for these worlds.

    Args:
      hidden: widths of the MLP's hidden layers.
      **variant: `outputs`, `fractions`, `dueling`, `noisy`, `layer_norm`, `convolution` of `QNetwork`.
    """
    if name == "mlp":
        return from_flax(QNetwork(spec.num_actions, tuple(hidden), spec.num_states, **variant))
    convolutions, width = CNNS[name]
    images = dict(convolutions=convolutions, channels_first=spec.stack > 1)
    return from_flax(QNetwork(spec.num_actions, (width,), **images, **variant))


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
