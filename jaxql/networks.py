"""Networks as pairs of pure functions; the only file that imports flax."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxql.types import Network, Spec


def from_flax(module: nn.Module) -> Network:
    """The Network of a flax.linen module that maps observations [N, ...] to action values [N, A]."""

    def apply(params, obs, memory=(), key=None):
        return module.apply(params, obs), memory

    return Network(init=module.init, apply=apply)


Dense = functools.partial(nn.Dense, kernel_init=nn.initializers.he_normal())
Convolution = functools.partial(nn.Conv, padding="VALID", kernel_init=nn.initializers.he_normal())
# Action values start near 0, so that first targets are rewards and not noise.
Values = functools.partial(nn.Dense, kernel_init=nn.initializers.variance_scaling(0.01, "fan_in", "normal"))


class MLP(nn.Module):
    """Fully connected layers with ReLUs between them; observations are flattened, or one-hot where they are indices."""

    num_actions: int
    hidden: Sequence[int] = (64, 64)
    num_states: int | None = None  # observations are indices below it

    @nn.compact
    def __call__(self, obs):
        dtype = jnp.result_type(float)
        x = obs.reshape(obs.shape[0], -1).astype(dtype) if self.num_states is None else None
        x = jax.nn.one_hot(obs, self.num_states, dtype=dtype) if x is None else x
        for width in self.hidden:
            x = nn.relu(Dense(width, param_dtype=dtype)(x))
        return Values(self.num_actions, param_dtype=dtype)(x)


class CNN(nn.Module):
    """Convolutions without padding, one hidden layer, and action values; bytes are scaled from 0 .. 255 to 0 .. 1."""

    num_actions: int
    convolutions: Sequence[tuple[int, int, int]]  # features, kernel size and stride of each
    hidden: int
    channels_first: bool  # observations are [N, C, H, W], as stacks of frames are, and not [N, H, W, C]

    @nn.compact
    def __call__(self, obs):
        dtype = jnp.result_type(float)
        x = jnp.moveaxis(obs, -3, -1) if self.channels_first else obs
        x = x.astype(dtype) / (255 if obs.dtype == jnp.uint8 else 1)
        for features, size, stride in self.convolutions:
            x = nn.relu(Convolution(features, (size, size), stride, param_dtype=dtype)(x))
        x = nn.relu(Dense(self.hidden, param_dtype=dtype)(x.reshape(x.shape[0], -1)))
        return Values(self.num_actions, param_dtype=dtype)(x)


# features, kernel size and stride of each convolution; width of the hidden layer
NATURE_CNN = ((32, 8, 4), (64, 4, 2), (64, 3, 1)), 512  # Mnih et al. (2015), https://doi.org/10.1038/nature14236
NIPS_CNN = ((16, 8, 4), (32, 4, 2)), 256  # Mnih et al. (2013), https://arxiv.org/abs/1312.5602


def is_image(spec: Spec) -> bool:
    """Whether observations are bytes [B, stack, H, W] or [B, H, W, C]."""
    obs = observation_of(spec.obs)
    return isinstance(obs, jax.ShapeDtypeStruct) and obs.dtype == jnp.uint8 and obs.ndim == 4


def observation_of(obs):
    """What a network reads of an observation that may carry an action mask."""
    return obs["observation"] if isinstance(obs, dict) and "action_mask" in obs else obs


def make_network(name: str, spec: Spec, hidden: Sequence[int] = (64, 64)) -> Network:
    """The network called `name` ("mlp", "nature-cnn" or "nips-cnn") for these worlds; `hidden` is the MLP's."""
    if name == "mlp":
        return from_flax(MLP(spec.num_actions, tuple(hidden), spec.num_states))
    convolutions, width = {"nature-cnn": NATURE_CNN, "nips-cnn": NIPS_CNN}[name]
    return from_flax(CNN(spec.num_actions, convolutions, width, channels_first=spec.stack > 1))


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
        q, memory = network.apply(params, observation_of(obs), memory, key)
        if isinstance(obs, dict) and "action_mask" in obs:
            q = jnp.where(obs["action_mask"].astype(bool), q, -jnp.inf)
        return q, memory

    return Network(init=init, apply=apply)
