"""The notebook's first two systems: a model counted from random steps, and dynamic programming on it."""

import dataclasses
import functools

import jax.numpy as jnp

from jaxql import planning, tabular
from jaxql.agents.base import RunConfig, State, after, epsilon_greedy_on, epsilon_of, new_state, within
from jaxql.agents.q_learning import states_of
from jaxql.errors import UserError
from jaxql.types import Agent, EnvSpec, Network, Step


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """Settings of value iteration and Q-iteration on a sampled model; one sweep an iteration."""

    num_envs: int = within(20, 1)  # an iteration is num_envs * ticks random steps: the notebook's 100
    ticks: int = within(5, 1)
    discount: float = within(0.9, 0, 1)  # gamma
    epsilon: float = within(1.0, 0, 1)  # actions are random
    log_every: int = within(100, 1)  # env steps between rows of metrics.csv
    test_every: int = within(100, 1)  # env steps between tests


def make(config: Config, spec: EnvSpec, network: Network | None = None, *, on: str) -> Agent:
    """The agent that iterates `on` "values" or on "q_values"."""
    name = {"values": "value-iteration", "q_values": "q-iteration"}[on]
    if network is not None:
        raise UserError(f"{name} keeps a table and takes no network; use dqn for one")
    return iteration(states_of(spec, name), spec.num_actions, on=on)


def iteration(num_states: int, num_actions: int, *, on: str) -> Agent:
    """The agent; one sweep an update: V(s) = max_a sum_s' p (r + gamma V(s')), or the same on Q(s, a).

    Its params hold "q_values" [S, A], from which it acts, and for `on="values"` the "values" [S] that are swept.
    State-action pairs never tried are worth 0.
    """
    act, policy = epsilon_greedy_on(lambda params, obs, key: params["q_values"][obs])

    def init(key, obs, hyper) -> State:
        tables = {"q_values": jnp.zeros((num_states, num_actions)), "values": jnp.zeros(num_states)}
        params = {name: tables[name] for name in {"q_values", on}}
        return new_state(key, hyper, params=params, data=tabular.empty_counts(num_states, num_actions))

    def observe(state: State, step: Step) -> State:
        counts = tabular.count(
            state.data, step.obs, step.action, step.reward, step.terminated, step.next_obs, step.valid
        )
        return after(state, step, data=counts)

    def learn(state: State):
        mdp, params = tabular.empirical_mdp(state.data), state.params
        if on == "values":
            values = planning.bellman_optimality(mdp, params["values"], state.hyper.discount)
            q_values = planning.action_values(mdp, values, state.hyper.discount)
            new = {"q_values": q_values, "values": values}
        else:
            values = jnp.max(params["q_values"], axis=-1)
            new = {"q_values": planning.action_values(mdp, values, state.hyper.discount)}
        change = jnp.max(jnp.abs(new[on] - params[on]))
        return state._replace(params=new, updates=state.updates + 1), {"loss": change, "epsilon": epsilon_of(state)}

    return Agent(init=init, act=act, observe=observe, learn=learn, policy=policy, learns_last=True)


make_value_iteration = functools.partial(make, on="values")
make_q_iteration = functools.partial(make, on="q_values")

PRESETS = {}
TUNED = {"FrozenLake-v1": dict(steps=200_000, solved_at=0.80, solved_strictly=True)}
