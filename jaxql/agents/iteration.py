"""Value iteration and Q-iteration on a model that is counted from random steps."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxql import planning, tabular
from jaxql.agents import presets
from jaxql.agents.config import AgentConfig, bounded
from jaxql.agents.q_learning import states_of
from jaxql.agents.registry import AgentEntry
from jaxql.agents.schedules import epsilon_of
from jaxql.agents.state import Hyper, State, count_step, epsilon_greedy_on, new_state
from jaxql.errors import UserError
from jaxql.types import Agent, Array, EnvSpec, Network, Step


@dataclasses.dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of value iteration and Q-iteration on a sampled model; one sweep an iteration."""

    num_envs: int = bounded(20, 1)  # an iteration has num_envs * rollout_length random steps
    rollout_length: int = bounded(5, 1)  # steps of every environment in a round
    discount: float = bounded(0.9, 0, 1)  # gamma
    epsilon: float = bounded(1.0, 0, 1)  # actions are random


def make(config: Config, spec: EnvSpec, network: Network | None = None, *, on: str) -> Agent:
    """Returns the agent that iterates `on` "values" or on "q_values"."""
    name = {"values": "value-iteration", "q_values": "q-iteration"}[on]
    if network is not None:
        raise UserError(f"{name} keeps a table and takes no network; use dqn for one")
    return iteration(states_of(spec, name), spec.num_actions, on=on, gradient_steps=config.gradient_steps)


def iteration(num_states: int, num_actions: int, *, on: str, gradient_steps: int = 1) -> Agent:
    """Returns the agent; one sweep an update: V(s) = max_a sum_s' p (r + gamma V(s')), or the same on Q(s, a).

    Its params hold "q_values" [S, A], from which it acts, and for `on="values"` the "values" [S] that are swept.
    State-action pairs never tried are worth 0.
    """
    act, policy = epsilon_greedy_on(lambda params, obs, key: params["q_values"][obs])

    def init(key: Array, obs: Any, hyper: Hyper) -> State:
        tables = {"q_values": jnp.zeros((num_states, num_actions)), "values": jnp.zeros(num_states)}
        params = {name: tables[name] for name in {"q_values", on}}
        return new_state(key, hyper, params=params, data=tabular.empty_counts(num_states, num_actions))

    def observe(state: State, step: Step) -> State:
        counts = tabular.count(
            state.data, step.obs, step.action, step.reward, step.terminated, step.next_obs, step.valid
        )
        return count_step(state, step, counts)

    def learn(state: State) -> tuple[State, dict[str, Array]]:
        mdp, discount = tabular.empirical_mdp(state.data), state.hyper.discount

        def sweep(params, _):
            if on == "values":
                values = planning.bellman_optimality(mdp, params["values"], discount)
                new = {"q_values": planning.action_values(mdp, values, discount), "values": values}
            else:
                values = jnp.max(params["q_values"], axis=-1)
                new = {"q_values": planning.action_values(mdp, values, discount)}
            return new, {"loss": jnp.max(jnp.abs(new[on] - params[on])), "epsilon": epsilon_of(state)}

        params, metrics = jax.lax.scan(sweep, state.params, None, gradient_steps)
        return state._replace(params=params, updates=state.updates + gradient_steps), metrics

    return Agent(init=init, act=act, observe=observe, learn=learn, policy=policy, learns_last=True)


VALUE_ITERATION = AgentEntry(Config, functools.partial(make, on="values"), {}, presets.ITERATION)
Q_ITERATION = AgentEntry(Config, functools.partial(make, on="q_values"), {}, presets.ITERATION)
