"""Distributional equations against rlax, loops written by hand in float64, and the laws that tie them together."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st
from scipy import stats

from jaxql import distributional as dist

pytestmark = pytest.mark.float64
B, A, N, M, K = 5, 3, 4, 6, 7
EXACT = jax.config.jax_enable_x64
TOLERANCE = 1e-10 if EXACT else 2e-5

seeds = st.integers(0, 2**31)
few = settings(deadline=None, max_examples=25)


@pytest.fixture(scope="module")
def rlax():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the oracle's own dependencies warn on import
        return pytest.importorskip("rlax", reason="rlax is not installed: its oracles are skipped")


def close(got, want, tolerance=TOLERANCE):
    np.testing.assert_allclose(got, want, atol=tolerance, rtol=tolerance)


def arguments(seed):
    """The arguments of the drop-ins by name, with some endings."""
    rng = np.random.default_rng(seed)
    x = {
        "z_p": rng.normal(size=(B, M)) * 2,
        "probs": rng.dirichlet(np.ones(M), B),
        "z_q": np.sort(rng.normal(size=(B, N))),
        "a_tm1": rng.integers(A, size=B),
        "r_t": rng.normal(size=B),
        "discount_t": np.array([0.0, 0.9, 0.99**3, 0.5, 0.9]),
        "probs_a_t": rng.dirichlet(np.ones(A), B),
        "q_t_selector": rng.normal(size=(B, A)),
    }
    for letter, shape in ("v", ()), ("q", (A,)):
        x[f"{letter}_atoms_tm1"], x[f"{letter}_atoms_t"] = np.linspace(-2, 2, N), np.linspace(-2, 2, M)
        x[f"{letter}_logits_tm1"] = rng.normal(size=(B, *shape, N))
        x[f"{letter}_logits_t"] = rng.normal(size=(B, *shape, M))
    x["tau_src"] = x["tau_q_tm1"] = (np.arange(N) + 0.5) / N
    x["dist_src"], x["dist_target"] = rng.normal(size=(B, N)), 2 * rng.normal(size=(B, M))
    x["dist_q_tm1"], x["dist_q_t"] = rng.normal(size=(B, N, A)), 2 * rng.normal(size=(B, M, A))
    x["dist_q_t_selector"] = rng.normal(size=(B, K, A))
    return x


CATEGORICAL = "q_atoms_tm1 q_logits_tm1 a_tm1 r_t discount_t q_atoms_t q_logits_t"
DROP_INS = {
    "categorical_l2_project": "z_p probs z_q",
    "categorical_td_learning": "v_atoms_tm1 v_logits_tm1 r_t discount_t v_atoms_t v_logits_t",
    "categorical_q_learning": CATEGORICAL,
    "categorical_double_q_learning": f"{CATEGORICAL} q_t_selector",
    "quantile_regression_loss": "dist_src tau_src dist_target",
    "quantile_q_learning": "dist_q_tm1 tau_q_tm1 a_tm1 r_t discount_t dist_q_t_selector dist_q_t",
    "quantile_expected_sarsa": "dist_q_tm1 tau_q_tm1 a_tm1 r_t discount_t dist_q_t probs_a_t",
}
VARIANTS = [
    (name, options)
    for name in DROP_INS
    for options in (
        [()]
        if "project" in name
        else [(0.0, True), (0.0, False), (0.7, True), (0.7, False)]
        if "quantile" in name
        else [(True,), (False,)]
    )
]


def prepared(name, seed):
    x = arguments(seed)
    return [jnp.asarray(x[argument]) for argument in DROP_INS[name].split()]


@pytest.mark.often(
    "categorical_l2_project-options0",
    "categorical_td_learning-options1",
    "categorical_q_learning-options3",
    "categorical_double_q_learning-options5",
    "quantile_regression_loss-options8",
    "quantile_q_learning-options13",
    "quantile_expected_sarsa-options16",
)
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_drop_in_agrees_with_rlax_in_value_and_gradient(rlax, name, options):
    args = prepared(name, 0)
    floats = tuple(i for i, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.floating))

    def rows(equation):
        def row(*xs):
            result = equation(*xs, *options)
            return jnp.sum(result**3), result

        axes = [0 if x.shape[0] == B else None for x in args]
        return jax.jit(jax.vmap(jax.value_and_grad(row, floats, has_aux=True), axes))(*args)

    (_, got), got_slopes = rows(getattr(dist, name))
    (_, want), want_slopes = rows(getattr(rlax, name))
    close(got, want)
    for x, y in zip(got_slopes, want_slopes, strict=True):
        assert jnp.all(jnp.isfinite(x))
        known = jnp.isfinite(y)  # rlax's slopes in a target are NaN where an atom of the target has no probability
        assert jnp.any(known)
        close(jnp.where(known, x, 0), jnp.where(known, y, 0), 10 * TOLERANCE)


@pytest.mark.often(
    "categorical_td_learning", "categorical_l2_project", "quantile_q_learning", "quantile_regression_loss"
)
@pytest.mark.parametrize("name", DROP_INS)
def test_batches_are_rows_and_nest(name):
    args, equation = prepared(name, 1), getattr(dist, name)
    names = DROP_INS[name].split()

    @jax.jit
    def variants(args):
        batched = [x.shape[0] == B for x in args]
        together = equation(*args)
        alone = equation(*(x[2] if b else x for x, b in zip(args, batched, strict=True)))
        nested = equation(*(x[None] if b else x for x, b in zip(args, batched, strict=True)))
        half = equation(*(x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x for x in args))
        promoted = []
        if "r_t" in names:
            x = dict(zip(names, args, strict=True))
            for dtypes in (float, float), (int, bool):
                r_t, discount_t = (jnp.ones(B, dtype) for dtype in dtypes)
                promoted.append(equation(**x | {"r_t": r_t, "discount_t": discount_t}))
        return together, alone, nested, half, promoted

    together, alone, nested, half, promoted = variants(args)
    close(alone, together[2])
    close(nested, together[None])
    close(half.astype(float), together, 0.1)
    assert half.dtype == jnp.bfloat16
    assert all(x.dtype == together.dtype for x in promoted)
    close(*promoted or (0, 0))


@pytest.mark.parametrize("name", [name for name in DROP_INS if "r_t" in DROP_INS[name]])
@pytest.mark.trust(1)
def test_shapes_that_would_broadcast_are_refused_by_name(name):
    x = dict(zip(DROP_INS[name].split(), prepared(name, 2), strict=True))
    with pytest.raises(ValueError, match=f"{name}: r_t has shape"):
        getattr(dist, name)(**x | {"r_t": x["r_t"][:, None]})
    wrong = {"c": "q_atoms_t", "q": "tau_q_tm1"}[name[0]] if "td" not in name else "v_atoms_t"
    with pytest.raises(ValueError, match=f"{name}: .* has shape"):
        getattr(dist, name)(**x | {wrong: jnp.ones(N + 1)})


def project_by_hand(z, probs, support):
    """Each atom's mass to its two neighbours, one atom after another."""
    result = np.zeros(len(support))
    for value, mass in zip(z, probs, strict=True):
        value = min(max(value, support[0]), support[-1])
        right = next(i for i, atom in enumerate(support) if atom >= value)
        if support[right] == value:
            result[right] += mass
        else:
            share = (value - support[right - 1]) / (support[right] - support[right - 1])
            result[right] += mass * share
            result[right - 1] += mass * (1 - share)
    return result


def quantile_huber_by_hand(quantiles, taus, targets, kappa):
    total = 0.0
    for quantile, tau in zip(quantiles, taus, strict=True):
        for target in targets:
            error = target - quantile
            huber = 0.5 * error**2 if abs(error) <= kappa else kappa * (abs(error) - 0.5 * kappa)
            huber = huber / kappa if kappa else abs(error)
            total += abs(tau - (error < 0)) * huber / len(targets)
    return total


def softmax_by_hand(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def categorical_by_hand(x, letter, a, chosen):
    """Cross-entropy of what was predicted for a with the target of `chosen`, both () where there are no actions."""
    then = softmax_by_hand(x[f"{letter}_logits_t"][chosen])
    target = project_by_hand(x["r_t"] + x["discount_t"] * x[f"{letter}_atoms_t"], then, x[f"{letter}_atoms_tm1"])
    return -np.sum(target * np.log(softmax_by_hand(x[f"{letter}_logits_tm1"][a])))


def regression_by_hand(x, targets, kappa):
    """rlax does not divide by kappa."""
    source = x["dist_q_tm1"][:, x["a_tm1"]]
    return quantile_huber_by_hand(source, x["tau_q_tm1"], targets, kappa) * (kappa or 1)


def best_mean(x):
    return np.argmax(softmax_by_hand(x["q_logits_t"]) @ x["q_atoms_t"])


def next_quantiles(x, action):
    return x["r_t"] + x["discount_t"] * x["dist_q_t"][:, action]


BY_HAND = {
    "categorical_td_learning": lambda x, kappa: categorical_by_hand(x, "v", (), ()),
    "categorical_q_learning": lambda x, kappa: categorical_by_hand(x, "q", x["a_tm1"], best_mean(x)),
    "categorical_double_q_learning": lambda x, kappa: categorical_by_hand(
        x, "q", x["a_tm1"], np.argmax(x["q_t_selector"])
    ),
    "quantile_q_learning": lambda x, kappa: regression_by_hand(
        x, next_quantiles(x, np.argmax(x["dist_q_t_selector"].mean(0))), kappa
    ),
    "quantile_expected_sarsa": lambda x, kappa: sum(
        odds * regression_by_hand(x, next_quantiles(x, action), kappa) for action, odds in enumerate(x["probs_a_t"])
    ),
}


@pytest.mark.parametrize(
    ("name", "kappa"), [(name, kappa) for name in BY_HAND for kappa in ((0.0, 0.7) if "quantile" in name else (None,))]
)
@pytest.mark.trust(1)
def test_drop_in_is_its_definition_row_by_row(name, kappa):
    x = arguments(5)
    rows = [
        {key: value if value.ndim == 1 and len(value) != B else value[i] for key, value in x.items()} for i in range(B)
    ]
    options = () if kappa is None else (kappa,)
    got = getattr(dist, name)(*prepared(name, 5), *options)
    close(got, [BY_HAND[name](row, kappa) for row in rows])


def test_projection_and_c51_target_are_their_definition():
    x = arguments(3)
    want = [project_by_hand(x["z_p"][i], x["probs"][i], x["z_q"][i]) for i in range(B)]
    close(dist.categorical_l2_project(x["z_p"], x["probs"], x["z_q"]), want)
    atoms, logits = x["q_atoms_t"], x["q_logits_t"]
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    want = [
        project_by_hand(x["r_t"][i] + x["discount_t"][i] * atoms, probs[i][np.argmax(x["q_t_selector"][i])], atoms)
        for i in range(B)
    ]
    close(dist.c51_target(x["r_t"], x["discount_t"], logits, x["q_t_selector"], atoms), want)
    close(dist.categorical_mean(logits, atoms), probs @ atoms)
    want = [-np.sum(want[i] * np.log(probs[i, 0])) for i in range(B)]
    target = dist.c51_target(x["r_t"], x["discount_t"], logits, x["q_t_selector"], atoms)
    close(dist.cross_entropy(logits[:, 0], target), want)


@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0, 2.0])
def test_quantile_huber_is_its_definition_and_rlax_scaled(kappa):
    x = arguments(4)
    want = [quantile_huber_by_hand(x["dist_src"][i], x["tau_src"], x["dist_target"][i], kappa) for i in range(B)]
    args = x["dist_src"], x["tau_src"], x["dist_target"]
    close(dist.quantile_huber(*args, kappa=kappa), want)
    close(dist.quantile_regression_loss(*args, kappa), np.array(want) * (kappa or 1))


@pytest.mark.parametrize(("dtype", "kappa", "error"), [(jnp.bfloat16, 1.0, 1e-3), (jnp.float32, 1e3, 1e-5)])
def test_the_slope_of_a_small_error_does_not_cancel(dtype, kappa, error):
    loss = lambda x: dist.quantile_huber(x, jnp.array([0.5], dtype), jnp.array([error], dtype), kappa=kappa)  # noqa: E731
    np.testing.assert_allclose(jax.grad(loss)(jnp.zeros(1, dtype))[0], -0.5 * error / kappa, rtol=1e-2)


def test_kappa_may_be_traced():
    x = arguments(5)
    args = x["dist_src"], x["tau_src"], x["dist_target"]
    kappas = jnp.array([0.0, 0.5, 2.0])
    for loss in (lambda k: dist.quantile_huber(*args, kappa=k)), (lambda k: dist.quantile_regression_loss(*args, k)):
        close(jax.jit(jax.vmap(loss))(kappas), [loss(float(k)) for k in kappas])


project = jax.jit(dist.categorical_l2_project)


@few
@given(seeds)
def test_projection_keeps_mass_and_inside_the_support_the_mean(seed):
    rng = np.random.default_rng(seed)
    support = np.cumsum(rng.random(N) + 0.1) - 1
    probs = rng.dirichlet(np.ones(M))
    inside = rng.uniform(support[0], support[-1], M)
    anywhere = np.append(10 * rng.normal(size=M - 2), [np.inf, -np.inf])
    for z in inside, anywhere:
        projected = project(z, probs, support)
        assert jnp.all(projected >= 0)
        close(jnp.sum(projected), 1)
    close(project(inside, probs, support) @ support, inside @ probs)
    again = project(support, projected, support)
    close(again, projected)


def test_projection_on_one_atom_and_on_atoms_that_coincide():
    z, probs = np.array([-1.0, 0.0, 2.0]), np.array([0.25, 0.25, 0.5])
    close(dist.categorical_l2_project(z, probs, np.array([0.3])), [1])
    twice = dist.categorical_l2_project(z, probs, np.array([0.0, 0.0, 1.0]))
    close(twice[0] + twice[1], 0.5)
    close(twice[2], 0.5)


@few
@given(seeds)
def test_one_quantile_and_two_atoms_are_the_scalar_losses(seed):
    rng = np.random.default_rng(seed)
    value, target, kappa = rng.normal(), 3 * rng.normal(), rng.random() + 0.1
    huber = 0.5 * min(abs(target - value), kappa) ** 2 + kappa * max(abs(target - value) - kappa, 0)
    one = [np.array([x]) for x in (value, 0.5, target)]
    close(dist.quantile_huber(*one, kappa=kappa), 0.5 * huber / kappa)
    logits, atoms = rng.normal(size=2), np.array([0.0, 1.0])
    probability = 1 / (1 + np.exp(logits[0] - logits[1]))
    label = np.clip(target, 0, 1)
    want = -(label * np.log(probability) + (1 - label) * np.log1p(-probability))
    close(dist.cross_entropy(logits, dist.two_hot(target, atoms)), want)


@few
@given(seeds)
def test_target_of_a_sure_return_is_its_two_hot_code(seed):
    rng = np.random.default_rng(seed)
    atoms, i, reward, discount = np.linspace(-3, 3, N), rng.integers(N), rng.normal(), rng.random()
    sure = np.where(np.arange(N) == i, 0.0, -np.inf)
    target = dist.c51_target(reward, discount, np.stack([sure, np.zeros(N)]), np.array([1.0, 0.0]), atoms)
    close(target, dist.two_hot(reward + discount * atoms[i], atoms))


@few
@given(st.floats(-2, 2), st.floats(0.5, 3))
@example(0.42578125, 2.75)  # where erf in float32 is not monotone
def test_encodings_decode_to_the_scalar(x, width):
    n = 41
    edges = np.linspace(-5, 5, n + 1)
    atoms = dist.centers(edges)
    close(dist.two_hot(x, atoms) @ atoms, x)
    code = dist.hl_gauss(x, edges, width * 0.25)
    close(jnp.sum(code), 1)
    np.testing.assert_allclose(dist.categorical_mean(jnp.log(code), atoms), x, atol=1e-3)
    for far, end in (1e6, -1), (-1e6, 0):
        assert dist.two_hot(far, atoms)[end] == 1
        close(dist.hl_gauss(far, edges), dist.hl_gauss(edges[end], edges))


def test_hl_gauss_is_its_definition():
    rng = np.random.default_rng(6)
    x, edges, sigma = rng.uniform(-2, 2, B), np.array([-2.0, -1.0, 0.5, 1.0, 2.0]), 0.6
    for s in sigma, None:
        scale = 0.75 * 4 / 4 if s is None else s
        cdf = stats.norm.cdf(edges[None, :], loc=x[:, None], scale=scale)
        close(dist.hl_gauss(x, edges, s), np.diff(cdf) / (cdf[:, -1:] - cdf[:, :1]))
    args = jnp.ones(B), jnp.full(B, 0.5), rng.normal(size=(B, A)), rng.normal(size=(B, A))
    chosen = 1 + 0.5 * np.array([q[np.argmax(s)] for q, s in zip(*args[2:], strict=True)])
    close(dist.hl_gauss_target(*args, edges, sigma=sigma), dist.hl_gauss(chosen, edges, sigma))
    close(dist.two_hot_target(*args, edges), dist.two_hot(chosen, edges))


def test_past_an_end_nothing_counts_that_is_not_finite():
    atoms = np.linspace(-2, 2, M)

    @jax.jit
    def ended(bad):
        logits, q = jnp.full((A, M), bad), jnp.full(A, bad)
        half = jnp.array([0.5])
        losses = (
            dist.quantile_q_learning(jnp.zeros((1, A)), half, 0, 3.0, 0.0, logits.T, logits.T),
            dist.quantile_expected_sarsa(jnp.zeros((1, A)), half, 0, 3.0, 0.0, logits.T, jnp.eye(A)[0]),
            dist.categorical_q_learning(atoms, jnp.zeros((A, M)), 0, 0.5, 0.0, atoms, logits),
        )
        codes = dist.c51_target(0.5, 0.0, logits, q, atoms), dist.two_hot_target(0.5, False, q, q, atoms)
        return losses, codes, dist.hl_gauss_target(0.5, 0, q, q, atoms), dist.quantile_target(0.5, 0.0, logits, q)

    for bad in np.inf, -np.inf, np.nan:
        losses, codes, smooth, quantiles = ended(bad)
        close(losses, [1.5, 1.5, np.log(M)])
        close(codes, [dist.two_hot(0.5, atoms)] * 2)
        close(smooth, dist.hl_gauss(0.5, atoms))
        close(quantiles, np.full(M, 0.5))


@pytest.mark.trust(12)
def test_an_illegal_action_is_never_chosen():
    atoms = np.linspace(-2, 2, M)
    outputs = np.stack([np.full(M, -np.inf), np.arange(M), np.zeros(M)])
    means = dist.categorical_mean(outputs, atoms)
    assert means[0] == -jnp.inf and jnp.argmax(means) == 1
    now = jnp.zeros((A, M))
    loss, slope = jax.jit(
        jax.value_and_grad(lambda z: dist.categorical_q_learning(atoms, now, 0, 0.3, 0.9, atoms, z, False))
    )(jnp.asarray(outputs))
    target = dist.c51_target(0.3, 0.9, outputs, np.array([0, 1, 0]), atoms)
    close(loss, dist.cross_entropy(np.zeros(M), target))
    assert jnp.all(jnp.isfinite(slope)) and not jnp.any(slope[jnp.array([0, 2])])
    close(dist.quantile_target(0.0, 1.0, outputs, dist.mean(outputs)), np.arange(M))
    ignored = dist.quantile_expected_sarsa(np.zeros((1, A)), np.array([0.5]), 0, 0.0, 1.0, outputs.T, np.eye(A)[1])
    close(ignored, 0.5 * np.arange(M).mean())


def test_quantile_loss_is_least_at_the_true_quantiles():
    rng = np.random.default_rng(7)
    targets = np.sort(rng.normal(size=100))
    taus = np.array([0.1, 0.25, 0.5, 0.93])
    at = np.round(taus * 100).astype(int)
    quantiles = (targets[at - 1] + targets[at]) / 2  # exactly a part tau of the targets is below
    loss = jax.jit(lambda q: dist.quantile_huber(q, taus, targets, kappa=0.0))
    close(jax.grad(loss)(quantiles), np.zeros(4))
    for shift in 0.5, -0.5:
        for i in range(4):
            assert loss(quantiles + shift * np.eye(4)[i]) > loss(quantiles)


@jax.jit
def readings(values, probs, level):
    distorted = dist.distorted_mean(values, probs, distortion=lambda tau: level * tau)
    rising = jax.vmap(lambda level: dist.cvar(values, probs, level=level))(jnp.linspace(0.05, 1, 9))
    return dist.cvar(values, probs, level=level), distorted, rising, dist.mean(values, probs)


@few
@given(seeds, st.floats(0.05, 1))
def test_cvar_is_the_mean_of_the_worst_part(seed, level):
    rng = np.random.default_rng(seed)
    values, probs = rng.normal(size=(B, M)), rng.dirichlet(np.ones(M), B)
    want = []
    for x, p in zip(values, probs, strict=True):
        left, total = level, 0.0
        for i in np.argsort(x):
            total += x[i] * min(p[i], left)
            left -= min(p[i], left)
        want.append(total / level)
    got, again, rising, mean = readings(values, probs, level)
    close(got, want, 10 * TOLERANCE)
    close(again, want, 10 * TOLERANCE)
    close(rising[-1], mean)
    assert jnp.all(jnp.diff(rising, axis=0) > -TOLERANCE)


def test_mean_and_variance_are_numpys():
    x = arguments(8)
    close(dist.mean(x["dist_src"]), x["dist_src"].mean(-1))
    close(dist.variance(x["dist_src"]), x["dist_src"].var(-1))
    mean = np.sum(x["z_p"] * x["probs"], -1)
    close(dist.mean(x["z_p"], x["probs"]), mean)
    close(dist.variance(x["z_p"], x["probs"]), np.sum(x["probs"] * (x["z_p"] - mean[:, None]) ** 2, -1))
    atoms = np.linspace(-2, 2, M)  # shared by the batch
    close(dist.mean(atoms, dist.probabilities(x["q_logits_t"])), dist.categorical_mean(x["q_logits_t"], atoms))
    assert dist.mean(jnp.array([1.0, jnp.inf]), jnp.array([1.0, 0.0])) == 1
    with_rubbish = jnp.array([0.0, 1.0, -jnp.inf]), jnp.array([0.5, 0.5, 0.0])
    assert dist.variance(*with_rubbish) == 0.25
    close(jax.grad(dist.variance)(*with_rubbish), [-0.5, 0.5, 0.0])
    with pytest.raises(ValueError, match="cvar: probs has shape"):
        dist.cvar(jnp.ones((B, M)), jnp.ones((B, 1)), level=0.5)


@few
@given(seeds, st.floats(0.05, 1))
def test_value_at_risk_is_numpys_quantile(seed, level):
    rng = np.random.default_rng(seed)
    values, probs = rng.normal(size=(B, M)), rng.dirichlet(np.ones(M), B)
    got = at_risk(values, probs, level)
    for x, p, found in zip(values, probs, got, strict=True):  # rounding may decide where a sum is as good as the level
        near = np.clip(level * np.array([1 - 1e-5, 1 + 1e-5]), 0, 1)
        low, high = np.quantile(x, near, method="inverted_cdf", weights=p)
        assert low - TOLERANCE <= found <= high + TOLERANCE
    equal = [dist.value_at_risk(np.arange(10.0, 0, -1), level=i / 10) for i in range(1, 11)]
    close(equal, np.arange(1.0, 11))


at_risk = jax.jit(lambda values, probs, level: dist.value_at_risk(values, probs, level=level))


@few
@given(seeds, st.sampled_from([-30.0, -1.0, -1e-3, 1e-3, 0.5, 3.0, 200.0]))
def test_entropic_risk_is_its_definition_and_falls_as_beta_grows(seed, beta):
    rng = np.random.default_rng(seed)
    values, probs = rng.normal(size=(B, M)), rng.dirichlet(np.ones(M), B)
    shift = (values.min if beta > 0 else values.max)(axis=-1, keepdims=True)
    want = shift[:, 0] - np.log(np.sum(probs * np.exp(-beta * (values - shift)), -1)) / beta
    close(certain(values, probs, beta), want, 10 * TOLERANCE)
    close(jax.grad(lambda x: certain(x, probs, beta).sum())(values).sum(-1), np.ones(B))  # a sure gain adds itself
    rising = [certain(values, probs, b) for b in (beta + 1, beta, beta - 1)]
    assert jnp.all(jnp.diff(jnp.stack(rising), axis=0) > -TOLERANCE)


certain = jax.jit(lambda values, probs, beta: dist.entropic(values, probs, beta=beta))


def test_entropic_risk_at_its_limits():
    values = jnp.array([[3.0, 1.0, 2.0], [-jnp.inf] * 3])  # the second action is illegal
    for beta, want in (0.0, 2.0), (1e-6, 2.0), (1e30, 1.0), (-1e30, 3.0):
        close(dist.entropic(values, beta=beta), [want, -np.inf], 1e-6)
    rare = jnp.array([1e-12, 1.0, 0.0])  # and a value that never comes
    close(dist.entropic(jnp.array([-50.0, 0.0, -jnp.inf]), rare, beta=1.0), -np.log(1e-12 * np.exp(50.0) + 1))


DISTORTIONS = {  # name: (ours, by its definition, neutral eta, other etas)
    "power": (
        dist.power_distortion,
        lambda t, e: t ** (1 / (1 + e)) if e >= 0 else 1 - (1 - t) ** (1 / (1 - e)),
        0.0,
        (2.0, -2.0),
    ),
    "wang": (dist.wang, lambda t, e: stats.norm.cdf(stats.norm.ppf(t) + e), 0.0, (0.75, -0.75)),
    "cpw": (dist.cpw, lambda t, e: t**e / (t**e + (1 - t) ** e) ** (1 / e), 1.0, (0.71, 0.4)),
}


@pytest.mark.often("power", "cpw")
@pytest.mark.parametrize("name", DISTORTIONS)
def test_distortions_are_their_definition(name):
    ours, want, neutral, etas = DISTORTIONS[name]
    tau = np.linspace(0, 1, 101)
    close(ours(tau, neutral), tau)
    rng = np.random.default_rng(9)
    values, probs = rng.normal(size=(B, M)), rng.dirichlet(np.ones(M), B)
    reading = jax.jit(lambda eta: dist.distorted_mean(values, probs, distortion=lambda t: ours(t, eta)))
    close(reading(neutral), dist.mean(values, probs))
    for eta in etas:
        distorted = ours(tau, eta)
        close(distorted, want(tau, eta))
        assert jnp.all(jnp.diff(distorted) > -TOLERANCE)
        fine = (np.arange(100_000) + 0.5) / 100_000
        index = np.argsort(values)
        upto = np.cumsum(np.take_along_axis(probs, index, -1), -1)[:, :-1]
        steps = np.stack([np.searchsorted(row, want(fine, eta)) for row in upto])
        sampled = np.take_along_axis(np.take_along_axis(values, index, -1), steps, -1).mean(-1)
        got = reading(eta)
        close(got, sampled, 2e-4)
        if name != "cpw":
            assert jnp.all((got >= dist.mean(values, probs)) == (eta > 0))


def test_whole_powers_read_the_best_or_the_worst_of_several_draws():
    rng = np.random.default_rng(11)
    values, probs = rng.normal(size=M), rng.dirichlet(np.ones(M))
    for n in 2, 3:
        draws = np.stack(np.meshgrid(*[np.arange(M)] * n))
        weights = np.prod(probs[draws], axis=0)
        for best_of, eta in (np.max, n - 1), (np.min, 1 - n):
            got = dist.distorted_mean(values, probs, distortion=lambda tau, eta=eta: dist.power_distortion(tau, eta))
            close(got, np.sum(weights * best_of(values[draws], axis=0)))


def test_fraction_loss_has_the_slope_of_the_wasserstein_error():
    logits = np.random.default_rng(10).normal(size=N)
    taus, middles = dist.fractions(logits)
    close(jnp.diff(taus), jax.nn.softmax(logits))
    close(middles, (taus[1:] + taus[:-1]) / 2)
    fine = (np.arange(2_000_000) + 0.5) / 2_000_000
    quantile = lambda u: np.asarray(u, float) ** 3 - 1  # noqa: E731

    def distance(taus):
        part = np.clip(np.searchsorted(taus, fine) - 1, 0, N - 1)
        return np.mean(np.abs(quantile(fine) - quantile((taus[part + 1] + taus[part]) / 2)))

    slope = jax.grad(dist.fraction_loss)(taus, quantile(taus[1:-1]), quantile(middles))
    taus = np.asarray(taus, float)
    for i in range(1, N):
        step = 1e-3 * np.eye(N + 1)[i]
        np.testing.assert_allclose(slope[i], (distance(taus + step) - distance(taus - step)) / 2e-3, atol=1e-4)
    into = jax.grad(lambda q: dist.fraction_loss(jnp.asarray(taus), q, quantile(middles)))(jnp.ones(N - 1))
    assert not jnp.any(into)
    with pytest.raises(ValueError, match="at_taus 3, not 4"):
        dist.fraction_loss(taus, jnp.ones(4), jnp.ones(4))
    assert dist.fraction_loss(jnp.array([0.0, 1.0]), jnp.zeros(0), jnp.ones(1)) == 0  # nothing between the ends


def test_gradients_stop_at_the_target_unless_asked():
    x = arguments(11)
    atoms, logits, q = x["q_atoms_t"], jnp.asarray(x["q_logits_t"]), jnp.asarray(x["q_t_selector"])
    r, d = x["r_t"], x["discount_t"]
    total = lambda x: jnp.sum(x**2)  # noqa: E731

    @functools.partial(jax.jit, static_argnums=0)
    def slopes(stop):
        options = {} if stop else {"stop_target_gradients": False}
        return [
            jax.grad(lambda z: total(dist.c51_target(r, d, z, q, atoms, **options)))(logits),
            jax.grad(lambda z: total(dist.quantile_target(r, d, z, q, **options)))(logits),
            jax.grad(lambda v: total(dist.two_hot_target(r, d, v, v, atoms, **options)))(q),
            jax.grad(lambda v: total(dist.hl_gauss_target(r, d, v, v, atoms, **options)))(q),
        ]

    assert not any(jnp.any(slope) for slope in slopes(True))
    assert all(jnp.any(slope) for slope in slopes(False))
