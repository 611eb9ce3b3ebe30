"""Exploration: which actions are best and which are legal, epsilon-greedy actions, and the schedule of epsilon.

One rule ranks the actions of a row, for greedy actions, exploration, and their probabilities alike:

  -inf      illegal: never chosen
  NaN       legal, but worth less than any number: chosen by exploration, and greedily only where no action has a number
  a number  legal; +inf is the best
  no legal action    a row that is all -inf says nothing: all its actions count as legal, and as equally good

It is a rule of values, so it holds in compiled code, and an action is always returned. A loss does not follow it:
there NaN stays NaN, so that a run that diverges is noticed.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman.arguments import NOT_NEGATIVE, POSITIVES, UNITS, as_real
from jaxql.types import Array, Scalar


def best_and_legal(q: ArrayLike) -> tuple[Array, Array]:
    """Which actions are best, and which are legal: two boolean arrays [..., A], each with an action in every row.

    Args:
      q: [..., A] action values; see the module for -inf and NaN.

    Source: Sutton & Barto (2018), equation 2.2, http://incompleteideas.net/book/the-book-2nd.html

    >>> best, legal = best_and_legal(jnp.array([1.0, 1.0, 0.0, -jnp.inf]))
    >>> print(best, legal)
    [ True  True False False] [ True  True  True False]
    """
    q = as_real("q", q)
    legal = q != -jnp.inf
    legal = legal | ~jnp.any(legal, axis=-1, keepdims=True)
    number = q > -jnp.inf  # False for NaN
    best = number & (q == jnp.max(jnp.where(number, q, -jnp.inf), axis=-1, keepdims=True))
    return jnp.where(jnp.any(number, axis=-1, keepdims=True), best, legal), legal


def epsilon_greedy(key: Array, q: ArrayLike, epsilon: ArrayLike) -> Array:
    """Actions [...] int32: with probability epsilon any legal action, else a best one, ties broken at random.

    Each row explores independently. At epsilon 0 no row explores. The module says what -inf and NaN mean.

    Args:
      key: a PRNG key; the same key and values give the same actions.
      q: [..., A] action values; an illegal action has -inf.
      epsilon: a number in [0, 1], or [...].

    Raises:
      ValueError: epsilon is out of range or of another shape, or q is no array of numbers with an axis A.

    Source: Sutton & Barto (2018), section 2.2, http://incompleteideas.net/book/the-book-2nd.html

    >>> q = jnp.array([[0.0, 1.0], [3.0, 2.0]])
    >>> print(epsilon_greedy(jax.random.key(0), q, epsilon=0.0))
    [1 0]
    """
    q, epsilon = _checked_rows("epsilon_greedy", q, epsilon)
    best, legal = best_and_legal(q)
    coin, lottery = jax.random.uniform(key, (2, *q.shape[:-1]))  # in [0, 1)
    allowed = jnp.where((coin < epsilon)[..., None], legal, best)
    place = jnp.cumsum(allowed, axis=-1, dtype=jnp.int32)
    winner = jnp.minimum((lottery * place[..., -1]).astype(jnp.int32), place[..., -1] - 1)
    return jnp.sum(place <= winner[..., None], axis=-1, dtype=jnp.int32)


def epsilon_greedy_probabilities(q: ArrayLike, epsilon: ArrayLike) -> Array:
    """Probabilities [..., A] of the actions of `epsilon_greedy` on q [..., A]; they sum to 1 in every row.

    With probability epsilon [...] it takes any legal action, else one of the best, each with equal probability.
    Arguments and errors are as in `epsilon_greedy`.

    Source: Sutton & Barto (2018), the weights in equation 5.2, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(epsilon_greedy_probabilities(jnp.array([1.0, 1.0, 0.0, -jnp.inf]), 0.375))
    [0.4375 0.4375 0.125  0.    ]
    """
    q, epsilon = _checked_rows("epsilon_greedy_probabilities", q, epsilon)
    epsilon = epsilon.astype(jnp.result_type(q, 1.0))[..., None]
    best, legal = (x / jnp.sum(x, axis=-1, keepdims=True, dtype=epsilon.dtype) for x in best_and_legal(q))
    return (1 - epsilon) * best + epsilon * legal


def softmax_probabilities(q: ArrayLike, temperature: Scalar = 1.0) -> Array:
    """Probabilities [..., A] proportional to exp(q[..., a] / temperature); they sum to 1 in every row.

    At temperature 0, the limit, the best actions share the row. An action without a number has probability 0, unless
    no action has one; several that are +inf share the row. The module says what -inf and NaN mean.

    Args:
      q: [..., A] action values; an illegal action has -inf.
      temperature: at least 0; it may be traced.

    Raises:
      ValueError: temperature is out of range, or q is no array of numbers with an axis A.

    Source: Sutton & Barto (2018), equation 13.2, with q / temperature for preferences,
    http://incompleteideas.net/book/the-book-2nd.html

    >>> print(softmax_probabilities(jnp.array([1.0, 1.0, -jnp.inf])))
    [0.5 0.5 0. ]
    """
    NOT_NEGATIVE("softmax_probabilities: temperature", temperature)
    q = _rows("softmax_probabilities", q)
    q = q.astype(jnp.result_type(q, 1.0))
    best, _ = best_and_legal(q)
    most = jnp.max(jnp.where(jnp.isnan(q), -jnp.inf, q), axis=-1, keepdims=True)
    warm = (temperature > jnp.finfo(q.dtype).tiny) & jnp.isfinite(most)
    number = warm & (q > -jnp.inf)
    below = jnp.where(number, q - jnp.where(warm, most, 0), 0) / jnp.where(warm, temperature, 1)
    return jax.nn.softmax(jnp.where(warm, jnp.where(number, below, -jnp.inf), jnp.where(best, 0, -jnp.inf)), axis=-1)


def linear_epsilon(env_steps: ArrayLike, final: Scalar, exploration_steps: ArrayLike) -> Array:
    """Epsilon [...] after `env_steps` [...]: 1 at step 0, linear to `final` at `exploration_steps`, then constant.

    Every argument may be traced, so agents with different schedules can share one program. Where a traced
    `exploration_steps` is 0, epsilon is `final` from the start.

    Raises:
      ValueError: final is not in [0, 1], or exploration_steps is not above 0.

    >>> print(linear_epsilon(jnp.array([0, 50, 100, 1000]), 0.5, 100))
    [1.   0.75 0.5  0.5 ]
    """
    UNITS("linear_epsilon: final", final)
    POSITIVES("linear_epsilon: exploration_steps", exploration_steps)
    steps, length = as_real("linear_epsilon: env_steps", env_steps), jnp.asarray(exploration_steps)
    share = jnp.where(length > 0, jnp.clip(steps / jnp.where(length > 0, length, 1), 0, 1), 1)
    return 1 + (final - 1) * share


def _rows(name: str, q: ArrayLike) -> Array:
    q = as_real(f"{name}: q", q)
    if q.ndim == 0 or q.shape[-1] == 0:
        raise ValueError(f"{name}: q has shape {q.shape}; it needs [..., A], a value for each of A > 0 actions")
    return q


def _checked_rows(name: str, q: ArrayLike, epsilon: ArrayLike) -> tuple[Array, Array]:
    """q [..., A], and epsilon [...] for each of its rows."""
    UNITS(f"{name}: epsilon", epsilon)
    q, epsilon = _rows(name, q), jnp.asarray(epsilon)
    if epsilon.shape not in ((), q.shape[:-1]):
        raise ValueError(f"{name}: epsilon has shape {epsilon.shape}; it needs {q.shape[:-1]}, as the rows of q, or ()")
    return q, jnp.broadcast_to(epsilon, q.shape[:-1])
