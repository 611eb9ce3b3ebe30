"""Replay on the device: a ring of Steps, of which n-step windows, frame stacks and next observations are views.

A row can be drawn while its whole stack and window are stored, and it is valid; the newest `capacity` such rows are.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxql import sum_tree
from jaxql.types import Array, Replay, Step, Transition

TRIES = 16  # candidates a draw; all of them being reset rows is rarer than 1e-6 while under 40 % of rows are


class Ring(NamedTuple):
    """Tick t lies in slot t % T; its next_obs is written once, ahead, as the obs of slot t + 1."""

    rows: Step  # leaves [T, B, ...]; next_obs is (); of a stack only the newest frame is kept
    count: Array  # ticks written; observations count - T + 1 .. count are stored
    priorities: Any = ()  # a sum tree with a leaf T-major for each row, 0 where it cannot be drawn; () if uniform
    largest: Any = ()  # the greatest priority that any row ever had


def zero_step(obs) -> Step:
    """A tick of B envs that never happened: buffers take their shapes and dtypes from it."""
    reward = jnp.zeros(len(jax.tree.leaves(obs)[0]))
    action, no = reward.astype(jnp.int32), reward.astype(bool)
    return Step(obs=obs, action=action, reward=reward, terminated=no, truncated=no, next_obs=obs, valid=no)


def stacked(rows: Step, t, env, stack: int):
    """The observation of one env at tick t: frames t - stack + 1 .. t, zeros before the last reset.

    A reset follows a row that is not valid. Ticks below 0 fall in slots that are still blank, hence not valid either.
    """
    ticks = t + jnp.arange(1 - stack, 1)
    same_episode = rows.valid[ticks[:-1] % len(rows.valid), env]
    shown = jnp.append(jnp.cumprod(same_episode[::-1])[::-1], 1)

    def view(x):
        frames = x[ticks % len(x), env]
        return jnp.where(shown.reshape(-1, *[1] * (frames.ndim - 1)), frames, 0) if stack > 1 else frames[0]

    return jax.tree.map(view, rows.obs)


def fold(rows: Step, t, env, weight, gamma, n_step: int, stack: int, n=None) -> Transition:
    """The n-step transition of one env at tick t: it stops at the first end of either kind, a life's included.

    reward = sum_{i < m} gamma**i r_{t+i}, discount = gamma**m (0 past a termination), next_obs = obs_{t+m}, m <= n.
    n is `n_step`, or where given a number from 1 to `n_step` that may be traced.
    """
    window = jax.tree.map(lambda x: x[(t + jnp.arange(n_step)) % len(x), env], rows._replace(obs=()))
    taken = jnp.cumprod(jnp.append(True, ~(window.terminated | window.truncated)[:-1])).astype(bool)
    taken = taken if n is None else taken & (jnp.arange(n_step) < n)
    m = jnp.sum(taken, dtype=jnp.int32)
    return Transition(
        obs=stacked(rows, t, env, stack),
        action=window.action[0],
        reward=jnp.sum(jnp.where(taken, gamma ** jnp.arange(n_step) * window.reward, 0)),
        discount=jnp.where(jnp.any(taken & window.terminated), 0, gamma**m),
        next_obs=stacked(rows, t + m, env, stack),
        weight=weight,
    )


def ordered(ring, seen):
    """`ring`, whose scalars wait for `seen` [], and with them every write whose place they tell.

    In a compiled loop that reads a buffer and then writes to it, XLA copies it whole at every turn unless the write
    depends on what was read.
    """
    never = (seen != seen) & (seen == seen)
    return jax.tree.map(lambda x: jnp.where(never, 0, x) if x.ndim == 0 else x, ring)


class _Storage:
    """What both kinds of replay share: where rows lie, and which can be drawn."""

    def __init__(self, capacity: int, n_step: int, stack: int, groups: int, view: Callable):
        self.capacity, self.n_step, self.stack, self.groups, self.view = capacity, n_step, stack, groups, view
        self.margin = n_step + stack - 1  # slots for the stack of the oldest start and the window of the newest

    def init(self, first: Step) -> Ring:
        if len(first.valid) % self.groups:
            raise ValueError(f"groups is {self.groups}; it must divide the {len(first.valid)} envs")
        first = first._replace(obs=self._newest(first.obs), next_obs=())
        slots = -(-self.capacity // len(first.valid)) + self.margin
        rows = jax.tree.map(lambda x: jnp.zeros((slots, *x.shape), x.dtype), first)
        return Ring(rows=rows._replace(obs=_put(rows.obs, 0, first.obs)), count=jnp.zeros((), jnp.int32))

    def add(self, ring: Ring, step: Step) -> Ring:
        obs = _put(ring.rows.obs, ring.count + 1, self._newest(step.next_obs))
        rows = _put(ring.rows._replace(obs=()), ring.count, step._replace(obs=(), next_obs=()))
        return ring._replace(rows=rows._replace(obs=obs), count=ring.count + 1)

    def drawable(self, ring: Ring) -> tuple[Array, Array]:
        """The ticks [start, end) whose stacks and windows are stored."""
        end = jnp.maximum(ring.count - self.n_step + 1, 0)
        return jnp.maximum(end - (len(ring.rows.valid) - self.margin), 0), end

    def views(self, ring: Ring, t, env, weight, gamma, n):
        shorter = {} if n is None else {"n": n}

        def one(*place):
            return self.view(ring.rows, *place, gamma, self.n_step, self.stack, **shorter)

        return jax.vmap(one)(t, env, weight)

    def each(self, f, ring: Ring, *args):
        """f(ring, *args) of every group: a ring of its envs and tree, its part of args [N]; results [groups, ...]."""
        if self.groups == 1:
            return f(ring, *args)
        rows = jax.tree.map(lambda x: x.reshape(len(x), self.groups, -1, *x.shape[2:]), ring.rows)
        parts = jax.tree.map(lambda x: x.reshape(self.groups, -1, *x.shape[1:]), args)
        axes = Ring(rows=1, count=None, priorities=0, largest=None)
        return jax.vmap(f, (axes, *(0 for _ in args)))(ring._replace(rows=rows), *parts)

    def sample(self, draw, ring: Ring, key, batch_size: int, gamma, n) -> Transition:
        """The rows [N] that draw(ring, key, N) -> (t, env, weight, index) finds, as many in every group."""
        if batch_size % self.groups:
            raise ValueError(f"groups is {self.groups}; it must divide the batch of {batch_size}")

        def of_group(ring, group):
            own = key if self.groups == 1 else jax.random.fold_in(key, group[0])
            t, env, weight, index = draw(ring, own, batch_size // self.groups)
            return self.views(ring, t, env, weight, gamma, n)._replace(index=index)

        batch = self.each(of_group, ring, jnp.arange(self.groups))
        if self.groups > 1:
            batch = jax.tree.map(lambda x: x.reshape(batch_size, *x.shape[2:]), batch)
        return batch

    def _newest(self, obs):
        return jax.tree.map(lambda x: x[:, -1], obs) if self.stack > 1 else obs


def _put(store, tick, new):
    return jax.tree.map(lambda s, x: s.at[tick % len(s)].set(x), store, new)


def uniform_replay(capacity: int, n_step: int = 1, stack: int = 1, groups: int = 1, view: Callable = fold) -> Replay:
    """Draws uniformly from the valid rows among the newest `capacity` whose whole stack and window are stored.

    Args:
      capacity: rows [B envs x ticks] that can be drawn, rounded up to whole ticks.
      n_step: steps folded into a transition, the most that an n given to sample may ask for.
      stack: above 1, observations are [B, stack, ...], newest last; single frames are kept, stacks are views.
      groups: equal parts of the envs that are drawn from apart, each as many rows; on a mesh whose devices they are
        shared out among, no row leaves its device. It must divide B and N. Rows of a group that resets more weigh more.
      view: (rows, t, env, weight, gamma, n_step, stack) -> what is drawn at tick t of an env, of n_step rows.

    Returns:
      init(first Step) -> ring: the storage; the first observation is stored, the Step itself is not.
      add(ring, Step) -> ring: donate the ring and it is written in place.
      sample(ring, key, N, gamma, beta, n) -> Transition of N rows, at a cost that does not depend on the capacity;
        every weight is 1, whatever beta, or 0 if nothing could be drawn.

    >>> replay = uniform_replay(capacity=8)
    >>> step = zero_step(jnp.zeros((2, 3)))
    >>> ring = replay.add(replay.init(step), step._replace(valid=jnp.array([True, True]), reward=jnp.array([1.0, 1.0])))
    >>> print(replay.sample(ring, jax.random.key(0), 4, 0.9).reward)
    [1. 1. 1. 1.]
    """
    storage = _Storage(capacity, n_step, stack, groups, view)

    def draw(ring: Ring, key, size: int):
        """Of some candidates each draw keeps the first valid one, which leaves it uniform; weight 0 if none is."""
        (slots, envs), (start, end) = ring.rows.valid.shape, storage.drawable(ring)
        t = jax.random.randint(jax.random.fold_in(key, 0), (TRIES, size), start, end)
        env = jax.random.randint(jax.random.fold_in(key, 1), (TRIES, size), 0, envs)
        valid = ring.rows.valid[t % slots, env] & (t < end)  # t == start == end while no window is complete
        first = jnp.argmax(valid, axis=0)[None]
        t, env, valid = (jnp.take_along_axis(x, first, axis=0)[0] for x in (t, env, valid))
        return t, env, valid.astype(ring.rows.reward.dtype), ()

    def sample(ring: Ring, key, batch_size: int, gamma, beta=0.0, n=None) -> Transition:
        return storage.sample(draw, ring, key, batch_size, gamma, n)

    return Replay(init=storage.init, add=storage.add, sample=sample)


def prioritised_replay(
    capacity: int,
    n_step: int = 1,
    stack: int = 1,
    epsilon: float = 1e-6,
    groups: int = 1,
    view: Callable = fold,
) -> Replay:
    """Draws rows with odds p = (|x| + epsilon)**alpha of a TD error or a loss x; p of a new row is the greatest so far.

    A row's p is 0 until its window is complete, from when its stack or window is about to be overwritten, and if it is
    not valid. Weights are (p / sum p)**-beta over the greatest of the batch; 0 if nothing could be drawn.

    Args:
      capacity, n_step, stack, groups, view: as in `uniform_replay`; weights undo what groups do to the odds as well.
      epsilon: keeps rows without an error in play.

    Returns:
      init, add, sample: as in `uniform_replay`; the `index` of the Transition says where its rows lie.
      update(ring, index, x, alpha) -> ring: new priorities of rows drawn since the last add.

    Source: Schaul et al. (2016), algorithm 1 and equation 1, https://arxiv.org/abs/1511.05952

    >>> replay = prioritised_replay(capacity=8)
    >>> step = zero_step(jnp.zeros((2, 3)))
    >>> ring = replay.add(replay.init(step), step._replace(valid=jnp.array([True, True]), reward=jnp.array([1.0, 2.0])))
    >>> ring = replay.update(ring, jnp.array([0, 1]), jnp.array([0.0, 1.0]), 1.0)
    >>> print(replay.sample(ring, jax.random.key(0), 4, 0.9).reward)
    [2. 2. 2. 2.]
    """
    storage = _Storage(capacity, n_step, stack, groups, view)

    def init(first: Step) -> Ring:
        ring = storage.init(first)
        tree = storage.each(lambda ring: sum_tree.zeros(ring.rows.valid.size), ring)
        return ring._replace(priorities=tree, largest=jnp.ones(()))

    def enter(ring: Ring):
        (slots, envs), start = ring.rows.valid.shape, storage.drawable(ring)[0]
        left, entered = (start - 1) % slots, (ring.count - n_step) % slots  # a tick below 0 falls in a blank slot
        index = jnp.stack([left, entered])[:, None] * envs + jnp.arange(envs)[None]
        new = jnp.where(ring.rows.valid[entered], ring.largest, 0)
        value = jnp.stack([jnp.zeros_like(new), new])
        return sum_tree.write(ring.priorities, index.ravel(), value.ravel())

    def add(ring: Ring, step: Step) -> Ring:
        ring = storage.add(ring, step)
        return ring._replace(priorities=storage.each(enter, ring))

    def draw(ring: Ring, key, size: int, beta):
        index, envs = sum_tree.draw(ring.priorities, key, size), ring.rows.valid.shape[1]
        odds = sum_tree.read(ring.priorities, index) / sum_tree.total(ring.priorities)
        weight = jnp.where(odds > 0, jnp.where(odds > 0, odds, 1) ** -beta, 0)
        return index // envs, index % envs, weight, index

    def sample(ring: Ring, key, batch_size: int, gamma, beta=0.0, n=None) -> Transition:
        batch = storage.sample(functools.partial(draw, beta=beta), ring, key, batch_size, gamma, n)
        weight = batch.weight / jnp.maximum(jnp.max(batch.weight), 1)
        return batch._replace(weight=weight.astype(ring.rows.reward.dtype))

    def change(ring: Ring, index, value):
        value = jnp.where(sum_tree.read(ring.priorities, index) > 0, value, 0)
        return sum_tree.write(ring.priorities, index, value), jnp.max(value)

    def update(ring: Ring, index, x, alpha) -> Ring:
        tree, largest = storage.each(change, ring, index, (jnp.abs(x) + epsilon) ** alpha)
        ring = ring._replace(priorities=tree, largest=jnp.maximum(ring.largest, jnp.max(largest)))
        return ordered(ring, jnp.sum(sum_tree.total(tree)))

    return Replay(init=init, add=add, sample=sample, update=update)
