"""Memory in the ring and in the loss, against slow loops from the definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql.bellman import IDENTITY_PAIR
from jaxql.losses import r2d2_loss, sequence_priority, unroll
from jaxql.replay import memory_before, prioritised_replay, reset_memory, sample_sequence, uniform_replay, zero_step
from jaxql.types import Sequence, Step

ENVS, ACTIONS, SEEN, WIDTH = 3, 2, 2, 3


def apply(params, obs, memory=(), key=None):
    """A network of Elman (1990): its memory is its hidden layer."""
    inputs, recurrent, outputs = params
    memory = jnp.tanh(obs @ inputs + memory @ recurrent)
    return memory @ outputs, memory


def random_params(rng):
    shapes = (SEEN, WIDTH), (WIDTH, WIDTH), (WIDTH, ACTIONS)
    return tuple(rng.normal(size=shape) for shape in shapes)


def random_log(rng, ticks, ends=0.2):
    """(Steps [B], memory [B, H] before each), with both ends, life losses and reset rows; the extra is random."""
    over, log, before = np.zeros(ENVS, bool), [], []
    memory, obs = np.zeros((ENVS, WIDTH)), rng.normal(size=(ENVS, SEEN))
    for _ in range(ticks):
        valid, extra, next_obs = ~over, rng.normal(size=(ENVS, WIDTH)), rng.normal(size=(ENVS, SEEN))
        terminated, truncated = (rng.random((2, ENVS)) < ends) & valid
        over = truncated | terminated & (rng.random(ENVS) < 0.5)  # else a life is lost, and the episode goes on
        action, reward = rng.integers(ACTIONS, size=ENVS, dtype=np.int32), 3 * rng.normal(size=ENVS)
        log.append(Step(obs, action, reward, terminated, truncated, next_obs, valid, extra))
        before.append(memory)
        memory, obs = np.where(valid[:, None], extra, 0), next_obs
    return log, before


def empty_ring(replay, log):
    return replay.init(zero_step(jnp.asarray(log[0].obs))._replace(extra=jnp.zeros((ENVS, WIDTH))))


@pytest.mark.parametrize("kind", [uniform_replay, prioritised_replay])
def test_a_sequence_is_what_happened_and_starts_with_the_memory_of_then(kind, length=4, starts=5, gamma=0.9):
    """At every fill level: no start is drawn whose rows are not all stored, and each that can be is drawn."""
    log, before = random_log(np.random.default_rng(0), 16)
    replay = kind(starts * ENVS, length, view=functools.partial(sample_sequence, n=2))
    add, sample = jax.jit(replay.add), jax.jit(replay.sample, static_argnums=2)
    ring = empty_ring(replay, log)
    place_of = {tuple(np.float32(step.obs[w])): (t, w) for t, step in enumerate(log) for w in range(ENVS)}
    for count, step in enumerate(log, start=1):
        ring = add(ring, step)
        np.testing.assert_allclose(
            memory_before(ring.rows, ring.num_steps, slice(None)),
            np.where(step.valid[:, None], step.extra, 0),
            rtol=1e-6,
        )
        batch = sample(ring, jax.random.key(count), 200, gamma)
        end = count - length + 1
        valid = {(t, w) for t in range(max(0, end - starts), end) for w in np.flatnonzero(log[t].valid)}
        assert jnp.all(batch.weight == bool(valid))
        if not valid:
            continue
        places = [place_of[tuple(np.float32(obs))] for obs in np.asarray(batch.obs[:, 0])]
        assert set(places) == valid
        for i, (t, w) in enumerate(places[:20]):
            rows = log[t : t + length]
            seen = [step.obs[w] for step in rows] + [rows[-1].next_obs[w]]
            np.testing.assert_allclose(batch.obs[i], seen, rtol=1e-6)
            np.testing.assert_array_equal(batch.action[i], [step.action[w] for step in rows])
            np.testing.assert_array_equal(batch.valid[i], [step.valid[w] for step in rows])
            np.testing.assert_allclose(batch.memory[i], before[t][w], rtol=1e-6)


def test_memory_is_kept_beside_stacks():
    replay = prioritised_replay(12, 3, stack=2, view=functools.partial(sample_sequence, n=1))
    obs = np.zeros((ENVS, 2))
    ring = replay.init(zero_step(jnp.asarray(obs))._replace(extra=jnp.zeros(ENVS)))
    no, add = np.zeros(ENVS, bool), jax.jit(replay.add)
    for t in range(30):  # the frame and the memory after it are both t + 1, one more than those before
        obs = np.broadcast_to(np.array([t, t + 1.0]), obs.shape)
        ring = add(ring, Step(obs, no.astype(np.int32), obs[:, 0], no, no, obs + 1, ~no, obs[:, 1]))
    batch = replay.sample(ring, jax.random.key(0), 50, 0.9)
    np.testing.assert_array_equal(batch.obs[..., 1], batch.memory[:, None] + 1 + jnp.arange(4)[None])
    np.testing.assert_array_equal(batch.obs[..., 0] + 1, batch.obs[..., 1])
    assert set(np.unique(batch.memory)) == {24.0, 25.0, 26.0, 27.0}


def squashed(x, eps=1e-3):
    """h, as the paper writes it."""
    return np.sign(x) * (np.sqrt(abs(x) + 1) - 1) + eps * x


def unsquashed(x, eps=1e-3):
    """The inverse of h, as the paper writes it."""
    return np.sign(x) * (((np.sqrt(1 + 4 * eps * (abs(x) + 1 + eps)) - 1) / (2 * eps)) ** 2 - 1)


def slow_values(params, log, env, memory, burn_in=0, earlier=None):
    """Action values of the observations of these rows and of the one after; the first are seen by `earlier` params."""
    values, forget = [], False
    for i, obs in enumerate([step.obs[env] for step in log] + [log[-1].next_obs[env]]):
        inputs, recurrent, outputs = earlier if i < burn_in else params
        memory = np.tanh(obs @ inputs + (0 if forget else 1) * memory @ recurrent)
        values.append(memory @ outputs)
        forget = i < len(log) and not log[i].valid[env]
    return values


def slow_errors(params, online, target, log, env, memory, burn_in, n, gamma):
    """TD errors of the rows after the burn-in, None where a row is not valid; `online` are held still."""
    values = slow_values(params, log, env, memory, burn_in, earlier=online)
    chooser, judge = (slow_values(p, log, env, memory) for p in (online, target))
    errors = []
    for i in range(burn_in, len(log)):
        total, m = 0.0, 0
        while True:
            row, m = log[i + m], m + 1
            total += gamma ** (m - 1) * row.reward[env]
            if row.terminated[env] or row.truncated[env] or m == n or i + m == len(log):
                break
        if not row.terminated[env]:
            total += gamma**m * unsquashed(judge[i + m][np.argmax(chooser[i + m])])
        errors.append(squashed(total) - values[i][log[i].action[env]] if log[i].valid[env] else None)
    return errors


def slow_loss(params, online, target, sequences, **options):
    total = count = 0.0
    for weight, place in sequences:
        for error in slow_errors(params, online, target, *place, **options):
            if error is not None:
                total, count = total + weight * error**2 / 2, count + weight
    return total / count


@pytest.mark.parametrize(("burn_in", "n"), [(0, 1), (2, 3), (3, 10)])
def test_the_loss_and_its_gradient_are_the_definitions(burn_in, n, length=8, gamma=0.9):
    """The gradient by differences of a loss that holds still what no gradient may pass: target, choice and burn-in."""
    rng = np.random.default_rng(burn_in)
    log, before = random_log(rng, 40)
    online, target = random_params(rng), random_params(rng)
    replay = uniform_replay(40 * ENVS, length)
    ring, add = empty_ring(replay, log), jax.jit(replay.add)
    for step in log:
        ring = add(ring, step)
    t, env = rng.integers(40 - length, size=12), rng.integers(ENVS, size=12)
    weight = np.append(rng.random(11), 0.0)
    view = jax.vmap(functools.partial(sample_sequence, n=n), (None, 0, 0, 0, None, None, None))
    batch = view(ring.rows, jnp.asarray(t), jnp.asarray(env), jnp.asarray(weight), gamma, length, 1)
    assert not jnp.all(batch.valid[:, burn_in:]) and jnp.any(batch.discount == 0)

    def loss(params, target, batch):
        return r2d2_loss(params, target, batch, apply, burn_in=burn_in)

    params, followed = jax.tree.map(jnp.asarray, (online, target))
    value, (errors, q_values, priorities) = jax.jit(loss)(params, followed, batch)
    options = dict(burn_in=burn_in, n=n, gamma=gamma)
    places = [(log[i : i + length], w, before[i][w]) for i, w in zip(t, env, strict=True)]
    sequences = list(zip(weight, places, strict=True))
    np.testing.assert_allclose(value, slow_loss(online, online, target, sequences, **options), rtol=1e-4)
    for got, place in zip(errors[:11], places, strict=False):
        expected = slow_errors(online, online, target, *place, **options)
        np.testing.assert_allclose(got, [e or 0 for e in expected], rtol=1e-4, atol=1e-5)
    assert q_values.shape == (12, length - burn_in)
    np.testing.assert_array_equal(priorities, np.abs(errors))

    gradient = jax.jit(jax.grad(lambda *args: loss(*args)[0], (0, 1)))(params, followed, batch)
    assert all(jnp.all(x == 0) for x in jax.tree.leaves(gradient[1])), "a gradient flows into the target"
    for layer, place in [(i, place) for i, x in enumerate(online) for place in np.ndindex(x.shape)]:
        sides = []
        for step in 1e-5, -1e-5:
            moved = [x.copy() for x in online]
            moved[layer][place] += step
            sides.append(slow_loss(moved, online, target, sequences, **options))
        np.testing.assert_allclose(gradient[0][layer][place], (sides[0] - sides[1]) / 2e-5, rtol=2e-3, atol=1e-5)


def batch_of(rng, length):
    """One sequence of valid rows, of which only the last pays."""
    zeros = jnp.zeros((1, length))
    return Sequence(
        obs=jnp.asarray(rng.normal(size=(1, length + 1, SEEN))),
        action=zeros.astype(jnp.int32),
        reward=zeros.at[0, -1].set(1.0),
        discount=zeros,
        bootstrap_index=1 + jnp.arange(length, dtype=jnp.int32)[None],
        valid=zeros == 0,
        memory=jnp.zeros((1, WIDTH)),
        weight=jnp.ones(1),
    )


def test_no_gradient_passes_the_burn_in_nor_the_stored_memory():
    rng = np.random.default_rng(0)
    batch, params = batch_of(rng, 6), jax.tree.map(jnp.asarray, random_params(rng))

    def loss(obs, memory, burn_in):
        return r2d2_loss(params, params, batch._replace(obs=obs, memory=memory), apply, burn_in=burn_in)[0]

    gradient = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    for burn_in in 0, 2, 5:
        obs, memory = gradient(batch.obs, batch.memory, burn_in)
        assert not jnp.any(obs[:, :burn_in]) and jnp.all(jnp.any(obs[:, burn_in:-1], axis=-1))
        assert not jnp.any(memory)


def test_memory_restarts_after_a_row_that_is_not_valid():
    rng = np.random.default_rng(1)
    params = jax.tree.map(jnp.asarray, random_params(rng))
    obs, memory = jnp.asarray(rng.normal(size=(2, 5, SEEN))), jnp.asarray(rng.normal(size=(2, WIDTH)))
    valid = jnp.array([[True, True, False, True, True], [True] * 5])
    q, after = unroll(apply, params, obs, memory, valid)
    fresh, fresh_after = unroll(apply, params, obs[:, 3:], jnp.zeros((2, WIDTH)), valid[:, 3:])
    np.testing.assert_allclose(q[0, 3:], fresh[0], rtol=1e-5)
    np.testing.assert_allclose(after[0], fresh_after[0], rtol=1e-5)
    assert jnp.all(jnp.abs(q[1, 3:] - fresh[1]) > 1e-3), "the other env goes on"
    tree = reset_memory((memory, memory[:, 0]), jnp.array([False, True]))
    np.testing.assert_array_equal(tree[0], memory.at[0].set(0))
    np.testing.assert_array_equal(tree[1], memory[:, 0].at[0].set(0))


def test_rows_of_no_weight_do_no_harm():
    rng = np.random.default_rng(2)
    batch, params = batch_of(rng, 4), jax.tree.map(jnp.asarray, random_params(rng))
    both = jax.tree.map(lambda x: jnp.concatenate([x, x]), batch)
    both = both._replace(weight=jnp.array([1.0, 0.0]), reward=both.reward.at[1].set(jnp.nan))
    loss = jax.jit(lambda batch: r2d2_loss(params, params, batch, apply, burn_in=1, tx_pair=IDENTITY_PAIR))
    value, (errors, *_) = loss(both)
    np.testing.assert_allclose(value, loss(batch)[0], rtol=1e-6)
    assert not jnp.any(errors[1])
    assert loss(both._replace(weight=jnp.zeros(2)))[0] == 0
    slope = jax.jit(jax.grad(lambda params, batch: r2d2_loss(params, params, batch, apply, burn_in=1)[0]))
    spoilt = both._replace(obs=both.obs.at[1].set(jnp.nan), memory=both.memory.at[1].set(jnp.inf))
    for got, want in zip(slope(params, spoilt), slope(params, batch), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_priority_is_a_mixture_over_valid_rows():
    errors, valid = np.array([[1.0, -3.0, 99.0], [7.0, 7.0, 7.0]]), np.array([[1, 1, 0], [0, 0, 0]], bool)
    np.testing.assert_allclose(sequence_priority(jnp.asarray(errors), jnp.asarray(valid)), [0.9 * 3 + 0.1 * 2, 0])
