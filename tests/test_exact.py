"""Agents against the models of their envs: the numbers of `jaxql.lab.exact`, and where a run writes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxql
from jaxql import agents, envs, planning
from jaxql.agents.state import hyper_of
from jaxql.envs.jax import catch_mdp, from_mdp
from jaxql.lab import exact
from jaxql.lab.settings import settings
from jaxql.types import MDP

LAKE = dict(env="FrozenLake-v1", env_args={"is_slippery": False}, quiet=True, stop_when_solved=False)


def compared(name, env, **options):
    """Returns an agent's comparison with the model, and its first parameters."""
    entry = agents.entry_of(name)
    config, _ = settings(entry, env if isinstance(env, str) else "env", **options)
    made = envs.make(env, config.num_envs)
    agent = entry.make(config, made.spec)
    params = agent.init(jax.random.key(0), made.reset(), hyper_of(config)).params
    return exact.compare_with_model(agent, made.mdp, config, made.spec), params


def chain(legal=None):
    """Two states: in state 0, action 1 goes on to state 1 for 0 and action 0 ends for 1; in state 1, 1 ends for 4."""
    shape = (2, 2, 1)
    reward = np.array([[[1.0], [0.0]], [[2.0], [4.0]]])
    ends = np.array([[[True], [False]], [[True], [True]]])
    next_state = np.array([[[0], [1]], [[1], [1]]])
    return MDP(next_state, np.ones(shape), reward, ends, np.array([1.0, 0.0]), 10, legal)


def test_the_numbers_are_those_of_the_definitions():
    comparison, _ = compared("q-learning", from_mdp(chain()), discount=0.5)
    assert_allclose(comparison.optimum, [[1, 2], [2, 4]])
    found = comparison.measure({"q_values": jnp.array([[3.0, 2.0], [2.0, 2.0]])})
    assert found == pytest.approx({"q_error": 2, "exact_return": 1, "regret": 1})
    shared = comparison.measure({"q_values": jnp.zeros((2, 2))})  # ties: half of each action
    assert shared == pytest.approx({"q_error": 4, "exact_return": 0.5 + 0.5 * 3, "regret": 2 - (0.5 + 0.25 * 3)})
    best = comparison.measure({"q_values": comparison.optimum})
    assert best == pytest.approx({"q_error": 0, "exact_return": 4, "regret": 0}, abs=1e-6)


def test_only_legal_actions_count():
    legal = np.array([[True, True], [True, False]])
    comparison, _ = compared("q-learning", from_mdp(chain(legal)), discount=0.5)
    found = comparison.measure({"q_values": jnp.array([[0.0, 1.0], [2.0, 99.0]])})
    assert found == pytest.approx({"q_error": 1, "exact_return": 2, "regret": 0}, abs=1e-6)
    assert jnp.isneginf(comparison.table({"q_values": jnp.ones((2, 2))})[1, 1])


def test_states_that_nobody_reaches_do_not_count():
    mdp = chain()._replace(ends=np.ones((2, 2, 1), bool))
    comparison, _ = compared("q-learning", from_mdp(mdp), discount=0.5)
    assert comparison.reached.tolist() == [True, False]
    assert comparison.measure({"q_values": jnp.array([[1.0, 0.0], [99.0, 99.0]])})["q_error"] == pytest.approx(0)


def test_the_step_limit_bounds_the_return():
    lake = planning.from_gymnasium("FrozenLake-v1", is_slippery=False)
    comparison, _ = compared("q-learning", from_mdp(lake._replace(step_limit=5)))
    assert comparison.measure({"q_values": comparison.optimum})["exact_return"] == 0  # the goal is six steps away


@pytest.mark.often("q-learning", "c51")
@pytest.mark.parametrize("name", ["q-learning", "q-iteration", "dqn", "c51", "iqn", "pqn"])
def test_tables_and_networks_are_compared_alike(name):
    comparison, params = compared(name, "jax:catch")
    found = comparison.measure(params)
    assert all(np.isfinite(list(found.values())))
    assert found["q_error"] > 0 and found["regret"] > 0 and -1 <= found["exact_return"] <= 1


@pytest.mark.often("dqn-CartPole-v1")
@pytest.mark.parametrize(("name", "env"), [("r2d2", "jax:catch"), ("dqn", "CartPole-v1"), ("dqn", "jax:cartpole")])
def test_without_a_model_or_with_a_memory_there_is_nothing_to_compare(name, env):
    assert compared(name, env)[0] is None


def test_taxi_shows_its_masks():
    made = envs.make("Taxi-v4", 1, table=False)
    assert made.mdp.legal.shape == (500, 6) and 0.3 < made.mdp.legal.mean() < 0.8
    obs = made.reset()
    assert np.asarray(made.mdp.legal)[obs["observation"][0]].tolist() == (obs["action_mask"][0] != 0).tolist()


def test_q_star_is_of_the_agent_s_discount():
    assert_allclose(compared("q-learning", from_mdp(chain()), discount=1.0)[0].optimum, [[1, 4], [2, 4]])
    annealed = dict(discount=0.5, discount_end=0.25, horizon_anneal_updates=10, n_step=1)
    assert_allclose(compared("dqn", from_mdp(chain()), **annealed)[0].optimum, [[1, 1], [2, 4]])


def test_no_optimum_at_discount_1_leaves_gaps():
    """State 0 may stay for ever and earn 1 each time."""
    mdp = MDP(np.zeros((1, 2, 1), int), np.ones((1, 2, 1)), np.array([[[1.0], [0.0]]]),
              np.array([[[False], [True]]]), np.ones(1), 7)  # fmt: skip
    comparison, _ = compared("q-learning", from_mdp(mdp), discount=1.0)
    found = comparison.measure({"q_values": jnp.array([[1.0, 0.0]])})
    assert np.isnan([found["q_error"], found["regret"]]).all() and found["exact_return"] == 7


@pytest.mark.parametrize("seeds", [1, 2])
def test_every_evaluation_has_a_row_with_the_truth(tmp_path, seeds):
    options = LAKE | dict(steps=1_500, eval_every=500, log_every=250, num_envs=4)
    runs = jaxql.train("q-learning", **options, out=tmp_path / "run", **({"seeds": seeds} if seeds > 1 else {}))
    for run in runs if seeds > 1 else [runs]:
        evaluated = np.isfinite(run.metrics["eval_return"])
        assert evaluated.sum() == 3 and not evaluated.all()
        for name in exact.MEASURES:
            assert np.isfinite(run.metrics[name]).tolist() == evaluated.tolist()
    last = run.state.params
    env = envs.make("FrozenLake-v1", 1, env_args={"is_slippery": False})
    comparison = exact.compare_with_model(run.agent, env.mdp, run.config, env.spec)
    if run.env_steps == run.metrics["env_steps"][evaluated][-1]:
        assert run.metrics["q_error"][evaluated][-1] == pytest.approx(comparison.measure(last)["q_error"])


@pytest.mark.slow
def test_a_jax_env_of_a_model_is_compared(tmp_path):
    run = jaxql.train("dqn", env=from_mdp(catch_mdp(3, 3)), steps=600, eval_every=300, warmup_steps=100, hidden=(8,),
                      num_envs=4, quiet=True, out=tmp_path / "run")  # fmt: skip
    assert np.isfinite(run.metrics["regret"]).sum() == 2
