"""Runs tuned agents from the command line over seeds and records what each reached.

python benchmarks/solve.py OUT.json AGENT ENV [AGENT ENV ...] [--seeds N]

Every row is one `jaxql train` and one `jaxql evaluate`, each in a process of its own; `wall_seconds` counts the whole
training process: imports, compilation, tests and all. Rows are added to OUT.json as they come.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jaxql.lab.files import read_config


def run(agent: str, env: str, seed: int) -> dict:
    """One training run and its evaluation, as a row of data."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        command = ["train", agent, "--env", env, "--seed", str(seed)]
        start = time.perf_counter()
        output = jaxql(*command, "--out", str(folder))
        wall = time.perf_counter() - start
        verdict = next(line for line in output.splitlines() if re.match(r"(not )?solved after", line))
        exact = re.search(r"^exact .*: ([\d.-]+); best possible: ([\d.-]+)$", output, re.MULTILINE)
        record = read_config(folder)
        return {
            "command": " ".join(["jaxql", *command]),
            "agent": agent,
            "env": record["config"]["env"],
            "seed": seed,
            "solved": verdict.startswith("solved"),
            "env_steps": int(re.search(r"after (\d+) env steps", verdict)[1]),
            "wall_seconds": round(wall, 1),
            "exact_return": float(exact[1]) if exact else None,
            "best_possible_return": float(exact[2]) if exact else None,
            "evaluation": json.loads(jaxql("evaluate", str(folder), "--json")),
            **{name: record[name] for name in ("git", "device", "versions")},
        }


def jaxql(*argv: str) -> str:
    return subprocess.run([sys.executable, "-m", "jaxql", *argv], capture_output=True, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("pairs", nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    rows = json.loads(given.out.read_text()) if given.out.exists() else []
    for agent, env in zip(given.pairs[::2], given.pairs[1::2], strict=True):
        for seed in range(given.seeds):
            rows.append(run(agent, env, seed))
            given.out.write_text(json.dumps(rows, indent=1) + "\n")
            print({name: rows[-1][name] for name in ("agent", "env", "seed", "solved", "wall_seconds", "exact_return")})


if __name__ == "__main__":
    main()
