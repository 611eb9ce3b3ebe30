"""Host envs: rows are functions of seeds and actions, ends are true, bad values are refused in one line."""

import time

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from toy_envs import Diary, Shows, alone, play

from jaxql.envs import make
from jaxql.envs.seeding import episode_seed
from jaxql.errors import UserError


@pytest.mark.parametrize("vectorised", ["function", "sync", pytest.param("async", marks=pytest.mark.slow)])
@pytest.mark.trust(16)
def test_a_row_is_a_function_of_its_seed_and_its_actions(vectorised):
    num_envs, ticks = 3, 60
    kind = {"sync": SyncVectorEnv, "async": AsyncVectorEnv}.get(vectorised)
    if vectorised == "async":
        env = kind([Diary] * num_envs, context="spawn")
    else:
        env = kind([Diary] * num_envs, copy=False) if kind else Diary
    envs = make(env, num_envs, seed=7, purpose="eval")
    actions = np.random.default_rng(0).integers(0, 3, (ticks, num_envs))
    obs, reward, terminated, truncated, valid = play(envs, actions)
    envs.close()
    for env_index in range(num_envs):
        tick = episode = 0
        while tick < ticks:
            seed = episode_seed(7, "eval", env_index, episode)
            shown, rewards, ended, cut = alone(Diary(), seed, actions[tick:, env_index])
            n = len(rewards)
            shown_here = obs[tick : tick + n + 1, env_index]  # the true final observation included
            np.testing.assert_allclose(shown_here, shown, rtol=1e-6)
            np.testing.assert_allclose(reward[tick : tick + n, env_index], rewards, rtol=1e-6)
            assert valid[tick : tick + n, env_index].all() and not terminated[tick : tick + n - 1, env_index].any()
            assert (terminated[tick + n - 1, env_index], truncated[tick + n - 1, env_index]) == (ended, cut)
            tick, episode = tick + n, episode + 1
            if tick < ticks:
                assert not valid[tick, env_index] and reward[tick, env_index] == 0
                assert not terminated[tick, env_index] and not truncated[tick, env_index]
            tick += 1


@pytest.mark.parametrize("env", [Diary, "CartPole-v1", "FrozenLake-v1"])
@pytest.mark.trust(4)
def test_census(env):
    envs = make(env, 4, seed=1)
    rng = np.random.default_rng(1)
    total = count = 0
    episodes = []
    obs = envs.reset()
    running = np.ones(4, bool)
    for _ in range(300):
        _, (obs, reward, terminated, truncated, valid) = envs.step((), rng.integers(0, 2, 4))
        total += np.asarray(reward, np.float64).sum()
        count += int(valid.sum())
        running = ~np.asarray(terminated | truncated)
        episodes += envs.take_episodes()
    while running.any():  # until every env has ended once more
        before = np.flatnonzero(running)
        _, (obs, reward, terminated, truncated, valid) = envs.step((), rng.integers(0, 2, 4))
        total += np.asarray(reward, np.float64)[before].sum()
        count += int(valid[before].sum())
        running &= ~np.asarray(terminated | truncated)
        episodes += [episode for episode in envs.take_episodes() if episode.env_index in before]
    assert sum(episode.length for episode in episodes) == count
    np.testing.assert_allclose(sum(episode.return_ for episode in episodes), total, rtol=1e-4)


def test_delivered_arrays_are_copies():
    envs = make(SyncVectorEnv([Diary] * 2, copy=False), 2)
    kept = [envs.reset()]
    remembered = [np.array(kept[0])]
    for _ in range(20):
        _, (obs, *_) = envs.step((), [1, 2])
        kept.append(obs)
        remembered.append(np.array(obs))
    assert all(isinstance(obs, jax.Array) for obs in kept)
    np.testing.assert_array_equal(np.stack(kept), np.stack(remembered))
    assert len(np.unique(np.stack(kept)[:, 0], axis=0)) > 10


def test_a_reset_in_between_begins_the_next_episodes():
    envs = make(Diary, 3, seed=2)
    envs.reset()
    _, (_, _, terminated, truncated, _) = envs.step((), [0, 0, 0])
    while not (terminated | truncated).any():
        _, (_, _, terminated, truncated, _) = envs.step((), [0, 0, 0])
    episode = envs.checkpoint().episode + 1
    obs = envs.reset()
    shown = [alone(Diary(), episode_seed(2, "train", w, int(e)), [0, 0]) for w, e in enumerate(episode)]
    np.testing.assert_allclose(obs, [expected[0] for expected, *_ in shown], rtol=1e-6)
    _, (obs, *_, valid) = envs.step((), [0, 0, 0])  # those that had ended have no reset of their own to do
    assert valid.all()
    np.testing.assert_allclose(obs, [expected[1] for expected, *_ in shown], rtol=1e-6)


@pytest.mark.parametrize("env", [Diary, "CartPole-v1"])
@pytest.mark.parametrize("ticks", [0, 1, 23, 24, 25, 26])
def test_restored_envs_go_on_as_if_never_interrupted(env, ticks):
    first, second = (make(env, 3, seed=5) for _ in range(2))
    actions = np.random.default_rng(2).integers(0, 2, (ticks + 40, 3))
    last = play(first, actions[:ticks])[0][-1] if ticks else np.asarray(first.reset())
    first.take_episodes()
    second.reset()
    np.testing.assert_array_equal(second.restore(first.checkpoint()), last)
    for action in actions[ticks:]:
        rows = [envs.step((), action)[1] for envs in (first, second)]
        jax.tree.map(np.testing.assert_array_equal, *rows)
    assert first.take_episodes() == second.take_episodes() != []


def test_first_env_numbers_envs_over_processes():
    whole = np.asarray(make("CartPole-v1", 4, seed=3).reset())
    half = np.asarray(make("CartPole-v1", 2, seed=3, first_env=2).reset())
    np.testing.assert_array_equal(whole[2:], half)


@pytest.mark.parametrize("env", [Diary, "CartPole-v1"])
def test_envs_of_many_seeds_are_as_with_each_seed_alone(env):
    seeds, ticks = (3, 8), 30
    together, groups = make(env, 4, seed=seeds), [make(env, 2, seed=seed) for seed in seeds]
    assert together.spec == groups[0].spec
    actions = np.random.default_rng(0).integers(0, 2, (ticks, 2, 2))
    rows = play(together, actions)
    for i, group in enumerate(groups):
        for x, y in zip(rows, play(group, actions[:, i]), strict=True):
            np.testing.assert_array_equal(x[:, i], y)
    again = make(env, 4, seed=seeds)
    again.reset()
    np.testing.assert_array_equal(again.restore(together.checkpoint()), rows[0][-1])
    with pytest.raises(UserError, match="5 envs cannot be split evenly among 2 seeds"):
        make(env, 5, seed=seeds)


class Shifted(gymnasium.Env):
    """States and actions count from 5: what is shown is the action that was sent."""

    observation_space = spaces.Discrete(4, start=5)
    action_space = spaces.Discrete(4, start=5)

    def reset(self, *, seed=None, options=None):
        return 5, {}

    def step(self, action):
        assert self.action_space.contains(action)
        return int(action), 1, False, False, {}


@pytest.mark.trust(13)
def test_discrete_spaces_count_from_zero():
    envs = make(Shifted, 4)
    assert (envs.spec.num_states, envs.spec.num_actions) == (4, 4)
    obs = envs.reset()
    assert obs.dtype == jnp.int32 and obs.tolist() == [0, 0, 0, 0]
    _, (obs, reward, *_) = envs.step((), np.arange(4))
    assert obs.dtype == jnp.int32 and obs.tolist() == [0, 1, 2, 3]
    assert reward.dtype == jnp.result_type(float)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
@pytest.mark.trust(4, 27)
def test_other_autoreset_modes_are_refused(mode):
    with pytest.raises(UserError, match=rf"{mode.name}; make it with autoreset_mode=.*NEXT_STEP"):
        make(SyncVectorEnv([Diary] * 2, autoreset_mode=mode), 2)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ([0, 3], "action 3 of env 1 is not one of 0..2"),
        ([-1, 0], "action -1 of env 0"),
        ([0.0, 1.0], "float64"),
        ([True, False], "bool"),
        ([0], "shape"),
        ([[0], [1]], "shape"),
        (0, "shape"),
    ],
)
def test_bad_actions_are_refused(action, words):
    envs = make(Diary, 2)
    envs.reset()
    with pytest.raises(UserError, match=words):
        envs.step((), np.array(action))


def test_stepping_before_the_first_reset_is_refused():
    with pytest.raises(UserError, match="reset"):
        make(Diary, 2).step((), [0, 0])


class Breaks(Diary):
    """At its third step the reward or the observation is not a number."""

    def __init__(self, field, value):
        super().__init__()
        self.field, self.value = field, value

    def step(self, action):
        obs, reward, *_ = super().step(action)
        if self.page[1] == 3 and self.field == "reward":
            reward = self.value
        if self.page[1] == 3 and self.field == "observation":
            obs = np.array([0, self.value, 0])
        return obs, reward, False, False, {}


@pytest.mark.parametrize("field", ["reward", "observation"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.trust(14)
def test_what_is_not_finite_is_refused(field, value):
    envs = make(SyncVectorEnv([lambda: Breaks("nothing", 0), lambda: Breaks(field, value)]), 2)
    envs.reset()
    for _ in range(2):
        envs.step((), [0, 0])
    with pytest.raises(UserError, match=f"at tick 3 the {field} of env 1"):
        envs.step((), [0, 0])


def test_frames():
    envs = make("FrozenLake-v1", 2, render=True)
    envs.reset()
    frames = envs.render()
    assert len(frames) == 2 and all(frame.shape[2] == 3 and frame.dtype == np.uint8 for frame in frames)
    envs.close()
    with pytest.raises(UserError, match="render=True"):
        make("FrozenLake-v1", 2).render()


def test_the_adapter_is_quick():
    """Its own share of a tick of 8 envs; the bound is loose, for machines that do other things as well."""
    envs = make(lambda: Shows(spaces.Box(0, 1, (4,)), show=np.zeros(4, np.float32)), 8)
    envs.reset()
    outcome = envs._step_env(np.zeros(8, np.int32))
    envs._step_env, spent = lambda action: outcome, []
    for _ in range(200):
        begun = time.thread_time()
        envs.step((), np.zeros(8, np.int32))
        spent.append(time.thread_time() - begun)
    assert np.median(spent) < 1e-3


def test_the_model_of_a_table():
    lake = make("FrozenLake-v1", 2, env_args={"is_slippery": False})
    states, actions = lake.spec.num_states, lake.spec.num_actions
    assert lake.mdp.next_state.shape[:2] == (states, actions) == (16, 4)
    assert (lake.mdp.probability.max(axis=-1) == 1).all()
    assert make("CartPole-v1", 1).mdp is None
