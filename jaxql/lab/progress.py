"""The display of a run: live on a terminal, plain lines elsewhere. It reads no clock itself."""

import math
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any, TextIO

COLUMNS = {"episodes": "episodes", "return_mean": "return (last 100)", "epsilon": "epsilon", "loss": "loss"}


class Progress:
    """Shows the state of a run; a context manager.

    Args:
      total: env steps at which the run ends.
      start: env steps at which it begins (a resumed run).
      columns: row key -> label, in the order shown. A value that is missing or NaN shows as "-".
      quiet: shows nothing, notes included.
      stream: where lines go; None: standard output.
      interval: seconds between plain lines. The first and the last update are always shown.

    >>> with Progress(1000, stream=sys.stdout) as progress:
    ...     progress.update({"env_steps": 250, "episodes": 3, "return_mean": 21.5, "epsilon": 0.9}, seconds=2.0)
    250/1,000 steps (25%)  episodes 3  return (last 100) 21.5  epsilon 0.9  loss -  125 steps/s  0:06 left
    """

    def __init__(
        self,
        total: int,
        *,
        start: int = 0,
        columns: Mapping[str, str] = COLUMNS,
        quiet: bool = False,
        stream: TextIO | None = None,
        interval: float = 5.0,
    ):
        self._total, self._columns, self._quiet, self._interval = total, dict(columns), quiet, interval
        self._stream = sys.stdout if stream is None else stream
        self._recent = deque([(0.0, start)], maxlen=20)  # (seconds, env steps), for the rate of late
        self._shown, self._waiting = -math.inf, ""
        self._live: Any = None  # a `rich.live.Live` on a terminal

    def update(self, row: Mapping[str, Any], seconds: float) -> None:
        """Shows a row of metrics (`env_steps` and `columns`), `seconds` of wall clock after the run began."""
        self._recent.append((seconds, int(row["env_steps"])))
        if self._quiet:
            return
        self._waiting = self._line(row)
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
            print(line, file=self._stream, flush=True)

    def steps_per_second(self) -> float:
        """Returns the env steps a second over the last 20 updates; NaN where no time has passed."""
        (before, first), (now, last) = self._recent[0], self._recent[-1]
        return (last - first) / (now - before) if now > before else math.nan

    def __enter__(self) -> "Progress":
        if not self._quiet and self._stream.isatty():
            from rich.console import Console
            from rich.live import Live

            console = Console(file=self._stream)
            self._live = Live("", console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live:
            self._live.stop()
            self._live = None
        else:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            print(self._waiting, file=self._stream, flush=True)
        self._waiting = ""

    def _line(self, row: Mapping[str, Any]) -> str:
        steps, rate = int(row["env_steps"]), self.steps_per_second()
        parts = [f"{steps:,}/{self._total:,} steps ({min(steps / max(self._total, 1), 1):.0%})"]
        parts += [f"{label} {_number(row.get(key))}" for key, label in self._columns.items()]
        parts.append(f"{_number(rate)} steps/s")
        if rate > 0:
            parts.append(f"{_duration(max(self._total - steps, 0) / rate)} left")
        return "  ".join(parts)

    def _picture(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        bar = ProgressBar(total=max(self._total, 1), completed=self._recent[-1][1], width=60)
        return Group(bar, Text(self._waiting))


def _number(value: Any) -> str:
    if value is None or math.isnan(value):
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
