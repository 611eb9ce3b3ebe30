"""The state of an agent, and what all agents do with it: count steps, and act epsilon-greedily."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxql import explore
from jaxql.agents.schedules import epsilon_of
from jaxql.kernels import derive_key
from jaxql.types import Array, Step

# purposes of keys; DRAWS: noise and fractions of the network
INIT, ACT, LEARN, ACT_DRAWS, LEARN_DRAWS, RESET = range(6)


class Hyper(NamedTuple):
    """Numbers that may differ between vmapped agents; functions read them from the state, never from a closure.

    Each is declared, with its default and range, in the settings of the agents that have it. A field that is () is not
    in use: a rate does not decay, epsilon does not fall, importance weights are 1.
    """

    learning_rate: Any = ()
    discount: Any = ()
    epsilon: Any = ()
    exploration_steps: Any = ()
    target_period_updates: Any = ()
    tau: Any = ()
    lambda_: Any = ()
    priority_exponent: Any = ()
    beta: Any = ()
    beta_steps: Any = ()
    lr_decay_start: Any = ()
    lr_decay_steps: Any = ()
    lr_decay_fraction: Any = ()
    reset_every_updates: Any = ()
    reset_keep: Any = ()
    horizon_anneal_updates: Any = ()
    n_step: Any = ()
    n_step_end: Any = ()
    discount_end: Any = ()
    reward_scale: Any = ()


class State(NamedTuple):
    """All that changes in an agent; a field that it has no use for is ()."""

    params: Any
    target: Any
    opt_state: Any
    data: Any  # what it learns from: a ring, counts, a rollout, or the last Step
    vector_steps: Array  # steps of all environments together
    env_steps: Array  # valid rows observed
    updates: Array
    hyper: Hyper
    key: Array


def hyper_of(config: Any) -> Hyper:
    """Returns the Hyper of an agent's settings."""
    return Hyper(**{name: getattr(config, name) for name in Hyper._fields if hasattr(config, name)})


def new_state(key: Array, hyper: Hyper, *, params: Any, data: Any, target: Any = (), opt_state: Any = ()) -> State:
    """Returns a state at step 0, of copies: a donated state shares no buffer with its caller or itself."""
    zero: Any = np.int32(0)
    state = State(
        params=params,
        target=target,
        opt_state=opt_state,
        data=data,
        vector_steps=zero,
        env_steps=zero,
        updates=zero,
        hyper=jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), hyper),
        key=key,
    )
    return jax.tree.map(lambda x: jnp.copy(jnp.asarray(x)), state)


def count_step(state: State, step: Step, data: Any) -> State:
    """Returns the state after one vector step, with `data` in place of its own."""
    env_steps = state.env_steps + jnp.sum(step.valid, dtype=jnp.int32)
    return state._replace(data=data, vector_steps=state.vector_steps + 1, env_steps=env_steps)


def learned_reward(state: State, reward: Array, clip: bool) -> Array:
    """Returns the rewards that the learner sees: their signs, if `clip`, times the state's `reward_scale`."""
    reward = jnp.sign(reward) if clip else reward
    scale = state.hyper.reward_scale
    return reward if isinstance(scale, tuple) else reward * scale


def epsilon_greedy_on(q: Callable[[Any, Any, Array | None], Array]) -> tuple[Callable, Callable, Callable]:
    """Returns (act, policy, q_values) of an agent without memory.

    Args:
      q: (params, obs, key) -> action values [B, A]; the policy gives no key.
    """

    def policy(params, obs, memory, key, epsilon=0.0):
        return explore.epsilon_greedy(key, q(params, obs, None), epsilon), memory

    def act(state: State, obs):
        values = q(state.params, obs, derive_key(state.key, ACT_DRAWS, state.vector_steps, unrolled=False))
        return explore.epsilon_greedy(derive_key(state.key, ACT, state.vector_steps), values, epsilon_of(state)), ()

    def q_values(params, obs, memory):
        return q(params, obs, None), memory

    return act, policy, q_values
