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
    State,
    after,
    anywhere,
    epsilon_of,
    new_state,
    within,
)
from jaxql.agents.deep import DeepConfig, descend, network_of, optimizer_of, report
from jaxql.errors import UserError
from jaxql.kernels import derive_key
from jaxql.networks import masked
from jaxql.recurrent import restarted, unroll
from jaxql.replay import blank_step
from jaxql.types import Agent, Array, Network, Spec, Step


@dataclasses.dataclass(frozen=True)
class Config(DeepConfig):
    """Settings of PQN; a round is `ticks` steps of every environment, then `updates` of a minibatch each."""

    num_envs: int = within(32, 1)
    ticks: int = within(32, 1)
    updates: int = within(16, 1)  # epochs * minibatches
    minibatches: int = within(8, 1)  # parts of an epoch
    hidden: tuple[int, ...] = (128, 128)  # widths of the MLP's hidden layers
    layer_norm: bool = True  # before each ReLU
    core: Literal["none", "lstm", "gru"] = "none"  # what remembers, between the trunk and the last hidden layer
    core_width: int = within(128, 1)  # numbers that it hands on
    trace: float = within(0.65, 0, 1)  # lambda
    epsilon: float = within(0.05, 0, 1)  # where exploration ends
    exploration_steps: int = within(50_000, 1)  # env steps in which epsilon falls there from 1


class Rollout(NamedTuple):
    """The newest T ticks, in a ring."""

    rows: Step  # leaves [T, B, ...]; next_obs is (); extra: (the greatest value when it was acted upon, memory then)
    last: Any  # [B, ...] what follows the newest
    memory: Any  # [B, ...] the network's before it
    value: Array  # [B] its greatest action value when the round's first update was made; targets stay as they were then
    fresh: Array  # bool: that value is not known yet


def make(config: Config, spec: Spec, network: Network | None = None) -> Agent:
    """PQN for these worlds, with the network given or the one that the settings name."""
    if config.updates % config.minibatches or spec.num_worlds * config.ticks % config.minibatches:
        raise UserError(
            f"minibatches is {config.minibatches}; it must divide updates ({config.updates}) and the rows of a round "
            f"({spec.num_worlds} * {config.ticks})"
        )
    core = {} if config.core == "none" else dict(core=config.core, core_width=config.core_width)
    return pqn(
        network or network_of(config, spec, **core),
        ticks=config.ticks,
        minibatches=config.minibatches,
        optimizer=optimizer_of(config, optax.scale_by_radam()),
        clip_rewards=config.clip_rewards,
    )


def pqn(network: Network, *, ticks: int, minibatches: int, optimizer=None, clip_rewards: bool = False) -> Agent:
    """The agent of any network: Peng's Q(lambda) over the last `ticks` ticks, one minibatch an update.

    G_t = r_t + gamma ((1 - lambda) max_a q(s_{t+1}, a) + lambda G_{t+1}), with the values that were seen when acting;
    an epoch is `minibatches` updates over all rows in random order. Of a network with a memory a minibatch has all
    rows of some worlds, which it sees in turn, from the memory with which the first of them was acted upon.

    Source: Gallici et al. (2024), algorithm 1, https://arxiv.org/abs/2407.04811
    """
    network, optimizer = masked(network), optimizer or optax.scale_by_radam()

    def policy(params, obs, memory, key, epsilon=0.0):
        q, memory = network.apply(params, obs, memory)
        return explore.epsilon_greedy(key, q, epsilon), memory

    def init(key, obs, hyper) -> State:
        params, row = network.init(derive_key(key, INIT, 0, unrolled=False), obs), blank_step(obs)
        memory = jax.tree.map(jnp.zeros_like, jax.eval_shape(network.apply, params, obs)[1])
        if jax.tree.leaves(memory) and len(row.real) % minibatches:
            raise UserError(
                f"minibatches is {minibatches}; with a memory it must divide the number of worlds ({len(row.real)}), "
                "for a world's rows stay together"
            )
        row = row._replace(next_obs=(), extra=(row.reward, memory))
        rows = jax.tree.map(lambda x: jnp.zeros((ticks, *x.shape), x.dtype), row)
        last = jax.tree.map(jnp.asarray, obs)
        rollout = Rollout(rows=rows, last=last, memory=memory, value=jnp.zeros_like(row.reward), fresh=jnp.array(True))
        return new_state(key, hyper, params=params, opt_state=optimizer.init(params), data=rollout)

    def act(state: State, obs):
        q, memory = network.apply(state.params, obs, state.data.memory)
        action = explore.epsilon_greedy(derive_key(state.key, ACT, state.ticks), q, epsilon_of(state))
        return action, (jnp.max(q, axis=-1), memory)

    def observe(state: State, step: Step) -> State:
        step = step._replace(reward=jnp.sign(step.reward)) if clip_rewards else step
        value, memory = step.extra
        row, slot = step._replace(next_obs=(), extra=(value, state.data.memory)), state.ticks % ticks
        rows = jax.tree.map(lambda store, x: store.at[slot].set(x), state.data.rows, row)
        memory = restarted(memory, step.real)
        data = state.data._replace(rows=rows, last=step.next_obs, memory=memory, fresh=jnp.ones_like(state.data.fresh))
        return after(state, step, data=data)

    def valued(state: State) -> State:
        """The state with the value of what follows the newest row, by the parameters of the round's first update."""
        data = state.data

        def look(old):
            q = network.apply(state.params, data.last, data.memory)[0]
            return jnp.where(data.fresh, jnp.max(q, axis=-1).astype(old.dtype), old)

        value = jax.lax.cond(anywhere(data.fresh), look, lambda old: old, data.value)
        return state._replace(data=data._replace(value=value, fresh=jnp.zeros_like(data.fresh)))

    def returns(state: State, slots):
        """Lambda-returns [T, B] of the rows in these slots, oldest first, and which of them count."""
        rows, hyper = jax.tree.map(lambda x: x[slots], state.data.rows._replace(obs=())), state.hyper
        values = jnp.concatenate([rows.extra[0][1:], state.data.value[None]])
        reward, terminated, truncated, real = (x.T for x in (rows.reward, rows.terminated, rows.truncated, rows.real))
        windows = bellman.lambda_windows(reward, terminated, truncated, real, hyper.discount, hyper.trace)
        targets = bellman.lambda_returns(windows.reward, windows.discount, values.T, windows.trace)
        return targets.T, windows.valid.T

    def learn(state: State):
        state = valued(state)
        epoch, part = state.updates // minibatches, state.updates % minibatches
        slots, worlds = (state.ticks + jnp.arange(ticks)) % ticks, state.data.rows.real.shape[1]
        targets, valid = returns(state, slots)
        remembers = bool(jax.tree.leaves(state.data.memory))
        order = jax.random.permutation(derive_key(state.key, LEARN, epoch), worlds if remembers else ticks * worlds)
        mine = order.reshape(minibatches, -1)[part]
        t, world = (jnp.arange(ticks), mine[:, None]) if remembers else jnp.divmod(mine, worlds)
        rows = jax.tree.map(lambda x: x[slots[t], world], state.data.rows)  # [n, T, ...] or [n, ...]
        target, weight = targets[t, world], valid[t, world].astype(targets.dtype)

        def loss(params):
            if remembers:
                start = jax.tree.map(lambda x: x[:, 0], rows.extra[1])
                q = unroll(network.apply, params, rows.obs, start, rows.real)[0]
            else:
                q = network.apply(params, rows.obs)[0]
            q = jnp.take_along_axis(q, rows.action[..., None], axis=-1)[..., 0]
            return losses.weighted_mean(optax.l2_loss(q, target), weight), q

        (value, q_values), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        metrics = report(state, value, gradient, q_values, weight)
        return descend(state, gradient, optimizer), metrics

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
    "PongNoFrameskip-v4": dict(
        num_envs=16,
        ticks=64,
        updates=32,
        minibatches=16,
        network="nips-cnn",
        bfloat16=True,
        trace=0.8,
        discount=0.98,
        learning_rate=5e-4,
        epsilon=0.01,
        exploration_steps=100_000,
        clip_rewards=True,
        steps=5_000_000,
        test_from=17.0,
        test_every=20_000,
        solved_at=19.5,
    ),
}
TUNED["jax:cartpole"] = TUNED["CartPole-v1"]
