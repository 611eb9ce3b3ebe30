"""Laws of snapshots: what is loaded equals what was saved, and a save writes only the rows that are new."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql.errors import UserError
from jaxql.lab.snapshots import MOST_SEGMENTS, Snapshots
from jaxql.replay import prioritised_replay, uniform_replay, zero_step
from jaxql.types import Step

ENVS = 3
REPLAYS = {"uniform": uniform_replay, "prioritised": prioritised_replay}


def step_of(t, obs, extra=()):
    rng = np.random.default_rng(t)
    flag = jnp.asarray(rng.integers(2, size=ENVS), bool)
    return Step(
        obs=obs,
        action=jnp.asarray(rng.integers(4, size=ENVS), jnp.int32),
        reward=jnp.asarray(rng.normal(size=ENVS), jnp.result_type(float)),
        terminated=flag,
        truncated=~flag,
        next_obs={"image": jnp.full((ENVS, 2, 2), t + 1, jnp.uint8), "mask": jnp.full((ENVS, 4), t % 2, bool)},
        valid=jnp.asarray(rng.integers(2, size=ENVS), bool),
        extra=extra,
    )


def first_obs():
    return {"image": jnp.zeros((ENVS, 2, 2), jnp.uint8), "mask": jnp.ones((ENVS, 4), bool)}


def grow(replay, ring, start, ticks, obs):
    for t in range(start, start + ticks):
        step = step_of(t, obs)
        ring, obs = replay.add(ring, step), step.next_obs
    return ring, obs


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("kind", REPLAYS)
@pytest.mark.parametrize("steps", [[3, 2], [7, 1, 0, 5, 9], [40], [1] * 30, [25, 3, 30, 2]])
def test_a_snapshot_holds_the_replay_bit_for_bit(kind, steps, tmp_path):
    replay = REPLAYS[kind](capacity=8 * ENVS, n_step=2)
    obs, start = first_obs(), 0
    ring, snapshots = replay.init(zero_step(obs)), Snapshots(tmp_path / "state")
    for count in steps:
        ring, obs = grow(replay, ring, start, count, obs)
        start += count
        tree = {"data": ring, "key": jax.random.key(start), "obs": obs}
        snapshots.save(tree, {"actions": np.arange(start)}, {"env_steps": start})
        snapshots.wait()
        fresh = Snapshots(tmp_path / "state")
        loaded, arrays, metadata = fresh.load(jax.eval_shape(lambda tree=tree: tree))
        assert_same(loaded, tree)
        assert arrays["actions"].tolist() == list(range(start)) and metadata == {"env_steps": start}
        if start % 2:
            snapshots = fresh  # a resumed run goes on with the segments of the one before


def test_a_save_writes_new_rows_only_and_removes_what_was_overwritten(tmp_path):
    replay = uniform_replay(capacity=100 * ENVS)
    obs = first_obs()
    ring, snapshots = replay.init(zero_step(obs)), Snapshots(tmp_path)
    for i in range(30):
        ring, obs = grow(replay, ring, 10 * i, 10, obs)
        before = {path.name for path in tmp_path.glob("rows-*.json")}
        snapshots.save({"data": ring}, {}, {})
        snapshots.wait()
        names = {path.name for path in tmp_path.glob("rows-*.json")}
        assert names - before == {f"rows-0-{10 * i}-{10 * i + 10}.json"}
        assert len(names) <= 12
    assert len(list(tmp_path.iterdir())) == 2 * len(names) + 2, "each has a manifest and its arrays"


def test_many_small_segments_become_one(tmp_path):
    replay = uniform_replay(capacity=1000 * ENVS)
    obs = first_obs()
    ring, snapshots = replay.init(zero_step(obs)), Snapshots(tmp_path)
    for t in range(MOST_SEGMENTS + 5):
        ring, obs = grow(replay, ring, t, 1, obs)
        snapshots.save({"data": ring}, {}, {})
    snapshots.wait()
    assert len(list(tmp_path.glob("rows-*.json"))) <= 6
    assert_same(Snapshots(tmp_path).load({"data": ring})[0], {"data": ring})


def test_what_is_saved_does_not_change_when_the_run_goes_on(tmp_path):
    replay = uniform_replay(capacity=8 * ENVS)
    add = jax.jit(replay.add, donate_argnums=0)
    obs, snapshots = first_obs(), Snapshots(tmp_path)
    ring, obs = grow(replay, replay.init(zero_step(obs)), 0, 20, obs)
    kept = jax.tree.map(jnp.copy, ring)
    snapshots.save({"data": ring}, {}, {})
    for t in range(20, 60):  # in place, while the thread writes
        ring = add(ring, step_of(t, obs))
    snapshots.wait()
    assert_same(Snapshots(tmp_path).load({"data": kept})[0], {"data": kept})


@pytest.mark.trust(20)
def test_a_failed_save_is_told_and_the_snapshot_before_stays(tmp_path, monkeypatch):
    replay = uniform_replay(capacity=8 * ENVS)
    obs = first_obs()
    ring, obs = grow(replay, replay.init(zero_step(obs)), 0, 4, obs)
    snapshots = Snapshots(tmp_path)
    snapshots.save({"data": ring}, {}, {"n": 1})
    snapshots.wait()
    later, _ = grow(replay, ring, 4, 3, obs)
    import jaxql.lab.checkpoint as module

    real = module.write_synced

    def full(path, chunks):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_synced", full)
    snapshots.save({"data": later}, {}, {"n": 2})
    with pytest.raises(UserError, match="No space left"):
        snapshots.wait()
    assert_same(Snapshots(tmp_path).load({"data": ring})[0], {"data": ring})
    monkeypatch.setattr(module, "write_synced", real)
    latest, _ = grow(replay, later, 7, 2, obs)
    snapshots.save({"data": latest}, {}, {"n": 3})
    snapshots.wait()
    loaded, _, metadata = Snapshots(tmp_path).load({"data": latest})
    assert_same(loaded, {"data": latest})
    assert metadata == {"n": 3}


def test_seeds_are_a_leading_axis(tmp_path):
    replay = uniform_replay(capacity=8 * ENVS)
    obs = first_obs()
    rings = [grow(replay, replay.init(zero_step(obs)), 100 * i, 13, obs)[0] for i in range(2)]
    both = jax.tree.map(lambda *x: jnp.stack(x), *rings)
    snapshots = Snapshots(tmp_path, seeds=True)
    snapshots.save({"data": both}, {}, {})
    snapshots.wait()
    assert_same(Snapshots(tmp_path, seeds=True).load({"data": both})[0], {"data": both})


def test_no_snapshot_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        Snapshots(tmp_path / "nothing").load({})
    assert not Snapshots(tmp_path / "nothing").exists()
