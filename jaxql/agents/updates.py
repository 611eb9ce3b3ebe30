"""The steps of an update: gradients, optimiser, target network, metrics, and the scan of a round's updates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

from jaxql import losses
from jaxql.agents.schedules import epsilon_of, learning_rate_of
from jaxql.agents.state import State
from jaxql.types import Array, Transition


def scan_updates(update: Callable, state: State, extra: Any, xs: Any = None, length: int | None = None) -> Any:
    """Runs updates in one scan that carries only what they change; the rest of the state is constant in it.

    Args:
      update: (state, extra, x) -> (state, extra, metrics).
      state: its params, target, opt_state and updates are carried.
      extra: what else is carried, such as priorities.
      xs, length: as of `jax.lax.scan`.

    Returns:
      (state, extra, metrics [length]).
    """

    def body(carry, x):
        (params, target, opt_state, updates), extra = carry
        now = state._replace(params=params, target=target, opt_state=opt_state, updates=updates)
        now, extra, metrics = update(now, extra, x)
        return ((now.params, now.target, now.opt_state, now.updates), extra), metrics

    carry = (state.params, state.target, state.opt_state, state.updates), extra
    ((params, target, opt_state, updates), extra), metrics = jax.lax.scan(body, carry, xs, length)
    return state._replace(params=params, target=target, opt_state=opt_state, updates=updates), extra, metrics


def apply_gradient(state: State, gradient: Any, optimizer: optax.GradientTransformation) -> State:
    """Returns the state one update later: params, opt_state and count, at the learning rate of this point of the run.

    Args:
      optimizer: gives a direction; it has no learning rate of its own.
    """
    direction, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    rate = learning_rate_of(state)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    return state._replace(params=params, opt_state=opt_state, updates=state.updates + 1)


def update_target(state: State, target: str) -> State:
    """Returns the state after an update with the target network moved: "hard", "polyak" or "none"."""
    if target == "hard":
        period = state.hyper.target_period_updates
        return state._replace(target=optax.periodic_update(state.params, state.target, state.updates, period))
    if target == "polyak":
        return state._replace(target=optax.incremental_update(state.params, state.target, state.hyper.tau))
    return state


def update_metrics(state: State, loss: Array, gradient: Any, q_values: Array, weight: Array) -> dict[str, Array]:
    """Returns the metrics of an update from `state`.

    Args:
      q_values, weight: of the rows, of one shape; q_mean is their weighted mean.
    """
    return {
        "loss": loss,
        "epsilon": epsilon_of(state),
        "gradient_norm": optax.tree.norm(gradient),
        "q_mean": losses.weighted_mean(q_values, weight),
    }


def sharded_gradient(loss: Callable, params: Any, batch: Transition, key: Array | None, shards: int) -> Any:
    """Returns `jax.value_and_grad(loss, has_aux=True)(params, batch, key)` as the mean over parts of the batch.

    Everything that is summed over shards is one vector, so that on a mesh one all-reduce carries the gradient.

    Args:
      loss: (params, batch, key) -> (a mean weighted by batch.weight, auxiliary results [N]).
      batch: N rows, of which each shard has its N / shards.
      key: None or a key; every shard derives its own.
    """
    value_and_gradient = jax.value_and_grad(loss, has_aux=True)
    if shards == 1:
        return value_and_gradient(params, batch, key)

    def of_shard(params, batch, shard):
        own = None if key is None else jax.random.fold_in(key, shard)
        (value, results), gradient = value_and_gradient(params, batch, own)
        weight = jnp.sum(batch.weight)
        return jnp.append(weight * jnp.append(ravel_pytree(gradient)[0], value), weight), results

    parts = jax.tree.map(lambda x: x.reshape(shards, -1, *x.shape[1:]), batch)
    of_shards, mesh = jax.vmap(of_shard, in_axes=(None, 0, 0)), jax.sharding.get_abstract_mesh()
    if not mesh.empty and shards % mesh.size == 0:  # explicit, for XLA would gather what grouped convolutions read
        here = PartitionSpec(mesh.axis_names)
        of_shards = jax.shard_map(of_shards, in_specs=(PartitionSpec(), here, here), out_specs=here, check_vma=False)
    sums, results = of_shards(params, parts, jnp.arange(shards))
    sums = jnp.sum(sums, axis=0)
    mean = sums[:-1] / jnp.maximum(sums[-1], jnp.finfo(sums.dtype).tiny)
    results = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)
    return (mean[-1], results), ravel_pytree(params)[1](mean[:-1])
