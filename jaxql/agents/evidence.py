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
    Evidence("dqn", "CartPole-v1", 50000, "0 to 9", "mean 493.2, IQM 500.0 (483.8 to 500.0)", "b0f6a2d"),
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
