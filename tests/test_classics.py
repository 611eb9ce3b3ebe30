"""The textbook's experiments: what each method is known for shows, beyond the noise of many independent runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql import bellman, planning, tabular
from jaxql.bellman.windows import n_step_windows
from jaxql.explore import epsilon_greedy

RUNS = 400


def keys(seed, runs=RUNS):
    return jax.random.split(jax.random.key(seed), runs)


def assert_larger(x, y, margin=0.0):
    """Mean of x above mean of y + margin by 4 standard errors, over independent runs."""
    gap = np.asarray(x, float) - np.asarray(y, float) - margin
    assert gap.mean() > 4 * gap.std() / np.sqrt(len(gap)), (x.mean(), y.mean())


# ------------------------------------------------------------------------------------------------- maximisation bias
EPISODES, ARMS = 300, 10


@functools.partial(jax.jit, static_argnames="double")
def left_turns(runs, double):
    """[runs, EPISODES] whether the first action was left, which leads to B and rewards of mean -0.1 and deviation 1.

    States A (right ends with 0), B, and the end; rates 0.1, epsilon 0.1, undiscounted (example 6.7). In A only the
    first two actions are legal: the others hold -inf in both tables.
    """

    def one_run(key):
        table = jnp.zeros((3, ARMS)).at[0, 2:].set(-jnp.inf)

        def update(q, key, s, a, r, discount, s2, valid):
            row = (jnp.atleast_1d(x) for x in (s, a, r, discount, s2, valid))
            if double:
                return tabular.double_q_learning_update(q, key, *row, 0.1)[0]
            return tabular.q_learning_update(q, *row, 0.1)[0]

        def episode(q, t):
            key_a, key_b, key_r, key_1, key_2 = jax.random.split(jax.random.fold_in(key, t), 5)
            acting = (lambda q: q[0] + q[1]) if double else (lambda q: q)
            turn = epsilon_greedy(key_a, acting(q)[0], 0.1)
            left = turn == 0
            q = update(q, key_1, 0, turn, 0.0, jnp.where(left, 1.0, 0.0), jnp.where(left, 1, 2), True)
            arm = epsilon_greedy(key_b, acting(q)[1], 0.1)
            reward = jax.random.normal(key_r) - 0.1
            return update(q, key_2, 1, arm, reward, 0.0, 2, left), left

        return jax.lax.scan(episode, jnp.stack([table, table]) if double else table, jnp.arange(EPISODES))[1]

    return jax.vmap(one_run)(runs)


def test_double_q_learning_is_less_fooled_by_the_maximum_of_noise():
    """Sutton & Barto, figure 6.5: the best that epsilon 0.1 allows is to go left in 5 % of the episodes."""
    single, double = (np.asarray(left_turns(keys(1), double)).astype(float) for double in (False, True))
    early, late = slice(10, 60), slice(EPISODES - 50, EPISODES)
    assert_larger(single[:, early].mean(1), double[:, early].mean(1), margin=0.1)
    assert_larger(single[:, late].mean(1), double[:, late].mean(1))
    assert single[:, early].mean() > 0.5, "the bias is known to make left the favourite"
    assert 0.05 <= double[:, late].mean() + 0.01 < 0.2


# ------------------------------------------------------------------------------------------- Baird's counterexample
FEATURES = jnp.concatenate([jnp.concatenate([2 * jnp.eye(6), jnp.zeros((1, 6))]),
                            jnp.array([[0.0, 1.0]] * 6 + [[1.0, 2.0]])], axis=1)  # fmt: skip
WEIGHTS = jnp.array([1.0, 1, 1, 1, 1, 1, 10, 1])
EVERYWHERE, ON_POLICY = jnp.full(7, 1 / 7), jnp.eye(7)[6]


@functools.partial(jax.jit, static_argnames="stop")
def expected_updates(features, weights, sampling, stop=True):
    """Largest |value| after each of 3000 expected updates of TD(0) for the target policy, which always goes to state 7.

    Rewards are 0, gamma is 0.99 and the rate 0.01 (example 11.1, figure 11.2 on the right); `sampling` [7] weighs the
    states, and without `stop` it is the residual gradient.
    """

    def loss(w):
        v = features @ w
        errors = bellman.td_learning(v, jnp.zeros(7), jnp.full(7, 0.99), jnp.full(7, v[6]), stop)
        return jnp.sum(sampling * errors**2) / 2

    def update(w, _):
        w = w - 0.01 * jax.grad(loss)(w)
        return w, jnp.max(jnp.abs(features @ w))

    return jax.lax.scan(update, weights, None, 3000)[1]


def test_bairds_counterexample_diverges_off_policy():
    size = expected_updates(FEATURES, WEIGHTS, EVERYWHERE)
    assert size[-1] > 10 * size[0]
    assert jnp.all(jnp.diff(size[500::500]) > 0)


def test_bairds_counterexample_is_tame_on_policy_and_by_residual_gradient():
    on_policy = expected_updates(FEATURES, WEIGHTS, ON_POLICY)
    assert on_policy[-1] <= on_policy[0] + 1e-3  # only state 7 is met, and its value shrinks
    residual = expected_updates(FEATURES, WEIGHTS, EVERYWHERE, stop=False)
    assert residual[-1] < residual[0]


@pytest.mark.parametrize("groups", [1, 3, 7])
def test_averagers_do_not_diverge_off_policy(groups):
    """Features that average (non-negative weights that sum to 1) keep the backup a contraction: Gordon, 1995."""
    averager = jax.nn.one_hot(jnp.arange(7) % groups, groups)
    size = expected_updates(averager, 5.0 + jnp.arange(groups), EVERYWHERE)
    assert jnp.all(jnp.diff(size) <= 1e-4)
    assert size[-1] < 0.99 * size[0]


# --------------------------------------------------------------------------------------------------- cliff walking
def step(mdp, s, a):
    """What deterministic envs [B] do: reward, whether it ends, next state."""
    return mdp.reward[s, a, 0], mdp.ends[s, a, 0], mdp.next_state[s, a, 0]


@functools.partial(jax.jit, static_argnames="sarsa")
def walk_the_cliff(mdp, runs, sarsa):
    """Tables [runs, 48, 4] and online rewards per episode in the second half, at rate 0.5 and epsilon 0.1."""

    def one_run(key):
        def tick(carry, t):
            q, s, a = carry
            reward, ends, s2 = step(mdp, s, a)
            a2 = epsilon_greedy(jax.random.fold_in(key, t), q[s2], 0.1)
            row = [jnp.atleast_1d(x) for x in (s, a, reward, jnp.where(ends, 0.0, 1.0), s2)]
            if sarsa:
                q, _ = tabular.sarsa_update(q, *row, jnp.atleast_1d(a2), True, 0.5)
            else:
                q, _ = tabular.q_learning_update(q, *row, True, 0.5)
            start = jnp.argmax(mdp.start).astype(s2.dtype)
            first = epsilon_greedy(jax.random.fold_in(key, -1 - t), q[start], 0.1)
            return (q, jnp.where(ends, start, s2), jnp.where(ends, first, a2)), (reward, ends)

        first = jnp.zeros((48, 4)), jnp.argmax(mdp.start).astype(mdp.next_state.dtype), jnp.int32(0)
        (q, _, _), (reward, ends) = jax.lax.scan(tick, first, jnp.arange(12_000))
        return q, jnp.sum(reward[6_000:]) / jnp.maximum(jnp.sum(ends[6_000:]), 1)

    return jax.vmap(one_run)(runs)


def test_sarsa_takes_the_safer_path_and_q_learning_the_shorter():
    """Sutton & Barto, example 6.6: while exploring SARSA earns more, though the greedy policy of Q-learning is best."""
    cliff = planning.from_gymnasium("CliffWalking-v1")
    runs = keys(2, 20)
    (q, online_q), (on_policy, online_sarsa) = (walk_the_cliff(cliff, runs, sarsa) for sarsa in (False, True))
    assert_larger(online_sarsa, online_q, margin=10)
    returns = functools.partial(planning.expected_return, cliff, discount=1.0, step_limit=200)
    assert np.median([returns(planning.greedy_policy(table)) for table in q[:9]]) == -13
    explored = [
        np.median([returns(tabular.epsilon_greedy_probabilities(table, 0.1)) for table in tables[:9]])
        for tables in (on_policy, q)
    ]
    assert explored[0] > explored[1] + 10


# ----------------------------------------------------------------------------------------------------- random walks
STATES, WALKS, TICKS = 19, 10, 2_500
TRUE_VALUES = np.arange(-9, 10) / 10


def walks(rng):
    """Rows of random walks from the middle of 19 states: -1 on the left, 1 on the right; valid for WALKS episodes."""
    s, rows, done = 9, [], 0
    while len(rows) < TICKS:
        s2 = s + (1 if rng.random() < 0.5 else -1)
        over = not 0 <= s2 < STATES
        reward = float(np.sign(s2 - 9)) if over else 0.0
        rows.append((s, reward, over, min(max(s2, 0), STATES - 1), done < WALKS))
        done, s = done + over, 9 if over else s2
    return tuple(np.array(x) for x in zip(*rows, strict=True))


def root_mean_square(q):
    return jnp.sqrt(jnp.mean((q[:, 0] - jnp.asarray(TRUE_VALUES, q.dtype)) ** 2))


@functools.partial(jax.jit, static_argnames="n")
def n_step_error(rows, rates, n):
    """Error [runs, rates] after each of the first 10 episodes, averaged, of n-step TD: a table of one action."""

    def one(s, reward, over, s2, valid, rate):
        w = n_step_windows(reward, over, jnp.zeros_like(over), valid, n, 1.0)
        arrive = jnp.append(s, s2[-1])[w.bootstrap_index]

        def tick(q, t):
            row = (x[t][None] for x in (s, jnp.zeros_like(s), w.reward, w.discount, arrive, w.valid))
            q, _ = tabular.q_learning_update(q, *row, rate)
            return q, root_mean_square(q)

        errors = jax.lax.scan(tick, jnp.zeros((STATES, 1)), jnp.arange(TICKS))[1]
        return jnp.sum(jnp.where(over & valid, errors, 0)) / jnp.sum(over & valid)

    return jax.vmap(jax.vmap(one, (None,) * 5 + (0,)), (0,) * 5 + (None,))(*rows, rates)


@jax.jit
def lambda_error(rows, rates, lambda_):
    """The same of TD(lambda) with accumulating traces."""

    def one(s, reward, over, s2, valid, rate):
        def tick(carry, t):
            row = (x[t][None] for x in (s, jnp.zeros_like(s), reward, jnp.where(over, 0.0, 1.0), s2, valid))
            q, traces, _ = tabular.naive_q_lambda_update(*carry, *row, rate, lambda_)
            return (q, traces), root_mean_square(q)

        errors = jax.lax.scan(tick, (jnp.zeros((STATES, 1)), jnp.zeros((1, STATES, 1))), jnp.arange(TICKS))[1]
        return jnp.sum(jnp.where(over & valid, errors, 0)) / jnp.sum(over & valid)

    return jax.vmap(jax.vmap(one, (None,) * 5 + (0,)), (0,) * 5 + (None,))(*rows, rates)


@pytest.fixture(scope="module")
def many_walks():
    rng = np.random.default_rng(3)
    return tuple(np.stack(x) for x in zip(*(walks(rng) for _ in range(40)), strict=True))


def best(errors):
    """Of [runs, rates] the column of the best rate."""
    errors = np.nan_to_num(np.asarray(errors, float), nan=np.inf)
    return errors[:, errors.mean(axis=0).argmin()]


def test_n_step_methods_are_best_between_the_extremes(many_walks):
    """Sutton & Barto, figure 7.2: at their best rates n = 4 beats n = 1 and n = 64, by about 0.03 in 0.25."""
    rates = jnp.array([0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0])
    one, four, many = (best(n_step_error(many_walks, rates, n)) for n in (1, 4, 64))
    assert_larger(one, four, margin=0.01)
    assert_larger(many, four, margin=0.05)
    assert 0.2 < four.mean() < 0.35


def test_td_lambda_is_best_between_the_extremes(many_walks):
    """Sutton & Barto, figure 12.6: the same for lambda = 0.8 between 0 and 1."""
    rates = jnp.array([0.01, 0.05, 0.1, 0.2, 0.4, 0.8])
    zero, middle, one = (best(lambda_error(many_walks, rates, trace)) for trace in (0.0, 0.8, 1.0))
    assert_larger(zero, middle, margin=0.01)
    assert_larger(one, middle, margin=0.05)
