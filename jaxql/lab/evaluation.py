"""Full episodes with a policy, apart from training."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.lab.cards import html_card, text_card
from jaxql.lab.environments import Env, EnvMaker, is_compiled
from jaxql.types import Agent, Array

STEP_CAP = 27_000  # env steps an env: the 108,000 frames of Atari's customary limit
ENVS_AT_ONCE = 100  # of an evaluation on the host; more episodes are played in turns
PART = 1_024  # vector steps of one call of the compiled program


class Evaluation(NamedTuple):
    """Raw returns of full episodes, each played in an env of its own."""

    returns: np.ndarray  # [episodes]
    lengths: np.ndarray  # [episodes]
    capped: np.ndarray  # [episodes] bool: cut by the step cap or by the env's own time limit
    distinct: int  # episodes whose actions and rewards differ from all others'

    def summary(self) -> dict[str, Any]:
        """Returns the numbers that `jaxql evaluate --json` prints."""
        return {
            "episodes": len(self.returns),
            "distinct": self.distinct,
            "mean": float(np.mean(self.returns)),
            "std": float(np.std(self.returns)),
            "min": float(np.min(self.returns)),
            "max": float(np.max(self.returns)),
            "mean_length": float(np.mean(self.lengths)),
            "capped": int(np.sum(self.capped)),
            "step_cap": STEP_CAP,
        }

    def card(self) -> tuple[str, dict[str, str]]:
        """Returns (title, rows) of the summary, for people."""
        numbers = self.summary()
        error = numbers["std"] / math.sqrt(len(self.returns))
        return f"{numbers['episodes']} episodes ({self.distinct} distinct)", {
            "mean return": f"{numbers['mean']:.2f} +- {error:.2f} (standard error)",
            "range": f"{numbers['min']:g} to {numbers['max']:g}",
            "mean length": f"{numbers['mean_length']:.1f}",
            "cut at a step limit": str(numbers["capped"]),
        }

    def __repr__(self) -> str:
        return text_card(*self.card())

    def _repr_html_(self) -> str:
        return html_card(*self.card())


class Rows(NamedTuple):
    """The play of B envs over T vector steps. Rows after the end of an env's first episode do not count."""

    action: Any  # [T, B]
    reward: Any  # [T, B]
    terminated: Any  # [T, B]
    truncated: Any  # [T, B]


class EvaluationStopped(Exception):
    """An evaluation was given up, for it was told to stop."""


class Evaluator:
    """Plays one full episode in every env with an agent's policy; the others wait until all are done.

    With JAX envs the play is one compiled program, which serves all later envs of the same kind and number.

    Args:
      agent: its `policy` is used.
      stop: asked now and then; a true answer ends an evaluation.

    Raises:
      EvaluationStopped: `stop` said so.
    """

    def __init__(self, agent: Agent, stop: Callable[[], bool] = lambda: False):
        self._policy, self._stop = agent.policy, stop
        self._step: Callable | None = None  # of the first JAX envs

    def __call__(
        self, params: Any, env: Env, key: Array, *, epsilon: float = 0.0, step_cap: int = STEP_CAP
    ) -> Evaluation:
        """Returns the evaluation of one full episode in every env.

        Args:
          params: of the policy.
          env: envs without life-loss ends, so that episodes are full games; it is reset first.
          key: of the policy's random numbers (ties, epsilon).
          epsilon: probability of a random action.
          step_cap: an episode that goes on after so many steps is cut, and counted as capped.
        """
        return _judge([self.play(params, env, key, epsilon=epsilon, step_cap=step_cap)])

    def play(self, params: Any, env: Env, key: Array, *, epsilon: float = 0.0, step_cap: int = STEP_CAP) -> Rows:
        """Returns the rows of such an evaluation."""
        if not is_compiled(env):
            return _play_on_host(self._policy, self._stop, params, env, key, epsilon, step_cap)
        step = self._step = self._step or env.step
        return _play_compiled(self._policy, step, self._stop, params, env, key, epsilon, step_cap)


def evaluate(agent: Agent, params: Any, env: Env, key: Array, **options: Any) -> Evaluation:
    """Returns `Evaluator(agent)(params, env, key, **options)`."""
    return Evaluator(agent)(params, env, key, **options)


def evaluate_in_turns(
    agent: Agent, params: Any, make_env: EnvMaker, episodes: int, seed: int, turn: int = ENVS_AT_ONCE
) -> Evaluation:
    """Returns the evaluation of full episodes of which at most `turn` are played at a time.

    Episode i has the seed of env i, whatever the turns. Envs that are JAX programs all play together.

    Args:
      agent: its `policy` is used.
      params: of the policy.
      make_env: an `EnvMaker`.
      episodes: how many.
      seed: of the episodes and of the policy's random numbers.
      turn: the most envs at a time.
    """
    evaluator, parts, first = Evaluator(agent), [], 0
    while first < episodes:
        count = episodes if make_env.is_compiled else min(turn, episodes - first)
        first_env: dict[str, Any] = {"first_env": first} if first else {}
        env = make_env(count, seed=seed, purpose="evaluate", **first_env)
        try:
            parts.append(evaluator.play(params, env, jax.random.key(seed)))
        finally:
            env.close()
        first += count
    return _judge(parts)


def _judge(parts: Sequence[Rows]) -> Evaluation:
    """Returns the evaluation of the episodes of several turns."""
    judged = [_judge_turn(rows) for rows in parts]
    returns, lengths, capped = map(np.concatenate, zip(*(numbers for numbers, _ in judged), strict=True))
    return Evaluation(returns, lengths, capped, len(set().union(*(stories for _, stories in judged))))


def _judge_turn(rows: Rows) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], set[tuple[bytes, bytes]]]:
    """Returns ((returns, lengths, capped), the different stories of actions and rewards)."""
    over = rows.terminated | rows.truncated  # [T, B]
    finished = over.any(axis=0)
    lengths = np.where(finished, over.argmax(axis=0) + 1, len(over))
    counts = np.arange(len(over))[:, None] < lengths
    returns = np.where(counts, rows.reward, 0).sum(axis=0, dtype=np.float64)
    capped = ~finished | rows.truncated[lengths - 1, np.arange(len(lengths))]
    actions, rewards = np.ascontiguousarray(rows.action.T), np.ascontiguousarray(rows.reward.T)
    stories = {(actions[i, :n].tobytes(), rewards[i, :n].tobytes()) for i, n in enumerate(lengths)}
    return (returns, lengths, capped), stories


def _first_memory(policy: Callable, params: Any, obs: Any, key: Array) -> Any:
    """Returns the memory of a policy at the start of an episode: zeros of its shape."""
    memory = jax.eval_shape(lambda *args: policy(*args)[1], params, obs, (), key)
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), memory)


def _play_on_host(
    policy: Callable, stop: Callable[[], bool], params: Any, env: Any, key: Array, epsilon: float, step_cap: int
) -> Rows:
    obs = env.reset()
    env.take_episodes()
    memory, going, played = _first_memory(policy, params, obs, key), np.ones(env.spec.num_envs, bool), []
    for t in range(step_cap):
        _check_stop(stop)
        action, memory = _act(policy, params, obs, memory, key, t, epsilon)
        action = np.asarray(action)  # also waits until obs has been read: its memory may be the emulator's
        obs, reward, terminated, truncated, _ = env.tick(action, idle=~going)
        played.append(Rows(action, reward, terminated, truncated))
        going &= ~(terminated | truncated)
        if not going.any():
            break
    return Rows(*map(np.stack, zip(*played, strict=True)))


def _check_stop(stop: Callable[[], bool]) -> None:
    if stop():
        raise EvaluationStopped


@functools.partial(jax.jit, static_argnames="policy")
def _act(policy, params, obs, memory, key, t, epsilon):
    return policy(params, obs, memory, jax.random.fold_in(key, t), epsilon)


def _play_compiled(
    policy: Callable,
    step: Callable,
    stop: Callable[[], bool],
    params: Any,
    env: Any,
    key: Array,
    epsilon: float,
    step_cap: int,
) -> Rows:
    obs = env.reset()
    memory, going = _first_memory(policy, params, obs, key), np.ones(env.spec.num_envs, bool)
    state, parts, played = (env.state, obs, memory, going), [], 0
    while played < step_cap and np.any(state[-1]):
        _check_stop(stop)
        state, rows, count = _play_part(policy, step, params, state, key, epsilon, played, min(PART, step_cap - played))
        parts.append(jax.tree.map(lambda x, count=int(count): np.asarray(x)[:count], rows))
        played += int(count)
    env.check(state[0])
    return Rows(*map(np.concatenate, zip(*parts, strict=True)))


@functools.partial(jax.jit, static_argnames=("policy", "step"))
def _play_part(policy, step, params, state, key, epsilon, start, limit):
    """Returns (state, rows [PART, B], count): up to `limit` vector steps, until no env is in its first episode."""

    def one(state, t):
        env, obs, memory, going = state
        action, memory = policy(params, obs, memory, jax.random.fold_in(key, start + t), epsilon)
        env, (obs, reward, terminated, truncated, _) = step(env, action)
        return (env, obs, memory, going & ~(terminated | truncated)), Rows(action, reward, terminated, truncated)

    def body(loop):
        t, state, rows = loop
        state, row = one(state, t)
        return t + 1, state, jax.tree.map(lambda stored, x: stored.at[t].set(x), rows, row)

    shapes = jax.eval_shape(one, state, 0)[1]
    rows = jax.tree.map(lambda x: jnp.zeros((PART, *x.shape), x.dtype), shapes)
    going_on = lambda loop: (loop[0] < limit) & jnp.any(loop[1][-1])  # noqa: E731
    count, state, rows = jax.lax.while_loop(going_on, body, (jnp.int32(0), state, rows))
    return state, rows, count
