"""Recurrent replay: double Q-learning of a network that remembers, from sequences of rows (R2D2)."""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxql import explore
from jaxql.agents.base import ACT, INIT, LEARN, State, after, beta_of, epsilon_of, new_state, within
from jaxql.agents.deep import DeepConfig, descend, follow, network_of, optimizer_of, report
from jaxql.errors import UserError
from jaxql.kernels import derive_key
from jaxql.networks import masked
from jaxql.recurrent import r2d2_loss, restarted, sequence, sequence_priority
from jaxql.replay import Ring, blank_step, ordered, prioritised_replay, uniform_replay
from jaxql.types import Agent, Network, Replay, Spec, Step


@dataclasses.dataclass(frozen=True)
class Config(DeepConfig):
    """Settings of the recurrent Q learner."""

    core: Literal["lstm", "gru"] = "lstm"  # between the layers that all actions share and the last hidden one
    core_width: int = within(64, 1)  # numbers that it hands on
    dueling: bool = False  # a stream for the value, one for the advantages
    burn_in: int = within(5, 0)  # rows of a sequence that only bring its memory up to date
    length: int = within(15, 1)  # rows after them, which are learned from
    n_step: int = within(3, 1)  # steps of reward before the bootstrap
    batch_size: int = within(32, 1)  # sequences
    capacity: int = within(50_000, 1, 2**31 - 1)  # rows at which a sequence may start
    prioritised: bool = False  # sequences are drawn in proportion to (eta max|TD error| + (1 - eta) mean)**alpha
    eta: float = within(0.9, 0, 1)  # the share of the greatest error
    alpha: float = within(0.9, 0)  # that exponent
    beta: float = within(0.6, 0)  # exponent of the importance weights at the start; it rises linearly to 1 ...
    beta_steps: int = within(1_000_000, 1)  # ... in so many env steps
    adam_epsilon: float = within(1e-8, 0)
    target_period_updates: int = within(200, 1)  # updates between copies to the target network


class Data(NamedTuple):
    """What is stored, and the memory before the next observation, so that to act nothing is read from the store."""

    ring: Ring
    memory: Any  # leaves [B, ...]


def make(config: Config, spec: Spec, network: Network | None = None) -> Agent:
    """The learner for these worlds, with the network given or the one that the settings name."""
    make_replay = prioritised_replay if config.prioritised else uniform_replay
    core = dict(core=config.core, core_width=config.core_width, dueling=config.dueling)
    view = functools.partial(sequence, n=config.n_step)
    return r2d2(
        network or network_of(config, spec, **core),
        make_replay(config.capacity, config.burn_in + config.length, spec.stack, view=view),
        batch_size=config.batch_size,
        burn_in=config.burn_in,
        eta=config.eta,
        optimizer=optimizer_of(config, optax.scale_by_adam(eps=config.adam_epsilon)),
        clip_rewards=config.clip_rewards,
    )


def r2d2(
    network: Network,
    replay: Replay,
    *,
    batch_size: int = 32,
    burn_in: int = 0,
    eta: float = 0.9,
    optimizer=None,
    clip_rewards: bool = False,
) -> Agent:
    """The agent of any network with a memory and any replay whose view is `recurrent.sequence`.

    `optimizer` has no learning rate, which is in `state.hyper`.

    Source: Kapturowski et al. (2019), sections 2.3 and 3, https://openreview.net/pdf?id=r1lyTjAqYX
    """
    network, optimizer = masked(network), optimizer or optax.scale_by_adam()

    def policy(params, obs, memory, key, epsilon=0.0):
        q, memory = network.apply(params, obs, memory)
        return explore.epsilon_greedy(key, q, epsilon), memory

    def init(key, obs, hyper) -> State:
        params = network.init(derive_key(key, INIT, 0, unrolled=False), obs)
        _, memory = jax.eval_shape(network.apply, params, obs)
        if not jax.tree.leaves(memory):
            raise UserError("r2d2 needs a network with a memory, and this one has none; use dqn for it")
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), memory)
        ring = replay.init(blank_step(obs)._replace(extra=start))
        data = Data(ring, start)
        return new_state(key, hyper, params=params, target=params, opt_state=optimizer.init(params), data=data)

    def act(state: State, obs):
        return policy(state.params, obs, state.data.memory, derive_key(state.key, ACT, state.ticks), epsilon_of(state))

    def observe(state: State, step: Step) -> State:
        reward = jnp.sign(step.reward) if clip_rewards else step.reward
        ring = replay.add(state.data.ring, step._replace(reward=reward))
        return after(state, step, data=Data(ring, restarted(step.extra, step.real)))

    def learn(state: State):
        key, (ring, memory) = derive_key(state.key, LEARN, state.updates), state.data
        batch = replay.sample(ring, key, batch_size, state.hyper.discount, beta_of(state))

        def loss(params):
            return r2d2_loss(params, state.target, batch, network.apply, burn_in=burn_in)

        (value, (td_errors, q_values)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        real = batch.real[:, burn_in:]
        metrics = report(state, value, gradient, q_values, jnp.where(real, batch.weight[:, None], 0))
        if replay.update is not None:
            size = sequence_priority(td_errors, real, eta)
            ring = replay.update(ring, batch.index, size, state.hyper.alpha)
        state = state._replace(data=Data(ordered(ring, value), memory))
        return follow(descend(state, gradient, optimizer), "hard"), metrics

    return Agent(init=init, act=act, observe=observe, learn=learn, policy=policy)


PRESETS = {
    # The paper's hyperparameters; it plays 256 environments with an epsilon of each one's own.
    "paper": dict(
        core_width=512,
        dueling=True,
        burn_in=40,
        length=40,
        n_step=5,
        discount=0.997,
        batch_size=64,
        prioritised=True,
        learning_rate=1e-4,
        adam_epsilon=1e-3,
        target_period_updates=2_500,
    ),
}

TUNED = {}
