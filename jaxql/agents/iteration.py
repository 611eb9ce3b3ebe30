"""Value iteration and Q-iteration on a model that is counted from random steps."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxql import tabular
from jaxql.agents import presets
from jaxql.agents.config import AgentConfig, bounded
from jaxql.agents.q_learning import masked_values, state_and_mask, states_of
from jaxql.agents.registry import AgentEntry
from jaxql.agents.schedules import epsilon_of
from jaxql.agents.state import Hyper, State, count_step, epsilon_greedy_on, new_state
from jaxql.errors import UserError
from jaxql.planning.numbers import where_legal
from jaxql.planning.operators import backup
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
    State-action pairs never tried are worth 0, and so is an illegal action, which no maximum counts.
    """
    act, policy, evaluate = epsilon_greedy_on(lambda params, obs, key: masked_values(params["q_values"], obs))

    def init(key: Array, obs: Any, hyper: Hyper) -> State:
        tables = {"q_values": jnp.zeros((num_states, num_actions)), "values": jnp.zeros(num_states)}
        params = {name: tables[name] for name in {"q_values", on}}
        legal = None if state_and_mask(obs)[1] is None else jnp.ones((num_states, num_actions), bool)
        return new_state(key, hyper, params=params, data=(tabular.empty_counts(num_states, num_actions), legal))

    def observe(state: State, step: Step) -> State:
        counts, legal = state.data
        (now, mask), (following, next_mask) = state_and_mask(step.obs), state_and_mask(step.next_obs)
        counts = tabular.count(counts, now, step.action, step.reward, step.terminated, following, step.valid)
        if mask is not None:
            legal = legal.at[now].set(mask).at[following].set(next_mask)
        return count_step(state, step, (counts, legal))

    def learn(state: State) -> tuple[State, dict[str, Array]]:
        counts, legal = state.data
        mdp, discount = tabular.empirical_mdp(counts)._replace(legal=legal), state.hyper.discount

        def finite(q):
            return where_legal(legal, q, 0)

        def sweep(params, _):
            if on == "values":
                values = jnp.max(backup(mdp, params["values"], discount), axis=-1)
                new = {"q_values": finite(backup(mdp, values, discount)), "values": values}
            else:
                values = jnp.max(where_legal(legal, params["q_values"], -jnp.inf), axis=-1)
                new = {"q_values": finite(backup(mdp, values, discount))}
            return new, {"loss": jnp.max(jnp.abs(new[on] - params[on])), "epsilon": epsilon_of(state)}

        params, metrics = jax.lax.scan(sweep, state.params, None, gradient_steps)
        return state._replace(params=params, updates=state.updates + gradient_steps), metrics

    return Agent(init=init, act=act, observe=observe, learn=learn, policy=policy, q_values=evaluate, learns_last=True)


VALUE_ITERATION = AgentEntry(
    Config,
    functools.partial(make, on="values"),
    tuned=presets.ITERATION,
    about="Value iteration, V(s), on a model that is counted from random steps",
)
Q_ITERATION = AgentEntry(
    Config,
    functools.partial(make, on="q_values"),
    tuned=presets.ITERATION,
    about="Q-iteration, Q(s, a), on a model that is counted from random steps",
)
