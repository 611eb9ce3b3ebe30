"""Signs that a run has failed: numbers that are not finite, and action values beyond what rewards allow."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.agents.state import State
from jaxql.errors import UserError
from jaxql.types import Array, Episode

FINITE = ("loss", "gradient_norm", "q_mean")  # metrics that must be
TOLERANCE = 100.0  # times what the rewards allow that action values may reach


class Signs(NamedTuple):
    """Signs of health in the state of an agent."""

    finite: Array  # bool: whether all parameters are
    reward: Array  # greatest absolute value of the rewards that it holds


def signs_of(state: State) -> Signs:
    """Returns the signs of a state; a pure function."""
    numbers = [x for x in jax.tree.leaves(state.params) if jnp.issubdtype(x.dtype, jnp.inexact)]
    finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in numbers] or [True]))
    stored = jax.tree_util.tree_flatten_with_path(state.data)[0]
    rewards = [x for path, x in stored if path and getattr(path[-1], "name", None) == "reward" and x.size]
    return Signs(finite, jnp.max(jnp.array([jnp.max(jnp.abs(x)) for x in rewards] or [0.0])))


class Health:
    """Checks one seed's run at the end of every chunk.

    Action values diverge when their mean over a batch exceeds 100 times the greatest of: 1, its first value, the
    greatest return of an episode, and max |r| / (1 - gamma). At gamma 1 that is max |r| times the longest episode.

    Args:
      discounts: gamma, or all values between which it moves.
      signs: of the state in which the run begins.
    """

    def __init__(self, discounts: Sequence[float], signs: Signs):
        self._discount, self._finite = max(discounts), bool(signs.finite)
        self._reward = self._return = 0.0
        self._longest = 1
        self._first: float | None = None  # the first mean action value

    def numbers(self) -> list[float]:
        """Returns what was noted so far, for `restore`."""
        first = math.nan if self._first is None else self._first
        return [self._finite, self._reward, self._return, self._longest, first]

    def restore(self, numbers: Sequence[float]) -> None:
        """Goes on from the `numbers` of another one."""
        finite, self._reward, self._return, longest, first = map(float, numbers)
        self._finite, self._longest = bool(finite), int(longest)
        self._first = None if math.isnan(first) else first

    def problem(self, metrics: dict[str, np.ndarray], episodes: Sequence[Episode], signs: Signs) -> str | None:
        """Returns what is wrong, in a few words, or None.

        Args:
          metrics: of the chunk, leaves [rounds, gradient_steps].
          episodes: those that finished in the chunk.
          signs: of the state at its end.
        """
        if not np.isfinite(signs.reward) or not all(math.isfinite(each.return_) for each in episodes):
            return "a reward is not finite"
        for name in FINITE:
            if not np.all(np.isfinite(metrics.get(name, 0.0))):
                return f"the {name} is not finite"
        if self._finite and not signs.finite:
            return "the parameters are not finite"
        self._reward = max(self._reward, float(signs.reward))
        self._return = max([self._return, *(abs(each.return_) for each in episodes)])
        self._longest = max([self._longest, *(each.length for each in episodes)])
        return self._divergence(np.abs(metrics["q_mean"])) if "q_mean" in metrics else None

    def _divergence(self, values: np.ndarray) -> str | None:
        if self._first is None and np.any(values):
            self._first = float(values[values > 0][0])
        horizon = self._longest if self._discount >= 1 else 1 / (1 - self._discount)
        allowed = max(self._reward * horizon, self._return)
        largest = float(np.max(values, initial=0.0))
        if largest <= TOLERANCE * max(1.0, allowed, self._first or 0.0):
            return None
        return f"the action values diverge (mean {largest:.3g}, where the rewards so far allow about {allowed:.3g})"


def failure(problem: str, env_steps: int, saved: Any) -> UserError:
    """Returns the error that ends the run.

    Args:
      saved: the folder of the checkpoints, all written before; None if there is none.
    """
    kept = f"the checkpoints in {saved} are from before" if saved else "no checkpoint was written"
    return UserError(
        f"{problem} after {env_steps} env steps; lower learning_rate or set max_gradient_norm, or scale the rewards; "
        + kept
    )
