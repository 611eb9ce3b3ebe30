"""Uniform replay."""

import jax
import jax.numpy as jnp

from jaxql.replay.ring import Ring, RingStorage, View
from jaxql.replay.transitions import n_step_transition
from jaxql.types import Array, Replay, Transition

TRIES = 16  # candidates of a draw; all of them are reset rows with odds below 1e-6 while under 40 % of rows are


def uniform_replay(
    capacity: int, n_step: int = 1, stack: int = 1, shards: int = 1, view: View = n_step_transition
) -> Replay:
    """A replay that draws uniformly from the newest `capacity` valid rows whose whole stack and window are stored.

    Args:
      capacity: rows [B envs x ticks] that can be drawn, rounded up to whole ticks.
      n_step: steps folded into a transition, the most that an n given to sample may ask for.
      stack: above 1, observations are [B, stack, ...], newest last; single frames are kept, stacks are views.
      shards: equal parts of the envs that are drawn from apart, each as many rows; on a mesh whose devices they are
        shared out among, no row leaves its device. It must divide B and N. Rows of a shard that resets more weigh more.
      view: (rows, t, env, weight, gamma, n_step, stack) -> what is drawn at tick t of an env, of n_step rows.

    Returns:
      init(first Step) -> ring: the storage; the first observation is stored, the Step itself is not.
      add(ring, Step) -> ring: donate the ring and it is written in place.
      sample(ring, key, N, gamma, beta, n) -> Transition of N rows, at a cost that does not depend on the capacity;
        every weight is 1, whatever beta, or 0 if nothing could be drawn.

    Raises:
      ValueError: an argument is no whole number above 0, or a Step is not like the first one.

    >>> from jaxql.replay import zero_step
    >>> replay = uniform_replay(capacity=8)
    >>> step = zero_step(jnp.zeros((2, 3)))
    >>> ring = replay.add(replay.init(step), step._replace(valid=jnp.array([True, True]), reward=jnp.array([1.0, 1.0])))
    >>> print(replay.sample(ring, jax.random.key(0), 4, 0.9).reward)
    [1. 1. 1. 1.]
    """
    storage = RingStorage(capacity, n_step, stack, shards, view)

    def draw(ring: Ring, key, size: int):
        """Of some candidates each draw keeps the first valid one, which leaves it uniform; weight 0 if none is."""
        (slots, envs), (start, end) = ring.rows.valid.shape, storage.drawable(ring)
        t = jax.random.randint(jax.random.fold_in(key, 0), (TRIES, size), start, end)
        env = jax.random.randint(jax.random.fold_in(key, 1), (TRIES, size), 0, envs)
        valid = ring.rows.valid[t % slots, env] & (t < end)  # t == start == end while no window is complete
        first = jnp.argmax(valid, axis=0)[None]
        t, env, valid = (jnp.take_along_axis(x, first, axis=0)[0] for x in (t, env, valid))
        return t, env, valid.astype(ring.rows.reward.dtype), ()

    def sample(
        ring: Ring, key: Array, batch_size: int, gamma: Array, beta: Array | float = 0.0, n: Array | None = None
    ) -> Transition:
        return storage.sample(draw, ring, key, batch_size, gamma, n)

    return Replay(init=storage.init, add=storage.add, sample=sample)
