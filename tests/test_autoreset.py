"""JAX envs obey the laws of NEXT_STEP autoreset."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_envs import random_mdp, rollout

from jaxql.envs.jax import (
    JaxEnv,
    autoreset,
    catch,
    catch_mdp,
    from_mdp,
    on_host,
)
from jaxql.errors import UserError


def forever():
    """State counts the steps; it never ends."""
    return JaxEnv(lambda key: jnp.int32(0), lambda key, s, a: (s + 1, 1.0, jnp.bool_(False)), num_actions=1)


@pytest.mark.parametrize("terminates", [False, True])
def test_the_limit(terminates):
    _, obs, reward, terminated, truncated, valid = rollout(forever(), 2, 12, step_limit=5, limit_terminates=terminates)
    np.testing.assert_array_equal(obs[:, 0], [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0])
    late = np.arange(12) % 6 == 4
    np.testing.assert_array_equal((terminated if terminates else truncated)[:, 1], late)
    assert not (truncated if terminates else terminated).any()
    np.testing.assert_array_equal(valid[:, 0], np.arange(12) % 6 != 5)
    np.testing.assert_array_equal(reward, valid)


def test_the_models_own_limit_counts_unless_another_is_given():
    jax_env = from_mdp(catch_mdp(6, 5)._replace(step_limit=2))
    assert rollout(jax_env, 1, 9)[4].sum() == 3
    assert rollout(jax_env, 1, 9, step_limit=0)[4].sum() == 0


def test_an_end_at_the_limit_is_a_termination():
    *_, terminated, truncated, _ = rollout(catch(6, 5), 4, 30, step_limit=5)
    assert terminated.sum() == 20 and not truncated.any()


def test_envs_draw_independently():
    _, obs, *_ = rollout(from_mdp(random_mdp()), 2, 3000)
    assert abs(np.corrcoef(obs.T)[0, 1]) < 0.1


def test_other_envs_change_nothing():
    """A row is a function of the env's key and its actions: with other actions elsewhere it is the same."""
    jax_env = from_mdp(random_mdp())
    begin, env_step = autoreset(jax_env, 3)
    actions = np.random.default_rng(0).integers(0, 2, (200, 3), dtype=np.int32)
    others = actions.copy()
    others[:, [0, 2]] = 1 - others[:, [0, 2]]
    env, _ = jax.jit(begin)(jax.random.key(4))
    (_, rows), (_, again) = (jax.lax.scan(env_step, env, jnp.asarray(a)) for a in (actions, others))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:, 1], y[:, 1]), rows, again)
    assert any((x[:, 0] != y[:, 0]).any() for x, y in zip(rows, again, strict=True))


def test_host_and_device_show_the_same_rows():
    jax_env = from_mdp(random_mdp())
    begin, env_step = autoreset(jax_env, 3)
    actions = np.random.default_rng(0).integers(0, 2, (30, 3), dtype=np.int32)
    env, _ = jax.jit(begin)(jax.random.key(0))
    _, expected = jax.lax.scan(env_step, env, jnp.asarray(actions))
    step = on_host(env_step, env)
    rows = [step((), action)[1] for action in actions]
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda *x: np.stack(x), *rows), expected)


def test_spec_and_dtypes():
    jax_env = from_mdp(random_mdp())
    spec = jax_env.spec(7)
    assert (spec.num_states, spec.num_actions, spec.num_envs, spec.stack) == (4, 2, 7, 1)
    begin, env_step = autoreset(jax_env, 7)
    env, obs = jax.jit(begin)(jax.random.key(0))
    assert (obs.shape, obs.dtype) == (spec.obs.shape, spec.obs.dtype) == ((7,), jnp.int32)
    after, (obs, reward, terminated, truncated, valid) = jax.jit(env_step)(env, jnp.zeros(7, jnp.int32))
    assert reward.dtype == jnp.result_type(float) and obs.dtype == jnp.int32
    assert terminated.dtype == truncated.dtype == valid.dtype == bool
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), env)


@pytest.mark.parametrize(("num_envs", "step_limit"), [(0, None), (2, -1)])
def test_nonsense_is_refused(num_envs, step_limit):
    with pytest.raises(UserError, match="num_envs"):
        autoreset(catch(), num_envs, step_limit)
