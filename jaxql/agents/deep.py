"""What deep agents share: the settings of their network and optimiser, and how these become functions."""

import dataclasses
from typing import Literal

import jax
import optax

from jaxql import losses
from jaxql.agents.base import RunConfig, State, epsilon_of, learning_rate_of, within
from jaxql.errors import UserError
from jaxql.networks import fits, make_network, natural_network
from jaxql.types import Array, Network, Spec

Networks = Literal["auto", "mlp", "nature-cnn", "nips-cnn", "der-cnn", "impala-cnn", "minatar-cnn"]


@dataclasses.dataclass(frozen=True)
class DeepConfig(RunConfig):
    """The settings of every agent with a network."""

    network: Networks = "auto"  # auto: nature-cnn or minatar-cnn for images, else mlp
    hidden: tuple[int, ...] = (64, 64)  # widths of the MLP's hidden layers
    width: int = within(1, 1)  # multiplies the channels of convolutions
    dense_width: int = within(0, 0)  # of the hidden layer behind convolutions; 0: as published
    convolution: Literal["auto", "xla", "onednn", "matmul"] = "auto"  # auto: what is fastest here
    bfloat16: bool = False  # convolutions multiply in it; parameters and all else stay float32
    layer_norm: bool = False  # before each ReLU
    clip_rewards: bool = False  # the learner sees the sign of a reward; scores stay raw
    learning_rate: float = within(2.5e-4, 0)  # of the optimiser
    decay_from: int = within(0, 0)  # updates after which the learning rate falls
    decay_updates: int = within(1, 1)  # updates in which it falls linearly to decay_to of itself
    decay_to: float = within(1.0, 0, 1)  # 1 keeps it constant
    max_gradient_norm: float = within(10.0, 0)  # the global norm; 0 for no limit
    epsilon: float = within(0.01, 0, 1)  # where exploration ends
    exploration_steps: int = within(30_000, 1)  # env steps in which epsilon falls there from 1


def network_of(config: DeepConfig, spec: Spec, **variant) -> Network:
    """The network that the settings name for these worlds; `variant` as in `make_network`."""
    auto = natural_network(spec)
    name = auto if config.network == "auto" else config.network
    if name != "mlp" and not fits(name, spec):
        raise UserError(f'network "{name}" needs images (bytes [H, W, C] or stacked frames); use "{auto}" here')
    common = {
        field: getattr(config, field) for field in ("width", "dense_width", "layer_norm", "convolution", "bfloat16")
    }
    return make_network(name, spec, config.hidden, **common, **variant)


def optimizer_of(config: DeepConfig, direction: optax.GradientTransformation) -> optax.GradientTransformation:
    """`direction`, without a learning rate, of gradients whose global norm is limited as the settings ask for."""
    limit = optax.clip_by_global_norm(config.max_gradient_norm) if config.max_gradient_norm else optax.identity()
    return optax.chain(limit, direction)


def descend(state: State, gradient, optimizer: optax.GradientTransformation) -> State:
    """The state one update later: parameters, optimiser and count, at the learning rate of this point of the run."""
    direction, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    rate = learning_rate_of(state)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    return state._replace(params=params, opt_state=opt_state, updates=state.updates + 1)


def follow(state: State, target: str) -> State:
    """The state after an update whose target network ("hard", "polyak" or "none") has followed the online one."""
    if target == "hard":
        period = state.hyper.target_period_updates
        return state._replace(target=optax.periodic_update(state.params, state.target, state.updates, period))
    if target == "polyak":
        return state._replace(target=optax.incremental_update(state.params, state.target, state.hyper.tau))
    return state


def report(state: State, loss, gradient, q_values, weight) -> dict[str, Array]:
    """The metrics of an update from `state`: action values [N] of rows that weigh `weight` [N]."""
    return {
        "loss": loss,
        "epsilon": epsilon_of(state),
        "gradient_norm": optax.tree.norm(gradient),
        "q_mean": losses.weighted_mean(q_values, weight),
    }
