"""Dyna: learning from transitions that are drawn from the counts."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.tabular.arguments import compiled
from jaxql.tabular.counts import Counts, SparseCounts, mean_rewards, successors
from jaxql.tabular.rows import check_indices, columns_of
from jaxql.tabular.updates import q_learning_update
from jaxql.types import Array


@compiled(steps=0)
def dyna_q_update(
    q: ArrayLike,
    counts: Counts | SparseCounts,
    key: Array,
    discount: ArrayLike,
    learning_rate: ArrayLike,
    steps: int,
) -> tuple[Array, Array]:
    """The planning of Dyna-Q: `steps` updates of Q-learning, one after another, from simulated transitions.

    Each update draws a visited pair (s, a) uniformly. It then draws (s', ended) in proportion to the counts, and takes
    the mean reward from (s, a) to s'. Its expectation is a backup in `empirical_mdp(counts)`.

    Args:
      q: [S, A].
      counts: of transitions of the env, dense or sparse.
      key: of the draws.
      discount: gamma, a number.
      learning_rate: a number or [steps].
      steps: a Python integer.

    Returns: the new q, and the TD errors [steps]. With empty counts q stays as it is and the errors are 0.
    Raises: ValueError for `steps` that is no whole number, for counts of other states or actions than q's, and for a
      concrete value out of range.

    Source: Sutton & Barto (2018), the algorithm of section 8.2, its step (f), which is equation 6.8,
    http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql.tabular import count, empty_counts
    >>> seen = count(empty_counts(2, 1), state=0, action=0, reward=3.0, terminated=True, next_state=1, valid=True)
    >>> q, errors = dyna_q_update(jnp.zeros((2, 1)), seen, jax.random.key(0), 0.9, 0.5, steps=2)
    >>> q.tolist(), errors.tolist()
    ([[2.25], [0.0]], [3.0, 1.5])
    """
    visited = jnp.any(counts.transitions > 0, axis=-1)
    return _plan(q, counts, visited, jnp.zeros(jnp.shape(q)), key, discount, learning_rate, steps)


@compiled(steps=0)
def dyna_q_plus_update(
    q: ArrayLike,
    counts: Counts | SparseCounts,
    elapsed: ArrayLike,
    key: Array,
    discount: ArrayLike,
    learning_rate: ArrayLike,
    kappa: ArrayLike,
    steps: int,
) -> tuple[Array, Array]:
    """The planning of Dyna-Q+: as `dyna_q_update`, with rewards r + kappa * sqrt(elapsed[s, a]).

    Each update draws a pair (s, a) uniformly: any action of a state in which an action was tried. An action that was
    never tried there leads back to s with reward 0, to which the bonus is added.

    Args:
      elapsed: [S, A] steps since each pair was last tried; see `elapsed_since_visit`.
      kappa: the weight of the bonus, a small number.
      The rest, the results and errors are as in `dyna_q_update`.

    Source: Sutton & Barto (2018), section 8.3 and its footnote, http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql.tabular import count, empty_counts
    >>> seen = count(empty_counts(1, 2), state=0, action=0, reward=1.0, terminated=True, next_state=0, valid=True)
    >>> elapsed = jnp.array([[0.0, 4.0]])
    >>> q, errors = dyna_q_plus_update(jnp.zeros((1, 2)), seen, elapsed, jax.random.key(0), 0.0, 1.0, 0.5, steps=20)
    >>> q.tolist()
    [[1.0, 1.0]]
    """
    if jnp.shape(elapsed) != jnp.shape(q):
        raise ValueError(f"elapsed has shape {jnp.shape(elapsed)}; it needs {jnp.shape(q)}, as q")
    visited = jnp.any(counts.transitions > 0, axis=(1, 2), keepdims=True)[..., 0]
    bonus = kappa * jnp.sqrt(elapsed)
    return _plan(q, counts, jnp.broadcast_to(visited, jnp.shape(q)), bonus, key, discount, learning_rate, steps)


@compiled()
def elapsed_since_visit(elapsed: ArrayLike, state: ArrayLike, action: ArrayLike, valid: ArrayLike) -> Array:
    """The steps [S, A] since each pair was last tried, after a step of B envs: 0 for their pairs, else one more.

    Args:
      elapsed: [S, A] numbers, 0 at first.
      state, action, valid: [B] or scalars. If no row is valid nothing changes.

    Raises: ValueError for a column of another shape or dtype, and for a concrete value out of range.

    Source: Sutton & Barto (2018), the tau of section 8.3, http://incompleteideas.net/book/the-book-2nd.html

    >>> elapsed_since_visit(jnp.array([[3, 7]]), state=0, action=1, valid=True).tolist()
    [[4, 0]]
    """
    elapsed = jnp.asarray(elapsed)
    columns = jnp.broadcast_arrays(*(jnp.atleast_1d(x) for x in columns_of(state=state, action=action, valid=valid)))
    s, a, tried = *columns[:2], columns[2].astype(bool)
    check_indices(elapsed.shape, tried, state=s, action=a)
    place = jnp.where(tried, s, elapsed.shape[0]), a
    return (elapsed + jnp.any(tried).astype(elapsed.dtype)).at[place].set(0, mode="drop")


def _plan(q, counts, allowed, bonus, key, discount, learning_rate, steps):
    """Q-learning from `steps` simulated transitions of the allowed pairs [S, A], with rewards r + bonus [S, A]."""
    num_states, num_actions, places = counts.transitions.shape
    if jnp.shape(q) != (num_states, num_actions):
        raise ValueError(f"q has shape {jnp.shape(q)}; it needs {(num_states, num_actions)}, as the counts")
    key_pair, key_next = jax.random.split(key)
    upto = jnp.cumsum(allowed.reshape(-1), dtype=jnp.int32)
    number = jax.random.randint(key_pair, (steps,), 0, jnp.maximum(upto[-1], 1), jnp.int32)
    pair = jnp.minimum(jnp.searchsorted(upto, number, side="right"), upto.size - 1)
    state, action = pair // num_actions, pair % num_actions

    times = jnp.concatenate([counts.transitions - counts.ends, counts.ends], axis=-1)[state, action]  # [steps, 2 K]
    tried = jnp.any(times > 0, axis=-1)
    outcome = jax.random.categorical(key_next, jnp.log(times.astype(counts.rewards.dtype)), axis=-1)
    row = state, action, outcome % places
    next_state = jnp.where(tried, successors(counts)[row], state)
    ended = tried & (outcome >= places)
    reward = jnp.where(tried, mean_rewards(counts, row), 0) + bonus[state, action].astype(counts.rewards.dtype)
    known = jnp.broadcast_to(upto[-1] > 0, (steps,))
    ahead = jnp.where(ended, 0, discount)
    return q_learning_update(q, state, action, reward, ahead, next_state, known, learning_rate)
