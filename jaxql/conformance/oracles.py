"""Slow oracles: the TD errors and returns of one row of a trajectory, in float64, as loops over their definitions."""

from typing import Any

import numpy as np

from jaxql.conformance.trajectories import LENGTH, Trajectory

BOOTSTRAPS = {  # of: (trajectory, t) -> (value that the error belongs to, value that follows)
    "values": lambda x, t: (x.values[t], x.values[t + 1]),
    "q_learning": lambda x, t: (x.q_values[t, x.actions[t]], x.q_values[t + 1].max()),
    "sarsa": lambda x, t: (x.q_values[t, x.actions[t]], x.q_values[t + 1, x.actions[t + 1]]),
}


def td_error(x: Trajectory, t: int, of: str = "values") -> float:
    """TD error of row t: r_t + (0 if terminated else gamma) * later - now, with (now, later) by `of`.

    Source: Sutton & Barto (2018), equations 6.5, 6.7 and 6.8, http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql.conformance.trajectories import without_boundaries
    >>> x = without_boundaries(np.random.default_rng(0))
    >>> bool(td_error(x, 0) == x.reward[0] + x.gamma * x.values[1] - x.values[0])
    True
    """
    now, later = BOOTSTRAPS[of](x, t)
    return x.reward[t] + (0.0 if x.terminated[t] else x.gamma * later) - now


def n_step_return(x: Trajectory, t: int, n: int) -> float:
    """n-step return of row t: sum_{i < m} gamma**i r_{t+i} + gamma**m values[t + m], m <= n up to the first boundary.

    Source: Sutton & Barto (2018), equation 7.4, http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql.conformance.trajectories import without_boundaries
    >>> x = without_boundaries(np.random.default_rng(0))
    >>> bool(n_step_return(x, 0, 1) == td_error(x, 0) + x.values[0])
    True
    """
    total = 0.0
    for m in range(n):
        total += x.gamma**m * x.reward[t + m]
        if x.terminated[t + m]:
            break
        if x.truncated[t + m] or m + 1 == n or t + m + 1 == LENGTH or not x.valid[t + m + 1]:
            total += x.gamma ** (m + 1) * x.values[t + m + 1]
            break
    return total


def lambda_return(x: Trajectory, t: int, lambda_: Any) -> float:
    """Lambda-return of row t: r_t + gamma * ((1 - lambda_t) values[t + 1] + lambda_t G_{t+1}), cut at every boundary.

    Source: Sutton & Barto (2018), equation 12.18, http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql.conformance.trajectories import without_boundaries
    >>> x = without_boundaries(np.random.default_rng(0))
    >>> bool(lambda_return(x, 0, 0.0) == n_step_return(x, 0, 1))
    True
    """
    if x.terminated[t]:
        return x.reward[t]
    weight = np.broadcast_to(lambda_, LENGTH)[t]
    continued = not x.truncated[t] and t + 1 < LENGTH and x.valid[t + 1]
    later = lambda_return(x, t + 1, lambda_) if continued and weight else x.values[t + 1]
    return x.reward[t] + x.gamma * ((1 - weight) * x.values[t + 1] + weight * later)
