"""Acceptance checks that no other test makes; each has a mutation that it rejects."""

import contextlib
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_checkpoint import crash_everywhere, kill
from toy_envs import Diary

import jaxql
from jaxql import agents, explore, loop, losses
from jaxql.agents.state import hyper_of
from jaxql.envs import make
from jaxql.envs.jax import autoreset, from_mdp
from jaxql.errors import UserError
from jaxql.lab import checkpoint
from jaxql.lab.collect import find_runs
from jaxql.replay import prioritised_replay, sum_tree, uniform_replay, zero_step
from jaxql.types import MDP, Step, Transition

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden"
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))
from benchmarks import endurance  # noqa: E402

POLE = dict(env="CartPole-v1", quiet=True, hidden=(16,), eval_every=10**6, gradient_steps=1, num_envs=1,
            rollout_length=1, warmup_steps=64, capacity=500, solved_at=math.inf)  # fmt: skip


# ------------------------------------------------------------------------------------------ 1, 2, 3: what is learned
@pytest.mark.trust(1)
@pytest.mark.float64
@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("num_actions", [1, 4])
@pytest.mark.parametrize("double", [False, True])
def test_the_loss_of_a_batch_is_a_loop_over_rows(batch, num_actions, double):
    rng = np.random.default_rng(batch + num_actions)
    online, target = rng.normal(size=(2, 6, num_actions))
    obs, next_obs = rng.integers(6, size=(2, batch))
    action, reward = rng.integers(num_actions, size=batch), rng.normal(size=batch)
    discount = 0.9 * (rng.random(batch) < 0.7)
    if batch == 1:
        discount[:] = 0.9  # a bootstrap must be seen

    def by_rows(discounts):
        total = 0.0
        for s, a, r, d, n in zip(obs, action, reward, discounts, next_obs, strict=True):
            best = np.argmax((online if double else target)[n])
            total += (r + d * target[n, best] - online[s, a]) ** 2 / 2
        return total / batch

    rows = Transition(*(jnp.asarray(x) for x in (obs, action, reward, discount, next_obs, np.ones(batch))))

    def loss(online, target):
        of = losses.double_dqn_loss if double else losses.dqn_loss
        return of(online, target, rows, lambda params, x: (params[x], ()), penalty=optax.l2_loss)[0]

    values = [f(jnp.asarray(online), jnp.asarray(target)) for f in (loss, jax.jit(loss))]
    np.testing.assert_allclose(values, by_rows(discount), rtol=1e-6)
    assert abs(by_rows(discount**2) - values[0]) > 1e-4, "a discount that is squared is told apart"


def ladder() -> tuple[MDP, np.ndarray]:
    """Five probe envs in one model, and their optimal action values at discount 0.9.

    State 0: a constant. 1: another observation. 2, 3: a delayed reward. 4: a choice. 5 to 7: two choices.
    """
    next_state = np.array([[0, 0], [1, 1], [3, 3], [3, 3], [4, 4], [6, 7], [6, 6], [7, 7]])
    reward = np.array([[1, 1], [-1, -1], [0, 0], [1, 1], [-1, 1], [0, 0], [0, 0.5], [1, -1]])
    goes_on = np.isin(np.arange(8), [2, 5])
    q = reward + 0.9 * goes_on[:, None] * reward.max(-1)[next_state]
    start = np.isin(np.arange(8), [0, 1, 2, 4, 5]) / 5
    mdp = MDP(
        next_state=jnp.asarray(next_state[..., None], jnp.int32),
        probability=jnp.ones((8, 2, 1)),
        reward=jnp.asarray(reward[..., None], float),
        ends=jnp.asarray(np.broadcast_to(~goes_on[:, None, None], (8, 2, 1))),
        start=jnp.asarray(start, float),
    )
    return mdp, q


@pytest.mark.trust(3)
def test_the_probes_are_learned():
    mdp, q = ladder()
    env, entry = from_mdp(mdp), agents.REGISTRY["dqn"]
    config = entry.config(capacity=2000, batch_size=64, hidden=(32,), gradient_steps=2, network="mlp")
    begin, env_step = autoreset(env, num_envs=8)
    agent = entry.make(config, env.spec(8))
    hyper = hyper_of(config)._replace(
        learning_rate=3e-3, epsilon=1.0, exploration_steps=1.0, discount=0.9, target_period_updates=20
    )

    @jax.jit
    def learned(discount):
        key = jax.random.key(0)
        state, obs = begin(key)
        carry = agent.init(key, obs, hyper._replace(discount=discount)), state, obs
        (state, *_), _ = loop.train(agent, env_step, carry, warmup=50, rounds=1500, rollout_length=1)
        return agent.q_values(state.params, jnp.arange(8), ())[0]

    began = time.process_time()
    np.testing.assert_allclose(learned(0.9), q, atol=0.1)
    assert time.process_time() - began < 60
    wrong = np.abs(np.asarray(learned(0.0)) - q).max(-1) > 0.1
    assert set(np.flatnonzero(wrong)) == {2, 5}, "without a bootstrap the delayed probes fail, and they alone"


# --------------------------------------------------------------------------------------------------- 4, 6, 7: replay
@pytest.mark.trust(4)
@pytest.mark.parametrize("env", [Diary, "CartPole-v1", "sync", "BreakoutNoFrameskip-v4"])
def test_every_step_can_be_sampled_once_and_no_reset_row(env):
    kwargs = dict(max_num_frames_per_episode=60) if env == "BreakoutNoFrameskip-v4" else {}
    vector = gymnasium.vector.SyncVectorEnv([Diary] * 2) if env == "sync" else env
    envs = make(vector, 2, seed=3, **kwargs)
    obs, rng = envs.reset(), np.random.default_rng(0)
    replay, ticks, last = uniform_replay(1000, 1, envs.spec.stack), 60, []
    ring, forged = (replay.init(zero_step(obs)) for _ in range(2))
    add = jax.jit(replay.add)
    for t in range(ticks):
        action = rng.integers(0, 2, 2)
        _, (next_obs, reward, terminated, truncated, valid) = envs.step((), action)
        last.append(np.asarray(terminated | truncated))
        row = Step(obs, jnp.asarray(action, jnp.int32), jnp.full(2, float(t)), terminated, truncated, next_obs, valid)
        ring, forged = add(ring, row), add(forged, row._replace(valid=jnp.ones(2, bool)))
        obs = next_obs
    finished = sum(episode.length for episode in envs.take_episodes())
    expected = finished + sum(max(0, rows) for rows in _rows_under_way(last))
    assert np.any(last), "an episode has ended"
    assert count_rows(replay, ring) == expected
    assert count_rows(replay, forged) > expected, "a loop that stores its reset rows as valid is told apart"


def _rows_under_way(last):
    """Returns the rows of the episodes that are under way at the end, by env, without the row of their reset."""
    ends = [[t for t in range(len(last)) if last[t][env]] for env in range(2)]
    return [len(last) - (each[-1] + 2 if each else 0) for each in ends]


def count_rows(replay, ring):
    """Different (tick, env) that are drawn."""
    numbers = jnp.arange(ring.rows.reward.size, dtype=float).reshape(ring.rows.reward.shape)
    marked = ring._replace(rows=ring.rows._replace(reward=numbers))
    return len(np.unique(replay.sample(marked, jax.random.key(1), 20_000, 1.0).reward))


@pytest.mark.often(
    "uniform_replay-5-3-5", "uniform_replay-64-2-1", "prioritised_replay-10-4-2", "prioritised_replay-1-1-1"
)
@pytest.mark.trust(6)
@pytest.mark.parametrize(("capacity", "envs", "n"), [(1, 1, 1), (7, 1, 3), (10, 4, 2), (64, 2, 1), (5, 3, 5)])
@pytest.mark.parametrize("kind", [uniform_replay, prioritised_replay])
def test_replay_is_a_list(kind, capacity, envs, n, operations=1000):
    """Ten thousand operations in all: adds, and draws that must be rows of a plain list that keeps the newest."""
    rng, gamma = np.random.default_rng(capacity), 0.5
    replay = kind(capacity, n)
    add, sample = jax.jit(replay.add, donate_argnums=0), jax.jit(replay.sample, static_argnums=2)
    blank = zero_step(jnp.zeros((envs, 1)))
    ring, ticks, seen = replay.init(blank), -(-capacity // envs), 0
    kept: deque = deque(maxlen=ticks + n - 1)
    forgotten = False
    for number in range(operations):
        if rng.random() < 0.7 or len(kept) < n:
            valid, ends = rng.random(envs) < 0.9, rng.random((2, envs)) < 0.1
            ends &= valid
            reward = np.arange(envs) + envs * seen
            row = Step(np.full((envs, 1), seen), np.zeros(envs, np.int32), reward.astype(float), *ends,
                       np.full((envs, 1), seen + 1), valid)  # fmt: skip
            ring = add(ring, jax.tree.map(lambda like, x: jnp.asarray(x, like.dtype), blank, row))
            kept.append((reward, *ends, valid))
            seen += 1
            continue
        want = {}
        for start in range(len(kept) - n + 1):
            for env in range(envs):
                if not kept[start][3][env]:
                    continue
                total, discount = 0.0, 1.0
                for reward, terminated, truncated, _ in list(kept)[start : start + n]:
                    total += discount * reward[env]
                    discount *= gamma
                    if terminated[env] or truncated[env]:
                        discount *= not terminated[env]
                        break
                want[(seen - len(kept) + start, round(float(total), 3))] = discount
        batch = sample(ring, jax.random.key(number), 64, gamma)
        if not want:
            assert not np.any(batch.weight)
            continue
        drawn = (np.asarray(x)[batch.weight > 0] for x in (batch.obs[:, 0], batch.reward, batch.discount))
        got = {(int(t), round(float(r), 3)): d for t, r, d in zip(*drawn, strict=True)}
        assert got.keys() <= want.keys()
        assert all(abs(got[key] - want[key]) < 1e-6 for key in got)
        oldest = min(t for t, _ in want)
        forgotten |= any(t == oldest for t, _ in got)
    assert forgotten, "a list that forgets one tick too soon is told apart"


@pytest.mark.trust(7)
def test_a_million_updates_leave_the_sum_exact():
    size, keys = 10_007, jax.random.split(jax.random.key(0), 4000)

    def update(carry, key):
        tree, running = carry
        index = jax.random.randint(key, (250,), 0, size)
        owner = jnp.argmax(index[None] == index[:, None], axis=-1)  # the first place with the same index
        first = owner == jnp.arange(250)
        value = 10.0 ** jax.random.uniform(jax.random.fold_in(key, 1), (250,), minval=-4, maxval=4)[owner]
        change = jnp.sum(jnp.where(first, value - sum_tree.read(tree, index), 0))
        return (sum_tree.write(tree, index, value), running + change), ()

    (tree, running), _ = jax.jit(lambda keys: jax.lax.scan(update, (sum_tree.zeros(size), jnp.float32(0)), keys))(keys)
    np.testing.assert_allclose(sum_tree.total(tree), np.asarray(tree[0], np.float64).sum(), rtol=1e-6)
    every, small = jnp.arange(size), jnp.full(size, 1e-4)  # what large priorities have left behind is seen now
    running += jnp.sum(small - sum_tree.read(tree, every))
    tree = sum_tree.write(tree, every, small)
    leaves = np.asarray(tree[0], np.float64).sum()
    np.testing.assert_allclose(sum_tree.total(tree), leaves, rtol=1e-6)
    assert abs(float(running) / leaves - 1) > 1e-6, "a sum that is kept by differences drifts"


# --------------------------------------------------------------------------------------------- 9, 11: exploration
@pytest.mark.trust(9)
def test_the_coin_of_epsilon_at_its_edges(monkeypatch):
    q = jnp.tile(jnp.array([0.0, 1.0, 0.0]), (1_000_000, 1))
    assert np.all(np.asarray(explore.epsilon_greedy(jax.random.key(0), q, 0.0)) == 1)
    for coin, epsilon, explores in ((0.0, 0.0, False), (1 - 2**-24, 1.0, True)):
        with monkeypatch.context() as patch:
            patch.setattr(jax.random, "uniform", lambda key, shape, coin=coin: jnp.full(shape, coin))
            action = int(explore.epsilon_greedy(jax.random.key(0), q[0], epsilon))
        assert (action != 1) == explores


@pytest.mark.trust(9)
def test_epsilon_counts_env_steps_not_ticks():
    from jaxql.agents.schedules import epsilon_of

    seen = {}
    for envs in 1, 8:
        agent = agents.REGISTRY["q-learning"].make(config := agents.REGISTRY["q-learning"].config(), from_mdp(ladder()[0]).spec(envs))  # noqa: E501  # fmt: skip
        hyper = hyper_of(config)._replace(epsilon=0.1, exploration_steps=64.0)
        state = agent.init(jax.random.key(0), jnp.zeros(envs, jnp.int32), hyper)
        row = zero_step(jnp.zeros(envs, jnp.int32))._replace(valid=jnp.ones(envs, bool))
        row = row._replace(extra=agent.act(state, row.obs)[1])
        observe = jax.jit(agent.observe)
        for t in range(0, 80, envs):
            seen[envs, t] = float(epsilon_of(state))
            state = observe(state, row)
    for t in range(0, 80, 8):
        want = 1 - 0.9 * min(t / 64, 1)
        assert abs(seen[1, t] - want) < 1e-6 and seen[1, t] == seen[8, t]
    assert abs(seen[8, 8] - (1 - 0.9 / 64)) > 0.05, "a schedule in ticks is told apart"


@pytest.mark.trust(11)
def test_ties_are_even_by_chi_square():
    def chi_square(actions):
        counts = np.bincount(actions, minlength=5)
        return float(np.sum((counts - counts.sum() / 5) ** 2) / (counts.sum() / 5))

    actions = np.asarray(explore.epsilon_greedy(jax.random.key(3), jnp.zeros((10_000, 5)), 0.0))
    assert chi_square(actions) < 18.47, "the 99.9 % quantile of chi-square with 4 degrees of freedom"
    assert chi_square(np.argmax(np.zeros((10_000, 5)), -1)) > 1000, "an argmax that takes the first is told apart"


# ----------------------------------------------------------------------------------- 14, 16: runs that fail, repeat
class Poisoned(gymnasium.Env):
    """Shows or pays something that is no number at its 301st step."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    where = "reward"

    def __init__(self):
        self.total = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.clock, self.total = self.clock + 1, self.total + 1
        bad = self.total == 301
        obs = np.full(2, np.nan if bad and self.where == "obs" else 0.1, np.float32)
        obs = obs[:1] if bad and self.where == "shape" else obs
        return obs, math.inf if bad and self.where == "reward" else 1.0, self.clock == 10, False, {}


@pytest.mark.trust(14)
@pytest.mark.parametrize("where", ["reward", "obs", "shape"])
def test_poison_ends_a_run_and_leaves_its_checkpoint(where, tmp_path):
    class Env(Poisoned):
        pass

    Env.where = where
    with pytest.raises(UserError, match="reward" if where == "reward" else "obs") as error:
        jaxql.train("dqn", **POLE | dict(env=Env), steps=2000, checkpoint_every=100, log_every=100,
                    out=tmp_path / "run")  # fmt: skip
    assert "env 0" in str(error.value) and "\n" not in str(error.value)
    params, about = checkpoint.load(tmp_path / "run" / "checkpoints" / "last")
    assert 0 < about["env_steps"] <= 301
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


TWICE = """
import sys, jaxql
for agent, env, settings in (("q-learning", "FrozenLake-v1", {}), ("dqn", "CartPole-v1", dict(hidden=(8,),
        capacity=200, warmup_steps=50, num_envs=2, rollout_length=1, gradient_steps=1))):
    jaxql.train(agent, env, seed=int(sys.argv[2]), steps=300, log_every=100, eval_every=150, eval_episodes=1,
                quiet=True, out=f"{sys.argv[1]}/{agent}", **settings)
"""


@pytest.mark.trust(16)
@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path):
    started = []
    for name, seed, hashing in (("a", "0", "1"), ("b", "0", "2"), ("c", "1", "1")):
        variables = os.environ | {"PYTHONHASHSEED": hashing, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-W", "ignore", "-c", TWICE, str(tmp_path / name), seed]
        started.append(subprocess.Popen(command, env=variables))
    assert [process.wait(timeout=120) for process in started] == [0, 0, 0]
    for agent in "q-learning", "dqn":
        runs = [tmp_path / name / agent for name in "abc"]
        metrics = [(run / "metrics.csv").read_bytes() for run in runs]
        arrays = [sorted(path.name for path in (run / "checkpoints").glob("*.safetensors")) for run in runs]
        assert metrics[0] == metrics[1] != metrics[2], "another seed is told apart"
        assert arrays[0] == arrays[1], "the names hold digests of the parameters"
        assert agent == "q-learning" or arrays[0] != arrays[2], "a short run may leave a table at 0"


# --------------------------------------------------------------------------------------------- 18 to 22: the files
@pytest.mark.trust(18)
def test_a_save_that_is_not_atomic_is_told_apart(tmp_path, monkeypatch):
    def in_place(temporary, path):
        path.write_bytes(b"")
        os.write(os.open(path, os.O_WRONLY), temporary.read_bytes())

    def manifest_first(path, data):
        Path(path).write_bytes(b"")
        fd = os.open(path, os.O_WRONLY)
        os.write(fd, data)

    monkeypatch.setattr(checkpoint, "write_file", manifest_first)
    monkeypatch.setattr(checkpoint, "publish", in_place)
    with pytest.raises((UserError, AssertionError)):
        crash_everywhere(tmp_path, monkeypatch, kill)


def results(what):
    return [row for row in json.loads(endurance.RESULTS.read_text()) if row["what"] == what]


@pytest.mark.trust(18)
def test_the_long_kills_found_nothing():
    rows = results("kills")
    assert sum(row["kills"] for row in rows) >= 50
    assert sum(row["inside a save"] for row in rows) >= 20
    assert not [fault for row in rows for fault in row["faults"]]
    assert all(row["runs compared bit for bit"] for row in rows)


@pytest.mark.slow
@pytest.mark.trust(17, 18)
@pytest.mark.parametrize("case", ["table", "seeds", "dqn", "pong"])
def test_a_few_kills(case):
    row = endurance.kills(case, 4)
    assert row["kills"] == 4 and not row["faults"]


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.trust(21)
def test_a_pickle_in_any_file_is_not_run(tmp_path):
    jaxql.train("q-learning", "FrozenLake-v1", steps=100, quiet=True, keep_state=True, out=tmp_path / "run")
    evil, witness = pickle.dumps(Payload(str(tmp_path / "ran"))), tmp_path / "ran"
    for path in [each for each in (tmp_path / "run").rglob("*") if each.is_file()]:
        copy = shutil.copytree(tmp_path / "run", tmp_path / "copy")
        (copy / path.relative_to(tmp_path / "run")).write_bytes(evil)
        with contextlib.suppress(UserError):
            jaxql.open_run(copy).best_params()
        with contextlib.suppress(UserError):
            find_runs([copy])
        with contextlib.suppress(UserError):
            jaxql.load_policy(copy / "config.json")
        if path.parent.name == "state":
            with pytest.raises(UserError, match="state"):
                jaxql.resume(copy, steps=120, quiet=True)
        assert not witness.exists(), path
        shutil.rmtree(copy)
    pickle.loads(evil).close()
    assert witness.exists(), "the payload works where it is run"


@pytest.mark.trust(22)
def test_golden_files_give_their_recorded_values(tmp_path):
    recorded = json.loads((GOLDEN / "values.json").read_text())
    params, about = checkpoint.load(GOLDEN / "checkpoint-1")
    np.testing.assert_allclose(params["q_values"], recorded["q_values"], rtol=1e-6)
    assert about["env_steps"] == recorded["env_steps"]
    policy = jaxql.load_policy(GOLDEN / "policy-1.safetensors")
    obs = np.array(recorded["obs"], np.float32)
    np.testing.assert_allclose(policy.q_values(obs), recorded["policy"], rtol=1e-5)
    assert policy(obs).tolist() == np.argmax(recorded["policy"], -1).tolist()
    for path in GOLDEN.iterdir():
        shutil.copy(path, tmp_path)
    (arrays,) = tmp_path.glob("checkpoint-1.*.safetensors")
    data = bytearray(arrays.read_bytes())
    data[-1] ^= 1
    arrays.write_bytes(data)
    with pytest.raises(UserError, match="checkpoint-1"):
        checkpoint.load(tmp_path / "checkpoint-1")


# ------------------------------------------------------------------------------------- 19, 21, 28: fuzzers, in short
@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return endurance.Bench(tmp_path_factory.mktemp("fuzz") / "a" / "b")


@pytest.mark.trust(19, 21, 28)
@pytest.mark.parametrize("target", endurance.FUZZED)
def test_no_damage_gives_another_error(target, bench):
    most = {"resume": 4, "commands": 25, "run": 20}.get(target, 60)
    row = endurance.fuzz(target, 20, seed=1, most=most, bench=bench)
    assert not row["faults"]
    assert row["refused"]


@pytest.mark.trust(19, 28)
def test_a_fault_is_found_by_the_fuzzer(bench, monkeypatch):
    monkeypatch.setitem(endurance.FUZZED, "policy", lambda bench, rng: {}["missing"])
    row = endurance.fuzz("policy", 5, most=3, bench=bench)
    assert len(row["faults"]) == 1 and "KeyError" in row["faults"][0]


@pytest.mark.trust(19, 21, 28)
def test_the_long_fuzzers_found_nothing():
    rows = results("fuzz")
    assert {row["case"] for row in rows} == set(endurance.FUZZED)
    assert not [fault for row in rows for fault in row["faults"]]
    assert all(row["slowest seconds"] < endurance.HANG_SECONDS and row["refused"] for row in rows)


# ---------------------------------------------------------------------------------------------- 24: time and memory
@pytest.mark.trust(24)
@pytest.mark.slow
def test_a_run_neither_grows_nor_compiles_again(monkeypatch):
    settings = dict(capacity=500, warmup_steps=100, log_every=500, checkpoint_every=1000, hidden=(16,))
    monkeypatch.setitem(endurance.LONG, "cartpole", ("dqn", "CartPole-v1", settings))
    row = endurance.hour("cartpole", 60, rows=20)
    assert row["env_steps"] >= 10_000 and not [fault for fault in row["faults"] if "memory" not in fault]


@pytest.mark.trust(24)
def test_growth_and_compilation_are_told():
    flat = [dict(resident_mb=100.0, arrays=9, traces=5)] * 8
    assert not endurance.growth_faults(flat)
    for change, word in (dict(resident_mb=103.0), "memory"), (dict(arrays=10), "arrays"), (dict(traces=6), "traced"):
        assert word in endurance.growth_faults([*flat, flat[0] | change])[0]
    assert not [fault for row in results("hour") for fault in row["faults"]]


# ------------------------------------------------------------------------------------------------ 30: the package
@pytest.mark.trust(30)
@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    pytest.importorskip("setuptools")
    shutil.copytree(ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".git", "runs", "build", "results"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."]
    built = subprocess.run(command, cwd=tmp_path / "source", capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"no wheel can be built here: {built.stderr[-200:]}")
    (wheel,) = tmp_path.glob("*.whl")
    import zipfile

    names = zipfile.ZipFile(wheel).namelist()
    assert "jaxql/py.typed" in names and "jaxql/cli/__init__.py" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"jaxql"}
