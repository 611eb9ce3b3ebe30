"""JAX envs from finite models, and finite models from JAX envs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxql.envs.jax.protocol import JaxEnv
from jaxql.errors import UserError
from jaxql.planning import check_mdp
from jaxql.types import MDP


def to_mdp(env: JaxEnv, start: ArrayLike, num_terminal: int) -> MDP:
    """Returns the model of an env whose states are indices and whose steps draw nothing.

    Args:
      env: its observations are its states, and `step` ignores the key.
      start: [S] distribution of the first state.
      num_terminal: the number of terminal states, which are the last ones. In the model they loop with reward 0.

    Raises:
      UserError: the env's states are not indices.
    """
    if env.num_states is None:
        raise UserError("to_mdp: the states of the env must be indices, and num_states their number")
    states, actions = np.indices((env.num_states, env.num_actions), dtype=np.int32)
    next_state, reward, ends = (np.array(x) for x in env.step(jax.random.key(0), states, jnp.asarray(actions)))
    terminal = states >= env.num_states - num_terminal
    return MDP(
        next_state=jnp.asarray(np.where(terminal, states, next_state)[..., None], jnp.int32),
        probability=jnp.ones((*states.shape, 1)),
        reward=jnp.asarray(np.where(terminal, 0, reward)[..., None], float),
        ends=jnp.asarray((terminal | ends)[..., None]),
        start=jnp.asarray(start, float),
    )


def from_mdp(mdp: MDP) -> JaxEnv:
    """Returns the env that draws its first state from `mdp.start` and its transitions from `mdp.probability`.

    Where states lack actions (see `jaxql.planning.check_mdp`), an observation is {"observation", "action_mask"}. An
    illegal action ends the episode with the reward NaN, so that it cannot pass unnoticed.

    Raises:
      UserError: not a valid model.

    >>> from jaxql.envs.jax import catch_mdp
    >>> env = from_mdp(catch_mdp(rows=2, columns=3))
    >>> state, reward, terminated = env.step(jax.random.key(0), jnp.int32(4), jnp.int32(1))
    >>> int(state), float(reward), bool(terminated)  # state 4: ball and paddle in the middle; 1: stay
    (13, 1.0, True)
    """
    mdp = check_mdp(mdp)
    threshold, other = _alias_table(mdp.start)
    cumulative = _cumulative(mdp.probability)
    legal = None if mdp.legal is None else jnp.asarray(mdp.legal)
    num_states, num_actions, _ = mdp.next_state.shape

    def reset(key: jax.Array, /) -> jax.Array:
        return _draw_from_alias_table(key, threshold, other)

    def step(key: jax.Array, state: Any, action: jax.Array, /) -> tuple[jax.Array, jax.Array, jax.Array]:
        transition = (state, action, _draw(key, cumulative[state, action]))
        next_state, reward, ends = (jnp.asarray(x)[transition] for x in (mdp.next_state, mdp.reward, mdp.ends))
        reward = reward.astype(float)
        if legal is not None:
            reward = jnp.where(legal[state, action], reward, jnp.nan)
        return next_state.astype(jnp.int32), reward, ends.astype(bool)

    def observe(state: Any, /) -> Any:
        return state if legal is None else {"observation": state, "action_mask": legal[state]}

    numbers: Any = dict(num_actions=num_actions, num_states=num_states, step_limit=mdp.step_limit, mdp=mdp)
    return JaxEnv(reset, step, observe=observe, **numbers)


def _normalised(probability: ArrayLike) -> np.ndarray:
    """The distribution [..., K] in float64, its sum made exactly 1."""
    probability = np.asarray(probability, np.float64)
    return probability / probability.sum(axis=-1, keepdims=True)


def _cumulative(probability: ArrayLike) -> jax.Array:
    total = np.cumsum(_normalised(probability), axis=-1)
    return jnp.asarray(total / total[..., -1:], float)


def _draw(key: jax.Array, cumulative: jax.Array) -> jax.Array:
    """An index drawn from cumulative probabilities [K]. One of probability 0 is never drawn, for it adds nothing."""
    if cumulative.size == 1:  # nothing to draw
        return jnp.int32(0)
    method = "compare_all" if cumulative.size <= 16 else "scan"  # comparing a few is faster than searching them
    return jnp.searchsorted(cumulative, jax.random.uniform(key), side="right", method=method)


def _alias_table(probability: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """(threshold [K], other [K]): of K equal cells, cell k means k up to its threshold and other[k] beyond it.

    A draw then costs the same however many states there are. Source: Vose (1991), https://doi.org/10.1109/32.92917
    """
    left = _normalised(probability) * len(np.asarray(probability))
    threshold, other, order = np.ones(len(left)), np.arange(len(left)), np.argsort(-left)
    small, large = list(order[left[order] < 1]), list(order[left[order] >= 1])  # the smallest cell is filled first
    while small and large:
        cell, giver = small.pop(), large[-1]
        threshold[cell], other[cell] = left[cell], giver
        left[giver] -= 1 - left[cell]
        if left[giver] < 1:
            small.append(large.pop())
    return jnp.asarray(threshold, float), jnp.asarray(other, jnp.int32)


def _draw_from_alias_table(key: jax.Array, threshold: jax.Array, other: jax.Array) -> jax.Array:
    place = jax.random.uniform(key) * len(threshold)
    cell = jnp.minimum(place.astype(jnp.int32), len(threshold) - 1)
    return jnp.where(place - cell < threshold[cell], cell, other[cell])
