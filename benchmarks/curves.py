"""Learning curves: five seeds of an agent in one program, a cell (agent, env) at a time.

python benchmarks/curves.py [--agents A ...] [--envs E ...] [--commit]      what is not there yet, to results/curves/
python benchmarks/curves.py --draw OUT.png                                   what is there, an env a panel

A cell that has its file is skipped, so that the script may be stopped and started again; with --commit every cell is a
commit. A point is the mean return of the last 100 training episodes, as in MinAtar's paper (Young & Tian, 2019).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "curves"
SEEDS = 5
AGENTS = "dqn", "double-dqn", "c51", "qr-dqn", "iqn", "munchausen-dqn", "rainbow", "pqn"
PLAIN = dict(backup="greedy", n_step=1)  # what is tuned for CartPole has both
CLASSIC = dict(
    num_envs=8, gradient_steps=2, hidden=(128, 128), learning_rate=5e-4, batch_size=32, capacity=50_000,
    warmup_steps=1_000, target_period_updates=200, exploration_steps=20_000, epsilon=0.05, v_min=-100.0, v_max=0.0,
)  # fmt: skip
MINATAR = dict(  # replay, batch, epsilon and target period of its paper; an update each 8 steps, not each one
    num_envs=8, learning_rate=2.5e-4, batch_size=32, capacity=100_000, warmup_steps=5_000, target_period_updates=1_000,
    exploration_steps=100_000, epsilon=0.1,
)  # fmt: skip
ROUNDS = dict(
    num_envs=8,
    rollout_length=32,
    gradient_steps=32,
    minibatches=8,
    learning_rate=5e-4,
    lambda_=0.9,
    exploration_steps=20_000,
)
FRAMES = dict(num_envs=16, rollout_length=32, gradient_steps=16, minibatches=8, learning_rate=5e-4)
HILL = dict(gradient_steps=4, batch_size=64, learning_rate=1e-3, target_period_updates=300, epsilon=0.07, v_min=-50.0)
ENVS = {  # env steps; what differs from the tuned settings, or the defaults, of agents with a replay, and of pqn
    "jax:cartpole": (100_000, {}, {}),
    "gymnax:Acrobot-v1": (100_000, CLASSIC, ROUNDS),
    "gymnax:MountainCar-v0": (100_000, CLASSIC | HILL | dict(discount=0.98), ROUNDS | dict(discount=0.98)),
    "jax:deep-sea": (100_000, CLASSIC | dict(v_min=-1.0, v_max=1.0), ROUNDS),
    "gymnax:Breakout-MinAtar": (300_000, MINATAR, FRAMES),
    "gymnax:Asterix-MinAtar": (300_000, MINATAR, FRAMES),
    "gymnax:Freeway-MinAtar": (300_000, MINATAR, FRAMES),
}


def cell(agent: str, env: str) -> dict:
    """The curves of all seeds of one agent in one env, with where they come from."""
    import jaxql
    from benchmarks.measure import about
    from jaxql import agents

    steps, shared, of_pqn = ENVS[env]
    settings = dict(steps=steps, log_every=steps // 100, eval_every=10**9, checkpoint_every=10**9)
    if agent == "pqn":
        settings |= of_pqn
    else:  # what an agent's name says goes before what they share
        settings |= PLAIN | shared | agents.entry_of(agent).overrides
        settings |= dict(num_atoms=8) if agent == "iqn" else {}  # as few as are in its paper's figure 2
    with tempfile.TemporaryDirectory() as folder:
        runs = jaxql.train(agent, env, seeds=SEEDS, out=Path(folder) / "runs", quiet=True, **settings)
        curves = []
        for run in runs:
            steps, seconds, _ = np.loadtxt(run.folder / "timing.csv", delimiter=",", skiprows=1, unpack=True)
            at = run.metrics["env_steps"]
            clock = np.interp(at, steps, seconds)
            curves.append({"env_steps": at, "seconds": clock, "return": run.metrics["return_mean"]})
    tidy = [{name: [None if np.isnan(x) else round(float(x), 4) for x in values] for name, values in curve.items()}
            for curve in curves]  # fmt: skip
    about_it = about() | {"command": f"python benchmarks/curves.py --agents {agent} --envs {env}"}
    return {"agent": agent, "env": env, "settings": settings, **about_it, "curves": tidy}


def iqm(values: np.ndarray) -> np.ndarray:
    """The mean of the middle half along the first axis; a value that is half inside counts half.

    Source: Agarwal et al. (2021), https://arxiv.org/abs/2108.13264
    """
    count = len(values)
    low, high = count / 4, 3 * count / 4
    inside = np.clip(np.minimum(np.arange(count) + 1, high) - np.maximum(np.arange(count), low), 0, None)
    return np.tensordot(inside / inside.sum(), np.sort(values, axis=0), axes=1)


def interval(values: np.ndarray, draws: int = 2_000) -> tuple[np.ndarray, np.ndarray]:
    """95 % of the IQMs of as many seeds drawn with replacement (one env: one stratum)."""
    rng = np.random.default_rng(0)
    resampled = [iqm(values[rng.integers(len(values), size=len(values))]) for _ in range(draws)]
    return tuple(np.percentile(resampled, [2.5, 97.5], axis=0))


def common(curves: list[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(env steps [T], returns [S, T], seconds [T]) of curves whose rows are at slightly different steps."""
    steps = np.linspace(0, min(curve["env_steps"][-1] for curve in curves), 60)[1:]
    returns, seconds = [], []
    for curve in curves:
        at, value = np.array(curve["env_steps"]), np.array(curve["return"], float)
        known = np.isfinite(value)
        returns.append(np.interp(steps, at[known], value[known], left=np.nan))
        seconds.append(np.interp(steps, at, curve["seconds"]))
    return steps, np.array(returns), np.mean(seconds, axis=0)


def draw(out: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = [json.loads(path.read_text()) for path in sorted(RESULTS.rglob("*.json"))]
    names = [env for env in ENVS if any(row["env"] == env for row in cells)]
    shown = [*AGENTS, *sorted({row["agent"] for row in cells} - set(AGENTS))]
    columns = min(4, len(names))
    size = -(-len(names) // columns), columns
    figure, panels = pyplot.subplots(*size, figsize=(4 * size[1], 3 * size[0]), squeeze=False, layout="constrained")
    for axes in panels.flat[len(names) :]:
        axes.axis("off")
    for env, axes in zip(names, panels.flat, strict=False):
        for row in (row for row in cells if row["env"] == env):
            steps, returns, _ = common(row["curves"])
            low, high = interval(returns)
            color = f"C{shown.index(row['agent'])}"
            axes.plot(steps / 1e3, iqm(returns), label=row["agent"], color=color)
            axes.fill_between(steps / 1e3, low, high, color=color, alpha=0.2, linewidth=0)
        axes.set(title=env, xlabel="env steps (thousands)", ylabel="return")
    panels[0, 0].legend(frameon=False, fontsize=7)
    figure.savefig(out, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=AGENTS, help="names, or MODULE:ENTRY of your own")
    parser.add_argument("--envs", nargs="+", choices=ENVS, default=tuple(ENVS))
    parser.add_argument("--commit", action="store_true")
    parser.add_argument("--draw", metavar="OUT.png")
    given = parser.parse_args()
    if given.draw:
        return draw(given.draw)
    for env in given.envs:
        for agent in given.agents:
            path = RESULTS / env.replace(":", "-") / f"{agent.replace(':', '-')}.json"
            if path.exists():
                continue
            row = cell(agent, env)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(row) + "\n")
            last = [curve["return"][-1] for curve in row["curves"]]
            print(env, agent, last, f"{row['curves'][0]['seconds'][-1]:.0f} s", flush=True)
            if given.commit:
                subprocess.run(["git", "add", str(path)], check=True)
                subprocess.run(["git", "commit", "-qm", f"Curves: {agent} on {env}", str(path)], check=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
