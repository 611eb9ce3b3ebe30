"""The law of resume: a run that was stopped and resumed equals the run that was not, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import jaxql
from jaxql import cli
from jaxql.agents import REGISTRY
from jaxql.errors import UserError
from jaxql.lab import checkpoint
from jaxql.lab.files import read_metrics, read_result

TABLE = dict(steps=1200, log_every=100, eval_every=400, eval_episodes=3, checkpoint_every=200, num_envs=2)
SMALL = dict(
    steps=1200, log_every=100, eval_every=400, eval_episodes=3, checkpoint_every=200, solved_at=np.inf, num_envs=2
)
DEEP = dict(warmup_steps=100, capacity=600, batch_size=8, hidden=(16,), rollout_length=2, gradient_steps=4)
RUNS = {  # name -> (agent, env, settings)
    "table": ("q-learning", "FrozenLake-v1", TABLE | dict(solved_at=np.inf)),
    "model": ("value-iteration", "FrozenLake-v1", TABLE | dict(solved_at=np.inf)),
    "dqn": ("dqn", "CartPole-v1", SMALL | DEEP | dict(prioritised=True, n_step=3)),
    "pqn": ("pqn", "CartPole-v1", SMALL | dict(rollout_length=16, minibatches=2, hidden=(16,))),
    "jax env": ("dqn", "jax:cartpole", SMALL | DEEP),
}


def settings_of(name):
    """Small settings of any agent in the registry."""
    entry = REGISTRY[name]
    fields = entry.config.__dataclass_fields__
    deep = {key: value for key, value in DEEP.items() if key in fields and "rollout_length" in fields}
    settings = SMALL | (deep if "learning_rate" in fields and "hidden" in fields else {})
    settings |= dict(burn_in=2, length=6, core_width=8) if name == "r2d2" else {}
    settings |= dict(rollout_length=16, minibatches=2) if name == "pqn" else {}
    if "horizon_anneal_updates" in entry.overrides:
        settings |= dict(horizon_anneal_updates=50)
    return settings


class Stop(Exception):
    """Stands for a kill: nothing is saved on the way out."""


def train(agent, env, folder, stop_at=None, **settings):
    """Trains; with `stop_at` until the row at these env steps, where the process is as good as killed."""

    def callback(row):
        if stop_at is not None and row["env_steps"] >= stop_at:
            raise Stop

    try:
        return jaxql.train(agent, env, out=folder, quiet=True, callback=callback, **settings)
    except Stop:
        return None


def assert_equal_runs(one, other):
    """The same parameters, metrics and scores."""
    one, other = Path(one), Path(other)
    assert (one / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()
    for name in "best", "last":
        (a, about), (b, about_b) = (checkpoint.load(folder / "checkpoints" / name) for folder in (one, other))
        assert about == about_b
        flat = [checkpoint.named_arrays(tree)[0] for tree in (a, b)]
        assert flat[0].keys() == flat[1].keys()
        for key in flat[0]:
            np.testing.assert_array_equal(flat[0][key], flat[1][key])
    results = [read_result(folder) for folder in (one, other)]
    assert [{k: v for k, v in each.items() if k != "seconds"} for each in results][0] == {
        k: v for k, v in results[1].items() if k != "seconds"
    }


def assert_equal_states(one, other):
    import jax

    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.often("300-dqn", "900-pqn", "300-jax env", "900-table", "300-model")
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("stop_at", [300, 900])
@pytest.mark.trust(17)
def test_a_resumed_run_equals_the_uninterrupted_one(name, stop_at, tmp_path):
    agent, env, settings = RUNS[name]
    whole = train(agent, env, tmp_path / "whole", **settings)
    assert train(agent, env, tmp_path / "parts", stop_at=stop_at, **settings) is None
    resumed = jaxql.resume(tmp_path / "parts", quiet=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert_equal_states(whole.state, resumed.state)
    assert not (tmp_path / "parts" / "state").exists(), "a finished run is small again"


@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.trust(17)
def test_every_agent_resumes_exactly(name, tmp_path):
    env = "FrozenLake-v1" if name in ("q-learning", "value-iteration", "q-iteration") else "CartPole-v1"
    settings = settings_of(name)
    whole = train(name, env, tmp_path / "whole", **settings)
    for stop_at in 300, 700, 1000:  # killed three times
        if stop_at == 300:
            train(name, env, tmp_path / "parts", stop_at=stop_at, **settings)
        else:
            with pytest.raises(Stop):
                jaxql.resume(tmp_path / "parts", quiet=True, callback=_stop(stop_at))
    resumed = jaxql.resume(tmp_path / "parts", quiet=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert_equal_states(whole.state, resumed.state)


def _stop(stop_at):
    def callback(row):
        if row["env_steps"] >= stop_at:
            raise Stop

    return callback


@pytest.mark.slow
@pytest.mark.trust(17)
def test_pong_resumes_exactly(tmp_path):
    settings = dict(
        num_envs=2, steps=1600, log_every=200, eval_every=800, eval_episodes=1, checkpoint_every=400, warmup_steps=400,
        capacity=1200, eval_from=1e9,
    )  # fmt: skip
    whole = train("dqn", "PongNoFrameskip-v4", tmp_path / "whole", **settings)
    train("dqn", "PongNoFrameskip-v4", tmp_path / "parts", stop_at=1000, **settings)
    resumed = jaxql.resume(tmp_path / "parts", quiet=True)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert_equal_states(whole.state, resumed.state)


@pytest.mark.often("CartPole-v1")
@pytest.mark.parametrize("env", ["CartPole-v1", "jax:cartpole"])
@pytest.mark.trust(17)
def test_many_seeds_resume_together(env, tmp_path):
    settings = SMALL | DEEP | dict(steps=800, solved_at=25.0, seeds=2)
    train("dqn", env, tmp_path / "whole", **settings)
    train("dqn", env, tmp_path / "parts", stop_at=500, **settings)
    resumed = jaxql.resume(tmp_path / "parts", quiet=True)
    assert [run.folder.name for run in resumed] == ["seed0", "seed1"]
    for seed in "seed0", "seed1":
        assert_equal_runs(tmp_path / "whole" / seed, tmp_path / "parts" / seed)
    assert not (tmp_path / "parts" / "state").exists()


@pytest.mark.often("pqn", "dqn")
@pytest.mark.parametrize("name", ["pqn", "dqn", "jax env"])
@pytest.mark.trust(17, 23)
def test_a_run_that_a_signal_stopped_resumes_exactly(name, tmp_path):
    """The signal may come in the middle of a round, in an evaluation or in the warm-up."""
    agent, env, settings = RUNS[name]
    train(agent, env, tmp_path / "whole", **settings)
    ticks, at = [0], [23, 40, 311, 402, 7]
    from jaxql.lab.trainer import Trainer

    real = Trainer.keep_watch

    def watch(self, vector_steps):
        ticks[0] += max(1, vector_steps)
        if at and ticks[0] >= at[0]:
            at.pop(0)
            ticks[0] = 0
            self.interrupted = signal.SIGTERM
        return real(self, vector_steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "keep_watch", watch)
        run = train(agent, env, tmp_path / "parts", **settings)
        count = 1
        while run.interrupted:
            assert read_result(tmp_path / "parts") is None
            run = jaxql.resume(tmp_path / "parts", quiet=True)
            count += 1
    assert count > 3
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.trust(17, 18)
def test_kill_9_at_any_moment(tmp_path):
    """The process is killed from outside, again and again, until the run is finished."""
    argv = ["q-learning", "--env", "FrozenLake-v1", "--steps", "20000", "--solved-at", "inf", "--log-every", "500"]
    argv += ["--checkpoint-every", "1000", "--eval-every", "5000", "--eval-episodes", "2"]
    assert cli.main(["train", *argv, "--out", str(tmp_path / "whole")]) == 0
    command = [sys.executable, "-m", "jaxql", "train", *argv, "--out", str(tmp_path / "parts"), "--resume-or-start"]
    rng, kills = np.random.default_rng(0), 0
    for _ in range(30):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while (line := process.stdout.readline()) and "steps/s" not in line and kills < 4:
            pass
        if kills < 4:
            time.sleep(float(rng.uniform(0, 0.4)))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
        output, _ = process.communicate(timeout=120)
        if read_result(tmp_path / "parts"):
            break
    assert kills == 4, output
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


# ------------------------------------------------------------------------------------------------ a command, repeated
@pytest.mark.trust(28)
def test_a_command_on_a_folder_starts_resumes_or_says_finished(tmp_path, capsys):
    argv = f"train q-learning --env FrozenLake-v1 --steps 600 --out {tmp_path}/run --resume-or-start".split()
    assert cli.main(argv) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert cli.main(argv) == 0
    assert f"{tmp_path}/run is finished" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    assert cli.main(["resume", f"{tmp_path}/run"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert cli.main([*argv, "--learning-rate", "0.7"]) == 2
    assert "learning_rate is 0.7, and the run in" in capsys.readouterr().err
    assert cli.main(["train", "value-iteration", *argv[2:]]) == 2
    assert "agent is value-iteration" in capsys.readouterr().err
    assert cli.main([*argv, "--seed", "3"]) == 2
    assert "seed is 3" in capsys.readouterr().err


def test_resume_or_start_needs_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main("train q-learning --env FrozenLake-v1 --steps 600 --resume-or-start".split()) == 2
    assert "--out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_killed_before_its_first_snapshot_starts_anew(tmp_path, capsys):
    settings = TABLE | dict(steps=600, checkpoint_every=10_000, checkpoint_minutes=0.0, solved_at=np.inf)
    train("q-learning", "FrozenLake-v1", tmp_path / "whole", **settings)
    train("q-learning", "FrozenLake-v1", tmp_path / "parts", stop_at=300, **settings)
    assert cli.main(["resume", str(tmp_path / "parts")]) == 0
    assert "no state was saved: the run starts anew" in capsys.readouterr().out
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_more_steps_need_a_state_that_was_kept(tmp_path, capsys):
    settings = TABLE | dict(solved_at=np.inf)
    whole = train("q-learning", "FrozenLake-v1", tmp_path / "whole", **settings | dict(steps=1200))
    train("q-learning", "FrozenLake-v1", tmp_path / "kept", **settings | dict(steps=600, keep_state=True))
    assert (tmp_path / "kept" / "state" / "last.json").exists()
    resumed = jaxql.resume(tmp_path / "kept", steps=1200, quiet=True)
    assert_equal_states(whole.state, resumed.state)
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "kept" / "metrics.csv").read_bytes()
    train("q-learning", "FrozenLake-v1", tmp_path / "small", **settings | dict(steps=600))
    assert cli.main(["resume", str(tmp_path / "small"), "--steps", "1200"]) == 2
    assert "--keep-state" in capsys.readouterr().err
    assert cli.main(["resume", str(tmp_path / "kept"), "--steps", "100"]) == 2
    assert "steps is 100" in capsys.readouterr().err


def test_a_second_process_in_a_folder_is_refused(tmp_path):
    def callback(row):
        with pytest.raises(UserError, match="is in use"):
            jaxql.resume(tmp_path / "run", quiet=True)

    jaxql.train("q-learning", "FrozenLake-v1", out=tmp_path / "run", quiet=True, callback=callback, **TABLE)


@pytest.mark.trust(19)
def test_a_snapshot_of_other_settings_or_a_damaged_one_is_one_line(tmp_path, capsys):
    train("q-learning", "FrozenLake-v1", tmp_path / "run", stop_at=900, **TABLE | dict(solved_at=np.inf))
    arrays = next((tmp_path / "run" / "state").glob("last.*.safetensors"))
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"\0\1")
    assert cli.main(["resume", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "state" in err
    assert cli.main(["resume", str(tmp_path / "nowhere")]) == 2
    assert cli.main(["resume"]) == 2


# --------------------------------------------------------------------------------- envs that do not repeat, no replay
class Restless(gymnasium.Env):
    """Its observations are not a function of seed and actions."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._look(), {}

    def step(self, action):
        self.t += 1
        return self._look(), 1.0, self.t >= 20, False, {}

    def _look(self):
        return np.frombuffer(os.urandom(8), np.uint32).astype(np.float32) / 2**32


gymnasium.register("Restless-v0", entry_point=Restless)


@pytest.mark.often("changes1")
@pytest.mark.parametrize("changes", [{}, {"prioritised": True, "n_step": 3}])
def test_an_env_that_does_not_repeat_is_resumed_with_fresh_episodes(changes, tmp_path, capsys):
    settings = SMALL | DEEP | dict(steps=600) | changes
    train("dqn", "Restless-v0", tmp_path / "run", stop_at=300, **settings)
    run = jaxql.resume(tmp_path / "run")
    assert "Restless-v0 does not repeat its episodes: the run goes on with fresh ones" in capsys.readouterr().out
    assert run.env_steps >= 600 and read_metrics(tmp_path / "run")["env_steps"][-1] >= 600
    rows = run.state.data.rows  # an episode that was left is truncated, and its reset is not valid
    ends = np.asarray(rows.terminated | rows.truncated)
    valid = np.asarray(rows.valid)
    written, slots = int(run.state.data.num_steps), len(valid)
    for t in range(max(0, written - slots), written - 1):
        np.testing.assert_array_equal(valid[(t + 1) % slots], ~ends[t % slots])


@pytest.mark.slow
def test_a_run_may_leave_its_replay_out(tmp_path):
    settings = SMALL | DEEP | dict(save_replay=False)
    train("dqn", "CartPole-v1", tmp_path / "run", stop_at=900, **settings)
    assert not list((tmp_path / "run" / "state").glob("rows-*"))
    run = jaxql.resume(tmp_path / "run", quiet=True)
    assert run.env_steps >= 1200
    steps = read_metrics(tmp_path / "run")["env_steps"]
    assert np.all(np.diff(steps) > 0) and json.loads((tmp_path / "run" / "result.json").read_text())["finished"]


@pytest.mark.trust(18)
def test_the_state_that_a_kill_left_of_a_finished_run_is_removed(tmp_path):
    settings = TABLE | dict(steps=600, solved_at=np.inf)
    train("q-learning", "FrozenLake-v1", tmp_path / "run", **settings)
    (tmp_path / "run" / "state").mkdir()
    (tmp_path / "run" / "state" / "last.safetensors.tmp").write_bytes(b"half")
    jaxql.resume(tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "state").exists()
    train("q-learning", "FrozenLake-v1", tmp_path / "kept", **settings | dict(keep_state=True))
    jaxql.resume(tmp_path / "kept", quiet=True)
    assert (tmp_path / "kept" / "state" / "last.json").exists()


@pytest.mark.trust(19)
def test_forged_values_under_right_checksums_are_one_line(tmp_path):
    train("q-learning", "FrozenLake-v1", tmp_path / "run", **TABLE | dict(steps=300, keep_state=True))
    path = tmp_path / "run" / "state" / "last.json"
    whole = json.loads(path.read_text())
    for place, value in (
        (("arrays",), 3),
        (("arrays", "0/recent"), [[10**15], "<f8"]),
        (("segments",), 3),
        (("run", "recorders"), []),
        (("run", "recorders", 0, "next_log"), "x"),
        (("run", "recorders", 0, "over"), None),
        (("run", "warmup"), "x"),
        (("run", "unfinished"), None),
        (("run",), None),
    ):
        record = json.loads(json.dumps(whole))
        *parents, last = ("metadata", *place)
        holder = record
        for name in parents:
            holder = holder[name]
        holder[last] = value
        record["checksum"] = checkpoint._checksum({k: v for k, v in record.items() if k != "checksum"})
        path.write_text(json.dumps(record))
        with pytest.raises(UserError, match="state"):
            jaxql.resume(tmp_path / "run", steps=400, quiet=True)
    path.write_text(json.dumps(whole))
    assert jaxql.resume(tmp_path / "run", steps=400, quiet=True).env_steps >= 400
