"""Dyna: learning from transitions that are drawn from the counts."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.tabular.counts import Counts
from jaxql.tabular.updates import q_learning_update
from jaxql.types import Array


def dyna_q_update(
    q: ArrayLike, counts: Counts, key: Array, discount: ArrayLike, learning_rate: ArrayLike, steps: int
) -> tuple[Array, Array]:
    """The planning of Dyna-Q: `steps` updates of Q-learning, one after another, from simulated transitions.

    Each update draws a visited pair (s, a) uniformly. It then draws (s', ended) in proportion to the counts, and takes
    the mean reward from (s, a) to s'. Its expectation is a backup in `empirical_mdp(counts)`.

    Args:
      q: [S, A].
      counts: of transitions of the env.
      key: of the draws.
      discount: gamma, a number.
      learning_rate: a number or [steps].
      steps: a Python integer.

    Returns: the new q, and the TD errors [steps]. With empty counts q stays as it is and the errors are 0.

    Source: Sutton & Barto (2018), the algorithm of section 8.2, its step (f), which is equation 6.8,
    http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql.tabular import count, empty_counts
    >>> seen = count(empty_counts(2, 1), state=0, action=0, reward=3.0, terminated=True, next_state=1, valid=True)
    >>> q, errors = dyna_q_update(jnp.zeros((2, 1)), seen, jax.random.key(0), 0.9, 0.5, steps=2)
    >>> q.tolist(), errors.tolist()
    ([[2.25], [0.0]], [3.0, 1.5])
    """
    num_states, num_actions, _ = counts.transitions.shape
    key_pair, key_next = jax.random.split(key)
    seen = jnp.sum(counts.transitions, axis=-1).reshape(-1) > 0
    pair = jax.random.categorical(key_pair, jnp.where(seen, 0.0, -jnp.inf), shape=(steps,))
    state, action = pair // num_actions, pair % num_actions
    times = jnp.concatenate([counts.transitions - counts.ends, counts.ends], axis=-1)[state, action]  # [steps, 2 S]
    outcome = jax.random.categorical(key_next, jnp.log(times.astype(counts.rewards.dtype)), axis=-1)
    next_state, ended = outcome % num_states, outcome >= num_states
    row = state, action, next_state
    reward = counts.rewards[row] / jnp.maximum(counts.transitions[row], 1).astype(counts.rewards.dtype)
    known = jnp.broadcast_to(jnp.any(seen), (steps,))
    ahead = jnp.where(ended, 0, discount)
    return q_learning_update(q, state, action, reward, ahead, next_state, known, learning_rate)
