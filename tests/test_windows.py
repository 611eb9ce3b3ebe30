"""Windows over stored rows against walks from the definition, the draws of replay, and what they do to returns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxql import bellman
from jaxql.bellman.windows import lambda_windows, n_step_windows
from jaxql.replay import n_step_transition, zero_step

pytestmark = pytest.mark.float64
B, T, GAMMA = 16, 24, 0.9
n_step = jax.jit(n_step_windows, static_argnames=("n", "partial"))
traces = jax.jit(lambda_windows)
few = settings(max_examples=15, deadline=None, derandomize=True)


@pytest.fixture(scope="module")
def rlax():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the oracle's own dependencies warn on import
        return pytest.importorskip("rlax", reason="rlax is not installed: its oracles are skipped")


def rows(seed, batch=B):
    """reward, terminated, truncated, valid [batch, T]: both ends, life losses, and reset rows that hold rubbish."""
    rng = np.random.default_rng(seed)
    over, columns = rng.random(batch) < 0.2, []
    for _ in range(T):
        valid = ~over
        terminated, truncated = (rng.random((2, batch)) < 0.12) & valid
        over = truncated | terminated & (rng.random(batch) < 0.5)  # else a life is lost, and the episode goes on
        columns.append((np.where(valid, rng.normal(size=batch), np.nan), terminated, truncated, valid))
    return tuple(np.stack(x, axis=1) for x in zip(*columns, strict=True))


def walk(reward, terminated, truncated, valid, t, n, gamma=GAMMA):
    """(total, discount, bootstrap) of one row by its definition: step by step until n, an end or the last row."""
    total, m = 0.0, 0
    while True:
        total += gamma**m * reward[t + m]
        m += 1
        if terminated[t + m - 1]:
            return total, 0.0, t + m
        if truncated[t + m - 1] or m == n or t + m == len(reward) or not valid[t + m]:
            return total, gamma**m, t + m


def lambda_return(reward, terminated, truncated, valid, v, lambda_, t):
    """The recursion by its definition, v [T + 1]."""
    if terminated[t]:
        return reward[t]
    goes_on = t + 1 < len(reward) and not truncated[t] and valid[t + 1]
    later = lambda_return(reward, terminated, truncated, valid, v, lambda_, t + 1) if goes_on else v[t + 1]
    return reward[t] + GAMMA * ((1 - lambda_[t]) * v[t + 1] + lambda_[t] * later)


@pytest.mark.parametrize("n", [1, 2, 5, T + 2])
@pytest.mark.trust(5)
def test_windows_are_their_definition(n):
    batch = rows(n)
    got = n_step(*batch, n=n, gamma=GAMMA)
    valid = batch[3]
    np.testing.assert_array_equal(got.valid, valid)
    np.testing.assert_array_equal(got.start, np.broadcast_to(np.arange(T), (B, T)))
    for b, t in zip(*np.nonzero(valid), strict=True):
        want = walk(*(x[b] for x in batch), t, n)
        np.testing.assert_allclose([x[b, t] for x in (got.reward, got.discount, got.bootstrap_index)], want, atol=1e-5)
    assert not np.any(np.asarray(got.reward)[~valid]) and not np.any(np.asarray(got.discount)[~valid])


def test_windows_that_only_the_last_row_cuts_short_can_be_left_out():
    batch, n = rows(1), 4
    whole, partial = n_step(*batch, n=n, gamma=GAMMA, partial=False), n_step(*batch, n=n, gamma=GAMMA)
    reward, terminated, truncated, valid = batch
    over = terminated | truncated
    for b, t in np.ndindex(B, T):
        complete = t + n <= T or over[b, t:].any()
        assert whole.valid[b, t] == (valid[b, t] and complete)
        if whole.valid[b, t]:
            assert (whole.reward[b, t], whole.bootstrap_index[b, t]) == (
                partial.reward[b, t],
                partial.bootstrap_index[b, t],
            )
        else:
            assert whole.reward[b, t] == whole.discount[b, t] == 0


@few
@given(st.integers(0, 10**6))
def test_windows_agree_with_the_draws_of_replay(seed):
    n, rowset = 3, rows(seed)
    reward, terminated, truncated, valid = (jnp.asarray(x).T for x in rowset)  # the ring is [T, B]
    step = zero_step(jnp.zeros(B))
    observation = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32)[:, None], (T, B))
    stored = dict(obs=observation, action=observation, next_obs=(), extra=())
    ring = step._replace(reward=reward, terminated=terminated, truncated=truncated, valid=valid, **stored)
    t, env = (x.reshape(-1) for x in jnp.meshgrid(jnp.arange(T - n), jnp.arange(B), indexing="ij"))
    drawn = transitions(ring, t, env, n)
    got = n_step(reward.T, terminated.T, truncated.T, valid.T, n=n, gamma=GAMMA)
    starts = np.asarray(got.valid[env, t])
    for mine, theirs in (
        (got.reward, drawn.reward),
        (got.discount, drawn.discount),
        (got.bootstrap_index, drawn.next_obs),
    ):
        np.testing.assert_allclose(mine[env, t][starts], theirs[starts], atol=1e-5)


@functools.partial(jax.jit, static_argnums=3)
def transitions(ring, t, env, n):
    one = functools.partial(n_step_transition, ring, weight=1.0, gamma=GAMMA, n_step=n, stack=1)
    return jax.vmap(lambda t, env: one(t, env))(t, env)


@few
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_lambda_windows_give_the_returns_of_the_definition(seed, lambda_):
    batch, rng = rows(seed), np.random.default_rng(seed)
    v, decay = rng.normal(size=(B, T + 1)), np.full(T, lambda_)
    if seed % 2:
        decay = rng.random(T)
    windows = traces(*batch, gamma=GAMMA, lambda_=decay)
    got = returns(windows, v[:, 1:])
    for b, t in zip(*np.nonzero(batch[3]), strict=True):
        want = lambda_return(*(x[b] for x in batch), v[b], decay, t)
        np.testing.assert_allclose(got[b, t], want, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(got)[~batch[3]], 0)


@jax.jit
def returns(windows, v_t):
    return jax.vmap(bellman.lambda_returns)(windows.reward, windows.discount, v_t, windows.trace)


@pytest.mark.parametrize("n", [1, 3, T])
def test_traces_turn_sequence_returns_into_windows(rlax, n):
    """At lambda 1 the n-step recursion over cut traces is the n-step window, truncations inside it included."""
    batch, v = rows(7), np.random.default_rng(8).normal(size=(B, T + 1)).astype(np.float32)
    windows, steps = n_step(*batch, n=n, gamma=GAMMA), traces(*batch, gamma=GAMMA)
    want = windows.reward + windows.discount * np.take_along_axis(v, np.asarray(windows.bootstrap_index), axis=1)
    ours = bellman.n_step_bootstrapped_returns(steps.reward, steps.discount, v[:, 1:], n, 1.0)
    assert n == 1 or not np.allclose(ours, want, atol=1e-3), "the rows hold no truncation, and prove nothing"
    for function in bellman.n_step_bootstrapped_returns, rlax.n_step_bootstrapped_returns:
        got = jax.vmap(lambda r, d, v, trace, function=function: function(r, d, v, n, trace))(
            steps.reward, steps.discount, jnp.asarray(v[:, 1:]), steps.trace
        )
        np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.trust(5, 27)
def test_a_lost_life_ends_the_window_and_the_next_row_starts_afresh():
    reward, no = jnp.array([1.0, 2.0, 4.0]), jnp.zeros(3, bool)
    got = n_step_windows(reward, no.at[0].set(True), no, ~no, 3, 0.5)
    np.testing.assert_array_equal(got.reward, [1, 4, 4])
    np.testing.assert_array_equal(got.discount, [0, 0.25, 0.5])
    np.testing.assert_array_equal(got.bootstrap_index, [1, 3, 3])


@pytest.mark.trust(5)
def test_a_reset_without_an_end_before_it_still_bounds_the_window():
    reward, no = jnp.array([1.0, jnp.nan, 4.0]), jnp.zeros(3, bool)
    valid = ~no.at[1].set(True)
    got = n_step_windows(reward, no, no, valid, 3, 0.5)
    np.testing.assert_array_equal(got.reward, [1, 0, 4])
    np.testing.assert_array_equal(got.bootstrap_index, [1, 1, 3])
    np.testing.assert_array_equal(lambda_windows(reward, no, no, valid, 0.5, 0.5).trace, [0, 0, 0])


@few
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_what_a_reset_row_holds_never_counts(seed, n):
    reward, terminated, truncated, valid = rows(seed)
    clean = np.where(valid, reward, 0.0), terminated & valid, truncated & valid, valid
    wild = np.where(valid, reward, np.inf), terminated | ~valid, truncated | ~valid, valid
    for build in functools.partial(n_step, n=n), traces:
        for x, y in zip(build(*clean, gamma=GAMMA), build(*wild, gamma=GAMMA), strict=True):
            np.testing.assert_array_equal(x, y)


def test_batches_vmaps_and_single_sequences_agree():
    batch = rows(3)
    for build in functools.partial(n_step_windows, n=3, gamma=GAMMA), functools.partial(lambda_windows, gamma=GAMMA):
        whole = build(*batch)
        nested = build(*(x.reshape(2, -1, T) for x in batch))
        for x, y, z in zip(whole, jax.vmap(build)(*batch), nested, strict=True):
            np.testing.assert_array_equal(x, y)
            np.testing.assert_array_equal(x, z.reshape(B, T))
        alone = build(*(x[5] for x in batch))
        for x, y in zip(whole, alone, strict=True):
            np.testing.assert_allclose(x[5], y, rtol=1e-6)


def test_dtypes_and_gradients():
    flags = jnp.zeros(3, int), jnp.array([0, 1, 0]), jnp.ones(3, int)  # numbers for booleans
    for dtype in jnp.bfloat16, jnp.float32, jnp.result_type(float):
        one = jnp.ones(3, dtype)
        for windows in n_step_windows(one, *flags, 2, 0.5), lambda_windows(one, *flags, 0.5):
            assert windows.reward.dtype == windows.discount.dtype == dtype
    assert jnp.issubdtype(n_step_windows(jnp.ones(3, int), *flags, 2, 0.5).reward.dtype, jnp.floating)
    slope = jax.grad(lambda gamma: jnp.sum(n_step_windows(jnp.ones(3), *flags, 2, gamma).reward))(0.5)
    assert slope == 1  # only row 0 takes two rewards, 1 + gamma
    slopes = jax.grad(lambda r: jnp.sum(n_step_windows(r, *flags, 2, 0.5).reward))(jnp.ones(3))
    np.testing.assert_allclose(slopes, [1, 1.5, 1])
    end, valid = jnp.array([True, False]), jnp.array([True, False])  # the reset row holds rubbish
    rubbish = jnp.array([1.0, jnp.nan]), end, end & False, valid
    for build in (lambda g: n_step_windows(*rubbish, 2, g), lambda g: lambda_windows(*rubbish, g)):
        assert jax.grad(lambda g: jnp.sum(build(g).reward))(0.9) == 0  # noqa: B023


def test_bad_arguments_are_refused_by_name():
    no = jnp.zeros(3, bool)
    for n in 0, 2.5:
        with pytest.raises(ValueError, match=f"n is {n}"):
            n_step_windows(jnp.ones(3), no, no, ~no, n, 0.9)
    with pytest.raises(ValueError, match="valid has shape"):
        lambda_windows(jnp.ones(3), no, no, ~no[:2], 0.9)
    with pytest.raises(ValueError, match="truncated has shape"):
        jax.jit(lambda_windows)(jnp.ones((2, 3)), jnp.zeros((2, 3), bool), jnp.zeros((4, 3), bool), no, 0.9)
    with pytest.raises(ValueError, match=r"reward has shape \(0,\); an axis of its own is empty"):
        n_step_windows(*(jnp.zeros(0),) * 4, 1, 0.9)
