"""What a deep Q learner does besides learning: resets, a horizon that moves, priorities of a head's own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql import agents
from jaxql.agents.schedules import annealed_horizon
from jaxql.agents.state import RESET, Hyper, hyper_of, new_state
from jaxql.envs.jax import autoreset, catch
from jaxql.kernels import derive_key
from jaxql.networks import make_network
from jaxql.replay import sum_tree, zero_step
from jaxql.types import EnvSpec

DQN = agents.REGISTRY["dqn"]
IMAGES = EnvSpec(jax.ShapeDtypeStruct((2, 10, 10, 1), jnp.uint8), num_actions=3, num_envs=2)
TABLE = EnvSpec(jax.ShapeDtypeStruct((2,), jnp.int32), num_actions=3, num_envs=2, num_states=5)
SMALL = dict(network="minatar-cnn", dense_width=4, capacity=64, batch_size=4)


def filled(config, spec, seed=0):
    """An agent and its state after 30 random ticks."""
    rng = np.random.default_rng(seed)

    def look():
        shape, dtype = spec.obs.shape, spec.obs.dtype
        return jnp.asarray(rng.integers(spec.num_states or 256, size=shape), dtype)

    agent, obs = DQN.make(config, spec), look()
    state, observe = jax.jit(agent.init)(jax.random.key(seed), obs, hyper_of(config)), jax.jit(agent.observe)
    for _ in range(30):
        step = zero_step(obs)._replace(next_obs=look(), valid=jnp.ones(2, bool), reward=jnp.asarray(rng.normal(size=2)))
        step = step._replace(action=jnp.asarray(rng.integers(3, size=2), jnp.int32))
        state, obs = observe(state, step), step.next_obs
    return agent, state


def changed_priorities(agent, state):
    """The new priorities of the rows that an update drew; that of a new row is 1."""
    data = jax.jit(agent.learn)(state)[0].data
    priorities = np.asarray(sum_tree.read(data.priorities, jnp.arange(data.rows.valid.size)))
    drawn = priorities[(priorities != 0) & (priorities != 1)]
    assert len(drawn)
    return drawn


def assert_equal(a, b, tolerance=0.0):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


@pytest.mark.parametrize("target", ["polyak", pytest.param("none", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_reset_is_its_definition_and_falls_on_every_third_update(target, keep=0.3):
    config = DQN.config(**SMALL, target=target, tau=0.1, reset_every_updates=3, reset_keep=keep)
    agent, state = filled(config, IMAGES)
    never = jax.jit(DQN.make(dataclasses.replace(config, reset_every_updates=0), IMAGES).learn)
    learn, draw = jax.jit(agent.learn), jax.jit(make_network("minatar-cnn", IMAGES, dense_width=4).init)
    for update in range(1, 7):
        plain, (state, _) = never(state)[0], learn(state)
        if update % 3:
            assert_equal(state.params, plain.params, 1e-5)
            assert_equal(state.target, plain.target, 1e-5)
            continue
        fresh = draw(derive_key(jax.random.key(0), RESET, update), jnp.zeros(IMAGES.obs.shape, jnp.uint8))
        for got, before in ((state.params, plain.params), (state.target, plain.target))[: 1 + (target != "none")]:
            for name, module in got["params"].items():
                share = keep if name.startswith("Conv") else 0.0
                old, new = before["params"][name], fresh["params"][name]
                assert_equal(module, jax.tree.map(lambda x, y, a=share: a * x + (1 - a) * y, old, new), 1e-5)
        assert not any(jnp.any(x) for x in jax.tree.leaves(state.opt_state))
        assert any(jnp.any(x) for x in jax.tree.leaves(plain.opt_state))


def test_every_seed_is_reset_with_weights_of_its_own_when_its_own_number_says():
    config = DQN.config(capacity=64, batch_size=4, hidden=(4,), reset_every_updates=2)
    env = catch()
    agent, (begin, _) = DQN.make(config, env.spec(2)), autoreset(env, num_envs=2)
    keys, every = jax.random.split(jax.random.key(0), 3), jnp.array([2, 2, 5])
    hyper = jax.vmap(lambda n: hyper_of(config)._replace(reset_every_updates=n))(every)
    states = jax.jit(jax.vmap(lambda key, hyper: agent.init(key, begin(key)[1], hyper)))(keys, hyper)
    learn = jax.jit(jax.vmap(agent.learn))
    assert " cond[" in str(jax.make_jaxpr(learn)(states)), "else weights are drawn at every update"
    for _ in range(2):  # nothing can be drawn yet, so that an update alone changes nothing
        begun, (states, _) = states, learn(states)
    kernel, before = (x.params["params"]["Dense_0"]["kernel"] for x in (states, begun))
    assert [bool(jnp.any(x != y)) for x, y in zip(kernel, before, strict=True)] == [True, True, False]
    assert jnp.any(kernel[0] != kernel[1])


def test_n_and_gamma_move_exponentially_and_afresh_after_a_reset():
    hyper = Hyper(
        discount=0.97, discount_end=0.997, n_step=10, n_step_end=3, horizon_anneal_updates=50, reset_every_updates=80
    )
    state = new_state(jax.random.key(0), hyper, params=(), data=())
    horizon = jax.jit(annealed_horizon)
    n, left = 10.0, 0.03  # multiplied by the same factor at every update
    for update in range(170):
        since = update % 80
        n, left = (10.0, 0.03) if since == 0 else (n, left)
        got_n, gamma = horizon(state._replace(updates=jnp.int32(update)))
        assert got_n.dtype == jnp.int32
        assert abs(got_n - n) <= 0.5 + 1e-4
        np.testing.assert_allclose(1 - gamma, left, rtol=1e-4)
        if since < 50:
            n, left = n * 0.3 ** (1 / 50), left * 0.1 ** (1 / 50)
    ends = [horizon(state._replace(updates=jnp.int32(update)))[0] for update in (0, 50, 79, 80, 130)]
    assert ends == [10, 3, 3, 10, 3]
    never = state._replace(hyper=state.hyper._replace(reset_every_updates=0), updates=jnp.int32(80))
    assert horizon(never)[0] == 3


def test_an_agent_draws_windows_of_the_n_and_gamma_of_the_moment():
    """A reward of 1 at every step and a target network that says 0: the TD error is what n and gamma make of it."""
    config = DQN.config(hidden=(), capacity=64, batch_size=8, n_step=4, n_step_end=2, discount=0.5, discount_end=0.9)
    config = dataclasses.replace(
        config, horizon_anneal_updates=10, learning_rate=0.0, prioritised=True, priority_exponent=1.0
    )
    agent, state = filled(config, TABLE)
    nothing = jax.tree.map(jnp.zeros_like, state.params)
    rows = state.data.rows._replace(reward=jnp.ones_like(state.data.rows.reward))
    state = state._replace(params=nothing, target=nothing, data=state.data._replace(rows=rows))
    for update, (n, gamma) in {0: (4, 0.5), 10: (2, 0.9)}.items():
        changed = changed_priorities(agent, state._replace(updates=jnp.int32(update)))
        np.testing.assert_allclose(changed, sum(gamma**i for i in range(n)), rtol=1e-4)


KL = np.log(5) + 0.7 * np.log(0.7) + 0.3 * np.log(0.3)  # of atoms -2 .. 2 that share 0.3 as 0.7 and 0.3, to 1 / 5 each


@pytest.mark.parametrize(
    ("head", "priority"), [("categorical", KL), ("hl-gauss", 0.3), ("quantile", 0.3), ("scalar", 0.3)]
)
def test_priorities_are_divergences_of_a_categorical_head_and_td_errors_of_any_other(head, priority):
    """Every row ends with a reward of 0.3, and the network says nothing of any."""
    config = DQN.config(
        hidden=(), head=head, num_atoms=5, v_min=-2.0, v_max=2.0, capacity=64, prioritised=True, priority_exponent=1.0
    )
    agent, state = filled(config, TABLE)
    rows = state.data.rows
    rows = rows._replace(reward=jnp.full_like(rows.reward, 0.3), terminated=jnp.ones_like(rows.terminated))
    state = state._replace(params=jax.tree.map(jnp.zeros_like, state.params), data=state.data._replace(rows=rows))
    np.testing.assert_allclose(changed_priorities(agent, state), priority, rtol=1e-4)
