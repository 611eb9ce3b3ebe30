"""Converts Gymnasium observations to an array, a state's index, or {"observation", "action_mask"}."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.vector import FlattenObservation

from jaxql.errors import UserError

SUPPORTED = 'Box, Discrete, {"observation", "action_mask"}, or what gymnasium.spaces.flatten_space can make a Box of'


class Conversion(NamedTuple):
    """Conversion of raw observations to those that an agent sees."""

    convert: Callable[[Any], Any]  # raw batch -> NumPy arrays [B, ...], which share no memory with the env's
    obs: Any  # the result as `jax.ShapeDtypeStruct`s, [B, ...] each
    num_states: int | None = None  # where observations are indices of states


def adapt_observations(env: VectorEnv, id: str) -> tuple[VectorEnv, Conversion]:
    """Returns the vector env, in a flattening wrapper if it needs one, and the conversion of its observations.

    - Box keeps its shape. Its dtype stays too, except that floats become the default JAX float.
    - Discrete becomes int32 indices 0..n-1, whatever its start, and num_states is n.
    - A Dict of exactly "observation" (Box or Discrete) and "action_mask" (one entry an action) stays a dict. The mask
      becomes bool.
    - Any other space is flattened to a Box by Gymnasium.

    Args:
      env: the vector env.
      id: its name in messages.

    Raises:
      UserError: one line, if the space is not supported.
    """
    space = env.single_observation_space
    if isinstance(space, spaces.Dict) and set(space.spaces) == {"observation", "action_mask"}:
        return env, _with_mask(space, env, id)
    if not isinstance(space, spaces.Box | spaces.Discrete):
        try:
            env = FlattenObservation(env)
        except (NotImplementedError, TypeError, ValueError, AttributeError):
            raise UserError(f"{id}: observations of {space} are not supported; they may be {SUPPORTED}") from None
        space = env.single_observation_space
    if not isinstance(space, spaces.Box | spaces.Discrete):
        raise UserError(f"{id}: observations of {space} are not supported; they may be {SUPPORTED}")
    return env, _without_mask(space, env.num_envs)


def _without_mask(space: spaces.Box | spaces.Discrete, num_envs: int) -> Conversion:
    if isinstance(space, spaces.Discrete):
        start = space.start
        indices = jax.ShapeDtypeStruct((num_envs,), jnp.int32)
        return Conversion(lambda obs: (np.asarray(obs) - start).astype(np.int32), indices, int(space.n))
    wanted = jnp.result_type(float) if np.issubdtype(space.dtype, np.floating) else space.dtype
    dtype = jax.dtypes.canonicalize_dtype(wanted)

    def convert(obs: Any) -> np.ndarray:
        with np.errstate(over="ignore"):  # an overflow gives infinity, which the caller refuses
            return np.array(obs, dtype=dtype)

    return Conversion(convert, jax.ShapeDtypeStruct((num_envs, *space.shape), dtype))


def _with_mask(space: spaces.Dict, env: VectorEnv, id: str) -> Conversion:
    inner, mask, actions = space["observation"], space["action_mask"], env.single_action_space
    if not isinstance(inner, spaces.Box | spaces.Discrete):
        raise UserError(
            f'{id}: beside an "action_mask", observations of {inner} are not supported; use Box or Discrete'
        )
    if mask.shape is None or isinstance(actions, spaces.Discrete) and mask.shape != (actions.n,):
        raise UserError(f"{id}: its action_mask has shape {mask.shape}, and its actions are {actions}")
    convert, obs, num_states = _without_mask(inner, env.num_envs)

    def convert_both(both: dict[str, Any]) -> dict[str, np.ndarray]:
        return {"observation": convert(both["observation"]), "action_mask": np.array(both["action_mask"], dtype=bool)}

    both = {"observation": obs, "action_mask": jax.ShapeDtypeStruct((env.num_envs, *mask.shape), bool)}
    return Conversion(convert_both, both, num_states)
