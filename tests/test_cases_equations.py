"""Inputs on which equations, losses, replay and exploration once failed: each has a right value, or one line."""

import contextlib
import doctest
import functools
import gc
import inspect
import io
import re

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql import bellman, conformance, distributional, explore, losses, planning, replay
from jaxql.bellman import SIGNED_LOGP1_PAIR, checked
from jaxql.losses import backups, heads
from jaxql.replay import n_step_transition, prioritised_replay, sum_tree, uniform_replay, zero_step
from jaxql.types import Sequence, Transition

pytestmark = pytest.mark.cases
HALF = jnp.bfloat16
COMPILED = []  # the functions that XLA compiled, in order
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: COMPILED.append(event) if event.endswith("backend_compile_duration") else None
)


def refuses(call, *words):
    """Asserts that a call raises ValueError, on one line that holds these words."""
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


# Prioritised replay is not poisoned from outside.


def filled(capacity=8, envs=4, ticks=2, **options):
    """A prioritised replay of `ticks` valid rows of each env, and its ring."""
    store = prioritised_replay(capacity, **options)
    step = zero_step(jnp.zeros((envs, 1)))._replace(valid=jnp.ones(envs, bool))
    ring = store.init(step)
    add = jax.jit(store.add)
    for _ in range(ticks):
        ring = add(ring, step)
    return store, ring, add, step


@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan, 1e300])
@pytest.mark.trust(7)
def test_m2_an_error_that_is_no_number_leaves_its_row_as_it_was(poison):
    store, ring, add, step = filled()
    index, errors = jnp.arange(8), np.arange(1.0, 9.0)
    ring = store.update(ring, index, errors, 1.0)
    poisoned = store.update(ring, index[:2], np.array([poison, 5.0]), 1.0)
    priorities = sum_tree.read(poisoned.priorities, index)
    np.testing.assert_allclose(priorities, [1, 5, 3, 4, 5, 6, 7, 8], rtol=1e-5)
    np.testing.assert_allclose(sum_tree.total(poisoned.priorities), 39, rtol=1e-5)
    for _ in range(50):
        poisoned = add(poisoned, step)
    batch = store.sample(poisoned, jax.random.key(0), 800, 0.9, 0.5)
    rows = np.bincount(batch.index, minlength=12)
    np.testing.assert_array_equal(np.sort(rows)[-8:], 100)  # eight rows that entered alike
    np.testing.assert_allclose(batch.weight, 1, rtol=1e-5)


@pytest.mark.parametrize(("errors", "alpha"), [([1e38, 0.0], 2.0), ([3e38, 1e-30], 1.0), ([1e30, 1.0], 8.0)])
def test_m2_no_finite_error_overflows_the_tree(errors, alpha):
    store, ring, *_ = filled()
    ring = store.update(ring, jnp.arange(2), jnp.array(errors), alpha)
    batch = store.sample(ring, jax.random.key(0), 64, 0.9, 1.0)
    assert jnp.all(jnp.isfinite(jnp.concatenate([x.ravel() for x in ring.priorities])))
    assert jnp.all(sum_tree.read(ring.priorities, jnp.arange(8)) > 0), "every row stays in play"
    assert jnp.all(jnp.isfinite(batch.weight)) and jnp.all(batch.weight > 0)


@pytest.mark.trust(7)
def test_m2_all_of_a_batch_may_be_poison():
    store, ring, *_ = filled(shards=2)
    before = ring
    for _ in range(3):
        ring = store.update(ring, jnp.arange(4), jnp.full(4, jnp.nan), 0.0)
    jax.tree.map(np.testing.assert_array_equal, ring, before)


# A next state in which every action is masked counts as an end.


def transitions(discount):
    return Transition(
        obs=jnp.array([0, 1]),
        action=jnp.array([1, 0]),
        reward=jnp.array([1.5, 0.25]),
        discount=jnp.asarray(discount),
        next_obs=jnp.array([1, 2]),
        weight=jnp.ones(2),
    )


HEADS = {
    "scalar": (heads.scalar(), lambda x: x[..., 0]),
    "categorical": (heads.categorical(-2.0, 2.0, 3), lambda x: x),
    "quantile": (heads.quantile(3), lambda x: x),
    "hl_gauss": (heads.hl_gauss(-2.0, 2.0, 3), lambda x: x),
}
RULES = {
    "greedy": backups.greedy,
    "double": backups.double,
    "soft": backups.soft(0.1),
    "munchausen": backups.munchausen(0.1),
    "expected_sarsa": backups.expected_sarsa(0.1),
}


@pytest.mark.parametrize(("head", "rule"), [(head, "greedy") for head in HEADS] + [("scalar", rule) for rule in RULES])
@pytest.mark.trust(12)
def test_m3_a_next_state_without_legal_actions_is_an_end(head, rule):
    table = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 3)))
    head, output = HEADS[head]
    options = dict(backup=RULES[rule], head=head)

    @functools.partial(jax.jit, static_argnums=2)
    def loss(params, rows, masked):
        mask = jnp.array([[1, 1], [0, 0]]) if masked else None
        return losses.q_loss(params, table, rows, lambda p, obs: (output(p[obs]), ()), mask=mask, **options)

    (got, info), slope = jax.value_and_grad(loss, has_aux=True)(table, transitions([0.9, 0.9]), True)
    (want, other), other_slope = jax.value_and_grad(loss, has_aux=True)(table, transitions([0.9, 0.0]), False)
    assert jnp.isfinite(got)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), (got, info), (want, other))
    np.testing.assert_allclose(slope, other_slope, rtol=1e-5, atol=1e-7)
    if rule == "greedy":
        with pytest.raises(ValueError, match="no action is legal in a next state that bootstraps"):
            checked(functools.partial(loss, masked=True))(table, transitions([0.9, 0.9]))
        checked(functools.partial(loss, masked=True))(table, transitions([0.9, 0.0]))  # past an end none is needed


NONE = jnp.full(2, -jnp.inf)
Q = jnp.array([0.5, 1.0])
LOGITS, ATOMS = jnp.zeros((2, 3)), jnp.arange(3.0)
WITHOUT_ACTIONS = {  # errors, or targets, of a discount, where no action is legal at t
    "q_learning": lambda d: bellman.q_learning(Q, 0, 1.0, d, NONE),
    "double_q_learning": lambda d: bellman.double_q_learning(Q, 0, 1.0, d, NONE, NONE),
    "sarsa": lambda d: bellman.sarsa(Q, 0, 1.0, d, NONE, 0),
    "expected_sarsa": lambda d: bellman.expected_sarsa(Q, 0, 1.0, d, NONE, jnp.ones(2) / 2),
    "qv_max": lambda d: bellman.qv_max(0.5, 1.0, d, NONE),
    "persistent_q_learning": lambda d: bellman.persistent_q_learning(Q, 0, 1.0, d, NONE, 0.5),
    "advantage_learning": lambda d: bellman.advantage_learning(Q, 0, 1.0, d, NONE, Q),
    "clipped_double_q_learning": lambda d: bellman.clipped_double_q_learning(Q, 0, 1.0, d, NONE, NONE, NONE),
    "soft_q_learning": lambda d: bellman.soft_q_learning(Q, 0, 1.0, d, NONE),
    "munchausen_q_learning": lambda d: bellman.munchausen_q_learning(Q, 0, 1.0, d, NONE, Q),
    "q_lambda": lambda d: bellman.q_lambda(Q[None], [0], [1.0], d[None], NONE[None], 0.5),
    "tree_backup": lambda d: bellman.tree_backup(Q[None], [0], [1.0], d[None], NONE[None], [0], jnp.ones((1, 2)) / 2),
    "c51_target": lambda d: distributional.c51_target(1.0, d, LOGITS, NONE, ATOMS),
    "quantile_target": lambda d: distributional.quantile_target(1.0, d, jnp.full((2, 3), -jnp.inf), NONE),
    "two_hot_target": lambda d: distributional.two_hot_target(1.0, d, NONE, NONE, ATOMS),
    "hl_gauss_target": lambda d: distributional.hl_gauss_target(1.0, d, NONE, NONE, ATOMS),
}


@pytest.mark.parametrize("name", WITHOUT_ACTIONS)
def test_m3_equations_do_not_bootstrap_from_no_action(name):
    target = WITHOUT_ACTIONS[name]
    got, want = target(jnp.array(0.9)), target(jnp.array(0.0))
    assert jnp.all(jnp.isfinite(got))
    np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match="no action is legal"):
        checked(target)(jnp.array(0.9))


def test_m3_an_illegal_action_taken_earns_no_infinite_bonus():
    q_now, q = jnp.array([-jnp.inf, 1.0]), jnp.zeros(2)
    assert bellman.advantage_learning(q, 0, 1.0, 0.0, q, q_now) == 1.0
    assert bellman.munchausen_q_learning(q, 0, 1.0, 0.0, q, q_now, alpha=0.5, floor=-2.0) == 0.0
    values = backups.ActionValues(jnp.array([0]), target_now=q_now[None], target_next=q[None])
    assert backups.advantage(0.9)(values).bonus == 0
    assert backups.munchausen(0.1, 0.5, -2.0)(values).bonus == -1.0


def test_m3_sequences_end_where_no_action_is_legal():
    rows = Sequence(
        obs=jnp.array([[0, 1]]),
        action=jnp.array([[0]]),
        reward=jnp.array([[1.0]]),
        discount=jnp.array([[0.9]]),
        bootstrap_index=jnp.array([[1]]),
        valid=jnp.ones((1, 1), bool),
        memory=jnp.zeros(1),
        weight=jnp.ones(1),
    )
    table = jnp.array([[0.0, 0.0], [-jnp.inf, -jnp.inf]])
    errors = [
        losses.r2d2_loss(table, table, rows._replace(discount=jnp.array([[d]])), look_up)[1].td_errors
        for d in (0.9, 0.0)
    ]
    assert jnp.all(jnp.isfinite(errors[0]))
    np.testing.assert_array_equal(*errors)


def look_up(params, obs, memory):
    return params[obs], memory


# Half precision is computed in float32, and rounded once.


def slow_returns(r, d, v, lambda_):
    """Lambda-returns in float64."""
    out, g = np.zeros(len(r)), float(v[-1])
    for t in reversed(range(len(r))):
        g = out[t] = r[t] + d[t] * ((1 - lambda_) * v[t] + lambda_ * g)
    return out


def test_m5_discounted_returns_in_half_precision():
    ones = jnp.ones(1000, HALF)
    gamma = jnp.full(1000, 0.99, HALF)
    returns = bellman.discounted_returns(ones, gamma, jnp.zeros(1000, HALF))
    exact = 1 / (1 - float(gamma[0]))
    assert returns.dtype == HALF
    assert abs(float(returns[0]) - exact) <= 0.25  # 85.33, and neighbours in bfloat16 are 0.5 apart
    want = slow_returns(np.ones(1000), np.full(1000, float(gamma[0])), np.zeros(1000), 1.0)
    np.testing.assert_array_equal(returns, jnp.asarray(want, jnp.float32).astype(HALF))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("batched", [False, True])
def test_m5_every_recursion_is_rounded_once(dtype, batched, length=300):
    rng = np.random.default_rng(0)
    r, v = (jnp.asarray(rng.uniform(0.5, 1, length), dtype) for _ in range(2))
    d = jnp.full(length, 0.99, dtype)
    r64, d64, v64 = (np.asarray(x, np.float64) for x in (r, d, v))
    whole, mixed = slow_returns(r64, d64, v64, 1.0), slow_returns(r64, d64, v64, 0.75)
    unit = jnp.ones(length, dtype)
    off_policy = r64 + d64 * v64  # traces of 1 with q_t = v_t are corrected by nothing but the next error
    for t in reversed(range(length - 1)):
        off_policy[t] = r64[t] + d64[t] * (v64[t] + off_policy[t + 1] - v64[t])
    windows = np.array([np.sum(0.99 ** np.arange(min(100, length - t)) * r64[t : t + 100]) for t in range(length)])
    v_tm1 = jnp.asarray(whole - 0.1, dtype)  # of about the size of the return: the error is a small difference
    no = jnp.zeros(length, bool)
    cases = {
        "lambda_returns": (bellman.lambda_returns, (r, d, v, 0.75), mixed),
        "td_lambda": (bellman.td_lambda, (v_tm1, r, d, v, 1.0), whole - np.asarray(v_tm1, np.float64)),
        "off_policy": (
            bellman.general_off_policy_returns_from_q_and_v,
            (v[:-1], v, r, d, unit[:-1]),
            off_policy,
        ),
        "importance": (
            bellman.importance_corrected_td_errors,
            (r, d, unit, 1.0, jnp.append(unit[:1], v)),
            whole - np.append(1.0, v64[:-1]),
        ),
        "windows": (lambda *rows: bellman.n_step_windows(*rows, 100, 0.99).reward, (r, no, no, ~no), windows),
    }
    for name, (f, args, want) in cases.items():
        if batched:
            args = [x if np.ndim(x) == 0 else jnp.stack([x, x]) for x in args]
        got = f(*args)
        assert got.dtype == dtype, name
        got = np.asarray(got[1] if batched else got, np.float64)
        rounded = np.asarray(jnp.asarray(want, jnp.float32).astype(dtype), np.float64)
        ulp = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(got, rounded, rtol=1.01 * ulp, atol=1e-5, err_msg=name)


def test_m5_windows_of_replay_and_transformed_returns():
    ones = jnp.ones((600, 1), HALF)
    rows = zero_step(jnp.zeros((600, 1)))._replace(reward=ones, valid=ones > 0, terminated=ones < 0, truncated=ones < 0)
    rows = rows._replace(obs=ones, action=jnp.zeros((600, 1), jnp.int32))
    batch = n_step_transition(rows, jnp.int32(0), jnp.int32(0), jnp.ones(()), 0.99, 500, 1)
    want = (1 - 0.99**500) / 0.01
    assert batch.reward.dtype == HALF
    assert abs(float(batch.reward) - want) <= 0.25
    gamma, zeros = jnp.full(600, 0.99, HALF), jnp.zeros(600, HALF)
    got = bellman.transformed_lambda_returns(SIGNED_LOGP1_PAIR, ones[:, 0], gamma, zeros)
    assert got.dtype == HALF
    np.testing.assert_allclose(float(got[0]), np.log1p(1 / (1 - float(gamma[0]))), rtol=2**-8)


# Symmetric bins, and sums that cancel.


@pytest.mark.parametrize("bins", [2, 50, 255, 601])
@pytest.mark.parametrize(
    "pair", ["SIGNED_LOGP1_PAIR", "SIGNED_HYPERBOLIC_PAIR", "HYPERBOLIC_SIN_PAIR", "IDENTITY_PAIR"]
)
def test_m6_even_weights_of_symmetric_bins_are_worth_nothing(bins, pair):
    pair = getattr(bellman, pair)
    for two_hot in (bellman.unbiased_transform_pair, bellman.muzero_pair):
        assert two_hot(-20.0, 20.0, bins, pair).apply_inv(jnp.full(bins, 1 / bins)) == 0
    values = jnp.array([-1e4, -3.0, -0.0, 1.0, 2e4])
    coded = bellman.unbiased_transform_pair(-20.0, 20.0, bins, SIGNED_LOGP1_PAIR).apply(values)
    np.testing.assert_allclose(jnp.sum(coded, axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("number", [2, 51, 255])
def test_m6_a_fresh_head_starts_at_nothing(number):
    atoms = SIGNED_LOGP1_PAIR.apply_inv(jnp.linspace(-20.0, 20.0, number))
    atoms = (atoms - atoms[::-1]) / 2
    logits = jnp.zeros((1, 2, number))
    assert not jnp.any(distributional.categorical_mean(logits, atoms))
    assert not jnp.any(distributional.mean(atoms))
    for head in (heads.two_hot(atoms=atoms), heads.categorical(atoms=atoms), heads.two_hot(-10.0, 10.0, number)):
        assert not jnp.any(head.q_values(logits))
    edges = jnp.append(atoms, atoms[-1] * 2).at[0].multiply(2) if number == 2 else atoms
    symmetric = (edges - edges[::-1]) / 2
    assert not jnp.any(heads.hl_gauss(edges=symmetric).q_values(jnp.zeros((1, 2, len(symmetric) - 1))))


# Options out of range, and the limits where there is one.


def temperature_zero():
    q, q_t = jnp.array([0.5, 1.0]), jnp.array([[1.0, 3.0], [-jnp.inf, 2.0], [2.0, 2.0]])
    rest = jnp.array([0, 1, 0]), jnp.ones(3), jnp.full(3, 0.5)
    q = jnp.tile(q, (3, 1))
    return q, *rest, q_t


def test_m8_temperature_zero_is_the_maximum():
    q, a, r, d, q_t = temperature_zero()
    want = bellman.q_learning(q, a, r, d, q_t)
    for zero in (0, 0.0, jnp.array(0.0), 1e-45):
        np.testing.assert_allclose(bellman.soft_q_learning(q, a, r, d, q_t, temperature=zero), want, rtol=1e-6)
    cold = bellman.munchausen_q_learning(q, a, r, d, q_t, q, temperature=0.0, alpha=0.5, floor=-9.0)
    np.testing.assert_allclose(cold, want - 0.5 * jnp.array([0.5, 0.0, 0.5]), rtol=1e-6)
    traced = jax.jit(lambda t: bellman.soft_q_learning(q, a, r, d, q_t, temperature=t))
    np.testing.assert_allclose(traced(0.0), want, rtol=1e-6)
    slope = jax.grad(
        lambda x: bellman.soft_q_learning(q[0], 0, 1.0, 0.5, x, temperature=0.0, stop_target_gradients=False)
    )(q_t[1])
    np.testing.assert_array_equal(slope, [0.0, 0.5])


def test_m8_backups_at_temperature_zero_are_greedy():
    values = backups.ActionValues(
        jnp.array([0, 1]),
        target_now=jnp.array([[0.5, 1.0], [3.0, 1.0]]),
        target_next=jnp.array([[1.0, 3.0], [-jnp.inf, 2.0]]),
    )
    want = backups.expected_target(values.target_next, backups.greedy(values), jnp.ones(2), jnp.full(2, 0.5))
    soft, cold = backups.soft(0.0)(values), backups.munchausen(0.0, 0.5, -9.0)(values)
    for answer, bonus in ((soft, jnp.zeros(2)), (cold, jnp.array([-0.25, -1.0]))):
        got = backups.expected_target(values.target_next, answer, jnp.ones(2), jnp.full(2, 0.5))
        np.testing.assert_allclose(got, want + bonus, rtol=1e-6)
    np.testing.assert_array_equal(explore.softmax_probabilities(jnp.array([1.0, 3.0, 3.0]), 0.0), [0, 0.5, 0.5])


def nothing(trajectory, n=1):
    """A function under test of `conformance`."""
    return trajectory.reward


X = jnp.arange(3.0)
WRONG = {  # call: the words of its message
    "soft temperature": (lambda: bellman.soft_q_learning(Q, 0, 1.0, 0.9, Q, temperature=-1.0), "temperature"),
    "soft temperature nan": (lambda: bellman.soft_q_learning(Q, 0, 1.0, 0.9, Q, temperature=np.nan), "temperature"),
    "munchausen floor": (lambda: bellman.munchausen_q_learning(Q, 0, 1.0, 0.9, Q, Q, floor=1.0), "floor"),
    "munchausen alpha": (lambda: bellman.munchausen_q_learning(Q, 0, 1.0, 0.9, Q, Q, alpha=2.0), "alpha"),
    "persistent scale": (lambda: bellman.persistent_q_learning(Q, 0, 1.0, 0.9, Q, 1.5), "action_gap_scale", "[0, 1]"),
    "advantage scale": (lambda: bellman.advantage_learning(Q, 0, 1.0, 0.9, Q, Q, action_gap_scale=-0.1), "action_gap"),
    "lambda": (lambda: bellman.td_lambda(X, X, X, X, 95), "lambda_", "[0, 1]"),
    "retrace eps": (lambda: bellman.retrace(*[X[:, None]] * 2, *[[0] * 3] * 2, X, X, X[:, None], X, 1.0, -1.0), "eps"),
    "windows n": (lambda: bellman.n_step_windows(X, X < 0, X < 0, X >= 0, 0, 0.9), "n is 0", "at least 1"),
    "windows gamma": (lambda: bellman.n_step_windows(X, X < 0, X < 0, X >= 0, 1, 1.1), "gamma", "[0, 1]"),
    "power": (lambda: bellman.power(X, 0.0), "p is 0", "above 0"),
    "power_pair": (lambda: bellman.power_pair(-0.5), "p is -0.5"),
    "hyperbolic": (lambda: bellman.signed_hyperbolic(X, -0.1), "eps"),
    "bins": (lambda: bellman.twohot_pair(0.0, 1.0, 0), "num_bins is 0"),
    "bins of nothing": (lambda: bellman.twohot_pair(1.0, 1.0, 5), "min_value must be less"),
    "bins turned": (lambda: bellman.muzero_pair(3.0, -3.0, 5, SIGNED_LOGP1_PAIR), "min_value must be less"),
    "cvar 0": (lambda: distributional.cvar(X, level=0), "level is 0", "above 0"),
    "cvar 25": (lambda: distributional.cvar(X, level=25), "level is 25", "at most 1"),
    "var": (lambda: distributional.value_at_risk(X, level=-0.1), "level"),
    "var nan": (lambda: distributional.value_at_risk(X, level=float("nan")), "level"),
    "entropic": (lambda: distributional.entropic(X, beta=np.inf), "beta"),
    "cpw": (lambda: distributional.cpw(0.5, 0.0), "eta"),
    "wang": (lambda: distributional.wang(1.5, 0.0), "tau"),
    "sigma": (lambda: distributional.hl_gauss(0.0, X, -1), "sigma is -1", "above 0"),
    "sigma 0": (lambda: distributional.hl_gauss_target(0.0, 0.9, Q, Q, X, sigma=0.0), "sigma"),
    "edges": (lambda: distributional.hl_gauss(0.0, jnp.array([0.0, 0.0, 1.0])), "edges", "strictly ascending"),
    "atoms": (lambda: distributional.two_hot(0.5, X[::-1]), "atoms", "ascending"),
    "atoms nan": (lambda: distributional.two_hot(0.5, jnp.array([0.0, np.nan])), "atoms", "finite"),
    "support": (lambda: distributional.categorical_l2_project(X, X, X[::-1]), "z_q", "ascending"),
    "c51 atoms": (lambda: distributional.c51_target(0.0, 0.9, LOGITS, Q, X[::-1]), "atoms"),
    "td atoms": (lambda: distributional.categorical_td_learning(X[::-1], X, 0.0, 0.9, X, X), "v_atoms_tm1"),
    "kappa": (lambda: distributional.quantile_huber(X, X / 4, X, kappa=-1.0), "kappa"),
    "huber": (lambda: distributional.quantile_regression_loss(X, X / 4, X, -1.0), "huber_param"),
    "taus": (lambda: distributional.quantile_huber(X, X, X), "taus", "[0, 1]"),
    "midpoints": (lambda: distributional.midpoints(0), "n is 0"),
    "head atoms": (lambda: heads.categorical(atoms=X[::-1]), "support", "ascending"),
    "head range": (lambda: heads.two_hot(1.0, -1.0), "v_min must be less"),
    "head number": (lambda: heads.categorical(num_atoms=0), "num_atoms is 0"),
    "head quantiles": (lambda: heads.quantile(0), "num_quantiles is 0"),
    "head fractions": (lambda: heads.implicit_quantile(2.5), "num_fractions is 2.5"),
    "head kappa": (lambda: heads.full_quantile(4, kappa=-1.0), "kappa"),
    "head entropy": (lambda: heads.full_quantile(4, entropy_coefficient=-1.0), "entropy_coefficient"),
    "head sigma": (lambda: heads.hl_gauss(sigma=0.0), "sigma"),
    "head edges": (lambda: heads.hl_gauss(edges=X[::-1]), "support", "strictly ascending"),
    "backup soft": (lambda: backups.soft(-0.1), "temperature"),
    "backup munchausen": (lambda: backups.munchausen(alpha=-1.0), "alpha"),
    "backup sarsa": (lambda: backups.expected_sarsa(1.5), "epsilon"),
    "backup persistent": (lambda: backups.persistent(-0.5), "share"),
    "backup advantage": (lambda: backups.advantage(2.0), "gap"),
    "eta": (lambda: losses.sequence_priority(jnp.ones((1, 2)), jnp.ones((1, 2), bool), 2.0), "eta"),
    "capacity": (lambda: uniform_replay(0), "capacity is 0", "at least 1"),
    "capacity negative": (lambda: prioritised_replay(-5), "capacity is -5"),
    "n_step": (lambda: uniform_replay(8, n_step=0), "n_step is 0"),
    "stack": (lambda: prioritised_replay(8, stack=0), "stack is 0"),
    "shards": (lambda: uniform_replay(8, shards=0), "shards is 0"),
    "replay epsilon": (lambda: prioritised_replay(8, epsilon=-1e-6), "epsilon"),
    "batch size": (lambda: filled()[0].sample(filled()[1], jax.random.key(0), 0, 0.9), "batch_size is 0"),
    "replay gamma": (lambda: filled()[0].sample(filled()[1], jax.random.key(0), 2, 1.5), "gamma"),
    "replay beta": (lambda: filled()[0].sample(filled()[1], jax.random.key(0), 2, 0.9, -1.0), "beta"),
    "replay n": (lambda: filled()[0].sample(filled()[1], jax.random.key(0), 2, 0.9, 0.5, 3), "n is 3", "n_step"),
    "exponent": (lambda: filled()[0].update(filled()[1], jnp.arange(2), jnp.ones(2), -1.0), "exponent"),
    "epsilon": (lambda: explore.epsilon_greedy(jax.random.key(0), Q, 1.5), "epsilon is 1.5", "[0, 1]"),
    "epsilon nan": (lambda: explore.epsilon_greedy(jax.random.key(0), Q, np.nan), "epsilon"),
    "epsilon odds": (lambda: explore.epsilon_greedy_probabilities(Q, -0.1), "epsilon"),
    "softmax": (lambda: explore.softmax_probabilities(Q, -1.0), "temperature"),
    "conformance n": (lambda: conformance.check_n_step(nothing, 0), "n is 0"),
    "conformance tolerance": (lambda: conformance.check_td_error(nothing, tolerance=-1.0), "tolerance"),
    "conformance trajectories": (lambda: conformance.check_lambda(nothing, trajectories=0), "trajectories is 0"),
    "final": (lambda: explore.linear_epsilon(5, 2.0, 10), "final"),
}


@pytest.mark.parametrize("name", WRONG)
def test_m8_an_option_out_of_range_is_named(name):
    refuses(WRONG[name][0], *WRONG[name][1:])


def test_m8_traced_options_are_checked_in_the_mode_for_debugging():
    level = functools.partial(distributional.cvar, X)
    assert jax.jit(lambda x: level(level=x))(0.0) == 0.0  # the limit: the worst value
    with pytest.raises(ValueError, match=r"cvar: level is 25.*above 0 and at most 1"):
        checked(lambda x: level(level=x))(25.0)
    with pytest.raises(ValueError, match="two_hot: atoms are .* ascending"):
        checked(lambda z: distributional.two_hot(0.5, z))(X[::-1])


# Arguments of another type or shape.


def put(**fields):
    """Adds a step with other fields to a replay of two envs with observations [3] of bytes."""
    store = uniform_replay(8)
    step = zero_step(jnp.zeros((2, 3), jnp.uint8))._replace(valid=jnp.ones(2, bool))
    return store.add(store.init(step), step._replace(**fields))


STRANGE = {
    "obs shape": (lambda: put(obs=jnp.zeros((2, 4), jnp.uint8)), "obs has shape (2, 4)", "(2, 3)"),
    "obs dtype": (lambda: put(obs=jnp.zeros((2, 3))), "obs has dtype float32", "uint8"),
    "next_obs shape": (lambda: put(next_obs=jnp.zeros((2, 1), jnp.uint8)), "next_obs has shape (2, 1)"),
    "next_obs dtype": (lambda: put(next_obs=jnp.zeros((2, 3), jnp.int32)), "next_obs has dtype int32"),
    "obs tree": (lambda: put(obs={"image": jnp.zeros((2, 3), jnp.uint8)}), "obs has other parts"),
    "reward shape": (lambda: put(reward=jnp.zeros((2, 1))), "reward has shape (2, 1)", "(2,)"),
    "reward list": (lambda: put(reward=[0.0, 1.0]), "reward"),
    "envs": (lambda: put(valid=jnp.ones(3, bool)), "action has shape (2,)", "(3,)"),
    "action float": (lambda: put(action=jnp.zeros(2)), "action has dtype float32", "integers"),
    "flag": (lambda: put(terminated=jnp.zeros(2, jnp.int32)), "terminated has dtype int32", "bool"),
    "extra": (lambda: put(extra=jnp.zeros(2)), "extra has other parts"),
    "first step": (lambda: uniform_replay(8).init(zero_step(jnp.zeros((2, 3)))._replace(reward=0.0)), "reward"),
    "no stack": (lambda: uniform_replay(8, stack=4).init(zero_step(jnp.zeros((2, 3)))), "obs has shape", "stack is 4"),
    "index": (lambda: filled()[0].update(filled()[1], jnp.arange(2), jnp.ones(3), 1.0), "index", "errors"),
    "index float": (lambda: filled()[0].update(filled()[1], jnp.ones(2), jnp.ones(2), 1.0), "index"),
    "capacity float": (lambda: uniform_replay(1e5), "capacity is 100000.0", "whole number"),
    "capacity string": (lambda: prioritised_replay("8"), "capacity is '8'"),
    "linear_epsilon 0": (lambda: explore.linear_epsilon(5, 0.1, 0), "exploration_steps is 0", "above 0"),
    "linear_epsilon string": (lambda: explore.linear_epsilon(5, "0.1", 10), "final is '0.1'"),
    "linear_epsilon steps": (lambda: explore.linear_epsilon(None, 0.1, 10), "env_steps is None"),
    "epsilon shape": (lambda: explore.epsilon_greedy(jax.random.key(0), Q[None], jnp.ones(2)), "epsilon has shape"),
    "epsilon string": (lambda: explore.epsilon_greedy(jax.random.key(0), Q, "0.1"), "epsilon is '0.1'"),
    "q string": (lambda: explore.epsilon_greedy(jax.random.key(0), "q", 0.1), "q is 'q'"),
    "q scalar": (lambda: explore.epsilon_greedy(jax.random.key(0), 1.0, 0.1), "q has shape ()"),
    "discount string": (lambda: bellman.q_learning(Q, 0, 1.0, "0.9", Q), "discount_t is '0.9'"),
    "discount None": (lambda: bellman.td_learning(0.0, 1.0, None, 0.0), "discount_t is None"),
    "values ragged": (lambda: bellman.q_learning([[1.0], [1.0, 2.0]], 0, 1.0, 0.9, Q), "q_tm1"),
    "values complex": (lambda: bellman.td_learning(1j, 1.0, 0.9, 0.0), "v_tm1"),
    "action 0.0": (lambda: bellman.q_learning(Q, 0.0, 1.0, 0.9, Q), "a_tm1 has dtype float32", "integers"),
    "action bool": (lambda: bellman.sarsa(Q, 0, 1.0, 0.9, Q, True), "a_t has dtype bool"),
    "n float": (lambda: bellman.n_step_bootstrapped_returns(X, X, X, 2.5), "n is 2.5"),
    "n string": (lambda: bellman.n_step_bootstrapped_returns(X, X, X, "2"), "n is '2'"),
    "n bool": (lambda: bellman.n_step_bootstrapped_returns(X, X, X, True), "n is True"),
    "n traced": (lambda: jax.jit(lambda n: bellman.n_step_bootstrapped_returns(X, X, X, n))(2), "n is traced"),
    "n of windows traced": (
        lambda: jax.jit(lambda n: bellman.n_step_windows(X, X < 0, X < 0, X >= 0, n, 0.9).reward)(2),
        "n is traced",
    ),
    "bins traced": (
        lambda: jax.jit(lambda n: bellman.twohot_pair(0.0, 1.0, n).apply(0.5))(3),
        "num_bins is traced",
    ),
    "gamma string": (lambda: bellman.lambda_windows(X, X < 0, X < 0, X >= 0, "0.9"), "gamma is '0.9'"),
    "lambda list": (lambda: bellman.td_lambda(X, X, X, X, "0.9"), "lambda_ is '0.9'"),
    "stop string": (lambda: bellman.q_learning(Q, 0, 1.0, 0.9, Q, "no"), "stop_target_gradients is 'no'"),
    "level list": (lambda: distributional.cvar(X, level=[0.1, 0.2]), "level is [0.1, 0.2]"),
    "level None": (lambda: distributional.mean(None), "values is None"),
    "temperature array": (lambda: bellman.soft_q_learning(Q, 0, 1.0, 0.9, Q, temperature=Q), "temperature has shape"),
    "distortion": (lambda: distributional.distorted_mean(X, distortion=0.5), "distortion", "function"),
    "tx_pair": (lambda: bellman.transformed_q_lambda(Q[None], [0], [1.0], [0.9], Q[None], 1.0, tx_pair="x"), "tx_pair"),
    "compose": (lambda: bellman.compose_tx(SIGNED_LOGP1_PAIR, 2.0), "TxPair"),
    "head string": (lambda: heads.quantile("8"), "num_quantiles is '8'"),
    "measure": (lambda: heads.quantile(8, measure="cvar"), "measure", "function"),
    "loss action": (
        lambda: losses.dqn_loss(Q, Q, transitions([0.9, 0.9])._replace(action=jnp.ones(2)), look_up),
        "action has dtype float32",
    ),
    "loss discount": (
        lambda: losses.dqn_loss(Q, Q, transitions([0.9, 0.9])._replace(discount="0.9"), look_up),
        "discount is '0.9'",
    ),
    "apply": (lambda: losses.dqn_loss(Q, Q, transitions([0.9, 0.9]), Q), "apply", "function"),
    "backup": (lambda: losses.q_loss(Q, Q, transitions([0.9, 0.9]), look_up, backup="double"), "backup is 'double'"),
    "burn_in": (lambda: losses.r2d2_loss(Q, Q, None, look_up, burn_in=-1), "burn_in is -1"),
    "conformance f": (lambda: conformance.check_td_error("q_learning"), "f is 'q_learning'", "function"),
    "penalty": (lambda: heads.scalar("huber"), "penalty is 'huber'"),
    "weights": (lambda: losses.weighted_mean("x", jnp.ones(2)), "x is 'x'"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_m9_an_argument_of_another_kind_is_named(name):
    refuses(STRANGE[name][0], *STRANGE[name][1:])


def test_m9_what_changes_no_value_is_stored():
    """Rewards of NumPy's float64, whole rewards, and observations of a narrower type."""
    store = uniform_replay(8)
    step = zero_step(jnp.zeros((2, 3)))._replace(valid=np.ones(2, bool))
    ring = store.init(step)
    for fields in (
        dict(reward=np.array([2.0, 2.0])),
        dict(reward=np.array([2, 2])),
        dict(obs=np.ones((2, 3), np.uint8), reward=np.array([2.0, 2.0], np.float16)),
        dict(action=np.array([1, 1], np.int64), reward=np.array([2.0, 2.0])),
    ):
        ring = store.add(ring, step._replace(**fields))
    assert jnp.all(store.sample(ring, jax.random.key(0), 16, 0.9).reward == 2)
    assert losses.weighted_mean(np.array([1, 2]), np.array([1, 1])) == 1.5
    assert explore.linear_epsilon(0, 0.5, 100) == 1
    assert jax.jit(explore.linear_epsilon)(5, 0.25, 0) == 0.25  # a traced 0: no schedule


# One rule of best and legal actions.

INF, NAN = np.inf, np.nan
RULE = {  # a row: its best actions, its legal ones
    "all illegal": ([-INF, -INF, -INF], [1, 1, 1], [1, 1, 1]),
    "some illegal": ([-INF, 2.0, 2.0], [0, 1, 1], [0, 1, 1]),
    "NaN among numbers": ([NAN, 2.0, 1.0], [0, 1, 0], [1, 1, 1]),
    "NaN among illegal": ([-INF, NAN, NAN], [0, 1, 1], [0, 1, 1]),
    "all NaN": ([NAN, NAN, NAN], [1, 1, 1], [1, 1, 1]),
    "NaN, illegal, number": ([NAN, -INF, -1e30], [0, 0, 1], [1, 0, 1]),
    "infinite": ([INF, INF, 0.0], [1, 1, 0], [1, 1, 1]),
    "infinite and NaN": ([INF, NAN, -INF], [1, 0, 0], [1, 1, 0]),
}


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", RULE)
@pytest.mark.trust(12)
def test_m14_one_rule_for_actions_and_their_odds(name, epsilon, draws=4000):
    q, best, legal = (np.asarray(x, np.float32) for x in RULE[name])
    want = (1 - epsilon) * best / best.sum() + epsilon * legal / legal.sum()
    odds = explore.epsilon_greedy_probabilities(q, epsilon)
    np.testing.assert_allclose(odds, want, atol=1e-6)
    np.testing.assert_allclose(jnp.sum(odds), 1, rtol=1e-6)
    actions = explore.epsilon_greedy(jax.random.key(0), jnp.tile(q, (draws, 1)), epsilon)
    seen = np.bincount(actions, minlength=3) / draws
    np.testing.assert_allclose(seen, want, atol=5 * np.sqrt(0.25 / draws))
    assert not np.any(seen[want == 0])
    jitted = jax.jit(explore.epsilon_greedy)(jax.random.key(0), jnp.tile(q, (draws, 1)), epsilon)
    np.testing.assert_array_equal(jitted, actions)


@pytest.mark.parametrize("name", RULE)
def test_m14_softmax_follows_the_rule(name):
    q, best, legal = (np.asarray(x, np.float64) for x in RULE[name])
    soft, cold = explore.softmax_probabilities(q, 0.5), explore.softmax_probabilities(q, 0.0)
    np.testing.assert_allclose(cold, best / best.sum(), atol=1e-6)
    number = np.isfinite(q)
    if number.any() and not np.any(q == INF):
        weight = np.where(number, np.exp(2 * np.where(number, q - q[number].max(), 0)), 0)
        np.testing.assert_allclose(soft, weight / weight.sum(), atol=1e-6)
    else:
        np.testing.assert_allclose(soft, best / best.sum(), atol=1e-6)
    assert not np.any(np.asarray(soft)[legal == 0])


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", RULE)
def test_m14_planning_follows_the_rule(name, epsilon):
    q, best, legal = (np.asarray(x, np.float32) for x in RULE[name])
    np.testing.assert_allclose(planning.greedy_policy(q, tie="uniform"), best / best.sum(), atol=1e-6)
    first = planning.greedy_policy(q[None])
    assert first.dtype == np.int32 and first.tolist() == [int(np.argmax(best))]
    odds = (1 - epsilon) * best / best.sum() + epsilon * legal / legal.sum()
    np.testing.assert_allclose(planning.epsilon_soft_policy(q, epsilon, tie="uniform"), odds, atol=1e-6)


# New rows enter at the greatest of recent priorities.


def entered(store, ring, add, step):
    """The priority of the rows that the next step stores."""
    ring = add(ring, step)
    slots = len(ring.rows.valid)
    index = (ring.num_steps - 1) % slots * len(step.valid) + jnp.arange(len(step.valid))
    return ring, np.asarray(sum_tree.read(ring.priorities, index))


def test_m15_new_rows_enter_at_the_level_of_small_errors():
    store, ring, add, step = filled(capacity=64, envs=4, ticks=16)
    ring = store.update(ring, jnp.arange(64), jnp.full(64, 0.001), 0.6)
    ring, p = entered(store, ring, add, step)
    np.testing.assert_allclose(p, 0.001001**0.6, rtol=1e-4)
    batch = store.sample(ring, jax.random.key(0), 6400, 0.9)
    share = np.mean(np.asarray(batch.index) // 4 == 16)
    np.testing.assert_allclose(share, 1 / 16, atol=0.02)  # 4 of 64 rows, drawn as often as the others


def test_m15_an_outlier_is_forgotten_and_a_rise_is_followed_at_once():
    store, ring, add, step = filled(capacity=64, envs=4, ticks=16)
    update = jax.jit(store.update)
    assert entered(store, ring, add, step)[1][0] == 1  # nothing is known yet
    rng, recent = np.random.default_rng(0), []
    for errors in [np.full(4, 1000.0), *rng.uniform(0.001, 0.002, (70, 4)), np.full(4, 0.5)]:
        ring = update(ring, rng.choice(64, 4, replace=False), errors, 1.0)
        recent = [*recent, errors.max() + 1e-6][-64:]
        np.testing.assert_allclose(entered(store, ring, add, step)[1], max(recent), rtol=1e-4)
    assert max(recent) == 0.5 + 1e-6
    assert max(recent[:-1]) < 0.0021


# The entropy of the fractions of FQF.


def slow_entropy(logits):
    """Entropy of a softmax, and its gradient in the logits, in float64."""
    p = np.exp(logits - logits.max())
    p /= p.sum()
    entropy = -np.sum(p * np.log(p))
    return entropy, -p * (np.log(p) + entropy)


@pytest.mark.parametrize("coefficient", [0.001, 0.5])
def test_m16_the_entropy_of_fractions_keeps_them_apart(coefficient):
    rng = np.random.default_rng(0)
    logits, values, at_edges = rng.normal(size=(2, 5)), rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3, 4))
    params = {"logits": jnp.asarray(logits, jnp.float32), "values": values, "at_edges": at_edges}
    rows = transitions([0.9, 0.9])._replace(next_obs=jnp.array([1, 0]), weight=jnp.array([1.0, 3.0]))

    def network(params, obs):
        edges = distributional.fractions(params["logits"][obs])[0]
        return heads.FullQuantiles(params["values"][obs], edges, params["at_edges"][obs]), ()

    def loss(logits, a):
        own = params | {"logits": logits}
        return losses.full_quantile_loss(own, params, rows, network, entropy_coefficient=a)[0]

    slope = jax.jit(jax.value_and_grad(loss))
    (plain, plain_slope), (got, got_slope) = slope(params["logits"], 0.0), slope(params["logits"], coefficient)
    weight = np.array([1.0, 3.0]) / 4
    entropies, slopes = zip(*map(slow_entropy, logits), strict=True)
    np.testing.assert_allclose(got, plain - coefficient * np.dot(weight, entropies), rtol=1e-5)
    want = plain_slope - coefficient * weight[:, None] * np.array(slopes)
    np.testing.assert_allclose(got_slope, want, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(distributional.fraction_entropy(jnp.linspace(0, 1, 9)), np.log(8), rtol=1e-6)
    crowded = jax.grad(distributional.fraction_entropy)(jnp.array([0.0, 0.5, 0.5, 1.0]))
    assert jnp.all(jnp.isfinite(crowded))


# Eager calls compile once.


def public_functions():
    for module in (bellman, distributional, explore, losses, backups, heads, replay, sum_tree):
        for name, f in inspect.getmembers(module, inspect.isfunction):
            if not name.startswith("_") and f.__doc__ and f.__module__.startswith("jaxql."):
                yield f"{module.__name__.removeprefix('jaxql.')}.{name}", f


def example_of(f):
    """The examples of a docstring as one function: an eager call of f with plausible arguments."""
    examples = [x for x in doctest.DocTestParser().get_examples(inspect.getdoc(f)) if x.exc_msg is None]
    source = compile("".join(x.source for x in examples), f.__name__, "exec")
    names = dict(inspect.getmodule(inspect.unwrap(f)).__dict__)

    def run():
        with contextlib.redirect_stdout(io.StringIO()):
            exec(source, dict(names))

    return run


FUNCTIONS = {f: name for name, f in public_functions()}
FRESH = "unroll", "r2d2_loss"  # whose examples make a network anew at every call
T = jnp.full((2, 3), 0.5)
TA = jnp.full((2, 3, 4), 0.25)
A_T = jnp.zeros((2, 3), jnp.int32)
WITH_BATCHES = {
    "lambda_returns": lambda: bellman.lambda_returns(T, T, T, 0.5),
    "n_step": lambda: bellman.n_step_bootstrapped_returns(T, T, T, 2),
    "q_lambda": lambda: bellman.q_lambda(TA, A_T, T, T, TA, 0.5),
    "watkins": lambda: bellman.watkins_q_lambda(TA, A_T, T, T, TA, A_T, 0.5),
    "retrace": lambda: bellman.retrace(TA, TA, A_T, A_T, T, T, TA, T, 0.5),
    "importance": lambda: bellman.importance_corrected_td_errors(T, T, T, 0.5, jnp.zeros((2, 4))),
    "transformed": lambda: bellman.transformed_retrace(TA, TA, A_T, A_T, T, T, TA, T, 0.5, tx_pair=SIGNED_LOGP1_PAIR),
    "half": lambda: bellman.lambda_returns(T.astype(HALF), T.astype(HALF), T.astype(HALF), 0.5),
    "windows": lambda: bellman.n_step_windows(T, T < 0, T < 0, T > 0, 2, 0.9),
    "distorted_mean": lambda: distributional.distorted_mean(TA, distortion=lambda tau: tau**0.5),
    "unroll": lambda: losses.unroll(look_up, TA[0], A_T, jnp.zeros(2), T > 0),
    "checked": lambda: checked(bellman.q_learning)(Q, 0, 1.0, 0.9, Q),
}
EAGER = {name: example_of(f) for f, name in FUNCTIONS.items() if name.split(".")[-1] not in FRESH} | WITH_BATCHES


def compilations(call, times):
    """The number of programs compiled in so many calls, after two that may compile."""
    for _ in range(2):
        call()
    before = len(COMPILED)
    for _ in range(times):
        call()
    return len(COMPILED) - before


@pytest.mark.slow
def test_m7_no_public_function_compiles_again_when_called_again():
    again = {name: compilations(call, 2) for name, call in EAGER.items()}
    assert len(again) > 120
    assert not {name: count for name, count in again.items() if count}


@pytest.mark.slow
@pytest.mark.trust(24)
def test_m7_three_hundred_calls_leave_nothing_behind():
    grown = {}
    for name, call in EAGER.items():
        assert not compilations(call, 60), name
        gc.collect()
        before, arrays = resident(), len(jax.live_arrays())
        assert not compilations(call, 240), name
        gc.collect()
        assert len(jax.live_arrays()) <= arrays + 8, name
        grown[name] = resident() - before
    assert not {name: size for name, size in grown.items() if size > 8e6}  # bytes; a leak of programs is 2 MB a call


def resident():
    """Bytes of memory that this process holds."""
    with open("/proc/self/status") as file:
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", file.read())[1])
