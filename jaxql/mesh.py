"""Data parallelism: the devices of a mesh share the envs and all rows stored of them.

Parameters, optimiser state and counters are on every device. Only placement changes: n devices compute what one does.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxql.types import Agent, EnvSpec, Step


def env_sharding(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding of arrays whose axis `axis` is the envs: each device has an equal part, in order.

    Args:
      mesh: all its axes share the envs.
      axis: the axis of the envs.

    >>> env_sharding(jax.make_mesh((1,), ("envs",)), axis=1).spec
    P(None, 'envs')
    """
    return _sharding(mesh, *[None] * axis, mesh.axis_names)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that are whole on every device.

    >>> replicated(jax.make_mesh((1,), ("envs",))).spec
    P()
    """
    return _sharding(mesh)


def _sharding(mesh: Mesh, *spec: Any) -> NamedSharding:
    """A sharding over Auto axes, which the compiler places; `jax.make_mesh` makes Explicit ones."""
    return NamedSharding(Mesh(mesh.devices, mesh.axis_names), PartitionSpec(*spec))


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
    """Returns a sharding for every leaf: `env_sharding` for Steps, stored ones too; replication for all else.

    Args:
      tree: an agent's state, or any other pytree, of arrays or of their shapes.
      mesh: its devices share the envs, whatever the names of its axes.

    >>> from jaxql.replay import zero_step
    >>> step = zero_step(jax.numpy.zeros((2, 3)))
    >>> found = tree_shardings({"step": step, "count": 0}, jax.make_mesh((1,), ("envs",)))
    >>> found["step"].reward.spec, found["count"].spec
    (P('envs',), P())
    """

    def shardings_of(x: Any) -> Any:
        if not isinstance(x, Step):
            return replicated(mesh)
        by_env = env_sharding(mesh, axis=len(x.valid.shape) - 1)  # [B], or [T, B] where rows are stored
        return jax.tree.map(lambda _: by_env, x)

    return jax.tree.map(shardings_of, tree, is_leaf=lambda x: isinstance(x, Step))


def shard_agent(agent: Agent, mesh: Mesh) -> Agent:
    """Returns the agent compiled for a mesh. `observe` and `learn` donate the state.

    Its observations and rows must have the `env_sharding`. Its numbers are those of one device, up to rounding. With
    `shards` (see `jaxql.agents.dqn.Config`) a multiple of the devices, each device draws and differentiates its part of
    the batch, and one all-reduce adds the gradients. With fewer groups every device learns from the whole batch.

    Args:
      agent: its pure functions, not compiled.
      mesh: the number of its devices must divide the envs. With several CPU devices in one process a call returns when
        its results are ready: XLA may deadlock where two programs that communicate overlap.

    >>> from jaxql.agents import REGISTRY
    >>> from jaxql.envs.jax import autoreset, catch
    >>> from jaxql.agents.state import hyper_of
    >>> config, mesh = REGISTRY["dqn"].config(), jax.make_mesh((1,), ("envs",))
    >>> agent = shard_agent(REGISTRY["dqn"].make(config, catch().spec(8)), mesh)
    >>> begin, env_step = autoreset(catch(), num_envs=8)
    >>> env_state, obs = jax.device_put(begin(jax.random.key(0)), env_sharding(mesh))
    >>> state = agent.init(jax.random.key(0), obs, hyper_of(config))
    >>> [shard.data.shape for shard in state.data.rows.reward.addressable_shards]  # [T, B / devices] on each
    [(12501, 8)]
    """

    def placed(f: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        return jit_on_mesh(f, mesh, lambda results: tree_shardings(results, mesh), **options)

    return agent._replace(
        init=placed(agent.init),
        act=jit_on_mesh(agent.act, mesh, lambda _: env_sharding(mesh)),
        observe=placed(agent.observe, donate_argnums=0),
        learn=placed(agent.learn, donate_argnums=0),
        policy=jit_on_mesh(agent.policy, mesh),
    )


def jit_on_mesh(
    f: Callable[..., Any], mesh: Mesh, shardings_of: Callable[[Any], Any] | None = None, **options: Any
) -> Callable[..., Any]:
    """Returns f compiled for a mesh, traced as part of a program for several devices.

    Args:
      f: a pure function.
      mesh: whose devices compute it. With several CPU devices in one process a call returns when its results are ready.
      shardings_of: (results) -> their shardings, or a prefix of that tree; None: the compiler's choice.
      **options: of `jax.jit`.

    >>> mesh = jax.make_mesh((1,), ("envs",))
    >>> doubled = jit_on_mesh(lambda x: 2 * x, mesh, lambda _: env_sharding(mesh))
    >>> print(doubled(np.arange(3.0)))
    [0. 2. 4.]
    """

    @functools.wraps(f)
    def f_on_mesh(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(env_sharding(mesh).mesh.abstract_mesh):
            results = f(*args)
        if shardings_of is None:
            return results
        return jax.lax.with_sharding_constraint(results, shardings_of(results))

    jitted = jax.jit(f_on_mesh, **options)
    may_deadlock = mesh.devices.flat[0].platform == "cpu" and len(mesh.local_devices) > 1
    return _block_until_ready(jitted) if may_deadlock else jitted


def _block_until_ready(jitted: Any) -> Callable[..., Any]:
    """The jitted function, which returns when its results are ready."""

    @functools.wraps(jitted)
    def blocking(*args: Any) -> Any:
        return jax.block_until_ready(jitted(*args))

    vars(blocking)["lower"] = jitted.lower
    return blocking


def local_to_global(tree: Any, mesh: Mesh) -> Any:
    """Returns global arrays [B, ...] of envs from this process's part [B / processes, ...], in NumPy arrays.

    The results are copies. With one process the part is the whole.

    >>> print(local_to_global(np.arange(3), jax.make_mesh((1,), ("envs",))))
    [0 1 2]
    """
    sharding = env_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.array(x)), tree)


def global_to_local(x: Any) -> np.ndarray:
    """Returns this process's part of an array [B] that has the `env_sharding`: the inverse of `local_to_global`.

    >>> print(global_to_local(local_to_global(np.arange(3), jax.make_mesh((1,), ("envs",)))))
    [0 1 2]
    """
    if not isinstance(x, jax.Array) or x.is_fully_addressable:
        return np.asarray(x)
    parts = {shard.index[0].start: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])


def global_spec(spec: EnvSpec, mesh: Mesh) -> tuple[EnvSpec, int]:
    """Returns (the EnvSpec of the envs of all processes, the index of this process's first env).

    Args:
      spec: of this process's envs.
      mesh: its devices share the envs of all processes.

    >>> from jaxql.envs.jax import catch
    >>> spec, first_env = global_spec(catch().spec(8), jax.make_mesh((1,), ("envs",)))
    >>> spec.num_envs, first_env
    (8, 0)
    """
    num_envs = spec.num_envs * mesh.size // len(mesh.local_devices)
    local_parts = env_sharding(mesh).addressable_devices_indices_map((num_envs,)).values()
    obs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_envs, *x.shape[1:]), x.dtype), spec.obs)
    return spec._replace(obs=obs, num_envs=num_envs), min(index[0].start or 0 for index in local_parts if index)
