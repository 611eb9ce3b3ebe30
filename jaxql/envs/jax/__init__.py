"""Envs that are JAX programs: they run inside `jit`, `vmap` and `lax.scan`."""

from jaxql.envs.jax.autoreset import AutoresetState as AutoresetState, autoreset as autoreset, on_host as on_host
from jaxql.envs.jax.device import DeviceEnv as DeviceEnv
from jaxql.envs.jax.gymnax import from_gymnax as from_gymnax
from jaxql.envs.jax.mdp import from_mdp as from_mdp, to_mdp as to_mdp
from jaxql.envs.jax.minatar import make_minatar as make_minatar
from jaxql.envs.jax.protocol import JaxEnv as JaxEnv
from jaxql.envs.jax.small_envs import (
    cartpole as cartpole,
    catch as catch,
    catch_mdp as catch_mdp,
    deep_sea as deep_sea,
    deep_sea_mdp as deep_sea_mdp,
    memory_chain as memory_chain,
)
