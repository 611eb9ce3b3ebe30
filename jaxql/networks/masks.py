"""Observations with action masks, and networks on them."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxql.types import Array, Network


def observation_of(obs: Any) -> Any:
    """Returns the part of an observation that a network reads, without its action mask."""
    return obs["observation"] if isinstance(obs, dict) and "action_mask" in obs else obs


def with_action_mask(network: Network) -> Network:
    """Returns the network on observations that may be {"observation", "action_mask"}: illegal actions are worth -inf.

    >>> ones = Network(init=lambda key, obs: (), apply=lambda params, obs, memory=(), key=None: (obs * 0 + 1.0, memory))
    >>> obs = {"observation": jnp.zeros((1, 2)), "action_mask": jnp.array([[1, 0]])}
    >>> print(with_action_mask(ones).apply((), obs)[0])
    [[  1. -inf]]
    """

    def init(key: Array, obs: Any) -> Any:
        return network.init(key, observation_of(obs))

    def apply(params: Any, obs: Any, memory: Any = (), key: Array | None = None) -> tuple[Any, Any]:
        output, memory = network.apply(params, observation_of(obs), memory, key)
        if isinstance(obs, dict) and "action_mask" in obs:
            mask = obs["action_mask"].astype(bool)
            tuples = isinstance(output, tuple)  # of arrays [N, A, ...], and of fractions, which have no axis A
            output = jax.tree.map(lambda x: x if tuples and x.ndim < 3 else _blocked(x, mask), output)
        return output, memory

    return Network(init=init, apply=apply)


def _blocked(x: Array, mask: Array) -> Array:
    """Returns x [N, A, ...] with -inf for illegal actions."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (x.ndim - 2)), x, -jnp.inf)
