"""The Q-network with a memory."""

from typing import Any

import flax.linen as nn
import jax

from jaxql.networks.q_network import QNetwork
from jaxql.types import Array, Network


def recurrent_from_flax(module: nn.Module) -> Network:
    """Returns the Network of a flax.linen module (observations [N, ...], memory) -> (action values [N, A], memory)."""

    def apply(params: Any, obs: Any, memory: Any = (), key: Array | None = None) -> tuple[Any, Any]:
        return module.apply(params, obs, memory, rngs=None if key is None else {"draws": key})

    return Network(init=module.init, apply=apply)


class RecurrentQNetwork(QNetwork):
    """A `QNetwork` with a recurrent core between its trunk and its streams; (obs, memory) -> (output, memory).

    The memory of an LSTM is a pair of [N, core_width], of a GRU one of them; () is that of an episode's start, zeros.

    Source: Kapturowski et al. (2019), section 2.3, https://openreview.net/pdf?id=r1lyTjAqYX
    """

    core: str = "lstm"  # or "gru"
    core_width: int = 128

    @nn.compact
    def __call__(self, obs: Any, memory: Any = ()) -> tuple[Any, Any]:
        x = self.trunk(obs)
        make = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}[self.core]
        cell = make(self.core_width, param_dtype=x.dtype)
        if not jax.tree.leaves(memory):
            memory = cell.initialize_carry(jax.random.key(0), x.shape)
        memory, x = cell(memory, x)
        return self.head(x), memory
