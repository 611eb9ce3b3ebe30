"""Recurrent replay: double Q-learning of a network that remembers, from sequences of rows (R2D2)."""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxql import explore, losses
from jaxql.agents import presets
from jaxql.agents.config import bounded
from jaxql.agents.deep import DeepConfig, network_of, optimizer_of
from jaxql.agents.registry import AgentEntry
from jaxql.agents.schedules import beta_of, epsilon_of
from jaxql.agents.state import ACT, INIT, LEARN, Hyper, State, count_step, learned_reward, new_state
from jaxql.agents.updates import apply_gradient, scan_updates, update_metrics, update_target
from jaxql.errors import UserError
from jaxql.kernels import derive_key
from jaxql.networks import with_action_mask
from jaxql.replay import (
    Ring,
    after_read,
    prioritised_replay,
    reset_memory,
    sample_sequence,
    uniform_replay,
    without_priorities,
    zero_step,
)
from jaxql.types import Agent, Array, EnvSpec, Network, Replay, Step


@dataclasses.dataclass(frozen=True)
class Config(DeepConfig):
    """Settings of the recurrent Q learner."""

    core: Literal["lstm", "gru"] = "lstm"  # memory between the layers that all actions share and the last hidden one
    core_width: int = bounded(64, 1)  # width of that memory
    dueling: bool = False  # a stream for the value, one for the advantages
    burn_in: int = bounded(5, 0)  # rows of a sequence that only bring its memory up to date
    length: int = bounded(15, 1)  # rows after them, which are learned from
    n_step: int = bounded(3, 1)  # steps of reward before the bootstrap
    batch_size: int = bounded(32, 1)  # sequences of an update
    capacity: int = bounded(50_000, 1, 2**31 - 1)  # rows at which a sequence may start
    prioritised: bool = False  # sequences are drawn by eta max|TD error| + (1 - eta) mean|TD error|
    eta: float = bounded(0.9, 0, 1)  # the share of the greatest error
    priority_exponent: float = bounded(0.9, 0)  # sequences are drawn as their error to this power
    beta: float = bounded(0.6, 0)  # exponent of the importance weights at the start; it rises linearly to 1
    beta_steps: int = bounded(1_000_000, 1)  # env steps in which beta rises
    adam_epsilon: float = bounded(1e-8, 0)  # added to the root of Adam's second moment
    target_period_updates: int = bounded(200, 1)  # updates between copies to the target network


class Data(NamedTuple):
    """A ring, and the memory before the next observation, so that to act nothing is read from the ring."""

    ring: Ring
    memory: Any  # leaves [B, ...]


def make(config: Config, spec: EnvSpec, network: Network | None = None) -> Agent:
    """Returns the learner for these envs, with the network given or the one that the settings name."""
    make_replay = prioritised_replay if config.prioritised else uniform_replay
    core = dict(core=config.core, core_width=config.core_width, dueling=config.dueling)
    view = functools.partial(sample_sequence, n=config.n_step)
    return r2d2(
        network or network_of(config, spec, **core),
        make_replay(config.capacity, config.burn_in + config.length, spec.stack, view=view),
        gradient_steps=config.gradient_steps,
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
    gradient_steps: int = 1,
    batch_size: int = 32,
    burn_in: int = 0,
    eta: float = 0.9,
    optimizer: optax.GradientTransformation | None = None,
    clip_rewards: bool = False,
) -> Agent:
    """Returns the agent of any network with a memory and any replay whose view is `replay.sample_sequence`.

    Args:
      gradient_steps: updates of a round; each draws its own sequences.
      batch_size: sequences of an update.
      burn_in: rows that only bring the memory up to date.
      eta: the share of the greatest error in a sequence's priority.
      optimizer: gives a direction without a learning rate, which is in `state.hyper`. None: Adam.
      clip_rewards: the learner sees the sign of a reward.

    Source: Kapturowski et al. (2019), sections 2.3 and 3, https://openreview.net/pdf?id=r1lyTjAqYX
    """
    network, optimizer = with_action_mask(network), optimizer or optax.scale_by_adam()

    def policy(params: Any, obs: Any, memory: Any, key: Array, epsilon: Array | float = 0.0) -> tuple[Array, Any]:
        q, memory = network.apply(params, obs, memory)
        return explore.epsilon_greedy(key, q, epsilon), memory

    def init(key: Array, obs: Any, hyper: Hyper) -> State:
        params = network.init(derive_key(key, INIT, 0, unrolled=False), obs)
        _, memory = jax.eval_shape(network.apply, params, obs)
        if not jax.tree.leaves(memory):
            raise UserError("r2d2 needs a network with a memory, and this one has none; use dqn for it")
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), memory)
        data = Data(replay.init(zero_step(obs)._replace(extra=start)), start)
        return new_state(key, hyper, params=params, target=params, opt_state=optimizer.init(params), data=data)

    def act(state: State, obs: Any) -> tuple[Array, Any]:
        key = derive_key(state.key, ACT, state.vector_steps)
        return policy(state.params, obs, state.data.memory, key, epsilon_of(state))

    def observe(state: State, step: Step) -> State:
        reward = learned_reward(state, step.reward, clip_rewards)
        ring = replay.add(state.data.ring, step._replace(reward=reward))
        return count_step(state, step, Data(ring, reset_memory(step.extra, step.valid)))

    def learn(state: State) -> tuple[State, dict[str, Array]]:
        stored, priorities = without_priorities(state.data.ring)

        def update(state: State, priorities, _):
            ring = stored._replace(priorities=priorities[0], max_priorities=priorities[1])
            key = derive_key(state.key, LEARN, state.updates)
            batch = replay.sample(ring, key, batch_size, state.hyper.discount, beta_of(state))

            def loss(params):
                return losses.r2d2_loss(params, state.target, batch, network.apply, burn_in=burn_in)

            (value, info), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
            valid = batch.valid[:, burn_in:]
            weight = jnp.where(valid, batch.weight[:, None], 0)
            metrics = update_metrics(state, value, gradient, info.q_values, weight)
            if replay.update is not None:
                errors = losses.sequence_priority(info.td_errors, valid, eta)
                ring = replay.update(ring, batch.index, errors, state.hyper.priority_exponent)
            state = update_target(apply_gradient(state, gradient, optimizer), "hard")
            return state, without_priorities(ring)[1], metrics

        memory = state.data.memory
        state, priorities, metrics = scan_updates(update, state, priorities, length=gradient_steps)
        ring = stored._replace(priorities=priorities[0], max_priorities=priorities[1])
        return state._replace(data=Data(after_read(ring, metrics["loss"][-1]), memory)), metrics

    return Agent(init=init, act=act, observe=observe, learn=learn, policy=policy, q_values=network.apply)


ENTRY = AgentEntry(Config, make, presets.R2D2_PRESETS, presets.R2D2, sources=presets.R2D2_SOURCES)
