"""Runs from Python: their files, their rules, and everything that may be passed to `train`."""

import dataclasses
import json
from pathlib import Path

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import jaxql
from jaxql.agents.q_learning import q_learning
from jaxql.envs.jax import catch
from jaxql.errors import UserError
from jaxql.lab import checkpoint, evaluation, exact, recorder
from jaxql.lab.files import read_config

LAKE = dict(env="FrozenLake-v1", env_args={"is_slippery": False}, quiet=True)
SHORT_DQN = dict(env="CartPole-v1", quiet=True, steps=900, warmup_steps=200, eval_every=400, eval_episodes=3,
                 log_every=200, num_envs=4, rollout_length=1, gradient_steps=1, hidden=(16,))  # fmt: skip


class Annuity(gym.Env):
    """Pays 1 a step for ever, whatever is done; one observation, one action."""

    observation_space = gym.spaces.Discrete(1)
    action_space = gym.spaces.Discrete(1)

    def __init__(self, box=False, ends_after=None):
        self.box, self.ends_after = box, ends_after
        if box:
            self.observation_space = gym.spaces.Box(0, 1, (1,), np.float32)

    def _obs(self):
        return np.ones(1, np.float32) if self.box else 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return self._obs(), {}

    def step(self, action):
        self.clock += 1
        return self._obs(), 1.0, self.clock == self.ends_after, False, {}


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return jaxql.train("q-learning", **LAKE, out=tmp_path_factory.mktemp("runs") / "lake", seed=3)


def test_a_run_solves_and_leaves_its_files(lake):
    assert lake.solved
    assert lake.best_score > 0.8
    record = read_config(lake.folder)
    assert record["config"]["settings"] == dataclasses.asdict(lake.config) | dataclasses.asdict(lake.settings)
    assert record["config"]["env"] == "FrozenLake-v1"
    assert record["seed"] == 3
    assert record["versions"]["jax"] == jax.__version__
    assert record["device"]["platform"]
    metrics = lake.metrics
    assert {"env_steps", "episodes", "return_mean", "loss", "epsilon"} <= set(metrics)
    assert np.all(np.diff(metrics["env_steps"]) > 0)
    assert metrics["env_steps"][-1] == lake.env_steps
    assert (lake.folder / "timing.csv").read_text().startswith("env_steps,seconds,steps_per_second\n")
    for name in "best", "last":
        params, about = checkpoint.load(lake.folder / "checkpoints" / name)
        assert params["q_values"].shape == (16, 4)
        assert about["env_steps"] <= lake.env_steps


def test_event_files_hold_the_scalars(lake):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(lake.folder)).Reload()
    assert {"reward", "reward_100", "epsilon", "speed", "loss"} <= set(events.Tags()["scalars"])
    assert events.Scalars("reward_100")[-1].step == lake.env_steps


def test_the_readme_defines_every_column_of_metrics(lake, tmp_path):
    text = (Path(__file__).parent.parent / "jaxql" / "lab" / "README.md").read_text()
    rows = [f"| `{name}` | {meaning} |" for name, meaning in (recorder.COLUMNS | recorder.OUTSIDE).items()]
    head = "| quantity | definition |\n|---|---|\n"
    assert f"<!-- columns -->\n{head}" + "\n".join(rows) + "\n<!-- end -->\n" in text
    assert set(lake.metrics) <= set(recorder.COLUMNS)
    run = jaxql.train("dqn", **SHORT_DQN | dict(steps=400), out=tmp_path / "run")
    assert set(run.metrics) == set(recorder.COLUMNS) - set(exact.MEASURES)  # CartPole has no model


def test_evaluation_has_seeds_of_its_own(lake):
    summary = lake.evaluate(episodes=5).summary()
    assert summary == {"episodes": 5, "distinct": 1, "mean": 1.0, "std": 0.0, "min": 1.0, "max": 1.0,
                       "mean_length": 6.0, "capped": 0, "step_cap": evaluation.STEP_CAP}  # fmt: skip
    assert json.loads(json.dumps(summary)) == summary


@pytest.mark.parametrize("agent", ["q-learning", "dqn"])
@pytest.mark.trust(16)
def test_same_seed_same_bytes(agent, tmp_path):
    options = SHORT_DQN if agent == "dqn" else LAKE | dict(steps=3_000, stop_when_solved=False)
    runs = [jaxql.train(agent, **options, seed=seed, out=tmp_path / str(i)) for i, seed in enumerate((5, 5, 6))]
    files = [(run.folder / "metrics.csv").read_bytes() for run in runs]
    assert files[0] == files[1]
    assert files[0] != files[2]
    if agent == "dqn":
        assert {"gradient_norm", "q_mean", "eval_return"} <= set(runs[0].metrics)
        assert np.isfinite(runs[0].metrics["eval_return"]).sum() == 2


@pytest.mark.trust(2)
def test_the_host_loop_tells_truncation_from_termination(tmp_path):
    """An annuity of 1 at discount 0.9 is worth 10; if one step in 5 ends it, 1 / (1 - 0.72)."""
    for ends_after, limit, worth in (None, 5, 10.0), (5, None, 1 / (1 - 0.9 * 4 / 5)):

        def env(ends_after=ends_after, limit=limit):
            annuity = Annuity(ends_after=ends_after)
            return gym.wrappers.TimeLimit(annuity, limit) if limit else annuity

        run = jaxql.train("q-learning", env, num_envs=8, steps=4_000, learning_rate=0.02, discount=0.9, quiet=True,
                          eval_every=10**6, out=tmp_path / str(worth))  # fmt: skip
        np.testing.assert_allclose(run.state.params["q_values"][0, 0], worth, atol=0.3)


def test_env_may_be_a_callable_or_a_vector_env(tmp_path):
    run = jaxql.train("dqn", **SHORT_DQN | dict(env=lambda: gym.make("CartPole-v1")), out=tmp_path / "callable")
    assert run.env_steps >= 900
    vector = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 3, autoreset_mode=AutoresetMode.NEXT_STEP)
    run = jaxql.train("dqn", **SHORT_DQN | dict(env=vector), out=tmp_path / "vector")
    assert run.config.num_envs == 3
    assert len(run.evaluate(2).returns) == 2
    same_step = SyncVectorEnv([lambda: gym.make("CartPole-v1")], autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(UserError, match="NEXT_STEP"):
        jaxql.train("dqn", **SHORT_DQN | dict(env=same_step), out=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_agent_network_and_callback_may_be_passed(tmp_path):
    outside = q_learning(16, 4)
    run = jaxql.train(outside, **LAKE, steps=2_000, learning_rate=0.2, discount=0.9, out=tmp_path / "agent")
    assert run.env_steps >= 2_000
    linear = jaxql.Network(
        init=lambda key, obs: jnp.zeros((4, 2)),
        apply=lambda params, obs, memory=(), key=None: (obs @ params, memory),
    )
    rows = []
    run = jaxql.train("dqn", **SHORT_DQN, network=linear, out=tmp_path / "network",
                      callback=lambda row: rows.append(row) or len(rows) == 2)  # fmt: skip
    assert run.state.params.shape == (4, 2)
    assert len(rows) == 2, "the callback stops the run"
    assert run.env_steps < 900
    run = jaxql.train("dqn", **SHORT_DQN, network="mlp", out=tmp_path / "name")
    assert (run.config.network, run.state.params["params"]["Dense_0"]["kernel"].shape[0]) == ("mlp", 4)


def test_init_from_starts_with_the_best_parameters_of_a_run(lake, tmp_path):
    run = jaxql.train("q-learning", **LAKE, init_from=lake.folder, steps=100, learning_rate=0.0, out=tmp_path / "b")
    np.testing.assert_array_equal(run.state.params["q_values"], lake.best_params()["q_values"])
    with pytest.raises(UserError, match="expected"):
        jaxql.train("q-learning", "CliffWalking-v1", init_from=lake.folder, quiet=True, out=tmp_path / "c")
    with pytest.raises(UserError, match="no run folder"):
        jaxql.train("q-learning", **LAKE, init_from=tmp_path / "nothing", out=tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.trust(15)
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(UserError, match="the loss is not finite after [0-9]+ env steps"):
        jaxql.train("dqn", **SHORT_DQN | dict(learning_rate=1e30, loss="squared"), out=tmp_path / "a")


def test_an_occupied_folder_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UserError, match="is not empty"):
        jaxql.train("q-learning", **LAKE, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.trust(8)
def test_replay_that_cannot_fit_is_refused_before_it_is_allocated(tmp_path):
    with pytest.raises(UserError, match="GB are free; lower capacity"):
        jaxql.train("dqn", **SHORT_DQN, capacity=2 * 10**9, out=tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_exact_report_names_what_it_reports():
    lake = jaxql.planning.from_gymnasium("FrozenLake-v1")
    solution = jaxql.planning.value_iteration(lake, discount=0.99, tolerance=1e-5)
    line = exact.exact_report(lake, solution.q_values)
    assert line.startswith("exact success probability of the greedy policy: 0.7")
    assert line.endswith("best possible: 0.744")
    taxi = jaxql.planning.from_gymnasium("Taxi-v4")
    solution = jaxql.planning.value_iteration(taxi, discount=0.99, tolerance=1e-4)
    assert exact.exact_report(taxi, solution.q_values) == (
        "exact mean return over all 300 starts of the greedy policy: 7.930; best possible: 7.930"
    )


class Scripted:
    """Three envs whose episodes last 1, 2 and for ever; rewards count the ticks."""

    spec = catch().spec(3)

    def reset(self):
        self.clock = 0
        return jnp.zeros(3, jnp.int32)

    def take_episodes(self):
        return []

    def tick(self, action, idle=None):
        self.clock += 1
        ends = np.array([self.clock == 1, self.clock == 2, False])
        reward = np.full(3, float(self.clock))
        return np.zeros(3, np.int32), reward, ends & [True, False, True], ends & [False, True, False], np.ones(3, bool)


@pytest.mark.trust(26)
def test_evaluation_counts_one_episode_an_env_and_says_what_was_cut():
    agent = q_learning(150, 3)
    result = evaluation.evaluate(agent, {"q_values": jnp.zeros((150, 3))}, Scripted(), jax.random.key(0), step_cap=4)
    np.testing.assert_array_equal(result.returns, [1, 1 + 2, 1 + 2 + 3 + 4])
    np.testing.assert_array_equal(result.lengths, [1, 2, 4])
    np.testing.assert_array_equal(result.capped, [False, True, True])
    assert result.distinct == 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("agent", "env"),
    [("value-iteration", "FrozenLake-v1"), ("q-iteration", "FrozenLake-v1"), ("q-learning", "FrozenLake-v1"),
     ("q-learning", "Taxi-v4"), ("dqn", "CartPole-v1")],
)  # fmt: skip
def test_tuned_settings_solve(agent, env, seed, tmp_path):
    run = jaxql.train(agent, env, seed=seed, quiet=True, out=tmp_path / "run")
    assert run.solved
    if env == "Taxi-v4":
        mdp = jaxql.planning.from_gymnasium(env)
        policy = jaxql.planning.greedy_policy(run.best_params()["q_values"], tie="uniform")
        assert abs(jaxql.planning.expected_return(mdp, policy) - jaxql.planning.best_return(mdp)) <= 0.5
    if env == "CartPole-v1":
        assert run.evaluate(20).summary()["mean"] >= 475
