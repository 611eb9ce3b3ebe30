"""NEXT_STEP autoreset around JAX envs, in the form that the training loop drives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.envs.jax.protocol import JaxEnv
from jaxql.errors import UserError
from jaxql.kernels import derive_key
from jaxql.types import Array, StepResult


class AutoresetState(NamedTuple):
    """B envs in progress, leaves [B, ...]."""

    state: Any  # of the JaxEnv
    needs_reset: Array  # the env resets itself at the next step
    num_steps: Array  # steps taken in this episode
    episode: Array  # index of this episode
    key: Array


Begin = Callable[[Array], tuple[AutoresetState, Any]]
EnvStep = Callable[[AutoresetState, Array], tuple[AutoresetState, StepResult[Array]]]


def autoreset(
    jax_env: JaxEnv, num_envs: int, step_limit: int | None = None, limit_terminates: bool = False
) -> tuple[Begin, EnvStep]:
    """Returns (begin, env_step), which drive `num_envs` copies of an env.

    - begin(key) -> (env_state, obs [B, ...])
    - env_step(env_state, action [B]) -> (env_state, `StepResult`)

    A row is a function of the env's key, the index of the episode and the episode's actions.

    Args:
      jax_env: one episode.
      num_envs: B.
      step_limit: an episode is truncated after so many steps. None takes the env's own limit; 0 means no limit.
      limit_terminates: the limit is a termination, beyond which there is no value, in place of a truncation.

    Raises:
      UserError: num_envs below 1, or a negative step_limit.

    >>> from jaxql.envs.jax import catch
    >>> begin, env_step = autoreset(catch(rows=3), num_envs=2)
    >>> env_state, obs = begin(jax.random.key(0))
    >>> for _ in range(3):
    ...     env_state, result = env_step(env_state, jnp.array([1, 1]))
    ...     print(result.terminated, result.valid)
    [False False] [ True  True]
    [ True  True] [ True  True]
    [False False] [False False]
    """
    limit = jax_env.step_limit if step_limit is None else step_limit
    if num_envs < 1 or (limit or 0) < 0:
        raise UserError(f"autoreset: num_envs={num_envs} must be at least 1, step_limit={limit} at least 0")

    def begin_one(key: Array) -> tuple[AutoresetState, Any]:
        state = jax_env.reset(derive_key(key, 0, 0))
        return AutoresetState(state, jnp.bool_(False), jnp.int32(0), jnp.int32(0), key), jax_env.observe(state)

    def step_one(env: AutoresetState, action: Array) -> tuple[AutoresetState, StepResult[Array]]:
        resets = env.needs_reset
        episode, num_steps = env.episode + resets, jnp.where(resets, 0, env.num_steps + 1)
        key = derive_key(env.key, episode, num_steps)  # num_steps is 0 only where the env resets itself
        stepped, reward, terminated = jax_env.step(key, env.state, action)
        first = jax_env.reset(key)
        state = jax.tree.map(lambda x, y: jnp.where(resets, x, y), first, stepped)
        at_limit = (num_steps == limit) & ~resets if limit else jnp.bool_(False)
        terminated = ~resets & terminated | at_limit & limit_terminates
        truncated = at_limit & ~terminated
        reward = jnp.where(resets, 0, reward).astype(float)
        env = AutoresetState(state, terminated | truncated, num_steps, episode, env.key)
        return env, StepResult(jax_env.observe(state), reward, terminated, truncated, ~resets)

    def begin(key: Array) -> tuple[AutoresetState, Any]:
        return jax.vmap(begin_one)(jax.random.split(key, num_envs))

    return begin, jax.vmap(step_one)


def on_host(env_step: EnvStep, env_state: AutoresetState) -> Callable[[Any, Any], tuple[tuple[()], StepResult[Array]]]:
    """Returns a `step` like a HostEnv's: it keeps the state of the envs itself, and takes and returns ().

    Args:
      env_step, env_state: of `autoreset`.
    """
    compiled_step = jax.jit(env_step)

    def step(_: Any, action: Any) -> tuple[tuple[()], StepResult[Array]]:
        nonlocal env_state
        env_state, result = compiled_step(env_state, np.asarray(action))
        return (), jax.tree.map(lambda x: jnp.array(np.asarray(x)), result)  # through NumPy, as from an emulator

    return step
