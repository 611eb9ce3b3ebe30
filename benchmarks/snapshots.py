"""What saving the whole state costs a run of DQN on Pong: seconds of the loop, and of the thread that writes.

python -m benchmarks.snapshots [--steps N] [--out FILE]     one row of JSON, to FILE
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.measure import about
from jaxql.lab.machine import keep_freed_memory


def measure(steps: int) -> dict:
    """Returns the row of one run with a snapshot every 10,000 env steps."""
    import jaxql
    from jaxql.lab.snapshots import Snapshots
    from jaxql.lab.trainer import Trainer

    seconds: dict[str, list[float]] = {"loop": [], "thread": []}

    def timed(function, name):
        def call(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            seconds[name].append(time.perf_counter() - start)
            return result

        return call

    Trainer.save = timed(Trainer.save, "loop")
    Snapshots._write = timed(Snapshots._write, "thread")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        options = dict(steps=steps, keep_state=True, eval_from=1e9, capacity=20_000, quiet=True)
        run = jaxql.train("dqn", "PongNoFrameskip-v4", out=out, **options)
        sizes = {path.name: path.stat().st_size / 1e6 for path in (out / "state").iterdir()}
    return {
        "part": "snapshots",
        "env_steps": run.env_steps,
        "run_seconds": run.seconds,
        "snapshots": len(seconds["loop"]),
        "loop_seconds": seconds["loop"],
        "thread_seconds": seconds["thread"],
        "share_of_the_run": (sum(seconds["loop"]) + sum(seconds["thread"])) / run.seconds,
        "megabytes": sizes,
    }


def main() -> None:
    """Measures, prints the row and adds it to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    keep_freed_memory()
    row = measure(given.steps) | about() | {"command": f"python -m benchmarks.snapshots --steps {given.steps}"}
    print(json.dumps(row))
    if given.out:
        with given.out.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
