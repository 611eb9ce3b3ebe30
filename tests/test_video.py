"""Laws of videos: the frames given are the frames read back, whatever their size; a failure leaves no file."""

import base64
import errno
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import imageio_ffmpeg
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxql.errors import UserError
from jaxql.lab.video import display_video, html_video, record, write_video

COLOURS = np.array(
    [[230, 30, 30], [30, 200, 40], [40, 60, 220], [240, 240, 240], [10, 10, 10], [220, 200, 30]], np.uint8
)


def plain(number, shape=(64, 64)):
    """Upper half: the number's colour; lower half: the next one's."""
    frame = np.empty((*shape, 3), np.uint8)
    frame[: shape[0] // 2], frame[shape[0] // 2 :] = COLOURS[number % 6], COLOURS[(number + 1) % 6]
    return frame


def read_mp4(path):
    """(frames [N, H, W, 3], fps), decoded by imageio's ffmpeg; its `read_frames` leaves pipes open."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, check=True, capture_output=True)
    width, height, fps = re.search(rb"Video: h264.*yuv420p.* (\d+)x(\d+).* ([\d.]+) fps", done.stderr).groups()
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, int(height), int(width), 3), float(fps)


def read_gif(path):
    """(frames, milliseconds of each)"""
    with Image.open(path) as image:
        frames, times = [], []
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB")))
            times.append(image.info["duration"])
    return np.stack(frames), times


def halves(frames):
    """Colours in the middle of the upper and of the lower half: [N, 2, 3]."""
    height, width = frames.shape[1:3]
    return frames[:, [height // 4, 3 * height // 4], width // 2].astype(int)


@pytest.mark.parametrize(
    "shape, size",
    [
        ((64, 64), (256, 256)),
        ((210, 160), (420, 320)),
        ((33, 65), (132, 260)),
        ((301, 257), (302, 258)),
        ((3, 5), (156, 260)),
    ],
)
def test_mp4_holds_the_frames(tmp_path, shape, size):
    wanted = [plain(i, shape) for i in range(13)]
    assert write_video(tmp_path / "new" / "a.mp4", iter(wanted), fps=25) == 13
    frames, fps = read_mp4(tmp_path / "new" / "a.mp4")
    assert frames.shape == (13, *size, 3) and fps == 25
    expected = np.stack([[COLOURS[i % 6], COLOURS[(i + 1) % 6]] for i in range(13)]).astype(int)
    if min(shape) > 3:
        assert np.abs(halves(frames) - expected).max() <= 12
    assert os.listdir(tmp_path / "new") == ["a.mp4"]


def test_gif_holds_the_frames_and_their_time(tmp_path):
    numbers = [0, 1, 1, 1, 2, 3]
    assert write_video(tmp_path / "a.gif", (plain(i) for i in numbers), fps=20) == 6
    frames, times = read_gif(tmp_path / "a.gif")
    assert frames.shape[1:] == (256, 256, 3) and sum(times) == 6 * 50
    shown = np.repeat(halves(frames), np.array(times) // 50, axis=0)
    expected = np.stack([[COLOURS[i % 6], COLOURS[(i + 1) % 6]] for i in numbers]).astype(int)
    assert np.abs(shown - expected).max() <= 2


def test_enlarging_is_nearest_neighbour(tmp_path):
    frame = np.random.default_rng(0).choice(COLOURS, (10, 12))
    write_video(tmp_path / "a.gif", [frame])
    frames, _ = read_gif(tmp_path / "a.gif")
    np.testing.assert_array_equal(frames[0], np.kron(frame, np.ones((22, 22, 1), np.uint8)))


def test_frames_are_taken_one_by_one(tmp_path):
    alive = set()

    class Frame(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def frames():
        for i in range(40):
            frame = plain(i).view(Frame)
            alive.add(id(frame))
            assert len(alive) < 5
            yield frame
            del frame

    assert write_video(tmp_path / "a.mp4", frames()) == 40


def broken(good=3, bad=None):
    for i in range(good):
        yield plain(i)
    if bad is None:
        raise KeyError("the env broke")
    yield bad


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path, name):
    with pytest.raises(KeyError):
        write_video(tmp_path / name, broken())
    assert os.listdir(tmp_path) == []
    (tmp_path / name).write_bytes(b"old")
    for bad in (np.zeros((64, 65, 3), np.uint8), np.zeros((64, 64, 3)), np.zeros((64, 64), np.uint8)):
        with pytest.raises(UserError, match="a frame is"):
            write_video(tmp_path / name, broken(bad=bad))
    with pytest.raises(UserError, match="no frames"):
        write_video(tmp_path / name, [])
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_bytes() == b"old"


@pytest.mark.parametrize("name", ["a.avi", "a", "mp4", "a.mp4.txt"])
def test_other_suffixes_are_refused_in_one_line_without_taking_a_frame(tmp_path, name):
    frames = broken(good=0)
    with pytest.raises(UserError, match=r"\.mp4 or \.gif") as error:
        write_video(tmp_path / name, frames)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.mp4", "a.gif"])
def test_a_file_that_cannot_be_written_is_one_line(tmp_path, name, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write") as error:
        write_video(tmp_path / "file" / name, broken(bad=plain(0)))
    assert "\n" not in str(error.value)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        write_video(tmp_path / name, broken(bad=plain(0)))
    assert os.listdir(tmp_path) == ["file"]


def test_what_ffmpeg_says_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", sys.executable)  # a program that refuses the arguments
    with pytest.raises(UserError, match="cannot write") as error:
        write_video(tmp_path / "a.mp4", (plain(i) for i in range(50)))
    assert "\n" not in str(error.value) and os.listdir(tmp_path) == []


def test_fps_is_checked(tmp_path):
    for fps in (0, -1, float("nan")):
        with pytest.raises(UserError, match="positive"):
            write_video(tmp_path / "a.mp4", [plain(0)], fps=fps)


@pytest.mark.parametrize("name, tag, kind", [("a.mp4", "video", "video/mp4"), ("<i>&.gif", "img", "image/gif")])
def test_html_holds_the_whole_file(tmp_path, name, tag, kind):
    write_video(tmp_path / name, [plain(0), plain(1)])
    text = html_video(tmp_path / name)
    (data,) = re.findall(rf'src="data:{kind};base64,([^"]+)"', text)
    assert base64.b64decode(data) == (tmp_path / name).read_bytes()
    assert text.startswith(f"<{tag} ") and "<i>" not in text


def test_html_of_no_video_is_refused(tmp_path):
    for name in ("a.mp4", "a.gif", "a.png"):
        with pytest.raises(UserError, match="video"):
            html_video(tmp_path / name)


def test_display_asks_ipython_or_says_that_it_is_missing(tmp_path, monkeypatch):
    write_video(tmp_path / "a.gif", [plain(0)])
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(UserError, match="IPython is not installed"):
        display_video(tmp_path / "a.gif")
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(HTML=lambda text: ("HTML", text)))
    assert display_video(tmp_path / "a.gif") == ("HTML", html_video(tmp_path / "a.gif"))


class FakeEnv:
    """One env under NEXT_STEP autoreset: episode e lasts e + 2 steps and pays the action; it draws its clock."""

    def __init__(self, envs=1, pictures=True):
        self.spec, self.pictures, self.closed, self.state = SimpleNamespace(num_envs=envs), pictures, False, ()
        self.episode, self.clock, self.return_, self.over, self.done = 0, 0, 0.0, False, [SimpleNamespace(return_=99.0)]

    render_fps = step_limit = None

    def reset(self):
        self.episode, self.clock, self.return_, self.over = 0, 0, 0.0, False
        return jnp.array([[self.episode, self.clock]])

    def step(self, env, action):
        assert env == () and not self.closed
        valid = not self.over
        if valid:
            self.clock, self.return_ = self.clock + 1, self.return_ + float(action[0])
        else:
            self.episode, self.clock, self.return_ = self.episode + 1, 0, 0.0
        self.over = valid and self.clock == self.episode + 2
        if self.over:
            self.done.append(SimpleNamespace(return_=self.return_))
        obs = jnp.array([[self.episode, self.clock]])
        return (), (obs, action, jnp.array([self.over]), jnp.array([False]), jnp.array([valid]))

    def take_episodes(self):
        done, self.done = self.done, []
        return done

    def render(self):
        return [plain(self.episode, (256, 40)) if self.clock else plain(5, (256, 40))] if self.pictures else None


def one(params, obs, memory, key, epsilon=0.0):
    return jnp.full(obs.shape[0], params), memory


def test_record_plays_whole_episodes_and_shows_each_tick(tmp_path):
    env = FakeEnv()
    told = record(env, one, 1, tmp_path / "a.mp4", key=jax.random.key(0), episodes=3)
    told.pop("step_cap")
    assert told == {"episodes": 3, "returns": [2.0, 3.0, 4.0], "frames": 3 + 4 + 5, "capped": 0}
    frames, _ = read_mp4(tmp_path / "a.mp4")
    shown = [5, 0, 0] + [5, 1, 1, 1] + [5, 2, 2, 2, 2]
    expected = np.stack([[COLOURS[i % 6], COLOURS[(i + 1) % 6]] for i in shown]).astype(int)
    assert np.abs(halves(frames) - expected).max() <= 12 and not env.closed


def test_record_stops_at_max_steps(tmp_path):
    key = jax.random.key(0)
    told = record(FakeEnv(), one, 1, tmp_path / "a.gif", key=key, episodes=9, max_steps=4)
    assert (told["episodes"], told["returns"], told["frames"]) == (1, [2.0], 6)  # two steps, a reset, two steps
    assert record(FakeEnv(), one, 1, tmp_path / "a.gif", key=key, max_steps=1)["returns"] == []


def test_record_cuts_each_episode_at_the_cap(tmp_path):
    key = jax.random.key(0)
    told = record(FakeEnv(), one, 1, tmp_path / "a.gif", key=key, episodes=3, step_cap=1)
    assert told == {"episodes": 3, "returns": [1.0] * 3, "frames": 6, "capped": 3, "step_cap": 1}
    assert record(FakeEnv(), one, 1, tmp_path / "a.gif", key=key, step_cap=2)["capped"] == 0


def test_memory_restarts_with_the_episode_and_keys_differ_by_tick(tmp_path):
    seen = []

    def remember(*values):
        seen.append(tuple(np.asarray(value).tolist() for value in values))

    def policy(params, obs, memory, key, epsilon=0.0):
        jax.debug.callback(remember, memory, obs[0], jax.random.bits(key), ordered=True)
        return jnp.full(obs.shape[0], 1), memory + 1

    key = jax.random.key(3)
    record(FakeEnv(), policy, 0, tmp_path / "a.gif", key=key, episodes=2, memory=jnp.int32(0), epsilon=0.5)
    jax.effects_barrier()
    assert [(memory, obs) for memory, obs, _ in seen] == [
        (0, [0, 0]), (1, [0, 1]), (2, [0, 2]),  # the last of these is the reset tick
        (0, [1, 0]), (1, [1, 1]), (2, [1, 2]),
    ]  # fmt: skip
    assert [bits for *_, bits in seen] == [int(jax.random.bits(jax.random.fold_in(key, t))) for t in range(6)]


def test_record_refuses_what_it_cannot_show(tmp_path):
    key = jax.random.key(0)
    for env, settings, words in [
        (FakeEnv(envs=2), {}, "num_envs=1"),
        (FakeEnv(pictures=False), {}, "render=True"),
        (FakeEnv(), {"episodes": 0}, "at least 1"),
        (FakeEnv(), {"max_steps": 0}, "at least 1"),
    ]:
        with pytest.raises(UserError, match=words):
            record(env, one, 1, tmp_path / "a.mp4", key=key, **settings)
    with pytest.raises(UserError, match="gif"):
        record(FakeEnv(), one, 1, tmp_path / "a.avi", key=key)
    assert os.listdir(tmp_path) == []
