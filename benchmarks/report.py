"""Writes the tables of both READMEs from the data under results/: python benchmarks/report.py.

A table stands between `<!-- NAME -->` and `<!-- end -->`, and NAME is a function below.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.curves import AGENTS, ENVS, common, interval, iqm
from benchmarks.evidence import newest
from jaxql.lab.files import read_config, read_metrics

RESULTS = Path(__file__).parent / "results"
READMES = Path(__file__).parent.parent / "README.md", Path(__file__).parent / "README.md"


def table(head: list[str], rows: list[list]) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows))


def span(numbers, form="{:.0f}") -> str:
    """ "least to greatest", or one number where they read the same."""
    low, high = form.format(min(numbers)), form.format(max(numbers))
    return low if low == high else f"{low} to {high}"


def solved() -> str:
    """Tuned agents over seeds."""
    groups = {}
    for row in json.loads((RESULTS / "solve.json").read_text()):
        groups.setdefault((row["agent"], row["env"]), []).append(row)
    rows = []
    for (agent, env), runs in groups.items():
        exact = [run["exact_return"] for run in runs]
        rows.append(
            [
                f"`{agent}`, {env}",
                f"{sum(run['solved'] for run in runs)} of {len(runs)}",
                span([run["env_steps"] / 1e3 for run in runs], "{:.1f}k"),
                span([run["wall_seconds"] for run in runs]) + " s",
                span([run["evaluation"]["mean"] for run in runs], "{:.2f}"),
                f"{span(exact, '{:.3f}')} (best {runs[0]['best_possible_return']:.3f})" if exact[0] else "",
            ]
        )
    return table(["agent, env", "solved", "env steps", "whole process", "`evaluate`", "exact mean of the policy"], rows)


def atari() -> str:
    """Agents on Atari games, a row a run, those of a game below its random one."""
    rows = []
    for game in sorted((RESULTS / "atari").iterdir()):
        random = json.loads((game / "random.json").read_text())
        rows.append([game.name, "random actions", "", "", "", "", _games(random)])
        for folder in sorted(path for path in game.iterdir() if path.is_dir()):
            record, metrics = read_config(folder), read_metrics(folder)
            timing = folder / "timing.csv"  # not there of runs that shared the machine with other work
            again = ", again" if folder.name.endswith("again") else ""
            minutes = np.loadtxt(timing, delimiter=",", skiprows=1)[-1, 1] / 60 if timing.exists() else None
            rows.append(
                [
                    game.name,
                    f"`{record['config']['agent']}`, seed {record['config']['seed']}" + again,
                    f"{metrics['env_steps'][-1]:,.0f}",
                    f"{metrics['updates'][-1]:,.0f}",
                    "" if minutes is None else f"{minutes:.1f}",
                    f"{np.nanmax(metrics['eval_return' if 'eval_return' in metrics else 'test_return']):.2f}",
                    _games(json.loads((folder / "evaluation.json").read_text())),
                ]
            )
    return table(["game", "agent", "env steps", "updates", "minutes", "best test", "`evaluate`, 20 games"], rows)


HEADLINE = "CartPole-v1", "MountainCar-v0", "LunarLander-v3", "jax:minatar-breakout"  # envs of the first page


def headline() -> str:
    """Rows for the first page: those of the parity table for the most read envs, and Pong."""
    measured = [json.loads(line) for line in (RESULTS / "evidence.jsonl").read_text().splitlines()]
    chosen = [row for env in HEADLINE for row in newest(measured).values() if row["evaluated_in"] == env]
    rows = [
        [
            f"`{row['agent']}`, {row['evaluated_in']}",
            f"{row['steps'] / 1e3:,.0f}k",
            f"{row['mean']:.1f} of {len(row['seeds'])} seeds; worst {row['worst']:.1f}",
        ]
        for row in chosen
        if row["agent"] == ("pqn" if "minatar" in row["env"] else "dqn")
    ]
    pong = [path for path in sorted((RESULTS / "atari" / "PongNoFrameskip-v4").iterdir()) if path.is_dir()]
    pong = [path for path in pong if path.name in ("dqn-seed0", "dqn-seed1", "dqn-seed2")]
    means = [json.loads((path / "evaluation.json").read_text())["mean"] for path in pong]
    steps = [read_metrics(path)["env_steps"][-1] / 1e3 for path in pong]
    solved = f"{np.mean(means):.1f} of {len(pong)} seeds; worst {min(means):.1f}; all solved"
    rows.append(["`dqn`, PongNoFrameskip-v4", span(steps, "{:.0f}k"), solved])
    return table(["agent, env", "env steps", "mean greedy return"], rows)


def _games(evaluation: dict) -> str:
    """A mean with its standard error."""
    error = evaluation["std"] / (evaluation["episodes"] - 1) ** 0.5
    return f"{evaluation['mean']:.2f} +- {error:.2f} ({evaluation['distinct']} distinct)"


def curves() -> str:
    """What agents reach in each env: a row an agent, a column an env."""
    cells = {}
    for path in sorted((RESULTS / "curves").rglob("*.json")):
        row = json.loads(path.read_text())
        _, returns, seconds = common(row["curves"])
        low, high = interval(returns[:, -1:])
        best, low, high = (round(x, 1 if abs(x) > 10 else 2) + 0.0 for x in (iqm(returns)[-1], low[0], high[0]))
        reached = f"{best:g} ({low:g} to {high:g})"
        cells[row["agent"], row["env"]] = f"{reached}, {seconds[-1] / 60:.1f} min"
    known = [env for env in ENVS if any(key[1] == env for key in cells)]
    rows = [[f"`{agent}`", *(cells.get((agent, env), "") for env in known)] for agent in AGENTS]
    return table(["agent", *known], rows)


def planning() -> str:
    """Planners, a row each, a column a size."""
    names, sizes = {}, {}
    for row in json.loads((RESULTS / "planning.json").read_text()):
        names.setdefault(row["name"], {})[row["states"]] = row
        sizes[row["states"]] = None
    rows = []
    for name, runs in names.items():
        cells = []
        for size in sorted(sizes):
            run = runs.get(size)
            if run is None:
                cells.append("")
            elif "seconds" not in run:
                cells.append("does not fit")
            else:
                apart = run.get("compile_seconds") or run.get("build_seconds")
                apart = f" (+ {apart:.2f} s)" if apart else ""
                cells.append(f"{run['seconds']:.2f} s{apart}, {run['peak_mib'] / 1024:.1f} GiB")
        rows.append([f"`{name}`", *cells])
    return table(["planner", *(f"{size:,} states" for size in sorted(sizes))], rows)


SHOWN = {  # a part: what tells its rows apart, what they measure and how it is written
    "learner": (["batch"], "milliseconds", "{:.1f} ms", "an update of the Nature CNN"),
    "profile": (["batch"], "milliseconds", "{:.2f} ms", "parts of that update, each alone"),
    "end_to_end": (["setting"], "env_steps_per_second", "{:.0f}", "Pong, env steps a second"),
    "replay": (["capacity"], "milliseconds", "{:.3f} ms", "replay, 16 envs, batch of 32"),
    "tabular": (["agents"], "million_updates_per_second", "{:.1f} M", "Q-updates a second"),
    "seeds": (["seeds"], "env_steps_per_second", "{:,.0f}", "agents in one program, env steps a second of all"),
    "overhead": (["envs"], "milliseconds", "{:.2f} ms", "the host's part of a tick, emulator and agent idle"),
    "emulator": (["envs"], "env_steps_per_second", "{:,.0f}", "ALE alone, env steps a second"),
}


def speed() -> str:
    """A table a part of the suite: names down, sizes across."""
    rows = [json.loads(line) for line in (RESULTS / "suite.jsonl").read_text().splitlines()]
    tables = []
    for part, ((size,), measured, form, title) in SHOWN.items():
        found = {(row["name"], row.get(size)): row[measured] for row in rows if row["part"] == part and measured in row}
        if not found:
            continue
        names, sizes = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
        cells = [[name, *(form.format(found[name, x]) if (name, x) in found else "" for x in sizes)] for name in names]
        tables.append(table([title, *(f"{size} {x:,}" if isinstance(x, int) else str(x) for x in sizes)], cells))
    return "\n\n".join(tables)


def parity() -> str:
    """Published results and ours, with the settings that jaxql ships."""
    from benchmarks import evidence

    return evidence.parity_table(evidence.rows_of(evidence.EVIDENCE), json.loads(evidence.PUBLISHED.read_text()))


TABLES = "headline", "solved", "parity", "atari", "curves", "planning", "speed"


def filled(readme: str, *names: str) -> str:
    """The README with the tables of these names, or every one, as the data has it."""

    def fill(match):
        return f"<!-- {match[1]} -->\n{globals()[match[1]]()}\n<!-- end -->"

    marked = rf"<!-- ({'|'.join(names or TABLES)}) -->\n.*?<!-- end -->"
    return re.sub(marked, fill, readme, flags=re.DOTALL)


if __name__ == "__main__":
    for readme in READMES:
        readme.write_text(filled(readme.read_text()))
