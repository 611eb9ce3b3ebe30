"""Twenty full games of random actions, which agents must better: python benchmarks/random_play.py ENV [ENV ...]."""

import json
import sys
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.measure import about
from jaxql import envs
from jaxql.lab.evaluation import evaluate
from jaxql.types import Agent


def play(env_id: str, episodes: int = 20) -> dict:
    """The numbers of `jaxql evaluate` for the policy that knows nothing."""
    env = envs.make(env_id, episodes, purpose="evaluate")

    def policy(params, obs, memory, key, epsilon=0.0):
        return jax.random.randint(key, (episodes,), 0, env.spec.num_actions), memory

    agent = Agent(init=None, act=None, observe=None, learn=None, policy=jax.jit(policy))
    try:
        return evaluate(agent, (), env, jax.random.key(0)).summary()
    finally:
        env.close()


if __name__ == "__main__":
    for env_id in sys.argv[1:]:
        folder = Path(__file__).parent / "results" / "atari" / env_id
        folder.mkdir(parents=True, exist_ok=True)
        row = play(env_id) | about() | {"command": f"python benchmarks/random_play.py {env_id}"}
        (folder / "random.json").write_text(json.dumps(row) + "\n")
        print(env_id, row["mean"])
