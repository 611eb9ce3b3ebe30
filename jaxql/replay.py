"""Replay on the device: a ring of Steps, of which n-step windows, frame stacks and next observations are views."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxql.types import Array, Replay, Step, Transition

TRIES = 16  # candidates a draw; all of them being reset rows is rarer than 1e-6 while under 40 % of rows are


class Ring(NamedTuple):
    """Tick t lies in slot t % T; its next_obs is written once, ahead, as the obs of slot t + 1."""

    rows: Step  # leaves [T, B, ...]; next_obs is (); of a stack only the newest frame is kept
    count: Array  # ticks written; observations count - T + 1 .. count are stored


def blank_step(obs) -> Step:
    """A tick of B worlds that never happened: buffers take their shapes and dtypes from it."""
    reward = jnp.zeros(len(jax.tree.leaves(obs)[0]))
    action, no = reward.astype(jnp.int32), reward.astype(bool)
    return Step(obs=obs, action=action, reward=reward, terminated=no, truncated=no, next_obs=obs, real=no)


def stacked(rows: Step, t, world, stack: int):
    """The observation of one world at tick t: frames t - stack + 1 .. t, zeros before the last reset.

    A reset follows a row that is not real. Ticks below 0 fall in slots that are still blank, hence not real either.
    """
    ticks = t + jnp.arange(1 - stack, 1)
    same_episode = rows.real[ticks[:-1] % len(rows.real), world]
    shown = jnp.append(jnp.cumprod(same_episode[::-1])[::-1], 1)

    def view(x):
        frames = x[ticks % len(x), world]
        return jnp.where(shown.reshape(-1, *[1] * (frames.ndim - 1)), frames, 0) if stack > 1 else frames[0]

    return jax.tree.map(view, rows.obs)


def fold(rows: Step, t, world, weight, gamma, n_step: int, stack: int) -> Transition:
    """The n-step transition of one world at tick t: it stops at the first end of either kind, a life's included.

    reward = sum_{i < m} gamma**i r_{t+i}, discount = gamma**m (0 past a termination), next_obs = obs_{t+m}, m <= n.
    """
    window = jax.tree.map(lambda x: x[(t + jnp.arange(n_step)) % len(x), world], rows._replace(obs=()))
    taken = jnp.cumprod(jnp.append(True, ~(window.terminated | window.truncated)[:-1])).astype(bool)
    m = jnp.sum(taken, dtype=jnp.int32)
    return Transition(
        obs=stacked(rows, t, world, stack),
        action=window.action[0],
        reward=jnp.sum(jnp.where(taken, gamma ** jnp.arange(n_step) * window.reward, 0)),
        discount=jnp.where(jnp.any(taken & window.terminated), 0, gamma**m),
        next_obs=stacked(rows, t + m, world, stack),
        weight=weight,
    )


def uniform_replay(capacity: int, n_step: int = 1, stack: int = 1) -> Replay:
    """Draws uniformly from the real rows among the newest `capacity` whose whole stack and window are stored.

    Args:
      capacity: rows [B worlds x ticks] that can be drawn, rounded up to whole ticks.
      n_step: steps folded into a transition.
      stack: above 1, observations are [B, stack, ...], newest last; single frames are kept, stacks are views.

    Returns:
      init(first Step) -> ring: the storage; the first observation is stored, the Step itself is not.
      add(ring, Step) -> ring: donate the ring and it is written in place.
      sample(ring, key, N, gamma) -> Transition of N rows, at a cost that does not depend on the capacity.

    >>> replay = uniform_replay(capacity=8)
    >>> step = blank_step(jnp.zeros((2, 3)))
    >>> ring = replay.add(replay.init(step), step._replace(real=jnp.array([True, True]), reward=jnp.array([1.0, 1.0])))
    >>> print(replay.sample(ring, jax.random.key(0), 4, 0.9).reward)
    [1. 1. 1. 1.]
    """
    margin = n_step + stack - 1  # slots that complete the stack of the oldest start and the window of the newest

    def newest(obs):
        return jax.tree.map(lambda x: x[:, -1], obs) if stack > 1 else obs

    def put(store, tick, new):
        return jax.tree.map(lambda s, x: s.at[tick % len(s)].set(x), store, new)

    def init(first: Step) -> Ring:
        first, slots = first._replace(obs=newest(first.obs), next_obs=()), -(-capacity // len(first.real)) + margin
        rows = jax.tree.map(lambda x: jnp.zeros((slots, *x.shape), x.dtype), first)
        return Ring(rows=rows._replace(obs=put(rows.obs, 0, first.obs)), count=jnp.zeros((), jnp.int32))

    def add(ring: Ring, step: Step) -> Ring:
        obs = put(ring.rows.obs, ring.count + 1, newest(step.next_obs))
        rows = put(ring.rows._replace(obs=()), ring.count, step._replace(obs=(), next_obs=()))
        return Ring(rows=rows._replace(obs=obs), count=ring.count + 1)

    def sample(ring: Ring, key, batch_size: int, gamma) -> Transition:
        """Of some candidates each draw keeps the first valid one, which leaves it uniform; weight 0 if none is."""
        rows, (slots, worlds) = ring.rows, ring.rows.real.shape
        end = jnp.maximum(ring.count - n_step + 1, 0)
        start = jnp.maximum(end - (slots - margin), 0)
        t = jax.random.randint(jax.random.fold_in(key, 0), (TRIES, batch_size), start, end)
        world = jax.random.randint(jax.random.fold_in(key, 1), (TRIES, batch_size), 0, worlds)
        valid = rows.real[t % slots, world] & (t < end)  # t == start == end while no window is complete
        first = jnp.argmax(valid, axis=0)[None]
        t, world, valid = (jnp.take_along_axis(x, first, axis=0)[0] for x in (t, world, valid))
        one = functools.partial(fold, rows, gamma=gamma, n_step=n_step, stack=stack)
        return jax.vmap(one)(t, world, valid.astype(rows.reward.dtype))

    return Replay(init=init, add=add, sample=sample)
