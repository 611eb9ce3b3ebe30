"""The ring against deques and roll-outs, at every fill level."""

from collections import Counter, deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql.replay import blank_step, uniform_replay
from jaxql.types import Step, Transition

DRAWS = 300


def random_log(rng, ticks, worlds, stack):
    """Steps [B] with both endings, life losses and reset rows; deques stack the frames 1 + t * worlds + world."""
    frames, over, log = [deque([0] * stack, stack) for _ in range(worlds)], np.zeros(worlds, bool), []

    def look(t):
        for world in range(worlds):
            frames[world].append(1 + t * worlds + world)
        return np.array([list(frame) for frame in frames])[:, 0 if stack == 1 else slice(None)]

    obs = look(0)
    for t in range(ticks):
        real = ~over
        terminated, truncated = (rng.random((2, worlds)) < 0.15) & real
        over = truncated | terminated & (rng.random(worlds) < 0.5)  # else a life is lost, and the episode goes on
        for world in np.flatnonzero(~real):
            frames[world].extend([0] * stack)
        action, reward, next_obs = rng.integers(9, size=worlds, dtype=np.int32), rng.normal(size=worlds), look(t + 1)
        log.append(Step(obs, action, reward, terminated, truncated, next_obs, real))
        obs = next_obs
    return log


def rollout(log, t, world, n, gamma) -> Transition:
    """The n-step transition by its definition."""
    total = 0.0
    for m, step in enumerate(log[t : t + n]):
        total += gamma**m * step.reward[world]
        if step.terminated[world] or step.truncated[world]:
            break
    discount = 0.0 if step.terminated[world] else gamma ** (m + 1)
    return Transition(log[t].obs[world], log[t].action[world], total, discount, step.next_obs[world], 1.0)


@pytest.mark.parametrize(("n", "stack"), [(1, 1), (3, 4), (10, 1)])
def test_draws_equal_the_definition_at_every_fill_level(n, stack, worlds=3, starts=8, gamma=0.9):
    log = random_log(np.random.default_rng(n), 40, worlds, stack)
    replay = uniform_replay(starts * worlds, n, stack)
    add, sample = jax.jit(replay.add, donate_argnums=0), jax.jit(replay.sample, static_argnums=2)
    ring = replay.init(blank_step(jnp.asarray(log[0].obs)))
    for count in range(len(log) + 1):
        ring = add(ring, log[count - 1]) if count else ring
        batch = sample(ring, jax.random.key(count), DRAWS, gamma)
        valid = {
            (t, world)
            for t in range(max(0, count - n + 1 - starts), count - n + 1)
            for world in np.flatnonzero(log[t].real)
        }
        newest = np.asarray(batch.obs).reshape(DRAWS, -1)[:, -1]
        places = [divmod(int(frame) - 1, worlds) for frame in newest] if valid else []
        assert set(places) == valid
        assert jnp.all(batch.weight == bool(valid))
        rows = [rollout(log, *place, n, gamma) for place in places]
        for got, want in zip(batch, zip(*rows, strict=True), strict=False):  # no rows where nothing is valid yet
            np.testing.assert_allclose(got, np.array(want), atol=1e-5)
    times = np.array(list(Counter(places).values()))
    chi_squared = np.sum((times - times.mean()) ** 2) / times.mean()
    assert chi_squared < len(valid) + 4 * np.sqrt(2 * len(valid)), "the draw is not uniform"


def test_capacity_that_the_worlds_do_not_divide_is_rounded_up():
    replay = uniform_replay(capacity=10, n_step=2)
    ring = replay.init(blank_step(jnp.zeros((4, 3))))
    assert ring.rows.reward.shape == (3 + 2, 4)  # ceil(10 / 4) ticks and a margin of 2


def test_frames_are_stored_once():
    obs = jnp.zeros((2, 4, 84, 84), jnp.uint8)
    ring = uniform_replay(capacity=1_000, n_step=3, stack=4).init(blank_step(obs))
    assert ring.rows.obs.shape == (500 + 6, 2, 84, 84)
    assert ring.rows.obs.nbytes <= 1.02 * 1_000 * 84 * 84
    assert ring.rows.next_obs == ()


def test_bytes_stay_bytes():
    obs = jnp.array([[0], [255]], jnp.uint8)
    replay = uniform_replay(capacity=4)
    ring = replay.add(replay.init(blank_step(obs)), blank_step(obs)._replace(real=jnp.array([True, True])))
    batch = replay.sample(ring, jax.random.key(0), 64, 0.9)
    assert batch.obs.dtype == jnp.uint8
    assert set(np.unique(batch.obs)) == {0, 255}


def test_observations_may_be_trees():
    obs = {"observation": jnp.arange(6.0).reshape(2, 3), "action_mask": jnp.array([[1, 0], [0, 1]], jnp.int8)}
    replay = uniform_replay(capacity=4)
    ring = replay.add(replay.init(blank_step(obs)), blank_step(obs)._replace(real=jnp.array([True, True])))
    batch = replay.sample(ring, jax.random.key(0), 16, 0.9)
    worlds = np.asarray(batch.obs["observation"])[:, 0] // 3
    np.testing.assert_array_equal(batch.obs["action_mask"][:, 1], worlds)


def test_nothing_valid_has_weight_zero():
    replay = uniform_replay(capacity=8)
    ring = replay.init(blank_step(jnp.zeros(2)))
    assert not jnp.any(replay.sample(ring, jax.random.key(0), 8, 0.9).weight)
    for _ in range(3):  # three ticks on which every world only reset itself
        ring = replay.add(ring, blank_step(jnp.zeros(2)))
    assert not jnp.any(replay.sample(ring, jax.random.key(0), 8, 0.9).weight)
