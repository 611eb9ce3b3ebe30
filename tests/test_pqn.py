"""PQN: its targets by a slow roll-out, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxql import agents
from jaxql.agents.pqn import pqn
from jaxql.agents.state import Hyper
from jaxql.errors import UserError
from jaxql.types import EnvSpec, Network, Step

TICKS, ENVS, ACTIONS, STATES = 6, 3, 2, 50
TABLE = Network(
    init=lambda key, obs: jax.random.normal(key, (STATES, ACTIONS)),
    apply=lambda params, obs, memory=(), key=None: (params[obs], memory),
)


def slow_return(log, values, t, env, gamma, trace):
    """The lambda-return of a row by its definition; values [T + 1, B] belong to the observations."""
    row, following = log[t], values[t + 1, env]
    if row.terminated[env]:
        return row.reward[env]
    last = t + 1 == len(log) or row.truncated[env] or not log[t + 1].valid[env]
    later = following if last else slow_return(log, values, t + 1, env, gamma, trace)
    return row.reward[env] + gamma * ((1 - trace) * following + trace * later)


@pytest.mark.parametrize("warmup", [0, 4])  # a window that begins in the middle of the ring
def test_an_update_is_the_gradient_step_of_the_definition(warmup, gamma=0.9, trace=0.7, rate=0.1):
    rng = np.random.default_rng(warmup)
    agent = pqn(TABLE, rollout_length=TICKS, minibatches=1, optimizer=optax.identity())
    hyper = Hyper(learning_rate=rate, discount=gamma, lambda_=trace, epsilon=1.0)
    obs = rng.integers(STATES, size=ENVS, dtype=np.int32)
    state = agent.init(jax.random.key(0), obs, hyper)
    table, log, over = np.asarray(state.params, np.float64), [], np.zeros(ENVS, bool)
    for _ in range(warmup + TICKS):
        action, extra = agent.act(state, obs)
        np.testing.assert_allclose(extra[0], table[obs].max(-1), rtol=1e-5)
        ended = rng.random((2, ENVS)) < 0.2
        valid, next_obs = ~over, rng.integers(STATES, size=ENVS, dtype=np.int32)
        terminated, truncated = ended[0] & valid, ended[1] & ~ended[0] & valid
        step = Step(obs, np.asarray(action), rng.normal(size=ENVS), terminated, truncated, next_obs, valid, extra)
        state, obs, over = agent.observe(state, step), next_obs, terminated | truncated
        log.append(step)
    log = log[warmup:]
    values = np.array([table[step.obs].max(-1) for step in log] + [table[obs].max(-1)])
    expected, count = table.copy(), sum(step.valid.sum() for step in log)
    for t, step in enumerate(log):
        for env in np.flatnonzero(step.valid):
            place = step.obs[env], step.action[env]
            expected[place] += rate * (slow_return(log, values, t, env, gamma, trace) - table[place]) / count
    state, metrics = jax.jit(agent.learn)(state)
    np.testing.assert_allclose(state.params, expected, atol=1e-5)
    assert metrics["loss"][0] > 0


FADING = Network(  # its memory fades by half at each step; a row's action values depend on all before it
    init=lambda key, obs: jax.random.normal(key, (STATES, ACTIONS)),
    apply=lambda params, obs, memory=(), key=None: (
        params[obs] + (faded := (0 if isinstance(memory, tuple) else memory / 2) + jnp.sin(params[obs])),
        faded,
    ),
)


def test_with_a_memory_a_minibatch_is_whole_worlds_from_the_memory_they_had(warmup=4, gamma=0.9, trace=0.7):
    """The gradient of rows that are seen one after another, in Python; three envs are three minibatches."""
    rng = np.random.default_rng(warmup)
    agent = pqn(FADING, rollout_length=TICKS, minibatches=ENVS, optimizer=optax.identity())
    obs = rng.integers(STATES, size=ENVS, dtype=np.int32)
    state = agent.init(jax.random.key(0), obs, Hyper(learning_rate=0.0, discount=gamma, lambda_=trace, epsilon=1.0))
    table, log, memories, over = state.params, [], [np.zeros((ENVS, ACTIONS))], np.zeros(ENVS, bool)
    for _ in range(warmup + TICKS):
        action, extra = agent.act(state, obs)
        values, memory = FADING.apply(table, obs, jnp.asarray(memories[-1]))
        np.testing.assert_allclose(extra[0], values.max(-1), rtol=1e-5)
        ended = rng.random(ENVS) < 0.2
        valid, next_obs = ~over, rng.integers(STATES, size=ENVS, dtype=np.int32)
        step = Step(
            obs,
            np.asarray(action),
            rng.normal(size=ENVS),
            ended & valid,
            np.zeros(ENVS, bool),
            next_obs,
            valid,
            extra,
        )
        state, obs, over = agent.observe(state, step), next_obs, ended & valid
        log.append(step)
        memories.append(np.where(valid[:, None], memory, 0))
    log, values = log[warmup:], np.array([step.extra[0] for step in log[warmup:]])
    last = FADING.apply(table, obs, jnp.asarray(memories[-1]))[0].max(-1)
    values = np.concatenate([values, last[None]])

    def loss(params, env):
        total, memory = 0.0, memories[warmup][[env]]
        for t, step in enumerate(log):
            q, memory = FADING.apply(params, step.obs[[env]], jnp.asarray(memory))
            if step.valid[env]:
                target = slow_return(log, values, t, env, gamma, trace)
                total += (q[0, step.action[env]] - target) ** 2 / 2
            memory = memory * step.valid[env]
        return total / sum(step.valid[env] for step in log)

    want = sorted(float(optax.tree.norm(jax.grad(loss)(table, env))) for env in range(ENVS))
    _, metrics = agent.learn(state)
    np.testing.assert_allclose(sorted(metrics["gradient_norm"].tolist()), want, rtol=1e-4)


def test_a_round_s_targets_do_not_follow_its_updates():
    """Rewards of 1 for ever, undiscounted: two rows' targets are 2 and 1 above the value when the round began.

    With the step size 1 every update reaches their mean, and three updates of a round reach no more.
    """
    network = Network(
        init=lambda key, obs: jnp.zeros(1),
        apply=lambda params, obs, memory=(), key=None: (jnp.broadcast_to(params, (*obs.shape, 1)), memory),
    )
    agent, obs, no = (
        pqn(network, rollout_length=2, epochs=3, minibatches=1, optimizer=optax.identity()),
        np.zeros(1, np.float32),
        np.zeros(1, bool),
    )
    state = agent.init(jax.random.key(0), obs, Hyper(learning_rate=1.0, discount=1.0, lambda_=1.0))
    for mean in (1.5, 3.0):
        for _ in range(2):
            action, extra = agent.act(state, obs)
            state = agent.observe(state, Step(obs, action, np.ones(1), no, no, obs, ~no, extra))
        state, metrics = agent.learn(state)
        np.testing.assert_allclose(state.params, mean)
        assert metrics["gradient_norm"][0] > 0
        np.testing.assert_allclose(metrics["gradient_norm"][1:], 0)


def test_an_epoch_uses_every_row_once():
    agent = pqn(TABLE, rollout_length=TICKS, minibatches=3, optimizer=optax.identity())
    obs = np.arange(ENVS, dtype=np.int32)
    state = agent.init(jax.random.key(0), obs, Hyper(learning_rate=1.0, discount=0.0, lambda_=0.0))
    state = state._replace(params=jnp.zeros((STATES, ACTIONS)))
    for _ in range(TICKS):  # every row has a state of its own
        no = np.zeros(ENVS, bool)
        step = Step(obs, np.zeros(ENVS, np.int32), np.ones(ENVS), no, no, obs + ENVS, ~no, (np.zeros(ENVS), ()))
        state, obs = agent.observe(state, step), obs + ENVS
    state, _ = agent.learn(state)
    share = 1 / (TICKS * ENVS / 3)  # of each row in its minibatch
    np.testing.assert_allclose(state.params[: TICKS * ENVS, 0], share, rtol=1e-5)
    assert not jnp.any(state.params[TICKS * ENVS :])


def test_parts_must_divide_a_round():
    entry, spec = agents.REGISTRY["pqn"], EnvSpec(jax.ShapeDtypeStruct((4, 3), float), 2, 4)
    for changes in (dict(gradient_steps=9, minibatches=8), dict(rollout_length=3, minibatches=8)):
        with pytest.raises(UserError, match="minibatches is 8; it must divide"):
            entry.make(entry.config(**changes), spec)
    with pytest.raises(UserError, match=r"with a memory it must divide the number of envs \(4\)"):
        entry.make(entry.config(core="gru"), spec).init(jax.random.key(0), np.zeros((4, 3)), Hyper())
