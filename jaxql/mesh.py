"""Data parallelism: the envs, and all that is stored of them, are shared out among the devices of a mesh.

Parameters, optimiser and counters are on every device. Only placement changes, so n devices compute what one does.
"""

import functools

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxql.types import Agent, EnvSpec, Step


def over_envs(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The sharding of arrays whose axis `axis` is the envs: equal parts of it, in order, on the devices of the mesh.

    >>> over_envs(jax.make_mesh((1,), ("envs",)), axis=1).spec
    P(None, 'envs')
    """
    return _on(mesh, *[None] * axis, mesh.axis_names)


def _on(mesh: Mesh, *axes) -> NamedSharding:
    """Of axes that the compiler may use as it sees fit: explicit ones, as of `jax.make_mesh`, are made so."""
    return NamedSharding(Mesh(mesh.devices, mesh.axis_names), PartitionSpec(*axes))


def shardings(tree, mesh: Mesh):
    """A sharding for every leaf: Steps, stored ones too, are shared out by envs; all else is on every device.

    Args:
      tree: an agent's state, or any other tree; arrays or their shapes.
      mesh: its devices share the envs, whatever the names of its axes.

    >>> from jaxql.replay import zero_step
    >>> step = zero_step(jax.numpy.zeros((2, 3)))
    >>> found = shardings({"step": step, "count": 0}, jax.make_mesh((1,), ("envs",)))
    >>> found["step"].reward.spec, found["count"].spec
    (P('envs',), P())
    """

    def of(x):
        if not isinstance(x, Step):
            return _on(mesh)
        where = over_envs(mesh, axis=len(x.valid.shape) - 1)  # [B], or [T, B] where ticks are stored
        return jax.tree.map(lambda _: where, x)

    return jax.tree.map(of, tree, is_leaf=lambda x: isinstance(x, Step))


def sharded(agent: Agent, mesh: Mesh) -> Agent:
    """The agent compiled for a mesh, as `loop.compiled` does for one device; `observe` and `learn` donate the state.

    Give it observations and rows that are `over_envs`. The numbers are those of one device, to rounding. A learner of
    `groups` (see `jaxql.agents.dqn.Config`), a multiple of the devices, draws and differentiates on each of them apart
    and learns with one all-reduce; with fewer groups every device learns from the whole batch.

    Args:
      agent: its pure functions, not yet compiled.
      mesh: its devices must divide the envs. On several CPU devices of one process a call returns when its results
        are there: XLA's threads may wait for one another for ever where two programs that communicate overlap.

    >>> from jaxql.agents import REGISTRY
    >>> from jaxql.envs.worlds import catch, autoreset
    >>> from jaxql.agents.base import hyper_of
    >>> config, mesh = REGISTRY["dqn"].config(), jax.make_mesh((1,), ("envs",))
    >>> agent = sharded(REGISTRY["dqn"].make(config, catch().spec(8)), mesh)
    >>> begin, env_step = autoreset(catch(), num_envs=8)
    >>> env, obs = jax.device_put(begin(jax.random.key(0)), over_envs(mesh))
    >>> state = agent.init(jax.random.key(0), obs, hyper_of(config))
    >>> [shard.data.shape for shard in state.data.rows.reward.addressable_shards]  # [T, B / devices] on each
    [(12501, 8)]
    """

    def within(f):  # convolutions and gradients are traced as parts of a program for several devices
        def f_within(*args):
            with jax.sharding.use_abstract_mesh(over_envs(mesh).mesh.abstract_mesh):
                return f(*args)

        return f_within

    def placed(f):
        def placed_f(*args):
            results = within(f)(*args)
            return jax.lax.with_sharding_constraint(results, shardings(results, mesh))

        return placed_f

    overlap_is_safe = mesh.devices.flat[0].platform != "cpu" or len(mesh.local_devices) == 1

    def compiled(f, **options):
        f = jax.jit(f, **options)
        return f if overlap_is_safe else _waited_for(f)

    return agent._replace(
        init=compiled(placed(agent.init)),
        act=compiled(within(agent.act), out_shardings=over_envs(mesh)),
        observe=compiled(placed(agent.observe), donate_argnums=0),
        learn=compiled(placed(agent.learn), donate_argnums=0),
        policy=compiled(within(agent.policy)),
    )


def _waited_for(f):
    """The compiled f, returning when its results are there."""

    @functools.wraps(f)
    def waiting(*args):
        return jax.block_until_ready(f(*args))

    waiting.lower = f.lower
    return waiting


def to_mesh(tree, mesh: Mesh):
    """Global arrays [B, ...] of envs from the part [B / processes, ...] that this process has, as NumPy arrays.

    They are copies. With one process the part is the whole.

    >>> print(to_mesh(np.arange(3), jax.make_mesh((1,), ("envs",))))
    [0 1 2]
    """
    where = over_envs(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(where, np.array(x)), tree)


def global_spec(spec: EnvSpec, mesh: Mesh) -> tuple[EnvSpec, int]:
    """The EnvSpec of the envs of all processes, from that of this process's, and the number of the first of these.

    >>> from jaxql.envs.worlds import catch
    >>> spec, first = whole_spec(catch().spec(8), jax.make_mesh((1,), ("envs",)))
    >>> spec.num_envs, first
    (8, 0)
    """
    envs = spec.num_envs * mesh.size // len(mesh.local_devices)
    mine = over_envs(mesh).addressable_devices_indices_map((envs,)).values()
    obs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((envs, *x.shape[1:]), x.dtype), spec.obs)
    return spec._replace(obs=obs, num_envs=envs), min(index[0].start or 0 for index in mine)


def from_mesh(x) -> np.ndarray:
    """The part of an array [B] `over_envs` that is on this process's devices: the inverse of `to_mesh`.

    >>> print(from_mesh(to_mesh(np.arange(3), jax.make_mesh((1,), ("envs",)))))
    [0 1 2]
    """
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return np.asarray(x)
    parts = {shard.index[0].start: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])
