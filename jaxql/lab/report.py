"""A report of runs: one HTML page that holds everything it shows."""

from __future__ import annotations

import datetime
import html
import io
import re
import shlex
import string
import tempfile
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxql.errors import UserError
from jaxql.lab import pictures, plots
from jaxql.lab.collect import RunRecord, differences, show
from jaxql.lab.compare import compare, to_text
from jaxql.lab.disk import write_file
from jaxql.lab.exact import MEASURES
from jaxql.lab.files import read_config
from jaxql.lab.runs import Run, open_run
from jaxql.lab.video import html_video

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BYTES = 5_000_000  # of a page
MOST_SHOWN = 4  # groups of runs on an env whose policy is shown
VIDEO_STEPS = (600, 200, 60)  # of an episode; a video that is too large is made shorter
INK = "#010203"  # a colour that stands for the page's own


def write_report(
    path: str | Path,
    groups: Mapping[str, Sequence[RunRecord]],
    notes: Sequence[str] = (),
    video: bool = True,
    trust: bool = False,
) -> int:
    """Writes the report of groups of runs and returns its size in bytes.

    The best run of each group on each env, of at most MOST_SHOWN, is shown by a video and a picture of its states,
    where it can be. What cannot be shown is named.

    Args:
      path: of the page.
      groups: runs by label.
      notes: lines to add.
      video: whether to play an episode.
      trust: as of `open_run`.

    Raises:
      UserError: nothing can be drawn, or the page cannot be written.
    """
    runs = [run for group in groups.values() for run in group]
    notes = list(notes)
    best = {(label, run.env): run for label, group in groups.items() for run in sorted(group, key=_score)}
    parts = [_runs_table(runs), _curves(groups), _statistics(groups, notes)]
    left = MOST_BYTES - 200_000 - sum(map(len, parts))
    shown = list(best.items())[:MOST_SHOWN]
    videos, drawn = [], []
    for (label, env), record in shown:
        title = f"{label} on {env}"
        try:
            run = _open(record, trust)
            drawn += _states(run, title)
            if video:
                videos.append(_video(run, title, (left - sum(map(len, drawn))) // (2 * len(shown))))
        except UserError as error:
            notes.append(f"{title} is not shown: {error}")
    if videos:
        parts.append(_section("The greedy policy", f'<div class="grid">{"".join(videos)}</div>'))
    parts += [_section("States", "".join(drawn))] if drawn else []
    parts.append(_settings(list(best.values())))
    if notes:
        parts.append(_section("Notes", "<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>"))
    page = _page(runs, parts).encode()
    try:
        write_file(Path(path), page)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return len(page)


def _score(run: RunRecord) -> float:
    """Returns a sort key: the best run comes last."""
    return float("-inf") if run.best_score is None else run.best_score


def _page(runs: Sequence[RunRecord], parts: Sequence[str]) -> str:
    template = resources.files("jaxql.lab").joinpath("report.html").read_text(encoding="utf-8")
    agents, envs = (", ".join(dict.fromkeys(each)) for each in ((x.agent for x in runs), (x.env for x in runs)))
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    made = f"{count}, reported {datetime.datetime.now():%Y-%m-%d %H:%M} by jaxql {_version()}"
    title = html.escape(f"{agents} on {envs}")
    return string.Template(template).substitute(title=title, made=html.escape(made), body="\n".join(parts))


def _version() -> str:
    from importlib.metadata import version

    return version("jaxql")


def _section(title: str, content: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table; all of its cells are escaped."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    head = f"<thead>{line(header, 'th')}</thead>" if header else ""
    return f'<div class="scroll"><table>{head}<tbody>{"".join(line(row, "td") for row in rows)}</tbody></table></div>'


def _runs_table(runs: Sequence[RunRecord]) -> str:
    differ = differences(runs)
    rows = [
        [
            run.agent,
            run.env,
            show(run.seed),
            " ".join(f"{key}={show(run.facts.get(key))}" for key in differ[run.agent]) or "-",
            show(run.env_steps) + (" (unfinished)" if run.finished is False else ""),
            "-" if run.best_score is None else f"{run.best_score:.4g}",
            {None: "-", True: "yes", False: "no"}[run.solved],
            f"{run.began:%Y-%m-%d}",
        ]
        for run in runs
    ]
    header = ["agent", "env", "seed", "settings that differ", "env steps", "best score", "solved", "date"]
    return _section("Runs", _table(header, rows))


def _curves(groups: Mapping[str, Sequence[RunRecord]]) -> str:
    """Returns the learning curves, and those of errors and regrets of runs that know the optimum."""
    known = {name for group in groups.values() for run in group for name in run.metrics}
    metrics = [None, *(name for name in MEASURES if name in known)]
    envs = dict.fromkeys(run.env for group in groups.values() for run in group)
    of_env = [{label: [run for run in group if run.env == env] for label, group in groups.items()} for env in envs]
    drawn = [found for metric in metrics for each in of_env if (found := _curve(each, metric))]
    hint = '<p class="quiet">Drag to move; buttons, or the wheel with Ctrl or Shift, zoom; double-click resets. '
    hint += "A line is the interquartile mean over runs, its band the 95 % bootstrap interval.</p>"
    return _section("Curves", f'{hint}<div class="grid">{"".join(drawn)}</div>') if drawn else ""


def _curve(groups: Mapping[str, Sequence[RunRecord]], metric: str | None) -> str:
    try:
        return _zoomable(_svg(lambda: plots.draw_curves(groups, metric=metric)), metric or "mean return")
    except UserError:  # no values yet
        return ""


def _svg(draw: Callable[[], Figure]) -> str:
    """Returns a figure as SVG whose lines and letters have the colour of the page's text."""
    import matplotlib

    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: Any = {name: INK for name in names} | {"axes.facecolor": "none", "svg.fonttype": "none"}
    out = io.StringIO()
    with matplotlib.rc_context(plots.STYLE | style):
        draw().savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    prefix = f"f{zlib.crc32(text.encode())}-"  # ids of several figures in one page must differ
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", text)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)


def _zoomable(svg: str, title: str) -> str:
    buttons = "".join(f'<button aria-label="{name}">{sign}</button> ' for sign, name in BUTTONS.items())
    return f'<figure class="zoom" aria-label="{html.escape(title)}">{svg}<figcaption>{buttons}</figcaption></figure>'


BUTTONS = {"+": "zoom in", "&minus;": "zoom out", "all": "show all"}


def _statistics(groups: Mapping[str, Sequence[RunRecord]], notes: list[str]) -> str:
    try:
        result = compare(groups)
    except UserError as error:
        notes.append(f"no statistics: {error}")
        return ""
    notes += result.notes
    hint = '<p class="quiet">Final return of a run, [95 % stratified bootstrap interval].</p>'
    return _section("Statistics", f"{hint}<pre>{html.escape(to_text(result.estimates))}</pre>")


def _open(record: RunRecord, trust: bool) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said by the command that lists the runs
        return open_run(record.folder, trust=trust)


def _states(run: Run, title: str) -> list[str]:
    """Returns the picture of the states of a run in a list, which is empty where there is none."""
    states = pictures.states_of(run)
    return [_zoomable(_svg(lambda: pictures.draw_states(states, title)), title)] if states else []


def _video(run: Run, title: str, most: int) -> str:
    """Returns an episode of at most `most` letters. Raises UserError if there is none."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "episode.mp4"
        for steps in VIDEO_STEPS:
            result = run.record(path, max_steps=steps)
            text = html_video(path)
            if len(text) < most:
                returns = ", ".join(f"{return_:g}" for return_ in result["returns"])
                cut = f"first {steps} steps" if result["capped"] or not returns else f"return {returns}"
                return f"<figure>{text}<figcaption>{html.escape(f'{title}: {cut}')}</figcaption></figure>"
    raise UserError("its video is too large for the page")


def _settings(records: Sequence[RunRecord]) -> str:
    """Returns, for each run, how to repeat it, where it ran, and all of its settings."""
    parts = []
    for run in records:
        about = read_config(run.folder)
        command, git, device = about.get("command") or [], about.get("git") or {}, about.get("device") or {}
        rows = [
            ("folder", str(run.folder)),
            ("commit", show(git.get("commit")) + " (changed)" * bool(git.get("dirty"))),
        ]
        rows += [("device", " ".join(show(device.get(name)) for name in ("count", "platform", "kind")))]
        rows += [("CPU", " x ".join(show(x) for x in reversed(list((about.get("cpu") or {}).values()))))]
        rows += [(f"version of {name}", show(value)) for name, value in (about.get("versions") or {}).items()]
        rows += [(name, show(value)) for name, value in (run.env_args | run.settings).items()]
        name = html.escape(f"{run.agent} on {run.env}, seed {show(run.seed)}")
        words = html.escape(shlex.join(map(str, command)))
        parts.append(
            f"<h3>{name}</h3><pre>{words}</pre><details><summary>settings</summary>{_table((), rows)}</details>"
        )
    return _section("Repeat it", "".join(parts))
