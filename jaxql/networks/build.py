"""Networks by name, from settings."""

from collections.abc import Sequence
from typing import Any

import jax

from jaxql.networks.masks import observation_of
from jaxql.networks.q_network import QNetwork, from_flax
from jaxql.networks.recurrent import RecurrentQNetwork, recurrent_from_flax
from jaxql.types import Array, EnvSpec, Network

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


def is_image(spec: EnvSpec) -> bool:
    """Returns whether observations are images [B, H, W, C], or stacks [B, stack, H, W] or [B, stack, H, W, C]."""
    obs = observation_of(spec.obs)
    return isinstance(obs, jax.ShapeDtypeStruct) and (obs.ndim == 4 or obs.ndim == 5)


def is_stack(spec: EnvSpec) -> bool:
    """Returns whether images are stacks of frames: axis 1 counts frames, of which there may be only one."""
    obs = observation_of(spec.obs)
    return spec.stack > 1 or obs.ndim == 5 or obs.shape[1] == 1


def accepts(name: str, spec: EnvSpec) -> bool:
    """Returns whether the network `name` can read these observations: its convolutions must not outgrow an image.

    >>> minatar = EnvSpec(jax.ShapeDtypeStruct((1, 10, 10, 4), bool), num_actions=3, num_envs=1)
    >>> accepts("nature-cnn", minatar), accepts("minatar-cnn", minatar)
    (False, True)
    """
    if name == "mlp" or not is_image(spec):
        return name == "mlp"
    side = min(observation_of(spec.obs).shape[2:4] if is_stack(spec) else observation_of(spec.obs).shape[1:3])
    for _, size, stride in CONVOLUTIONAL.get(name, [()])[0]:  # impala-cnn pads: it reads any image
        side = (side - size) // stride + 1
    return side > 0


def default_network(spec: EnvSpec) -> str:
    """Returns the first network that accepts: nature-cnn for images, minatar-cnn for small ones, else mlp."""
    return next(name for name in ("nature-cnn", "minatar-cnn", "mlp") if accepts(name, spec))


def make_network(
    name: str, spec: EnvSpec, hidden: Sequence[int] = (64, 64), *, width: int = 1, dense_width: int = 0, **variant: Any
) -> Network:
    """Returns the network called `name` ("mlp", "impala-cnn" or one of `CONVOLUTIONAL`) for these envs.

    Args:
      spec: the envs' observations and number of actions.
      hidden: widths of the MLP's hidden layers.
      width: multiplies the channels of convolutions.
      dense_width: of the hidden layer behind convolutions; 0 for its own.
      **variant: `outputs`, `fractions`, `proposes`, `dueling`, `noisy`, `layer_norm`, `convolution`, `bfloat16` of
        `QNetwork`; with `core` and `core_width` it is a `RecurrentQNetwork`.
    """
    layers: dict[str, Any]
    wrapped, module = (recurrent_from_flax, RecurrentQNetwork) if "core" in variant else (from_flax, QNetwork)
    if name == "mlp":
        return wrapped(module(spec.num_actions, tuple(hidden), spec.num_states, **variant))
    if name == "impala-cnn":
        own, layers = 256, dict(stages=(16 * width, 32 * width, 32 * width))
    else:
        convolutions, own = CONVOLUTIONAL[name]
        layers = dict(convolutions=tuple((width * features, *shape) for features, *shape in convolutions))
    return wrapped(module(spec.num_actions, (dense_width or own,), channels_first=is_stack(spec), **layers, **variant))


def shrink_and_perturb(params: Any, fresh: Any, keep: Array | float) -> Any:
    """Returns `fresh` parameters of a network; those of a `QNetwork`'s convolutions keep * params + (1 - keep) * fresh.

    The layer norms of convolutions are theirs. Other networks have no convolutions.

    Source: Schwarzer et al. (2023), section 3, https://arxiv.org/abs/2305.19452

    >>> params, fresh = ({"params": {"Conv_0": x, "Dense_0": x}} for x in (1.0, 3.0))
    >>> shrink_and_perturb(params, fresh, 0.25)
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
