"""Observations reach the agent with the stated shapes and dtypes, and share no memory with the env."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from toy_envs import Shows

from jaxql.envs import make
from jaxql.envs.seeding import episode_seed
from jaxql.errors import UserError


def test_observations_share_no_memory_with_the_env():
    for space in [spaces.Box(0, 1, (4,), np.float32), spaces.Box(0, 255, (4,), np.uint8)]:
        show = np.ones(4, space.dtype)
        envs = make(lambda space=space, show=show: Shows(space, show=show), 2)
        envs.reset()
        obs = envs.tick([0, 0])
        show[:] = 0
        assert np.asarray(obs.next_obs).all()


@pytest.mark.trust(13)
def test_dicts_and_tuples_are_flattened():
    space = spaces.Dict(a=spaces.Box(0, 1, (2, 2), np.float32), b=spaces.Tuple([spaces.Discrete(3)]))
    envs = make(lambda: Shows(space), 2, seed=4)
    seeds = [episode_seed(4, "train", env_index, 0) for env_index in range(2)]
    expected = []
    for seed in seeds:
        space.seed(seed)
        expected.append(spaces.flatten(space, space.sample()))
    assert envs.spec.obs.shape == (2, 7)
    np.testing.assert_allclose(envs.reset(), expected, rtol=1e-6)


def test_action_masks_pass_through():
    space = spaces.Dict(observation=spaces.Box(0, 255, (2,), np.uint8), action_mask=spaces.MultiBinary(2))
    show = {"observation": np.array([3, 255], np.uint8), "action_mask": np.array([0, 1], np.int8)}
    envs = make(lambda: Shows(space, show=show), 3)
    obs = envs.reset()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), obs)
    assert shapes == envs.spec.obs
    assert obs["observation"].dtype == jnp.uint8 and obs["observation"].tolist() == [[3, 255]] * 3
    assert obs["action_mask"].dtype == bool and obs["action_mask"].tolist() == [[False, True]] * 3
    show["action_mask"] = np.zeros(2, np.int8)
    with pytest.raises(UserError, match="env 0 allows no action"):
        envs.step((), [1, 1, 1])


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8, np.int64])
@pytest.mark.trust(13)
def test_dtypes(dtype):
    envs = make(lambda: Shows(spaces.Box(0, 255 if dtype == np.uint8 else 9, (2,), dtype)), 2)
    obs = envs.reset()
    expected = jnp.result_type(float) if np.issubdtype(dtype, np.floating) else jax.dtypes.canonicalize_dtype(dtype)
    assert obs.dtype == envs.spec.obs.dtype == expected
