"""Tabular Q-learning (Watkins & Dayan, 1992)."""

import dataclasses

import jax.numpy as jnp

from jaxql import tabular
from jaxql.agents.base import (
    RunConfig,
    State,
    after,
    epsilon_greedy_on,
    epsilon_of,
    learning_rate_of,
    new_state,
    within,
)
from jaxql.errors import UserError
from jaxql.replay import zero_step
from jaxql.types import Agent, EnvSpec, Network, Step


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """Settings of tabular Q-learning."""

    learning_rate: float = within(0.2, 0, 1)  # alpha
    decay_updates: int = within(1, 1)  # updates in which alpha falls linearly to decay_to of itself
    decay_to: float = within(1.0, 0, 1)  # 1 keeps it constant
    discount: float = within(0.9, 0, 1)  # gamma
    epsilon: float = within(0.1, 0, 1)  # where exploration ends
    exploration_steps: int = within(20_000, 1)  # env steps in which epsilon falls there from 1
    initial_value: float = 0.0  # of every state-action pair


def states_of(spec: EnvSpec, name: str) -> int:
    """The number of states, or one line that says why there is none."""
    if spec.num_states is None:
        raise UserError(f'{name} needs discrete observations (FrozenLake-v1, Taxi-v4, ...); for others use "dqn"')
    return spec.num_states


def make(config: Config, spec: EnvSpec, network: Network | None = None) -> Agent:
    """Q-learning on a table [S, A]; observations are indices of states."""
    if network is not None:
        raise UserError("q-learning keeps a table and takes no network; use dqn for one")
    if config.ticks != 1 or config.updates != 1:
        raise UserError("q-learning learns from the last tick only: ticks and updates must be 1")
    return q_learning(states_of(spec, "q-learning"), spec.num_actions, initial_value=config.initial_value)


def q_learning(num_states: int, num_actions: int, *, initial_value: float = 0.0) -> Agent:
    """The agent; its params are {"q_values": [S, A]}. One tick and one update a round."""
    act, policy = epsilon_greedy_on(lambda params, obs, key: params["q_values"][obs])

    def init(key, obs, hyper) -> State:
        params = {"q_values": jnp.full((num_states, num_actions), float(initial_value))}
        return new_state(key, hyper, params=params, data=zero_step(obs))

    def observe(state: State, step: Step) -> State:
        return after(state, step, data=step)

    def learn(state: State):
        """Applies the envs one after another: summed, the errors of many that meet in one (s, a) diverge."""
        step = state.data
        discount = jnp.where(step.terminated, 0, state.hyper.discount)
        table, errors = tabular.q_learning_update(
            state.params["q_values"],
            step.obs,
            step.action,
            step.reward,
            discount,
            step.next_obs,
            step.valid,
            learning_rate_of(state),
        )
        metrics = {"loss": jnp.mean(errors**2), "epsilon": epsilon_of(state)}
        return state._replace(params={"q_values": table}, updates=state.updates + 1), metrics

    return Agent(init=init, act=act, observe=observe, learn=learn, policy=policy, learns_last=True)


PRESETS = {}

TUNED = {
    "FrozenLake-v1": dict(
        num_envs=16,
        steps=500_000,
        decay_updates=3_000,  # a slippery lake's returns are noise: with a constant alpha the policy never settles
        decay_to=0.1,
        test_every=1_000,
        solved_at=0.80,
        solved_strictly=True,
    ),
    "Taxi-v4": dict(
        num_envs=64,
        steps=2_000_000,
        learning_rate=0.3,
        discount=0.8,
        epsilon=0.1,
        exploration_steps=100_000,
        test_every=250_000,
        test_episodes=50,
        solved_at=7.0,
    ),
}
