"""Returns and TD errors of sequences against rlax, forward views in float64, and the laws that tie them together.

The definitions below look forward, as the books do: a return is a sum over all later steps. The library recurses
backwards, so that the two share no algorithm.
"""

import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxql import bellman

pytestmark = pytest.mark.float64
B, T, A = 3, 6, 3
TOLERANCE = 1e-10 if jax.config.jax_enable_x64 else 2e-5
PAIRS = {
    "identity": bellman.IDENTITY_PAIR,
    "logp1": bellman.SIGNED_LOGP1_PAIR,
    "hyperbolic": bellman.SIGNED_HYPERBOLIC_PAIR,
    "sinh": bellman.HYPERBOLIC_SIN_PAIR,
    "power": bellman.power_pair(0.4),
}
TRUE_PAIRS = {  # the same in float64, from their definitions
    "identity": (lambda x: x, lambda y: y),
    "logp1": (lambda x: math.copysign(math.log(abs(x) + 1), x), lambda y: math.copysign(math.exp(abs(y)) - 1, y)),
    "hyperbolic": (
        lambda x: math.copysign(math.sqrt(abs(x) + 1) - 1, x) + 1e-3 * x,
        lambda y: math.copysign(((math.sqrt(1 + 4e-3 * (abs(y) + 1 + 1e-3)) - 1) / 2e-3) ** 2 - 1, y),
    ),
    "sinh": (math.asinh, math.sinh),
    "power": (
        lambda x: math.copysign(((abs(x) / 0.4**0.5 + 1) ** 0.4 - 1) / 0.4**0.5, x),
        lambda y: math.copysign(((abs(y) * 0.4**0.5 + 1) ** 2.5 - 1) * 0.4**0.5, y),
    ),
}


@pytest.fixture(scope="module")
def rlax():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the oracle's own dependencies warn on import
        return pytest.importorskip("rlax", reason="rlax is not installed: its oracles are skipped")


def sequences(seed):
    """The arguments of all sequence functions by name, with some endings and some discounts of 1."""
    rng = np.random.default_rng(seed)
    states = {name: rng.normal(size=(B, T)) for name in ("r_t", "v_tm1", "v_t", "qa_tm1")}
    actions = {name: rng.integers(A, size=(B, T)) for name in ("a_tm1", "a_t")}
    return states | actions | {
        "q_tm1": rng.normal(size=(B, T, A)),
        "q_t": rng.normal(size=(B, T, A)),
        "discount_t": rng.choice([0.0, 0.9, 1.0], (B, T), p=[0.2, 0.6, 0.2]),
        "lambda_": rng.uniform(size=(B, T)),
        "lambda_s": rng.uniform(size=(B, T - 1)),
        "rho_tm1": rng.uniform(0, 2, size=(B, T)),
        "values": rng.normal(size=(B, T + 1)),
        "pi_t": rng.dirichlet(np.ones(A), (B, T)),
        "mu_t": rng.uniform(0.1, 1, size=(B, T)),
        "qa_t": rng.normal(size=(B, T - 1)),
        "log_rhos": rng.normal(size=(B, T - 1)),
        "c_t": rng.uniform(0, 1.5, size=(B, T)),
        "c_s": rng.uniform(0, 1.5, size=(B, T - 1)),
    }  # fmt: skip


# Definitions of one sequence (a dictionary without the batch axis).


def k_step(r, d, v, t, k):
    """Rewards of steps t .. k, then the value after the last of them."""
    total, gamma = 0.0, 1.0
    for i in range(t, k + 1):
        total += gamma * r[i]
        gamma *= d[i]
    return total + gamma * v[k]


def mixture(r, d, v, trace):
    """The lambda-return: k-step returns, weighted by where the trace ends."""
    returns = []
    for t in range(T):
        weight, total = 1.0, 0.0
        for k in range(t, T):
            last = k == T - 1
            total += weight * (1.0 if last else 1 - trace[k]) * k_step(r, d, v, t, k)
            weight *= trace[k]
        returns.append(total)
    return np.array(returns)


def off_policy(q_a, v, r, d, c):
    """Munos et al., equation 3: every later one-step error, discounted and weighted by the traces on the way to it."""
    returns = []
    for t in range(T):
        total, weight = r[t] + d[t] * v[t], 1.0
        for k in range(t + 1, T):
            weight *= d[k - 1] * c[k - 1]
            total += weight * (r[k] + d[k] * v[k] - q_a[k - 1])
        returns.append(total)
    return np.array(returns)


def pick(x, a):
    return np.array([row[i] for row, i in zip(x, a, strict=True)])


def mean(x):
    return np.array([sum(p * q for p, q in zip(*rows, strict=True)) for rows in zip(x["pi_t"], x["q_t"], strict=True)])


def over_actions(x, c):
    return off_policy(pick(x["q_t"], x["a_t"]), mean(x), x["r_t"], x["discount_t"], c)


def corrected(x):
    errors = []
    for t in range(T):
        total, weight = 0.0, x["rho_tm1"][t]
        for k in range(t, T):
            total += weight * (x["r_t"][k] + x["discount_t"][k] * x["values"][k + 1] - x["values"][k])
            weight *= x["discount_t"][k] * x["lambda_"][k] * (x["rho_tm1"][k + 1] if k + 1 < T else 0)
        errors.append(total)
    return np.array(errors)


def lambda_error(x, v, trace):
    return mixture(x["r_t"], x["discount_t"], v, trace) - pick(x["q_tm1"], x["a_tm1"])


def watkins(x):
    greedy = np.array([q[a] == max(q) for q, a in zip(x["q_t"], x["a_t"], strict=True)])
    return lambda_error(x, x["q_t"].max(-1), x["lambda_"] * greedy)


def retrace(x):
    c = [lam * min(1.0, p / mu) for lam, p, mu in zip(x["lambda_"], pick(x["pi_t"], x["a_t"]), x["mu_t"], strict=True)]
    return over_actions(x, c) - pick(x["q_tm1"], x["a_tm1"])


def retrace_continuous(x):
    c = [lam * min(1.0, math.exp(rho)) for lam, rho in zip(x["lambda_s"], x["log_rhos"], strict=True)]
    return off_policy(x["qa_t"], x["v_t"], x["r_t"], x["discount_t"], c) - x["qa_tm1"]


R, Q = "r_t discount_t", "q_tm1 a_tm1 r_t discount_t q_t"
FUNCTIONS = {  # name: (arguments, definition)
    "lambda_returns": (R + " v_t lambda_", lambda x: mixture(x["r_t"], x["discount_t"], x["v_t"], x["lambda_"])),
    "general_off_policy_returns_from_q_and_v": (
        "qa_t v_t r_t discount_t c_s", lambda x: off_policy(x["qa_t"], x["v_t"], x["r_t"], x["discount_t"], x["c_s"])),
    "general_off_policy_returns_from_action_values": (
        "q_t a_t r_t discount_t c_t pi_t", lambda x: over_actions(x, x["c_t"])),
    "importance_corrected_td_errors": (R + " rho_tm1 lambda_ values", corrected),
    "td_lambda": (
        "v_tm1 r_t discount_t v_t lambda_",
        lambda x: mixture(x["r_t"], x["discount_t"], x["v_t"], x["lambda_"]) - x["v_tm1"]),
    "sarsa_lambda": (Q + " a_t lambda_", lambda x: lambda_error(x, pick(x["q_t"], x["a_t"]), x["lambda_"])),
    "q_lambda": (Q + " lambda_", lambda x: lambda_error(x, x["q_t"].max(-1), x["lambda_"])),
    "retrace": ("q_tm1 q_t a_tm1 a_t r_t discount_t pi_t mu_t lambda_", retrace),
    "retrace_continuous": ("qa_tm1 qa_t v_t r_t discount_t log_rhos lambda_s", retrace_continuous),
    "watkins_q_lambda": (Q + " a_t lambda_", watkins),
    "tree_backup": (
        Q + " a_t pi_t lambda_",
        lambda x: over_actions(x, x["lambda_"] * pick(x["pi_t"], x["a_t"])) - pick(x["q_tm1"], x["a_tm1"])),
}  # fmt: skip
OF_RLAX = [*FUNCTIONS][:9]


def call(name, x, **options):
    names, _ = FUNCTIONS[name]
    return getattr(bellman, name)(*(x[argument] for argument in names.split()), **options)


def defined(name, x):
    return np.array([FUNCTIONS[name][1]({key: value[b] for key, value in x.items()}) for b in range(B)])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_is_its_definition_batched_and_alone(name):
    x = sequences(0)
    want = defined(name, x)
    np.testing.assert_allclose(jax.jit(functools.partial(call, name))(x), want, atol=TOLERANCE)
    if name in ("lambda_returns", "retrace_continuous", "retrace"):  # batching is the same for all
        function = functools.partial(call, name)

        @jax.jit
        def variants(x):
            nested, alone = (jax.tree.map(lambda value, i=i: value[i], x) for i in (None, 0))
            return function(nested), jax.vmap(function)(x), function(alone)

        for got, same in zip(variants(x), (want[None], want, want[0]), strict=True):
            np.testing.assert_allclose(got, same, atol=TOLERANCE)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient_is_the_slope_of_the_definition_in_a_random_direction(name):
    x, step = sequences(1), 1e-6
    rng = np.random.default_rng(2)
    floats = [key for key in FUNCTIONS[name][0].split() if not key.startswith("a_")]
    directions = {key: rng.normal(size=x[key].shape) for key in floats}
    weights = rng.normal(size=(B, T))

    @jax.jit
    def gradients(values):
        total = lambda v, stop: jnp.sum(weights * call(name, x | v, stop_target_gradients=stop))  # noqa: E731
        return jax.grad(total)(values, False), jax.grad(total)(values, True)

    free, constant = gradients({key: jnp.asarray(x[key]) for key in floats})
    for key in floats:
        ends = [np.sum(weights * defined(name, x | {key: x[key] + s * directions[key]})) for s in (step, -step)]
        slope = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(np.sum(free[key] * directions[key]), slope, rtol=1e-4, atol=1e-4)
        if name != "importance_corrected_td_errors":  # whose stop is rlax's, compared with it below
            predicts = key in ("q_tm1", "v_tm1", "qa_tm1")
            np.testing.assert_allclose(constant[key], free[key] if predicts else np.zeros_like(x[key]), atol=1e-6)


@pytest.mark.parametrize("name", OF_RLAX)
def test_function_agrees_with_rlax_in_value_and_gradient(rlax, name):
    import rlax._src.multistep as unexported

    theirs = getattr(rlax, name, None) or getattr(unexported, name)
    x = sequences(3)
    args = [jnp.asarray(x[key]) for key in FUNCTIONS[name][0].split()]
    floats = tuple(i for i, arg in enumerate(args) if jnp.issubdtype(arg.dtype, jnp.floating))

    def oracle(*args, stop):
        return jax.vmap(lambda *args: theirs(*args, stop_target_gradients=stop))(*args)

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradient(function, stop, *args):
        def total(*args):
            errors = function(*args, stop=stop)
            return jnp.sum(errors**3), errors

        return jax.grad(total, floats, has_aux=True)(*args)

    ours = lambda *args, stop: getattr(bellman, name)(*args, stop_target_gradients=stop)  # noqa: E731
    for stop in True, False:
        got, want = (value_and_gradient(function, stop, *args) for function in (ours, oracle))
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-3)


def others_of_rlax(library, x, stop):
    """The functions that take n, a value or a pair besides their data, of a batch or of one sequence."""
    r, d, q, then, a = (x[key] for key in ("r_t", "discount_t", "q_tm1", "q_t", "a_tm1"))
    options = dict(stop_target_gradients=stop, tx_pair=library.SIGNED_LOGP1_PAIR)
    retraced = q, then, a, x["a_t"], r, d, x["pi_t"], x["mu_t"], x["lambda_"]
    return {
        "n": library.n_step_bootstrapped_returns(r, d, x["v_t"], 3, x["lambda_"], stop_target_gradients=stop),
        "discounted": library.discounted_returns(r, d, x["v_t"], stop_target_gradients=stop),
        "transformed q": library.transformed_q_lambda(q, a, r, d, then, x["lambda_"], **options),
        "transformed retrace": library.transformed_retrace(*retraced, **options),
        "transformed n": library.transformed_n_step_q_learning(q, a, then, x["a_t"], r, d, 3, **options),
    }


@pytest.mark.parametrize("stop", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_gradients_of_the_others_are_rlaxs(rlax, stop):
    x = {key: jnp.asarray(value) for key, value in sequences(4).items()}
    floats = {key: value for key, value in x.items() if jnp.issubdtype(value.dtype, jnp.floating)}

    def slopes(library, wrap):
        def total(values, name):
            return jnp.sum(wrap(lambda x: others_of_rlax(library, x, stop)[name])(x | values) ** 3)

        names = "n", "discounted", "transformed q", "transformed retrace", "transformed n"
        return jax.jit(lambda values: {name: jax.grad(total)(values, name) for name in names})(floats)

    got, want = slopes(bellman, lambda f: f), slopes(rlax, jax.vmap)
    for name, key in ((name, key) for name in want for key in floats):
        np.testing.assert_allclose(got[name][key], want[name][key], rtol=1e-3, atol=1e-3, err_msg=f"{name}, {key}")


@pytest.mark.parametrize("n", [1, 2, 5, T, T + 3])
def test_n_step_returns_are_their_definition_and_rlaxs(rlax, n):
    x = sequences(5)
    r, d, v = (jnp.asarray(x[key]) for key in ("r_t", "discount_t", "v_t"))
    returns = jax.jit(functools.partial(bellman.n_step_bootstrapped_returns, n=n))
    want = [[k_step(r[b], d[b], v[b], t, min(t + n, T) - 1) for t in range(T)] for b in range(B)]
    np.testing.assert_allclose(returns(r, d, v), want, atol=TOLERANCE)
    traces = x["lambda_"]
    want = np.zeros((B, T))
    for b, t in np.ndindex(B, T):
        last = min(t + n, T) - 1
        want[b, t] = x["v_t"][b, last]
        for i in range(last, t - 1, -1):
            mixed = (1 - traces[b, i]) * x["v_t"][b, i] + traces[b, i] * want[b, t] if i < last else want[b, t]
            want[b, t] = x["r_t"][b, i] + x["discount_t"][b, i] * mixed
    np.testing.assert_allclose(returns(r, d, v, lambda_t=traces), want, atol=TOLERANCE)
    oracle = jax.jit(jax.vmap(lambda *args: rlax.n_step_bootstrapped_returns(*args[:3], n, args[3])))
    np.testing.assert_allclose(
        returns(r, d, v, lambda_t=x["lambda_"]), oracle(r, d, v, jnp.asarray(x["lambda_"])), atol=TOLERANCE
    )


def test_discounted_returns_take_a_value_or_values():
    x = sequences(6)
    r, d, v = x["r_t"], x["discount_t"], x["v_t"]
    want = [[k_step(r[b], d[b], v[b], t, T - 1) for t in range(T)] for b in range(B)]
    for values in v, v[:, -1], np.where(np.arange(T) == T - 1, v, np.nan):
        np.testing.assert_allclose(bellman.discounted_returns(r, d, values), want, atol=TOLERANCE)


@jax.jit
def reduced(x):
    """Pairs that must be equal, whatever the data."""
    data, q_t, a_t, pi, v = [x[key] for key in Q.split()[:4]], x["q_t"], x["a_t"], x["pi_t"], x["v_t"]
    r, d, mu = x["r_t"], x["discount_t"], x["mu_t"]
    none, trace, greedy_a = 0.0, x["lambda_"], jnp.argmax(q_t, -1)
    greedy, sure = jax.nn.one_hot(greedy_a, A), jax.nn.one_hot(a_t, A)
    monte_carlo = bellman.discounted_returns(r, d, v)
    expected = bellman.expected_sarsa(*data, q_t, pi)
    off = [x["q_tm1"], q_t, x["a_tm1"], a_t, r, d]
    v_all = x["values"]
    number = trace[0, 0]
    return {
        "td, lambda 0": (bellman.td_lambda(x["v_tm1"], r, d, v, none), bellman.td_learning(x["v_tm1"], r, d, v)),
        "td, lambda 1": (bellman.td_lambda(x["v_tm1"], r, d, v, 1.0) + x["v_tm1"], monte_carlo),
        "sarsa, lambda 0": (bellman.sarsa_lambda(*data, q_t, a_t, none), bellman.sarsa(*data, q_t, a_t)),
        "q, lambda 0": (bellman.q_lambda(*data, q_t, none), bellman.q_learning(*data, q_t)),
        "q with a number is Peng's": (
            bellman.q_lambda(*data, q_t, number), bellman.peng_q_lambda(*data, q_t, number)),
        "Watkins, lambda 0": (bellman.watkins_q_lambda(*data, q_t, a_t, none), bellman.q_learning(*data, q_t)),
        "Watkins is Peng's on greedy actions": (
            bellman.watkins_q_lambda(*data, q_t, greedy_a, number), bellman.peng_q_lambda(*data, q_t, number)),
        "Watkins is greedy tree backup": (
            bellman.watkins_q_lambda(*data, q_t, a_t, trace), bellman.tree_backup(*data, q_t, a_t, greedy, trace)),
        "tree backup, lambda 0": (bellman.tree_backup(*data, q_t, a_t, pi, none), expected),
        "tree backup of a sure policy is SARSA": (
            bellman.tree_backup(*data, q_t, a_t, sure, trace), bellman.sarsa_lambda(*data, q_t, a_t, trace)),
        "Retrace, lambda 0": (bellman.retrace(*off, pi, mu, none), expected),
        "Retrace of certain actions is tree backup": (
            bellman.retrace(*off, pi, jnp.ones_like(mu), trace, 0.0), bellman.tree_backup(*data, q_t, a_t, pi, trace)),
        "no correction, no difference": (
            bellman.importance_corrected_td_errors(r, d, jnp.ones_like(r), trace, v_all),
            bellman.td_lambda(v_all[:, :-1], r, d, v_all[:, 1:], trace)),
        "n 1": (bellman.n_step_bootstrapped_returns(r, d, v, 1, trace), bellman.lambda_returns(r, d, v, none)),
        "n T": (bellman.n_step_bootstrapped_returns(r, d, v, T, trace), bellman.lambda_returns(r, d, v, trace)),
        "identity, Q": (bellman.transformed_q_lambda(*data, q_t, trace), bellman.q_lambda(*data, q_t, trace)),
        "identity, Retrace": (
            bellman.transformed_retrace(*off, pi, mu, trace), bellman.retrace(*off, pi, mu, trace)),
        "identity, n 1": (
            bellman.transformed_n_step_q_learning(*data[:2], q_t, greedy_a, r, d, 1), bellman.q_learning(*data, q_t)),
        "identity, n 1, any action": (
            bellman.transformed_n_step_q_learning(*data[:2], q_t, a_t, r, d, 1), bellman.sarsa(*data, q_t, a_t)),
    }  # fmt: skip


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31))
def test_reductions(seed):
    for name, (got, want) in reduced(jax.tree.map(jnp.asarray, sequences(seed))).items():
        np.testing.assert_allclose(got, want, atol=TOLERANCE, err_msg=name)


def test_watkins_is_deaf_past_an_exploratory_action_and_peng_is_not():
    x = {key: jnp.asarray(value[0]) for key, value in sequences(7).items()}
    explored = 2
    greedy = jnp.argmax(x["q_t"], -1)
    a_t = greedy.at[explored].set(jnp.argmin(x["q_t"][explored]))
    data = [x[key] for key in Q.split()]
    data[3] = jnp.full(T, 0.9)
    louder = list(data)
    louder[2] = data[2].at[explored + 1].add(10.0)
    moved = bellman.watkins_q_lambda(*louder, a_t, 0.8) - bellman.watkins_q_lambda(*data, a_t, 0.8)
    np.testing.assert_array_equal(moved[: explored + 1], 0)
    assert moved[explored + 1] == pytest.approx(10)
    assert np.all(bellman.peng_q_lambda(*louder, 0.8) - bellman.peng_q_lambda(*data, 0.8) > 0, where=np.arange(T) <= 3)


@jax.jit
def all_but_corrected(x):
    steps = [bellman.n_step_bootstrapped_returns(x["r_t"], x["discount_t"], x["v_t"], n) for n in (1, 3)]
    return steps, {name: call(name, x) for name in FUNCTIONS if name != "importance_corrected_td_errors"}


@pytest.mark.parametrize("rubbish", [np.inf, -np.inf, np.nan])
def test_values_past_a_termination_never_count(rubbish):
    x = sequences(8)
    ended = x["discount_t"] == 0
    assert ended.any()
    dirty = dict(x)
    for key in "q_t", "v_t":
        dirty[key] = np.where(ended.reshape(ended.shape + (1,) * (x[key].ndim - 2)), rubbish, x[key])
    dirty["qa_t"] = np.where(ended[:, :-1], rubbish, x["qa_t"])
    for got, want in zip(*map(jax.tree.leaves, map(all_but_corrected, (dirty, x))), strict=True):
        np.testing.assert_allclose(got, want, atol=TOLERANCE)


def test_one_illegal_action_more_changes_nothing():
    x = sequences(9)
    more = {key: np.pad(x[key], ((0, 0), (0, 0), (0, 1)), constant_values=-np.inf) for key in ("q_tm1", "q_t")}
    more = x | more | {"pi_t": np.pad(x["pi_t"], ((0, 0), (0, 0), (0, 1)))}
    scale = {"tx_pair": bellman.SIGNED_HYPERBOLIC_PAIR}

    @jax.jit
    def everything(x):
        plain = {name: call(name, x) for name in ("q_lambda", "watkins_q_lambda", "retrace", "tree_backup")}
        off = [x[key] for key in FUNCTIONS["retrace"][0].split()]
        data = [x[key] for key in Q.split()]
        return plain | {
            "transformed_q_lambda": bellman.transformed_q_lambda(*data, 0.5, **scale),
            "transformed_retrace": bellman.transformed_retrace(*off, **scale),
        }

    got, want = everything(more), everything(x)
    for name in got:
        np.testing.assert_allclose(got[name], want[name], atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("name", PAIRS)
def test_pair_is_its_definition_increasing_odd_and_undone_by_its_inverse(name):
    pair, (there, back) = PAIRS[name], TRUE_PAIRS[name]
    pair = bellman.TxPair(jax.jit(pair.apply), jax.jit(pair.apply_inv))
    x = np.concatenate([-np.logspace(2, -4, 40), [0.0], np.logspace(-4, 2, 40)])
    y = pair.apply(x)
    np.testing.assert_allclose(y, [there(value) for value in x], rtol=1e-5, atol=1e-7)
    squashed = np.linspace(-4, 4, 41)
    np.testing.assert_allclose(pair.apply_inv(squashed), [back(value) for value in squashed], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(pair.apply_inv(y), x, rtol=2e-5, atol=1e-7)
    assert np.all(np.diff(y) > 0)
    np.testing.assert_allclose(pair.apply(-x), -y, rtol=1e-6)
    np.testing.assert_array_equal(pair.apply(np.array([-np.inf, np.inf])), [-np.inf, np.inf])
    np.testing.assert_array_equal(pair.apply_inv(np.array([-np.inf, np.inf])), [-np.inf, np.inf])


@pytest.mark.parametrize("name", PAIRS)
def test_slope_of_a_pair_is_right_at_zero_too(name):
    pair, true, step = PAIRS[name], TRUE_PAIRS[name], 1e-6
    for f, exact in zip(pair, true, strict=True):
        at = np.array([-2.0, 0.0, 1.5])
        slopes = [(exact(x + step) - exact(x - step)) / (2 * step) for x in at]
        np.testing.assert_allclose(jax.vmap(jax.grad(f))(jnp.asarray(at)), slopes, rtol=1e-4)


def test_pairs_agree_with_rlax(rlax):
    x = jnp.linspace(-5, 5, 31)
    names = "IDENTITY_PAIR SIGNED_LOGP1_PAIR SIGNED_HYPERBOLIC_PAIR HYPERBOLIC_SIN_PAIR".split()

    def everything(library, x):
        pairs = [getattr(library, name) for name in names]
        below = [f(x / 6) for f in library.DISCOUNT_TRANSFORM_PAIR]
        return [p.apply(x) for p in pairs], [p.apply_inv(x) for p in pairs], below, library.power(x, 0.3)

    ours, theirs = (jax.jit(functools.partial(everything, library))(x) for library in (bellman, rlax))
    for got, want, tolerance in zip(ours, theirs, (1e-5, 1e-3, 1e-6, 1e-5), strict=True):  # their inverses cancel
        rtol = 1e-3 if tolerance == 1e-3 else 1e-7
        for y, oracle in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(y, oracle, rtol=rtol, atol=tolerance)

    def two_hot(library):
        hyperbolic = library.SIGNED_HYPERBOLIC_PAIR
        return (
            library.twohot_pair(-4.0, 4.0, 9),
            library.muzero_pair(-2.0, 2.0, 11, hyperbolic),
            library.unbiased_transform_pair(-2.0, 2.0, 11, hyperbolic),
        )

    weights = jax.jit(lambda x: [pair.apply(x) for pair in two_hot(bellman)])(x)
    theirs = jax.jit(lambda x: [pair.apply(x) for pair in two_hot(rlax)])(x)
    back, their_back = (
        jax.jit(lambda ws, library=library: [p.apply_inv(w) for p, w in zip(two_hot(library), ws, strict=True)])(
            weights
        )
        for library in (bellman, rlax)
    )
    for got, want, inverse, their_inverse in zip(weights, theirs, back, their_back, strict=True):
        np.testing.assert_allclose(inverse, their_inverse, atol=1e-3)  # theirs cancels
        inside = np.asarray(want).sum(-1) > 0.5
        np.testing.assert_allclose(got[inside], want[inside], atol=1e-3)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(-12, 12, width=32), min_size=1, max_size=1))
def test_two_hot_weights_are_two_neighbours_that_average_to_the_value(values):
    x = jnp.asarray(values)
    for pair, end in (
        (bellman.twohot_pair(-10, 10, 41), 10),
        (bellman.unbiased_transform_pair(-2.0, 2.0, 15, PAIRS["hyperbolic"]), TRUE_PAIRS["hyperbolic"][1](2.0)),
    ):
        weights = np.asarray(pair.apply(x))[0]
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1, abs=1e-5)
        used = np.flatnonzero(weights)
        assert len(used) <= 2
        assert np.ptp(used) <= 1
        np.testing.assert_allclose(pair.apply_inv(weights[None]), np.clip(values, -end, end), atol=1e-4)


@pytest.mark.parametrize("name", [name for name in PAIRS if name != "identity"])
def test_transformed_functions_are_their_definition(rlax, name):
    pair, (there, back) = PAIRS[name], TRUE_PAIRS[name]
    there, back = np.vectorize(there), np.vectorize(back)
    x, n = sequences(10), 3
    true = x | {"q_t": back(x["q_t"])}
    off = FUNCTIONS["retrace"][0].split()

    def everything(library, tx_pair, x):
        data = [x[key] for key in Q.split()]
        return {
            "q": library.transformed_q_lambda(*data, x["lambda_"], tx_pair=tx_pair),
            "retrace": library.transformed_retrace(*(x[key] for key in off), tx_pair=tx_pair),
            "n": library.transformed_n_step_q_learning(
                *data[:2], x["q_t"], x["a_t"], *data[2:4], n, tx_pair=tx_pair
            ),
        }  # fmt: skip

    got = jax.jit(lambda x: everything(bellman, pair, x))(x)
    now = np.array([pick(q, a) for q, a in zip(x["q_tm1"], x["a_tm1"], strict=True)])
    bootstrap = np.array([pick(q, a) for q, a in zip(true["q_t"], x["a_t"], strict=True)])
    r, d = x["r_t"], x["discount_t"]
    steps = [[k_step(r[b], d[b], bootstrap[b], t, min(t + n, T) - 1) for t in range(T)] for b in range(B)]
    want = {
        "q": there(defined("q_lambda", true) + now) - now,
        "retrace": there(defined("retrace", true) + now) - now,
        "n": there(np.array(steps)) - now,
    }
    for key in want:
        np.testing.assert_allclose(got[key], want[key], atol=1e-4, err_msg=key)
    theirs = {"logp1": "SIGNED_LOGP1_PAIR", "hyperbolic": "SIGNED_HYPERBOLIC_PAIR", "sinh": "HYPERBOLIC_SIN_PAIR"}
    if name in theirs:
        oracle = jax.jit(jax.vmap(lambda x: everything(rlax, getattr(rlax, theirs[name]), x)))
        for key, value in oracle(jax.tree.map(jnp.asarray, x)).items():
            np.testing.assert_allclose(got[key], value, atol=1e-3, err_msg=key)


def test_transformed_returns_take_values_by_name_and_two_hot_pairs():
    x = sequences(11)
    r, d, v = x["r_t"], x["discount_t"], x["v_t"]
    pair = bellman.unbiased_transform_pair(-40.0, 40.0, 81, bellman.IDENTITY_PAIR)
    for transformed, plain, options in (
        (bellman.transformed_lambda_returns, bellman.lambda_returns, {"lambda_": 0.7}),
        (bellman.transformed_n_step_returns, bellman.n_step_bootstrapped_returns, {"n": 2}),
    ):
        got = transformed(pair, r, discount_t=d, v_t=pair.apply(v), **options)
        assert got.shape == (B, T, 81)
        np.testing.assert_allclose(pair.apply_inv(got), plain(r, d, v, **options), atol=1e-3)
    with pytest.raises(TypeError):
        bellman.transformed_lambda_returns(pair, r)


def test_dtypes_of_every_kind_are_taken():
    x = sequences(12)
    floats = {key: jnp.asarray(x[key], jnp.bfloat16) for key in ("q_tm1", "q_t", "v_tm1", "v_t")}
    r, d, a = jnp.ones((B, T), int), jnp.ones((B, T), bool), x["a_t"]

    @jax.jit
    def everything(q_tm1, q_t, v_tm1, v_t):
        return (
            bellman.td_lambda(v_tm1, r, d, v_t, 0.5),
            bellman.n_step_bootstrapped_returns(r, d, v_t, 2),
            bellman.watkins_q_lambda(q_tm1, a, r, d, q_t, a, 0.5),
            bellman.transformed_q_lambda(q_tm1, a, r, d, q_t, 0.5, tx_pair=PAIRS["hyperbolic"]),
        )

    for got in everything(**floats):
        assert got.dtype == jnp.bfloat16
        assert got.shape == (B, T)
    x = {key: jnp.asarray(value, int if value.dtype == int else jnp.bfloat16) for key, value in x.items()}
    for name in FUNCTIONS:
        got = jax.eval_shape(functools.partial(call, name), x | {"r_t": r, "discount_t": d})
        assert (got.dtype, got.shape) == (jnp.bfloat16, (B, T)), name


@pytest.mark.parametrize(
    ("function", "change", "message"),
    [
        ("td_lambda", {"v_t": np.ones((B, T + 1))}, "v_t has shape .*; its axis T needs length 6"),
        ("td_lambda", {"r_t": np.ones((B, T, 1))}, "r_t has shape"),
        ("td_lambda", {"lambda_": np.ones((B, T - 1))}, "lambda_ has shape .*; its axis T needs length 6"),
        ("td_lambda", {"lambda_": np.ones((1, T))}, "lambda_ has shape"),
        ("q_lambda", {"q_t": np.ones((B, T, A + 1))}, "q_t has shape .*; its axis A needs length 3"),
        ("retrace", {"mu_t": np.ones(B)}, "mu_t has shape"),
        ("general_off_policy_returns_from_q_and_v", {"qa_t": np.ones((B, T)), "c_s": np.ones((B, T))}, "one step less"),
        ("importance_corrected_td_errors", {"values": np.ones((B, T))}, "one step more"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_name(function, change, message):
    with pytest.raises(ValueError, match=f"{function}: {message}" if "step" not in message else message):
        jax.jit(functools.partial(call, function))(sequences(13) | change)


@pytest.mark.parametrize("n", [0, -1, 1.5])
def test_windows_of_no_whole_number_of_steps_are_refused(n):
    with pytest.raises(ValueError, match=f"n is {n}"):
        bellman.n_step_bootstrapped_returns(jnp.ones(3), jnp.ones(3), jnp.ones(3), n)


def test_a_sequence_may_be_one_step_long():
    """It is then worth what the last step of a longer one is."""
    x = sequences(15) | {"rho_tm1": np.ones((B, T))}
    last = {key: value[:, T - 1 :] for key, value in x.items()}
    every = jax.jit(lambda x: {name: call(name, x) for name in FUNCTIONS})
    whole = every(x)
    for name, got in every(last).items():
        np.testing.assert_allclose(got, whole[name][:, -1:], atol=TOLERANCE, err_msg=name)


def test_gradients_stay_finite_where_only_a_trace_or_a_stopped_target_overflows():
    one, rho = jnp.ones(2), jnp.array([100.0])
    for stop in True, False:
        args = one, jnp.ones(1), one, one, one / 2
        slope = jax.jit(jax.grad(lambda rho: bellman.retrace_continuous(*args, rho, 1.0, stop).sum()))(rho)  # noqa: B023
        assert slope == 0  # the trace is cut at 1

    def errors(w):  # a value so large that the inverse of the scale is infinite, past an end
        q_t, a = w * jnp.array([[100.0, 0.0]]), jnp.array([0])
        pair = bellman.SIGNED_LOGP1_PAIR
        return bellman.transformed_q_lambda(w * jnp.ones((1, 2)), a, one[:1], 0 * one[:1], q_t, 0.9, tx_pair=pair).sum()

    assert jax.jit(jax.grad(errors))(1.0) == -1


def test_without_a_batch_axis_an_argument_is_shared():
    x = sequences(14)
    shared = bellman.td_lambda(x["v_tm1"], x["r_t"], x["discount_t"][0], x["v_t"], x["lambda_"][0])
    spread = [np.broadcast_to(x[key][0], (B, T)) for key in ("discount_t", "lambda_")]
    np.testing.assert_array_equal(shared, bellman.td_lambda(x["v_tm1"], x["r_t"], spread[0], x["v_t"], spread[1]))
