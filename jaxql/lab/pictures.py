"""Pictures of what an agent has learned about the states of a table: values, greedy actions, visits, errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from jaxql.errors import UserError
from jaxql.lab.exact import ModelComparison, compare_with_model
from jaxql.lab.plots import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from jaxql.lab.runs import Run

MOST_VISITED = 1_000  # steps of an episode without a limit, in which visits are counted
MOST_NUMBERS = 64  # cells of a panel that show their numbers
COLOURS = "viridis"


@dataclasses.dataclass(frozen=True)
class Grid:
    """States as cells of a grid, in one panel or several."""

    panels: dict[str, np.ndarray]  # by title, the state [rows, columns] of each cell
    moves: dict[int, tuple[int, int]]  # by action, the (columns, rows) that it moves
    letters: Mapping[tuple[int, int], str]  # by (row, column), what the cell is
    marks: dict[int, str] = dataclasses.field(default_factory=dict)  # by action that moves nothing, its letter
    walls: Sequence[tuple[int, int]] = ()  # cells (row, column) with a wall at their right


class States(NamedTuple):
    """Numbers about the states of a run's env; a field that is not known is None."""

    q_values: np.ndarray  # [S, A]; -inf is an illegal action, NaN one of a state that cannot be reached
    visits: np.ndarray | None = None  # [S] of an episode of the greedy policy, expected
    errors: np.ndarray | None = None  # [S, A] |Q - Q*|
    grid: Grid | None = None
    summary: str = ""


def states_of(run: Run) -> States | None:
    """Returns what the best checkpoint of a run says of the states of its env.

    None where observations are no indices of states, or where action values depend on more than the state.
    """
    env = run.make_env(1, seed=0, purpose="evaluate")
    try:
        single = next(iter(getattr(env, "single_envs", ())), None)
        comparison = compare_with_model(run.agent, env.mdp, run.config, env.spec)
    finally:
        env.close()
    if comparison is not None:
        params = run.best_params()
        found = comparison.measure(params)
        summary = "  ".join(f"{NAMES[name]} {value:.4g}" for name, value in found.items() if np.isfinite(value))
        unknown = ~comparison.reached[:, None]
        table = np.where(unknown, np.nan, comparison.table(params))
        errors = np.where(unknown, np.nan, comparison.errors(params)) if comparison.optimum is not None else None
        visits = expected_visits(comparison, np.asarray(comparison.policy(params)))
        return States(table, np.where(unknown[:, 0], np.nan, visits), errors, grid_of(single), summary)
    if env.spec.num_states is None or isinstance(env.spec.obs, dict) or run.agent.q_values is None:
        return None
    obs = np.arange(env.spec.num_states, dtype=env.spec.obs.dtype)
    values, memory = run.agent.q_values(run.best_params(), obs, ())
    return None if jax.tree.leaves(memory) else States(np.asarray(values), grid=grid_of(single))


NAMES = {"q_error": "max |Q - Q*|", "exact_return": "return of the greedy policy", "regret": "regret"}


def expected_visits(comparison: ModelComparison, policy: np.ndarray) -> np.ndarray:
    """Returns the expected visits [S] of each state in an episode of a policy [S, A]; the final state does not count.

    An episode without a step limit counts for MOST_VISITED steps.
    """
    mdp = comparison.mdp
    goes_on = np.where(mdp.ends, 0, np.asarray(mdp.probability, float)) * np.asarray(policy, float)[..., None]
    here, visits = np.asarray(mdp.start, float), np.zeros(len(mdp.start))
    for _ in range(mdp.step_limit or MOST_VISITED):
        visits += here
        moved = (here[:, None, None] * goes_on).ravel()
        here = np.bincount(np.asarray(mdp.next_state).ravel(), moved, len(visits))
        if here.sum() < 1e-12:
            break
    return visits


def grid_of(env: Any) -> Grid | None:
    """Returns the grid of a FrozenLake, CliffWalking or Taxi env, None of another.

    >>> import gymnasium
    >>> grid_of(gymnasium.make("CliffWalking-v1").unwrapped).panels[""].shape
    (4, 12)
    """
    from gymnasium.envs.toy_text import CliffWalkingEnv, FrozenLakeEnv, TaxiEnv

    left, right, up, down = (-1, 0), (1, 0), (0, -1), (0, 1)
    if isinstance(env, FrozenLakeEnv):
        desc: Any = env.desc
        letters = {place: letter.decode() for place, letter in np.ndenumerate(desc) if letter != b"F"}
        moves = dict(enumerate((left, down, right, up)))
        return Grid({"": np.arange(desc.size).reshape(desc.shape)}, moves, letters)
    if isinstance(env, CliffWalkingEnv):
        rows, columns = env.shape
        letters = {(rows - 1, column): "cliff" for column in range(1, columns - 1)}
        letters |= {(rows - 1, 0): "S", (rows - 1, columns - 1): "G"}
        moves = dict(enumerate((up, right, down, left)))
        return Grid({"": np.arange(rows * columns).reshape(rows, columns)}, moves, letters)
    if isinstance(env, TaxiEnv):
        return _taxi(env)
    return None


def _taxi(env: Any) -> Grid:
    names, rows, columns = "RGYB", *np.indices((5, 5))
    panels = {
        f"{names[source]} to {names[goal]}" if source < 4 else f"aboard to {names[goal]}": np.vectorize(env.encode)(
            rows, columns, source, goal
        )
        for goal in range(4)
        for source in range(5)
    }
    walls = [(row, column) for row in range(5) for column in range(4) if env.desc[1 + row, 2 + 2 * column] == b"|"]
    letters = {place: name for name, place in zip(names, env.locs, strict=True)}
    moves = {0: (0, 1), 1: (0, -1), 2: (1, 0), 3: (-1, 0)}
    return Grid(panels, moves, letters, marks={4: "P", 5: "D"}, walls=walls)


def draw_states(states: States, title: str) -> Figure:
    """Returns a figure of the states: values with greedy actions, visits and errors on a grid, or a table of values.

    Args:
      states: what is known.
      title: above the picture.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = _draw_grid(states) if states.grid else _draw_table(states)
    figure.suptitle(f"{title}\n{states.summary}".strip(), fontsize=10)
    return figure


def _draw_grid(states: States) -> Figure:
    """Returns a figure of panels: values, then sums over panels of visits and the largest errors."""
    from matplotlib.figure import Figure

    grid, values = states.grid, _best(states.q_values)
    assert grid is not None
    panels = {name: cells for name, cells in grid.panels.items() if np.isfinite(values[cells]).any()}
    extras: dict[str, np.ndarray] = {}
    if states.visits is not None:
        extras["visits an episode"] = _over_panels(np.nansum, states.visits, panels)
    if states.errors is not None:
        extras["max |Q - Q*|"] = _over_panels(np.nanmax, states.errors.max(axis=-1), panels)
    rows, columns = next(iter(panels.values())).shape
    if len(panels) > 1:
        figure = Figure(figsize=(9.0, 13.0), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=[len(panels) // 4, 1.5])
        top, bottom = parts
        axes = [*top.subplots(len(panels) // 4, 4).flat, *np.atleast_1d(bottom.subplots(1, max(1, len(extras))))]
    else:
        wide, count = columns > 2 * rows, 1 + len(extras)
        figure = Figure(figsize=(9.0, 3.0 * count) if wide else (4.2 * count, 4.6), layout="constrained")
        top, axes = figure, list(figure.subplots(*((count, 1) if wide else (1, count)), squeeze=False).flat)
    shown = np.concatenate([values[cells].ravel() for cells in panels.values()])
    limits = float(np.nanmin(shown)), float(np.nanmax(shown))
    for panel, (name, cells) in zip(axes, panels.items(), strict=False):
        image = _draw_cells(panel, values[cells], name or "value max Q, greedy actions", grid, limits)
        _draw_actions(panel, states.q_values[cells], grid)
    top.colorbar(image, ax=axes[: len(panels)], shrink=0.8, label="max Q" if len(panels) > 1 else "")
    for panel, (name, numbers) in zip(axes[len(panels) :], extras.items(), strict=False):
        figure.colorbar(_draw_cells(panel, numbers, name, grid), ax=panel, shrink=0.8)
    return figure


def _over_panels(function: Any, numbers: np.ndarray, panels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns what a function that ignores NaN makes of the numbers [S] of each cell; NaN where all are."""
    stacked = np.stack([numbers[cells] for cells in panels.values()])
    known = np.isfinite(stacked).any(axis=0)
    return np.where(known, function(np.where(known, stacked, 0), axis=0), np.nan)


def _best(q_values: np.ndarray) -> np.ndarray:
    """Returns the value [...] of the best action; NaN in a state without one."""
    best = q_values.max(axis=-1)
    return np.where(np.isfinite(best), best, np.nan)


def _draw_cells(
    panel: Axes, numbers: np.ndarray, title: str, grid: Grid, limits: tuple[float | None, float | None] = (None, None)
) -> Any:
    """Draws numbers [rows, columns] as colours, with what the cells are; returns the image."""
    small = len(grid.panels) > 1
    panel.set_facecolor("#dddddd")  # of cells without a number
    image = panel.imshow(numbers, cmap=COLOURS, vmin=limits[0], vmax=limits[1])
    panel.set_xticks([]), panel.set_yticks([])
    panel.set_title(title, fontsize=9)
    for (row, column), number in np.ndenumerate(numbers):
        letter, ink = grid.letters.get((row, column), ""), _ink(image, number)
        if letter:
            panel.text(column - 0.42, row - 0.25, letter, fontsize=6, color=ink, weight="bold")
        if numbers.size <= MOST_NUMBERS and not small and np.isfinite(number):
            panel.text(column, row + 0.38, f"{number:.3g}", fontsize=7, color=ink, ha="center")
    for row, column in grid.walls:
        panel.plot([column + 0.5] * 2, [row - 0.5, row + 0.5], color="red", linewidth=1.5)
    return image


def _draw_actions(panel: Axes, q_values: np.ndarray, grid: Grid) -> None:
    """Draws the greedy actions of q_values [rows, columns, A]: arrows, or letters where nothing moves."""
    image = panel.get_images()[0]
    for row, column in np.ndindex(*q_values.shape[:2]):
        q = q_values[row, column]
        if not np.isfinite(q.max()):
            continue
        ink = _ink(image, q.max())
        for action in map(int, np.flatnonzero(q == q.max())):
            if action in grid.moves:
                x, y = grid.moves[action]
                head = dict(head_width=0.14, head_length=0.12, length_includes_head=True, linewidth=0.8)
                panel.arrow(column + 0.03 * x, row - 0.1 + 0.03 * y, 0.27 * x, 0.27 * y, color=ink, **head)
            else:
                panel.text(column, row - 0.1, grid.marks[action], color=ink, fontsize=8, ha="center", va="center")


def _ink(image: Any, number: float) -> str:
    """Returns the colour, black or white, that is read best on the colour of a number; of none, that of all text."""
    import matplotlib

    if not np.isfinite(number):
        return matplotlib.rcParams["text.color"]
    red, green, blue, _ = image.cmap(image.norm(number))
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.45 else "white"


def _draw_table(states: States) -> Figure:
    """Returns a figure of numbers by state: action values, errors, and visits."""
    from matplotlib.figure import Figure

    tables = {"Q": np.where(np.isfinite(states.q_values), states.q_values, np.nan)}
    if states.errors is not None:
        tables["|Q - Q*|"] = states.errors
    figure = Figure(figsize=(9.0, 2.2 * (len(tables) + (states.visits is not None))), layout="constrained")
    axes = figure.subplots(len(tables) + (states.visits is not None), 1, squeeze=False, sharex=True).ravel()
    for panel, (name, table) in zip(axes, tables.items(), strict=False):
        image = panel.imshow(table.T, cmap=COLOURS, aspect="auto", interpolation="nearest")
        panel.set(ylabel="action", yticks=range(table.shape[1]))
        figure.colorbar(image, ax=panel, label=name)
    if states.visits is not None:
        axes[-1].bar(range(len(states.visits)), states.visits, width=1.0, color="#0072B2")
        axes[-1].set_ylabel("visits an episode")
    axes[-1].set_xlabel("state")
    return figure


def draw_run(run: Run) -> Figure:
    """Returns the picture of the states of a run. Raises UserError if its env has no table of states."""
    states = states_of(run)
    if states is None:
        raise UserError(
            f"{run.folder}: no picture of states: {run.make_env.id} shows no index of a state; name a video"
        )
    return draw_states(states, run.card()[0])
