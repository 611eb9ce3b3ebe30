"""The Q-network: convolutions, hidden layers, and the outputs that a head needs."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxql import distributional
from jaxql.networks.layers import Conv, Dense, Impala, NoisyDense, Values, activated
from jaxql.types import Array, FullQuantiles, Network

# Keeps proposed fractions nearly even at first, and makes an optimiser move them slowly: FQF's own rate for them is
# far below that of the rest.
PROPOSAL_SCALE = 0.01


def from_flax(module: nn.Module) -> Network:
    """Returns the Network of a flax.linen module that maps observations [N, ...] to action values [N, A].

    A key given to `apply` feeds the random stream "draws" of the module; without one it draws nothing.
    """

    def apply(params: Any, obs: Any, memory: Any = (), key: Array | None = None) -> tuple[Any, Any]:
        return module.apply(params, obs, rngs=None if key is None else {"draws": key}), memory

    return Network(init=module.init, apply=apply)


class QNetwork(nn.Module):
    """Convolutions, hidden layers with ReLUs, and the outputs of a head: [N, A], or [N, A, outputs].

    With `fractions` the output is (quantiles [N, A, K], fractions [N, K]), with `proposes` too it is `FullQuantiles`.

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
    channels_first: bool = False  # images are stacks of frames, [N, stack, H, W] or [N, stack, H, W, C]
    outputs: int | None = None
    fractions: int = 0  # above 0: so many are drawn, and the result is (quantiles [N, A, K], fractions [N, K])
    proposes: bool = False  # the fractions are proposed, not drawn, and the result is `FullQuantiles`
    dueling: bool = False
    noisy: bool = False
    layer_norm: bool = False
    convolution: str = "auto"  # the method of `convolve`
    bfloat16: bool = False  # convolutions multiply in it; see `Conv`

    @nn.compact
    def __call__(self, obs: Any) -> Any:
        return self.head(self.trunk(obs))

    def trunk(self, obs: Any) -> Array:
        """Returns the features [N, F] that the streams read."""
        x = self.features(obs)
        for width in self.hidden[:-1]:
            x = activated(Dense(width, param_dtype=x.dtype)(x), self.layer_norm)
        return x

    def head(self, x: Array) -> Any:
        """Returns the streams' output for the trunk's features [N, F]."""
        if not self.fractions:
            return self.streams()(x)
        quantiles = self.quantiles(x)
        if not self.proposes:
            taus = self.taus(len(x), x.dtype)
            return quantiles(taus), taus
        logits = PROPOSAL_SCALE * Dense(self.fractions, param_dtype=x.dtype)(jax.lax.stop_gradient(x))
        edges, middles = distributional.fractions(logits)
        inner, middles = jax.lax.stop_gradient((edges[:, 1:-1], middles))
        if self.noisy:  # one call, for each draws its own noise
            y = quantiles(jnp.concatenate([middles, inner], axis=-1))
            return FullQuantiles(y[..., : self.fractions], edges, y[..., self.fractions :])
        return FullQuantiles(
            quantiles(middles), edges, quantiles(inner)
        )  # at the edges it costs nothing where not read

    def quantiles(self, x: Array) -> Callable[[Array], Array]:
        """Returns the quantile function of features [N, F]: fractions [N, K] -> [N, A, K]."""
        embed, streams = Dense(x.shape[-1], param_dtype=x.dtype), self.streams()

        def at(taus: Array) -> Array:
            waves = jnp.cos(jnp.pi * jnp.arange(64, dtype=taus.dtype)[None, None] * taus[..., None])  # [N, K, 64]
            return jnp.swapaxes(streams(x[:, None] * nn.relu(embed(waves))), 1, 2)

        return at

    def streams(self) -> Callable[[Array], Array]:
        """Returns the function of features [..., F] -> [..., A] or [..., A, outputs]; its parameters are made here."""
        advantage = self.stream(self.num_actions)
        if not self.dueling:
            return advantage
        value = self.stream(1)

        def both(x: Array) -> Array:
            y = advantage(x)
            return y - jnp.mean(y, axis=x.ndim - 1, keepdims=True) + value(x)

        return both

    def features(self, obs: Array) -> Array:
        """Returns the flat inputs [N, F] of the hidden layers."""
        dtype = jnp.result_type(float)
        if self.num_states is not None:
            return jax.nn.one_hot(obs, self.num_states, dtype=dtype)
        if self.convolutions or self.stages:
            if self.channels_first:  # of colour frames too, whose channels become one axis
                obs = jnp.moveaxis(obs, 1, -1)
                obs = obs.reshape(*obs.shape[:3], -1)
        x = obs.astype(dtype) / (255 if obs.dtype == jnp.uint8 else 1)
        for convolution in self.convolutions:
            x = activated(Conv(*convolution, self.convolution, bfloat16=self.bfloat16)(x), self.layer_norm)
        if self.stages:
            x = Impala(self.stages, self.convolution, self.layer_norm, self.bfloat16)(x)
        return x.reshape(x.shape[0], -1)

    def stream(self, rows: int) -> Callable[[Array], Array]:
        """Returns the last two layers: features [..., F] -> [..., rows] or [..., rows, outputs]."""
        dtype, width = jnp.result_type(float), rows * (self.outputs or 1)
        layers: list[Callable[[Array], Array]] = []
        for hidden in self.hidden[-1:]:
            layers.append(NoisyDense(hidden) if self.noisy else Dense(hidden, param_dtype=dtype))
            layers.extend([nn.LayerNorm(param_dtype=dtype)] if self.layer_norm else [])
            layers.append(nn.relu)
        layers.append(NoisyDense(width) if self.noisy else Values(width, param_dtype=dtype))

        def apply(x: Array) -> Array:
            for layer in layers:
                x = layer(x)
            return x if self.outputs is None else x.reshape(*x.shape[:-1], rows, self.outputs)

        return apply

    def taus(self, batch: int, dtype: Any) -> Array:
        """Returns fractions [N, K]: drawn, or without a stream "draws" the midpoints of K equal parts."""
        if self.has_rng("draws"):
            return jax.random.uniform(self.make_rng("draws"), (batch, self.fractions), dtype)
        return jnp.broadcast_to(
            (jnp.arange(self.fractions, dtype=dtype) + 0.5) / self.fractions, (batch, self.fractions)
        )
