"""Every shared type, and no logic.

Shapes: B envs, A actions, S states, K successors of a state-action pair, T slots of a ring, N transitions of a batch.
"""

from collections.abc import Callable, Sequence as SequenceOf
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import jax
import numpy as np

Array = jax.Array
ArrayT = TypeVar("ArrayT")  # jax.Array or numpy.ndarray


class Step(NamedTuple):
    """One tick of B envs under NEXT_STEP autoreset: `next_obs` is the next tick's `obs`, true final ones included."""

    obs: Any  # [B, ...] pytree that was acted upon; may be {"observation", "action_mask"}
    action: Array  # [B] int32, 0 <= action < A
    reward: Array  # [B]
    terminated: Array  # [B] the task ended (a life loss counts, if asked for): never bootstrap past it
    truncated: Array  # [B] the clock ended: bootstrap
    next_obs: Any  # [B, ...] the true successor
    valid: Array  # [B] False only for the tick on which an env resets itself
    extra: Any = ()  # what act attached: recurrent state, behaviour probability


class Transition(NamedTuple):
    """What a loss reads: up to n steps folded into one."""

    obs: Any  # [N, ...]
    action: Array  # [N]
    reward: Array  # [N] discounted sum over the m <= n steps taken
    discount: Array  # [N] gamma**m, or 0 past a termination
    next_obs: Any  # [N, ...] the observation m steps later
    weight: Array  # [N] importance of the row in the loss; 0 where nothing valid could be drawn
    index: Any = ()  # [N] where a prioritised replay keeps the rows


class Sequence(NamedTuple):
    """What the loss of a recurrent network reads: L consecutive rows of one env, and n-step returns within them."""

    obs: Any  # [N, L + 1, ...] the last one follows the last row
    action: Array  # [N, L]
    reward: Array  # [N, L] discounted sum over the m <= n steps taken
    discount: Array  # [N, L] gamma**m, or 0 past a termination
    bootstrap: Array  # [N, L] int32 in 0 .. L, index of the observation m steps later
    valid: Array  # [N, L] a row that is not does not count, and memory restarts after it
    memory: Any  # [N, ...] before the first observation
    weight: Array  # [N] importance of the sequence in the loss; 0 where nothing valid could be drawn
    index: Any = ()  # [N] where a prioritised replay keeps them


class Replay(NamedTuple):
    """A store of Steps on the device, as pure functions."""

    init: Callable  # (first Step) -> ring
    add: Callable  # (ring, Step) -> ring
    sample: Callable  # (ring, key, N, gamma, beta=0., n=None) -> Transition, weighed by its odds to the power -beta
    update: Callable | None = None  # (ring, index, td_errors or losses, alpha) -> ring; None where draws are uniform


class Network(NamedTuple):
    """Any pair of pure functions: flax's, haiku's or hand-written."""

    init: Callable  # (key, obs) -> params
    apply: Callable  # (params, obs, memory=(), key=None) -> (q [..., A], memory); zeros, or (), start an episode


class Agent(NamedTuple):
    """Pure functions of one immutable state."""

    init: Callable  # (key, obs, hyper) -> state
    act: Callable  # (state, obs) -> (action [B], extra); explores
    observe: Callable  # (state, Step) -> state; the state may be donated
    learn: Callable  # (state) -> (state, metrics); the state may be donated
    policy: Callable  # (params, obs, memory, key, epsilon=0.) -> (action [B], memory)
    learns_last: bool = False  # True for table and on-policy agents: they learn from the rows just observed


class MDP(NamedTuple):
    """A finite model with K successors a state-action pair: dense (K = S) and sparse models alike."""

    next_state: Array  # [S, A, K] int32
    probability: Array  # [S, A, K] sums to 1 over K; a successor that pads has probability 0
    reward: Array  # [S, A, K]
    ends: Array  # [S, A, K] bool: the transition terminates, whatever its next_state is worth
    start: Array  # [S] distribution of the first state
    step_limit: int | None = None  # an episode is truncated after so many steps


class EnvSpec(NamedTuple):
    """What an agent must know of its envs."""

    obs: Any  # pytree of jax.ShapeDtypeStruct, [B, ...] each
    num_actions: int
    num_envs: int
    num_states: int | None = None  # where observations are indices of states
    stack: int = 1  # above 1, obs is [B, stack, ...], newest last, of which replay stores the newest only


class StepResult(NamedTuple, Generic[ArrayT]):
    """What one step of B envs returns under NEXT_STEP autoreset. Fields are those of `Step`."""

    next_obs: Any  # [B, ...]
    reward: ArrayT  # [B] 0 where not valid
    terminated: ArrayT  # [B] bool
    truncated: ArrayT  # [B] bool
    valid: ArrayT  # [B] bool, False only for the step on which an env resets itself


class Episode(NamedTuple):
    """A finished episode. A lost life does not finish one."""

    env_index: int
    return_: float  # undiscounted sum of unclipped rewards
    length: int  # steps of the agent


class Env(Protocol):
    """B envs, as a training run drives them. `jaxql.envs.HostEnv` and `jaxql.envs.DeviceEnv` satisfy it.

    Autoreset is NEXT_STEP: an env resets itself at the step after its episode's end, and that step is not valid.
    With S seeds the leading axis [B] of arrays is [S, B / S] in `reset` and `step`. In `tick` and `Episode` it is [B].
    """

    @property
    def id(self) -> str:
        """The name of the env in messages."""
        ...

    @property
    def notes(self) -> SequenceOf[str]:
        """Lines for the person who runs this, such as a version that was replaced."""
        ...

    @property
    def spec(self) -> EnvSpec:
        """The EnvSpec an agent is made for: that of one seed's envs, or of all processes' envs on a mesh."""
        ...

    @property
    def state(self) -> Any:
        """The first argument of the first `step` after a `reset`."""
        ...

    @property
    def mdp(self) -> MDP | None:
        """The env as a finite model, if it has one."""
        ...

    def reset(self) -> Any:
        """Starts the next episode of every env and returns the observations [B, ...]."""
        ...

    def step(self, env_state: Any, action: Any, /) -> tuple[Any, StepResult[Array]]:
        """Steps every env, for the loop.

        Args:
          env_state: `state`, or what the last `step` returned first.
          action: [B] int32.

        Returns:
          (env_state, result), whose arrays are on the device.
        """
        ...

    def tick(self, action: Any, idle: np.ndarray | None = None) -> StepResult[np.ndarray]:
        """Steps every env, for evaluation: flags and rewards are NumPy arrays; observations may be on the device.

        Args:
          action: [B] integers.
          idle: [B] bool, the envs whose results are ignored from now on. They need no reset seed.
        """
        ...

    def take_episodes(self) -> list[Episode]:
        """Returns the episodes that finished since the last call, in order."""
        ...

    def render(self) -> list[np.ndarray]:
        """Returns one RGB frame [H, W, 3] uint8 an env. Raises UserError if the env draws no frames."""
        ...

    def close(self) -> None:
        """Releases the envs. Closing twice is harmless."""
        ...
