"""R2D2: the memory it acts with, what it stores of it, and a cue that only memory can recall."""

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxql
from jaxql import agents, envs, loop
from jaxql.agents.r2d2 import r2d2
from jaxql.agents.state import Hyper, hyper_of
from jaxql.envs.jax import JaxEnv, autoreset
from jaxql.errors import UserError
from jaxql.lab import evaluation
from jaxql.replay import reset_memory, uniform_replay
from jaxql.types import Agent, EnvSpec, Network

ENVS, LENGTH, CUES = 8, 5, 2
SMALL = dict(
    hidden=(32, 32), core="gru", core_width=32, burn_in=1, length=8, batch_size=16, discount=0.95, learning_rate=5e-3,
    target_period_updates=50, exploration_steps=4_000, epsilon=0.02,
)  # fmt: skip
SPEC = EnvSpec(jax.ShapeDtypeStruct((ENVS, CUES), jnp.float32), num_actions=CUES, num_envs=ENVS)


def recall():
    """(begin, env_step): a cue is seen in the first observation; the action that matches it LENGTH steps later pays."""

    def step(key, state, action):
        cue, clock = state
        return (cue, clock + 1), jnp.where(clock == LENGTH, jnp.where(action == cue, 1.0, -1.0), 0.0), clock == LENGTH

    def reset(key):
        return jax.random.randint(key, (), 0, CUES, jnp.int32), jnp.int32(0)

    def seen(state):
        return jnp.where((state[1] == 0)[:, None], jax.nn.one_hot(state[0], CUES, dtype=jnp.float32), 0)

    begin, env_step = autoreset(JaxEnv(reset, step, num_actions=CUES), ENVS)

    def begin_seen(key):
        env, state = begin(key)
        return env, seen(state)

    def step_seen(env, action):
        env, (state, *rest) = env_step(env, action)
        return env, (seen(state), *rest)

    return begin_seen, step_seen


class Recall(gymnasium.Env):
    """The same for the host."""

    observation_space = gymnasium.spaces.Box(0, 1, (CUES,), np.float32)
    action_space = gymnasium.spaces.Discrete(CUES)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cue, self.clock = self.np_random.integers(CUES), 0
        return np.eye(CUES, dtype=np.float32)[self.cue], {}

    def step(self, action):
        over, self.clock = self.clock == LENGTH, self.clock + 1
        return np.zeros(CUES, np.float32), over * (1.0 if action == self.cue else -1.0), over, False, {}


def mean_return(agent, params, episodes=200):
    """Of greedy play that carries its memory from tick to tick and restarts it with the episode."""
    begin, env_step = recall()

    def play(carry, tick):
        env, obs, memory = carry
        action, memory = agent.policy(params, obs, memory, jax.random.key(0))
        env, (obs, reward, terminated, _, valid) = env_step(env, action)
        return (env, obs, reset_memory(memory, valid)), (reward, terminated)

    env, obs = begin(jax.random.key(1))
    memory = jax.tree.map(jnp.zeros_like, jax.eval_shape(agent.policy, params, obs, (), jax.random.key(0))[1])
    ticks = episodes * (LENGTH + 2) // ENVS
    _, (rewards, ended) = jax.jit(lambda carry: jax.lax.scan(play, carry, None, ticks))((env, obs, memory))
    return float(jnp.sum(rewards) / jnp.sum(ended))


def trained(name, rounds, **settings):
    """(agent, state) after so many updates, one a tick."""
    entry = agents.REGISTRY[name]
    config = entry.config(**settings)
    agent, (begin, env_step) = entry.make(config, SPEC), recall()
    env, obs = begin(jax.random.key(0))
    carry = agent.init(jax.random.key(0), obs, hyper_of(config)), env, obs
    plan = dict(warmup=20, rounds=rounds, rollout_length=1)
    (state, *_), _ = jax.jit(lambda carry: loop.train(agent, env_step, carry, **plan))(carry)
    return agent, state


@pytest.mark.slow
@pytest.mark.parametrize("changes", [dict(), dict(core="lstm"), dict(prioritised=True, dueling=True)])
def test_it_recalls_a_cue(changes):
    agent, state = trained("r2d2", 800, **SMALL | changes)
    assert mean_return(agent, state.params) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("core", ["gru", "lstm"])
def test_pqn_with_a_memory_recalls_it_too(core):
    settings = dict(
        hidden=(32, 32), core=core, core_width=32, gradient_steps=4, minibatches=2, learning_rate=2e-3, discount=0.95
    )
    entry = agents.REGISTRY["pqn"]
    config = entry.config(num_envs=ENVS, exploration_steps=20_000, epsilon=0.02, **settings)
    agent, (begin, env_step) = entry.make(config, SPEC), recall()
    env, obs = begin(jax.random.key(0))
    carry = agent.init(jax.random.key(0), obs, hyper_of(config)), env, obs
    plan = dict(warmup=0, rounds=200, rollout_length=32)
    (state, *_), _ = jax.jit(lambda carry: loop.train(agent, env_step, carry, **plan))(carry)
    assert mean_return(agent, state.params) >= 0.8


@pytest.mark.slow
def test_without_memory_nobody_does():
    shared = {name: x for name, x in SMALL.items() if name not in ("core", "core_width", "burn_in", "length")}
    agent, state = trained("dqn", 800, **shared)
    assert abs(mean_return(agent, state.params)) < 0.3


@pytest.mark.slow
def test_a_run_recalls_in_its_tests_and_when_it_is_opened_again(tmp_path):
    settings = SMALL | dict(num_envs=ENVS, steps=8_000, warmup_steps=200, eval_every=8_000, exploration_steps=4_000)
    run = jaxql.train("r2d2", env=Recall, out=tmp_path, quiet=True, **settings)
    assert run.best_score >= 0.8
    assert np.mean(run.evaluate(50).returns) >= 0.8


COUNTER = Network(  # its memory is how many observations it has seen in this episode
    init=lambda key, obs: jnp.zeros(CUES),
    apply=lambda params, obs, memory=(), key=None: (
        obs + params[None],
        (jnp.zeros(len(obs)) if isinstance(memory, tuple) else memory) + 1,
    ),
)


def test_the_memory_stored_is_the_one_it_acts_with():
    agent, (begin, env_step) = r2d2(COUNTER, uniform_replay(7 * ENVS)), recall()
    env, obs = begin(jax.random.key(0))
    state, act, observe = agent.init(jax.random.key(0), obs, Hyper()), jax.jit(agent.act), jax.jit(agent.observe)
    seen = np.zeros(ENVS)
    for _ in range(25):
        seen, (action, extra) = seen + 1, act(state, obs)
        np.testing.assert_array_equal(extra, seen)
        env, (next_obs, *outcome, valid) = jax.jit(env_step)(env, action)
        step = jaxql.Step(obs, action, *outcome, next_obs, valid, extra)
        state, obs = observe(state, step), next_obs
        slot = (state.vector_steps - 1) % len(state.data.ring.rows.valid)
        np.testing.assert_array_equal(state.data.ring.rows.extra[slot], seen)
        seen = np.where(valid, seen, 0)


def test_drawn_sequences_get_the_priority_of_their_errors():
    settings = dict(
        hidden=(8,), core_width=4, burn_in=1, length=3, batch_size=4, prioritised=True, eta=0.7, priority_exponent=0.5
    )
    agent, state = trained("r2d2", 3, **settings)
    learned, _ = jax.jit(agent.learn)(state)
    before, after = (x.data.ring.priorities[0].ravel() for x in (state, learned))
    assert 1 <= jnp.sum(before != after) <= 4
    assert jnp.all((after > 0) == (before > 0)), "what cannot be drawn stays so"
    assert jnp.all(after[before != after] < 1), "errors of values near 0 are small"


def test_a_network_without_memory_is_refused():
    entry = agents.REGISTRY["r2d2"]
    forgetful = jaxql.networks.make_network("mlp", SPEC)
    agent = entry.make(entry.config(), SPEC, forgetful)
    with pytest.raises(UserError, match="needs a network with a memory"):
        agent.init(jax.random.key(0), jnp.zeros((ENVS, CUES)), Hyper())


def test_an_evaluation_carries_memory_through_an_episode():
    def parrot(params, obs, memory, key, epsilon=0.0):
        memory = jnp.zeros_like(obs) if isinstance(memory, tuple) else memory
        cue = jnp.where(jnp.any(memory, axis=-1, keepdims=True), memory, obs)  # zeros start an episode
        return jnp.argmax(cue, axis=-1), cue

    def forgetful(params, obs, memory, key, epsilon=0.0):
        return jnp.argmax(obs, axis=-1), ()

    for policy, worst in (parrot, 1), (forgetful, -1):
        env = envs.make(Recall, ENVS, purpose="evaluate")
        agent = Agent(init=None, act=None, observe=None, learn=None, policy=policy)
        returns = evaluation.evaluate(agent, (), env, jax.random.key(0)).returns
        assert (returns.min(), returns.max()) == (worst, 1)
        env.close()
