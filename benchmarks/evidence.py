"""Repeats a cell of the parity table: the shipped settings of an agent on an env, fresh seeds, the published budget.

python -m benchmarks evidence --agent c51 --env jax:cartpole     one cell, to results/evidence.jsonl
python -m benchmarks evidence --all                              every cell of CELLS, one after another
python -m benchmarks evidence --table                            prints the parity table
python -m benchmarks evidence --write                            writes that table to README.md, and the list of
                                                                 jaxql/agents/evidence.py

A cell that has its row is skipped. A cell that was stopped goes on where it was. The seeds of a cell are trained in
one program. Then the final checkpoint and the best one of each seed play 100 episodes greedily, in Gymnasium's env.
With `--set NAME=VALUE` the row goes to results/tried.jsonl: what was tried, which is not what is shipped.
"""

import argparse
import ast
import dataclasses
import json
import math
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
EVIDENCE, TRIED, PUBLISHED = RESULTS / "evidence.jsonl", RESULTS / "tried.jsonl", RESULTS / "published.json"
TUNING_SEEDS = 100  # from here on seeds choose settings
EPISODES = 100
EVALUATIONS = 25  # in the course of a run, of 20 episodes each
EVALUATION_SEED = 1_000_000  # of the episodes that the checkpoints play: no run has it
CLASSIC = "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "LunarLander-v3"
TRAINED_AS = {  # the env in which runs train, where a JAX env equals Gymnasium's
    "CartPole-v1": "jax:cartpole",
    "Acrobot-v1": "gymnax:Acrobot-v1",
    "MountainCar-v0": "gymnax:MountainCar-v0",
}
AGENTS = "dqn", "double-dqn", "c51", "qr-dqn", "iqn", "munchausen-dqn", "rainbow"
CELLS = [(agent, TRAINED_AS.get(env, env)) for agent in AGENTS for env in CLASSIC]
KEY = "agent", "env", "steps", "seeds", "changes"  # what tells rows apart


def evaluated_env(env: str) -> str:
    """Returns the id of the Gymnasium env in which policies trained in `env` are judged."""
    return {trained: judged for judged, trained in TRAINED_AS.items()}.get(env, env)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file of JSON lines; none where it is missing."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def cell(agent: str, env: str, steps: int, seeds: range, changes: dict[str, Any], work: Path) -> dict[str, Any] | None:
    """Trains and judges one cell and returns its row, or None where a signal stopped the training.

    Args:
      agent, env: names of the agent and of the env to train in.
      steps: env steps of each seed.
      seeds: consecutive ones.
      changes: settings that differ from the shipped ones.
      work: a folder that keeps an unfinished cell.
    """
    import jaxql
    from benchmarks.measure import about

    folder, meter = work / "runs", Meter(work)
    settings = dict(steps=steps, solved_at=math.inf, eval_every=max(1, steps // EVALUATIONS), log_every=steps // 50)
    settings |= dict(checkpoint_every=max(1, steps // 5)) | changes
    runs = jaxql.train(
        agent,
        env,
        seed=seeds[0],
        seeds=len(seeds),
        out=folder,
        resume_or_start=True,
        quiet=True,
        callback=meter,
        **settings,
    )
    runs = runs if isinstance(runs, list) else [runs]
    meter({})
    if any(run.interrupted for run in runs):
        return None
    judged = Judge(runs[0], evaluated_env(env))
    final = [judged(last_params(run)) for run in runs]
    best = [judged(run.best_params()) for run in runs]
    random = float(np.mean(judged.random().returns))
    return {
        "agent": agent,
        "env": env,
        "evaluated_in": evaluated_env(env),
        "steps": steps,
        "seeds": list(seeds),
        "changes": changes,
        "settings": differences(runs[0].config) | differences(runs[0].settings),
        "env_steps": [int(run.metrics["env_steps"][-1]) for run in runs],
        "updates": [int(run.metrics["updates"][-1]) for run in runs],
        **statistics_of(final, best, [run.metrics for run in runs], random, steps),
        **meter.spent(),
        **about(),
    }


class Meter:
    """Seconds of CPU and of the clock that a cell has cost, those before an interruption included; a callback."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "spent.json"
        self._before = json.loads(self._path.read_text()) if self._path.exists() else {"cpu": 0.0, "wall": 0.0}
        self._start = time.process_time(), time.perf_counter()

    def __call__(self, row: dict[str, Any]) -> None:
        self._path.write_text(json.dumps({"cpu": self._seconds("cpu"), "wall": self._seconds("wall")}))

    def spent(self) -> dict[str, float]:
        """Returns the columns of a row."""
        return {"cpu_minutes": round(self._seconds("cpu") / 60, 2), "wall_seconds": round(self._seconds("wall"), 1)}

    def _seconds(self, kind: str) -> float:
        now = {"cpu": time.process_time() - self._start[0], "wall": time.perf_counter() - self._start[1]}
        return self._before[kind] + now[kind]


class Judge:
    """Plays full greedy episodes with parameters of a run's agent in Gymnasium's env."""

    def __init__(self, run: Any, env: str):
        from jaxql.lab.environments import EnvMaker

        self._agent, self._make_env, self._params = run.agent, EnvMaker(env, {}), run.best_params()

    def __call__(self, params: Any) -> Any:
        """Returns the `Evaluation` of `EPISODES` episodes, the same ones for all parameters."""
        from jaxql.lab.evaluation import evaluate_in_turns

        return evaluate_in_turns(self._agent, params, self._make_env, EPISODES, EVALUATION_SEED)

    def random(self) -> Any:
        """Returns the `Evaluation` of random actions."""
        import jax

        from jaxql.lab.evaluation import evaluate

        env = self._make_env(EPISODES, seed=EVALUATION_SEED, purpose="evaluate")
        try:
            return evaluate(self._agent, self._params, env, jax.random.key(EVALUATION_SEED), epsilon=1.0)
        finally:
            env.close()


def last_params(run: Any) -> Any:
    """Returns the parameters with which a run ended."""
    from jaxql.lab import checkpoint

    return checkpoint.load(run.folder / "checkpoints" / "last", run.shapes)[0]


def differences(values: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass that are not at their defaults; infinity as a word."""
    pairs = ((field.name, getattr(values, field.name), field.default) for field in dataclasses.fields(values))
    return {
        name: str(value) if value in (math.inf, -math.inf) else value for name, value, usual in pairs if value != usual
    }


def statistics_of(
    final: list[Any], best: list[Any], metrics: list[dict[str, np.ndarray]], random: float, steps: int
) -> dict[str, Any]:
    """Returns the returns of a cell and what they amount to.

    Args:
      final, best: an `Evaluation` of each seed.
      metrics: of each seed.
      random: the mean return of random actions.
      steps: of the budget.
    """
    from jaxql.lab.statistics import area_under_curve, bootstrap_interval, iqm

    ends = [float(np.mean(each.returns)) for each in final]
    low, high = bootstrap_interval(iqm, np.array(ends)[:, None])
    curves = [(m["env_steps"], m["eval_return"]) for m in metrics]
    curves = [(at[np.isfinite(value)], value[np.isfinite(value)]) for at, value in curves]
    return {
        "final": rounded(ends),
        "final_error": rounded([np.std(each.returns) / math.sqrt(len(each.returns) - 1) for each in final]),
        "best": rounded([np.mean(each.returns) for each in best]),
        "training": rounded([m["return_mean"][-1] for m in metrics]),
        "random": rounded([random])[0],
        "iqm": rounded([iqm(np.array(ends)[:, None])])[0],
        "interval": rounded([low, high]),
        "mean": rounded([np.mean(ends)])[0],
        "worst": min(rounded(ends)),
        "area_under_curve": rounded([area_under_curve(at, value, steps) for at, value in curves]),
        "near_best": round(near_best(curves, random, steps), 3),
        "curve_steps": np.linspace(0, steps, EVALUATIONS + 1)[1:].astype(int).tolist(),
        "curves": [rounded(np.interp(np.linspace(0, steps, EVALUATIONS + 1)[1:], at, value)) for at, value in curves],
    }


def near_best(curves: list[tuple[np.ndarray, np.ndarray]], random: float, steps: int) -> float:
    """Returns the share of evaluations in the second half of the runs that come near the best one.

    Near is at least best - (best - random) / 10: within 10 % of the way from random actions to the best evaluation of
    any seed. Returns may be negative.

    >>> near_best([(np.array([50, 60, 100]), np.array([-200.0, -100.0, -109.0]))], -200.0, 100)
    0.6666666666666666
    """
    late = np.concatenate([value[at >= steps / 2] for at, value in curves])
    best = max(np.max(value) for _, value in curves)
    return float(np.mean(late >= best - (best - random) / 10))


def rounded(numbers: Any) -> list[float]:
    return [round(float(x), 2) for x in numbers]


def measure(agent: str, env: str, steps: int | None, seeds: range, changes: dict[str, Any], folder: Path) -> bool:
    """Adds the row of a cell to its file, unless it is there; returns whether it is there now.

    Args:
      agent, env, seeds, changes: as in `cell`.
      steps: None for the budget of the shipped settings, which is the published one.
      folder: keeps unfinished cells.
    """
    from jaxql.agents import entry_of
    from jaxql.lab.settings import settings

    steps = steps or settings(entry_of(agent), env)[1].steps
    path = TRIED if changes else EVIDENCE
    wanted = {"agent": agent, "env": env, "steps": steps, "seeds": list(seeds), "changes": changes}
    if any(
        json.dumps([row[name] for name in KEY]) == json.dumps([wanted[name] for name in KEY]) for row in rows_of(path)
    ):
        return True
    words = [f"{name}={' '.join(map(str, x)) if isinstance(x, tuple) else x}" for name, x in changes.items()]
    name = "-".join([agent, env.replace(":", "-").replace("/", "-"), str(steps), f"{seeds[0]}-{seeds[-1]}", *words])
    row = cell(agent, env, steps, seeds, changes, folder / name.replace("/", "-").replace(" ", "-"))
    if row is None:
        return False
    row["command"] = " ".join(
        [f"python -m benchmarks evidence --agent {agent} --env {env} --steps {steps} --seeds {len(seeds)}"]
        + [f"--first-seed {seeds[0]}"]
        + [f"--set '{word}'" for word in words]
    )
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    shown = ("iqm", "interval", "worst", "final", "best", "training", "near_best", "updates", "cpu_minutes")
    print(agent, env, steps, *words, {name: row[name] for name in shown}, flush=True)
    return True


def parity_table(rows: list[dict[str, Any]], published: dict[str, Any]) -> str:
    """Returns the published results and ours, in Markdown: a row an env, an agent and a number of env steps.

    Args:
      rows: of evidence.jsonl.
      published: what published.json holds: a target of each env, and rows.
    """
    from benchmarks.report import table

    ours = newest(rows)
    theirs: dict[tuple, list[dict[str, Any]]] = {}
    for row in published["rows"]:
        theirs.setdefault((row["env"], row["agent"], row["steps"]), []).append(row)
    order = {env: i for i, env in enumerate([*published["targets"], *published["training_targets"]["pqn"]])}
    keys = sorted({*ours, *theirs}, key=lambda key: (order.get(key[0], len(order)), key[0], key[2], key[1]))
    head = ["env", "agent", "env steps", "published", "final", "target", "worst seed", "best", "training"]
    head += ["near the best", "updates", "CPU minutes", "commit"]
    lines = []
    for key in keys:
        cited = "; ".join(
            f"[{each['returned']:g}{spread(each)}]({each['url']}), {each['protocol']}" for each in theirs.get(key, [])
        )
        lines.append([key[0], f"`{key[1]}`", f"{key[2]:,}", cited, *_ours(ours.get(key), _target(published, *key[:2]))])
    return table(head, lines)


def newest(rows: list[dict[str, Any]]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Returns the newest row of every (env, agent, env steps) whose seeds chose nothing."""
    return {(row["evaluated_in"], row["agent"], row["steps"]): row for row in rows if row["seeds"][0] < TUNING_SEEDS}


def spread(row: dict[str, Any]) -> str:
    """Returns " ± SPREAD" of a published row; "" where its source has none."""
    return "" if row["spread"] is None else f" ± {row['spread']:g}"


def _target(published: dict[str, Any], env: str, agent: str) -> tuple[str, float] | None:
    """Returns what is to be reached in an env, the mean over seeds of "final" or "training" returns; None: nothing."""
    for kind, targets in (("final", published["targets"]), ("training", published["training_targets"].get(agent, {}))):
        if env in targets:
            return kind, targets[env]
    return None


def _ours(row: dict[str, Any] | None, target: tuple[str, float] | None) -> list[str]:
    """Returns the cells of a row of ours; empty ones where it was not run."""
    if row is None:
        return ["not run", *[""] * 8]
    reached = ""
    if target is not None:
        kind, least = target
        reached = f"{kind} {least:g}: {'reached' if np.mean(row[kind]) >= least else 'missed'}"
    return [
        f"{len(row['seeds'])} seeds: {reached_by(row)}",
        reached,
        f"{row['worst']:g}",
        f"{np.mean(row['best']):.1f}",
        f"{np.mean(row['training']):.1f}",
        f"{100 * row['near_best']:.0f} %",
        f"{np.mean(row['updates']):,.0f}",
        f"{row['cpu_minutes']:.0f}",
        row["commit"][:7],
    ]


def reached_by(row: dict[str, Any]) -> str:
    """Returns the mean over seeds of a row's final returns, and their interquartile mean with its interval."""
    low, high = row["interval"]
    return f"mean {row['mean']:.1f}, IQM {row['iqm']:.1f} ({low:.1f} to {high:.1f})"


def measured_list(rows: list[dict[str, Any]]) -> str:
    """Returns the assignment of MEASURED in jaxql/agents/evidence.py, as ruff formats it."""
    lines = []
    for row in rows:
        seeds = f"{row['seeds'][0]} to {row['seeds'][-1]}"
        values = row["agent"], row["evaluated_in"], row["steps"], seeds, reached_by(row), row["commit"][:7]
        lines.append("    Evidence(" + ", ".join(json.dumps(x) for x in values) + "),\n")
    return (
        "MEASURED: tuple[Evidence, ...] = (\n" + "".join(lines) + ")\n"
        if lines
        else "MEASURED: tuple[Evidence, ...] = ()\n"
    )


def write(rows: list[dict[str, Any]]) -> None:
    """Writes the table to the READMEs and the list to the package."""
    from benchmarks import report

    module = Path(__file__).parent.parent / "jaxql" / "agents" / "evidence.py"
    text = module.read_text()
    module.write_text(
        re.sub(
            r"MEASURED: .*?= \((?:\)|\n.*?^\))\n",
            lambda _: measured_list(list(newest(rows).values())),
            text,
            flags=re.M | re.S,
        )
    )
    for readme in report.READMES:
        readme.write_text(report.filled(readme.read_text(), "parity"))


def value_of(word: str) -> tuple[str, Any]:
    """Returns (name, value) of NAME=VALUE; several numbers are a tuple.

    >>> value_of("hidden=256 256"), value_of("backup=double"), value_of("learning_rate=1e-3")
    (('hidden', (256, 256)), ('backup', 'double'), ('learning_rate', 0.001))
    """
    name, equals, text = word.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{word} is not NAME=VALUE, as in learning_rate=1e-3")
    parts = []
    for part in text.split():
        try:
            parts.append(ast.literal_eval(part))
        except (ValueError, SyntaxError):
            parts.append(part)
    return name, parts[0] if len(parts) == 1 else tuple(parts)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent")
    parser.add_argument("--env")
    parser.add_argument("--steps", type=int, help="env steps of a seed; those of the shipped settings where not given")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--set", type=value_of, action="append", default=[], metavar="NAME=VALUE", dest="changes")
    parser.add_argument("--work", type=Path, help="folder of unfinished cells; a temporary one where not given")
    parser.add_argument("--all", action="store_true", help="every cell of CELLS")
    parser.add_argument("--table", action="store_true", help="print the parity table")
    parser.add_argument("--write", action="store_true", help="write it, and the list of the package")
    given = parser.parse_args(argv)
    if given.table or given.write:
        if given.write:
            write(rows_of(EVIDENCE))
        if given.table:
            print(parity_table(rows_of(EVIDENCE), json.loads(PUBLISHED.read_text())))
        return
    if not given.all and not (given.agent and given.env):
        parser.error("--agent and --env, or --all, are missing")
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        for agent, env in CELLS if given.all else [(given.agent, given.env)]:
            if not measure(agent, env, given.steps, seeds, dict(given.changes), work):
                raise SystemExit("stopped; the same command with the same --work goes on")
