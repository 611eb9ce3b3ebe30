"""Run folders written by hand, for commands that read them."""

import json
import math

SETTINGS = {"learning_rate": 0.1, "n_step": 1, "steps": 1000, "solved_at": 0.8, "solved_by": "evaluation",
            "solved_strictly": False, "stop_when_solved": True, "hidden": [64, 64], "double": True}  # fmt: skip


def write_run(folder, returns=(0.0, 0.5), *, agent="dqn", env="FrozenLake-v1", seed=0, steps=None, env_args=None,
              result=None, commit="0123456789abcdef", **settings):  # fmt: skip
    """Writes a run whose evaluations, at equal distances up to its last env step, had these returns."""
    folder.mkdir(parents=True)
    settings = SETTINGS | settings
    config = {"agent": agent, "env": env, "env_args": env_args or {}, "seed": seed, "preset": None, "init_from": None,
              "network": None, "settings": settings}  # fmt: skip
    git = {"commit": commit, "dirty": False} if commit else None
    (folder / "config.json").write_text(json.dumps({"config": config, "seed": seed, "git": git}))
    steps = settings["steps"] if steps is None else steps
    metrics, timing = "env_steps,episodes,return_mean,updates,eval_return\n", "env_steps,seconds,steps_per_second\n"
    for i, value in enumerate(returns, 1):
        at = steps * i // len(returns)
        metrics += f"{at},{at},{value},{at // 2},{value}\n"
        timing += f"{at},{at * 0.06:g},16\n"
    (folder / "metrics.csv").write_text(metrics if returns else "")
    (folder / "timing.csv").write_text(timing)
    if returns:
        (folder / "checkpoints").mkdir()
        metadata = {"env_steps": steps, "score": max(returns, default=math.nan), "scored_by": "evaluation"}
        (folder / "checkpoints" / "best.json").write_text(json.dumps({"metadata": metadata}))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    return folder
