"""Settings: the registry, presets, tuned values, and what is refused."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql import agents
from jaxql.agents import AgentConfig, presets, validate
from jaxql.agents.schedules import epsilon_of, learning_rate_of
from jaxql.agents.state import Hyper, hyper_of, new_state
from jaxql.errors import UserError
from jaxql.lab.settings import settings
from jaxql.types import EnvSpec

BOX = EnvSpec(jax.ShapeDtypeStruct((2, 4), jnp.float32), num_actions=2, num_envs=2)
TABLE = EnvSpec(jax.ShapeDtypeStruct((2,), jnp.int32), num_actions=2, num_envs=2, num_states=5)


@pytest.mark.parametrize("name", agents.REGISTRY)
def test_every_named_setting_is_valid(name):
    entry = agents.REGISTRY[name]
    validate(entry.config())
    every = entry.tuned.get("*", {})
    for (config, run), want in [
        *((settings(entry, env), every | entry.tuned[env] | entry.overrides) for env in entry.tuned),
        *((settings(entry, "anything", preset), entry.presets[preset]) for preset in entry.presets),
    ]:
        both = dataclasses.asdict(config) | dataclasses.asdict(run)
        assert {setting: both[setting] for setting in want} == want


def test_twins_have_the_settings_of_their_env_and_all_have_a_source():
    for name in "dqn", "pqn", "r2d2":
        entry = agents.REGISTRY[name]
        assert entry.sources.keys() == entry.tuned.keys() | entry.presets.keys()
        for env, twins in presets.TWINS.items():
            for twin in twins if env in entry.tuned else ():
                assert settings(entry, twin) == settings(entry, env) != settings(entry, "anything")


def test_the_textbook_numbers():
    dqn, _ = settings(agents.REGISTRY["dqn"], "PongNoFrameskip-v4", "textbook")
    got = (dqn.discount, dqn.batch_size, dqn.capacity, dqn.learning_rate, dqn.target_period_updates, dqn.warmup_steps)
    assert got == (0.99, 32, 10_000, 1e-4, 1_000, 10_000)
    for t in 0, 1, 75_000, 148_500, 150_000, 10**6:
        state = new_state(jax.random.key(0), hyper_of(dqn), params=(), data=())._replace(env_steps=t)
        np.testing.assert_allclose(epsilon_of(state), max(0.01, 1 - t / 150_000), rtol=1e-5)
    for name in "value-iteration", "q-iteration", "q-learning":
        lake, run = settings(agents.REGISTRY[name], "FrozenLake-v1")
        assert (lake.discount, run.eval_episodes, run.solved_at, run.solved_strictly) == (0.9, 20, 0.8, True)
        if name != "q-learning":
            assert lake.num_envs * lake.rollout_length == 100
    assert settings(agents.REGISTRY["q-learning"], "FrozenLake-v1")[0].learning_rate == 0.2
    taxi, run = settings(agents.REGISTRY["q-learning"], "Taxi-v4")
    assert (taxi.learning_rate, taxi.discount, run.eval_episodes, run.solved_at) == (0.3, 0.8, 50, 7.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(discount=1.5), "discount is 1.5; it must be at least 0 and at most 1"),
        (dict(discount=math.nan), "discount is nan; it must be a finite number"),
        (dict(learning_rate=math.inf), "learning_rate is inf; it must be a finite number"),
        (dict(steps=-1), "steps is -1; it must be at least 1"),
        (dict(steps=1.5), "steps is 1.5; it must be a whole number"),
        (dict(steps=True), "steps is True; it must be a whole number"),
        (dict(batch_size=0), "batch_size is 0; it must be at least 1"),
        (dict(loss="hubber"), "loss is 'hubber'; it must be one of huber, squared"),
        (dict(dueling=1), "dueling is 1; it must be a bool"),
        (dict(backup="max"), "backup is 'max'; it must be one of greedy, double"),
        (dict(lerning_rate=1.0), 'no setting "lerning_rate" \\(did you mean "learning_rate"\\?\\)'),
        (dict(hidden=(64, 0)), "hidden is \\(64, 0\\)"),
        (dict(hidden="64"), "hidden is '64'"),
        (dict(head="c51"), "head is 'c51'; it must be one of scalar, categorical, quantile"),
    ],
)
def test_bad_settings_are_one_clear_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        settings(agents.REGISTRY["dqn"], "CartPole-v1", **changes)
    assert "\n" not in str(caught.value)


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(UserError, match='did you mean "q-learning"'):
        agents.entry_of("q-lerning")
    with pytest.raises(UserError, match='did you mean "textbook"'):
        settings(agents.REGISTRY["dqn"], "x", "notbook")


@pytest.mark.parametrize("name", ["value-iteration", "q-iteration", "q-learning"])
def test_tables_refuse_what_is_no_table(name):
    entry = agents.REGISTRY[name]
    with pytest.raises(UserError, match="needs discrete observations"):
        entry.make(entry.config(), BOX)
    with pytest.raises(UserError, match="takes no network"):
        entry.make(entry.config(), TABLE, network="anything")


def test_agents_refuse_plans_they_cannot_follow():
    entry = agents.REGISTRY["q-learning"]
    with pytest.raises(UserError, match="rollout_length and gradient_steps must be 1"):
        entry.make(entry.config(rollout_length=2), TABLE)
    entry = agents.REGISTRY["dqn"]
    for changes, message in (
        (dict(network="nature-cnn"), "needs images"),
        (dict(v_min=1.0, v_max=1.0), "v_min must be less"),
        (dict(head="quantile", loss="squared"), "the quantile head has one of its own"),
        (dict(network="impala-cnn"), "needs images"),
        (
            dict(n_step=2, n_step_end=3, horizon_anneal_updates=9),
            "n_step_end is 3; n falls, so it must be at most n_step",
        ),
    ):
        with pytest.raises(UserError, match=message):
            entry.make(entry.config(**changes), BOX)


def test_learning_rate_falls_on_its_line():
    hyper = Hyper(learning_rate=0.1, lr_decay_start=10, lr_decay_steps=100, lr_decay_fraction=0.2)
    state = new_state(jax.random.key(0), hyper, params=(), data=())
    rates = [float(learning_rate_of(state._replace(updates=t))) for t in (0, 10, 60, 110, 1000)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.06, 0.02, 0.02], rtol=1e-5)


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AgentConfig().num_envs = 1


@pytest.mark.trust(10)
def test_target_network_is_copied_exactly_every_period_and_shares_nothing():
    entry = agents.REGISTRY["dqn"]
    config = entry.config(target_period_updates=3, capacity=64, batch_size=4, hidden=(8,), warmup_steps=0)
    agent, obs = entry.make(config, BOX), jnp.ones((2, 4))
    state = agent.init(jax.random.key(0), obs, hyper_of(config))
    state = state._replace(
        data=state.data._replace(
            rows=state.data.rows._replace(
                valid=jnp.ones_like(state.data.rows.valid), reward=jnp.ones_like(state.data.rows.reward)
            ),
            num_steps=jnp.int32(20),
        )
    )
    learn = jax.jit(agent.learn)
    for update in range(1, 10):
        before = state.target
        state, _ = learn(state)
        copied = update % 3 == 0
        same = jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), state.target, state.params if copied else before)
        assert all(jax.tree.leaves(same)), update
        differs = jax.tree.map(lambda x, y: bool(jnp.any(x != y)), state.params, before)
        assert any(jax.tree.leaves(differs)), update
