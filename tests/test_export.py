"""Policies in a file of their own: the same actions and values as the run's, and one line for what is no policy."""

import json
import struct
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jaxql
from jaxql import cli
from jaxql.agents import REGISTRY
from jaxql.errors import UserError
from jaxql.lab.export import export, export_jax, load_policy

SMALL = dict(steps=60, warmup_steps=20, num_envs=2, rollout_length=1, eval_every=1000, eval_episodes=1, quiet=True)


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "cartpole"
    return jaxql.train("dqn", "CartPole-v1", out=folder, capacity=100, hidden=(16,), **SMALL)


def test_a_policy_acts_as_its_run(cartpole, tmp_path):
    path = tmp_path / "policy.safetensors"
    assert cli.main(["export", str(cartpole.folder), "--out", str(path)]) == 0
    policy = load_policy(path)
    obs = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    action, _ = cartpole.agent.policy(cartpole.best_params(), jnp.asarray(obs), (), jax.random.key(0))
    np.testing.assert_array_equal(policy(obs), action)
    q, _ = cartpole.agent.q_values(cartpole.best_params(), jnp.asarray(obs), ())
    np.testing.assert_array_equal(policy.q_values(obs), q)
    assert policy(obs[3]) == action[3] and policy.q_values(obs[3]).shape == (2,)
    assert policy(obs[3].astype(np.float64).astype(np.float32)).shape == ()
    assert policy.about["env"] == "CartPole-v1" and policy.about["agent"] == "dqn"
    assert safetensors.numpy.load_file(path), "any reader of the format has the arrays"


@pytest.mark.parametrize("obs", [np.zeros(3), np.zeros((2, 5)), np.zeros((1, 1, 4)), {"a": np.zeros(4)}, 0])
def test_another_observation_is_one_line(obs, cartpole, tmp_path):
    export(cartpole, tmp_path / "policy.safetensors")
    with pytest.raises(UserError, match="an observation is"):
        load_policy(tmp_path / "policy.safetensors")(obs)


def test_a_jax_file_runs_without_jaxql(cartpole, tmp_path):
    path = tmp_path / "policy.jaxexport"
    assert cli.main(["export", str(cartpole.folder), "--out", str(path), "--format", "jax"]) == 0
    obs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.save(tmp_path / "obs.npy", obs)
    code = (
        "import sys, jax, numpy as np\n"
        f"call = jax.export.deserialize(bytearray(open({str(path)!r}, 'rb').read())).call\n"
        f"action, q = call(np.load({str(tmp_path / 'obs.npy')!r}))\n"
        "assert 'jaxql' not in sys.modules\n"
        "print(action.tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == cartpole.agent.policy(cartpole.best_params(), obs, (), jax.random.key(0))[0].tolist()
    platforms = jax.export.deserialize(bytearray(path.read_bytes())).platforms
    assert set(platforms) == {"cpu", "cuda", "tpu"}


@pytest.mark.slow
@pytest.mark.parametrize("name", REGISTRY)
def test_every_agent_can_be_exported(name, tmp_path):
    table = name in ("q-learning", "value-iteration", "q-iteration")
    env, settings = ("FrozenLake-v1", {}) if table else ("CartPole-v1", dict(capacity=100, hidden=(16,)))
    if name == "pqn":
        settings = dict(hidden=(16,), rollout_length=8, minibatches=2)
    if name == "r2d2":
        settings |= dict(burn_in=2, length=4, core_width=8)
    small = {key: value for key, value in SMALL.items() if key != "warmup_steps" or not table}
    run = jaxql.train(name, env, out=tmp_path / "run", **small | settings)
    export(run, tmp_path / "policy.safetensors")
    export_jax(run, tmp_path / "policy.jaxexport", batch=None if name != "r2d2" else 3)
    policy = load_policy(tmp_path / "policy.safetensors")
    obs = jax.tree.map(lambda x: np.zeros((3, *x.shape[1:]), x.dtype), run.spec.obs)
    action, q = jax.export.deserialize(bytearray((tmp_path / "policy.jaxexport").read_bytes())).call(obs)
    np.testing.assert_allclose(policy.q_values(obs), q, rtol=1e-5, atol=1e-6)
    assert policy(obs).shape == action.shape == (3,)


@pytest.mark.trust(19, 21)
def test_what_is_no_policy_is_one_line(cartpole, tmp_path, capsys):
    good = tmp_path / "policy.safetensors"
    export(cartpole, good)
    data, rng = good.read_bytes(), np.random.default_rng(0)
    wrong = [b"", b"abc", struct.pack("<Q", 10**15) + b"{}", data[: len(data) // 2], data[8:]]
    for _ in range(100):
        damaged = bytearray(data)
        for place in rng.integers(min(len(data), 3000), size=3):
            damaged[place] = rng.integers(256)
        wrong.append(bytes(damaged))
    path = tmp_path / "damaged.safetensors"
    for content in wrong:
        path.write_bytes(content)
        try:
            load_policy(path)
        except UserError as error:
            assert str(path) in str(error)
    with pytest.raises(UserError, match="no policy file"):
        load_policy(tmp_path / "nothing.safetensors")
    for argv, expected in {
        (str(cartpole.folder), "--out", "policy.txt"): "must end in .safetensors",
        (str(cartpole.folder), "--out", "nowhere/policy.safetensors"): "there is no folder nowhere",
        ("nowhere", "--out", "policy.safetensors"): "nowhere",
        (str(cartpole.folder), "--format", "onnx", "--out", "x.safetensors"): "--format",
        (str(cartpole.folder),): "--out",
    }.items():
        assert cli.main(["export", *argv]) == 2
        err = capsys.readouterr().err
        assert expected in err and len(err.splitlines()) == 1


@pytest.mark.trust(21)
def test_a_module_that_a_policy_names_is_imported_only_if_trusted(cartpole, tmp_path):
    export(cartpole, tmp_path / "policy.safetensors")
    arrays = safetensors.numpy.load_file(tmp_path / "policy.safetensors")
    about = load_policy(tmp_path / "policy.safetensors").about | {"agent": "antigravity:ENTRY"}
    data = safetensors.numpy.save(arrays, metadata={"jaxql": json.dumps(about)})
    (tmp_path / "evil.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="--trust"):
        load_policy(tmp_path / "evil.safetensors")
    assert "antigravity" not in sys.modules
