"""Tabular Q-learning (Watkins & Dayan, 1992)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxql import tabular
from jaxql.agents import presets
from jaxql.agents.config import AgentConfig, bounded
from jaxql.agents.registry import AgentEntry
from jaxql.agents.schedules import epsilon_of, learning_rate_of
from jaxql.agents.state import Hyper, State, count_step, epsilon_greedy_on, new_state
from jaxql.errors import UserError
from jaxql.replay import zero_step
from jaxql.types import Agent, Array, EnvSpec, Network, Step


@dataclasses.dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of tabular Q-learning."""

    learning_rate: float = bounded(0.2, 0, 1)  # alpha
    lr_decay_steps: int = bounded(1, 1)  # updates in which alpha falls linearly
    lr_decay_fraction: float = bounded(1.0, 0, 1)  # the fraction of itself that it falls to; 1 keeps it constant
    discount: float = bounded(0.9, 0, 1)  # gamma
    epsilon: float = bounded(0.1, 0, 1)  # exploration rate at the end of its schedule
    exploration_steps: int = bounded(20_000, 1)  # env steps in which epsilon falls from 1
    initial_value: float = 0.0  # of every state-action pair


def states_of(spec: EnvSpec, name: str) -> int:
    """Returns the number of states. Raises UserError, one line, where observations are no indices of states.

    The indices may come with a mask of legal actions: {"observation", "action_mask"}.
    """
    if spec.num_states is None:
        raise UserError(f'{name} needs discrete observations (FrozenLake-v1, Taxi-v4, ...); for others use "dqn"')
    return spec.num_states


def state_and_mask(obs: Any) -> tuple[Array, Array | None]:
    """Returns the states [B], and the mask [B, A] of their legal actions or None."""
    return (obs["observation"], obs["action_mask"]) if isinstance(obs, dict) else (obs, None)


def masked_values(table: Array, obs: Any) -> Array:
    """Returns the rows [B, A] of a table [S, A]; illegal actions are worth -inf."""
    state, mask = state_and_mask(obs)
    return table[state] if mask is None else jnp.where(mask, table[state], -jnp.inf)


def make(config: Config, spec: EnvSpec, network: Network | None = None) -> Agent:
    """Returns Q-learning on a table [S, A]; observations are indices of states."""
    if network is not None:
        raise UserError("q-learning keeps a table and takes no network; use dqn for one")
    if config.rollout_length != 1 or config.gradient_steps != 1:
        raise UserError("q-learning learns from the last step only: rollout_length and gradient_steps must be 1")
    return q_learning(states_of(spec, "q-learning"), spec.num_actions, initial_value=config.initial_value)


def q_learning(num_states: int, num_actions: int, *, initial_value: float = 0.0) -> Agent:
    """Returns the agent; its params are {"q_values": [S, A]}. A round is one vector step and one update."""
    act, policy, evaluate = epsilon_greedy_on(lambda params, obs, key: masked_values(params["q_values"], obs))

    def init(key: Array, obs: Any, hyper: Hyper) -> State:
        params = {"q_values": jnp.full((num_states, num_actions), float(initial_value))}
        return new_state(key, hyper, params=params, data=zero_step(obs))

    def observe(state: State, step: Step) -> State:
        return count_step(state, step, step)

    def learn(state: State) -> tuple[State, dict[str, Array]]:
        """Applies the envs one after another: summed, the errors of many that meet in one (s, a) diverge."""
        step, old = state.data, state.params["q_values"]
        (now, _), (following, mask) = state_and_mask(step.obs), state_and_mask(step.next_obs)
        discount = jnp.where(step.terminated, 0, state.hyper.discount)
        table, errors = tabular.q_learning_update(
            old if mask is None else old.at[following].set(masked_values(old, step.next_obs)),
            now,
            step.action,
            step.reward,
            discount,
            following,
            step.valid,
            learning_rate_of(state),
        )
        if mask is not None:  # -inf was for the targets only
            table = table.at[following].set(jnp.where(mask, table[following], old[following]))
        metrics = {"loss": jnp.mean(errors**2), "epsilon": epsilon_of(state)}
        state = state._replace(params={"q_values": table}, updates=state.updates + 1)
        return state, jax.tree.map(lambda x: jnp.asarray(x)[None], metrics)

    return Agent(init=init, act=act, observe=observe, learn=learn, policy=policy, q_values=evaluate, learns_last=True)


ENTRY = AgentEntry(Config, make, {}, presets.Q_LEARNING)
