"""Jobs of a sweep that are killed at random change nothing in its tables, whatever engine runs them."""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from jaxql import cli

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc"), reason="processes are found in /proc")
TABLES = ("results.csv", "results.json", "results.md")


def sweep(folder, engine, jobs, count):
    words = ["sweep", "--agent", "q-learning", "--env", "FrozenLake-v1", "--seeds", "3", "--seeds-per-job", "1"]
    words += ["--set", "steps=2000", "eval_every=500", "checkpoint_every=300", "eval_episodes=5", "solved_at=inf"]
    words += ["--random", str(count // 3), "--range", "learning_rate=0.05..0.9:log"]
    assert cli.main([*words, "--out", str(folder), "--engine", engine, "--jobs", str(jobs)]) == 0
    return [(folder / name).read_bytes() for name in TABLES]


class Killer(threading.Thread):
    """Kills processes of `count` jobs of the sweep in a folder, each once, some seconds after they began.

    With `parents`, every third time the process that waits for the job is killed.
    """

    def __init__(self, folder, count, share, parents=False):
        super().__init__(daemon=True)
        draw = random.Random(0)
        self.marks = {f"{folder}/cells/q-learning-FrozenLake-v1-draw{i // 3}/seed{i % 3}\0" for i in range(count)}
        self.chosen = set(draw.sample(sorted(self.marks), round(share * count)))
        self.draw, self.parents, self.killed, self.over = draw, parents, [], threading.Event()

    def run(self):
        due = {}
        while not self.over.wait(0.05):
            for pid, mark in self.processes():
                if mark in self.chosen and time.monotonic() > due.setdefault(mark, self.moment()):
                    self.chosen.remove(mark)
                    self.kill(pid)

    def moment(self):
        return time.monotonic() + self.draw.uniform(0, 8)

    def kill(self, pid):
        try:
            parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            os.kill(parent if self.parents and len(self.killed) % 3 == 0 else pid, signal.SIGKILL)
            self.killed.append(pid)
        except (OSError, ValueError):
            pass

    def processes(self):
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    command = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace")
                except OSError:
                    continue
                for mark in self.chosen & self.marks if "jaxql" in command else ():
                    if f"--out\0{mark}" in command:
                        yield int(entry), mark


@pytest.fixture(scope="module", autouse=True)
def programs(tmp_path_factory):
    """The jobs share compiled programs, so that each takes a second or two."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXQL_COMPILATION_CACHE", str(tmp_path_factory.mktemp("programs")))
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    made = {}

    def tables(count):
        if count not in made:
            made[count] = sweep(tmp_path_factory.mktemp("whole"), "local", 2, count)
        return made[count]

    return tables


COUNTS = [(6, 0.5), (60, 0.3)]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "share"), COUNTS)
@pytest.mark.parametrize("engine", ["local", "ray", "slurm:local"])
def test_killed_jobs_change_nothing(engine, count, share, undisturbed, tmp_path):
    package = {"ray": "ray", "slurm:local": "submitit"}.get(engine)
    if package:
        pytest.importorskip(package)
    before = undisturbed(count)
    killer = Killer(tmp_path, count, share, parents=engine == "ray")
    killer.start()
    tables = sweep(tmp_path, engine, 2, count)
    killer.over.set()
    killer.join()
    assert len(killer.killed) >= share * count / 2, "some jobs end before their moment"
    assert tables == before
