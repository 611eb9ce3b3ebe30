"""Parallelised Q-network: Q(lambda) from the rows just played, layer norm in place of replay and target network."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxql import bellman, explore, losses
from jaxql.agents import presets
from jaxql.agents.config import bounded
from jaxql.agents.deep import DeepConfig, network_of, optimizer_of
from jaxql.agents.registry import AgentEntry
from jaxql.agents.schedules import epsilon_of
from jaxql.agents.state import ACT, INIT, LEARN, Hyper, State, count_step, learned_reward, new_state
from jaxql.agents.updates import apply_gradient, scan_updates, update_metrics
from jaxql.errors import UserError
from jaxql.kernels import derive_key
from jaxql.networks import with_action_mask
from jaxql.replay import reset_memory, zero_step
from jaxql.types import Agent, Array, EnvSpec, Network, Step


@dataclasses.dataclass(frozen=True)
class Config(DeepConfig):
    """Settings of PQN: a round is `rollout_length` steps of every environment, then epochs over their rows."""

    num_envs: int = bounded(32, 1)  # environments that step together
    rollout_length: int = bounded(32, 1)  # steps of every environment in a round
    gradient_steps: int = bounded(16, 1)  # updates in a round: epochs * minibatches
    minibatches: int = bounded(8, 1)  # parts of an epoch
    hidden: tuple[int, ...] = (128, 128)  # widths of the MLP's hidden layers
    layer_norm: bool = True  # layer normalisation before each ReLU
    core: Literal["none", "lstm", "gru"] = "none"  # memory between the trunk and the last hidden layer
    core_width: int = bounded(128, 1)  # width of that memory
    lambda_: float = bounded(0.65, 0, 1)  # lambda of the returns
    epsilon: float = bounded(0.05, 0, 1)  # exploration rate at the end of its schedule
    exploration_steps: int = bounded(50_000, 1)  # env steps in which epsilon falls from 1


class Rollout(NamedTuple):
    """The newest T vector steps, in a ring."""

    rows: Step  # leaves [T, B, ...]; next_obs is (); extra: (the greatest value when it was acted upon, memory then)
    last: Any  # [B, ...] the observation after the newest row
    memory: Any  # [B, ...] the network's before that observation


def make(config: Config, spec: EnvSpec, network: Network | None = None) -> Agent:
    """Returns PQN for these envs, with the network given or the one that the settings name.

    Raises:
      UserError: minibatches does not divide the updates or the rows of a round.
    """
    rows = spec.num_envs * config.rollout_length
    if config.gradient_steps % config.minibatches or rows % config.minibatches:
        raise UserError(
            f"minibatches is {config.minibatches}; it must divide gradient_steps ({config.gradient_steps}) and the "
            f"rows of a round ({spec.num_envs} * {config.rollout_length})"
        )
    core = {} if config.core == "none" else dict(core=config.core, core_width=config.core_width)
    return pqn(
        network or network_of(config, spec, **core),
        rollout_length=config.rollout_length,
        epochs=config.gradient_steps // config.minibatches,
        minibatches=config.minibatches,
        optimizer=optimizer_of(config, optax.scale_by_radam()),
        clip_rewards=config.clip_rewards,
    )


def pqn(
    network: Network,
    *,
    rollout_length: int,
    epochs: int = 1,
    minibatches: int,
    optimizer: optax.GradientTransformation | None = None,
    clip_rewards: bool = False,
) -> Agent:
    """Returns the agent of any network: Peng's Q(lambda) over the rows of a round.

    G_t = r_t + gamma ((1 - lambda) max_a q(s_{t+1}, a) + lambda G_{t+1}), with the values that were seen when acting.

    Args:
      rollout_length: vector steps of a round, T.
      epochs: passes over the rows of a round, each in a new random order.
      minibatches: updates of an epoch. Of a network with a memory a minibatch has all rows of some envs; the network
        sees them in turn, from the memory before the first of them.
      optimizer: gives a direction without a learning rate, which is in `state.hyper`. None: RAdam.
      clip_rewards: the learner sees the sign of a reward.

    Source: Gallici et al. (2024), algorithm 1, https://arxiv.org/abs/2407.04811
    """
    network, optimizer = with_action_mask(network), optimizer or optax.scale_by_radam()

    def policy(params: Any, obs: Any, memory: Any, key: Array, epsilon: Array | float = 0.0) -> tuple[Array, Any]:
        q, memory = network.apply(params, obs, memory)
        return explore.epsilon_greedy(key, q, epsilon), memory

    def init(key: Array, obs: Any, hyper: Hyper) -> State:
        params, row = network.init(derive_key(key, INIT, 0, unrolled=False), obs), zero_step(obs)
        memory = jax.tree.map(jnp.zeros_like, jax.eval_shape(network.apply, params, obs)[1])
        if jax.tree.leaves(memory) and len(row.valid) % minibatches:
            raise UserError(
                f"minibatches is {minibatches}; with a memory it must divide the number of envs ({len(row.valid)}), "
                "for an env's rows stay together"
            )
        row = row._replace(next_obs=(), extra=(row.reward, memory))
        rows = jax.tree.map(lambda x: jnp.zeros((rollout_length, *x.shape), x.dtype), row)
        rollout = Rollout(rows=rows, last=jax.tree.map(jnp.asarray, obs), memory=memory)
        return new_state(key, hyper, params=params, opt_state=optimizer.init(params), data=rollout)

    def act(state: State, obs: Any) -> tuple[Array, Any]:
        q, memory = network.apply(state.params, obs, state.data.memory)
        action = explore.epsilon_greedy(derive_key(state.key, ACT, state.vector_steps), q, epsilon_of(state))
        return action, (jnp.max(q, axis=-1), memory)

    def observe(state: State, step: Step) -> State:
        reward, (value, memory) = learned_reward(state, step.reward, clip_rewards), step.extra
        row = step._replace(reward=reward, next_obs=(), extra=(value, state.data.memory))
        slot = state.vector_steps % rollout_length
        rows = jax.tree.map(lambda store, x: store.at[slot].set(x), state.data.rows, row)
        return count_step(state, step, Rollout(rows, step.next_obs, reset_memory(memory, step.valid)))

    def returns(state: State, slots: Array) -> tuple[Array, Array]:
        """Returns the lambda-returns [T, B] of the rows in these slots, oldest first, and which of them count."""
        data, hyper = state.data, state.hyper
        rows = jax.tree.map(lambda x: x[slots], data.rows._replace(obs=()))
        last = jnp.max(network.apply(state.params, data.last, data.memory)[0], axis=-1)
        values = jnp.concatenate([rows.extra[0][1:], last.astype(rows.extra[0].dtype)[None]])
        reward, terminated, truncated, valid = (x.T for x in (rows.reward, rows.terminated, rows.truncated, rows.valid))
        windows = bellman.lambda_windows(reward, terminated, truncated, valid, hyper.discount, hyper.lambda_)
        targets = bellman.lambda_returns(windows.reward, windows.discount, values.T, windows.trace)
        return targets.T, windows.valid.T

    def learn(state: State) -> tuple[State, dict[str, Array]]:
        slots, num_envs = (
            (state.vector_steps + jnp.arange(rollout_length)) % rollout_length,
            len(state.data.rows.valid[0]),
        )
        targets, valid = returns(state, slots)
        remembers = bool(jax.tree.leaves(state.data.memory))

        def update(state: State, extra, part):
            """One minibatch: the rows, or with a memory the envs, whose numbers are `part`."""
            if remembers:
                t, env = jnp.arange(rollout_length), part[:, None]  # [n, T] rows
            else:
                t, env = jnp.divmod(part, num_envs)  # [n] rows
            rows = jax.tree.map(lambda x: x[slots[t], env], state.data.rows)
            target, weight = targets[t, env], valid[t, env].astype(targets.dtype)

            def loss(params):
                if remembers:
                    start = jax.tree.map(lambda x: x[:, 0], rows.extra[1])
                    q = losses.unroll(network.apply, params, rows.obs, start, rows.valid)[0]
                else:
                    q = network.apply(params, rows.obs)[0]
                q = jnp.take_along_axis(q, rows.action[..., None], axis=-1)[..., 0]
                return losses.weighted_mean(optax.l2_loss(q, target), weight), q

            (value, q_values), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
            metrics = update_metrics(state, value, gradient, q_values, weight)
            return apply_gradient(state, gradient, optimizer), extra, metrics

        def epoch(state: State, extra, _):
            key = derive_key(state.key, LEARN, state.updates // minibatches)
            order = jax.random.permutation(key, num_envs if remembers else rollout_length * num_envs)
            return scan_updates(update, state, extra, order.reshape(minibatches, -1))

        state, _, metrics = scan_updates(epoch, state, (), length=epochs)
        return state, jax.tree.map(lambda x: x.reshape(-1), metrics)

    return Agent(
        init=init, act=act, observe=observe, learn=learn, policy=policy, q_values=network.apply, learns_last=True
    )


ENTRY = AgentEntry(Config, make, {}, presets.PQN, sources=presets.PQN_SOURCES)
