"""What an agent has learned, for eyes: a picture of a table's states, or a video of action values along an episode."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxql.agents import dqn
from jaxql.errors import UserError
from jaxql.lab import pictures, plots, video
from jaxql.lab.files import read_config
from jaxql.lab.runs import network_named

if TYPE_CHECKING:
    from jaxql.lab.runs import Run


HISTORY = 100  # steps of action values that are shown


class Moment(NamedTuple):
    """One step of an episode."""

    frame: np.ndarray  # [H, W, 3]
    q_values: np.ndarray  # [A]
    action: int
    returns: np.ndarray | None  # [A, M] the returns of the head's distributions
    probabilities: np.ndarray | None  # [A, M] of these


def check_out(path: str | None) -> None:
    """Raises UserError unless `path` is None, or names a picture or a video that can be drawn."""
    suffixes = (*plots.FORMATS, *video.SUFFIXES)
    if path is not None and Path(path).suffix.lower() not in suffixes:
        raise UserError(f"--out {path}: a name ends in {', '.join(suffixes[:-1])} or {suffixes[-1]}")
    plots.check_plotting(Path(path).with_suffix(".png") if path else "inspect.png")


def inspect_run(run: Run, out: str | None = None, seed: int = 0, max_steps: int = 500) -> str:
    """Writes a picture or video of a run's best checkpoint, and returns a line that names it.

    Args:
      run: to look at.
      out: the file, whose name says what is drawn; None: RUN.png for a table of states, else RUN.mp4.
      seed, max_steps: of the episode in a video.

    Raises:
      UserError: there is no such picture or video of this run, or it cannot be written.
    """
    states = pictures.states_of(run) if out is None or Path(out).suffix.lower() in plots.FORMATS else None
    if out is None:
        out = f"{run.folder.absolute().name}{'.mp4' if states is None else '.png'}"
    if Path(out).suffix.lower() in video.SUFFIXES:
        count = write_values_video(run, out, seed, max_steps)
        return f"{out}: action values along an episode of {count} steps"
    if states is None:
        raise UserError(f"{run.make_env.id} has no table of states to draw; name a video: --out {run.folder.name}.mp4")
    plots.save_figure(pictures.draw_states(states, run.card()[0]), out)
    return f"{out}: the states of {run.card()[0]}"


def write_values_video(run: Run, path: str | Path, seed: int = 0, max_steps: int = 500) -> int:
    """Writes a video of an episode, action values beside its frames, and returns the number of its steps.

    Raises:
      UserError: the env draws no frames, the agent has no action values, or the video cannot be written.
    """
    if run.agent.q_values is None:
        raise UserError(f"{run.folder}: its agent has no action values to show")
    env = run.make_env(1, seed=seed, purpose="record", render=True)
    try:
        moments = _episode(run, env, jax.random.key(seed), max_steps)
        return video.write_video(path, _frames(moments, f"{run.card()[0]}"), fps=env.render_fps or 30)
    finally:
        env.close()


def return_distribution(run: Run) -> Callable[[Any, Any], tuple[Any, Any]] | None:
    """Returns (params, obs) -> (returns, probabilities) [B, A, M] of a distributional head; None of any other."""
    if not isinstance(run.config, dqn.Config) or run.config.head not in dqn.DISTRIBUTIONAL:
        return None
    name = read_config(run.folder)["config"]["network"]
    return dqn.return_distribution(run.config, run.spec, network_named(name, run.spec) if name else None)


def _episode(run: Run, env: Any, key: jax.Array, max_steps: int) -> Iterator[Moment]:
    """Yields the steps of one episode of the greedy policy."""
    params, found = run.best_params(), return_distribution(run)
    distribution = jax.jit(found) if found else None
    q_values, policy = jax.jit(run.agent.q_values), jax.jit(run.agent.policy)  # type: ignore[arg-type]
    obs, memory, state = env.reset(), (), env.state
    for t in range(max_steps):
        q = np.asarray(q_values(params, obs, memory)[0])[0]
        shown = [np.asarray(x)[0] for x in distribution(params, obs)] if distribution else [None, None]
        action, memory = policy(params, obs, memory, jax.random.fold_in(key, t), 0.0)
        yield Moment(np.asarray(env.render()[0]), q, int(np.asarray(action)[0]), *shown)
        state, (obs, _, terminated, truncated, _) = env.step(state, action)
        if np.asarray(terminated | truncated)[0]:
            return


def _frames(moments: Iterator[Moment], title: str) -> Iterator[np.ndarray]:
    """Yields pictures [H, W, 3] of moments: the frame, action values now and before, and return distributions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first = next(moments)
    actions = len(first.q_values)
    figure = Figure(figsize=(9.6, 4.8), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplot_mosaic([["frame", "bars"], ["frame", "past"]], width_ratios=[1, 1.2])
    figure.suptitle(title, fontsize=10)
    image = panels["frame"].imshow(first.frame)
    panels["frame"].set_axis_off()
    colours = [plots.COLOURS[i % len(plots.COLOURS)] for i in range(actions)]
    past: list[np.ndarray] = []
    for moment in itertools.chain([first], moments):
        past = [*past[-HISTORY + 1 :], np.where(np.isfinite(moment.q_values), moment.q_values, np.nan)]
        image.set_data(moment.frame)
        _draw_now(panels["bars"], moment, colours)
        panel = panels["past"]
        panel.clear()
        for i, line in enumerate(np.array(past).T):
            panel.plot(
                range(1 - len(past), 1), line, color=colours[i], linewidth=1, marker="." if len(past) == 1 else ""
            )
        panel.set(xlim=(-HISTORY, 1), xlabel="steps ago", ylabel="action values")
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_now(panel: Any, moment: Moment, colours: list[str]) -> None:
    """Draws the return distributions of the actions, or bars of the action values; the chosen one is marked."""
    panel.clear()
    if moment.returns is None or moment.probabilities is None:
        heights = np.where(np.isfinite(moment.q_values), moment.q_values, 0)
        edges = ["black" if i == moment.action else "none" for i in range(len(heights))]
        panel.bar(range(len(heights)), heights, color=colours, edgecolor=edges, linewidth=2)
        panel.set(xlabel="action (the chosen one has a frame)", ylabel="action value", xticks=range(len(heights)))
        return
    for i, (returns, probabilities) in enumerate(zip(moment.returns, moment.probabilities, strict=True)):
        if np.isfinite(returns).all():
            order = np.argsort(returns)
            width = 2.5 if i == moment.action else 1
            panel.step(returns[order], np.cumsum(probabilities[order]), color=colours[i], linewidth=width, label=f"{i}")
    panel.set(xlabel="return (the chosen action is bold)", ylabel="P(return <= x)", ylim=(0, 1.02))
    panel.legend(title="action", fontsize=6, title_fontsize=6, loc="lower right", ncols=3)
