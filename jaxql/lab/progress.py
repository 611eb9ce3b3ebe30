"""The display of a run: live on a terminal, plain lines elsewhere. It reads no clock itself."""

import math
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO

FIRST = {"return_mean": "return", "eval_return": "evaluation"}  # shown at the head of a line
COLUMNS = {"episodes": "episodes", "epsilon": "epsilon", "loss": "loss"}  # shown at its end, where there is room


class Progress:
    """Shows the state of a run; a context manager.

    A terminal shows a bar and below it one line of numbers, which never wraps: what does not fit is left out, from the
    end. Elsewhere a line of all numbers is printed at most every `interval` seconds. A stream that is closed or full
    never ends the run: the rest is not shown.

    Args:
      total: env steps at which the run ends.
      start: env steps at which it begins (a resumed run).
      first: row key -> label of the numbers at the head of the line. The newest known value stays.
      columns: row key -> label of the numbers at its end. A value that is missing or NaN shows as "-".
      best_lines: whether each new best `eval_return` gets a line that stays.
      quiet: shows nothing, notes included.
      stream: where lines go; None: standard output.
      interval: seconds between plain lines. The first and the last update are always shown.

    >>> with Progress(1000, stream=sys.stdout) as progress:
    ...     progress.update({"env_steps": 250, "episodes": 3, "return_mean": 21.5, "epsilon": 0.9}, seconds=2.0)
    return 21.5  evaluation -  250/1,000 steps (25%)  0:06 left  125 steps/s  episodes 3  epsilon 0.9  loss -
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        first: Mapping[str, str] = FIRST,
        columns: Mapping[str, str] = COLUMNS,
        best_lines: bool = True,
        quiet: bool = False,
        stream: TextIO | None = None,
        interval: float = 5.0,
    ):
        self._total, self._quiet, self._interval, self._best_lines = total, quiet, interval, best_lines
        self._first, self._columns = dict(first), dict(columns)
        self._stream: Any = UnfailingStream(sys.stdout if stream is None else stream)
        self._recent = deque([(0.0, start)], maxlen=20)  # (seconds, env steps), for the rate of late
        self._newest: dict[str, Any] = {}  # known values of the leading numbers
        self._best = -math.inf
        self._shown, self._waiting = -math.inf, ""  # a line that was not printed yet
        self._parts: list[str] = []  # of the newest line
        self._live: Any = None  # a `rich.live.Live` on a terminal

    def starting(self, what: str) -> None:
        """Shows what happens before the first numbers: on a terminal with the seconds it has taken so far."""
        if self._live:
            from rich.progress import Progress as Clock, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
            clock = Clock(*columns, console=self._live.console)
            clock.add_task(what)
            self._live.update(clock, refresh=True)
        else:
            self.note(what)

    def update(self, row: Mapping[str, Any], seconds: float) -> None:
        """Shows a row of metrics, `seconds` of wall clock after the run began.

        Args:
          row: `env_steps`, and the keys of `first` and `columns`.
          seconds: since the run began.
        """
        self._recent.append((seconds, int(row["env_steps"])))
        if self._quiet:
            return
        self._newest |= {key: row[key] for key in self._first if not _is_missing(row.get(key))}
        self._announce_best(row)
        self._parts = self._numbers(row)
        self._waiting = "  ".join(self._parts)
        if self._live:
            self._live.update(self._picture(), refresh=True)
        elif seconds - self._shown >= self._interval:
            self._shown = seconds
            self._flush()

    def note(self, line: str) -> None:
        """Shows one line that stays: a checkpoint, an evaluation, a warning."""
        if self._live:
            self._live.console.print(line, markup=False, highlight=False)
        elif not self._quiet:
            self._flush()
            self._print(line)

    def end(self) -> None:
        """Takes the bar away; the last numbers stay, and later notes follow them."""
        if self._live:
            live, self._live = self._live, None
            live.update("", refresh=True)
            live.stop()
        self._flush()

    def steps_per_second(self) -> float:
        """Returns the env steps a second over the last 20 updates; NaN where no time has passed."""
        (before, first), (now, last) = self._recent[0], self._recent[-1]
        return (last - first) / (now - before) if now > before else math.nan

    def __enter__(self) -> "Progress":
        if not self._quiet and self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream)
            self._live = Live(
                "", console=console, transient=True, redirect_stdout=False, redirect_stderr=False, refresh_per_second=4
            )
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.end()

    def _announce_best(self, row: Mapping[str, Any]) -> None:
        score = float(row.get("eval_return", math.nan))
        if self._best_lines and score > self._best:
            self._best = score
            self.note(f"best evaluation so far: mean return {_number(score)} at {int(row['env_steps']):,} steps")

    def _flush(self) -> None:
        if self._waiting:
            self._print(self._waiting)
        self._waiting = ""

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def _numbers(self, row: Mapping[str, Any]) -> list[str]:
        """Returns the numbers with their labels, the most important first."""
        steps, rate = int(row["env_steps"]), self.steps_per_second()
        parts = [f"{label} {_number(self._newest.get(key))}" for key, label in self._first.items()]
        parts.append(f"{steps:,}/{self._total:,} steps ({min(steps / max(self._total, 1), 1):.0%})")
        if rate > 0:
            parts.append(f"{_duration(max(self._total - steps, 0) / rate)} left")
        parts.append(f"{_number(rate)} steps/s")
        return parts + [f"{label} {_number(row.get(key))}" for key, label in self._columns.items()]

    def _picture(self) -> Any:
        """Returns the bar and the numbers, each on a line of the terminal's present width."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = self._live.console.width
        bar = ProgressBar(total=max(self._total, 1), completed=self._recent[-1][1], width=min(width, 100))
        rows = Table.grid()
        rows.add_row(bar)
        rows.add_row(Text(fitting(self._parts, width), no_wrap=True, overflow="ellipsis"))
        return rows


def fitting(parts: list[str], width: int) -> str:
    """Returns as many of the first parts as fit in a line of `width` columns, at least one.

    >>> fitting(["return 21.5", "evaluation -", "loss 0.25"], width=26)
    'return 21.5  evaluation -'
    """
    line = parts[0]
    for part in parts[1:]:
        if len(line) + 2 + len(part) > width:
            break
        line += "  " + part
    return line


class UnfailingStream:
    """A text stream whose writes never raise: after the first that fails, what is written is dropped.

    Args:
      stream: the stream beneath; None, as Python has it where standard output is closed, drops everything.
    """

    def __init__(self, stream: TextIO | None):
        self._stream: Any = stream
        self._lost = stream is None

    def write(self, text: str) -> int:
        """Writes text and returns its length."""
        self._attempt("write", text)
        return len(text)

    def flush(self) -> None:
        """Hands what was written to the system."""
        self._attempt("flush")

    def _attempt(self, method: str, *args: Any) -> None:
        if not self._lost:
            try:
                getattr(self._stream, method)(*args)
            except (OSError, ValueError):  # a full disk, a reader that is gone; a stream that was closed
                self._lost = True

    def isatty(self) -> bool:
        """Returns whether the stream is a terminal."""
        with suppress(ValueError):
            return not self._lost and self._stream.isatty()
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _is_missing(value: Any) -> bool:
    return value is None or math.isnan(value)


def _number(value: Any) -> str:
    if _is_missing(value):
        return "-"
    value = float(value)
    return f"{value:,.0f}" if value == round(value, 0) or abs(value) >= 1e4 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    """
    >>> _duration(3725.4)
    '1:02:05'
    """
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"
