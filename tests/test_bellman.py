"""One-step TD errors against rlax, their definitions in float64, and the laws that tie them together."""

import functools
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from jaxql import bellman

pytestmark = pytest.mark.float64
B, A = 7, 4
TOLERANCE = 1e-12 if jax.config.jax_enable_x64 else 1e-5


@pytest.fixture(scope="module")
def rlax():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the oracle's own dependencies warn on import
        return pytest.importorskip("rlax", reason="rlax is not installed: its oracles are skipped")


def transitions(seed):
    """The arguments of the one-step equations by name, with some endings."""
    rng = np.random.default_rng(seed)
    action_values = "q_tm1 q_t q_t_value q_t_other q_t_selector q_tm1_target".split()
    return {name: rng.normal(size=(B, A)) for name in action_values} | {
        "v_tm1": rng.normal(size=B),
        "v_t": rng.normal(size=B),
        "r_t": rng.normal(size=B),
        "discount_t": rng.choice([0.0, 0.9, 0.99**3], B),
        "a_tm1": rng.integers(A, size=B),
        "a_t": rng.integers(A, size=B),
        "probs_a_t": rng.dirichlet(np.ones(A), B),
    }


def row(x, i):
    """One transition of a batch, for the definitions below."""
    return SimpleNamespace(**{name: value[i] for name, value in x.items()})


def log_sum(q, temperature):
    return temperature * math.log(sum(math.exp(value / temperature) for value in q))


def munchausen_reward(x):
    """alpha times the scaled log-policy, by the probabilities of its softmax."""
    weights = [math.exp(q / 0.5) for q in x.q_tm1_target]
    return 0.8 * max(0.5 * math.log(weights[x.a_tm1] / sum(weights)), -0.7)


def best(q):
    return list(q).index(max(q))


Q = "q_tm1 a_tm1 r_t discount_t"
SCALE, SOFT = {"action_gap_scale": 0.3}, {"temperature": 0.5}
EQUATIONS = {  # name: (arguments, options, the bootstrap value by its definition, what the reward gains)
    "td_learning": ("v_tm1 r_t discount_t v_t", {}, lambda x: x.v_t, None),
    "qv_max": ("v_tm1 r_t discount_t q_t", {}, lambda x: max(x.q_t), None),
    "qv_learning": (Q + " v_t", {}, lambda x: x.v_t, None),
    "q_learning": (Q + " q_t", {}, lambda x: max(x.q_t), None),
    "double_q_learning": (
        Q + " q_t_value q_t_selector", {}, lambda x: x.q_t_value[best(x.q_t_selector)], None),
    "sarsa": (Q + " q_t a_t", {}, lambda x: x.q_t[x.a_t], None),
    "expected_sarsa": (
        Q + " q_t probs_a_t", {}, lambda x: sum(p * q for p, q in zip(x.probs_a_t, x.q_t, strict=True)), None),
    "persistent_q_learning": (Q + " q_t", SCALE, lambda x: 0.7 * max(x.q_t) + 0.3 * x.q_t[x.a_tm1], None),
    "clipped_double_q_learning": (
        Q + " q_t_value q_t_other q_t_selector", {},
        lambda x: min(x.q_t_value[best(x.q_t_selector)], x.q_t_other[best(x.q_t_selector)]), None),
    "advantage_learning": (
        Q + " q_t q_tm1_target", SCALE, lambda x: max(x.q_t),
        lambda x: 0.3 * (x.q_tm1_target[x.a_tm1] - max(x.q_tm1_target))),
    "soft_q_learning": (Q + " q_t", SOFT, lambda x: log_sum(x.q_t, 0.5), None),
    "munchausen_q_learning": (
        Q + " q_t q_tm1_target", SOFT | {"alpha": 0.8, "floor": -0.7}, lambda x: log_sum(x.q_t, 0.5),
        munchausen_reward),
}  # fmt: skip
OF_RLAX = [*EQUATIONS][:8]


def definition(name, x, i):
    """The TD error of one row, in float64."""
    _, _, bootstrap, gain = EQUATIONS[name]
    x = row(x, i)
    now = x.v_tm1 if "v_tm1" in EQUATIONS[name][0] else x.q_tm1[x.a_tm1]
    return x.r_t + (gain(x) if gain else 0) + x.discount_t * bootstrap(x) - now


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.trust(1)
def test_equation_is_its_definition_row_by_row(name):
    names, options, *_ = EQUATIONS[name]
    x = transitions(0)
    args = [x[name] for name in names.split()]
    want = [definition(name, x, i) for i in range(B)]
    equation = functools.partial(getattr(bellman, name), **options)
    np.testing.assert_allclose(equation(*args), want, atol=TOLERANCE)

    @jax.jit
    def variants(*args):
        nested = equation(*(x.reshape(1, B, *x.shape[1:]) for x in args))
        return equation(*args), jax.vmap(equation)(*args), nested[0], equation(*(x[0] for x in args))

    for got, same in zip(variants(*args), (want, want, want, want[0]), strict=True):
        np.testing.assert_allclose(got, same, atol=TOLERANCE)


@pytest.mark.parametrize("name", OF_RLAX)
@pytest.mark.parametrize("stop", [True, False])
def test_equation_agrees_with_rlax_in_value_and_gradient(rlax, name, stop):
    names, options, *_ = EQUATIONS[name]
    args = [jnp.asarray(transitions(1)[name]) for name in names.split()]
    floats = tuple(i + 1 for i, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.floating))
    options = options.values()  # positional, as in rlax

    def total(equation, *args):
        return jnp.sum(equation(*args) ** 3)

    oracle = jax.vmap(lambda *args: getattr(rlax, name)(*args, *options, stop))
    ours = lambda *args: getattr(bellman, name)(*args, *options, stop)  # noqa: E731
    np.testing.assert_allclose(ours(*args), oracle(*args), atol=TOLERANCE)
    for x, y in zip(jax.grad(total, floats)(ours, *args), jax.grad(total, floats)(oracle, *args), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)


@pytest.mark.parametrize("name", EQUATIONS)
def test_gradient_is_the_slope_of_the_definition(name):
    names, options, *_ = EQUATIONS[name]
    x, step = transitions(2), 1e-6
    floats = [name for name in names.split() if not name.startswith("a_")]

    def total(values, stop):
        args = [values.get(name, x[name]) for name in names.split()]
        return jnp.sum(getattr(bellman, name)(*args, **options, stop_target_gradients=stop))

    gradient = jax.grad(total)
    values = {name: jnp.asarray(x[name]) for name in floats}
    free, constant = gradient(values, False), gradient(values, True)
    for argument in floats:
        flat = x[argument].reshape(B, -1)
        for column in range(flat.shape[1]):
            ends = []
            for sign in 1, -1:
                moved = flat.copy()
                moved[:, column] += sign * step
                moved = x | {argument: moved.reshape(x[argument].shape)}
                ends.append(np.array([definition(name, moved, i) for i in range(B)]))
            slope = (ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose(np.reshape(free[argument], (B, -1))[:, column], slope, atol=1e-4)
        held = free[argument] if argument in ("q_tm1", "v_tm1") else np.zeros_like(x[argument])
        np.testing.assert_allclose(constant[argument], held, atol=1e-6)  # only the prediction moves


@pytest.mark.parametrize("name", [name for name in EQUATIONS if " q_t" in EQUATIONS[name][0]])
@pytest.mark.trust(12)
def test_one_illegal_action_more_changes_nothing(name):
    names, options, *_ = EQUATIONS[name]
    x = transitions(3)

    def padded(name):
        if x[name].ndim == 1:
            return x[name]
        return np.pad(x[name], ((0, 0), (0, 1)), constant_values=0.0 if name == "probs_a_t" else -np.inf)

    equation = functools.partial(getattr(bellman, name), **options, stop_target_gradients=False)
    args, more = [x[name] for name in names.split()], [padded(name) for name in names.split()]
    np.testing.assert_allclose(equation(*more), equation(*args), atol=TOLERANCE)
    last = len(names.split()) - (2 if name in ("sarsa", "expected_sarsa") else 1)  # a q_t
    for i in {last, names.split().index(Q.split()[0])} if "q_tm1" in names else {last}:
        gradient = jax.grad(lambda q, i=i: jnp.sum(equation(*more[:i], q, *more[i + 1 :])))(jnp.asarray(more[i]))
        assert jnp.all(jnp.isfinite(gradient))


def test_an_action_that_cannot_be_repeated_leaves_the_maximum():
    q, q_t = jnp.zeros(2), jnp.array([-jnp.inf, 4.0])
    assert bellman.persistent_q_learning(q, 0, 1.0, 0.5, q_t, 0.9) == 3.0
    assert bellman.munchausen_q_learning(q, 0, 0.0, 1.0, q, q_t, alpha=1.0, floor=-2.0, temperature=1e-3) == (
        pytest.approx(-2 + 1e-3 * np.log(2))
    )


@pytest.mark.parametrize("name", ["q_learning", "double_q_learning", "soft_q_learning", "munchausen_q_learning"])
def test_a_termination_without_legal_actions_is_worth_its_reward(name):
    q, nothing = jnp.zeros(2), jnp.full(2, -jnp.inf)
    more = {"double_q_learning": [nothing], "munchausen_q_learning": [q]}.get(name, [])
    options = {"alpha": 0.0} if name == "munchausen_q_learning" else {}

    def error(q_t):
        return getattr(bellman, name)(q, 0, 1.0, 0.0, q_t, *more, **options, stop_target_gradients=False)

    assert error(nothing) == 1.0
    np.testing.assert_array_equal(jax.grad(error)(nothing), [0, 0])


seeds = given(st.integers(0, 2**31))


@settings(deadline=None, max_examples=10)
@seeds
def test_variants_of_q_learning_reduce_to_it(seed):
    x = transitions(seed)
    data, q_t, target = [x[name] for name in Q.split()], x["q_t"], x["q_tm1_target"]
    plain = bellman.q_learning(*data, q_t)
    same = functools.partial(np.testing.assert_allclose, atol=TOLERANCE)
    same(bellman.persistent_q_learning(*data, q_t, 0.0), plain)
    same(bellman.persistent_q_learning(*data, q_t, 1.0), bellman.sarsa(*data, q_t, x["a_tm1"]))
    same(bellman.advantage_learning(*data, q_t, target, action_gap_scale=0.0), plain)
    same(bellman.double_q_learning(*data, q_t, q_t), plain)
    same(bellman.clipped_double_q_learning(*data, q_t, q_t, q_t), plain)
    same(bellman.qv_learning(*data, q_t.max(-1)), plain)
    greedy = np.eye(A)[q_t.argmax(-1)]
    same(bellman.expected_sarsa(*data, q_t, greedy), plain)
    soft = bellman.soft_q_learning(*data, q_t, temperature=0.5)
    same(bellman.munchausen_q_learning(*data, q_t, target, temperature=0.5, alpha=0.0), soft)
    same(bellman.munchausen_q_learning(*data, q_t, target, temperature=0.5, floor=0.0), soft)
    same(bellman.soft_q_learning(*data, q_t, temperature=1e-6), plain)
    # the policy's value and its entropy, which is what the logarithm of the sum is
    policy = np.asarray(jax.nn.softmax(q_t / 0.5))
    entropy = -np.sum(policy * np.log(policy), axis=-1)
    same(bellman.expected_sarsa(*data, q_t, policy) + x["discount_t"] * 0.5 * entropy, soft)


@settings(deadline=None, max_examples=10)
@seeds
def test_order_of_the_variants(seed):
    x = transitions(seed)
    data, q_t, target = [x[name] for name in Q.split()], x["q_t"], x["q_tm1_target"]
    plain, slack = bellman.q_learning(*data, q_t), TOLERANCE
    soft = bellman.soft_q_learning(*data, q_t, temperature=0.5)
    assert np.all(soft >= plain - slack)
    assert np.all(soft <= plain + x["discount_t"] * 0.5 * np.log(A) + slack)
    munchausen = bellman.munchausen_q_learning(*data, q_t, target, temperature=0.5, alpha=0.9, floor=-1.0)
    assert np.all(munchausen <= soft + slack)
    assert np.all(munchausen >= soft - 0.9 - slack)
    assert np.all(bellman.advantage_learning(*data, q_t, target) <= plain + slack)
    assert np.all(bellman.persistent_q_learning(*data, q_t, 0.5) <= plain + slack)
    value, other, selector = x["q_t_value"], x["q_t_other"], x["q_t_selector"]
    clipped = bellman.clipped_double_q_learning(*data, value, other, selector)
    of_each = [bellman.double_q_learning(*data, q, selector) for q in (value, other)]
    np.testing.assert_allclose(clipped, np.minimum(*of_each), atol=TOLERANCE)


def test_advantage_learning_keeps_the_optimal_values_and_widens_the_gaps():
    """Value iteration by each operator on a random deterministic env: same maxima, gaps grown by 1 / (1 - k)."""
    rng = np.random.default_rng(0)
    states, scale = 6, 0.5
    next_state, reward = rng.integers(states, size=(states, A)), rng.normal(size=(states, A))
    s, a = (x.ravel() for x in np.indices((states, A)))

    @jax.jit
    def solve(scale):
        def sweep(q, _):
            error = bellman.advantage_learning(
                q[s], a, reward[s, a], 0.8, q[next_state[s, a]], q[s], action_gap_scale=scale
            )
            return q + error.reshape(states, A), None

        return jax.lax.scan(sweep, jnp.zeros((states, A)), None, 150)[0]

    plain, wide = solve(0.0), solve(scale)
    gap = lambda q: jnp.max(q, axis=-1, keepdims=True) - q  # noqa: E731
    np.testing.assert_allclose(wide.max(-1), plain.max(-1), atol=1e-4)
    np.testing.assert_allclose(gap(wide), gap(plain) / (1 - scale), atol=1e-3)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, lambda f: jax.grad(lambda *x: jnp.sum(f(*x)))])
def test_checked_reports_an_action_that_is_none(wrap):
    q, ones = jnp.ones((3, 2)), jnp.ones(3)
    f = wrap(bellman.q_learning)
    run, good = bellman.checked(f), f(q, jnp.array([0, 1, 1]), ones, ones, q)
    np.testing.assert_array_equal(run(q, jnp.array([0, 1, 1]), ones, ones, q), good)
    for wrong in 2, -1:
        with pytest.raises(ValueError, match=rf"an action is not in 0 \.\. 1: {wrong}$"):
            run(q, jnp.array([0, wrong, 1]), ones, ones, q)
        f(q, jnp.array([0, wrong, 1]), ones, ones, q)  # unchecked, it is silent
    assert not jax.make_jaxpr(f)(q, jnp.array([0, 1, 1]), ones, ones, q).effects  # they slow every call of a compiled f


@pytest.mark.parametrize(("dtype", "actions"), [(jnp.uint8, 256), (jnp.int8, 128), (jnp.int8, 300), (jnp.uint32, 3)])
def test_checked_counts_actions_of_small_integers(dtype, actions):
    run, q = bellman.checked(bellman.q_learning), jnp.arange(float(actions))
    assert run(q, dtype(2), 0.0, 0.0, q) == -2
    wrong = dtype(-3) if dtype == jnp.int8 else dtype(7)
    if dtype != jnp.uint8:  # all of which are actions
        with pytest.raises(ValueError, match="an action is not in 0"):
            run(q, wrong, 0.0, 0.0, q)


def test_checked_reaches_every_action_of_a_sequence():
    q, ones, a = jnp.ones((3, 2)), jnp.ones(3), jnp.array([0, 1, 1])
    run = bellman.checked(functools.partial(bellman.sarsa_lambda, lambda_=0.5))
    assert run(q, a, ones, ones, q, a).shape == (3,)
    for wrong in (a + 1, a), (a, a - 1):
        with pytest.raises(ValueError, match="an action is not in 0"):
            run(q, wrong[0], ones, ones, q, wrong[1])


def test_terminal_bootstrap_is_ignored_even_if_infinite():
    q = jnp.zeros(2)
    assert bellman.q_learning(q, 0, 1.0, 0.0, jnp.array([jnp.inf, 0.0])) == 1.0
    assert bellman.q_learning(q, 0, 1, False, jnp.array([jnp.nan, 0.0])) == 1.0
    assert bellman.expected_sarsa(q, 0, 1.0, 0.5, jnp.array([-jnp.inf, 4.0]), jnp.array([0.0, 1.0])) == 3.0


def test_past_an_end_a_stopped_target_has_no_gradient_whatever_it_held():
    q = jnp.zeros(2)
    for equation in bellman.q_learning, bellman.soft_q_learning, functools.partial(bellman.qv_max, 0.0):
        row = () if isinstance(equation, functools.partial) else (q, 0)
        for rubbish in jnp.inf, jnp.nan:
            into = jax.grad(lambda q_t: equation(*row, 1.0, 0.0, q_t))(jnp.array([rubbish, 1.0]))  # noqa: B023
            assert not jnp.any(into)


@pytest.mark.parametrize("name", ["soft_q_learning", "munchausen_q_learning"])
def test_an_illegal_action_leaves_the_slope_in_the_temperature(name):
    """As if there were no such action: exp(-inf / temperature) is 0 at every temperature."""
    equation, q = getattr(bellman, name), jnp.array([1.0, 2.0, -jnp.inf])

    def error(temperature, q):
        values = (q, q / 2) if name.startswith("munchausen") else (q,)
        options = {"floor": -9.0} if name.startswith("munchausen") else {}
        q_tm1 = jnp.zeros(len(q))
        return equation(q_tm1, 0, 1.0, 0.9, *values, temperature=temperature, stop_target_gradients=False, **options)

    gradient, error = jax.jit(jax.grad(error)), jax.jit(error)
    slope = gradient(0.5, q)
    np.testing.assert_allclose(slope, gradient(0.5, q[:2]), rtol=1e-6)
    np.testing.assert_allclose(slope, (error(0.51, q) - error(0.49, q)) / 0.02, rtol=1e-3)


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
@pytest.mark.trust(1)
def test_shapes_that_would_broadcast_are_refused_by_name(change, culprit):
    x = transitions(2) | change
    args = [x[name] for name in EQUATIONS["q_learning"][0].split()]
    if culprit is None:  # without a batch axis an argument is shared by the whole batch
        assert bellman.q_learning(*args).shape == (B,)
        return
    with pytest.raises(ValueError, match=f"q_learning: {culprit} has shape"):
        jax.jit(bellman.q_learning)(*args)


def test_an_option_is_one_number_for_the_batch():
    x = transitions(2)
    args = [x[name] for name in EQUATIONS["q_learning"][0].split()]
    for call in (
        lambda k: bellman.persistent_q_learning(*args, k),
        lambda k: bellman.soft_q_learning(*args, temperature=k),
        lambda k: bellman.q_learning(*args, k),
    ):
        with pytest.raises(ValueError, match=r"has shape \(\d+,\); it is one number for the whole batch"):
            call(jnp.ones(B))
    each = jax.vmap(lambda *row: bellman.persistent_q_learning(*row))(*args, jnp.linspace(0, 1, B))
    assert each.shape == (B,)


def test_an_empty_axis_is_refused_by_name_and_an_empty_batch_is_not():
    with pytest.raises(ValueError, match=r"q_learning: q_tm1 has shape \(0,\); an axis of its own is empty"):
        bellman.q_learning(jnp.ones(0), 0, 1.0, 1.0, jnp.ones(0))
    for equation in (bellman.lambda_returns, bellman.discounted_returns):
        with pytest.raises(ValueError, match="r_t has shape .* is empty"):
            equation(jnp.ones((2, 0)), jnp.ones((2, 0)), jnp.ones((2, 0)))
    assert (
        bellman.q_learning(jnp.ones((0, 2)), *(jnp.zeros(0, t) for t in (int, float, float)), jnp.ones((0, 2))).size
        == 0
    )


def test_the_last_value_of_discounted_returns_is_one_a_sequence_or_one_a_step():
    both = bellman.discounted_returns(jnp.ones(2), jnp.full((2, 2), 0.5), jnp.array([8.0, 0.0]))  # one a sequence
    np.testing.assert_allclose(both, [[3.5, 5.0], [1.5, 1.0]])
    rewards, discounts = jnp.ones((2, 3)), jnp.full((2, 3), 0.5)
    each = bellman.discounted_returns(rewards, discounts, jnp.array([8.0, 0.0]))
    np.testing.assert_allclose(each, [[2.75, 3.5, 5.0], [1.75, 1.5, 1.0]])
    shared = bellman.discounted_returns(rewards, discounts, jnp.array([0.0, 0.0, 8.0]))
    np.testing.assert_allclose(shared, [[2.75, 3.5, 5.0]] * 2)
    with pytest.raises(ValueError, match="v_t has shape"):
        bellman.discounted_returns(rewards, discounts, jnp.zeros((2, 3, 1)))


def test_gradients_stop_at_the_target_unless_asked():
    q, q_t = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    for stop in True, False:
        gradient = jax.grad(lambda q_t, stop=stop: bellman.q_learning(q, 0, 1.0, 0.5, q_t, stop))(q_t)
        np.testing.assert_array_equal(gradient, [0, 0] if stop else [0, 0.5])
