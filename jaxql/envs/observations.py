"""What an agent is shown of a Gymnasium observation: an array, a state's index, or {"observation", "action_mask"}."""

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.wrappers.vector import FlattenObservation

from jaxql.errors import UserError

SUPPORTED = 'Box, Discrete, {"observation", "action_mask"}, or what gymnasium.spaces.flatten_space can make a Box of'


def adapt_observations(env: VectorEnv, id: str):
    """(env, convert, obs, num_states): how the agent gets to see the observations of a vector env.

    Box keeps its shape and, but for floats, which become the default JAX float, its dtype. Discrete becomes int32
    indices 0..n-1, whatever its start, and num_states = n. A Dict of exactly "observation" (Box or Discrete) and
    "action_mask" (one entry an action) keeps this form, the mask as bool. Everything else is flattened by Gymnasium.

    Returns:
      env: the vector env, perhaps in a flattening wrapper.
      convert: raw batch -> fresh NumPy arrays [B, ...], which share no memory with the env's.
      obs: the same as `jax.ShapeDtypeStruct`s.
      num_states: where observations are indices of states, else None.

    Raises:
      UserError: one line, if there is no way.
    """
    space = env.single_observation_space
    if isinstance(space, spaces.Dict) and set(space.spaces) == {"observation", "action_mask"}:
        return env, *_masked(space, env, id)
    if not isinstance(space, spaces.Box | spaces.Discrete):
        try:
            env = FlattenObservation(env)
        except (NotImplementedError, TypeError, ValueError, AttributeError):
            raise UserError(f"{id}: observations of {space} are not supported; they may be {SUPPORTED}") from None
        space = env.single_observation_space
    if not isinstance(space, spaces.Box | spaces.Discrete):
        raise UserError(f"{id}: observations of {space} are not supported; they may be {SUPPORTED}")
    return env, *_plain(space, env.num_envs)


def _plain(space, num_envs):
    """(convert, obs, num_states) of a Box or Discrete space."""
    if isinstance(space, spaces.Discrete):
        start = space.start
        index = jax.ShapeDtypeStruct((num_envs,), jnp.int32)
        return lambda obs: (np.asarray(obs) - start).astype(np.int32), index, int(space.n)
    wanted = jnp.result_type(float) if np.issubdtype(space.dtype, np.floating) else space.dtype
    dtype = jax.dtypes.canonicalize_dtype(wanted)

    def convert(obs):
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused as such
            return np.array(obs, dtype=dtype)

    return convert, jax.ShapeDtypeStruct((num_envs, *space.shape), dtype), None


def _masked(space, env, id):
    """(convert, obs, None) of {"observation", "action_mask"}: such observations index no table."""
    inner, mask, actions = space["observation"], space["action_mask"], env.single_action_space
    if not isinstance(inner, spaces.Box | spaces.Discrete):
        raise UserError(
            f'{id}: beside an "action_mask", observations of {inner} are not supported; use Box or Discrete'
        )
    if isinstance(actions, spaces.Discrete) and mask.shape != (actions.n,):
        raise UserError(f"{id}: its action_mask has shape {mask.shape}, but it has {actions.n} actions")
    convert, obs, _ = _plain(inner, env.num_envs)

    def convert_both(both):
        return {"observation": convert(both["observation"]), "action_mask": np.array(both["action_mask"], dtype=bool)}

    both = {"observation": obs, "action_mask": jax.ShapeDtypeStruct((env.num_envs, *mask.shape), bool)}
    return convert_both, both, None
