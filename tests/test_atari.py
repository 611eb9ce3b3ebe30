"""Atari envs: Gymnasium's pixels, raw scores of full games, rows that are functions of seeds and actions."""

import signal
import subprocess
import sys
import time

import gymnasium
import jax
import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation

from jaxql.envs import make
from jaxql.envs.atari import SETTINGS, check_settings, games
from jaxql.envs.seeding import episode_seed
from jaxql.errors import UserError


def actions_of(envs, ticks, seed=0):
    return np.random.default_rng(seed).integers(0, envs.spec.num_actions, (ticks, envs.spec.num_envs))


def rows_of(envs, actions):
    """[T, B] NumPy rows: obs [T + 1, B, ...], reward, terminated, truncated, valid."""
    obs, rows = [np.asarray(envs.reset())], []
    for action in actions:
        _, (next_obs, *row) = envs.step((), action)
        obs.append(np.asarray(next_obs))
        rows.append([np.asarray(x) for x in row])
    return np.stack(obs), *(np.stack(x) for x in zip(*rows, strict=True))


@pytest.mark.parametrize("game", ["Pong", "Breakout"])
@pytest.mark.trust(26)
def test_observations_are_those_of_gymnasiums_wrappers(game):
    ticks, limit = 150, 400  # frames: 100 steps, and then a reset
    envs = make(
        f"{game}NoFrameskip-v4", 2, noop_max=0, use_fire_reset=False, env_args={"max_num_frames_per_episode": limit}
    )
    actions = actions_of(envs, ticks)
    obs, reward, terminated, truncated, valid = rows_of(envs, actions)
    oracle = gymnasium.make(f"{game}NoFrameskip-v4", max_num_frames_per_episode=limit)
    oracle = AtariPreprocessing(oracle, noop_max=0, frame_skip=4, screen_size=84)
    oracle = FrameStackObservation(oracle, 4, padding_type="zero")
    np.testing.assert_array_equal(obs[0, 1], oracle.reset()[0])
    compared = 0
    for t in range(ticks):
        if not valid[t, 1]:
            expected, score, *ends = *oracle.reset(), False, False
            score = 0
        else:
            expected, score, *ends, _ = oracle.step(actions[t, 1])
        assert reward[t, 1] == score
        assert [terminated[t, 1], truncated[t, 1]] == ends
        if not truncated[t, 1]:  # neither of the two looks at the screen again after the last frame
            np.testing.assert_array_equal(obs[t + 1, 1], expected)
            compared += 1
    assert envs.spec.stack == 4 and compared > 140 and not valid.all()


def test_a_row_is_a_function_of_its_seed_and_its_actions():
    """With sticky actions; the oracle is ALE's vector env with one env, seeded once an episode."""
    envs = make("ALE/Breakout-v5", 3, seed=11, purpose="evaluate")
    actions = actions_of(envs, 420)
    obs, reward, terminated, truncated, valid = rows_of(envs, actions)
    episodes = envs.take_episodes()
    plain = AtariVectorEnv("breakout", 1, repeat_action_probability=0.25, reward_clipping=False)
    checked = 0
    for env in range(3):
        ends = np.flatnonzero(~valid[:, env])
        starts = np.append(0, ends + 1)  # the tick of the reset is between two episodes
        for episode, (start, end) in enumerate(zip(starts, np.append(ends, len(actions)), strict=True)):
            shown, _ = plain.reset(seed=np.array([episode_seed(11, "evaluate", env, episode)]))
            np.testing.assert_array_equal(obs[start, env], shown[0])
            for t in range(start, end):
                shown, score, over, _, _ = plain.step(actions[t, env : env + 1])
                np.testing.assert_array_equal(obs[t + 1, env], shown[0])
                assert (reward[t, env], terminated[t, env]) == (score[0], over[0])
            checked += end < len(actions)
    assert checked == len(episodes) >= 3
    assert not truncated.any()


@pytest.mark.trust(27)
def test_lost_lives_terminate_but_do_not_end_the_game():
    full, lives = (make("BreakoutNoFrameskip-v4", 2, seed=3, life_loss=lost) for lost in (False, True))
    actions = actions_of(full, 320)
    (obs, reward, ends, _, valid), other = rows_of(full, actions), rows_of(lives, actions)
    jax.tree.map(np.testing.assert_array_equal, (obs, reward, valid), (*other[:2], other[4]))
    assert full.take_episodes() == lives.take_episodes() != []
    assert (other[2] >= ends).all()
    for env in range(2):
        first_game = np.flatnonzero(ends[:, env])[0] + 1
        lost = np.flatnonzero(other[2][:first_game, env])
        assert len(lost) == 5 and lost[-1] == first_game - 1  # Breakout has five lives
        assert valid[lost[:-1] + 1, env].all() and not valid[first_game, env]
    ale = AtariVectorEnv("breakout", 1, reward_clipping=False, life_loss_info=True)  # the emulator's own opinion
    ale.reset(seed=np.array([episode_seed(3, "train", 0, 0)]))
    said = [ale.step(action[:1])[2][0] for action in actions[: np.flatnonzero(ends[:, 0])[0] + 1]]
    np.testing.assert_array_equal(other[2][: len(said), 0], said)


@pytest.mark.trust(4, 26)
def test_census():
    envs = make("BreakoutNoFrameskip-v4", 2, life_loss=True, max_num_frames_per_episode=400)
    _, reward, terminated, truncated, valid = rows_of(envs, actions_of(envs, 101))  # 100 steps and a reset
    episodes = envs.take_episodes()
    assert [episode.length for episode in episodes] == [100, 100] and valid.sum() == 200
    assert sum(episode.return_ for episode in episodes) == reward.sum()
    np.testing.assert_array_equal(np.flatnonzero(truncated[:, 0]), [99])


def test_restored_envs_go_on_as_if_never_interrupted():
    first, second = (make("ALE/Breakout-v5", 2, seed=5, life_loss=True) for _ in range(2))
    actions = actions_of(first, 330)
    last = rows_of(first, actions[:270])[0][-1]
    assert first.take_episodes()
    np.testing.assert_array_equal(second.restore(first.checkpoint()), last)
    for action in actions[270:]:
        rows = [envs.step((), action)[1] for envs in (first, second)]
        jax.tree.map(np.testing.assert_array_equal, *rows)
    assert first.take_episodes() == second.take_episodes()


def test_the_colour_emulator_plays_the_same_game(monkeypatch):
    envs = make("ALE/Breakout-v5", 2, seed=1, render=True)
    envs.reset()
    filmed, played = [], []
    monkeypatch.setattr(
        envs._colour_env, "step", lambda action, step=envs._colour_env.step: filmed.append(step(action)) or filmed[-1]
    )
    monkeypatch.setattr(
        envs._env, "step", lambda action, step=envs._env.step: played.append(step(action)) or played[-1]
    )
    blank = envs.render()
    for action in actions_of(envs, 350):
        envs.step((), action)
    for (_, *film, film_info), (_, *game, game_info) in zip(filmed, played, strict=True):
        if not (np.asarray(film_info["episode_frame_number"]) < 64).any():  # a reset of their own, before ours
            jax.tree.map(np.testing.assert_array_equal, (film, film_info), (game, game_info))
    frames = envs.render()
    assert [frame.shape for frame in frames] == [(210, 160, 3)] * 2 and frames[0].dtype == np.uint8
    assert envs.take_episodes() and (frames[0] != blank[0]).any()
    envs.close()


def test_delivered_arrays_are_copies():
    envs = make("PongNoFrameskip-v4", 2)
    kept = [envs.reset()]
    remembered = [np.array(kept[0])]
    for action in actions_of(envs, 40):
        _, (obs, *_) = envs.step((), action)
        kept.append(obs)
        remembered.append(np.array(obs))
    np.testing.assert_array_equal(np.stack(kept), np.stack(remembered))
    assert (remembered[-1] != remembered[-20]).any()


@pytest.mark.parametrize("action", [[0, 6], [-1, 0], [0.0, 1.0], [0], [2**31, 0]])
@pytest.mark.trust(25)
def test_bad_actions_are_refused_at_once(action):
    """Sent to the emulator they would hang it."""
    envs = make("PongNoFrameskip-v4", 2)
    envs.reset()
    begun = time.monotonic()
    with pytest.raises(UserError, match="PongNoFrameskip-v4: action"):
        envs.step((), np.array(action))
    assert time.monotonic() - begun < 1
    envs.step((), [0, 5])


@pytest.mark.trust(23, 25)
def test_the_watchdog_ends_what_hangs():
    program = (
        "import numpy as np; from jaxql.envs import make\n"
        "envs = make('PongNoFrameskip-v4', 2, watchdog_seconds=1.0); envs.reset()\n"
        "envs._guarded(envs._step_env, np.array([99, 0], np.int32))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 70 and "has not answered for 1 s" in done.stderr and "in _step_env" in done.stderr


def test_the_watchdog_spares_a_process_that_was_suspended():
    program = (
        "import time; from jaxql.envs.watchdog import Watchdog\n"
        "with Watchdog(0.8):\n"
        "    print('within', flush=True)\n"
        "    time.sleep(0.3); time.sleep(0.3)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"within\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("ALE/Pon-v5", 'did you mean "ALE/Pong-v5"'),
        ("BreakotNoFrameskip-v4", 'did you mean "BreakoutNoFrameskip-v4"'),
        ("Pong-v4", "use PongNoFrameskip-v4 or ALE/Pong-v5"),
    ],
)
def test_other_ids_are_refused_with_the_nearest(id, words):
    with pytest.raises(UserError, match=words):
        make(id, 1)


@pytest.mark.parametrize(
    "setting",
    [
        {"repeat_action_probability": 2.0},
        {"repeat_action_probability": float("nan")},
        {"stack_num": 0},
        {"img_height": 0},
        {"max_num_frames_per_episode": 0},
        {"noop_max": -1},
        {"noop_max": True},
        {"grayscale": 1},
        {"batch_size": 3},
        {"reward_clipping": True},
        {"episodic_life": True},
        {"autoreset_mode": "Disabled"},
        {"frameskp": 4},
    ],
)
@pytest.mark.trust(25)
def test_settings_that_would_hang_or_mislead_are_refused(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        make("PongNoFrameskip-v4", 2, env_args=setting)


@pytest.mark.parametrize("num_envs", [0, -1, 1.0, True])
@pytest.mark.trust(25)
def test_the_number_of_envs_is_checked(num_envs):
    with pytest.raises(UserError, match="num_envs"):
        make("PongNoFrameskip-v4", num_envs)


@pytest.mark.trust(25)
def test_a_given_atari_vector_env_is_refused():
    with pytest.raises(UserError, match="by its id"):
        make(AtariVectorEnv("pong", 1), 1)


def test_every_setting_is_stated():
    assert check_settings("PongNoFrameskip-v4", {})["repeat_action_probability"] == 0
    assert check_settings("ALE/Pong-v5", {})["repeat_action_probability"] == 0.25
    assert check_settings("ALE/Pong-v5", {"repeat_action_probability": 0})["repeat_action_probability"] == 0
    assert set(check_settings("ALE/Pong-v5", {})) == set(SETTINGS)
    assert games()["ALE/MsPacman-v5"] == games()["MsPacmanNoFrameskip-v4"] == "ms_pacman"


def test_atari_leaves_the_metadata_of_vector_envs_alone():
    before = dict(gymnasium.vector.VectorEnv.metadata)
    make("PongNoFrameskip-v4", 1).close()
    assert gymnasium.vector.VectorEnv.metadata == before
