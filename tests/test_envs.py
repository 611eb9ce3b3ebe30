"""Host envs: rows are functions of seeds and actions, ends are true, errors are one line."""

import sys
import time
import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from jaxql.envs import make
from jaxql.envs.observations import adapt_observations
from jaxql.envs.seeding import PURPOSES, ActionLog, episode_seed
from jaxql.errors import UserError


class Diary(gymnasium.Env):
    """Shows [draw of its seed, step, last action] in a buffer that it reuses; lengths are 1..6, ends of both sorts."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = spaces.Discrete(3)

    def __init__(self):
        self.page = np.zeros(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.page[:] = self.np_random.random(), 0, 0
        self.length = self.np_random.integers(1, 7)
        return self.page, {}

    def step(self, action):
        self.page[1:] += 1, action
        over = self.page[1] >= self.length
        cut = bool(self.length % 2)
        return self.page, self.np_random.normal(), over and not cut, over and cut, {}


def play(envs, actions):
    """The rows of a run as NumPy: obs [T + 1, B, ...] and the rest [T, B]."""
    obs, rows = [np.asarray(envs.reset())], []
    for action in actions:
        _, (next_obs, *row) = envs.step((), jnp.asarray(action))
        obs.append(np.asarray(next_obs))
        rows.append([np.asarray(x) for x in row])
    return np.stack(obs), *(np.stack(x) for x in zip(*rows, strict=True))


def alone(env, seed, actions):
    """One episode of one plain env, the law's oracle: observations and rewards until it ends."""
    obs, rewards = [np.array(env.reset(seed=seed)[0])], []
    for action in actions:
        next_obs, reward, terminated, truncated, _ = env.step(action)
        obs.append(np.array(next_obs))
        rewards.append(reward)
        if terminated or truncated:
            return obs, rewards, terminated, truncated
    return obs, rewards, False, False


@pytest.mark.parametrize("vectorised", ["function", "sync", pytest.param("async", marks=pytest.mark.slow)])
def test_a_row_is_a_function_of_its_seed_and_its_actions(vectorised):
    num_envs, ticks = 3, 60
    kind = {"sync": SyncVectorEnv, "async": AsyncVectorEnv}.get(vectorised)
    if vectorised == "async":
        env = kind([Diary] * num_envs, context="spawn")
    else:
        env = kind([Diary] * num_envs, copy=False) if kind else Diary
    envs = make(env, num_envs, seed=7, purpose="test")
    actions = np.random.default_rng(0).integers(0, 3, (ticks, num_envs))
    obs, reward, terminated, truncated, valid = play(envs, actions)
    envs.close()
    for jax_env in range(num_envs):
        tick = episode = 0
        while tick < ticks:
            seed = episode_seed(7, "test", jax_env, episode)
            shown, rewards, ended, cut = alone(Diary(), seed, actions[tick:, jax_env])
            n = len(rewards)
            np.testing.assert_allclose(obs[tick : tick + n + 1, jax_env], shown, rtol=1e-6)  # true final ones included
            np.testing.assert_allclose(reward[tick : tick + n, jax_env], rewards, rtol=1e-6)
            assert valid[tick : tick + n, jax_env].all() and not terminated[tick : tick + n - 1, jax_env].any()
            assert (terminated[tick + n - 1, jax_env], truncated[tick + n - 1, jax_env]) == (ended, cut)
            tick, episode = tick + n, episode + 1
            if tick < ticks:
                assert not valid[tick, jax_env] and reward[tick, jax_env] == 0
                assert not terminated[tick, jax_env] and not truncated[tick, jax_env]
            tick += 1


@pytest.mark.parametrize("env", [Diary, "CartPole-v1", "FrozenLake-v1"])
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


def test_conversions_share_no_memory_with_the_env():
    spaces_shown = [spaces.Box(0, 1, (4,), np.float32), spaces.Box(0, 255, (4,), np.uint8), spaces.Discrete(4)]
    for space in spaces_shown:
        _, convert, expected, _ = adapt_observations(SyncVectorEnv([lambda space=space: Shows(space)] * 2), "it")
        raw = np.zeros(expected.shape, expected.dtype)
        assert not np.shares_memory(convert(raw), raw)


def test_a_reset_in_between_begins_the_next_episodes():
    envs = make(Diary, 3, seed=2)
    envs.reset()
    _, (_, _, terminated, truncated, _) = envs.step((), [0, 0, 0])
    while not (terminated | truncated).any():
        _, (_, _, terminated, truncated, _) = envs.step((), [0, 0, 0])
    episode = envs.position()["episode"] + 1
    obs = envs.reset()
    shown = [alone(Diary(), episode_seed(2, "train", w, int(e)), [0, 0]) for w, e in enumerate(episode)]
    np.testing.assert_allclose(obs, [expected[0] for expected, *_ in shown], rtol=1e-6)
    _, (obs, *_, valid) = envs.step((), [0, 0, 0])  # those that had ended have no reset of their own to do
    assert valid.all()
    np.testing.assert_allclose(obs, [expected[1] for expected, *_ in shown], rtol=1e-6)


@pytest.mark.parametrize("env", [Diary, "CartPole-v1"])
@pytest.mark.parametrize("ticks", [0, 1, 23, 24, 25, 26])
def test_restored_worlds_go_on_as_if_nothing_had_happened(env, ticks):
    first, second = (make(env, 3, seed=5) for _ in range(2))
    actions = np.random.default_rng(2).integers(0, 2, (ticks + 40, 3))
    last = play(first, actions[:ticks])[0][-1] if ticks else np.asarray(first.reset())
    first.take_episodes()
    second.reset()
    np.testing.assert_array_equal(second.restore(first.position()), last)
    for action in actions[ticks:]:
        rows = [envs.step((), action)[1] for envs in (first, second)]
        jax.tree.map(np.testing.assert_array_equal, *rows)
    assert first.take_episodes() == second.take_episodes() != []


def test_the_log_keeps_the_actions_of_episodes_under_way():
    log, rng = ActionLog(2), np.random.default_rng(0)
    everything, start = [], np.zeros(2, int)
    for tick in range(5000):
        everything.append(rng.integers(0, 9, 2))
        log.append(everything[-1])
        ended = rng.random(2) < (0.002 if tick < 4000 else 0.1)
        log.begin(ended)
        start[ended] = tick + 1
        if tick % 500 == 499:
            ticks, actions = log.current()
            np.testing.assert_array_equal(ticks, tick + 1 - start)
            np.testing.assert_array_equal(actions, np.reshape(everything[start.min() :], (-1, 2)))


def test_seeds_of_purposes_are_disjoint_and_runs_share_nothing():
    grid = [(jax_env, episode) for jax_env in range(8) for episode in range(40)]
    seeds = {
        (run, purpose): {episode_seed(run, purpose, *place) for place in grid} for run in (0, 1) for purpose in PURPOSES
    }
    assert all(len(s) == len(grid) for s in seeds.values())
    assert len(set.union(*seeds.values())) == sum(map(len, seeds.values()))
    assert {seed >> 29 for seed in seeds[1, "evaluate"]} == {2}
    assert all(0 <= seed < 2**31 for s in seeds.values() for seed in s)


def test_first_world_numbers_worlds_over_processes():
    whole = np.asarray(make("CartPole-v1", 4, seed=3).reset())
    half = np.asarray(make("CartPole-v1", 2, seed=3, first_env=2).reset())
    np.testing.assert_array_equal(whole[2:], half)


@pytest.mark.parametrize("env", [Diary, "CartPole-v1"])
def test_groups_of_worlds_are_what_they_are_alone(env):
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
    np.testing.assert_array_equal(again.restore(together.position()), rows[0][-1])
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


def test_discrete_spaces_count_from_zero():
    envs = make(Shifted, 4)
    assert (envs.spec.num_states, envs.spec.num_actions) == (4, 4)
    obs = envs.reset()
    assert obs.dtype == jnp.int32 and obs.tolist() == [0, 0, 0, 0]
    _, (obs, reward, *_) = envs.step((), np.arange(4))
    assert obs.dtype == jnp.int32 and obs.tolist() == [0, 1, 2, 3]
    assert reward.dtype == jnp.result_type(float)


class Shows(gymnasium.Env):
    """Any observation space, shown by samples; any action space."""

    def __init__(self, observation_space, action_space=spaces.Discrete(2), show=None):  # noqa: B008
        self.observation_space, self.action_space, self.show = observation_space, action_space, show

    def reset(self, *, seed=None, options=None):
        self.observation_space.seed(seed)
        return self.observation_space.sample() if self.show is None else self.show, {}

    def step(self, action):
        return self.observation_space.sample() if self.show is None else self.show, 0.0, False, False, {}


def test_dicts_and_tuples_are_flattened():
    space = spaces.Dict(a=spaces.Box(0, 1, (2, 2), np.float32), b=spaces.Tuple([spaces.Discrete(3)]))
    envs = make(lambda: Shows(space), 2, seed=4)
    seeds = [episode_seed(4, "train", jax_env, 0) for jax_env in range(2)]
    expected = []
    for seed in seeds:
        space.seed(seed)
        expected.append(spaces.flatten(space, space.sample()))
    assert envs.spec.obs.shape == (2, 7)
    np.testing.assert_allclose(envs.reset(), expected, rtol=1e-6)


def test_action_masks_pass_through():
    space = spaces.Dict(observation=spaces.Box(0, 255, (2,), np.uint8), action_mask=spaces.MultiBinary(2))
    show = {"observation": np.array([3, 255], np.uint8), "action_mask": np.array([0, 1], np.int8)}
    envs = make(lambda: Shows(space, show=show), 3)
    obs = envs.reset()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), obs)
    assert shapes == envs.spec.obs
    assert obs["observation"].dtype == jnp.uint8 and obs["observation"].tolist() == [[3, 255]] * 3
    assert obs["action_mask"].dtype == bool and obs["action_mask"].tolist() == [[False, True]] * 3
    show["action_mask"] = np.zeros(2, np.int8)
    with pytest.raises(UserError, match="env 0 allows no action"):
        envs.step((), [1, 1, 1])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8, np.int64])
def test_dtypes(dtype):
    envs = make(lambda: Shows(spaces.Box(0, 9, (2,), dtype)), 2)
    obs = envs.reset()
    expected = jnp.result_type(float) if np.issubdtype(dtype, np.floating) else jax.dtypes.canonicalize_dtype(dtype)
    assert obs.dtype == envs.spec.obs.dtype == expected


BOX = spaces.Box(-1, 1, (2,))


@pytest.mark.parametrize(
    ("env", "options", "words"),
    [
        ("Pendulum-v1", {}, "action space is Box.*Discrete"),
        (lambda: Shows(BOX, spaces.MultiDiscrete([2, 2])), {}, "action space is MultiDiscrete"),
        (lambda: Shows(spaces.Sequence(BOX)), {}, "not supported"),
        (lambda: Shows(spaces.Graph(BOX, None)), {}, "not supported"),
        ("CartPol-v1", {}, 'did you mean "CartPole-v1"'),
        ("CartPole-v9", {}, 'did you mean "CartPole-v1"'),
        ("not an id", {}, "Malformed"),
        ("no_such_module:Env-v0", {}, "No module named"),
        ("FrozenLake-v1", {"env_args": {"slipery": 1}}, "cannot be made with.*slipery"),
        ("CartPole-v1", {"life_loss": True}, "Atari games only"),
        ("CartPole-v1", {"noop_max": 3}, "Atari games only"),
        ("CartPole-v1", {"seed": -1}, "0 or greater"),
        ("CartPole-v1", {"purpose": "fun"}, "train, test"),
        (Diary, {"env_args": {"x": 1}}, "env_args"),
        (Diary, {"render": True}, "rgb_array"),
        (3, {}, "it is an id"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(env, options, words):
    with pytest.raises(UserError, match=words) as error:
        make(env, 2, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_refused(mode):
    with pytest.raises(UserError, match=rf"{mode.name}; make it with autoreset_mode=.*NEXT_STEP"):
        make(SyncVectorEnv([Diary] * 2, autoreset_mode=mode), 2)


def test_vector_envs_without_masked_resets_are_refused():
    """CartPole's own vector env takes the option and ignores it."""
    with pytest.raises(UserError, match="reset_mask"):
        make(gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="vector_entry_point"), 3)
    with pytest.raises(UserError, match="has 2 envs, but num_envs=3"):
        make(SyncVectorEnv([Diary] * 2), 3)


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
def test_what_is_not_finite_is_refused(field, value):
    envs = make(SyncVectorEnv([lambda: Breaks("nothing", 0), lambda: Breaks(field, value)]), 2)
    envs.reset()
    for _ in range(2):
        envs.step((), [0, 0])
    with pytest.raises(UserError, match=f"at tick 3 the {field} of env 1"):
        envs.step((), [0, 0])


def test_a_replaced_version_runs_as_its_successor_and_says_so():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs = make("FrozenLake-v0", 2)
    assert envs.id == "FrozenLake-v1"
    assert envs.notes == ["FrozenLake-v0 is no longer in Gymnasium: running FrozenLake-v1"]
    assert make("CartPole-v1", 1).notes == []


def test_the_model_of_a_table():
    lake = make("FrozenLake-v1", 2, env_args={"is_slippery": False})
    states, actions = lake.spec.num_states, lake.spec.num_actions
    assert lake.mdp.next_state.shape[:2] == (states, actions) == (16, 4)
    assert (lake.mdp.probability.max(axis=-1) == 1).all()
    assert make("CartPole-v1", 1).mdp is None


def test_given_vector_envs_may_be_wrapped():
    env = gymnasium.make_vec(
        "CartPole-v1", 2, vectorization_mode="sync", vector_kwargs={"autoreset_mode": AutoresetMode.NEXT_STEP}
    )
    given = make(gymnasium.wrappers.vector.RecordEpisodeStatistics(env), 2, seed=9)
    made = make("CartPole-v1", 2, seed=9)
    actions = np.random.default_rng(0).integers(0, 2, (80, 2))
    for x, y in zip(play(given, actions), play(made, actions), strict=True):
        np.testing.assert_array_equal(x, y)


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
    outcome = envs._play(np.zeros(8, np.int32))
    envs._play, spent = lambda action: outcome, []
    for _ in range(200):
        begun = time.thread_time()
        envs.step((), np.zeros(8, np.int32))
        spent.append(time.thread_time() - begun)
    assert np.median(spent) < 1e-3


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
