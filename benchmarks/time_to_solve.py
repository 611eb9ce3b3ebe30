"""Seconds from the command to a solved environment, imports, compilation and tests included: tuned agents, one seed."""

from benchmarks.solve import run

PAIRS = (
    ("q-learning", "FrozenLake-v1"),
    ("q-learning", "Taxi-v3"),
    ("dqn", "CartPole-v1"),
    ("dqn", "PongNoFrameskip-v4"),
)


def rows(quick: bool = False):
    import gymnasium  # noqa: F401 - without it the part is skipped

    for agent, env in PAIRS[:-1] if quick else PAIRS:
        row = run(agent, env, seed=0)
        shown = {name: row[name] for name in ("seed", "solved", "env_steps", "wall_seconds", "exact_return")}
        yield {"part": "time_to_solve", "name": f"{agent}, {row['env']}", **shown, "mean": row["evaluation"]["mean"]}
