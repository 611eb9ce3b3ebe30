"""Every shared type, and no logic.

Shapes: B envs, A actions, S states, K successors of a state-action pair, T slots of a ring, N rows of a batch.
"""

from collections.abc import Callable, Sequence as SequenceOf
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import jax
import numpy as np

Array = jax.Array
Scalar = jax.Array | float  # one number, which may be traced
ArrayT = TypeVar("ArrayT")  # jax.Array or numpy.ndarray


class Step(NamedTuple):
    """One vector step of B envs under NEXT_STEP autoreset.

    `next_obs` is the `obs` of the next step, true final observations included.
    """

    obs: Any  # [B, ...] pytree that was acted upon; may be {"observation", "action_mask"}
    action: Array  # [B] int32, 0 <= action < A
    reward: Array  # [B]
    terminated: Array  # [B] the task ended (a life loss counts, if asked for): never bootstrap past it
    truncated: Array  # [B] the clock ended: bootstrap
    next_obs: Any  # [B, ...] the true successor
    valid: Array  # [B] False only in the row of an env that resets itself
    extra: Any = ()  # what act attached: recurrent state, behaviour probability


class Transition(NamedTuple):
    """A row of a batch: up to n steps as one."""

    obs: Any  # [N, ...]
    action: Array  # [N]
    reward: Array  # [N] discounted sum over the m <= n steps taken
    discount: Array  # [N] gamma**m, or 0 past a termination
    next_obs: Any  # [N, ...] the observation m steps later
    weight: Array  # [N] importance of the row in the loss; 0 where nothing valid could be drawn
    index: Any = ()  # [N] where a prioritised replay keeps the rows


class Sequence(NamedTuple):
    """A row of a recurrent batch: L consecutive rows of one env, and n-step returns within them."""

    obs: Any  # [N, L + 1, ...] the last one follows the last row
    action: Array  # [N, L]
    reward: Array  # [N, L] discounted sum over the m <= n steps taken
    discount: Array  # [N, L] gamma**m, or 0 past a termination
    bootstrap_index: Array  # [N, L] int32 in 0 .. L, index of the observation m steps later
    valid: Array  # [N, L] a row that is not does not count, and memory restarts after it
    memory: Any  # [N, ...] before the first observation
    weight: Array  # [N] importance of the sequence in the loss; 0 where nothing valid could be drawn
    index: Any = ()  # [N] where a prioritised replay keeps them


class AddFn(Protocol):
    """Stores a step."""

    def __call__(self, ring: Any, step: Step, /) -> Any:
        """Returns the ring with one more vector step; donate the ring and it is written in place."""
        ...


class SampleFn(Protocol):
    """Draws rows."""

    def __call__(self, ring: Any, key: Array, batch_size: int, gamma: Any, beta: Any = 0.0, n: Any = None, /) -> Any:
        """Returns a Transition or a Sequence of N rows, weighed by their odds to the power -beta.

        A given n shortens n-step windows; it may be traced.
        """
        ...


class UpdateFn(Protocol):
    """Changes priorities."""

    def __call__(self, ring: Any, index: Array, errors: Array, exponent: Any, /) -> Any:
        """Returns the ring with new priorities of the rows at `index` [N], from their errors [N]."""
        ...


class Replay(NamedTuple):
    """A store of Steps on the device, as pure functions."""

    init: Callable[[Step], Any]  # (first Step) -> ring; buffers take shapes and dtypes from it
    add: AddFn
    sample: SampleFn
    update: UpdateFn | None = None  # None where draws are uniform


class Backup(NamedTuple):
    """The answer of a backup; see `jaxql.losses.backups`. None stands for zeros."""

    policy: Array  # [N, A] at next_obs
    shift: Array | None = None  # [N, A] added to the value of each next action
    bonus: Array | None = None  # [N] added to the reward


class BackupRule(Protocol):
    """A target rule: it answers the action values around a transition with a `Backup`."""

    def __call__(self, values: Any, /) -> Backup:
        """Returns the backup; `values` is a `jaxql.losses.backups.ActionValues`."""
        ...


class FullQuantiles(NamedTuple):
    """The output of a network that proposes fractions 0 = edges_0 < edges_1 < ... < edges_K = 1."""

    values: Array  # [N, A, K] the quantile function at the midpoints between edges
    edges: Array  # [N, K + 1]
    at_edges: Array  # [N, A, K - 1] the quantile function at the inner edges


class Head(NamedTuple):
    """The meaning of a network's output: how it becomes a value, a target and a loss.

    An output is an array or a tuple of arrays with a leading axis [N].
    """

    outputs: int | None  # numbers that the network gives for each action; None: one, without an axis of its own
    q_values: Callable[[Any], Array]  # (output) -> [N, A] what is maximised; illegal actions, all -inf, are worth -inf
    target: Callable[
        [Any, Backup, Array, Array], Any
    ]  # (output at next_obs, backup, reward [N], discount [N]) -> target
    loss: Callable[[Any, Array, Any], Array]  # (output at obs, action [N], target) -> [N]
    mean: Callable[[Any], Array] | None = None  # (output) -> [N, A] expected returns, where q_values measure risk
    priority: Callable[[Any, Array, Any], Array] | None = None  # (as `loss`) -> [N]; None: the TD errors
    fractions: int = 0  # above 0: the network evaluates quantiles at so many fractions
    proposes: bool = False  # the network proposes these fractions; else it draws them


class ApplyFn(Protocol):
    """Evaluates a network."""

    def __call__(self, params: Any, obs: Any, memory: Any = (), key: Any = None) -> tuple[Any, Any]:
        """Returns (output, memory) for observations [N, ...].

        The output is action values [N, A], or what a head reads. Zeros, or (), are the memory of an episode's start. A
        key is for networks that draw noise or fractions.
        """
        ...


class Network(NamedTuple):
    """Any pair of pure functions: flax's, haiku's or hand-written."""

    init: Callable[..., Any]  # (key, obs) -> params
    apply: ApplyFn


class ActFn(Protocol):
    """Acts and explores."""

    def __call__(self, state: Any, obs: Any, /) -> tuple[Array, Any]:
        """Returns actions [B] int32, and an `extra` that is stored with the row."""
        ...


class LearnFn(Protocol):
    """Learns for a round."""

    def __call__(self, state: Any, /) -> tuple[Any, dict[str, Array]]:
        """Returns the state after all updates of a round, and their metrics [gradient_steps].

        The state may be donated.
        """
        ...


class PolicyFn(Protocol):
    """Acts as the agent does when it is evaluated."""

    def __call__(self, params: Any, obs: Any, memory: Any, key: Array, epsilon: Any = 0.0, /) -> tuple[Array, Any]:
        """Returns actions [B] and the memory after `obs`; zeros, or (), are the memory of an episode's start."""
        ...


class ValuesFn(Protocol):
    """Evaluates actions as the policy does."""

    def __call__(self, params: Any, obs: Any, memory: Any, /) -> tuple[Array, Any]:
        """Returns action values [B, A] and the memory after `obs`; illegal actions are worth -inf."""
        ...


class Agent(NamedTuple):
    """Pure functions of one immutable state."""

    init: Callable[..., Any]  # (key, obs, hyper) -> state
    act: ActFn
    observe: Callable[[Any, Step], Any]  # (state, Step) -> state; the state may be donated
    learn: LearnFn
    policy: PolicyFn
    learns_last: bool = False  # True for table and on-policy agents: they learn from the rows just observed
    q_values: ValuesFn | None = None  # None: an agent that has no action values to show


class MDP(NamedTuple):
    """A finite model with K successors a state-action pair: dense (K = S) and sparse models alike.

    `jaxql.planning.check_mdp` says which actions it takes for illegal, beside those of `legal`.
    """

    next_state: Array  # [S, A, K] int32
    probability: Array  # [S, A, K] sums to 1 over K; a successor that pads has probability 0
    reward: Array  # [S, A, K]
    ends: Array  # [S, A, K] bool: the transition terminates, whatever its next_state is worth
    start: Array  # [S] distribution of the first state
    step_limit: int | None = None  # an episode is truncated after so many steps
    legal: Array | None = None  # [S, A] bool: the actions that a state has; None: all


class EnvSpec(NamedTuple):
    """The facts about its envs that an agent must know."""

    obs: Any  # pytree of jax.ShapeDtypeStruct, [B, ...] each
    num_actions: int
    num_envs: int
    num_states: int | None = None  # where observations are indices of states
    stack: int = 1  # above 1, obs is [B, stack, ...], newest last, of which replay stores the newest only


class StepResult(NamedTuple, Generic[ArrayT]):
    """The result of one step of B envs under NEXT_STEP autoreset. Fields are those of `Step`."""

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

    @property
    def render_fps(self) -> float | None:
        """Frames a second at which the env is meant to be shown, or None if it does not say."""
        ...

    @property
    def step_limit(self) -> int | None:
        """Steps after which the env ends an episode, or None if it has no limit that is known."""
        ...

    def reset(self) -> Any:
        """Starts the next episode of every env and returns the observations [B, ...]."""
        ...

    def skip_resets(self, count: int) -> None:
        """Leaves out the episodes that the next `count` calls of `reset` would start."""
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
