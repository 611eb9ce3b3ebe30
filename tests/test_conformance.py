"""The checker passes what is right, ours and rlax's, and names the law that a wrong function breaks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql import bellman, conformance
from jaxql.bellman.windows import lambda_windows, n_step_windows
from jaxql.conformance import assert_conforms, check_lambda, check_n_step, check_td_error

TERMINATION, TRUNCATION = "a termination is not bootstrapped", "a truncation is bootstrapped"
CROSSES_TERMINATION, CROSSES_TRUNCATION = "nothing crosses a termination", "nothing crosses a truncation"
CROSSES_RESET = "nothing crosses a reset that no end announced"
LIFE = "a lost life ends its episode"
HOLDS, STARTS = "the contents of a reset row never count", "a reset row starts nothing"
LAST_ROW, TOGETHER = "the last row is bootstrapped", "all boundaries together"


@pytest.fixture(scope="module")
def rlax():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the oracle's own dependencies warn on import
        return pytest.importorskip("rlax", reason="rlax is not installed: its oracles are skipped")


@pytest.mark.parametrize("of", ["td_learning", "q_learning", "sarsa"])
def test_our_td_errors_conform_and_rlaxs(rlax, of):
    adapt = getattr(conformance, f"of_{of}")
    for f in jax.jit(getattr(bellman, of)), jax.jit(jax.vmap(getattr(rlax, of))):
        assert_conforms(check_td_error(adapt(f), "values" if of == "td_learning" else of))


def test_our_returns_conform_and_rlaxs(rlax):
    for library in bellman, rlax:
        f = jax.jit(library.n_step_bootstrapped_returns, static_argnums=3)
        assert_conforms(check_n_step(conformance.of_n_step_returns(f)))
        assert_conforms(check_lambda(conformance.of_lambda_returns(jax.jit(library.lambda_returns))))


def test_our_windows_conform():
    build = jax.jit(n_step_windows, static_argnums=4)
    assert_conforms(check_n_step(conformance.of_n_step_windows(build), n=(1, 4, 12, 20)))
    returns = jax.jit(bellman.lambda_returns)
    for per_step in True, False:
        f = conformance.of_lambda_windows(jax.jit(lambda_windows), returns)
        assert_conforms(check_lambda(f, per_step=per_step))


def ended(x, t):
    return x.terminated[t] or x.truncated[t] or t + 1 < len(x.valid) and not x.valid[t + 1]


def n_step(
    x,
    n,
    *,
    truncation_ends=False,
    termination_ends=True,
    power=lambda m: m,
    stops=ended,
    starts=lambda x, t: x.valid[t],
    reward_power=lambda i: i,
):
    """The n-step return in plain Python, with a place for each mistake."""
    out, length = np.zeros(len(x.reward)), len(x.reward)
    for t in range(length):
        if not starts(x, t):
            continue
        for m in range(1, n + 1):
            last = t + m - 1
            out[t] += x.gamma ** reward_power(m - 1) * x.reward[last]
            if m == n or last + 1 == length or stops(x, last):
                break
        dead = x.terminated[last] and termination_ends or x.truncated[last] and truncation_ends
        out[t] += 0 if dead else x.gamma ** power(m) * x.values[last + 1]
    return out


def never(x, t):
    return False


def only_at_resets(x, t):
    return not x.valid[t]  # it looks for the boundary one row too late


REWARDS, BOOTSTRAP = "reward i is discounted by gamma**i", "the bootstrap is discounted by gamma**n"
MISTAKES_OF_N_STEPS = {
    "truncation as termination": (dict(truncation_ends=True), {TRUNCATION}),
    "termination as truncation": (dict(termination_ends=False), {TERMINATION}),
    "gamma at the bootstrap": (dict(power=lambda m: 1), {BOOTSTRAP}),
    "one gamma too many": (dict(power=lambda m: m + 1), {BOOTSTRAP, LAST_ROW, TRUNCATION}),
    "rewards discounted a step late": (dict(reward_power=lambda i: i + 1), {REWARDS, LAST_ROW, TRUNCATION}),
    "windows cross episodes": (
        dict(stops=never),
        {LIFE, CROSSES_TERMINATION, CROSSES_TRUNCATION, CROSSES_RESET, HOLDS},
    ),
    "windows cross truncations": (
        dict(stops=lambda x, t: x.terminated[t]),
        {CROSSES_TRUNCATION, CROSSES_RESET, HOLDS},
    ),
    "windows cross resets": (dict(stops=lambda x, t: x.terminated[t] or x.truncated[t]), {CROSSES_RESET}),
    "reset rows end windows": (
        dict(stops=only_at_resets),
        {LIFE, CROSSES_TERMINATION, CROSSES_TRUNCATION, CROSSES_RESET, HOLDS},
    ),
    "reset rows start windows": (dict(starts=lambda x, t: True), {STARTS}),
}


def names(report):
    return {failure.law for failure in report.failures}


def test_the_plain_python_without_mistakes_conforms():
    assert_conforms(check_n_step(n_step))
    assert check_n_step(n_step).failures == ()


@pytest.mark.parametrize("name", MISTAKES_OF_N_STEPS)
@pytest.mark.trust(5)
def test_mistakes_of_n_steps_are_caught_by_name(name):
    mistake, laws = MISTAKES_OF_N_STEPS[name]
    found = names(check_n_step(functools.partial(n_step, **mistake)))
    assert found == laws


def lambda_return(x, lambda_, *, shift=0, values=1, truncation_ends=False, cut=True, last_row_ends=False):
    """The lambda-return in plain Python, with a place for each mistake."""
    length = len(x.reward)
    out, lambda_ = np.zeros(length + 1), np.broadcast_to(lambda_, length)
    for t in reversed(range(length)):
        if not x.valid[t] and cut:
            continue
        if x.terminated[t] or x.truncated[t] and truncation_ends or t + 1 == length and last_row_ends:
            out[t] = x.reward[t]
            continue
        v, weight = x.values[t + values], lambda_[(t + shift) % length]
        continued = t + 1 < length and not (cut and (x.truncated[t] or not x.valid[t + 1]))
        later = out[t + 1] if continued else x.values[t + 1]
        out[t] = x.reward[t] + x.gamma * ((1 - weight) * v + weight * later)
    return np.where(x.valid, out[:-1], 0)


ONE_STEP, MIXED = "lambda 0 is the one-step return", "lambda_t weighs the return from t + 1"
MISTAKES_OF_LAMBDA = {
    "lambda early by a step": (dict(shift=1), {MIXED}),
    "lambda late by a step": (dict(shift=-1), {MIXED}),
    "values of this state": (dict(values=0), {ONE_STEP, MIXED}),
    "truncation as termination": (dict(truncation_ends=True), {TRUNCATION}),
    "traces cross truncations": (dict(cut=False), {CROSSES_TRUNCATION, CROSSES_RESET, HOLDS}),
    "the last row as termination": (dict(last_row_ends=True), {"lambda 1 is the whole return", LAST_ROW, TRUNCATION}),
}


@pytest.mark.parametrize("name", MISTAKES_OF_LAMBDA)
def test_mistakes_of_lambda_are_caught_by_name(name):
    mistake, laws = MISTAKES_OF_LAMBDA[name]
    assert check_lambda(lambda_return).failures == ()
    found = names(check_lambda(functools.partial(lambda_return, **mistake)))
    assert laws <= found
    if not {"values", "last_row_ends"} & set(mistake):  # these are wrong in all places
        assert found == laws


def td_error(x, *, dead=lambda x: x.terminated, used=lambda x: x.valid, paid=lambda x: x.valid, later=1):
    v = x.values[1:] if later else x.values[:-1]
    return np.where(used(x), x.reward * paid(x) + np.where(dead(x), 0, x.gamma) * v - x.values[:-1], 0)


@pytest.mark.parametrize(
    ("mistake", "laws"),
    [
        ({}, set()),
        ({"dead": lambda x: x.terminated | x.truncated}, {TRUNCATION}),
        ({"dead": lambda x: x.terminated & False}, {TERMINATION}),
        ({"dead": lambda x: x.terminated & ~x.truncated}, {"a row with both ends is terminated"}),
        ({"paid": lambda x: ~x.terminated}, {"a termination pays its last reward"}),
        ({"used": lambda x: x.valid | True, "paid": lambda x: True}, {STARTS}),
        ({"later": 0}, {"the error is its equation", TRUNCATION}),
    ],
)
@pytest.mark.trust(1, 2)
def test_mistakes_of_one_step_are_caught_by_name(mistake, laws):
    assert names(check_td_error(functools.partial(td_error, **mistake))) == laws


def test_a_mask_must_be_the_valid_rows():
    assert_conforms(check_td_error(lambda x: (td_error(x), x.valid)))
    assert names(check_td_error(lambda x: (td_error(x), x.valid | True))) == {STARTS}
    assert "the error is its equation" in names(check_td_error(lambda x: (td_error(x), x.valid & False)))
    assert_conforms(check_td_error(lambda x: np.where(x.valid, td_error(x), np.nan)))


def test_a_wrong_maximum_is_caught():
    def mean(q_tm1, a_tm1, r_t, discount_t, q_t):
        return r_t + discount_t * jnp.mean(q_t, axis=-1) - jnp.take_along_axis(q_tm1, a_tm1[:, None], 1)[:, 0]

    assert "the error is its equation" in names(check_td_error(conformance.of_q_learning(mean), "q_learning"))


def test_the_message_says_which_law_where_and_what():
    report = check_n_step(functools.partial(n_step, truncation_ends=True), n=(3,))
    assert report.failures[0].law == TRUNCATION
    x = report.failures[0].trajectory
    with pytest.raises(AssertionError) as error:
        assert_conforms(report)
    lines = str(error.value).splitlines()
    assert lines[0] == f"1 of {len(report.checked)} laws do not hold:"
    assert lines[1].startswith(f"  {TRUNCATION}: row {report.failures[0].step}")
    assert "n=3" in lines[1] and "expected" in lines[1]
    np.testing.assert_allclose(report.failures[0].expected, n_step(x, 3)[report.failures[0].step])


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(ValueError, match="there are 12 rows"):
        check_td_error(lambda x: x.reward[:3])
    with pytest.raises(ValueError, match="of is 'q'"):
        check_td_error(td_error, "q")
    for n in 0, (1, 0), 1.5:
        with pytest.raises(ValueError, match="n is .* whole number"):
            check_n_step(n_step, n)
    with pytest.raises(ValueError, match="there is nothing to check"):
        check_n_step(n_step, ())
    with pytest.raises(ValueError, match="trajectories is 0"):
        check_td_error(td_error, trajectories=0)
    assert check_n_step(n_step, 3).failures == ()
