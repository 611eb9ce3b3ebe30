"""Many seeds at once: each is what it is alone, in its files too, and they end one by one."""

import signal

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import jaxql
from jaxql.agents.q_learning import q_learning
from jaxql.errors import UserError
from jaxql.lab import checkpoint
from jaxql.lab.files import read_config

# What falls due is no multiple of a round, and resets put the seeds out of step with one another.
POND = dict(is_slippery=False, desc=["SFF", "FHF", "FFG"])
LAKE = dict(agent="q-learning", env="FrozenLake-v1", env_args=POND, quiet=True, steps=1_200, num_envs=4,
            warmup_steps=50, log_every=90, eval_every=130, eval_episodes=2, learning_rate=0.8,
            exploration_steps=800, solved_at=0.9)  # fmt: skip
POLE = dict(agent="dqn", env="CartPole-v1", quiet=True, steps=600, warmup_steps=150, eval_every=350, eval_from=1e9,
            log_every=130, num_envs=4, rollout_length=1, gradient_steps=1, hidden=(16,))  # fmt: skip


def text(run):
    return (run.folder / "metrics.csv").read_text()


def last(run):
    return checkpoint.load(run.folder / "checkpoints" / "last")


@pytest.fixture(scope="module")
def lakes(tmp_path_factory):
    return jaxql.train(**LAKE, seed=4, seeds=3, out=tmp_path_factory.mktemp("runs") / "many")


def test_tables_agree_bit_for_bit_and_a_solved_seed_stops_writing(lakes, tmp_path):
    alone = [jaxql.train(**LAKE, seed=seed, out=tmp_path / str(seed)) for seed in (4, 5, 6)]
    assert [run.folder.name for run in lakes] == ["seed4", "seed5", "seed6"]
    assert len({run.env_steps for run in lakes}) > 1, "some seeds ended before others"
    assert all(run.solved for run in lakes)
    for one, other in zip(lakes, alone, strict=True):
        assert text(one) == text(other)
        assert read_config(one.folder)["config"] == read_config(other.folder)["config"]
        assert (one.solved, one.env_steps, one.best_score) == (other.solved, other.env_steps, other.best_score)
        (params, about), (expected, expected_about) = last(one), last(other)
        np.testing.assert_array_equal(params["q_values"], expected["q_values"])
        assert about["env_steps"] == expected_about["env_steps"] == one.env_steps
        np.testing.assert_array_equal(one.state.params["q_values"], expected["q_values"])
    assert jaxql.open_run(lakes[1].folder).evaluate(2).summary()["mean"] == 1


def test_networks_agree_within_rounding(tmp_path):
    together = jaxql.train(**POLE, seeds=2, out=tmp_path / "many")
    one, other = together[1], jaxql.train(**POLE, seed=1, out=tmp_path / "alone")
    assert 100 < one.state.updates == other.state.updates < 200
    for x, y in zip(*map(jax.tree.leaves, (one.state.params, other.state.params)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    for column in "env_steps", "episodes", "return_mean":  # the same actions
        np.testing.assert_array_equal(one.metrics[column], other.metrics[column])


def test_the_callback_stops_one_seed_and_the_lines_are_of_all(tmp_path, capsys):
    rows = []

    def callback(row):
        rows.append(row["seed"])
        return row["seed"] == 0

    options = LAKE | dict(steps=300, solved_at=2.0, quiet=False)
    first, second = jaxql.train(**options, seeds=2, out=tmp_path, callback=callback)
    assert rows.count(0) == 1 < rows.count(1)
    assert len(text(first).splitlines()) == 2 < len(text(second).splitlines())
    assert first.env_steps < 300 <= second.env_steps
    assert "seed" not in first.metrics
    lines = capsys.readouterr().out.splitlines()
    for run in first, second:
        said = f"{run.folder.name.replace('seed', 'seed ')}: not solved after {run.env_steps} env steps"
        assert any(line.startswith(said) for line in lines)
    assert lines[-1].startswith("2 seeds: 0 solved, median env steps")


def test_a_seed_that_fails_leaves_the_others_alone(tmp_path):
    table = q_learning(9, 4)

    def learn(state):
        state, metrics = table.learn(state)
        fails = (jax.random.key_data(state.key)[1] == 1) & (state.updates > 50)
        return state, metrics | {"loss": jnp.where(fails, jnp.nan, metrics["loss"])}

    options = LAKE | dict(agent=table._replace(learn=learn), steps=400, solved_at=2.0)
    with pytest.raises(UserError, match="^seed 1: the loss is not finite after [0-9]+ env steps"):
        jaxql.train(**options, seeds=3, out=tmp_path)
    ends = [checkpoint.load(tmp_path / f"seed{seed}" / "checkpoints" / "last")[1]["env_steps"] for seed in (0, 2)]
    assert min(ends) >= 400
    assert len((tmp_path / "seed1" / "metrics.csv").read_text().splitlines()) < 6


def test_an_interrupt_keeps_every_seed_whole(tmp_path):
    rows = []

    def press(row):
        rows.append(row)
        if len(rows) == 1:
            signal.raise_signal(signal.SIGINT)

    for run in jaxql.train(**LAKE, seeds=3, out=tmp_path, callback=press):
        assert run.interrupted
        assert last(run)[1]["env_steps"] == run.env_steps == run.state.env_steps > 0
        np.testing.assert_array_equal(last(run)[0]["q_values"], run.state.params["q_values"])


def test_all_seeds_start_from_the_parameters_of_a_run(lakes, tmp_path):
    runs = jaxql.train(**LAKE | dict(steps=100, learning_rate=0.0), init_from=lakes[0].folder, seeds=2, out=tmp_path)
    for run in runs:
        np.testing.assert_array_equal(run.state.params["q_values"], lakes[0].best_params()["q_values"])


def test_a_vector_env_is_split_among_the_seeds(tmp_path):
    def vector(envs):
        makers = [lambda: gym.make("FrozenLake-v1", **POND)] * envs
        return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)

    options = {name: value for name, value in LAKE.items() if name not in ("env_args", "num_envs")} | {"steps": 200}
    runs = jaxql.train(**options | dict(env=vector(4)), seeds=2, out=tmp_path / "runs")
    assert [run.config.num_envs for run in runs] == [2, 2]
    with pytest.raises(UserError, match="3 envs cannot be split evenly among 2 seeds"):
        jaxql.train(**options | dict(env=vector(3)), seeds=2, out=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_bad_input_writes_nothing(tmp_path):
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed1" / "mine").write_text("precious")
    with pytest.raises(UserError, match="seed1 is not empty"):
        jaxql.train(**LAKE, seeds=2, out=tmp_path)
    for seeds in (0, -1, 1.5, True):
        with pytest.raises(UserError, match="the number of seeds is a whole number, 1 or greater"):
            jaxql.train(**LAKE, seeds=seeds, out=tmp_path / "runs")
    with pytest.raises(UserError, match="a seed is a whole number"):
        jaxql.train(**LAKE, seed=-1, seeds=2, out=tmp_path / "runs")
    with pytest.raises(UserError, match="lower capacity or seeds"):
        jaxql.train(**POLE, capacity=4 * 10**8, seeds=8, out=tmp_path / "runs")
    assert [path.name for path in tmp_path.iterdir()] == ["seed1"]
