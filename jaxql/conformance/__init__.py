"""Checks of anybody's TD errors and returns, NumPy or JAX, against slow float64 oracles, with the broken law by name.

A function under test is given a `Trajectory`: stored rows as an env under NEXT_STEP autoreset leaves them. It answers
a number for each row: a TD error, an n-step return or a lambda-return. Each law has trajectories of its own, in which
little else can go wrong, or changes numbers that must not count and compares the answers. So a report says which law
is broken, not only that a number is off.

In such rows a truncated row is the last, or is followed by a row that is not valid. A function that stops at either
conforms. The `of_...` adapters take functions with rlax's signatures, and builders of windows.

>>> import numpy as np
>>> from jaxql import bellman
>>> check_td_error(of_td_learning(bellman.td_learning)).failures
()
>>> def truncation_as_termination(trajectory):
...     over = trajectory.terminated | trajectory.truncated
...     v_tm1, v_t = trajectory.values[:-1], trajectory.values[1:]
...     error = trajectory.reward + np.where(over, 0, trajectory.gamma) * v_t - v_tm1
...     return np.where(trajectory.valid, error, 0)
>>> check_td_error(truncation_as_termination).failures[0].law
'a truncation is bootstrapped'
"""

from jaxql.conformance import oracles as oracles
from jaxql.conformance.adapters import (
    of_lambda_returns as of_lambda_returns,
    of_lambda_windows as of_lambda_windows,
    of_n_step_returns as of_n_step_returns,
    of_n_step_windows as of_n_step_windows,
    of_q_learning as of_q_learning,
    of_sarsa as of_sarsa,
    of_td_learning as of_td_learning,
)
from jaxql.conformance.checks import (
    Failure as Failure,
    Report as Report,
    assert_conforms as assert_conforms,
    check_lambda as check_lambda,
    check_n_step as check_n_step,
    check_td_error as check_td_error,
)
from jaxql.conformance.trajectories import ACTIONS as ACTIONS, LENGTH as LENGTH, Trajectory as Trajectory
