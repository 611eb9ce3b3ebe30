"""Deep Q-learning: replay, target network, epsilon-greedy exploration (Mnih et al., 2015)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from jaxql import losses
from jaxql.agents.base import (
    INIT,
    LEARN,
    RunConfig,
    State,
    address,
    after,
    epsilon_greedy_on,
    epsilon_of,
    learning_rate_of,
    new_state,
    within,
)
from jaxql.errors import UserError
from jaxql.networks import is_image, make_network, masked
from jaxql.replay import blank_step, uniform_replay
from jaxql.types import Agent, Network, Replay, Spec, Step


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """Settings of DQN; double Q-learning and n-step returns are settings too."""

    network: Literal["auto", "mlp", "nature-cnn", "nips-cnn"] = "auto"  # auto: nature-cnn for images, else mlp
    hidden: tuple[int, ...] = (64, 64)  # widths of the MLP's hidden layers
    double: bool = False  # the online network selects the next action, the target network evaluates it
    n_step: int = within(1, 1)  # steps of reward before the bootstrap
    loss: Literal["huber", "squared"] = "huber"
    batch_size: int = within(32, 1)
    capacity: int = within(100_000, 1, 2**31 - 1)  # rows of replay
    clip_rewards: bool = False  # the learner sees the sign of a reward; scores stay raw
    learning_rate: float = within(2.5e-4, 0)  # Adam's
    decay_from: int = within(0, 0)  # updates after which the learning rate falls
    decay_updates: int = within(1, 1)  # updates in which it falls linearly to decay_to of itself
    decay_to: float = within(1.0, 0, 1)  # 1 keeps it constant
    adam_epsilon: float = within(1e-8, 0)
    max_gradient_norm: float = within(10.0, 0)  # the global norm; 0 for no limit
    target_period_updates: int = within(500, 1)  # updates between copies into the target network
    epsilon: float = within(0.01, 0, 1)  # where exploration ends
    exploration_steps: int = within(30_000, 1)  # env steps in which epsilon falls there from 1


def make(config: Config, spec: Spec, network: Network | None = None) -> Agent:
    """DQN for these worlds, with the network given or the one that the settings name."""
    image, name = is_image(spec), config.network
    if name == "auto":
        name = "nature-cnn" if image else "mlp"
    if name != "mlp" and not image and network is None:
        raise UserError(f'network "{name}" needs images (bytes [H, W, C] or stacked frames); use "mlp" here')
    limit = optax.clip_by_global_norm(config.max_gradient_norm) if config.max_gradient_norm else optax.identity()
    return dqn(
        network or make_network(name, spec, config.hidden),
        uniform_replay(config.capacity, config.n_step, spec.stack),
        batch_size=config.batch_size,
        double=config.double,
        penalty={"huber": optax.huber_loss, "squared": optax.l2_loss}[config.loss],
        optimizer=optax.chain(limit, optax.scale_by_adam(eps=config.adam_epsilon)),
        clip_rewards=config.clip_rewards,
    )


def dqn(
    network: Network,
    replay: Replay,
    *,
    batch_size: int = 32,
    double: bool = False,
    penalty=optax.huber_loss,
    optimizer=None,
    clip_rewards: bool = False,
) -> Agent:
    """The agent of any network and replay; `optimizer` has no learning rate, which is in `state.hyper`."""
    network = masked(network)
    optimizer = optimizer or optax.scale_by_adam()
    act, policy = epsilon_greedy_on(lambda params, obs: network.apply(params, obs)[0])

    def init(key, obs, hyper) -> State:
        params, ring = network.init(address(key, INIT), obs), replay.init(blank_step(obs))
        return new_state(key, hyper, params=params, target=params, opt_state=optimizer.init(params), data=ring)

    def observe(state: State, step: Step) -> State:
        reward = jnp.sign(step.reward) if clip_rewards else step.reward
        return after(state, step, data=replay.add(state.data, step._replace(reward=reward)))

    def learn(state: State):
        hyper, updates = state.hyper, state.updates + 1
        batch = replay.sample(state.data, address(state.key, LEARN, state.updates), batch_size, hyper.discount)
        loss = jax.value_and_grad(losses.dqn_loss, has_aux=True)
        (value, (_, q_values)), gradient = loss(
            state.params, state.target, batch, network.apply, double=double, penalty=penalty
        )
        direction, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        rate = learning_rate_of(state)
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
        target = optax.periodic_update(params, state.target, updates, hyper.target_period_updates)
        metrics = {
            "loss": value,
            "epsilon": epsilon_of(state),
            "gradient_norm": optax.tree.norm(gradient),
            "q_mean": losses.weighted_mean(q_values, batch.weight),
        }
        return state._replace(params=params, target=target, opt_state=opt_state, updates=updates), metrics

    return Agent(init=init, act=act, observe=observe, learn=learn, policy=policy)


PRESETS = {
    # The notebook's hyperparameters and stop rule: one environment, one update a step, plain Q-learning.
    "notebook": dict(
        num_envs=1,
        warmup_steps=10_000,
        network="nature-cnn",
        double=False,
        n_step=1,
        loss="squared",
        max_gradient_norm=0.0,
        batch_size=32,
        capacity=10_000,
        learning_rate=1e-4,
        target_period_updates=1_000,
        discount=0.99,
        epsilon=0.01,
        exploration_steps=148_500,  # 1 - t / 150,000 until 0.01
        solved_by="training",
        solved_at=19.0,
        solved_strictly=True,
        test_from=17.0,
        test_every=50_000,
        steps=2_000_000,
    ),
}

TUNED = {
    "CartPole-v1": dict(
        num_envs=8,
        updates=4,
        warmup_steps=1_000,
        steps=200_000,
        hidden=(128, 128),
        double=True,
        n_step=3,
        batch_size=64,
        capacity=50_000,
        learning_rate=5e-4,
        target_period_updates=200,
        exploration_steps=10_000,
        epsilon=0.02,
        solved_at=490.0,
        test_every=5_000,
    ),
    "PongNoFrameskip-v4": dict(
        num_envs=16,
        warmup_steps=5_000,
        steps=2_000_000,
        network="nips-cnn",
        n_step=10,
        discount=0.98,
        learning_rate=1e-3,
        decay_updates=25_000,
        decay_to=0.1,
        adam_epsilon=1e-4,
        exploration_steps=60_000,
        clip_rewards=True,
        test_from=17.0,
        test_every=10_000,
        solved_at=19.5,
    ),
}
