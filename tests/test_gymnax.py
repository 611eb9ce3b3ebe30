"""gymnax's environments through the adapter do what gymnax's own `step` does, auto-reset aside."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql import agents, envs
from jaxql.agents.state import hyper_of
from jaxql.envs.jax import autoreset
from jaxql.envs.jax.gymnax import from_gymnax, with_params
from jaxql.errors import UserError

gymnax = pytest.importorskip("gymnax", reason="gymnax is not installed: pip install 'jaxql[gymnax]'")
MINATAR = "Asterix-MinAtar", "Breakout-MinAtar", "Freeway-MinAtar", "SpaceInvaders-MinAtar"


@pytest.fixture(autouse=True)
def ranks():
    with jax.numpy_rank_promotion("allow"):  # gymnax's own code promotes ranks
        yield


def both(name, ticks=300, **changes):
    """Rows of our JaxEnv and of gymnax's `step` for the same keys, states and actions: two tuples of [T, ...]."""
    env, params = gymnax.make(name)
    params = params.replace(**changes)
    jax_env = from_gymnax(env, params)

    def tick(state, t):
        key = jax.random.fold_in(jax.random.key(1), t)
        action = jax.random.randint(key, (), 0, jax_env.num_actions)
        ours, reward, terminated = jax_env.step(jax.random.split(key)[0], state, action)
        clock = jnp.asarray(ours[1].time == jax_env.step_limit)  # of `autoreset`, which counts the same steps
        _, after, paid, over, late, info = env.step(key, state[1], action, params)
        fresh = jax_env.reset(jax.random.fold_in(key, 1))
        state = jax.tree.map(lambda new, old: jnp.where(over | late, new, old), fresh, ours)
        return state, (
            (jax_env.observe(ours), reward, terminated, clock),
            (info["final_observation"], paid, over, late),
        )

    return jax.lax.scan(tick, jax_env.reset(jax.random.key(0)), jnp.arange(ticks))[1]


@pytest.mark.parametrize("name", ["Asterix-MinAtar", "Breakout-MinAtar", "MountainCar-v0"])
def test_rows_are_gymnaxs(name):
    ours, theirs = both(name, max_steps_in_episode=10 if name == "Breakout-MinAtar" else 35)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    _, _, terminated, truncated = theirs
    assert truncated.any() and (terminated.any() or name == "MountainCar-v0")


def test_truncation_and_termination_are_told_apart():
    begin, env_step = autoreset(with_params("CartPole-v1", max_steps_in_episode=15), 8)
    env, _ = begin(jax.random.key(0))
    actions = jax.random.randint(jax.random.key(1), (200, 8), 0, 2)
    env, (obs, _, terminated, truncated, valid) = jax.lax.scan(env_step, env, actions)
    out = (np.abs(obs[..., 0]) > 2.4) | (np.abs(obs[..., 2]) > np.deg2rad(12))
    np.testing.assert_array_equal(terminated, out & valid)
    assert terminated.any() and truncated.any() and not (terminated & truncated).any()
    lengths = np.diff(np.flatnonzero(np.asarray(~valid[:, 0])))
    assert lengths.max() == 16, "15 steps and a reset"


@pytest.mark.parametrize("name", MINATAR)
def test_minatar_is_seen_as_images(name):
    env = envs.make(f"gymnax:{name}", 2)
    assert env.spec.obs.shape[:3] == (2, 10, 10)
    env.reset()
    assert not any(x.weak_type for x in jax.tree.leaves(env.state.envs.state)), "a run would compile twice"
    for agent in "dqn", "pqn":
        entry = agents.REGISTRY[agent]
        shapes = jax.eval_shape(
            entry.make(entry.config(), env.spec).init, jax.random.key(0), env.spec.obs, hyper_of(entry.config())
        )
        assert (3, 3, env.spec.obs.shape[3], 16) in {x.shape for x in jax.tree.leaves(shapes.params)}


@pytest.mark.parametrize(
    ("env", "env_args", "message"),
    [
        ("gymnax:Braekout-MinAtar", {}, 'did you mean "Breakout-MinAtar"'),
        ("gymnax:Pendulum-v1", {}, "needs Discrete"),
        ("gymnax:CartPole-v1", {"gravty": 1.0}, "no parameter gravty; it has .*gravity"),
    ],
)
def test_nonsense_is_refused(env, env_args, message):
    with pytest.raises(UserError, match=message):
        envs.make(env, 2, env_args=env_args)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    with pytest.raises(UserError, match=r'pip install "jaxql\[gymnax\]"'):
        from_gymnax("CartPole-v1")
