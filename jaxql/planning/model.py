"""The model as planners read it, and models of Gymnasium envs."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxql.errors import UserError
from jaxql.planning.arguments import as_array, is_concrete, sum_tolerance, whole_number
from jaxql.types import MDP


def check_mdp(mdp: MDP) -> MDP:
    """The model as planners read it: arrays, and every illegal action in `legal` [S, A], None where all are legal.

    An action is illegal where `legal` is False, where all its probabilities are 0, and where a possible successor has
    the reward -inf. Its action value is -inf and no planner takes it; whatever else the model says of it is ignored. A
    state without a legal action is terminal: its value is 0, and the transitions that lead there end.

    Probabilities must not be negative, and must sum to 1 within 1e-5, or within the rounding of their dtype if that is
    more (solvers divide by the sum). Other rewards must be finite. All successors must be states, also those of
    probability 0. Traced values are not checked.

    Raises: UserError, naming the state and action, unless `mdp` is a valid model; also for a state whose every action
      has the reward -inf.

    Source: Sutton & Barto (2018), equation 3.3, and section 3.2 for A(s), http://incompleteideas.net/book/the-book-2nd.html

    >>> loop = MDP([[[0], [0]]], [[[1.0], [1.0]]], [[[2.0], [-np.inf]]], [[[False], [False]]], [1.0])
    >>> check_mdp(loop).legal.tolist()
    [[True, False]]
    >>> check_mdp(loop._replace(start=[2.0]))
    Traceback (most recent call last):
    jaxql.errors.UserError: start sums to 2.0; it must be a distribution over the states
    """
    mdp = with_arrays(mdp)
    if not is_concrete(mdp):
        return with_legal_actions(mdp)
    next_state, probability, reward, ends, start = (np.asarray(x) for x in mdp[:5])
    states = len(start)
    negative, total = (probability < 0).any(-1), probability.sum(axis=-1, dtype=np.float64)
    infinite, near = ~np.isfinite(reward), sum_tolerance(probability.dtype)
    lost = infinite & (reward == -np.inf) if infinite.any() else infinite
    forbidden = (lost & (probability > 0)).any(-1) if lost.any() else np.zeros_like(negative)
    illegal = forbidden | ((total == 0) & ~negative)
    if mdp.legal is not None:
        illegal = illegal | ~np.asarray(mdp.legal)
    for bad, fault in (
        (negative, "has a negative probability"),
        (~(np.abs(total - 1) <= near), "has probabilities that do not sum to 1"),
        (((next_state < 0) | (next_state >= states)).any(-1), f"leads to a state outside 0..{states - 1}"),
        ((infinite & ~lost).any(-1), "has a reward that is not finite"),
    ):
        if (bad & ~illegal).any():
            state, action = (int(x) for x in np.argwhere(bad & ~illegal)[0])
            raise UserError(f"state {state}, action {action} {fault}: {_row(mdp, state, action)}")
    if (start < 0).any():
        raise UserError(f"start is {start.min()} in state {int(start.argmin())}; a probability is not negative")
    if not abs(start.sum(dtype=np.float64) - 1) <= sum_tolerance(start.dtype):
        raise UserError(f"start sums to {start.sum(dtype=np.float64)}; it must be a distribution over the states")
    if (illegal.all(-1) & forbidden.any(-1)).any():
        state = int(np.argmax(illegal.all(-1) & forbidden.any(-1)))
        raise UserError(f"every action of state {state} has the reward -inf; one must be legal, or all rows be zeros")
    return with_legal_actions(mdp) if illegal.any() or lost.any() else mdp._replace(legal=None)


def with_arrays(mdp: MDP) -> MDP:
    """The model with arrays in place of lists. Raises UserError for shapes and dtypes that an `MDP` cannot have."""
    if not isinstance(mdp, MDP):
        raise UserError(
            f"the model is a {type(mdp).__name__}; it must be a jaxql.MDP: planning.from_gymnasium makes one of an "
            "env, planning.from_matrices of P and R"
        )
    names = [name for name in MDP._fields if name != "step_limit" and not (name == "legal" and mdp.legal is None)]
    mdp = mdp._replace(**{name: as_array(name, getattr(mdp, name)) for name in names})
    shape = mdp.probability.shape
    if len(shape) != 3 or 0 in shape or any(x.shape != shape for x in mdp[:4]):
        raise UserError(f"an MDP needs four arrays [S, A, K]; they have {[x.shape for x in mdp[:4]]}")
    if mdp.start.shape != shape[:1]:
        raise UserError(f"start has shape {mdp.start.shape}; it must be [{shape[0]}], a probability for each state")
    if not jnp.issubdtype(mdp.next_state.dtype, jnp.integer):
        raise UserError(
            f"next_state is {mdp.next_state.dtype}; it must hold states, whole numbers in 0..{shape[0] - 1}"
        )
    if mdp.legal is not None and mdp.legal.shape != shape[:2]:
        raise UserError(f"legal has shape {mdp.legal.shape}; it must be {shape[:2]}, a bool for each state and action")
    return mdp._replace(**{name: _as_bool(name, getattr(mdp, name)) for name in names if name in ("ends", "legal")})


def _as_bool(name: str, x: Any) -> Any:
    if x.dtype == bool:
        return x
    if is_concrete(x) and not ((x == 0) | (x == 1)).all():
        raise UserError(f"{name} is {x.dtype}, with values other than 0 and 1; it must be bool")
    return x.astype(bool)


def with_legal_actions(mdp: MDP) -> MDP:
    """The model with all its illegal actions in `legal`, by the rules of `check_mdp`; it may be traced.

    The row of an illegal action ends at once, in its own state, with reward 0. So is the one legal action, 0, of a
    terminal state.
    """
    xp: Any = np if is_concrete(mdp) else jnp
    next_state, probability, reward, ends, _ = (xp.asarray(x) for x in mdp[:5])
    lost = reward == -np.inf
    illegal = (probability == 0).all(-1) | (lost & (probability > 0)).any(-1)
    if mdp.legal is not None:
        illegal = illegal | ~xp.asarray(mdp.legal)
    if is_concrete(mdp) and not (illegal.any() or lost.any()):
        return mdp._replace(legal=None)
    terminal, (states, actions, successors) = illegal.all(-1), probability.shape
    pad = illegal[..., None]
    here, first = np.arange(states, dtype=np.int32)[:, None, None], (np.arange(successors) == 0)[None, None]
    next_state = xp.where(pad, here, next_state)
    return mdp._replace(
        next_state=next_state.astype(np.int32),
        probability=xp.where(pad, first, probability).astype(probability.dtype),
        reward=xp.where(pad | lost, xp.zeros((), reward.dtype), reward),
        ends=pad | ends | terminal[next_state],
        legal=~illegal | (terminal[:, None] & (np.arange(actions) == 0)[None]),
    )


def check_initial_values(mdp: MDP, values: ArrayLike | None, *, of_pairs: bool = False) -> Any:
    """The initial values as an array; `of_pairs` allows [S, A]. Raises UserError unless they are finite."""
    if values is None:
        return None
    shape, found = mdp.probability.shape[:2], as_array("initial_values", values)
    if found.shape != shape[:1] and not (of_pairs and found.shape == shape):
        allowed = f"{shape[:1]}, one for each state" + f", or {shape}, one for each action of each state" * of_pairs
        raise UserError(f"initial_values has shape {found.shape}; it must be {allowed}")
    if is_concrete((found, mdp.legal)):
        counted = np.asarray(True if mdp.legal is None or found.ndim == 1 else mdp.legal)
        if not (np.isfinite(np.asarray(found)) | ~counted).all():
            raise UserError("initial_values has a value that is not finite")
    return found


def _row(mdp: MDP, state: int, action: int) -> str:
    names = ("probability", "next_state", "reward")
    return ", ".join(f"{name} {np.asarray(getattr(mdp, name))[state, action][:8].tolist()}" for name in names)


def from_gymnasium(env_or_id: Any, **env_kwargs: Any) -> MDP:
    """The model of a Gymnasium toy-text env: FrozenLake, CliffWalking, Taxi, or any with such an `.unwrapped.P`.

    P is read as by `from_table`, with the actions of the env's action space. The start distribution is the env's, and
    the step limit is its spec's. Wrappers are ignored: their changes are not in the model.

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
    limit = None if limit is None or limit < 0 else limit
    num_actions = getattr(getattr(env, "action_space", None), "n", None)
    try:
        return from_table(env.P, num_actions=num_actions, start=_start(env, name), step_limit=limit)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def _start(env: Any, name: str) -> np.ndarray:
    if hasattr(env, "initial_state_distrib"):
        start = as_array("initial_state_distrib", env.initial_state_distrib).astype(np.float64)
        return start / start.sum()
    if hasattr(env, "start_state_index"):
        return np.eye(len(env.P))[int(env.start_state_index)]
    raise UserError(
        "the env does not say where it starts: no initial_state_distrib, no start_state_index; "
        "planning.from_table(env.unwrapped.P, start=...) takes a start"
    )


def from_table(
    table: Any, *, num_actions: int | None = None, start: ArrayLike | None = None, step_limit: int | None = None
) -> MDP:
    """The model of a transition table as Gymnasium's toy-text envs have it, a dict or list of dicts or lists.

    table[s][a] is a list of (probability, next state, reward, terminated). Equal outcomes are merged. K is the largest
    number of different outcomes; shorter lists are padded with probability 0 and next_state s. An action that a state
    lacks, or whose list is empty, is illegal there. A state without actions is terminal.

    Args:
      table: for the states 0..S - 1.
      num_actions: A; None is one more than the largest action of any state.
      start: [S] distribution of the first state; None is uniform.
      step_limit: of the episodes, or None.

    Returns: a model in JAX's default float dtype.
    Raises: UserError, naming the state and action, for a table of another form, or one that is no model.

    Source: Sutton & Barto (2018), equation 3.2, http://incompleteideas.net/book/the-book-2nd.html; the form:
    https://gymnasium.farama.org/environments/toy_text

    >>> mdp = from_table({0: {0: [(1.0, 1, 0.0, False)]}, 1: {0: [(1.0, 1, 0.0, True)], 1: [(1.0, 1, 10.0, True)]}})
    >>> mdp.legal.tolist()
    [[True, False], [True, True]]
    """
    states = _numbered("the transition table", table)
    if sorted(states) != list(range(len(states))) or not states:
        raise UserError(f"the transition table has the states {_some(states)}; they must be 0, 1, ..., S - 1")
    merged: dict[tuple[int, int], dict[tuple[int, float, bool], float]] = {}
    for state in range(len(states)):
        for action, rows in _numbered(f"state {state} of the transition table", states[state]).items():
            if action < 0:
                raise UserError(f"state {state} of the transition table has the action {action}; actions count from 0")
            merged[state, action] = _outcomes(state, action, rows)
    needed = 1 + max((action for _, action in merged), default=0)
    num_actions = needed if num_actions is None else whole_number("num_actions", num_actions, needed)
    shape = len(states), num_actions, max([1, *map(len, merged.values())])
    next_state = np.broadcast_to(np.arange(shape[0], dtype=np.int32)[:, None, None], shape).copy()
    probability, reward, ends = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    for pair, outcomes in merged.items():
        for k, (outcome, chance) in enumerate(outcomes.items()):
            next_state[*pair, k], reward[*pair, k], ends[*pair, k] = outcome
            probability[*pair, k] = chance
    return on_device(next_state, probability, reward, ends, start=start, step_limit=step_limit)


def _numbered(name: str, rows: Any) -> dict[int, Any]:
    """The rows of a dict or a list by number. Raises UserError for others."""
    if isinstance(rows, dict):
        if not all(isinstance(key, int | np.integer) for key in rows):
            raise UserError(f"{name} has the keys {_some(rows)}; they must be whole numbers")
        return {int(key): row for key, row in rows.items()}
    if not isinstance(rows, list | tuple):
        raise UserError(f"{name} is a {type(rows).__name__}; it must be a dict or a list, P[state][action]")
    return dict(enumerate(rows))


def _some(keys: Any) -> str:
    shown = [repr(key) for key in list(keys)[:4]]
    return ", ".join(shown + ["..."] * (len(keys) > 4)) or "none"


def _outcomes(state: int, action: int, rows: Any) -> dict[tuple[int, float, bool], float]:
    """The probability of each different (next state, reward, terminated)."""
    outcomes: dict[tuple[int, float, bool], float] = {}
    try:
        for probability, successor, reward, ended in rows:
            if int(successor) != successor:
                raise ValueError
            key = int(successor), float(reward), bool(ended)
            outcomes[key] = outcomes.get(key, 0.0) + float(probability)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"state {state}, action {action} of the transition table has {str(rows)[:80]}; it must be a list of "
            "(probability, next state, reward, terminated)"
        ) from error
    return outcomes


def on_device(
    next_state: Any,
    probability: Any,
    reward: Any,
    ends: Any,
    *,
    start: Any,
    legal: Any = None,
    step_limit: int | None,
) -> MDP:
    """The checked model as JAX arrays in the default float dtype; `start=None` is uniform."""
    limit = None if step_limit is None else whole_number("step_limit", step_limit, 0, others=", or None")
    start = np.full(len(next_state), 1 / len(next_state)) if start is None else start
    mdp, dtype = check_mdp(MDP(next_state, probability, reward, ends, start, legal=legal)), jnp.result_type(float)
    return MDP(
        next_state=jnp.asarray(mdp.next_state, jnp.int32),
        probability=jnp.asarray(mdp.probability, dtype),
        reward=jnp.asarray(mdp.reward, dtype),
        ends=jnp.asarray(mdp.ends),
        start=jnp.asarray(mdp.start, dtype),
        step_limit=limit,
        legal=None if mdp.legal is None else jnp.asarray(mdp.legal),
    )
