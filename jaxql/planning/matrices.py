"""Models from transition matrices and rewards, dense or sparse."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from jaxql.errors import UserError
from jaxql.planning.arguments import as_array
from jaxql.planning.model import on_device
from jaxql.types import MDP


def from_matrices(
    transitions: ArrayLike | Sequence[Any],
    rewards: ArrayLike | Sequence[Any],
    *,
    action_axis: int = 0,
    start: ArrayLike | None = None,
    legal: ArrayLike | None = None,
    step_limit: int | None = None,
) -> MDP:
    """The model of matrices P and R: probability P[a, s, s'] and reward R[s], R[s, a] or R[a, s, s'].

    P and R are those of pymdptoolbox. QuantEcon's product form is read with `action_axis=1`. K is the largest number of
    possible successors of a state and an action. An action of s is illegal where its row of P is zero and where its
    reward is -inf; a state of which all rows are zero is terminal.

    Args:
      transitions: [A, S, S], or a sequence of A matrices [S, S], dense or SciPy's sparse ones.
      rewards: [S], of every action in s; [S, A], of action a in s; or, of moving from s to s', as `transitions`. A
        sparse matrix may stand for [S, A].
      action_axis: of arrays with three axes: 0 for [A, S, S], 1 for [S, A, S].
      start: [S] distribution of the first state; None is uniform.
      legal: [S, A] bool, the actions that a state has; None: see above.
      step_limit: of the episodes, or None.

    Returns: a model in JAX's default float dtype, without transitions that end, but those to terminal states.
    Raises: UserError for other shapes, for rows that are no distributions, and for rewards of terminal states.

    Source: Puterman (1994), section 2.1, https://doi.org/10.1002/9780470316887; the forms:
    https://pymdptoolbox.readthedocs.io/en/latest/api/mdp.html

    >>> stay, swap = np.eye(2), np.eye(2)[::-1]
    >>> mdp = from_matrices([stay, swap], [0.0, 1.0])
    >>> mdp.next_state[0].tolist(), mdp.reward[1].tolist()
    ([[0], [1]], [[1.0], [1.0]])
    """
    from scipy import sparse

    if action_axis not in (0, 1):
        raise UserError(f"action_axis is {action_axis!r}; it must be 0, for [A, S, S], or 1, for [S, A, S]")
    matrices = _matrices("transitions", transitions, action_axis)
    if matrices is None:
        shape = np.shape(transitions)
        raise UserError(f"transitions has shape {shape}; it must be {_form(action_axis)}, or A matrices [S, S]")
    num_states, num_actions = matrices[0].shape[0], len(matrices)
    rows = sparse.vstack(matrices, format="csr")
    states = np.tile(np.arange(num_states), num_actions)
    actions = np.repeat(np.arange(num_actions), num_states)
    pair, successor = _entries(rows)

    table: Any = rewards
    table = table.toarray() if sparse.issparse(table) else table
    of_moves = _matrices("rewards", table, action_axis)
    if of_moves is None:
        table = as_array("rewards", table)
        if table.shape not in ((num_states,), (num_states, num_actions)):
            hint = "; transpose it" if table.shape == (num_actions, num_states) else ""
            raise UserError(
                f"rewards has shape {table.shape}; for {num_states} states and {num_actions} actions it must be "
                f"[{num_states}], [{num_states}, {num_actions}] or as transitions{hint}"
            )
        table = np.asarray(table, np.float64)
        of_pair = (table if table.ndim == 2 else np.repeat(table[:, None], num_actions, 1))[states, actions]
        reward = of_pair[pair]
        _check_terminal(rows, states, of_pair, num_states)
    else:
        if len(of_moves) != num_actions or of_moves[0].shape[0] != num_states:
            raise UserError(
                f"rewards has {len(of_moves)} matrices {of_moves[0].shape}; it must have {num_actions}, "
                f"({num_states}, {num_states}), as transitions"
            )
        reward = _at(sparse.vstack(of_moves, format="csr"), pair, successor)
    shape = num_states, num_actions
    return _from_pairs(rows, reward, states, actions, shape, start=start, legal=legal, step_limit=step_limit)


def from_state_action_pairs(
    rewards: ArrayLike,
    transitions: Any,
    states: ArrayLike,
    actions: ArrayLike,
    *,
    start: ArrayLike | None = None,
    step_limit: int | None = None,
) -> MDP:
    """The model of L pairs (s, a), each with its reward and its row of transition probabilities.

    It is QuantEcon's state-action pair form. Pairs that are not listed are illegal, and so are pairs of reward -inf.

    Args:
      rewards: [L].
      transitions: [L, S], dense or one of SciPy's sparse matrices.
      states: [L] integers in 0..S - 1.
      actions: [L] integers of at least 0; A is one more than the largest.
      start: [S] distribution of the first state; None is uniform.
      step_limit: of the episodes, or None.

    Returns: a model in JAX's default float dtype. A state without a pair is terminal.
    Raises: UserError for other shapes, a pair that is listed twice, or rows that are no distributions.

    Source: Puterman (1994), section 2.1, https://doi.org/10.1002/9780470316887; the form:
    https://quanteconpy.readthedocs.io/en/latest/markov/ddp.html

    >>> mdp = from_state_action_pairs([5.0, 10.0, -1.0], [[0.5, 0.5], [0.0, 1.0], [0.0, 1.0]], [0, 0, 1], [0, 1, 0])
    >>> mdp.legal.tolist()
    [[True, True], [True, False]]
    """
    from scipy import sparse

    rows = _matrix("transitions", transitions)
    length, num_states = rows.shape
    reward = np.asarray(as_array("rewards", rewards), np.float64)
    state, action = (np.asarray(as_array(*named)) for named in (("states", states), ("actions", actions)))
    for name, x in dict(rewards=reward, states=state, actions=action).items():
        if x.shape != (length,):
            raise UserError(f"{name} has shape {x.shape}; it must be ({length},), one for each row of transitions")
    for name, x, limit in (("states", state, num_states), ("actions", action, np.inf)):
        if x.dtype.kind not in "iu" or length == 0 or x.min() < 0 or x.max() >= limit:
            raise UserError(f"{name} must hold whole numbers from 0 on" + f", below {limit}" * (name == "states"))
    shape = num_states, int(action.max()) + 1
    counts = sparse.coo_array((np.ones(length, int), (state, action)), shape).toarray()
    if counts.max() > 1:
        twice = tuple(int(i) for i in np.argwhere(counts > 1)[0])
        raise UserError(f"the pair of state {twice[0]} and action {twice[1]} is listed twice")
    pair, _ = _entries(rows)
    return _from_pairs(rows, reward[pair], state, action, shape, start=start, legal=None, step_limit=step_limit)


def _form(action_axis: int) -> str:
    return "[A, S, S]" if action_axis == 0 else "[S, A, S]"


def _matrix(name: str, x: Any) -> Any:
    """x [M, N] as a CSR matrix of float64, without stored zeros."""
    from scipy import sparse

    x = x if sparse.issparse(x) else np.asarray(as_array(name, x))
    if x.ndim != 2:
        raise UserError(f"{name} holds an array of shape {x.shape}; it must be a matrix")
    matrix = sparse.csr_matrix(x, dtype=np.float64, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _matrices(name: str, x: Any, action_axis: int) -> list[Any] | None:
    """x as A sparse matrices [S, S], or None if it has not three axes."""
    from scipy import sparse

    if sparse.issparse(x):
        return None
    x = list(x) if isinstance(x, tuple) or (isinstance(x, np.ndarray) and x.dtype == object and x.ndim) else x
    if isinstance(x, list) and any(sparse.issparse(part) for part in x):
        parts = x
    else:
        array = np.asarray(as_array(name, x))
        if array.ndim != 3:
            return None
        parts = list(np.moveaxis(array, action_axis, 0))
    matrices = [_matrix(name, part) for part in parts]
    shape = matrices[0].shape if matrices else (0, 0)
    if 0 in shape or any(matrix.shape != (shape[0], shape[0]) for matrix in matrices):
        shapes = sorted({matrix.shape for matrix in matrices})
        raise UserError(
            f"{name} has matrices of shape {shapes}; all must be [S, S]: arrays {_form(action_axis)}, or "
            f"{_form(1 - action_axis)} with action_axis={1 - action_axis}"
        )
    return matrices


def _entries(rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """(row, column) of each entry of a CSR matrix, in its order."""
    return np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr)), rows.indices


def _at(matrix: Any, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The entries of a sparse matrix at these places, 0 where none is stored."""
    return np.asarray(matrix[row, column]).reshape(-1) if len(row) else np.zeros(0)


def _check_terminal(rows: Any, states: np.ndarray, reward: np.ndarray, num_states: int) -> None:
    """Raises UserError for a state that has rewards and no transitions: they would be lost."""
    moves = np.bincount(states, np.diff(rows.indptr), num_states) > 0
    lost = ~moves[states] & (reward != 0) & np.isfinite(reward)
    if lost.any():
        raise UserError(
            f"state {states[np.argmax(lost)]} has a reward of {reward[np.argmax(lost)]:g}, and all its rows of "
            "transitions are zero; give it an action that stays, or the reward 0"
        )


def _from_pairs(
    rows: Any,
    reward: np.ndarray,
    states: np.ndarray,
    actions: np.ndarray,
    shape: tuple[int, int],
    *,
    start: ArrayLike | None,
    legal: ArrayLike | None,
    step_limit: int | None,
) -> MDP:
    """The model of pairs (s, a) with transitions `rows` [L, S], CSR, and a reward for each entry of it."""
    pair, successor = _entries(rows)
    k = np.arange(len(pair)) - rows.indptr[pair]
    full = *shape, max(1, int(np.diff(rows.indptr).max(initial=0)))
    place = states[pair], actions[pair], k
    next_state = np.broadcast_to(np.arange(shape[0], dtype=np.int32)[:, None, None], full).copy()
    probability, rewards = np.zeros(full), np.zeros(full)
    next_state[place], probability[place], rewards[place] = successor, rows.data, reward
    ends = np.zeros(full, bool)
    return on_device(next_state, probability, rewards, ends, start=start, legal=legal, step_limit=step_limit)
