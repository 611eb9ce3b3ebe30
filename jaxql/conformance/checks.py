"""The checks: TD errors, n-step returns and lambda-returns, each against its oracle under every law."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxql.bellman.arguments import NOT_NEGATIVE, check_count, function
from jaxql.conformance import oracles
from jaxql.conformance.laws import LAWS_OF_LAMBDA, LAWS_OF_N_STEPS, LAWS_OF_ONE_STEP, TOGETHER, Law, Settings
from jaxql.conformance.trajectories import LENGTH, Trajectory


class Failure(NamedTuple):
    """The first row in which a law fails."""

    law: str
    step: int  # the row
    expected: float  # NaN where the row is not valid: no number is expected
    got: float  # NaN also where the mask excludes the row
    setting: str  # n or lambda; "" if there is none
    trajectory: Trajectory


class Report(NamedTuple):
    """The laws that were checked, and their failures."""

    checked: tuple[str, ...]  # names of the laws
    failures: tuple[Failure, ...]  # one for each law that fails; empty for a function that conforms


def check_td_error(
    f: Callable[[Trajectory], Any], of: str = "values", *, trajectories: int = 8, tolerance: float = 1e-4
) -> Report:
    """Checks one-step TD errors f(trajectory) -> [T], or ([T], mask [T]).

    The error of row t is r_t + (0 if terminated else gamma) * bootstrap_{t+1} - now_t, by `of`:
      "values"          values[t + 1], values[t]
      "q_learning"      max q_values[t + 1], q_values[t, actions[t]]
      "sarsa"           q_values[t + 1, actions[t + 1]], q_values[t, actions[t]]

    Rows that are not valid have no error: f answers 0 or NaN there, or a mask that is `valid`.

    Args:
      f: the function under test.
      of: the values that are learned.
      trajectories: the number drawn for each law.
      tolerance: relative to the size of the numbers; the default suits float32.

    Returns: `Report`.
    Raises: ValueError for another `of`, and if there is nothing to check. Errors of f pass through.

    Source: Sutton & Barto (2018), equations 6.5, 6.7 and 6.8, http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql import bellman
    >>> from jaxql.conformance import of_q_learning
    >>> check_td_error(of_q_learning(bellman.q_learning), "q_learning").failures
    ()
    """
    function("f", f)
    if of not in oracles.BOOTSTRAPS:
        raise ValueError(f"of is {of!r}; it must be one of {', '.join(oracles.BOOTSTRAPS)}")

    def oracle(x, t, _):
        return oracles.td_error(x, t, of)

    return _check(LAWS_OF_ONE_STEP, lambda x, _: f(x), oracle, {"": None}, trajectories, tolerance)


def check_n_step(
    f: Callable[[Trajectory, int], Any],
    n: int | tuple[int, ...] = (1, 2, 3, 5),
    *,
    trajectories: int = 8,
    tolerance: float = 1e-4,
) -> Report:
    """Checks n-step returns f(trajectory, n) -> [T], or ([T], mask [T]), with `values` as the bootstrap.

    The return of row t is sum_{i < m} gamma**i r_{t+i} + gamma**m values[t + m]. m is n, or less where an end or the
    last row comes first. Past a termination there is no bootstrap. Rows that are not valid, arguments, result and
    errors are as in `check_td_error`; `n` is one number of steps or several.

    Source: Sutton & Barto (2018), equation 7.4, http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql import bellman
    >>> from jaxql.conformance import of_n_step_returns
    >>> check_n_step(of_n_step_returns(bellman.n_step_bootstrapped_returns), trajectories=2).failures
    ()
    """
    function("f", f)
    numbers = np.atleast_1d(n).tolist()
    for number in numbers:
        check_count("n", number)
    return _check(LAWS_OF_N_STEPS, f, oracles.n_step_return, {f"n={n}": n for n in numbers}, trajectories, tolerance)


def check_lambda(
    f: Callable[[Trajectory, Any], Any], *, per_step: bool = True, trajectories: int = 8, tolerance: float = 1e-4
) -> Report:
    """Checks lambda-returns f(trajectory, lambda_) -> [T], or ([T], mask [T]), with `values` as the bootstrap.

    G_t = r_t if terminated, else r_t + gamma * ((1 - lambda_t) values[t + 1] + lambda_t G_{t+1}), where G_{t+1} is
    values[t + 1] if row t is truncated, the last, or followed by a row that is not valid.

    Arguments and result are as in `check_td_error`. `lambda_` is [T], or a number with `per_step=False`; then a trace
    that is late by a step shows in fewer places.

    Source: Sutton & Barto (2018), equation 12.18, http://incompleteideas.net/book/the-book-2nd.html

    >>> from jaxql import bellman
    >>> from jaxql.conformance import of_lambda_returns
    >>> check_lambda(of_lambda_returns(bellman.lambda_returns)).failures
    ()
    """
    function("f", f)
    traces = {f"lambda={x:g}": np.full(LENGTH, x) if per_step else x for x in (0.0, 1.0, 0.7)}
    if per_step:
        traces["lambda varies"] = np.random.default_rng(0).uniform(0.1, 0.9, LENGTH)
    return _check(LAWS_OF_LAMBDA, f, oracles.lambda_return, traces, trajectories, tolerance)


def assert_conforms(report: Report) -> None:
    """Raises AssertionError, with a line for each broken law, if any law failed.

    Source: the equations of the `check_` functions

    >>> assert_conforms(check_td_error(lambda x: np.where(x.valid, x.reward, 0.0)))
    Traceback (most recent call last):
    AssertionError: 2 of 8 laws do not hold:
      the error is its equation: row 0: expected 0.756975, got 0.35404
      a truncation is bootstrapped: row 11, truncated: expected 0.486393, got -0.336003
    """
    if report.failures:
        lines = [f"{len(report.failures)} of {len(report.checked)} laws do not hold:"]
        for x in report.failures:
            flags = ("terminated", "truncated")
            here = "".join(f", {name}" for name in flags if getattr(x.trajectory, name)[x.step])
            here += "" if x.trajectory.valid[x.step] else ", not valid"
            here += f", {x.setting}" if x.setting else ""
            want, got = ("nothing" if np.isnan(number) else f"{number:.6g}" for number in (x.expected, x.got))
            lines.append(f"{x.law}: row {x.step}{here}: expected {want}, got {got}")
        raise AssertionError("\n  ".join(lines))


def _check(
    laws: tuple[Law, ...],
    f: Callable[[Trajectory, Any], Any],
    oracle: Callable[[Trajectory, int, Any], float],
    settings: Settings,
    trajectories: int,
    tolerance: float,
) -> Report:
    check_count("trajectories", trajectories)
    NOT_NEGATIVE("tolerance", tolerance)
    if not settings:
        raise ValueError("n has no numbers of steps: there is nothing to check")
    failures: list[Failure] = []
    for law in laws:
        if law in TOGETHER and failures:
            continue
        rng = np.random.default_rng(len(law.name))
        found = (
            _first_failure(law, f, oracle, law.make(rng), name, setting, tolerance, rng)
            for _ in range(trajectories)
            for name, setting in law.settings(settings).items()
        )
        failures.extend([x for x in found if x][:1])
    return Report(checked=tuple(law.name for law in laws), failures=tuple(failures))


def _first_failure(law, f, oracle, x, name, setting, tolerance, rng) -> Failure | None:
    before = None
    if law.alter:
        before, x = np.array(_answer(f(x, setting))[0]), law.alter(x, rng)
    answer, mask = _answer(f(x, setting))
    for t in np.flatnonzero(law.rows(x)):
        if x.valid[t]:
            want = float(oracle(x, t, setting) if before is None else before[t])
            got = float(answer[t]) if mask is None or mask[t] else np.nan
            holds = abs(got - want) <= tolerance * max(1.0, abs(want))
        else:
            want, got = np.nan, float(answer[t])
            holds = not got or np.isnan(got) if mask is None else not mask[t]
        if not holds:
            return Failure(law.name, int(t), want, got, name, x)
    return None


def _answer(result):
    """(numbers [T], mask [T] or None) of the result of a function under test."""
    answer, mask = result if isinstance(result, tuple) else (result, None)
    shapes = [np.shape(answer), (LENGTH,) if mask is None else np.shape(mask)]
    if shapes != [(LENGTH,)] * 2:
        raise ValueError(f"the function gave an answer and a mask of shapes {shapes}; there are {LENGTH} rows")
    return np.asarray(answer, np.float64), None if mask is None else np.asarray(mask, bool)
