"""The ring against deques and roll-outs, at every fill level."""

from collections import Counter, deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql.replay import n_step_transition, prioritised_replay, sum_tree, uniform_replay, zero_step
from jaxql.types import Step, Transition

pytestmark = pytest.mark.float64
DRAWS = 300


def random_log(rng, ticks, envs, stack):
    """Steps [B] with both endings, life losses and reset rows; deques stack the frames 1 + t * envs + env."""
    frames, over, log = [deque([0] * stack, stack) for _ in range(envs)], np.zeros(envs, bool), []

    def look(t):
        for env in range(envs):
            frames[env].append(1 + t * envs + env)
        return np.array([list(frame) for frame in frames])[:, 0 if stack == 1 else slice(None)]

    obs = look(0)
    for t in range(ticks):
        valid = ~over
        terminated, truncated = (rng.random((2, envs)) < 0.15) & valid
        over = truncated | terminated & (rng.random(envs) < 0.5)  # else a life is lost, and the episode goes on
        for env in np.flatnonzero(~valid):
            frames[env].extend([0] * stack)
        action, reward, next_obs = rng.integers(9, size=envs, dtype=np.int32), rng.normal(size=envs), look(t + 1)
        log.append(Step(obs, action, reward, terminated, truncated, next_obs, valid))
        obs = next_obs
    return log


def rollout(log, t, env, n, gamma) -> Transition:
    """The n-step transition by its definition."""
    total = 0.0
    for m, step in enumerate(log[t : t + n]):
        total += gamma**m * step.reward[env]
        if step.terminated[env] or step.truncated[env]:
            break
    discount = 0.0 if step.terminated[env] else gamma ** (m + 1)
    return Transition(log[t].obs[env], log[t].action[env], total, discount, step.next_obs[env], 1.0)


@pytest.mark.often("10-1-prioritised_replay", "3-4-uniform_replay", "1-1-prioritised_replay", "1-1-uniform_replay")
@pytest.mark.parametrize("kind", [uniform_replay, prioritised_replay])
@pytest.mark.parametrize(("n", "stack"), [(1, 1), (3, 4), (10, 1)])
@pytest.mark.trust(4, 5)
def test_draws_equal_the_definition_at_every_fill_level(n, stack, kind, envs=3, starts=8, gamma=0.9):
    log = random_log(np.random.default_rng(n), 40, envs, stack)
    replay = kind(starts * envs, n, stack)
    add, sample = jax.jit(replay.add, donate_argnums=0), jax.jit(replay.sample, static_argnums=2)
    ring = replay.init(zero_step(jnp.asarray(log[0].obs)))
    for count in range(len(log) + 1):
        ring = add(ring, log[count - 1]) if count else ring
        batch = sample(ring, jax.random.key(count), DRAWS, gamma)
        valid = {
            (t, env)
            for t in range(max(0, count - n + 1 - starts), count - n + 1)
            for env in np.flatnonzero(log[t].valid)
        }
        newest = np.asarray(batch.obs).reshape(DRAWS, -1)[:, -1]
        places = [divmod(int(frame) - 1, envs) for frame in newest] if valid else []
        assert set(places) == valid
        assert jnp.all(batch.weight == bool(valid))
        rows = [rollout(log, *place, n, gamma) for place in places]
        for got, want in zip(batch[:6], zip(*rows, strict=True), strict=False):  # no rows where nothing is valid yet
            np.testing.assert_allclose(got, np.array(want), atol=1e-5)
    times = np.array(list(Counter(places).values()))
    chi_squared = np.sum((times - times.mean()) ** 2) / times.mean()
    assert chi_squared < len(valid) + 4 * np.sqrt(2 * len(valid)), "the draw is not uniform"


@pytest.mark.often("prioritised_replay")
@pytest.mark.parametrize("kind", [uniform_replay, prioritised_replay])
@pytest.mark.trust(5)
def test_a_traced_n_is_the_static_one(kind, most=5, envs=3, stack=2, gamma=0.9):
    log = random_log(np.random.default_rng(1), 20, envs, stack)
    replay = kind(60, most, stack)
    ring = replay.init(zero_step(jnp.asarray(log[0].obs)))
    for step in log:
        ring = replay.add(ring, step)
    sample = jax.jit(lambda n: replay.sample(ring, jax.random.key(0), DRAWS, gamma, n=n))
    for n in range(1, most + 1):
        batch = sample(n)
        places = [divmod(int(frame) - 1, envs) for frame in np.asarray(batch.obs)[:, -1]]
        rows = [rollout(log, *place, n, gamma) for place in places]
        for got, want in zip(batch[:6], zip(*rows, strict=True), strict=False):
            np.testing.assert_allclose(got, np.array(want), atol=1e-5) if got is not batch.weight else None
        t, env = (jnp.array(x) for x in zip(*places, strict=True))
        static = jax.vmap(lambda t, w, n=n: n_step_transition(ring.rows, t, w, 1.0, gamma, n, stack))(t, env)
        jax.tree.map(np.testing.assert_array_equal, batch._replace(weight=(), index=()), static._replace(weight=()))
    assert sample._cache_size() == 1


def test_capacity_that_the_worlds_do_not_divide_is_rounded_up():
    replay = uniform_replay(capacity=10, n_step=2)
    ring = replay.init(zero_step(jnp.zeros((4, 3))))
    assert ring.rows.reward.shape == (3 + 2, 4)  # ceil(10 / 4) ticks and a margin of 2


@pytest.mark.trust(8)
def test_frames_are_stored_once():
    obs = jnp.zeros((2, 4, 84, 84), jnp.uint8)
    ring = uniform_replay(capacity=1_000, n_step=3, stack=4).init(zero_step(obs))
    assert ring.rows.obs.shape == (500 + 6, 2, 84, 84)
    assert ring.rows.obs.nbytes <= 1.02 * 1_000 * 84 * 84
    assert ring.rows.next_obs == ()


@pytest.mark.parametrize("kind", [uniform_replay, prioritised_replay])
@pytest.mark.trust(8)
def test_a_million_atari_frames_take_no_more_than_they_must(kind):
    obs = jax.ShapeDtypeStruct((16, 4, 84, 84), jnp.uint8)
    ring = jax.eval_shape(lambda obs: kind(1_000_000, n_step=10, stack=4).init(zero_step(obs)), obs)
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(ring)) <= 7.3e9


@pytest.mark.trust(8)
def test_bytes_stay_bytes():
    obs = jnp.array([[0], [255]], jnp.uint8)
    replay = uniform_replay(capacity=4)
    ring = replay.add(replay.init(zero_step(obs)), zero_step(obs)._replace(valid=jnp.array([True, True])))
    batch = replay.sample(ring, jax.random.key(0), 64, 0.9)
    assert batch.obs.dtype == jnp.uint8
    assert set(np.unique(batch.obs)) == {0, 255}


def test_observations_may_be_trees():
    obs = {"observation": jnp.arange(6.0).reshape(2, 3), "action_mask": jnp.array([[1, 0], [0, 1]], jnp.int8)}
    replay = uniform_replay(capacity=4)
    ring = replay.add(replay.init(zero_step(obs)), zero_step(obs)._replace(valid=jnp.array([True, True])))
    batch = replay.sample(ring, jax.random.key(0), 16, 0.9)
    envs = np.asarray(batch.obs["observation"])[:, 0] // 3
    np.testing.assert_array_equal(batch.obs["action_mask"][:, 1], envs)


@pytest.mark.trust(7)
def test_nothing_valid_has_weight_zero():
    replay = uniform_replay(capacity=8)
    ring = replay.init(zero_step(jnp.zeros(2)))
    assert not jnp.any(replay.sample(ring, jax.random.key(0), 8, 0.9).weight)
    for _ in range(3):  # three ticks on which every env only reset itself
        ring = replay.add(ring, zero_step(jnp.zeros(2)))
    assert not jnp.any(replay.sample(ring, jax.random.key(0), 8, 0.9).weight)


class SlowPriorities:
    """Priorities by their definition, in a dict of (tick, env)."""

    def __init__(self, log, n, stack, starts):
        self.log, self.n, self.starts, self.p, self.recent, self.count = log, n, starts, {}, deque(maxlen=64), 0

    def add(self):
        self.count += 1
        entered = self.count - self.n
        if entered >= 0:
            valid = self.log[entered].valid
            self.p |= {(entered, env): max(self.recent, default=1.0) for env in range(len(valid)) if valid[env]}
        self.p = {place: p for place, p in self.p.items() if place[0] > entered - self.starts}

    def update(self, places, td_errors, alpha):
        self.p |= {place: (abs(e) + 1e-6) ** alpha for place, e in zip(places, td_errors, strict=True)}
        self.recent.append(max(self.p[place] for place in places))


@pytest.mark.parametrize(("n", "stack"), [(1, 1), (3, 4)])
@pytest.mark.trust(7)
def test_priorities_equal_the_definition_at_every_fill_level(n, stack, envs=3, starts=8, alpha=0.6):
    rng = np.random.default_rng(n)
    log = random_log(rng, 100, envs, stack)
    replay = prioritised_replay(starts * envs, n, stack)
    add, update = jax.jit(replay.add, donate_argnums=0), jax.jit(replay.update, donate_argnums=0)
    ring, slow = replay.init(zero_step(jnp.asarray(log[0].obs))), SlowPriorities(log, n, stack, starts)
    slots = len(ring.rows.valid)
    for step in log:
        ring = add(ring, step)
        slow.add()
        if slow.p:
            places = [list(slow.p)[i] for i in rng.permutation(len(slow.p))[:4]]
            errors = rng.normal(size=len(places)) * 3
            ring = update(ring, np.array([t % slots * envs + env for t, env in places]), errors, alpha)
            slow.update(places, errors, alpha)
        leaves = np.zeros(slots * envs)
        leaves[[t % slots * envs + env for t, env in slow.p]] = list(slow.p.values())
        np.testing.assert_allclose(ring.priorities[0].ravel()[: leaves.size], leaves, rtol=1e-5)
        np.testing.assert_allclose(sum_tree.total(ring.priorities), leaves.sum(), rtol=1e-5)
        np.testing.assert_allclose(jnp.max(ring.max_priorities), max(slow.recent, default=0), rtol=1e-5)


def test_weights_undo_the_odds(beta=0.7):
    replay = prioritised_replay(capacity=8)
    step = zero_step(jnp.zeros((4, 1)))
    ring = replay.add(replay.init(step), step._replace(valid=jnp.array([True, True, True, False])))
    ring = replay.update(ring, jnp.arange(4), jnp.array([1.0, 2.0, 5.0, 9.0]), 1.0)
    batch = replay.sample(ring, jax.random.key(0), 4_000, 0.9, beta)
    odds = np.bincount(batch.index, minlength=4) / 4_000
    np.testing.assert_allclose(odds, [1 / 8, 2 / 8, 5 / 8, 0], atol=2e-3)  # a row that is not valid has no odds
    np.testing.assert_allclose(batch.weight, (np.array([1.0, 2, 5, 9]) ** -beta)[batch.index], rtol=1e-5)


@pytest.mark.float32
@pytest.mark.parametrize("kind", [uniform_replay, prioritised_replay])
def test_shards_draw_from_their_own_envs(kind, ticks=5):
    replay = kind(capacity=40, shards=4)
    step = zero_step(jnp.arange(8))._replace(valid=jnp.arange(8) != 3)
    ring = replay.init(step)
    for _ in range(ticks):
        ring = replay.add(ring, step)
    batch = replay.sample(ring, jax.random.key(0), 400, 0.9)
    assert batch.obs.shape == batch.weight.shape == (400,)
    assert jnp.all(batch.weight == 1)
    drawn = [set(np.unique(part)) for part in np.asarray(batch.obs).reshape(4, 100)]
    assert drawn == [{0, 1}, {2}, {4, 5}, {6, 7}]
    if kind == uniform_replay:
        assert len({tuple(part % 2) for part in np.asarray(batch.obs).reshape(4, 100)}) == 4, "the shards draw alike"
    with pytest.raises(ValueError, match="shards is 4; it must divide the batch of 30"):
        replay.sample(ring, jax.random.key(0), 30, 0.9)


def test_weights_undo_what_shards_do_to_the_odds(beta=0.7):
    replay, p = prioritised_replay(capacity=8, shards=2), np.array([1.0, 2.0, 5.0, 9.0])
    step = zero_step(jnp.arange(4))._replace(valid=jnp.ones(4, bool))
    ring = replay.add(replay.init(step), step)
    ring = replay.update(ring, jnp.array([0, 1, 0, 1]), p, 1.0)  # indices count within a group
    batch = replay.sample(ring, jax.random.key(0), 4_000, 0.9, beta)
    odds = p / np.repeat([3, 14], 2) / 2
    np.testing.assert_allclose(np.bincount(batch.obs, minlength=4) / 4_000, odds, atol=2e-3)
    np.testing.assert_allclose(batch.weight, ((odds / odds.min()) ** -beta)[batch.obs], rtol=1e-5)


def test_writes_are_in_place():
    step = zero_step(jnp.zeros((2, 4, 84, 84), jnp.uint8))
    kinds = uniform_replay, prioritised_replay
    for replay in (kind(500, 3, 4, shards=shards) for kind in kinds for shards in (1, 2)):
        ring = replay.init(step)
        pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(ring)]
        ring = jax.jit(replay.add, donate_argnums=0)(ring, step)
        assert [x.unsafe_buffer_pointer() for x in jax.tree.leaves(ring)] == pointers
