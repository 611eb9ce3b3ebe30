"""Models of Gymnasium envs, and the check that every solver makes of a model."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxql.errors import UserError
from jaxql.planning.arguments import is_concrete, sum_tolerance
from jaxql.types import MDP


def check_mdp(mdp: MDP) -> None:
    """Raises UserError, naming the state and action, unless `mdp` is a valid model. Traced values are not checked.

    Probabilities must not be negative, and must sum to 1 within 1e-5, or within the rounding of their dtype if that is
    more (solvers divide by the sum). Rewards must be finite. All successors must be states, also those of
    probability 0.

    Source: Sutton & Barto (2018), equation 3.3, http://incompleteideas.net/book/the-book-2nd.html

    >>> check_mdp(MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [2.0]))))
    Traceback (most recent call last):
    jaxql.errors.UserError: start sums to 2.0; it must be a distribution over the states
    """
    shape = np.shape(mdp.probability)
    if len(shape) != 3 or 0 in shape or any(np.shape(x) != shape for x in mdp[:4]):
        raise UserError(f"an MDP needs four arrays [S, A, K]; they have {[np.shape(x) for x in mdp[:4]]}")
    if np.shape(mdp.start) != shape[:1]:
        raise UserError(f"start has shape {np.shape(mdp.start)}; it must be [{shape[0]}], a probability for each state")
    if not all(is_concrete(x) for x in mdp[:5]):
        return
    probability, next_state, start = (np.asarray(x) for x in (mdp.probability, mdp.next_state, mdp.start))
    if next_state.dtype.kind not in "iu":
        raise UserError(f"next_state is {next_state.dtype}; it must hold states, whole numbers in 0..{shape[0] - 1}")
    total, near = probability.sum(axis=-1, dtype=np.float64), sum_tolerance(probability.dtype)
    for bad, fault in (
        ((probability < 0).any(-1), "has a negative probability"),
        (~(np.abs(total - 1) <= near), "has probabilities that do not sum to 1"),
        (((next_state < 0) | (next_state >= shape[0])).any(-1), f"leads to a state outside 0..{shape[0] - 1}"),
        (~np.isfinite(np.asarray(mdp.reward)).all(-1), "has a reward that is not finite"),
    ):
        if bad.any():
            state, action = (int(x) for x in np.argwhere(bad)[0])
            raise UserError(f"state {state}, action {action} {fault}: {_row(mdp, state, action)}")
    if (start < 0).any():
        raise UserError(f"start is {start.min()} in state {int(start.argmin())}; a probability is not negative")
    if not abs(start.sum(dtype=np.float64) - 1) <= sum_tolerance(start.dtype):
        raise UserError(f"start sums to {start.sum(dtype=np.float64)}; it must be a distribution over the states")


def _row(mdp, state, action) -> str:
    names = ("probability", "next_state", "reward")
    return ", ".join(f"{name} {np.asarray(getattr(mdp, name))[state, action][:8].tolist()}" for name in names)


def from_gymnasium(env_or_id: Any, **env_kwargs: Any) -> MDP:
    """The model of a Gymnasium toy-text env: FrozenLake, CliffWalking, Taxi, or any with such an `.unwrapped.P`.

    P[s][a] is a list of (probability, next state, reward, terminated). Equal outcomes are merged. K is the largest
    number of different outcomes; shorter lists are padded with probability 0 and next_state s. The start distribution
    is the env's, and the step limit is its spec's. Wrappers are ignored: their changes are not in the model.

    Args:
      env_or_id: an id, or an env, which is left open.
      env_kwargs: for `gymnasium.make`, with an id only.

    Raises: UserError if there is no such env, if it has no P, or if P is incomplete (Taxi's fickle passenger).

    Source: Sutton & Barto (2018), equation 3.2, http://incompleteideas.net/book/the-book-2nd.html; the tables:
    https://gymnasium.farama.org/environments/toy_text

    >>> lake = from_gymnasium("FrozenLake-v1")
    >>> lake.probability.shape, lake.step_limit
    ((16, 4, 3), 100)
    """
    import gymnasium  # only here: planning needs no emulator

    if isinstance(env_or_id, str):
        try:
            env = gymnasium.make(env_or_id, **env_kwargs)
        except (gymnasium.error.Error, TypeError) as error:
            raise UserError(f"{env_or_id}: {' '.join(str(error).split())}") from error
        try:
            return from_gymnasium(env)
        finally:
            env.close()
    if env_kwargs:
        raise UserError(f"{', '.join(env_kwargs)}: settings go with an id; this env is already made")
    env = getattr(env_or_id, "unwrapped", env_or_id)
    name = env.spec.id if getattr(env, "spec", None) else type(env).__name__
    if not hasattr(env, "P"):
        raise UserError(f"{name} has no transition table (env.unwrapped.P); FrozenLake, CliffWalking and Taxi have one")
    if getattr(env, "fickle_passenger", False):
        raise UserError(f"{name} with fickle_passenger=True is not the process in its P; make it without")
    limit = env_or_id.spec.max_episode_steps if getattr(env_or_id, "spec", None) else None
    return _from_table(env.P, _start(env, name), None if limit is None or limit < 0 else int(limit))


def _start(env, name):
    if hasattr(env, "initial_state_distrib"):
        start = np.asarray(env.initial_state_distrib, np.float64)
        return start / start.sum()
    if hasattr(env, "start_state_index"):
        return np.eye(len(env.P))[int(env.start_state_index)]
    raise UserError(f"{name} does not say where it starts: no initial_state_distrib, no start_state_index")


def _from_table(table, start, step_limit) -> MDP:
    num_states, num_actions = len(table), len(table[0])
    merged: dict[tuple[int, int], dict[tuple[int, float, bool], float]] = {}
    for state, action in np.ndindex(num_states, num_actions):
        outcomes = merged[state, action] = {}
        for probability, successor, reward, ended in table[state][action]:
            key = int(successor), float(reward), bool(ended)
            outcomes[key] = outcomes.get(key, 0.0) + float(probability)
    shape = (num_states, num_actions, max(len(outcomes) for outcomes in merged.values()))
    next_state = np.broadcast_to(np.arange(num_states, dtype=np.int32)[:, None, None], shape).copy()
    probability, reward, ends = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    for pair, outcomes in merged.items():
        for k, (outcome, chance) in enumerate(outcomes.items()):
            next_state[*pair, k], reward[*pair, k], ends[*pair, k] = outcome
            probability[*pair, k] = chance
    probability, reward, start = (jnp.asarray(x, jnp.result_type(float)) for x in (probability, reward, start))
    return MDP(jnp.asarray(next_state), probability, reward, jnp.asarray(ends), start, step_limit)
