"""TD errors and returns against rlax, loops written by hand in float64, and the laws that tie them together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxql import bellman

B, A, T = 7, 4, 9
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def rlax():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the oracle's own dependencies warn on import
        return pytest.importorskip("rlax", reason="rlax is not installed: its oracles are skipped")


def transitions(seed):
    """The arguments of the one-step equations by name, with some endings."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(A), B)
    return {
        "v_tm1": rng.normal(size=B),
        "v_t": rng.normal(size=B),
        "q_tm1": rng.normal(size=(B, A)),
        "a_tm1": rng.integers(A, size=B),
        "r_t": rng.normal(size=B),
        "discount_t": rng.choice([0.0, 0.9, 0.99**3], B),
        "q_t": rng.normal(size=(B, A)),
        "q_t_value": rng.normal(size=(B, A)),
        "q_t_selector": rng.normal(size=(B, A)),
        "a_t": rng.integers(A, size=B),
        "probs_a_t": probabilities,
    }


EQUATIONS = {  # name: (arguments, the bootstrap value by its definition)
    "td_learning": (["v_tm1", "r_t", "discount_t", "v_t"], lambda x, i: x["v_t"][i]),
    "q_learning": (["q_tm1", "a_tm1", "r_t", "discount_t", "q_t"], lambda x, i: max(x["q_t"][i])),
    "double_q_learning": (
        ["q_tm1", "a_tm1", "r_t", "discount_t", "q_t_value", "q_t_selector"],
        lambda x, i: x["q_t_value"][i][list(x["q_t_selector"][i]).index(max(x["q_t_selector"][i]))],
    ),
    "sarsa": (["q_tm1", "a_tm1", "r_t", "discount_t", "q_t", "a_t"], lambda x, i: x["q_t"][i][x["a_t"][i]]),
    "expected_sarsa": (
        ["q_tm1", "a_tm1", "r_t", "discount_t", "q_t", "probs_a_t"],
        lambda x, i: sum(p * q for p, q in zip(x["probs_a_t"][i], x["q_t"][i], strict=True)),
    ),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_equation_is_its_definition_row_by_row(name):
    arguments, bootstrap = EQUATIONS[name]
    x = transitions(0)
    now = [x["v_tm1"][i] if name == "td_learning" else x["q_tm1"][i][x["a_tm1"][i]] for i in range(B)]
    want = [x["r_t"][i] + x["discount_t"][i] * bootstrap(x, i) - now[i] for i in range(B)]
    equation = getattr(bellman, name)
    for f in equation, jax.jit(equation):
        np.testing.assert_allclose(f(*(x[name] for name in arguments)), want, atol=TOLERANCE)
    alone = [equation(*(x[name][i] for name in arguments)) for i in range(B)]
    np.testing.assert_allclose(alone, want, atol=TOLERANCE)
    nested = equation(*(jnp.asarray(x[name]).reshape(1, B, *x[name].shape[1:]) for name in arguments))
    np.testing.assert_allclose(nested, np.array(want)[None], atol=TOLERANCE)


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("stop", [True, False])
def test_equation_agrees_with_rlax_in_value_and_gradient(rlax, name, stop):
    arguments, _ = EQUATIONS[name]
    args = [jnp.asarray(transitions(1)[name]) for name in arguments]
    floats = tuple(i for i, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.floating))

    def total(equation, *args):
        return jnp.sum(equation(*args) ** 3)

    oracle = jax.vmap(lambda *args: getattr(rlax, name)(*args, stop))
    ours = lambda *args: getattr(bellman, name)(*args, stop)  # noqa: E731
    np.testing.assert_allclose(ours(*args), oracle(*args), atol=TOLERANCE)
    indices = tuple(i + 1 for i in floats)
    got = jax.grad(total, indices)(ours, *args)
    want = jax.grad(total, indices)(oracle, *args)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)


def test_terminal_bootstrap_is_ignored_even_if_infinite():
    q = jnp.zeros(2)
    assert bellman.q_learning(q, 0, 1.0, 0.0, jnp.array([jnp.inf, 0.0])) == 1.0
    assert bellman.q_learning(q, 0, 1, False, jnp.array([jnp.nan, 0.0])) == 1.0
    assert bellman.expected_sarsa(q, 0, 1.0, 0.5, jnp.array([-jnp.inf, 4.0]), jnp.array([0.0, 1.0])) == 3.0


def test_integer_rewards_and_boolean_discounts_are_promoted():
    q, q_t = jnp.array([[0.5, 1.0]]), jnp.array([[2.0, 3.0]])
    errors = bellman.q_learning(q, jnp.array([0]), jnp.array([1]), jnp.array([True]), q_t)
    assert errors.dtype == q.dtype
    assert errors == 3.5
    half = [x.astype(jnp.bfloat16) for x in (q, q_t)]
    assert bellman.q_learning(half[0], jnp.array([0]), jnp.array([1]), 0.5, half[1]).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"r_t": np.ones((B, 1))}, "r_t"),
        ({"r_t": np.ones(1)}, "r_t"),
        ({"q_t": np.ones(A)}, None),
        ({"q_tm1": np.float64(1.0)}, "q_tm1"),
        ({"a_tm1": np.zeros((B, B), int)}, "a_tm1"),
    ],
)
def test_shapes_that_would_broadcast_are_refused_by_name(change, culprit):
    x = transitions(2) | change
    args = [x[name] for name in EQUATIONS["q_learning"][0]]
    if culprit is None:  # without a batch axis an argument is shared by the whole batch
        assert bellman.q_learning(*args).shape == (B,)
        return
    with pytest.raises(ValueError, match=f"q_learning: {culprit} has shape"):
        jax.jit(bellman.q_learning)(*args)


def sequences(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(B, T)), rng.choice([0.0, 0.9, 1.0], (B, T), p=[0.2, 0.6, 0.2]), rng.normal(size=(B, T))


def lambda_return(r, d, v, traces, t):
    """By its definition, in plain Python."""
    follow = v[t] if t == T - 1 else (1 - traces[t]) * v[t] + traces[t] * lambda_return(r, d, v, traces, t + 1)
    return r[t] + d[t] * follow


def n_step_return(r, d, v, n, t):
    """By its definition: up to n rewards, then the value that follows the last of them."""
    total, gamma = 0.0, 1.0
    for i in range(t, min(t + n, T)):
        total += gamma * r[i]
        gamma *= d[i]
    return total + gamma * v[i]


def test_lambda_returns_are_their_definition():
    r, d, v = sequences(3)
    for traces in 0.0, 0.7, 1.0, np.random.default_rng(4).random(T):
        want = [[lambda_return(r[b], d[b], v[b], np.broadcast_to(traces, T), t) for t in range(T)] for b in range(B)]
        np.testing.assert_allclose(bellman.lambda_returns(r, d, v, traces), want, atol=TOLERANCE)


@pytest.mark.parametrize("n", [1, 2, 3, 5, T, T + 3])
def test_n_step_returns_are_their_definition(n):
    r, d, v = sequences(5)
    want = [[n_step_return(r[b], d[b], v[b], n, t) for t in range(T)] for b in range(B)]
    np.testing.assert_allclose(bellman.n_step_bootstrapped_returns(r, d, v, n), want, atol=TOLERANCE)


def test_sequence_functions_agree_with_rlax(rlax):
    r, d, v = (jnp.asarray(x) for x in sequences(6))
    for trace in 0.0, 0.4, 1.0:
        want = jax.vmap(lambda r, d, v, trace=trace: rlax.lambda_returns(r, d, v, trace))(r, d, v)
        np.testing.assert_allclose(bellman.lambda_returns(r, d, v, trace), want, atol=TOLERANCE)
        for n in 1, 3, T:
            oracle = jax.vmap(lambda r, d, v, n=n, l=trace: rlax.n_step_bootstrapped_returns(r, d, v, n, l))
            got = bellman.n_step_bootstrapped_returns(r, d, v, n, trace)
            np.testing.assert_allclose(got, oracle(r, d, v), atol=TOLERANCE)
    want = jax.vmap(rlax.discounted_returns)(r, d, v)
    np.testing.assert_allclose(bellman.discounted_returns(r, d, v), want, atol=TOLERANCE)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31), st.floats(0, 1))
def test_reductions(seed, trace):
    r, d, v = sequences(seed)
    one_step = bellman.lambda_returns(r, d, v, 0.0)
    np.testing.assert_allclose(bellman.n_step_bootstrapped_returns(r, d, v, 1, trace), one_step, atol=TOLERANCE)
    np.testing.assert_allclose(bellman.td_learning(v, r, d, v), one_step - v, atol=TOLERANCE)
    everything = bellman.n_step_bootstrapped_returns(r, d, v, T)
    np.testing.assert_allclose(bellman.lambda_returns(r, d, v, 1.0), everything, atol=TOLERANCE)
    np.testing.assert_allclose(bellman.discounted_returns(r, d, v[:, -1]), everything, atol=TOLERANCE)
    full = bellman.n_step_bootstrapped_returns(r, d, v, T, trace)
    np.testing.assert_allclose(bellman.lambda_returns(r, d, v, trace), full, atol=TOLERANCE)


def test_sequences_of_different_lengths_and_empty_windows_are_refused():
    with pytest.raises(ValueError, match="one length"):
        bellman.lambda_returns(jnp.ones(3), jnp.ones(3), jnp.ones(4))
    with pytest.raises(ValueError, match="n is 0"):
        bellman.n_step_bootstrapped_returns(jnp.ones(3), jnp.ones(3), jnp.ones(3), 0)


def test_gradients_stop_at_the_target_unless_asked():
    q, q_t = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    for stop in True, False:
        gradient = jax.grad(lambda q_t, stop=stop: bellman.q_learning(q, 0, 1.0, 0.5, q_t, stop))(q_t)
        np.testing.assert_array_equal(gradient, [0, 0] if stop else [0, 0.5])
