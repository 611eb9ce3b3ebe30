"""Gymnasium ids, functions and vector envs are made, replaced or refused as documented."""

import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from toy_envs import Diary, play

from jaxql.envs import make
from jaxql.errors import UserError


def test_vector_envs_without_masked_resets_are_refused():
    """CartPole's own vector env takes the option and ignores it."""
    with pytest.raises(UserError, match="reset_mask"):
        make(gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="vector_entry_point"), 3)
    with pytest.raises(UserError, match="has 2 envs, but num_envs=3"):
        make(SyncVectorEnv([Diary] * 2), 3)


def test_a_replaced_version_runs_as_its_successor_and_says_so():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs = make("FrozenLake-v0", 2)
    assert envs.id == "FrozenLake-v1"
    assert envs.notes == ["FrozenLake-v0 is no longer in Gymnasium: running FrozenLake-v1"]
    assert make("CartPole-v1", 1).notes == []


def test_given_vector_envs_may_be_wrapped():
    env = gymnasium.make_vec(
        "CartPole-v1", 2, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.NEXT_STEP}
    )
    given = make(gymnasium.wrappers.vector.RecordEpisodeStatistics(env), 2, seed=9)
    made = make("CartPole-v1", 2, seed=9)
    actions = np.random.default_rng(0).integers(0, 2, (80, 2))
    for x, y in zip(play(given, actions), play(made, actions), strict=True):
        np.testing.assert_array_equal(x, y)


def test_minatars_games_are_registered_when_asked_for():
    pytest.importorskip("minatar", reason="minatar is not installed: pip install 'jaxql[minatar]'")
    env = make("MinAtar/Breakout-v1", 2)
    assert (env.spec.obs.shape, env.spec.obs.dtype, env.spec.num_actions) == ((2, 10, 10, 4), bool, 3)
    first = env.reset()
    _, (obs, *_) = env.step((), np.zeros(2, int))
    assert obs.shape == first.shape and (obs != first).any()
    with pytest.raises(UserError, match='did you mean "MinAtar/Breakout-v1"'):
        make("MinAtar/Braekout-v1", 2)


def test_a_missing_minatar_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "minatar", None)
    monkeypatch.setitem(sys.modules, "minatar.gym", None)
    with pytest.raises(UserError, match=r'pip install "jaxql\[minatar\]"'):
        make("MinAtar/Breakout-v1", 2)
