"""Eight devices, and two processes, compute what one does."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import two_processes
from jax.sharding import Mesh

from jaxql import envs, loop, mesh
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


def test_two_processes_equal_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
