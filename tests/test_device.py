"""JAX envs in a run: chunks are the host's loop compiled, episodes are counted, seeds are as alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxql
from jaxql import envs, loop
from jaxql.agents.q_learning import q_learning
from jaxql.agents.state import Hyper
from jaxql.envs.jax import DeviceEnv, JaxEnv, catch
from jaxql.errors import UserError

HYPER = Hyper(learning_rate=0.1, discount=0.99, epsilon=0.1, exploration_steps=100.0)
CATCH = dict(env="jax:catch", quiet=True, num_envs=4, steps=2_000, log_every=300, eval_every=700, eval_episodes=3)


def begun(**options):
    """(env, agent, carry): a table learns catch in 4 envs."""
    env = DeviceEnv(catch(), 4, "catch", **options)
    agent, obs = q_learning(150, 3), env.reset()
    return env, agent, (agent.init(jax.random.key(0), obs, HYPER), env.state, obs)


def test_chunks_are_the_hosts_loop():
    chunks, host = begun(), begun()
    play = chunks[0].compile_rounds(chunks[1], max_warmup=20, max_rounds=40, rollout_length=1)
    carry, parts = chunks[2], []
    for warmup, rounds in ((20, 13), (0, 40), (0, 7)):
        carry, metrics = play(carry, warmup, rounds)
        parts.append(metrics["loss"])

    env, agent, (state, _, obs) = host
    (expected, *_), metrics = loop.train(
        loop.jit_agent(agent), lambda _, action: ((), jax.tree.map(jnp.asarray, env.tick(action))), (state, (), obs),
        warmup=20, rounds=60, rollout_length=1, scan=loop.host_scan)  # fmt: skip
    np.testing.assert_array_equal(carry[0].params["q_values"], expected.params["q_values"])
    np.testing.assert_array_equal(np.concatenate(parts), metrics["loss"])
    episodes = chunks[0].take_episodes()
    assert episodes == env.take_episodes() and len(episodes) == 4 * (80 // 6)
    assert {e.length for e in episodes} == {5} and {e.return_ for e in episodes} == {-1.0, 1.0}
    assert not chunks[0].take_episodes()


def test_one_program_serves_every_length():
    env, agent, carry = begun()
    traces = []
    counted = agent._replace(learn=lambda state: traces.append(1) or agent.learn(state))
    play = env.compile_rounds(counted, max_warmup=5, max_rounds=9, rollout_length=2)
    carry, _ = play(carry, 5, 3)
    once = len(traces)
    for rounds in (1, 9, 4):
        carry, metrics = play(carry, 0, rounds)
        assert metrics["loss"].shape[0] == rounds
    assert len(traces) == once
    assert int(carry[0].vector_steps) == 5 + 2 * 17


def test_returns_are_those_of_the_rows():
    """Rewards 1, 2, 3, ... and an end at a random step: against a count by hand."""
    jax_env = JaxEnv(
        reset=lambda key: jnp.int32(0),
        step=lambda key, s, a: (s + 1, (s + 1).astype(float), jax.random.bernoulli(key, 0.3)),
        num_actions=2,
        step_limit=6,
    )
    env = DeviceEnv(jax_env, 3, "risky", seed=1)
    env.reset()
    rows = [env.tick(np.zeros(3, int))[1:] for _ in range(60)]
    expected = []
    for tick, (_, terminated, truncated, _) in enumerate(rows):
        for w in np.flatnonzero(terminated | truncated):
            start = max((t + 1 for t in range(tick) if not rows[t][3][w]), default=0)
            paid = [rows[t][0][w] for t in range(start, tick + 1)]
            expected.append((w, sum(paid), len(paid)))
    episodes = env.take_episodes()
    assert episodes == expected
    assert len({e.length for e in episodes}) > 3


def test_purposes_and_resets_show_other_episodes():
    def story(env):
        env.reset()
        return np.stack([env.tick(np.ones(4, int))[0] for _ in range(30)]).tobytes()

    again = DeviceEnv(catch(), 4, "catch")
    stories = [story(again), story(again), story(DeviceEnv(catch(), 4, "catch", purpose="eval", seed=0))]
    assert len(set(stories)) == 3


def test_a_run_tests_stops_and_can_be_opened(tmp_path):
    run = jaxql.train("q-learning", **CATCH | dict(steps=200_000, solved_at=0.9), out=tmp_path / "run", epsilon=0.3)
    assert run.solved and run.env_steps < 100_000
    assert np.nanmax(run.metrics["eval_return"]) == run.best_score >= 0.9
    opened = jaxql.open_run(tmp_path / "run")
    assert opened.evaluate(20).summary()["mean"] > 0.5
    with pytest.raises(UserError, match="draws no frames"):
        opened.record(tmp_path / "video.mp4")


@pytest.mark.slow
def test_each_of_many_seeds_is_as_alone(tmp_path):
    jaxql.train("q-learning", **CATCH, seed=1, out=tmp_path / "alone")
    jaxql.train("q-learning", **CATCH, seed=0, seeds=2, out=tmp_path / "many")
    alone, other, same = ((tmp_path / x / "metrics.csv").read_bytes() for x in ("alone", "many/seed0", "many/seed1"))
    assert same == alone != other


def test_a_deep_agent_trains_on_an_env_of_ones_own(tmp_path):
    small = dict(hidden=(8,), out=tmp_path / "run", **CATCH | dict(env=envs.memory_chain(length=2), steps=600))
    run = jaxql.train("pqn", **small, rollout_length=8, gradient_steps=4, minibatches=2)
    assert run.env_steps >= 600 and np.isfinite(run.metrics["loss"]).all()
    assert 0 < run.metrics["episodes"][-1] <= 600 // 3


def test_a_callback_stops_it(tmp_path):
    run = jaxql.train("q-learning", **CATCH, out=tmp_path / "run", callback=lambda row: row["env_steps"] >= 600)
    assert 600 <= run.env_steps < 1_300


@pytest.mark.parametrize(
    ("options", "message"),
    [(dict(first_env=2), "no first_env"), (dict(render=True), "no frames"), (dict(seed=[0, 1, 2]), "split evenly"),
     (dict(purpose="fun"), "purpose"), (dict(life_loss=True), "Atari")],
)  # fmt: skip
def test_what_a_jax_env_cannot_do_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        envs.make("jax:catch", 4, **options)
    with pytest.raises(UserError, match="call reset"):
        envs.make("jax:catch", 4).tick(np.zeros(4, int))
    with pytest.raises(UserError, match="no frames"):
        envs.make("jax:catch", 4).render()
