"""Every shared type, and no logic.

Shapes: B envs, A actions, S states, K successors of a state-action pair, T slots of a ring, N transitions of a batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
Scalar = jax.Array | float  # one number, which may be traced


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
    bootstrap_index: Array  # [N, L] int32 in 0 .. L, index of the observation m steps later
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
