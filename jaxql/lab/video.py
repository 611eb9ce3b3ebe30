"""Videos of a policy: recorded frame by frame to .mp4 or .gif, and shown in a notebook."""

import base64
import dataclasses
import html
import importlib
import itertools
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxql.errors import UserError
from jaxql.lab.evaluation import STEP_CAP
from jaxql.types import Env

SUFFIXES = (".mp4", ".gif")
FREE_STEP_CAP = 3_000  # steps of an episode of an env without a limit of its own
MIN_PIXELS = 256  # the longer side of a small frame is enlarged to this at least


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float = 30) -> int:
    """Writes `frames` one by one and returns their number. A failure leaves no file behind.

    Small frames are enlarged by an integer factor, nearest neighbour. An odd side gains one row or column, for H.264
    needs even ones.

    Args:
      path: a name in .mp4 (H.264) or .gif. A .gif rounds times to 10 ms and stores equal neighbours as one frame.
      frames: uint8 [H, W, 3] each, all of one shape.
      fps: frames per second, positive.

    Raises:
      UserError: another suffix, no frame, a frame of a wrong shape or type, or a file that cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_video(f"{folder}/a.gif", (np.full((8, 8, 3), i, np.uint8) for i in range(3)))
    3
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f'cannot write a video as "{path.name}": the name must end in {" or ".join(SUFFIXES)}')
    if not fps > 0:
        raise UserError(f"fps is {fps}: it must be positive, 30 for instance")
    count = itertools.count()
    checked = (frame for frame, _ in zip(_prepared(frames), count, strict=False))
    first = next(checked, None)
    if first is None:
        raise UserError(f"no frames for {path}: nothing was written")
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (_write_gif if path.suffix.lower() == ".gif" else _write_mp4)(temporary, first, checked, fps)
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error).strip().splitlines()[0]
        raise UserError(f"cannot write {path}: {reason}; choose another folder or free some space") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return next(count)


def html_video(path: str | Path) -> str:
    """Returns one HTML element that contains the whole file: <video> of an .mp4, <img> of a .gif.

    Raises:
      UserError: there is no such video.
    """
    path, suffix = Path(path), Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f'cannot show "{path.name}": a video ends in {" or ".join(SUFFIXES)}')
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise UserError(f"cannot read the video {path}: {error.strerror or error}") from error
    if suffix == ".gif":
        return f'<img src="data:image/gif;base64,{data}" alt="{html.escape(path.name)}">'
    source = f'<source src="data:video/mp4;base64,{data}" type="video/mp4">'
    return f"<video controls autoplay loop muted playsinline>{source}</video>"


def display_video(path: str | Path) -> Any:
    """Returns the video for a notebook cell, an `IPython.display.HTML`.

    Raises:
      UserError: there is no such video, or IPython is not installed.
    """
    text = html_video(path)
    try:
        html_class = importlib.import_module("IPython.display").HTML
    except ImportError as error:
        raise UserError(f"IPython is not installed: pip install ipython, or open {path} in a player") from error
    return html_class(text)


def record(
    env: Env,
    policy: Callable[..., tuple[Any, Any]],
    params: Any,
    path: str | Path,
    *,
    key: jax.Array,
    episodes: int = 1,
    max_steps: int | None = None,
    step_cap: int | None = None,
    fps: float | None = None,
    epsilon: float = 0.0,
    memory: Any = (),
) -> dict[str, Any]:
    """Plays whole episodes and writes a video of all their frames, the first and last of each included.

    Args:
      env: one env (B = 1) made with `render=True`. It is reset first, and not closed.
      policy: `(params, obs, memory, key, epsilon) -> (action [1], memory)`, not compiled.
      params: its parameters.
      path: see `write_video`.
      key: step t draws from `fold_in(key, t)`.
      episodes: the number of episodes to play.
      max_steps: stop after so many valid steps, even within an episode.
      step_cap: an episode that goes on after so many steps is cut. None: 27,000, or 3,000 where the env has no limit.
      fps: see `write_video`. None: the env's own, or else 30.
      epsilon: probability of a random action.
      memory: the policy's memory at the start of an episode.

    Returns:
      {"episodes": number of them, "returns": their unclipped returns, "frames": number of frames written, "capped": how
      many were cut, "step_cap": at which step}

    Raises:
      UserError: as `write_video`; B above 1; an env without frames; episodes or max_steps below 1.
    """
    if env.spec.num_envs != 1:
        raise UserError(f"recording needs one env, and there are {env.spec.num_envs}: use num_envs=1")
    if episodes < 1 or min(x for x in (max_steps, step_cap, 1) if x is not None) < 1:
        raise UserError(f"episodes={episodes}, max_steps={max_steps}, step_cap={step_cap}: all must be at least 1")
    cap = step_cap or (STEP_CAP if env.step_limit else FREE_STEP_CAP)
    played = Played([], 0)
    frames = _played_frames(env, jax.jit(policy), params, key, epsilon, memory, played, episodes, max_steps, cap)
    count = write_video(path, frames, fps or env.render_fps or 30)
    return {
        "frames": count,
        "episodes": len(played.returns),
        "returns": played.returns,
        "capped": played.capped,
        "step_cap": cap,
    }


@dataclasses.dataclass
class Played:
    """The episodes that were recorded."""

    returns: list[float]
    capped: int  # how many were cut


def _played_frames(
    env: Env,
    policy: Callable[..., tuple[Any, Any]],
    params: Any,
    key: jax.Array,
    epsilon: float,
    initial_memory: Any,
    played: Played,
    episodes: int,
    max_steps: int | None,
    step_cap: int,
) -> Iterator[np.ndarray]:
    """Yields the frames, and adds to `played` as episodes end."""
    obs, memory, steps = env.reset(), initial_memory, 0
    length, total = 0, 0.0  # of the present episode
    env_state = env.state
    env.take_episodes()  # drops episodes that finished before
    yield _render(env)
    for t in itertools.count():
        action, memory = policy(params, obs, memory, jax.random.fold_in(key, t), epsilon)
        env_state, (obs, reward, _, _, valid) = env.step(env_state, action)
        if bool(np.asarray(valid)[0]):
            steps, length, total = steps + 1, length + 1, total + float(np.asarray(reward)[0])
        else:  # the env has reset itself
            memory, length, total = initial_memory, 0, 0.0
        finished = env.take_episodes()
        played.returns.extend(float(episode.return_) for episode in finished)
        yield _render(env)
        if not finished and length == step_cap:
            played.returns.append(total)
            played.capped += 1
        if len(played.returns) >= episodes or steps == max_steps:
            return
        if not finished and length == step_cap:
            obs, memory, length, total = env.reset(), initial_memory, 0, 0.0
            env_state = env.state
            yield _render(env)


def _render(env: Env) -> np.ndarray:
    """The frame of the only env."""
    frames = env.render()
    if frames is None or len(frames) == 0 or frames[0] is None:
        raise UserError("the env renders no frames: make it with render=True (Gymnasium's render_mode rgb_array)")
    return np.asarray(frames[0])


def _prepared(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the frames, checked to be of one shape, enlarged, and padded to even sides."""
    shape = None
    for frame in frames:
        frame = np.asarray(frame)
        shape = frame.shape if shape is None else shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in shape:
            raise UserError(f"a frame is {frame.dtype}{list(frame.shape)}: frames must be uint8 [height, width, 3]")
        if frame.shape != shape:
            raise UserError(f"a frame is {list(frame.shape)} after {list(shape)}: frames must have one shape")
        factor = -(-MIN_PIXELS // max(shape[:2]))
        frame = frame.repeat(factor, axis=0).repeat(factor, axis=1)
        yield np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")


def _write_mp4(path: Path, first: np.ndarray, rest: Iterator[np.ndarray], fps: float) -> None:
    """Pipes the frames into imageio's ffmpeg. imageio's own writer forks, which may hang a process that uses JAX."""
    from imageio_ffmpeg import get_ffmpeg_exe

    size = f"{first.shape[1]}x{first.shape[0]}"
    source = f"-f rawvideo -pix_fmt rgb24 -s {size} -r {fps} -i -".split()
    codec = "-c:v libx264 -crf 18 -pix_fmt yuv420p -movflags +faststart".split()
    try:
        command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *codec, str(path)]
    except RuntimeError as error:
        raise UserError("there is no ffmpeg: install imageio[ffmpeg], or write a .gif") from error
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log) as ffmpeg:
        assert ffmpeg.stdin is not None
        try:
            for frame in itertools.chain([first], rest):
                ffmpeg.stdin.write(frame.tobytes())
        except BrokenPipeError:
            pass  # ffmpeg has ended; its message is raised below
        except BaseException:
            ffmpeg.kill()
            raise
        finally:
            with suppress(OSError):
                ffmpeg.stdin.close()
        if ffmpeg.wait() != 0:
            log.seek(0)
            raise OSError((log.read().decode(errors="replace").strip().splitlines() or ["ffmpeg failed"])[-1])


def _write_gif(path: Path, first: np.ndarray, rest: Iterator[np.ndarray], fps: float) -> None:
    from PIL import Image  # imageio's own GIF writer needs all frames at once

    images = map(Image.fromarray, rest)
    Image.fromarray(first).save(path, save_all=True, append_images=images, duration=1000 / fps, loop=0)
