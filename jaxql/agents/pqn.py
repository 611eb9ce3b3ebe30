"""Parallelised Q-network: Q(lambda) from the rows just played, layer norm in place of replay and target network."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxql import bellman, explore, losses
from jaxql.agents.base import (
    ACT,
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
from jaxql.networks import fits, make_network, masked, natural_network
from jaxql.replay import blank_step
from jaxql.types import Agent, Network, Spec, Step


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """Settings of PQN; a round is `ticks` steps of every environment, then `updates` of a minibatch each."""

    num_envs: int = within(32, 1)
    ticks: int = within(32, 1)
    updates: int = within(16, 1)  # epochs * minibatches
    minibatches: int = within(8, 1)  # parts of an epoch
    # auto: nature-cnn for images, minatar-cnn for small ones, else mlp
    network: Literal["auto", "mlp", "nature-cnn", "nips-cnn", "minatar-cnn"] = "auto"
    hidden: tuple[int, ...] = (128, 128)  # widths of the MLP's hidden layers
    convolution: Literal["auto", "xla", "products"] = "auto"  # auto: matrix products on CPUs and of many seeds
    layer_norm: bool = True  # before each ReLU
    trace: float = within(0.65, 0, 1)  # lambda
    clip_rewards: bool = False  # the learner sees the sign of a reward; scores stay raw
    learning_rate: float = within(2.5e-4, 0)  # RAdam's
    decay_from: int = within(0, 0)  # updates after which the learning rate falls
    decay_updates: int = within(1, 1)  # updates in which it falls linearly to decay_to of itself
    decay_to: float = within(1.0, 0, 1)  # 1 keeps it constant
    max_gradient_norm: float = within(10.0, 0)  # the global norm; 0 for no limit
    epsilon: float = within(0.05, 0, 1)  # where exploration ends
    exploration_steps: int = within(50_000, 1)  # env steps in which epsilon falls there from 1


class Rollout(NamedTuple):
    """The newest T ticks, in a ring."""

    rows: Step  # leaves [T, B, ...]; next_obs is (); extra [T, B]: the greatest value when it was acted upon
    last: Any  # [B, ...] what follows the newest


def make(config: Config, spec: Spec, network: Network | None = None) -> Agent:
    """PQN for these worlds, with the network given or the one that the settings name."""
    auto = natural_network(spec)
    name = auto if config.network == "auto" else config.network
    if name != "mlp" and not fits(name, spec) and network is None:
        raise UserError(f'network "{name}" needs images (bytes [H, W, C] or stacked frames); use "{auto}" here')
    if config.updates % config.minibatches or spec.num_worlds * config.ticks % config.minibatches:
        raise UserError(
            f"minibatches is {config.minibatches}; it must divide updates ({config.updates}) and the rows of a round "
            f"({spec.num_worlds} * {config.ticks})"
        )
    limit = optax.clip_by_global_norm(config.max_gradient_norm) if config.max_gradient_norm else optax.identity()
    return pqn(
        network
        or make_network(name, spec, config.hidden, layer_norm=config.layer_norm, convolution=config.convolution),
        ticks=config.ticks,
        minibatches=config.minibatches,
        optimizer=optax.chain(limit, optax.scale_by_radam()),
        clip_rewards=config.clip_rewards,
    )


def pqn(network: Network, *, ticks: int, minibatches: int, optimizer=None, clip_rewards: bool = False) -> Agent:
    """The agent of any network: Peng's Q(lambda) over the last `ticks` ticks, one minibatch an update.

    G_t = r_t + gamma ((1 - lambda) max_a q(s_{t+1}, a) + lambda G_{t+1}), with the values that were seen when acting;
    an epoch is `minibatches` updates over all rows in random order.

    Source: Gallici et al. (2024), algorithm 1, https://arxiv.org/abs/2407.04811
    """
    network, optimizer = masked(network), optimizer or optax.scale_by_radam()
    _, policy = epsilon_greedy_on(lambda params, obs, key: network.apply(params, obs)[0])

    def init(key, obs, hyper) -> State:
        params, row = network.init(address(key, INIT), obs), blank_step(obs)
        row = row._replace(next_obs=(), extra=row.reward)
        rows = jax.tree.map(lambda x: jnp.zeros((ticks, *x.shape), x.dtype), row)
        rollout = Rollout(rows=rows, last=jax.tree.map(jnp.asarray, obs))
        return new_state(key, hyper, params=params, opt_state=optimizer.init(params), data=rollout)

    def act(state: State, obs):
        q = network.apply(state.params, obs)[0]
        return explore.epsilon_greedy(address(state.key, ACT, state.ticks), q, epsilon_of(state)), jnp.max(q, axis=-1)

    def observe(state: State, step: Step) -> State:
        step = step._replace(reward=jnp.sign(step.reward)) if clip_rewards else step
        row, slot = step._replace(next_obs=()), state.ticks % ticks
        rows = jax.tree.map(lambda store, x: store.at[slot].set(x), state.data.rows, row)
        return after(state, step, data=Rollout(rows=rows, last=step.next_obs))

    def returns(state: State, slots):
        """Lambda-returns [T, B] of the rows in these slots, oldest first, and which of them count."""
        rows, hyper = jax.tree.map(lambda x: x[slots], state.data.rows._replace(obs=())), state.hyper
        last = jnp.max(network.apply(state.params, state.data.last)[0], axis=-1)
        values = jnp.concatenate([rows.extra[1:], last[None]])
        reward, terminated, truncated, real = (x.T for x in (rows.reward, rows.terminated, rows.truncated, rows.real))
        windows = bellman.lambda_windows(reward, terminated, truncated, real, hyper.discount, hyper.trace)
        targets = bellman.lambda_returns(windows.reward, windows.discount, values.T, windows.trace)
        return targets.T, windows.valid.T

    def learn(state: State):
        epoch, part = state.updates // minibatches, state.updates % minibatches
        slots, worlds = (state.ticks + jnp.arange(ticks)) % ticks, state.data.rows.real.shape[1]
        targets, valid = returns(state, slots)
        order = jax.random.permutation(address(state.key, LEARN, epoch), ticks * worlds)
        t, world = jnp.divmod(order.reshape(minibatches, -1)[part], worlds)
        obs = jax.tree.map(lambda x: x[slots[t], world], state.data.rows.obs)
        action, target = state.data.rows.action[slots[t], world], targets[t, world]
        weight = valid[t, world].astype(target.dtype)

        def loss(params):
            q = jnp.take_along_axis(network.apply(params, obs)[0], action[:, None], axis=-1)[:, 0]
            return losses.weighted_mean(optax.l2_loss(q, target), weight), q

        (value, q_values), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        direction, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        rate = learning_rate_of(state)
        metrics = {
            "loss": value,
            "epsilon": epsilon_of(state),
            "gradient_norm": optax.tree.norm(gradient),
            "q_mean": losses.weighted_mean(q_values, weight),
        }
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
        return state._replace(params=params, opt_state=opt_state, updates=state.updates + 1), metrics

    return Agent(init=init, act=act, observe=observe, learn=learn, policy=policy, learns_last=True)


PRESETS = {}

TUNED = {
    "CartPole-v1": dict(
        num_envs=32,
        ticks=64,
        updates=64,
        minibatches=16,
        trace=0.95,
        learning_rate=5e-4,
        decay_updates=15_000,
        decay_to=0.05,
        epsilon=0.1,
        exploration_steps=100_000,
        steps=500_000,
        solved_at=490.0,
        test_every=10_000,
    ),
}
TUNED["jax:cartpole"] = TUNED["CartPole-v1"]
