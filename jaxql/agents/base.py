"""What agents share: their state, their settings' common part, and epsilon-greedy behaviour."""

import dataclasses
import math
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

from jaxql import explore
from jaxql.errors import UserError
from jaxql.kernels import derive_key
from jaxql.types import Array, Step, Transition

# what a key is for; DRAWS: noise and fractions of the network
INIT, ACT, LEARN, ACT_DRAWS, LEARN_DRAWS, RESET = range(6)


def within(default, low, high=math.inf):
    """A setting whose value must lie in [low, high]; `check` sees to it."""
    return dataclasses.field(default=default, metadata={"range": (low, high)})


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The settings of a run that every agent has."""

    steps: int = within(50_000, 1)  # env steps after which the run ends, solved or not
    num_envs: int = within(1, 1)  # environments that step together
    ticks: int = within(1, 1)  # steps of every environment a round
    updates: int = within(1, 1)  # updates a round
    warmup_steps: int = within(0, 0)  # env steps before the first update
    log_every: int = within(1_000, 1)  # env steps between rows of metrics.csv
    checkpoint_every: int = within(10_000, 1)  # env steps between writes of the last checkpoint
    test_every: int = within(5_000, 1)  # env steps between tests
    test_from: float = -math.inf  # tests begin when the mean return of the last 10 training episodes first passes it
    test_episodes: int = within(20, 1)  # full episodes of a test, each in an environment of its own, epsilon 0
    solved_at: float = math.inf  # the return that counts as solved
    solved_by: typing.Literal["test", "training"] = "test"  # the mean of a test, or of the last 100 training episodes
    solved_strictly: bool = False  # the mean must exceed solved_at, not only reach it
    stop_when_solved: bool = True  # end the run there
    discount: float = within(0.99, 0, 1)  # gamma
    life_loss: bool = False  # Atari: a lost life is a termination for the learner, though the game goes on


class Hyper(NamedTuple):
    """Numbers that may differ between vmapped agents: read from the state, never from a closure."""

    learning_rate: Array = 0.0
    discount: Array = 0.99
    epsilon: Array = 0.0  # where exploration ends, having begun at 1
    exploration_steps: Array = 1.0  # of the env: real rows, not ticks
    target_period_updates: Array = 1
    tau: Array = 0.005  # of a Polyak target
    trace: Array = 0.65  # lambda of returns
    alpha: Array = 0.5  # exponent of priorities
    beta: Array = 0.4  # exponent of importance weights at the start, which rises to 1 ...
    beta_steps: Array = 1_000_000  # ... in so many env steps
    decay_from: Array = 0  # updates after which the learning rate falls ...
    decay_updates: Array = 1  # ... linearly, in so many ...
    decay_to: Array = 1.0  # ... to this fraction of itself
    reset_every_updates: Array = 0  # updates between resets of the network; 0 for none
    reset_keep: Array = 0.5  # what convolutions keep of themselves then
    anneal_updates: Array = 1  # updates from the start or a reset in which ...
    n_step: Array = 1  # ... n falls from here ...
    n_step_end: Array = 1  # ... to here ...
    discount_end: Array = 0.99  # ... and gamma rises to here


class State(NamedTuple):
    """All that changes in an agent; a field it has no use for is ()."""

    params: Any
    target: Any
    opt_state: Any
    data: Any  # what it learns from: a ring, counts, or the last Step
    ticks: Array
    env_steps: Array  # real rows observed
    updates: Array
    hyper: Any
    key: Array


def hyper_of(config) -> Hyper:
    """The Hyper that the settings of a run ask for."""
    return Hyper(**{name: getattr(config, name) for name in Hyper._fields if hasattr(config, name)})


def new_state(key, hyper, *, params, data, target=(), opt_state=()) -> State:
    """A state at step 0. It copies all it is given: a donated state shares no buffer with its caller or itself."""
    state = State(
        params=params,
        target=target,
        opt_state=opt_state,
        data=data,
        ticks=np.int32(0),
        env_steps=np.int32(0),
        updates=np.int32(0),
        hyper=jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), hyper),
        key=key,
    )
    return jax.tree.map(lambda x: jnp.copy(jnp.asarray(x)), state)


def after(state: State, step: Step, data) -> State:
    """The state after one tick, with what was learned from stored in `data`."""
    env_steps = state.env_steps + jnp.sum(step.real, dtype=jnp.int32)
    return state._replace(data=data, ticks=state.ticks + 1, env_steps=env_steps)


def epsilon_of(state: State) -> Array:
    """The exploration rate at this point of the run."""
    return explore.linear_epsilon(state.env_steps, state.hyper.epsilon, state.hyper.exploration_steps)


def beta_of(state: State) -> Array:
    """The exponent of importance weights at this point of the run."""
    risen = jnp.clip(state.env_steps / state.hyper.beta_steps, 0, 1)
    return state.hyper.beta + (1 - state.hyper.beta) * risen


def learning_rate_of(state: State) -> Array:
    """The learning rate at this point of the run."""
    hyper = state.hyper
    fallen = jnp.clip((state.updates - hyper.decay_from) / hyper.decay_updates, 0, 1)
    return hyper.learning_rate * (1 + (hyper.decay_to - 1) * fallen)


def updates_since_reset(state: State) -> Array:
    """Updates since the last reset, or the start."""
    every = state.hyper.reset_every_updates
    return jnp.where(every > 0, state.updates % jnp.maximum(every, 1), state.updates)


@jax.custom_batching.custom_vmap
def anywhere(due):
    """Whether `due`, of a vmapped agent whether that of any: one answer, with which `lax.cond` stays a branch.

    >>> print(jax.vmap(anywhere, out_axes=None)(jnp.array([False, True])))
    True
    """
    return due


@anywhere.def_vmap
def _(size, batched, due):
    return anywhere(jnp.any(due, axis=0)), False


def annealed_horizon(state: State) -> tuple[Array, Array]:
    """n, a whole number, and gamma at this point: n and 1 - gamma fall exponentially, afresh after every reset.

    Source: Schwarzer et al. (2023), section 3, https://arxiv.org/abs/2305.19452
    """
    hyper = state.hyper
    share = jnp.minimum(updates_since_reset(state) / hyper.anneal_updates, 1)

    def between(start, end):
        return start ** (1 - share) * end**share

    n = jnp.round(between(hyper.n_step * 1.0, hyper.n_step_end * 1.0)).astype(jnp.int32)
    return n, 1 - between(1 - hyper.discount, 1 - hyper.discount_end)


def grouped_gradient(loss: Callable, params, batch: Transition, key, groups: int):
    """`jax.value_and_grad(loss, has_aux=True)(params, batch, key)`, of `groups` parts of the batch and then their mean.

    Args:
      loss: (params, batch, key) -> (a mean weighted by batch.weight, auxiliary results [N]).
      batch: N rows, of which each group has its N / groups.
      key: None or a key, of which every group has its own.

    All that is summed over groups is one vector, so that on a mesh one all-reduce carries the gradient.
    """
    value_and_gradient = jax.value_and_grad(loss, has_aux=True)
    if groups == 1:
        return value_and_gradient(params, batch, key)

    def of_group(params, batch, group):
        own = None if key is None else jax.random.fold_in(key, group)
        (value, results), gradient = value_and_gradient(params, batch, own)
        weight = jnp.sum(batch.weight)
        return jnp.append(weight * jnp.append(ravel_pytree(gradient)[0], value), weight), results

    parts = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), batch)
    of_groups, mesh = jax.vmap(of_group, in_axes=(None, 0, 0)), jax.sharding.get_abstract_mesh()
    if not mesh.empty and groups % mesh.size == 0:  # said outright: XLA would gather what grouped convolutions read
        here = PartitionSpec(mesh.axis_names)
        of_groups = jax.shard_map(of_groups, in_specs=(PartitionSpec(), here, here), out_specs=here, check_vma=False)
    sums, results = of_groups(params, parts, jnp.arange(groups))
    sums = jnp.sum(sums, axis=0)
    mean = sums[:-1] / jnp.maximum(sums[-1], jnp.finfo(sums.dtype).tiny)
    results = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)
    return (mean[-1], results), ravel_pytree(params)[1](mean[:-1])


def epsilon_greedy_on(q: Callable) -> tuple[Callable, Callable]:
    """(act, policy) of an agent whose action values are q(params, obs, key) [B, A]; the policy gives no key."""

    def policy(params, obs, memory, key, epsilon=0.0):
        return explore.epsilon_greedy(key, q(params, obs, None), epsilon), memory

    def act(state: State, obs):
        values = q(state.params, obs, derive_key(state.key, ACT_DRAWS, state.ticks, unrolled=False))
        return explore.epsilon_greedy(derive_key(state.key, ACT, state.ticks), values, epsilon_of(state)), ()

    return act, policy


def check(config) -> None:
    """Refuses settings of the wrong type or out of range, with one line that names the setting.

    >>> check(RunConfig(discount=1.5))
    Traceback (most recent call last):
    jaxql.errors.UserError: discount is 1.5; it must be at least 0 and at most 1
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), hints[field.name]
        if typing.get_origin(kind) is typing.Literal:
            if value not in typing.get_args(kind):
                raise UserError(f"{field.name} is {value!r}; it must be one of {', '.join(typing.get_args(kind))}")
        elif kind in (int, float):
            _check_number(field, value, kind)
        elif typing.get_origin(kind) is tuple:
            if not isinstance(value, tuple) or not all(type(x) is int and x > 0 for x in value):
                raise UserError(f"{field.name} is {value!r}; it must be a tuple of whole numbers above 0")
        elif not isinstance(value, kind):
            raise UserError(f"{field.name} is {value!r}; it must be a {kind.__name__}")


def _check_number(field, value, kind):
    low, high = field.metadata.get("range", (-math.inf, math.inf))
    right = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    if not right or math.isnan(value) or ("range" in field.metadata and math.isinf(value)):
        raise UserError(f"{field.name} is {value!r}; it must be a {'whole' if kind is int else 'finite'} number")
    if not low <= value <= high:
        bound = f"at least {low}" + (f" and at most {high}" if high < math.inf else "")
        raise UserError(f"{field.name} is {value}; it must be {bound}")
