"""Eight devices, and two processes, compute what one does."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import two_processes
from jax.sharding import Mesh

import jaxql
from jaxql import cli, envs, loop, mesh
from jaxql.agents import REGISTRY
from jaxql.envs.jax import catch
from jaxql.errors import UserError
from jaxql.replay import uniform_replay, zero_step

HERE = Path(__file__).parent
ONE = Mesh(jax.devices()[:1], ("envs",))


def start(*command, **environment):
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    # Most of the time is XLA's, which compiles much faster when LLVM does not optimise.
    environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    return subprocess.Popen(
        [sys.executable, "-W", "error", *map(str, command)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    try:
        output, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, output


@pytest.mark.parametrize("marked", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_laws_of_eight_devices(marked):
    laws = HERE / "mesh_laws.py"
    options = ("-q", "-m", marked, "-p", "no:cacheprovider", "-p", "no:xdist")
    finish(start("-m", "pytest", *options, laws, JAX_NUM_CPU_DEVICES="8"))


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def command(out, env, process=None, port=None, steps=600):
    """Starts a run, alone or as one of two processes."""
    settings = f"--num-envs 8 --steps {steps} --warmup-steps 200 --batch-size 32 --hidden 16 --log-every 200 --shards 2"
    argv = f"-m jaxql train dqn --env {env} {settings} --eval-every 400 --eval-episodes 4 --out {out}".split()
    if process is not None:
        argv += f"--devices all --coordinator-address 127.0.0.1:{port} --num-processes 2 --process-id {process}".split()
    return start(*argv, JAX_NUM_CPU_DEVICES="1")


@pytest.mark.parametrize("env", ["CartPole-v1", pytest.param("jax:catch", marks=pytest.mark.slow)])
def test_a_command_of_two_processes_equals_that_of_one(env, tmp_path):
    port = free_port()
    for process in [command(tmp_path / "two", env, i, port) for i in (0, 1)] + [command(tmp_path / "one", env)]:
        finish(process)
    two, one = (np.genfromtxt(tmp_path / name / "metrics.csv", delimiter=",", skip_header=1) for name in ("two", "one"))
    np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-3)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.slow
def test_a_signal_ends_two_processes_together(tmp_path):
    port = free_port()
    both = [command(tmp_path / "run", "CartPole-v1", i, port, steps=10**7) for i in (0, 1)]
    try:
        metrics = tmp_path / "run" / "metrics.csv"
        wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 3)  # both have compiled
        both[1].terminate()  # one of them is enough
        outputs = [process.communicate(timeout=60)[0] for process in both]
    finally:
        for process in both:
            process.kill()
            process.wait()
            process.stdout.close()
    assert [process.returncode for process in both] == [143, 143], outputs
    assert (tmp_path / "run" / "checkpoints" / "last.json").exists()


def test_a_run_of_several_processes_is_not_resumed(tmp_path, monkeypatch):
    """One process would go on with a run that the others begin anew."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="a run of 2 processes cannot be resumed"):
        jaxql.resume(tmp_path / "run")
    settings = dict(devices="all", out=tmp_path / "run", resume_or_start=True, quiet=True)
    with pytest.raises(UserError, match="a run of 2 processes cannot be resumed"):
        jaxql.train("dqn", "jax:catch", **settings)
    assert not list(tmp_path.iterdir())


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("--num-processes 2", "need coordinator_address"),
        ("--coordinator-address localhost:1234", "needs num_processes and process_id"),
        ("--coordinator-address localhost --num-processes 2 --process-id 0", "must be HOST:PORT"),
        ("--coordinator-address localhost:1234 --num-processes 2 --process-id 2", "must be in 0..1"),
        ("--coordinator-address localhost:1234 --num-processes two --process-id 0", "must be a whole number"),
        ("--devices many", 'must be a whole number, 1 or greater, or "all"'),
    ],
)
def test_wrong_options_of_devices_are_refused(options, line, tmp_path, capsys):
    argv = f"train dqn --env jax:catch --out {tmp_path}/run {options}".split()
    assert cli.main(argv) == 2
    assert line in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    port = free_port()
    parts = [
        start(HERE / "two_processes.py", port, i, 2, tmp_path / f"{i}.npz", JAX_NUM_CPU_DEVICES="1") for i in (0, 1)
    ]
    params, state = two_processes.trained(lambda: envs.make("CartPole-v1", two_processes.ENVS), loop.jit_agent)
    for part in parts:
        finish(part)
    for i in (0, 1):
        found = np.load(tmp_path / f"{i}.npz")
        assert found["env_steps"] == state.env_steps
        for j, x in enumerate(params):
            tolerance = 1e-10 if x.dtype == np.float64 else 1e-5
            np.testing.assert_allclose(found[f"arr_{j}"], x, rtol=0, atol=tolerance)


def test_a_gymnasium_env_on_a_mesh_is_the_same_env():
    plain, meshed = (envs.make("CartPole-v1", 2, seed=3, **options) for options in ({}, dict(mesh=ONE)))
    np.testing.assert_array_equal(plain.reset(), meshed.reset())
    for t in range(30):
        action = np.array([t % 2, 1])
        (_, ours), (_, theirs) = meshed.step((), mesh.local_to_global(action, ONE)), plain.step((), action)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        assert {x.dtype for x in ours} == {x.dtype for x in theirs}
    obs = ours[0]
    assert obs.sharding.is_equivalent_to(mesh.env_sharding(ONE), obs.ndim)
    np.testing.assert_array_equal(meshed.restore(plain.checkpoint()), obs)


def test_what_does_not_divide_is_refused():
    dqn = REGISTRY["dqn"]
    for settings, num_envs in (dict(shards=3), 9), (dict(shards=2), 9):
        with pytest.raises(UserError, match="shards is [23]; it must divide"):
            dqn.make(dqn.config(**settings), catch().spec(num_envs))
    with pytest.raises(ValueError, match="shards is 2; it must divide the 3 envs"):
        uniform_replay(8, shards=2).init(zero_step(np.zeros(3)))
