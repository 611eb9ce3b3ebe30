"""Adapters: functions with rlax's signatures, and builders of windows, as functions of a `Trajectory`."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxql import bellman
from jaxql.conformance.trajectories import Trajectory
from jaxql.types import Array

OfTrajectory = Callable[[Trajectory], tuple[Any, np.ndarray]]  # trajectory -> (numbers [T], mask [T])
OfTrajectoryAndSetting = Callable[[Trajectory, Any], tuple[Any, Any]]  # (trajectory, n or lambda) -> (numbers, mask)


def of_td_learning(f: Callable[..., Any]) -> OfTrajectory:
    """Adapts f(v_tm1, r_t, discount_t, v_t) -> errors [T] to `check_td_error(..., "values")`.

    Source: Sutton & Barto (2018), equation 6.5, http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql.conformance import check_td_error
    >>> check_td_error(of_td_learning(bellman.td_learning), "values").failures
    ()
    """

    def errors(x: Trajectory):
        reward, discount = _one_step(x)
        return f(*_arrays(x.values[:-1], reward, discount, x.values[1:])), x.valid

    return errors


def of_q_learning(f: Callable[..., Any]) -> OfTrajectory:
    """Adapts f(q_tm1, a_tm1, r_t, discount_t, q_t) -> errors [T] to `check_td_error(..., "q_learning")`.

    Source: Sutton & Barto (2018), equation 6.8, http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql.conformance import check_td_error
    >>> check_td_error(of_q_learning(bellman.q_learning), "q_learning").failures
    ()
    """

    def errors(x: Trajectory):
        reward, discount = _one_step(x)
        return f(*_arrays(x.q_values[:-1], x.actions[:-1], reward, discount, x.q_values[1:])), x.valid

    return errors


def of_sarsa(f: Callable[..., Any]) -> OfTrajectory:
    """Adapts f(q_tm1, a_tm1, r_t, discount_t, q_t, a_t) -> errors [T] to `check_td_error(..., "sarsa")`.

    Source: Sutton & Barto (2018), equation 6.7, http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql.conformance import check_td_error
    >>> check_td_error(of_sarsa(bellman.sarsa), "sarsa").failures
    ()
    """

    def errors(x: Trajectory):
        reward, discount = _one_step(x)
        row = x.q_values[:-1], x.actions[:-1], reward, discount, x.q_values[1:], x.actions[1:]
        return f(*_arrays(*row)), x.valid

    return errors


def of_n_step_returns(f: Callable[..., Any]) -> OfTrajectoryAndSetting:
    """Adapts f(r_t, discount_t, v_t, n, lambda_t) -> returns [T] to `check_n_step`.

    Such a function cannot express a truncation itself. So it gets a trace [T]: 0 where the next row does not continue
    this one, else 1.

    Source: Sutton & Barto (2018), equation 7.4, http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql.conformance import check_n_step
    >>> check_n_step(of_n_step_returns(bellman.n_step_bootstrapped_returns), trajectories=2).failures
    ()
    """

    def returns(x: Trajectory, n):
        reward, discount = _one_step(x)
        return f(*_arrays(reward, discount, x.values[1:]), n, *_arrays(_continued(x) * 1.0)), x.valid

    return returns


def of_lambda_returns(f: Callable[..., Any]) -> OfTrajectoryAndSetting:
    """Adapts f(r_t, discount_t, v_t, lambda_ [T]) -> returns [T] to `check_lambda`: its traces are cut at boundaries.

    Source: Sutton & Barto (2018), equation 12.18, http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql.conformance import check_lambda
    >>> check_lambda(of_lambda_returns(bellman.lambda_returns)).failures
    ()
    """

    def returns(x: Trajectory, lambda_):
        reward, discount = _one_step(x)
        return f(*_arrays(reward, discount, x.values[1:], _continued(x) * lambda_)), x.valid

    return returns


def of_n_step_windows(build: Callable[..., Any]) -> OfTrajectoryAndSetting:
    """Adapts build(reward, terminated, truncated, valid, n, gamma) -> `bellman.NStep` to `check_n_step`.

    Source: Sutton & Barto (2018), equation 7.4, http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql.conformance import check_n_step
    >>> check_n_step(of_n_step_windows(bellman.n_step_windows), trajectories=2).failures
    ()
    """

    def returns(x: Trajectory, n):
        windows = build(*_arrays(x.reward, x.terminated, x.truncated, x.valid), n, x.gamma)
        reward, discount, index = (np.asarray(y) for y in (windows.reward, windows.discount, windows.bootstrap_index))
        return reward + discount * x.values[index], windows.valid

    return returns


def of_lambda_windows(
    build: Callable[..., Any], f: Callable[..., Any] = bellman.lambda_returns
) -> OfTrajectoryAndSetting:
    """Adapts build(reward, terminated, truncated, valid, gamma, lambda_) -> `bellman.LambdaStep` to `check_lambda`.

    Its result goes into f(r_t, discount_t, v_t, lambda_ [T]) -> returns [T].

    Source: Sutton & Barto (2018), equation 12.18, http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql.conformance import check_lambda
    >>> check_lambda(of_lambda_windows(bellman.lambda_windows)).failures
    ()
    """

    def returns(x: Trajectory, lambda_):
        windows = build(*_arrays(x.reward, x.terminated, x.truncated, x.valid), x.gamma, lambda_)
        return f(windows.reward, windows.discount, *_arrays(x.values[1:]), windows.trace), windows.valid

    return returns


def _arrays(*xs: Any) -> tuple[Array, ...]:
    """JAX arrays of the default precision; a function that wants NumPy arrays can use them too."""
    return tuple(jnp.asarray(x) if np.asarray(x).dtype.kind != "f" else jnp.asarray(x, float) for x in xs)


def _one_step(x: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and discounts [T]."""
    return np.where(x.valid, x.reward, 0.0), np.where(x.valid & ~x.terminated, x.gamma, 0.0)


def _continued(x: Trajectory) -> np.ndarray:
    """[T] bool: the next row continues the episode."""
    return x.valid & ~x.terminated & ~x.truncated & np.append(x.valid[1:], False)
