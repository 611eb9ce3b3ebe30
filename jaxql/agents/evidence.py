"""What runs with the shipped settings reached. `python -m benchmarks evidence --write` writes the list."""

from typing import NamedTuple

from jaxql.agents.presets import TWINS

RESULTS = "benchmarks/results/evidence.jsonl"


class Evidence(NamedTuple):
    """The final policies of one cell: an agent in an env with its shipped settings."""

    agent: str
    env: str  # the env in which the policies were judged
    steps: int  # env steps of each seed
    seeds: str  # as in "0 to 9"
    reached: str  # mean and interquartile mean over seeds of the mean greedy return, and 95 % of the latter's bootstrap
    commit: str  # of the code that ran

    def line(self) -> str:
        """Returns the evidence for a person to read."""
        return (
            f"{self.reached} in {self.env} after {self.steps:,} env steps, seeds {self.seeds}; {RESULTS}, "
            f"commit {self.commit}"
        )


MEASURED: tuple[Evidence, ...] = (
    Evidence("dqn", "CartPole-v1", 50000, "10 to 19", "mean 500.0, IQM 500.0 (500.0 to 500.0)", "b0f6a2d"),
    Evidence("dqn", "MountainCar-v0", 120000, "0 to 9", "mean -100.8, IQM -100.5 (-101.3 to -100.3)", "b0f6a2d"),
    Evidence("dqn", "Acrobot-v1", 100000, "0 to 9", "mean -75.5, IQM -74.5 (-78.6 to -72.5)", "b0f6a2d"),
    Evidence("r2d2", "jax:memory-chain", 100000, "0 to 9", "mean 1.0, IQM 1.0 (1.0 to 1.0)", "b0f6a2d"),
    Evidence("pqn", "jax:minatar-breakout", 5000000, "0 to 4", "mean 28.8, IQM 26.6 (22.7 to 38.8)", "1ecc18a"),
)


def evidence_of(agent: str, env: str) -> list[Evidence]:
    """Returns what is known of an agent in an env or in its twins.

    Args:
      agent: its name.
      env: an id.

    >>> evidence_of("dqn", "no-such-env")
    []
    """
    return [each for each in MEASURED if each.agent == agent and env in (each.env, *TWINS.get(each.env, ()))]
