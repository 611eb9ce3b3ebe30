"""Exploration: epsilon-greedy actions and the schedule of epsilon."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.types import Array, Scalar


def epsilon_greedy(key: Array, q: Array, epsilon: Scalar) -> Array:
    """Actions [...] int32: with probability epsilon any legal action, else a best one, ties broken at random.

    Each row explores independently. At epsilon 0 no row explores.

    Args:
      key: a PRNG key; the same key and values give the same actions.
      q: [..., A] action values; an illegal action has -inf.
      epsilon: a number in [0, 1], or [...].

    Source: Sutton & Barto (2018), section 2.2, http://incompleteideas.net/book/the-book-2nd.html

    >>> q = jnp.array([[0.0, 1.0], [3.0, 2.0]])
    >>> print(epsilon_greedy(jax.random.key(0), q, epsilon=0.0))
    [1 0]
    """
    coin, lottery = jax.random.uniform(key, (2, *q.shape[:-1]))  # in [0, 1)
    best = q == jnp.max(q, axis=-1, keepdims=True)
    allowed = jnp.where((coin < epsilon)[..., None], q > -jnp.inf, best)
    place = jnp.cumsum(allowed, axis=-1, dtype=jnp.int32)
    winner = jnp.minimum((lottery * place[..., -1]).astype(jnp.int32), place[..., -1] - 1)
    return jnp.sum(place <= winner[..., None], axis=-1, dtype=jnp.int32)


def linear_epsilon(env_steps: ArrayLike, final: Scalar, exploration_steps: ArrayLike) -> Array:
    """Epsilon [...] after `env_steps` [...]: 1 at step 0, linear to `final` at `exploration_steps`, then constant.

    Every argument may be traced, so agents with different schedules can share one program.

    >>> print(linear_epsilon(jnp.array([0, 50, 100, 1000]), 0.5, 100))
    [1.   0.75 0.5  0.5 ]
    """
    return 1 + (final - 1) * jnp.minimum(env_steps / exploration_steps, 1)
