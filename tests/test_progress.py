"""Laws of the progress display: few plain lines in a file, one live display on a terminal, nothing when quiet."""

import io
import re
import subprocess
import sys

import pytest

from jaxql.lab.progress import Progress

ROW = {"episodes": 12, "return_mean": 21.5, "epsilon": 0.123456, "loss": float("nan")}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def rows(count, every=100):
    return [ROW | {"env_steps": every * (i + 1)} for i in range(count)]


def play(stream, updates, **settings):
    with Progress(10_000, stream=stream, **settings) as progress:
        for row, seconds in updates:
            progress.update(row, seconds)
    return stream.getvalue()


@pytest.mark.parametrize("period", [0.1, 0.7, 4.9, 5.0, 60.0])
def test_lines_are_at_least_five_seconds_apart_and_none_of_first_and_last_is_lost(period):
    updates = [(row, period * i) for i, row in enumerate(rows(50))]
    lines = play(io.StringIO(), updates).splitlines()
    shown = [int(re.search(r"([\d,]+)/", line)[1].replace(",", "")) for line in lines]
    assert shown[0] == 100 and shown[-1] == 5000 and shown == sorted(set(shown))
    times = [period * (steps / 100 - 1) for steps in shown]
    assert all(later - earlier >= 5 - 1e-9 for earlier, later in zip(times[:-1], times[1:-1], strict=False))
    assert len(lines) >= 50 * min(period / (5 + period), 1)


def test_a_line_holds_the_numbers():
    (line,) = play(io.StringIO(), [(ROW | {"env_steps": 2500}, 5.0)]).splitlines()
    assert line == (
        "return 21.5  evaluation -  2,500/10,000 steps (25%)  0:15 left  500 steps/s  "
        "episodes 12  epsilon 0.1235  loss -"
    )


def test_columns_are_the_callers():
    text = play(io.StringIO(), [({"env_steps": 1, "score": 2}, 1.0)], columns={"score": "SCORE", "gap": "gap"})
    assert "SCORE 2" in text and "gap -" in text and "episodes" not in text


def test_the_rate_is_of_late_and_begins_at_the_resumed_step():
    progress = Progress(10_000, start=5000, quiet=True)
    progress.update({"env_steps": 5100}, 1.0)
    assert progress.steps_per_second() == 100
    for i in range(40):  # slower now
        progress.update({"env_steps": 5100 + 10 * (i + 1)}, 2.0 + i)
    assert progress.steps_per_second() == pytest.approx(10)


def test_the_last_update_is_shown_when_the_run_fails():
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress(100, stream=stream) as progress:
        progress.update({"env_steps": 10}, 1.0)
        progress.update({"env_steps": 20}, 2.0)
        raise KeyboardInterrupt
    assert stream.getvalue().splitlines()[-1].startswith("return -  evaluation -  20/100")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_is_silent(stream):
    with Progress(100, stream=stream, quiet=True) as progress:
        progress.update({"env_steps": 10}, 1.0)
        progress.note("hello")
    assert stream.getvalue() == ""


def test_notes_stay_on_both_kinds_of_stream(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for stream in (io.StringIO(), Terminal()):
        with Progress(100, stream=stream) as progress:
            progress.update({"env_steps": 10}, 1.0)
            progress.note("saved [best] at runs/a-seed0")
        assert "saved [best] at runs/a-seed0\n" in stream.getvalue()


def test_a_terminal_is_redrawn_and_ends_with_the_last_state(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    text = play(Terminal(), [(row, float(i)) for i, row in enumerate(rows(20))])
    assert "\x1b[?25l" in text and "\x1b[?25h" in text  # the cursor is back
    assert "\x1b[2Kreturn 21.5  evaluation -  2,000/10,000 steps" in text.splitlines()[-1]
    assert all(f"{100 * (i + 1):,}/10,000 steps" in text for i in range(20))


def test_rich_is_not_imported_without_a_terminal():
    code = (
        "import sys; from jaxql.lab.progress import Progress\nwith Progress(9) as p: p.update({'env_steps': 1}, 1.0)\n"
    )
    code += "assert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
