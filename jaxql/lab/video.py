"""Videos of a policy at play: written frame by frame to .mp4 or .gif, shown in a notebook."""

import base64
import html
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

KINDS = (".mp4", ".gif")
WATCHABLE = 256  # pixels that the longer side of a small frame is enlarged to, at least


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float = 30) -> int:
    """Writes `frames` as they come and returns how many there were. What fails leaves no file behind.

    Small frames are enlarged by an integer factor, nearest neighbour; odd sides gain one row or column, as H.264 needs.

    Args:
      path: .mp4 (H.264) or .gif (its clock has steps of 10 ms; equal neighbours are stored as one longer frame).
      frames: uint8 [H, W, 3] each, all of one shape.
      fps: frames per second, positive.

    Raises:
      UserError: another suffix, no frame, a frame of another shape or type, or a file that cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_video(f"{folder}/a.gif", (np.full((8, 8, 3), i, np.uint8) for i in range(3)))
    3
    """
    path = Path(path)
    if path.suffix.lower() not in KINDS:
        raise UserError(f'cannot write a video as "{path.name}": the name must end in {" or ".join(KINDS)}')
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
    """The video as one self-contained HTML element: <video> with the .mp4 inside it, <img> with the .gif.

    Raises UserError where there is no such video.
    """
    path, kind = Path(path), Path(path).suffix.lower()
    if kind not in KINDS:
        raise UserError(f'cannot show "{path.name}": a video ends in {" or ".join(KINDS)}')
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise UserError(f"cannot read the video {path}: {error.strerror or error}") from error
    if kind == ".gif":
        return f'<img src="data:image/gif;base64,{data}" alt="{html.escape(path.name)}">'
    source = f'<source src="data:video/mp4;base64,{data}" type="video/mp4">'
    return f"<video controls autoplay loop muted playsinline>{source}</video>"


def display_video(path: str | Path) -> Any:
    """The video for a notebook cell, an `IPython.display.HTML`. Raises UserError without IPython or video."""
    text = html_video(path)
    try:
        from IPython.display import HTML
    except ImportError as error:
        raise UserError(f"IPython is not installed: pip install ipython, or open {path} in a player") from error
    return HTML(text)


def record(
    env: Any,
    policy: Callable,
    params: Any,
    path: str | Path,
    *,
    key: jax.Array,
    episodes: int = 1,
    max_steps: int | None = None,
    fps: float = 30,
    epsilon: float = 0.0,
    memory: Any = (),
) -> dict[str, Any]:
    """Plays whole episodes and writes every frame, the first and the final one of each included.

    Args:
      env: host env of one env made with `render=True`; it is reset first, and left open.
      policy: `(params, obs, memory, key, epsilon) -> (action [1], memory)`; it is jitted here.
      key: tick t draws from `fold_in(key, t)`.
      max_steps: stop after so many env steps although the last episode goes on.
      memory: what the policy remembers at the start of an episode.

    Returns:
      {"episodes": finished ones, "returns": their raw scores, "frames": frames written}

    Raises:
      UserError: as `write_video`; several envs; an env that gives no frames; episodes or max_steps below 1.
    """
    if env.spec.num_envs != 1:
        raise UserError(f"recording needs an env of one env, this one has {env.spec.num_envs}: use num_envs=1")
    if episodes < 1 or (max_steps is not None and max_steps < 1):
        raise UserError(f"episodes={episodes}, max_steps={max_steps}: both must be at least 1")
    returns: list[float] = []
    frames = _play(env, jax.jit(policy), params, key, epsilon, memory, returns, episodes, max_steps)
    return {"frames": write_video(path, frames, fps), "episodes": len(returns), "returns": returns}


def _play(
    env: Any,
    policy: Callable,
    params: Any,
    key: jax.Array,
    epsilon: float,
    start: Any,
    returns: list[float],
    episodes: int,
    max_steps: int | None,
) -> Iterator[np.ndarray]:
    """Frames of the play; fills `returns` as episodes end."""
    token, obs, memory, steps = (), env.reset(), start, 0
    env.take_episodes()  # those of an earlier use
    yield _render(env)
    for tick in itertools.count():
        action, memory = policy(params, obs, memory, jax.random.fold_in(key, tick), epsilon)
        token, (obs, _, _, _, valid) = env.step(token, action)
        if bool(np.asarray(valid)[0]):
            steps += 1
        else:  # the tick on which the env reset itself
            memory = start
        returns.extend(float(episode.return_) for episode in env.take_episodes())
        yield _render(env)
        if len(returns) >= episodes or steps == max_steps:
            return


def _render(env: Any) -> np.ndarray:
    frames = env.render()
    if frames is None or len(frames) == 0 or frames[0] is None:
        raise UserError("the env renders no frames: make it with render=True (Gymnasium's render_mode rgb_array)")
    return np.asarray(frames[0])


def _prepared(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames of one shape, large enough to watch, with even sides."""
    shape = None
    for frame in frames:
        frame = np.asarray(frame)
        shape = frame.shape if shape is None else shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in shape:
            raise UserError(f"a frame is {frame.dtype}{list(frame.shape)}: frames must be uint8 [height, width, 3]")
        if frame.shape != shape:
            raise UserError(f"a frame is {list(frame.shape)} after {list(shape)}: frames must have one shape")
        factor = -(-WATCHABLE // max(shape[:2]))
        frame = frame.repeat(factor, axis=0).repeat(factor, axis=1)
        yield np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")


def _write_mp4(path: Path, first: np.ndarray, rest: Iterator[np.ndarray], fps: float) -> None:
    """Pipes frames into imageio's ffmpeg. imageio's own writer forks, which may hang a process in which JAX runs."""
    from imageio_ffmpeg import get_ffmpeg_exe

    source = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{first.shape[1]}x{first.shape[0]}",
        "-r",
        str(fps),
        "-i",
        "-",
    ]
    codec = ["-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
    try:
        command = [get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *codec, str(path)]
    except RuntimeError as error:
        raise UserError("there is no ffmpeg: install imageio[ffmpeg], or write a .gif") from error
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log) as ffmpeg:
        try:
            for frame in itertools.chain([first], rest):
                ffmpeg.stdin.write(frame.tobytes())
        except BrokenPipeError:
            pass  # it has ended, and says why below
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
    from PIL import Image  # imageio's own GIF writer wants all frames at once

    images = map(Image.fromarray, rest)
    Image.fromarray(first).save(path, save_all=True, append_images=images, duration=1000 / fps, loop=0)
