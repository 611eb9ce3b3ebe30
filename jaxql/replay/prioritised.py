"""Prioritised replay: rows are drawn by their TD errors, from a tree of sums."""

import functools

import jax.numpy as jnp
import numpy as np

from jaxql.bellman.arguments import NOT_NEGATIVE, as_real
from jaxql.replay import sum_tree
from jaxql.replay.ring import Ring, RingStorage, View, after_read
from jaxql.replay.transitions import n_step_transition
from jaxql.types import Array, Replay, Scalar, Step, Transition

RECENT = 64  # updates whose greatest priority new rows take
LEAST, MOST = 1e-12, 1e12  # of a priority


def prioritised_replay(
    capacity: int,
    n_step: int = 1,
    stack: int = 1,
    epsilon: Scalar = 1e-6,
    shards: int = 1,
    view: View = n_step_transition,
) -> Replay:
    """A replay that draws rows with odds p = (|x| + epsilon)**alpha, where x is a TD error or a loss.

    The p of a new row is the greatest of the last 64 updates, or 1 before the first. A row of great p is drawn soon,
    and its p renewed. So this is about the greatest p stored, and an outlier of long ago does not count.

    A p lies in [1e-12, 1e12], so that sums and weights stay finite. An x that is NaN or infinite, as a number too large
    for float32 becomes, leaves the p of its row as it was.

    A row's p is 0 until its window is complete, from when its stack or window is about to be overwritten, and if it is
    not valid. Weights are (p / sum p)**-beta over the greatest of the batch; 0 if nothing could be drawn.

    Args:
      capacity, n_step, stack, shards, view: as in `uniform_replay`; weights undo what shards do to the odds as well.
      epsilon: keeps rows without an error in play, at least 0.

    Returns:
      init, add, sample: as in `uniform_replay`; the `index` of the Transition says where its rows lie.
      update(ring, index, x, alpha) -> ring: new priorities of rows drawn since the last add; alpha is at least 0.

    Raises:
      ValueError: an argument is out of its range, or a Step is not like the first one.

    Source: Schaul et al. (2016), algorithm 1 and equation 1, https://arxiv.org/abs/1511.05952

    >>> import jax
    >>> from jaxql.replay import zero_step
    >>> replay = prioritised_replay(capacity=8)
    >>> step = zero_step(jnp.zeros((2, 3)))
    >>> ring = replay.add(replay.init(step), step._replace(valid=jnp.array([True, True]), reward=jnp.array([1.0, 2.0])))
    >>> ring = replay.update(ring, jnp.array([0, 1]), jnp.array([0.0, 1.0]), 1.0)
    >>> print(replay.sample(ring, jax.random.key(0), 4, 0.9).reward)
    [2. 2. 2. 2.]
    """
    storage = RingStorage(capacity, n_step, stack, shards, view)
    NOT_NEGATIVE("epsilon", epsilon)

    def init(first: Step) -> Ring:
        ring = storage.init(first)
        tree = storage.per_shard(lambda ring: sum_tree.zeros(ring.rows.valid.size), ring)
        return ring._replace(priorities=tree, max_priorities=jnp.zeros(RECENT))

    def enter(ring: Ring):
        (slots, envs), start = ring.rows.valid.shape, storage.drawable(ring)[0]
        left, entered = (start - 1) % slots, (ring.num_steps - n_step) % slots  # a tick below 0 falls in a blank slot
        index = jnp.stack([left, entered])[:, None] * envs + jnp.arange(envs)[None]
        greatest = jnp.max(ring.max_priorities)
        new = jnp.where(ring.rows.valid[entered], jnp.where(greatest > 0, greatest, 1), 0)
        value = jnp.stack([jnp.zeros_like(new), new])
        return sum_tree.write(ring.priorities, index.ravel(), value.ravel())

    def add(ring: Ring, step: Step) -> Ring:
        ring = storage.add(ring, step)
        return ring._replace(priorities=storage.per_shard(enter, ring))

    def draw(ring: Ring, key, size: int, beta):
        index, envs = sum_tree.draw(ring.priorities, key, size), ring.rows.valid.shape[1]
        odds = sum_tree.read(ring.priorities, index) / sum_tree.total(ring.priorities)
        weight = jnp.where(odds > 0, jnp.where(odds > 0, odds, 1) ** -beta, 0)
        return index // envs, index % envs, weight, index

    def sample(
        ring: Ring, key: Array, batch_size: int, gamma: Array, beta: Array | float = 0.0, n: Array | None = None
    ) -> Transition:
        NOT_NEGATIVE("beta", beta)
        batch = storage.sample(functools.partial(draw, beta=beta), ring, key, batch_size, gamma, n)
        weight = batch.weight / jnp.maximum(jnp.max(batch.weight), 1)
        return batch._replace(weight=weight.astype(ring.rows.reward.dtype))

    def change(ring: Ring, index, value):
        old = sum_tree.read(ring.priorities, index)
        known = (old > 0) & jnp.isfinite(value)
        tree = sum_tree.write(ring.priorities, index, jnp.where(known, value, old))
        return tree, jnp.max(jnp.where(known, value, 0))

    def update(ring: Ring, index: Array, x: Array, alpha: Scalar) -> Ring:
        NOT_NEGATIVE("the exponent", alpha)
        with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and refused below
            index, x = jnp.asarray(index), as_real("the errors", x)
        if not jnp.issubdtype(index.dtype, jnp.integer) or index.ndim != 1 or x.shape != index.shape:
            raise ValueError(
                f"index is {index.dtype}{list(index.shape)} and the errors have shape {x.shape}; an update needs the "
                "index [N] of a drawn batch, and [N] errors"
            )
        x = x.astype(ring.max_priorities.dtype)
        value = jnp.clip((jnp.minimum(jnp.abs(x), MOST) + epsilon) ** alpha, LEAST, MOST)
        tree, greatest = storage.per_shard(change, ring, index, jnp.where(jnp.isfinite(x), value, jnp.nan))
        shifted = jnp.append(ring.max_priorities[1:], jnp.max(greatest))
        recent = jnp.where(shifted[-1] > 0, shifted, ring.max_priorities)
        return after_read(ring._replace(priorities=tree, max_priorities=recent), jnp.sum(sum_tree.total(tree)))

    return Replay(init=init, add=add, sample=sample, update=update)
