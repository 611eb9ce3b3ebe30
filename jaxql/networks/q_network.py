"""The Q-network: convolutions, hidden layers, and the outputs that a head needs."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxql import distributional
from jaxql.networks.layers import Conv, Dense, Impala, NoisyDense, Values, activated
from jaxql.types import FullQuantiles, Network

# Keeps proposed fractions nearly even at first, and makes an optimiser move them slowly: FQF's own rate for them is
# far below that of the rest.
PROPOSAL_SCALE = 0.01


def from_flax(module: nn.Module) -> Network:
    """Returns the Network of a flax.linen module that maps observations [N, ...] to action values [N, A].

    A key given to `apply` feeds the random stream "draws" of the module; without one it draws nothing.
    """

    def apply(params, obs, memory=(), key=None):
        return module.apply(params, obs, rngs=None if key is None else {"draws": key}), memory

    return Network(init=module.init, apply=apply)


class QNetwork(nn.Module):
    """Convolutions, hidden layers with ReLUs, and the outputs of a head: [N, A], or [N, A, outputs].

    Observations are flattened, or one-hot where they are indices; bytes are scaled from 0 .. 255 to 0 .. 1. All but
    the last hidden layer are the trunk; that and the output layer make a stream, of which a dueling network has two.

    Sources: dueling: Wang et al. (2016), equation 9, https://arxiv.org/abs/1511.06581; fractions: Dabney et al. (2018),
    equation 4, https://arxiv.org/abs/1806.06923; proposed ones: Yang et al. (2019), section 3.4,
    https://arxiv.org/abs/1911.02140
    """

    num_actions: int
    hidden: Sequence[int] = (64, 64)
    num_states: int | None = None  # observations are indices below it
    convolutions: Sequence[tuple[int, int, int]] = ()  # features, kernel size and stride of each
    stages: Sequence[int] = ()  # channels of the stages of `Impala`, in their place
    channels_first: bool = False  # images are [N, C, H, W], as stacks of frames are, and not [N, H, W, C]
    outputs: int | None = None
    fractions: int = 0  # above 0: so many are drawn, and the result is (quantiles [N, A, K], fractions [N, K])
    proposes: bool = False  # the fractions are proposed, not drawn, and the result is `FullQuantiles`
    dueling: bool = False
    noisy: bool = False
    layer_norm: bool = False
    convolution: str = "auto"  # the method of `convolve`
    bfloat16: bool = False  # convolutions multiply in it; see `Conv`

    @nn.compact
    def __call__(self, obs):
        return self.head(self.trunk(obs))

    def trunk(self, obs):
        """Returns the features [N, F] that the streams read."""
        x = self.features(obs)
        for width in self.hidden[:-1]:
            x = activated(Dense(width, param_dtype=x.dtype)(x), self.layer_norm)
        return x

    def head(self, x):
        """Returns the streams' output for the trunk's features."""
        if not self.fractions:
            return self.streams(x)
        if not self.proposes:
            taus = self.taus(len(x), x.dtype)
            return jnp.swapaxes(self.streams(self.at(x, taus)), 1, 2), taus
        # One call of the streams, for parameters are made once: K midpoints, then K - 1 inner edges.
        logits = PROPOSAL_SCALE * Dense(self.fractions, param_dtype=x.dtype)(jax.lax.stop_gradient(x))
        edges, middles = distributional.fractions(logits)
        taus = jax.lax.stop_gradient(jnp.concatenate([middles, edges[:, 1:-1]], axis=-1))
        y = jnp.swapaxes(self.streams(self.at(x, taus)), 1, 2)
        return FullQuantiles(y[..., : self.fractions], edges, y[..., self.fractions :])

    def at(self, x, taus):
        """Returns the features [N, K, F] of quantiles at the fractions [N, K]."""
        waves = jnp.cos(jnp.pi * jnp.arange(64)[None, None] * taus[..., None])  # [N, K, 64]
        return x[:, None] * nn.relu(Dense(x.shape[-1], param_dtype=x.dtype)(waves))

    def streams(self, x):
        """Returns [..., A] or [..., A, outputs] for features [..., F]."""
        y = self.stream(x, self.num_actions)
        if self.dueling:
            y = y - jnp.mean(y, axis=x.ndim - 1, keepdims=True) + self.stream(x, 1)
        return y

    def features(self, obs):
        """Returns the flat inputs [N, F] of the hidden layers."""
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
        """Returns the last hidden layer's output [..., rows], or [..., rows, outputs]."""
        for width in self.hidden[-1:]:
            x = activated(self.dense(width)(x), self.layer_norm)
        values = self.dense if self.noisy else Values
        y = values(rows * (self.outputs or 1), **({} if self.noisy else {"param_dtype": x.dtype}))(x)
        return y if self.outputs is None else y.reshape(*y.shape[:-1], rows, self.outputs)

    def dense(self, width: int):
        return NoisyDense(width) if self.noisy else Dense(width, param_dtype=jnp.result_type(float))

    def taus(self, batch: int, dtype):
        """Returns fractions [N, K]: drawn, or without a stream "draws" the midpoints of K equal parts."""
        if self.has_rng("draws"):
            return jax.random.uniform(self.make_rng("draws"), (batch, self.fractions), dtype)
        return jnp.broadcast_to(
            (jnp.arange(self.fractions, dtype=dtype) + 0.5) / self.fractions, (batch, self.fractions)
        )
