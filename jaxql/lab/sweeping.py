"""`run_sweep`: the jobs of a sweep are run by an engine, and the results of all runs become one table."""

import dataclasses
import math
import os
import shlex
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxql.agents.registry import entry_of
from jaxql.envs import EnvOptions
from jaxql.errors import UserError
from jaxql.lab.disk import write_file
from jaxql.lab.engines import Engine, Handle, python_command
from jaxql.lab.environments import EnvMaker
from jaxql.lab.files import last_env_steps, lock_folder
from jaxql.lab.optuna_search import OptunaSearch
from jaxql.lab.progress import Progress
from jaxql.lab.runs import network_named
from jaxql.lab.settings import RunSettings, settings as resolve
from jaxql.lab.signals import catching_signals
from jaxql.lab.sweep import Cell, FixedSearch, Job, Search, SweepSpec, claim, jobs_of, points
from jaxql.lab.sweep_results import Results, mean_scores, results_of
from jaxql.lab.training import keeps_table
from jaxql.types import EnvSpec

POLL = 0.1  # seconds between looks at the jobs
SHOW = 2.0  # seconds between lines of progress
PATIENCE = 60.0  # seconds in which stopped jobs save their state
BAD_INPUT = 2  # the exit code of a command that would fail again


@dataclasses.dataclass
class Outcome:
    """The results of a sweep, and the jobs that failed."""

    results: Results
    failures: dict[str, str]  # the reason, by job
    interrupted: int = 0  # number of the signal that ended the sweep


def make_search(spec: SweepSpec) -> Search:
    """Returns what chooses the cells of a sweep. Raises UserError if Optuna is asked for and not installed."""
    return OptunaSearch(spec) if spec.optuna else FixedSearch(spec)


def check(spec: SweepSpec, env_args: dict[str, Any]) -> Callable[[Cell], RunSettings]:
    """Returns a function that checks a cell and returns the settings of its runs.

    It raises UserError for an unknown agent, env or setting, a value out of range, or an agent that does not fit the
    env. Envs are made once each.
    """
    specs: dict[tuple[str, bool | None, bool], EnvSpec] = {}

    def check_cell(cell: Cell) -> RunSettings:
        entry, changes = entry_of(cell.agent), dict(cell.settings)
        own = changes.pop("network") if ":" in str(changes.get("network", "")) else None
        table = keeps_table(entry)
        make_env = EnvMaker(cell.env, env_args, EnvOptions(table=table))
        try:
            config, run = resolve(entry, make_env.id, spec.preset, **changes)
            key = cell.env, table, config.life_loss
            if key not in specs:
                made = make_env(1, seed=0, purpose="train", life_loss=config.life_loss)
                specs[key] = made.spec
                made.close()
            one = specs[key]
            obs = jax.tree.map(lambda x: jax.ShapeDtypeStruct((config.num_envs, *x.shape[1:]), x.dtype), one.obs)
            shown = one._replace(obs=obs, num_envs=config.num_envs)
            entry.make(config, shown, network_named(own, shown) if own else None)
        except UserError as error:
            raise UserError(f"{cell.agent} on {cell.env}: {error}") from error
        return run

    return check_cell


def run_sweep(
    spec: SweepSpec,
    folder: Path,
    make_engine: Callable[[], Engine],
    *,
    env_args: dict[str, Any] | None = None,
    retries: int = 3,
    quiet: bool = False,
) -> Outcome:
    """Trains what is missing of a sweep and returns its results, whose tables are written into the folder.

    Args:
      spec: the sweep.
      folder: new, empty, or of the same sweep.
      make_engine: called when the folder is claimed.
      env_args: keyword arguments of the envs, those of `spec.env_args`.
      retries: of a job that was killed or has crashed.
      quiet: print nothing.

    Raises:
      UserError: bad input, before anything is written.
    """
    search, check_cell = make_search(spec), check(spec, env_args or {})
    cells = search.ask()
    steps = {cell.name: check_cell(cell).steps for cell in cells}
    claim(folder, spec)
    lock = lock_folder(folder)
    per_cell = len(jobs_of(spec, cells[0], folder, 1))
    count = per_cell * (spec.optuna * len(list(points(spec))) if spec.optuna else len(cells))
    total = sum(steps.values()) * spec.seeds * count // (per_cell * len(cells))
    found = [job for cell in cells for job in jobs_of(spec, cell, folder, steps[cell.name])]
    start = sum(job.steps for job in found if job.is_finished())
    runner, every = Runner(folder, retries, count, total, start, quiet), list(cells)
    try:
        with runner.progress, catching_signals(runner.interrupt, PATIENCE + 10):
            while cells and not runner.interrupted:
                jobs = [job for cell in cells for job in jobs_of(spec, cell, folder, steps[cell.name])]
                runner.run(jobs, make_engine)
                search.tell(mean_scores(spec, folder, cells))
                cells = [] if runner.interrupted else search.ask()
                steps |= {cell.name: check_cell(cell).steps for cell in cells}
                every += cells
    finally:
        runner.close()
        if lock is not None:
            os.close(lock)
    results = results_of(spec, folder, every)
    if not runner.interrupted:
        results.write(folder)
    return Outcome(results, runner.failures, runner.interrupted)


def write_commands(spec: SweepSpec, folder: Path, env_args: dict[str, Any] | None = None) -> tuple[Path, int]:
    """Writes a file with the command of every job that is not finished, and returns it and the number of its lines.

    Raises:
      UserError: bad input, before anything is written; or every job is finished.
    """
    cells, check_cell = make_search(spec).ask(), check(spec, env_args or {})
    for cell in cells:
        check_cell(cell)
    claim(folder, spec)
    jobs = [job for cell in cells for job in jobs_of(spec, cell, folder, 1) if not job.is_finished()]
    if not jobs:
        raise UserError(f"every job in {folder} is finished: the same command with --engine local prints the table")
    (folder / "logs").mkdir(exist_ok=True)
    lines = [shlex.join(python_command(job.command, os.getcwd())) for job in jobs]
    path = folder / "commands.txt"
    write_file(path, ("\n".join(lines) + "\n").encode())
    return path, len(jobs)


class Runner:
    """Runs jobs with an engine, starts those again that were killed, and shows the progress of the whole sweep.

    Args:
      folder: of the sweep.
      retries: of a job.
      count: jobs of the whole sweep.
      total: env steps of the whole sweep.
      start: those of its jobs that are finished already.
      quiet: print nothing.
    """

    def __init__(self, folder: Path, retries: int, count: int, total: int, start: int = 0, quiet: bool = False):
        self.folder, self.retries = folder, retries
        self.failures: dict[str, str] = {}
        self.interrupted = 0
        self.ended, self.ended_steps = 0, 0  # jobs, and the env steps they stand for
        self.engine: Engine | None = None
        self.began, self.shown_at = time.monotonic(), -math.inf
        first, columns = {"ended": f"of {count} jobs ended:"}, {"running": "running or queued", "failed": "failed"}
        self.progress = Progress(total, start=start, first=first, columns=columns, best_lines=False, quiet=quiet)

    def interrupt(self, number: int) -> None:
        """Ends the sweep soon, for a signal with this number."""
        self.interrupted = number

    def run(self, jobs: Sequence[Job], make_engine: Callable[[], Engine]) -> None:
        """Runs the jobs that are not finished, until all have ended or the sweep is interrupted."""
        left = deque(job for job in jobs if not job.is_finished())
        finished = [job for job in jobs if job not in left]
        self.ended, self.ended_steps = self.ended + len(finished), self.ended_steps + sum(j.steps for j in finished)
        tries: dict[str, int] = {}
        running: dict[str, tuple[Job, Handle]] = {}
        if left and self.engine is None:
            self.engine = make_engine()
        while (left or running) and not self.interrupted:
            assert self.engine is not None
            while left and len(running) < self.engine.at_once:
                job = left.popleft()
                tries[job.name] = tries.get(job.name, 0) + 1
                running[job.name] = job, self.engine.start(job.command, self.log_of(job))
            for job, handle in list(running.values()):
                if (code := handle.poll()) is not None:
                    del running[job.name]
                    if code not in (0, BAD_INPUT) and tries[job.name] <= self.retries:
                        left.append(job)
                    else:
                        self.end(job, code)
            self.show([job for job, _ in running.values()], bool(left or running))
            time.sleep(POLL + len(running) / 500)  # a look at a job of Ray takes about a millisecond
        self.stop([handle for _, handle in running.values()])

    def end(self, job: Job, code: int) -> None:
        """Counts a job that has ended for good."""
        self.ended, self.ended_steps = self.ended + 1, self.ended_steps + job.steps
        if code or not job.is_finished():
            self.failures[job.name] = reason = self.last_line(job) or f"exit code {code}"
            self.progress.note(f"failed: {job.name}: {reason}")

    def show(self, running: Sequence[Job], more: bool) -> None:
        """Shows the progress now and then, and at the end."""
        seconds = time.monotonic() - self.began
        if more and seconds - self.shown_at < SHOW:
            return
        self.shown_at = seconds
        steps = sum(min(sum(map(last_env_steps, job.run_folders())), job.steps) for job in running)
        row = {"ended": self.ended, "failed": len(self.failures), "running": len(running)}
        self.progress.update({**row, "env_steps": self.ended_steps + steps}, seconds)

    def stop(self, handles: Sequence[Handle]) -> None:
        """Stops the running jobs and waits until they have saved their state."""
        for handle in handles:
            handle.stop()
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and any(handle.poll() is None for handle in handles):
            time.sleep(POLL)

    def close(self) -> None:
        """Closes the engine."""
        if self.engine is not None:
            self.engine.close()

    def log_of(self, job: Job) -> Path:
        """Returns the file of a job's output."""
        return self.folder / "logs" / f"{job.name}.log"

    def last_line(self, job: Job) -> str:
        """Returns the last line of a job's output, without the program's name."""
        try:
            lines = self.log_of(job).read_text(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip().removeprefix("jaxql: ") for line in reversed(lines) if line.strip()), "")
