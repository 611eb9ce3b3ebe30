"""Many agents in one program: env steps a second of S vmapped DQN agents on Catch, an MLP each."""

import jax

from benchmarks.measure import interleaved
from jaxql import agents, loop
from jaxql.agents.state import hyper_of
from jaxql.envs.jax import autoreset, catch

ENVS, ROUNDS = 8, 200


def rows(quick: bool = False):
    entry = agents.entry_of("dqn")
    config = entry.config(capacity=2_000, batch_size=32, gradient_steps=2)
    agent = entry.make(config, catch().spec(ENVS))
    begin, env_step = autoreset(catch(), ENVS)

    def start(key):
        env, obs = begin(key)
        return agent.init(key, obs, hyper_of(config)), env, obs

    def run(carry):
        return loop.train(agent, env_step, carry, warmup=0, rounds=ROUNDS, rollout_length=1)[0]

    for seeds in (1, 4) if quick else (1, 4, 16, 64, 256):
        carry = jax.jit(jax.vmap(start))(jax.random.split(jax.random.key(0), seeds))
        step = jax.jit(jax.vmap(run), donate_argnums=0)

        def call(step=step):
            nonlocal carry
            carry = step(carry)
            return carry

        (row,) = interleaved({"dqn": call}, repeats=3).values()
        yield {
            "part": "seeds",
            "name": "dqn, Catch",
            "seeds": seeds,
            "env_steps_per_second": seeds * ROUNDS * ENVS / row["seconds"],
            "updates_per_second": seeds * ROUNDS * 2 / row["seconds"],
            "compile_seconds": row["first_call"],
        }
