"""The one setting of the private kernels, and that a run says what it does without."""

import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

import jaxql
from jaxql import kernels


@pytest.mark.parametrize(("value", "used"), [("0", False), ("1", True), (None, True)])
def test_the_environment_switches_private_kernels_off(value, used):
    environment = {name: x for name, x in os.environ.items() if name != "JAXQL_PRIVATE_KERNELS"}
    environment |= {} if value is None else {"JAXQL_PRIVATE_KERNELS": value}
    code = "from jaxql.kernels import private; print(private.private_is_used())"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(used)


class Dark(gym.Env):
    """Small images that are always black."""

    observation_space, action_space = gym.spaces.Box(0, 255, (6, 6, 3), np.uint8), gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((6, 6, 3), np.uint8), {}

    def step(self, action):
        return np.zeros((6, 6, 3), np.uint8), 0.0, self.np_random.random() < 0.1, False, {}


def test_a_run_says_once_which_fast_path_it_does_without(tmp_path, capsys):
    kernels.use_private(False)
    try:
        jaxql.train("dqn", Dark, steps=20, capacity=100, network="minatar-cnn", out=tmp_path / "run", eval_episodes=1)
    finally:
        kernels.use_private(True)
    said = capsys.readouterr()
    for line in ("convolutions on CPUs: matrix products", "random numbers on CPUs: JAX's own loop"):
        assert (said.out + said.err).count(f"{line}, because private kernels are switched off") == 1
