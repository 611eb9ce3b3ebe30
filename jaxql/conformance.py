"""Does a target do what its definition says? Laws for anybody's functions, NumPy or JAX, against slow float64 oracles.

A function under test is given a `Trajectory` of stored rows, as an environment under NEXT_STEP autoreset leaves them,
and answers a number for each row: a TD error, an n-step return, a lambda-return. Each law has trajectories of its own,
in which little but what it speaks of can go wrong, or changes what must not count and compares the answers: a report
says which law is broken, not only that a number is off. In rows of this kind a truncated one is the last, or a row that
is not valid follows: a function that stops at either conforms. The `of_...` adapters plug in functions with rlax's
signatures, and builders of windows.

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

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxql import bellman

LENGTH, ACTIONS = 12, 3  # of every trajectory, so that compiled functions are compiled once


class Trajectory(NamedTuple):
    """T stored rows of one env in float64, and what a learner thinks of their T + 1 observations."""

    reward: np.ndarray  # [T]
    terminated: np.ndarray  # [T] bool; a life was lost where the next row is valid
    truncated: np.ndarray  # [T] bool
    valid: np.ndarray  # [T] bool, False where the env resets itself
    gamma: float
    values: np.ndarray  # [T + 1] state values; entry t + 1 belongs to the true successor of row t
    q_values: np.ndarray  # [T + 1, A] action values
    actions: np.ndarray  # [T + 1] int32


class Failure(NamedTuple):
    """The first row in which a law fails."""

    law: str
    step: int  # the row
    expected: float  # NaN: no number, for the row is not valid
    got: float  # NaN also where the mask leaves the row out
    setting: str  # n or lambda, "" where there is none
    trajectory: Trajectory


class Report(NamedTuple):
    """What a check found."""

    checked: tuple[str, ...]  # the laws
    failures: tuple[Failure, ...]  # one for each law that fails, empty for a function that conforms


class _Law(NamedTuple):
    name: str
    make: Callable  # (generator) -> Trajectory
    settings: Callable = lambda settings: settings  # of those a check goes through, the ones that matter
    rows: Callable = lambda trajectory: trajectory.valid | True  # [T] those compared
    alter: Callable | None = None  # (trajectory, generator) -> one for which the answers must be the same


# -------------------------------------------------------------------------------------------------------------- checks
def check_td_error(f, of: str = "values", *, trajectories: int = 8, tolerance: float = 1e-4) -> Report:
    """Checks one-step TD errors: f(trajectory) -> [T], or ([T], mask [T]).

    The error of row t is r_t + (0 if terminated else gamma) * bootstrap_{t+1} - now_t, by `of`:
      "values"          values[t + 1], values[t]
      "q_learning"      max q_values[t + 1], q_values[t, actions[t]]
      "sarsa"           q_values[t + 1, actions[t + 1]], q_values[t, actions[t]]

    Rows that are not valid have no error: f answers 0 or NaN there, or a mask that is `valid`.

    Args: `trajectories` are drawn for each law; `tolerance`, relative to the size of the numbers, is float32's.
    Returns: `Report`.
    Raises: ValueError for another `of`, and where there is nothing to check; whatever f raises.

    Source: Sutton & Barto (2018), equations 6.5, 6.7 and 6.8, http://incompleteideas.net/book/the-book-2nd.html

    >>> check_td_error(of_q_learning(bellman.q_learning), "q_learning").failures
    ()
    """
    if of not in _BOOTSTRAPS:
        raise ValueError(f"of is {of!r}; it must be one of {', '.join(_BOOTSTRAPS)}")

    def oracle(x, t, n_or_lambda):
        now, later = _BOOTSTRAPS[of](x, t)
        return x.reward[t] + (0.0 if x.terminated[t] else x.gamma * later) - now

    return _check(_LAWS_OF_ONE_STEP, lambda x, _: f(x), oracle, {"": None}, trajectories, tolerance)


def check_n_step(f, n=(1, 2, 3, 5), *, trajectories: int = 8, tolerance: float = 1e-4) -> Report:
    """Checks n-step returns: f(trajectory, n) -> [T], or ([T], mask [T]), with `values` as the bootstrap.

    The return of row t is sum_{i < m} gamma**i r_{t+i} + gamma**m values[t + m]; m is n, or less where an end or the
    last row comes first; past a termination there is no bootstrap. Rows that are not valid as in `check_td_error`.

    Args, results and errors as in `check_td_error`; `n` is a number of steps or several.

    Source: Sutton & Barto (2018), equation 7.4, http://incompleteideas.net/book/the-book-2nd.html

    >>> check_n_step(of_n_step_returns(bellman.n_step_bootstrapped_returns), trajectories=2).failures
    ()
    """
    numbers = np.atleast_1d(n).tolist()
    if not all(isinstance(n, int) and n >= 1 for n in numbers):
        raise ValueError(f"n is {n}; it must hold whole numbers of steps, at least 1")

    def oracle(x, t, n_or_lambda):
        total = 0.0
        for m in range(n_or_lambda):
            total += x.gamma**m * x.reward[t + m]
            if x.terminated[t + m]:
                return total
            if x.truncated[t + m] or m + 1 == n_or_lambda or t + m + 1 == LENGTH or not x.valid[t + m + 1]:
                return total + x.gamma ** (m + 1) * x.values[t + m + 1]

    return _check(_LAWS_OF_N_STEPS, f, oracle, {f"n={n}": n for n in numbers}, trajectories, tolerance)


def check_lambda(f, *, per_step: bool = True, trajectories: int = 8, tolerance: float = 1e-4) -> Report:
    """Checks lambda-returns: f(trajectory, lambda_) -> [T], or ([T], mask [T]), with `values` as the bootstrap.

    G_t = r_t if terminated, else r_t + gamma * ((1 - lambda_t) values[t + 1] + lambda_t G_{t+1}), where G_{t+1} is
    values[t + 1] if row t is truncated, the last, or followed by a row that is not valid.

    Args and results as in `check_td_error`; `lambda_` is [T], or with `per_step=False` a number (then a trace that is
    late by a step shows in fewer places).

    Source: Sutton & Barto (2018), equation 12.18, http://incompleteideas.net/book/the-book-2nd.html

    >>> check_lambda(of_lambda_returns(bellman.lambda_returns)).failures
    ()
    """

    def oracle(x, t, n_or_lambda):
        if x.terminated[t]:
            return x.reward[t]
        weight = np.broadcast_to(n_or_lambda, LENGTH)[t]
        continued = not x.truncated[t] and t + 1 < LENGTH and x.valid[t + 1]
        later = oracle(x, t + 1, n_or_lambda) if continued and weight else x.values[t + 1]
        return x.reward[t] + x.gamma * ((1 - weight) * x.values[t + 1] + weight * later)

    traces = {f"lambda={x:g}": np.full(LENGTH, x) if per_step else x for x in (0.0, 1.0, 0.7)}
    if per_step:
        traces["lambda varies"] = np.random.default_rng(0).uniform(0.1, 0.9, LENGTH)
    return _check(_LAWS_OF_LAMBDA, f, oracle, traces, trajectories, tolerance)


def assert_conforms(report: Report) -> None:
    """Raises AssertionError, in one message of a line for each broken law, unless nothing failed.

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


# ------------------------------------------------------------------------------------------------------------ adapters
def of_td_learning(f) -> Callable:
    """For `check_td_error(..., "values")`: f(v_tm1, r_t, discount_t, v_t) -> errors, of one row or of [T].

    Source: Sutton & Barto (2018), equation 6.5, http://incompleteideas.net/book/the-book-2nd.html

    >>> check_td_error(of_td_learning(bellman.td_learning), "values").failures
    ()
    """

    def errors(x: Trajectory):
        reward, discount = _one_step(x)
        return f(*_arrays(x.values[:-1], reward, discount, x.values[1:])), x.valid

    return errors


def of_q_learning(f) -> Callable:
    """For `check_td_error(..., "q_learning")`: f(q_tm1, a_tm1, r_t, discount_t, q_t) -> errors of [T].

    Source: Sutton & Barto (2018), equation 6.8, http://incompleteideas.net/book/the-book-2nd.html

    >>> check_td_error(of_q_learning(bellman.q_learning), "q_learning").failures
    ()
    """

    def errors(x: Trajectory):
        reward, discount = _one_step(x)
        return f(*_arrays(x.q_values[:-1], x.actions[:-1], reward, discount, x.q_values[1:])), x.valid

    return errors


def of_sarsa(f) -> Callable:
    """For `check_td_error(..., "sarsa")`: f(q_tm1, a_tm1, r_t, discount_t, q_t, a_t) -> errors of [T].

    Source: Sutton & Barto (2018), equation 6.7, http://incompleteideas.net/book/the-book-2nd.html

    >>> check_td_error(of_sarsa(bellman.sarsa), "sarsa").failures
    ()
    """

    def errors(x: Trajectory):
        reward, discount = _one_step(x)
        row = x.q_values[:-1], x.actions[:-1], reward, discount, x.q_values[1:], x.actions[1:]
        return f(*_arrays(*row)), x.valid

    return errors


def of_n_step_returns(f) -> Callable:
    """For `check_n_step`: f(r_t, discount_t, v_t, n, lambda_t) -> returns [T], which cannot express truncation itself.

    It is given a trace [T] of 1, and of 0 where the next row does not continue this one.

    Source: Sutton & Barto (2018), equation 7.4, http://incompleteideas.net/book/the-book-2nd.html

    >>> check_n_step(of_n_step_returns(bellman.n_step_bootstrapped_returns), trajectories=2).failures
    ()
    """

    def returns(x: Trajectory, n):
        reward, discount = _one_step(x)
        return f(*_arrays(reward, discount, x.values[1:]), n, *_arrays(_continued(x) * 1.0)), x.valid

    return returns


def of_lambda_returns(f) -> Callable:
    """For `check_lambda`: f(r_t, discount_t, v_t, lambda_ [T]) -> returns [T], given traces cut at every boundary.

    Source: Sutton & Barto (2018), equation 12.18, http://incompleteideas.net/book/the-book-2nd.html

    >>> check_lambda(of_lambda_returns(bellman.lambda_returns)).failures
    ()
    """

    def returns(x: Trajectory, lambda_):
        reward, discount = _one_step(x)
        return f(*_arrays(reward, discount, x.values[1:], _continued(x) * lambda_)), x.valid

    return returns


def of_n_step_windows(build) -> Callable:
    """For `check_n_step`: build(reward, terminated, truncated, valid, n, gamma) -> `bellman.windows.NStep`.

    Source: Sutton & Barto (2018), equation 7.4, http://incompleteideas.net/book/the-book-2nd.html

    >>> check_n_step(of_n_step_windows(bellman.n_step_windows), trajectories=2).failures
    ()
    """

    def returns(x: Trajectory, n):
        windows = build(*_arrays(x.reward, x.terminated, x.truncated, x.valid), n, x.gamma)
        reward, discount, bootstrap = (np.asarray(y) for y in (windows.reward, windows.discount, windows.bootstrap))
        return reward + discount * x.values[bootstrap], windows.valid

    return returns


def of_lambda_windows(build, f=bellman.lambda_returns) -> Callable:
    """For `check_lambda`: build(reward, terminated, truncated, valid, gamma, lambda_) -> `bellman.windows.LambdaStep`.

    Its result goes into f(r_t, discount_t, v_t, lambda_ [T]) -> returns [T].

    Source: Sutton & Barto (2018), equation 12.18, http://incompleteideas.net/book/the-book-2nd.html

    >>> check_lambda(of_lambda_windows(bellman.lambda_windows)).failures
    ()
    """

    def returns(x: Trajectory, lambda_):
        windows = build(*_arrays(x.reward, x.terminated, x.truncated, x.valid), x.gamma, lambda_)
        return f(windows.reward, windows.discount, *_arrays(x.values[1:]), windows.trace), windows.valid

    return returns


def _arrays(*xs):
    """As JAX arrays of the default precision; a function that wants NumPy can use them too."""
    return tuple(jnp.asarray(x) if np.asarray(x).dtype.kind != "f" else jnp.asarray(x, float) for x in xs)


def _one_step(x):
    return np.where(x.valid, x.reward, 0.0), np.where(x.valid & ~x.terminated, x.gamma, 0.0)


def _continued(x):
    return x.valid & ~x.terminated & ~x.truncated & np.append(x.valid[1:], False)


# ---------------------------------------------------------------------------------------------------------------- laws
_BOOTSTRAPS = {  # of: (what the error is of, what follows it)
    "values": lambda x, t: (x.values[t], x.values[t + 1]),
    "q_learning": lambda x, t: (x.q_values[t, x.actions[t]], x.q_values[t + 1].max()),
    "sarsa": lambda x, t: (x.q_values[t, x.actions[t]], x.q_values[t + 1, x.actions[t + 1]]),
}


def _plain(rng) -> Trajectory:
    """No boundary but the last row."""
    no = np.zeros(LENGTH, bool)
    return Trajectory(
        reward=rng.normal(size=LENGTH),
        terminated=no,
        truncated=no,
        valid=~no,
        gamma=float(rng.uniform(0.5, 0.95)),
        values=rng.normal(size=LENGTH + 1),
        q_values=rng.normal(size=(LENGTH + 1, ACTIONS)),
        actions=rng.integers(ACTIONS, size=LENGTH + 1, dtype=np.int32),
    )


def _worthless(rng):
    x = _plain(rng)
    return x._replace(values=0 * x.values)


def _unpaid(rng):
    x = _plain(rng)
    return x._replace(reward=0 * x.reward)


def _ends_with(**last):
    """Trajectories of a single episode, which ends so in the last row: nothing beyond can be touched."""

    def make(rng):
        x = _plain(rng)
        return x._replace(**{name: np.arange(LENGTH) == LENGTH - 1 for name in last})

    return make


def _two_episodes(**at_end):
    """Trajectories in which an episode ends amid the rows; `reset` says whether a row that is not valid follows."""

    def make(rng):
        x, end = _plain(rng), np.arange(LENGTH) == rng.integers(2, LENGTH - 4)
        after = np.roll(end, 1) if at_end["reset"] else end & False
        return x._replace(**{name: end for name in at_end if name != "reset"}, valid=~after)

    return make


def _other_successor(x, rng):
    """Another value of what follows the last row."""
    return x._replace(values=_redrawn(x.values, LENGTH, rng), q_values=_redrawn(x.q_values, LENGTH, rng))


def _other_future(x, rng):
    """Other rewards and values behind the end of the first episode and its true successor."""
    end = int(np.argmax(x.terminated | x.truncated))
    numbers = {name: _redrawn(getattr(x, name), end + 2, rng) for name in ("values", "q_values")}
    return x._replace(reward=_redrawn(x.reward, end + 1, rng), **numbers)


def _other_resets(x, rng):
    """Other rewards in the rows that are not valid."""
    return x._replace(reward=np.where(x.valid, x.reward, 100 * rng.normal(size=LENGTH)))


def _redrawn(numbers, start, rng):
    return np.concatenate([numbers[:start], numbers[start:] + rng.uniform(1, 2, numbers[start:].shape)])


def _anything(rng):
    """Episodes of all lengths, with lost lives, both ends, and reset rows full of rubbish, some where nothing ended."""
    x, over, columns = _plain(rng), rng.random() < 0.3, []
    for _ in range(LENGTH):
        valid = not over
        terminated, truncated = (rng.random(2) < 0.2) & valid
        over = bool(truncated or terminated and rng.random() < 0.5 or rng.random() < 0.1)
        columns.append((terminated, truncated, valid))
    terminated, truncated, valid = np.array(columns).T
    return x._replace(
        terminated=terminated, truncated=truncated, valid=valid, reward=np.where(valid, x.reward, 1e3 * x.reward)
    )


def _named(*names):
    return lambda settings: {name: settings[name] for name in names if name in settings}


def _early(x):
    """Rows whose windows of up to 5 are stored whole."""
    return np.arange(LENGTH) < LENGTH - 5


def _last(x):
    return np.arange(LENGTH) == LENGTH - 1


def _real(x):
    return x.valid


def _first_episode(x):
    return np.arange(LENGTH) <= np.argmax(x.terminated | x.truncated)


_LIFE = _two_episodes(terminated=True, reset=False)
_DEATH = _two_episodes(terminated=True, reset=True)
_TIMEOUT = _two_episodes(truncated=True, reset=True)
_ENDS = (
    _Law("a termination is not bootstrapped", _ends_with(terminated=True), alter=_other_successor),
    _Law("a truncation is bootstrapped", _ends_with(truncated=True), rows=_last),
)
_BOUNDARIES = (
    _Law("a lost life ends its episode", _LIFE, rows=_first_episode, alter=_other_future),
    _Law("nothing crosses a termination", _DEATH, rows=_first_episode, alter=_other_future),
    _Law("nothing crosses a truncation", _TIMEOUT, rows=_first_episode, alter=_other_future),
    _Law("nothing crosses a reset that no end announced", _two_episodes(reset=True), rows=_real, alter=_other_resets),
)
_RESETS = (
    _Law("what a reset row holds never counts", _TIMEOUT, rows=_real, alter=_other_resets),
    _Law("a reset row starts nothing", _TIMEOUT, rows=lambda x: ~x.valid),
)
_TOGETHER = (  # only where all others hold: they would say no more than those that do not
    _Law("a termination pays its last reward", _ends_with(terminated=True), rows=_last),
    _Law("what ends in both ways is terminated", _ends_with(terminated=True, truncated=True)),
    _Law("all boundaries together", _anything),
)

_LAWS_OF_ONE_STEP = (_Law("the error is its equation", _plain), *_ENDS, *_RESETS, *_TOGETHER)
_LAWS_OF_N_STEPS = (
    _Law("reward i is discounted by gamma**i", _worthless, rows=_early),
    _Law("the bootstrap is discounted by gamma**n", _unpaid, rows=_early),
    _Law("the last row is bootstrapped", _plain, rows=_last),
    *_ENDS,
    *_BOUNDARIES,
    *_RESETS,
    *_TOGETHER,
)
_LAWS_OF_LAMBDA = (
    _Law("lambda 0 is the one-step return", _plain, _named("lambda=0"), rows=_early),
    _Law("lambda 1 is the whole return", _plain, _named("lambda=1"), rows=_early),
    _Law("lambda_t weighs the return from t + 1", _plain, _named("lambda=0.7", "lambda varies"), rows=_early),
    _Law("the last row is bootstrapped", _plain, rows=_last),
    *_ENDS,
    *_BOUNDARIES,
    *_RESETS,
    *_TOGETHER,
)


def _check(laws, f, oracle, settings, trajectories, tolerance) -> Report:
    if not settings or trajectories < 1:
        raise ValueError(f"{len(settings)} settings and {trajectories} trajectories check nothing")
    failures = []
    for law in laws:
        if law in _TOGETHER and failures:
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
    expected = functools.partial(oracle, x, n_or_lambda=setting)
    if law.alter:
        expected, x = np.array(_answer(f(x, setting))[0]).__getitem__, law.alter(x, rng)
    answer, mask = _answer(f(x, setting))
    for t in np.flatnonzero(law.rows(x)):
        if x.valid[t]:
            want = float(expected(t))
            got = float(answer[t]) if mask is None or mask[t] else np.nan
            holds = abs(got - want) <= tolerance * max(1.0, abs(want))
        else:
            want, got = np.nan, float(answer[t])
            holds = not got or np.isnan(got) if mask is None else not mask[t]
        if not holds:
            return Failure(law.name, int(t), want, got, name, x)
    return None


def _answer(result):
    """(numbers [T], mask [T] or None) of what a function under test gave."""
    answer, mask = result if isinstance(result, tuple) else (result, None)
    shapes = [np.shape(answer), (LENGTH,) if mask is None else np.shape(mask)]
    if shapes != [(LENGTH,)] * 2:
        raise ValueError(f"the function gave an answer and a mask of shapes {shapes}; there are {LENGTH} rows")
    return np.asarray(answer, np.float64), None if mask is None else np.asarray(mask, bool)
