"""What the deep Q learner hands to its parts: noise, exponents, targets, limits, losses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_variants import DQN, TABLE, filled

from jaxql import agents, networks
from jaxql.agents.deep import optimizer_of
from jaxql.agents.dqn import head_of
from jaxql.agents.schedules import beta_of
from jaxql.agents.state import LEARN, Hyper, hyper_of, new_state
from jaxql.kernels import derive_key
from jaxql.losses import q_loss
from jaxql.replay import prioritised_replay, zero_step
from jaxql.types import EnvSpec

WIDE = EnvSpec(jax.ShapeDtypeStruct((64, 4), jnp.float32), num_actions=3, num_envs=64)
BASE = DQN.config(capacity=64, batch_size=8, hidden=(8,))


def actions_of(config):
    """What 64 envs that look alike do at each of 20 ticks."""
    agent, obs = DQN.make(config, WIDE), jnp.ones((64, 4))
    state, act = agent.init(jax.random.key(0), obs, hyper_of(config)), jax.jit(agent.act)
    state = state._replace(env_steps=jnp.int32(1000))
    return np.array([act(state._replace(vector_steps=jnp.int32(t)), obs)[0] for t in range(20)])


@pytest.mark.slow
def test_noise_explores_anew_at_every_tick():
    greedy = dataclasses.replace(BASE, epsilon=0.0, exploration_steps=1)
    assert len(np.unique(actions_of(greedy))) == 1
    noisy = actions_of(dataclasses.replace(greedy, noisy=True))
    assert all(len(set(tick)) == 1 for tick in noisy), "noise is one for the batch, as in the paper"
    assert len(set(noisy[:, 0])) > 1, "but another at the next tick"


def test_every_update_learns_with_noise_of_its_own():
    """From rows that are all alike the loss of an update depends on its number by the noise alone."""
    for noisy in (False, True):
        config = dataclasses.replace(BASE, noisy=noisy, hidden=())
        agent, obs = DQN.make(config, TABLE), jnp.ones(2, jnp.int32)
        state = agent.init(jax.random.key(0), obs, hyper_of(config))
        row = zero_step(obs)._replace(reward=jnp.ones(2), valid=jnp.ones(2, bool), next_obs=obs)
        state = agent.observe(agent.observe(state, row), row)
        learn = jax.jit(agent.learn)
        losses = [float(learn(state._replace(updates=jnp.int32(t)))[1]["loss"][0]) for t in range(3)]
        assert len(set(losses)) == (3 if noisy else 1)


def test_beta_rises_on_its_line():
    state = new_state(jax.random.key(0), Hyper(beta=0.4, beta_steps=100), params=(), data=())
    betas = [float(beta_of(state._replace(env_steps=jnp.int32(t)))) for t in (0, 50, 100, 999)]
    np.testing.assert_allclose(betas, [0.4, 0.7, 1.0, 1.0], rtol=1e-6)


@pytest.mark.often("500")
@pytest.mark.parametrize("env_steps", [0, 500])
def test_an_update_weighs_its_rows_by_the_beta_of_the_moment(env_steps):
    config = dataclasses.replace(BASE, prioritised=True, priority_exponent=1.0, beta=0.2, beta_steps=1000, hidden=())
    agent, state = filled(config, TABLE)
    state, _ = jax.jit(agent.learn)(state)  # priorities are no longer all alike
    state = state._replace(env_steps=jnp.int32(env_steps))
    replay = prioritised_replay(config.capacity, config.n_step)
    network, head = networks.make_network("mlp", TABLE, ()), head_of(config)

    def expected(beta):
        batch = replay.sample(state.data, derive_key(state.key, LEARN, state.updates), 8, config.discount, beta)
        return float(q_loss(state.params, state.target, batch, network.apply, head=head)[0])

    loss = float(jax.jit(agent.learn)(state)[1]["loss"][0])
    np.testing.assert_allclose(loss, expected(0.2 + 0.8 * env_steps / 1000), rtol=1e-5)
    assert abs(loss - expected(0.9)) > 1e-4


@pytest.mark.parametrize("target", ["hard", "polyak", "none"])
@pytest.mark.trust(10)
def test_the_target_network_follows_as_it_says(target, tau=0.25, period=3):
    config = dataclasses.replace(BASE, target=target, tau=tau, target_period_updates=period)
    agent, state = filled(config, TABLE)
    learn, followed = jax.jit(agent.learn), state.target
    for update in range(1, 7):
        state = learn(state)[0]
        if target == "none":
            assert state.target == ()
            continue
        share = tau if target == "polyak" else float(update % period == 0)
        followed = jax.tree.map(lambda old, new, a=share: (1 - a) * old + a * new, followed, state.params)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), state.target, followed)


@pytest.mark.slow
def test_without_a_target_network_the_online_one_bootstraps():
    config = dataclasses.replace(BASE, hidden=(), learning_rate=0.0)
    states = {}
    for target in ("hard", "none"):
        agent, state = filled(dataclasses.replace(config, target=target), TABLE)
        moved = jax.tree.map(lambda x: x + 1, state.params)
        states[target] = float(jax.jit(agent.learn)(state._replace(params=moved))[1]["loss"][0])
    agent, state = filled(dataclasses.replace(config, target="hard"), TABLE)
    moved = jax.tree.map(lambda x: x + 1, state.params)
    both = float(jax.jit(agent.learn)(state._replace(params=moved, target=moved))[1]["loss"][0])
    np.testing.assert_allclose(states["none"], both, rtol=1e-6)
    assert abs(states["hard"] - both) > 1e-3


def test_rewards_are_stored_by_their_sign_if_asked():
    for clip, stored in ((True, [1.0, -1.0]), (False, [7.0, -0.5])):
        agent = DQN.make(dataclasses.replace(BASE, clip_rewards=clip), TABLE)
        obs = jnp.zeros(2, jnp.int32)
        state = agent.init(jax.random.key(0), obs, hyper_of(BASE))
        state = agent.observe(state, zero_step(obs)._replace(reward=jnp.array([7.0, -0.5]), valid=jnp.ones(2, bool)))
        np.testing.assert_array_equal(state.data.rows.reward[0], stored)


def test_huber_and_squared_are_what_they_say():
    """One row whose TD error is 3."""
    for loss, cost in (("huber", 2.5), ("squared", 4.5)):
        agent, state = filled(dataclasses.replace(BASE, hidden=(), loss=loss), TABLE)
        rows = state.data.rows
        rows = rows._replace(reward=jnp.full_like(rows.reward, 3.0), terminated=jnp.ones_like(rows.terminated))
        zero = jax.tree.map(jnp.zeros_like, state.params)
        state = state._replace(params=zero, data=state.data._replace(rows=rows))
        np.testing.assert_allclose(jax.jit(agent.learn)(state)[1]["loss"], cost)


@pytest.mark.parametrize(("limit", "norm"), [(2.0, 2.0), (100.0, 5.0), (0.0, 5.0)])
def test_the_gradient_s_norm_is_limited(limit, norm):
    optimizer = optimizer_of(dataclasses.replace(BASE, max_gradient_norm=limit), optax.identity())
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    update, _ = optimizer.update(gradient, optimizer.init(gradient))
    np.testing.assert_allclose(optax.tree.norm(update), norm, rtol=1e-6)
    np.testing.assert_allclose(update["a"] / update["b"][0], 0.75, rtol=1e-6)


def test_an_agent_from_outside_has_a_name_of_its_own(tmp_path, monkeypatch, capsys):
    from jaxql import cli

    monkeypatch.chdir(tmp_path)
    (tmp_path / "outside_agent.py").write_text(
        "from jaxql import agents\nfrom jaxql.agents import q_learning as q\n"
        "mine = agents.AgentEntry(q.Config, q.make, {}, {}, dict(learning_rate=0.3))\nother = 1\n"
    )
    argv = ["--env", "FrozenLake-v1", "--steps", "200", "--out", "run"]
    assert cli.main(["train", "outside_agent:mine", *argv]) == 0
    assert cli.main(["evaluate", "run", "--episodes", "1"]) == 0
    capsys.readouterr()
    for name, message in (("outside_agent:other", "is int; an agent"), ("nowhere_at_all:x", "No module named")):
        assert cli.main(["train", name, *argv]) == 2
        assert message in capsys.readouterr().err
    assert agents.entry_of("outside_agent:mine").overrides == {"learning_rate": 0.3}
