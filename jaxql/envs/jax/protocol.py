"""The protocol of an env that is a JAX program: pure functions of one episode."""

from typing import Any, NamedTuple, Protocol

import jax

from jaxql.types import MDP, EnvSpec


class ResetFunction(Protocol):
    """Draws the first state of an episode."""

    def __call__(self, key: jax.Array, /) -> Any:
        """Returns the first state, any pytree of arrays, drawn with `key`."""
        ...


class StepFunction(Protocol):
    """Takes one step of an episode."""

    def __call__(self, key: jax.Array, state: Any, action: jax.Array, /) -> tuple[Any, Any, Any]:
        """Takes `action`, an int32 scalar, in `state`.

        Returns:
          (state, reward, terminated): the next state, of the same shapes and dtypes; two scalars.
        """
        ...


class ObserveFunction(Protocol):
    """Shows a state to the agent."""

    def __call__(self, state: Any, /) -> Any:
        """Returns the observation, any pytree of arrays, of a state."""
        ...


def observe_state(state: Any, /) -> Any:
    """Returns the state itself: the agent sees all of it."""
    return state


class JaxEnv(NamedTuple):
    """An env as pure functions of one episode; `autoreset` makes a batch of endless envs of it.

    They must work under `jit` and `vmap`.
    """

    reset: ResetFunction  # (key) -> state
    step: StepFunction  # (key, state, action) -> (state, reward, terminated)
    num_actions: int
    num_states: int | None = None  # where observations are indices of states
    step_limit: int | None = None  # an episode is truncated after so many steps
    observe: ObserveFunction = observe_state  # (state) -> observation
    mdp: MDP | None = None  # the same env as a finite model, if it is known

    def spec(self, num_envs: int) -> EnvSpec:
        """Returns the EnvSpec that agents are made for.

        Args:
          num_envs: the number of copies of this env.

        >>> from jaxql.envs.jax import catch
        >>> catch().spec(8).obs
        ShapeDtypeStruct(shape=(8,), dtype=int32)
        """
        obs = jax.eval_shape(lambda key: self.observe(self.reset(key)), jax.random.key(0))
        obs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_envs, *x.shape), x.dtype), obs)
        return EnvSpec(obs=obs, num_actions=self.num_actions, num_envs=num_envs, num_states=self.num_states)
