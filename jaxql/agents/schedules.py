"""Numbers that move in the course of a run, as functions of an agent's state."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxql import explore
from jaxql.types import Array


def _unused(x: Any) -> bool:
    return isinstance(x, tuple)


def epsilon_of(state: Any) -> Array:
    """Returns the exploration rate at this point of the run."""
    hyper = state.hyper
    if _unused(hyper.epsilon):
        return jnp.zeros(())
    if _unused(hyper.exploration_steps):
        return hyper.epsilon
    return explore.linear_epsilon(state.env_steps, hyper.epsilon, hyper.exploration_steps)


def beta_of(state: Any) -> Array:
    """Returns the exponent of importance weights: it rises linearly from beta to 1 in `beta_steps` env steps."""
    hyper = state.hyper
    if _unused(hyper.beta):
        return jnp.zeros(())
    risen = jnp.clip(state.env_steps / hyper.beta_steps, 0, 1)
    return hyper.beta + (1 - hyper.beta) * risen


def learning_rate_of(state: Any) -> Array:
    """Returns the learning rate: constant, then falling linearly, then constant again."""
    hyper = state.hyper
    if _unused(hyper.lr_decay_steps):
        return hyper.learning_rate
    start = 0 if _unused(hyper.lr_decay_start) else hyper.lr_decay_start
    fallen = jnp.clip((state.updates - start) / hyper.lr_decay_steps, 0, 1)
    return hyper.learning_rate * (1 + (hyper.lr_decay_fraction - 1) * fallen)


def updates_since_reset(state: Any) -> Array:
    """Returns the number of updates since the last reset, or the start."""
    every = state.hyper.reset_every_updates
    if _unused(every):
        return state.updates
    return jnp.where(every > 0, state.updates % jnp.maximum(every, 1), state.updates)


def annealed_horizon(state: Any) -> tuple[Array, Array]:
    """Returns n, a whole number, and gamma: n and 1 - gamma fall exponentially, afresh after every reset.

    Source: Schwarzer et al. (2023), section 3, https://arxiv.org/abs/2305.19452
    """
    hyper = state.hyper
    share = jnp.minimum(updates_since_reset(state) / hyper.horizon_anneal_updates, 1)

    def between(start, end):
        return start ** (1 - share) * end**share

    n = jnp.round(between(hyper.n_step * 1.0, hyper.n_step_end * 1.0)).astype(jnp.int32)
    return n, 1 - between(1 - hyper.discount, 1 - hyper.discount_end)


@jax.custom_batching.custom_vmap
def any_in_batch(due: Array) -> Array:
    """Returns `due`; under vmap, whether any element is due. A scalar keeps `lax.cond` a real branch.

    >>> print(jax.vmap(any_in_batch, out_axes=None)(jnp.array([False, True])))
    True
    """
    return due


@any_in_batch.def_vmap
def _(size, batched, due):
    return any_in_batch(jnp.any(due, axis=0)), False
