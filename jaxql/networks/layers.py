"""Layers: convolutions, residual stages, noisy and dense layers."""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxql.kernels import convolve
from jaxql.types import Array

Dense = functools.partial(nn.Dense, kernel_init=nn.initializers.he_normal())

# Action values start near 0, so that first targets are rewards and not noise.
Values = functools.partial(nn.Dense, kernel_init=nn.initializers.variance_scaling(0.01, "fan_in", "normal"))


def activated(x: Array, layer_norm: bool) -> Array:
    """Returns the ReLU of x, with layer normalisation before it if asked for."""
    return nn.relu(nn.LayerNorm(param_dtype=x.dtype)(x) if layer_norm else x)


class Conv(nn.Module):
    """A convolution [N, H, W, C] -> [N, H', W', features] with bias; see `convolve`.

    With `bfloat16` the factors of its products are rounded to that; its parameters, input and output are not.
    """

    features: int
    size: int
    stride: int
    method: str = "auto"
    padding: int = 0
    bfloat16: bool = False
    kernel_init: Callable = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x: Array) -> Array:
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
    def __call__(self, x: Array) -> Array:
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
    def __call__(self, x: Array) -> Array:
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
