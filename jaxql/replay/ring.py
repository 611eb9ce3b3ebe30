"""A ring of Steps on the device, of which stacks, n-step windows and next observations are views.

A row can be drawn while its whole stack and window are stored, and it is valid; the newest `capacity` such rows are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxql.bellman.arguments import UNIT, check_actions, check_count, function
from jaxql.types import Array, Step, Transition


class Ring(NamedTuple):
    """Tick t lies in slot t % T; its next_obs is written once, ahead, as the obs of slot t + 1."""

    rows: Step  # leaves [T, B, ...]; next_obs is (); of a stack only the newest frame is kept
    num_steps: Array  # vector steps written; observations num_steps - T + 1 .. num_steps are stored
    priorities: Any = ()  # a sum tree with a leaf T-major for each row, 0 where it cannot be drawn; () if uniform
    max_priorities: Any = ()  # [updates] the greatest priority in each of the last updates, newest last; 0: no update


def zero_step(obs: Any) -> Step:
    """Returns a Step of zeros for observations [B, ...]: buffers take their shapes and dtypes from it.

    >>> print(zero_step(jnp.ones((2, 3))).reward)
    [0. 0.]
    """
    reward = jnp.zeros(len(jax.tree.leaves(obs)[0]))
    action, no = reward.astype(jnp.int32), reward.astype(bool)
    return Step(obs=obs, action=action, reward=reward, terminated=no, truncated=no, next_obs=obs, valid=no)


def after_read(ring: Ring, seen: Array) -> Ring:
    """Returns the ring with a fake data dependency on `seen` [], so that XLA schedules later writes after the read.

    Without it XLA copies a buffer that a compiled loop reads and then writes.

    >>> print(after_read(Ring(rows=zero_step(jnp.ones(1)), num_steps=jnp.int32(3)), jnp.float32(7)).num_steps)
    3
    """
    never = (seen != seen) & (seen == seen)
    return jax.tree.map(lambda x: jnp.where(never, 0, x) if x.ndim == 0 else x, ring)


def without_priorities(ring: Ring) -> tuple[Ring, tuple[Any, Any]]:
    """Returns the ring that learning only reads, and (priorities, max_priorities), which it changes.

    `ring._replace(priorities=..., max_priorities=...)` puts them together again.

    >>> ring, changing = without_priorities(Ring(rows=zero_step(jnp.ones(1)), num_steps=jnp.int32(3)))
    >>> changing
    ((), ())
    """
    return ring._replace(priorities=(), max_priorities=()), (ring.priorities, ring.max_priorities)


def end_episodes(tree: Any, seeds: bool = False) -> Any:
    """Returns a tree in which the newest row of every ring is truncated: no window goes on into the next row.

    Args:
      tree: any pytree; what is no `Ring` stays as it is.
      seeds: whether arrays have a leading axis of seeds.
    """

    def end(ring: Ring) -> Ring:
        truncated = ring.rows.truncated
        newest = truncated.at[(ring.num_steps - 1) % len(truncated)].set(True)
        return ring._replace(rows=ring.rows._replace(truncated=newest))

    def of_node(node: Any) -> Any:
        return (jax.vmap(end) if seeds else end)(node) if isinstance(node, Ring) else node

    return jax.tree.map(of_node, tree, is_leaf=lambda node: isinstance(node, Ring))


def write_slot(store: Any, tick: Array | int, new: Any) -> Any:
    """Returns the store [T, ...] with `new` [...] in the slot of a tick.

    >>> print(write_slot(jnp.zeros(3), 4, 1.0))
    [0. 1. 0.]
    """
    return jax.tree.map(lambda s, x: s.at[tick % len(s)].set(x), store, new)


def check_step(step: Step) -> None:
    """Raises ValueError, naming the field, unless a Step has a row for each of B envs.

    >>> step = zero_step(jnp.ones((2, 3)))
    >>> check_step(step._replace(reward=jnp.zeros(3)))
    Traceback (most recent call last):
        ...
    ValueError: reward has shape (3,); it needs (2,), as valid
    """
    envs = np.shape(step.valid)
    if len(envs) != 1:
        raise ValueError(f"valid has shape {envs}; it needs [B], a flag for each env")
    for name in ("action", "reward", "terminated", "truncated"):
        if np.shape(getattr(step, name)) != envs:
            raise ValueError(f"{name} has shape {np.shape(getattr(step, name))}; it needs {envs}, as valid")
    check_actions("action", jnp.asarray(step.action))
    for name in ("obs", "next_obs", "extra"):
        for leaf in jax.tree.leaves(getattr(step, name)):
            if np.shape(leaf)[:1] != envs:
                raise ValueError(f"{name} has shape {np.shape(leaf)}; it needs {envs[0]} rows, as valid")


def _check_like(step: Step, rows: Step, **names: str) -> None:
    """Raises ValueError, naming the field, unless a Step fits the rows [T, B, ...] that are stored."""
    for field, new, stored in zip(Step._fields, step, rows, strict=True):
        name = names.get(field, field)
        parts: Any = jax.tree.structure(stored)
        if parts != jax.tree.structure(new):
            raise ValueError(f"{name} has other parts than that of the first step, {parts}")
        for x, store in zip(jax.tree.leaves(new), jax.tree.leaves(stored), strict=True):
            if np.shape(x) != store.shape[1:]:
                raise ValueError(
                    f"{name} has shape {np.shape(x)} in a row of all envs; the replay stores {store.shape[1:]}"
                )
            if not _fits(jnp.result_type(x), store.dtype):
                raise ValueError(
                    f"{name} has dtype {jnp.result_type(x)}; the replay stores {store.dtype}, as in the first step, "
                    "and would change its values: convert it"
                )


def _fits(own: Any, dtype: Any) -> bool:
    """True unless storing numbers of one dtype as another may change them by more than rounding."""
    for kind, bits in ((jnp.floating, 0), (jnp.integer, 32)):
        if jnp.issubdtype(own, kind) and jnp.issubdtype(dtype, kind) and dtype.itemsize * 8 >= bits:
            return True
    return own == dtype or jnp.promote_types(own, dtype) == dtype


View = Callable[..., Any]  # (rows, t, env, weight, gamma, n_step, stack) -> what is drawn at tick t of an env


class RingStorage:
    """The storage that both kinds of replay share: where rows lie, and which can be drawn."""

    def __init__(self, capacity: int, n_step: int, stack: int, shards: int, view: View):
        for name, number in dict(capacity=capacity, n_step=n_step, stack=stack, shards=shards).items():
            check_count(name, number)
        function("view", view)
        self.capacity, self.n_step, self.stack, self.shards, self.view = capacity, n_step, stack, shards, view
        self.margin = n_step + stack - 1  # slots for the stack of the oldest start and the window of the newest

    def init(self, first: Step) -> Ring:
        """Returns an empty ring, with the first observation stored; buffers take shapes and dtypes from the Step."""
        check_step(first)
        for leaf in jax.tree.leaves(first.obs) if self.stack > 1 else ():
            if leaf.shape[1:2] != (self.stack,):
                raise ValueError(
                    f"obs has shape {leaf.shape}; it needs [B, {self.stack}, ...], as stack is {self.stack}"
                )
        if len(first.valid) % self.shards:
            raise ValueError(f"shards is {self.shards}; it must divide the {len(first.valid)} envs")
        first = first._replace(obs=self._newest(first.obs), next_obs=())
        slots = -(-self.capacity // len(first.valid)) + self.margin
        rows = jax.tree.map(lambda x: jnp.zeros((slots, *x.shape), x.dtype), first)
        return Ring(rows=rows._replace(obs=write_slot(rows.obs, 0, first.obs)), num_steps=jnp.zeros((), jnp.int32))

    def add(self, ring: Ring, step: Step) -> Ring:
        """Returns the ring with one more tick, in place of the oldest.

        Raises:
          ValueError: the Step is not like the first one; the message names the field.
        """
        check_step(step)
        newest = step._replace(obs=self._newest(step.obs), next_obs=())
        _check_like(newest, ring.rows)
        _check_like(newest._replace(obs=self._newest(step.next_obs)), ring.rows, obs="next_obs")
        obs = write_slot(ring.rows.obs, ring.num_steps + 1, self._newest(step.next_obs))
        rows = write_slot(ring.rows._replace(obs=()), ring.num_steps, step._replace(obs=(), next_obs=()))
        return ring._replace(rows=rows._replace(obs=obs), num_steps=ring.num_steps + 1)

    def drawable(self, ring: Ring) -> tuple[Array, Array]:
        """Returns the ticks [start, end) whose stacks and windows are stored."""
        end = jnp.maximum(ring.num_steps - self.n_step + 1, 0)
        return jnp.maximum(end - (len(ring.rows.valid) - self.margin), 0), end

    def views(self, ring: Ring, t: Array, env: Array, weight: Array, gamma: Array, n: Array | None) -> Any:
        """Returns what is drawn at (t, env) [N]; a given n shortens the windows."""
        shorter = {} if n is None else {"n": n}

        def one(*place):
            return self.view(ring.rows, *place, gamma, self.n_step, self.stack, **shorter)

        return jax.vmap(one)(t, env, weight)

    def per_shard(self, f: Callable, ring: Ring, *args: Array) -> Any:
        """Returns f(ring, *args) of every shard [shards, ...]: f sees its envs, its tree and its part of args [N]."""
        if self.shards == 1:
            return f(ring, *args)
        rows = jax.tree.map(lambda x: x.reshape(len(x), self.shards, -1, *x.shape[2:]), ring.rows)
        parts = jax.tree.map(lambda x: x.reshape(self.shards, -1, *x.shape[1:]), args)
        of_envs: Any = 1
        shared: Any = None
        axes = Ring(rows=of_envs, num_steps=shared, priorities=0, max_priorities=shared)
        return jax.vmap(f, (axes, *(0 for _ in args)))(ring._replace(rows=rows), *parts)

    def sample(
        self, draw: Callable, ring: Ring, key: Array, batch_size: int, gamma: Array, n: Array | None
    ) -> Transition:
        """Returns the rows [N] that draw(ring, key, N) -> (t, env, weight, index) finds, as many in every shard."""
        check_count("batch_size", batch_size)
        UNIT("gamma", gamma)
        if n is not None and not isinstance(n, Tracer):
            check_count("n", n)
            if n > self.n_step:
                raise ValueError(f"n is {n}; it must be at most n_step, which is {self.n_step}")
        if batch_size % self.shards:
            raise ValueError(f"shards is {self.shards}; it must divide the batch of {batch_size}")

        def of_shard(ring, shard):
            own = key if self.shards == 1 else jax.random.fold_in(key, shard[0])
            t, env, weight, index = draw(ring, own, batch_size // self.shards)
            return self.views(ring, t, env, weight, gamma, n)._replace(index=index)

        batch = self.per_shard(of_shard, ring, jnp.arange(self.shards))
        if self.shards > 1:
            batch = jax.tree.map(lambda x: x.reshape(batch_size, *x.shape[2:]), batch)
        return batch

    def _newest(self, obs):
        return jax.tree.map(lambda x: x[:, -1], obs) if self.stack > 1 else obs
