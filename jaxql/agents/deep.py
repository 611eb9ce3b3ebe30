"""The settings of every agent with a network, and how they become a network and an optimiser."""

import dataclasses
from typing import Any, Literal

import optax

from jaxql.agents.config import AgentConfig, bounded
from jaxql.errors import UserError
from jaxql.networks import accepts, default_network, make_network
from jaxql.types import EnvSpec, Network

Networks = Literal["auto", "mlp", "nature-cnn", "nips-cnn", "der-cnn", "impala-cnn", "minatar-cnn"]


@dataclasses.dataclass(frozen=True)
class DeepConfig(AgentConfig):
    """The settings of every agent with a network."""

    network: Networks = "auto"  # auto: nature-cnn or minatar-cnn for images, else mlp
    hidden: tuple[int, ...] = (64, 64)  # widths of the MLP's hidden layers
    width: int = bounded(1, 1)  # multiplies the channels of convolutions
    dense_width: int = bounded(0, 0)  # width of the hidden layer behind convolutions; 0: as published
    convolution: Literal["auto", "xla", "onednn", "matmul"] = "auto"  # auto: the fastest here
    bfloat16: bool = False  # convolutions multiply in bfloat16; parameters and all else stay float32
    layer_norm: bool = False  # layer normalisation before each ReLU
    clip_rewards: bool = False  # the learner sees the sign of a reward; scores stay raw
    reward_scale: float = bounded(1.0, 1e-9)  # the learner sees rewards times this, after any clipping; scores stay raw
    learning_rate: float = bounded(2.5e-4, 0)  # of the optimiser
    lr_decay_start: int = bounded(0, 0)  # updates after which the learning rate falls
    lr_decay_steps: int = bounded(1, 1)  # updates in which it falls linearly
    lr_decay_fraction: float = bounded(1.0, 0, 1)  # the fraction of itself that it falls to; 1 keeps it constant
    max_gradient_norm: float = bounded(10.0, 0)  # limit of the gradient's global norm; 0 for none
    epsilon: float = bounded(0.01, 0, 1)  # exploration rate at the end of its schedule
    exploration_steps: int = bounded(30_000, 1)  # env steps in which epsilon falls from 1


def network_of(config: DeepConfig, spec: EnvSpec, **variant: Any) -> Network:
    """Returns the network that the settings name for these envs; `variant` as in `make_network`.

    Raises:
      UserError: the network cannot read the observations.
    """
    default = default_network(spec)
    name = default if config.network == "auto" else config.network
    if name != "mlp" and not accepts(name, spec):
        raise UserError(f'network "{name}" needs images (bytes [H, W, C] or stacked frames); use "{default}" here')
    common = {
        field: getattr(config, field) for field in ("width", "dense_width", "layer_norm", "convolution", "bfloat16")
    }
    return make_network(name, spec, config.hidden, **common, **variant)


def optimizer_of(config: DeepConfig, direction: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns `direction`, which has no learning rate, with the gradient's norm limited as the settings say."""
    limit = optax.clip_by_global_norm(config.max_gradient_norm) if config.max_gradient_norm else optax.identity()
    return optax.chain(limit, direction)
