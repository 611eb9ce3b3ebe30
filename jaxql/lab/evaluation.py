"""Playing full episodes with a policy, apart from training."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxql import planning
from jaxql.errors import UserError
from jaxql.types import Agent

STEP_CAP = 27_000  # env steps an env: the 108,000 frames of Atari's customary limit


class Evaluation(NamedTuple):
    """Raw returns of full episodes, each played in an env of its own."""

    returns: np.ndarray  # [episodes]
    lengths: np.ndarray  # [episodes]
    capped: np.ndarray  # [episodes] bool: cut by the step cap or by the env's own time limit
    distinct: int  # episodes whose actions and rewards differ from all others'

    def summary(self) -> dict[str, Any]:
        """The numbers that `jaxql evaluate --json` prints."""
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


def evaluate(agent: Agent, params, env, key, *, epsilon: float = 0.0, step_cap: int = STEP_CAP) -> Evaluation:
    """Plays one full episode in every env of `env`, a HostEnv, and leaves the others waiting until all are done.

    Args:
      agent: its `policy` is used.
      params: of the policy.
      env: envs without life-loss ends, so that episodes are full games.
      key: of the policy's random numbers (ties, epsilon).
      epsilon: probability of a random action.
      step_cap: an episode that is still going on after so many steps is cut, and counted as capped.
    """
    obs, memory, num_envs = env.reset(), (), env.spec.num_envs
    env.take_episodes()
    going, capped = np.ones(num_envs, bool), np.zeros(num_envs, bool)
    returns, lengths, played = np.zeros(num_envs), np.zeros(num_envs, int), []
    for tick in range(step_cap):
        action, memory = _act(agent.policy, params, obs, memory, key, tick, epsilon)
        action = np.asarray(action)  # also waits until obs has been read: its memory may be the emulator's
        obs, reward, terminated, truncated, _ = env.tick(action, idle=~going)
        played.append((action, reward))
        returns += np.where(going, reward, 0)
        lengths += going
        capped |= going & truncated
        going &= ~(terminated | truncated)
        if not going.any():
            break
    actions, rewards = (np.stack(x, axis=1) for x in zip(*played, strict=True))  # [envs, ticks]
    stories = {(actions[w, :n].tobytes(), rewards[w, :n].tobytes()) for w, n in enumerate(lengths)}
    return Evaluation(returns, lengths, capped | going, len(stories))


@functools.partial(jax.jit, static_argnames="policy")
def _act(policy, params, obs, memory, key, tick, epsilon):
    return policy(params, obs, memory, jax.random.fold_in(key, tick), epsilon)


def exact_report(mdp, q_values) -> str:
    """What the greedy policy of a table is worth on the true model, beside the best possible, as one line."""
    policy = planning.greedy_policy(q_values, tie="uniform")
    try:
        name, worth = "success probability", planning.success_probability(mdp, policy)
    except UserError:  # not a model of success and failure
        name = f"mean return over all {int(np.sum(np.asarray(mdp.start) > 0))} starts"
        worth = planning.expected_return(mdp, policy)
    best = planning.best_return(mdp)
    return f"exact {name} of the greedy policy: {float(worth):.3f}; best possible: {float(best):.3f}"
