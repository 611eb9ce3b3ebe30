"""The laws of every agent in the registry, on JAX envs: one state, several drivers, the same numbers."""

import dataclasses
import re
import time
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxql import agents, loop
from jaxql.agents import pqn, r2d2
from jaxql.agents.deep import network_of
from jaxql.agents.dqn import Config, backup_of, dqn, head_of, network_variant
from jaxql.agents.q_learning import q_learning
from jaxql.agents.state import Hyper, hyper_of as hyper_of_settings
from jaxql.envs.jax import JaxEnv, autoreset, catch, from_mdp, on_host
from jaxql.lab import checkpoint
from jaxql.losses import q_loss
from jaxql.losses.heads import scalar
from jaxql.planning import from_gymnasium
from jaxql.replay import Ring, uniform_replay, zero_step
from jaxql.types import Network, Transition

pytestmark = pytest.mark.float64
TABLES = dict(learning_rate=0.01, discount=0.9, epsilon=0.1, exploration_steps=500.0, target_period_updates=50)
CAUTIOUS = 0.0005  # other heads magnify rounding from update to update
ENVS = 4
SMALL = dict(
    gradient_steps=4, n_step=3, capacity=400, batch_size=32, hidden=(32,), v_min=-2.0, v_max=2.0, beta_steps=500
)
TINY = dict(
    network="mlp", gradient_steps=4, capacity=400, batch_size=32, v_min=-2.0, v_max=2.0, beta_steps=500
)  # whatever the name
SCHEDULES = dict(reset_every_updates=120, horizon_anneal_updates=50, n_step=10, n_step_end=3, discount_end=0.95)
ONLINE = dict(warmup=0, rounds=200, rollout_length=1)  # a table keeps one Step: more would be lost
ROLLOUT = dict(warmup=0, rounds=50, rollout_length=8)
REPLAY = dict(warmup=20, rounds=50, rollout_length=2)
# Two compilations of a network round differently; 200 updates apart they may differ by this. Tables: not at all.
TOLERANCE = 1e-10 if jax.config.jax_enable_x64 else 1e-5


def of(names, often=("dqn", "pqn")):
    """Parametrises a law by the names of agents; all but those named as `often` are marked slow."""

    def marks(name):
        return [pytest.mark.float32] * (name == "pqn") + [pytest.mark.slow] * (name not in often)

    return pytest.mark.parametrize("name", [pytest.param(x, marks=marks(x)) for x in names])


def every_agent(*often):
    """Every law with every agent; each law often with a few of them, so that all kinds are seen often."""
    return of(agents.REGISTRY, often)


def deep(name):
    return agents.REGISTRY[name].config in (Config, pqn.Config, r2d2.Config)


def settings_of(name):
    """Few rows and narrow layers, and schedules of a name so short that they are run through."""
    entry = agents.REGISTRY[name]
    if name == "pqn":
        return entry.config(rollout_length=8, gradient_steps=4, minibatches=4, hidden=(32,))
    if name == "r2d2":
        return entry.config(
            gradient_steps=4, capacity=400, batch_size=16, burn_in=2, length=6, hidden=(32,), core_width=16
        )
    values = SMALL | entry.overrides | TINY if deep(name) else {}
    return entry.config(**{name: x for name, x in values.items() if name in entry.config.__dataclass_fields__})


def hyper_of(name):
    changes = TABLES | (dict(learning_rate=0.003 if name == "dqn" else CAUTIOUS) if deep(name) else {})
    hyper = hyper_of_settings(settings_of(name))._replace(**changes)
    return hyper._replace(**SCHEDULES) if "reset_every_updates" in agents.REGISTRY[name].overrides else hyper


def agent_of(name):
    return agents.REGISTRY[name].make(settings_of(name), catch().spec(ENVS))


def plan_of(name):
    return ROLLOUT if name == "pqn" else REPLAY if deep(name) else ONLINE


def program(agent, plan, jax_env=None, **limit):
    """((key, hyper) -> carry after training, (key, hyper) -> carry before it, env_step) of 4 envs."""
    begin, env_step = autoreset(jax_env or catch(), num_envs=ENVS, **limit)

    def start(key, hyper):
        env, obs = begin(key)
        return agent.init(key, obs, hyper), env, obs

    def run(key, hyper):
        return loop.train(agent, env_step, start(key, hyper), **plan)

    return run, start, env_step


def gap(a, b) -> float:
    """The largest difference between two trees."""
    gaps = jax.tree.map(lambda x, y: np.max(np.abs(np.asarray(x, float) - np.asarray(y, float)), initial=0.0), a, b)
    return float(np.max(jax.tree.leaves(gaps)))  # np.max: a nan is not lost


def ring_of(state):
    """What a learner with a replay stores; None for any other."""
    data = state.data.ring if isinstance(state.data, r2d2.Data) else state.data
    return data if isinstance(data, Ring) else None


@every_agent("dqn", "q-learning")
@pytest.mark.trust(24)
def test_host_loop_equals_scan_and_traces_once(name):
    agent, traces = agent_of(name), Counter()

    def counted(label, f, **options):
        return jax.jit(lambda *args: traces.update([label]) or f(*args), **options)

    run, start, env_step = program(agent, plan_of(name))
    (compiled, *_), metrics = counted("scan", run)(jax.random.key(0), hyper_of(name))
    hosted = agent._replace(
        act=counted("act", agent.act),
        observe=counted("observe", agent.observe, donate_argnums=0),
        learn=counted("learn", agent.learn, donate_argnums=0),
    )
    state, env, obs = start(jax.random.key(0), hyper_of(name))
    begun = jax.tree.map(jnp.copy, state.params)
    plan = plan_of(name)
    (state, *_), host_metrics = loop.train(
        hosted, on_host(env_step, env), (state, (), obs), **plan, scan=loop.host_scan
    )
    assert gap(state.params, compiled.params) <= (TOLERANCE if deep(name) else 0)
    assert set(traces.values()) == {1}
    assert gap(state.params, begun) > 0.01, "nothing was learned"
    assert state.updates == compiled.updates == plan["rounds"] * settings_of(name).gradient_steps
    assert state.env_steps == compiled.env_steps
    if ring_of(state) is not None:
        np.testing.assert_array_equal(ring_of(state).rows.action, ring_of(compiled).rows.action)
    assert jax.tree.map(np.shape, host_metrics) == jax.tree.map(np.shape, metrics)
    assert metrics["loss"].shape == (plan["rounds"], settings_of(name).gradient_steps)


@every_agent("dqn")
def test_vmapped_equals_alone(name):
    agent, plan = agent_of(name), plan_of(name)
    if name == "qr-dqn" and not jax.config.jax_enable_x64:
        plan = plan | dict(rounds=35)  # by its update 172 float32 rounding decides on which side of 0 a ReLU's input is
    run = program(agent, plan)[0]

    def final(key, discount):
        return run(key, hyper_of(name)._replace(discount=discount))[0][0].params

    keys, discounts = jax.random.split(jax.random.key(1), 2), jnp.array([0.9, 0.5])
    grid = jax.jit(jax.vmap(jax.vmap(final, (None, 0)), (0, None)))(keys, discounts)
    alone = jax.jit(final)
    for i, j in np.ndindex(2, 2):
        assert gap(jax.tree.map(lambda x, i=i, j=j: x[i, j], grid), alone(keys[i], discounts[j])) <= TOLERANCE
    assert gap(alone(keys[0], discounts[0]), alone(keys[0], discounts[1])) > 1e-3
    assert gap(alone(keys[0], discounts[0]), alone(keys[1], discounts[0])) > 1e-3


@every_agent("q-learning")
def test_jit_equals_no_jit_and_keeps_structure(name):
    agent = agent_of(name)
    plan = plan_of(name) | dict(rounds=3, warmup=8)
    run, start, _ = program(agent, plan)
    before = start(jax.random.key(2), hyper_of(name))
    after = run(jax.random.key(2), hyper_of(name))[0]
    compiled = jax.jit(run)(jax.random.key(2), hyper_of(name))[0]
    assert gap(after[0].params, compiled[0].params) <= TOLERANCE
    shapes = [
        jax.tree.map(lambda x: (x.shape, x.dtype, getattr(x, "weak_type", False)), tree)
        for tree in (before[0], after[0])
    ]
    assert shapes[0] == shapes[1]
    floats = {x.dtype for x in jax.tree.leaves(after[0]) if jnp.issubdtype(x.dtype, jnp.floating)}
    assert floats == {jnp.dtype(float) if jax.config.jax_enable_x64 else jnp.dtype(jnp.float32)}


@pytest.mark.float32
@every_agent("q-iteration")
@pytest.mark.trust(16)
def test_same_seed_same_bytes_other_seed_other_bytes(name):
    run = jax.jit(program(agent_of(name), plan_of(name))[0])
    first, again, other = (run(jax.random.key(seed), hyper_of(name))[0][0].params for seed in (3, 3, 4))
    assert gap(first, again) == 0
    assert gap(first, other) > 0


@pytest.mark.float32
@every_agent("dqn", "pqn")
@pytest.mark.trust(10)
def test_state_shares_no_buffer_and_donation_keeps_the_store_in_place(name):
    agent = loop.jit_agent(agent_of(name))
    _, start, _ = program(agent, plan_of(name))
    key = jax.random.key(0)
    state, _, obs = start(key, hyper_of(name))
    arrays = [x for x in jax.tree.leaves(state) if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)]
    pointers = [x.unsafe_buffer_pointer() for x in arrays if x.size]
    assert len(set(pointers)) == len(pointers)
    if ring_of(state) is not None:
        places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(ring_of(state).rows)]
        _, extra = agent.act(state, obs)
        state = agent.observe(state, zero_step(obs)._replace(extra=extra))
        state, _ = agent.learn(state)
        assert [x.unsafe_buffer_pointer() for x in jax.tree.leaves(ring_of(state).rows)] == places
    assert jax.random.key_data(key).shape, "the caller's key must survive donation"


@pytest.mark.float32
@every_agent("dqn", "pqn", "q-learning", "q-iteration")
def test_arrays_of_the_caller_are_neither_changed_nor_kept(name):
    """An emulator may write its next frame where the last one was."""
    agent = loop.jit_agent(agent_of(name))
    obs = np.array(autoreset(catch(), num_envs=ENVS)[0](jax.random.key(0))[1])
    given = [obs.copy(), jax.tree.map(np.array, zero_step(obs)._replace(valid=np.ones(ENVS, bool)))]
    state = agent.init(jax.random.key(0), given[0], hyper_of(name))
    extra = agent.act(state, given[0])[1]
    given[1] = given[1]._replace(extra=jax.tree.map(np.array, extra))
    before = jax.tree.map(np.copy, given)
    state = agent.observe(state, given[1])
    jax.tree.map(np.testing.assert_array_equal, given, before)
    seen = jax.tree.map(np.array, (state.data, state.params, state.target))
    for x in jax.tree.leaves(given):
        x[...] = 1
    jax.tree.map(np.testing.assert_array_equal, (state.data, state.params, state.target), seen)


@pytest.mark.float32
@every_agent("pqn")
def test_resumed_equals_uninterrupted(name, tmp_path):
    """To the last bit, through the files of a checkpoint: a state is all that a learner knows."""
    plan = plan_of(name) | dict(warmup=8, rounds=20)
    agent = agent_of(name)
    _, start, env_step = program(agent, plan)
    go_on = jax.jit(lambda carry: loop.train(agent, env_step, carry, **plan))
    (state, env, obs), _ = go_on(start(jax.random.key(0), hyper_of(name)))
    checkpoint.save(tmp_path / "last", state, {})
    kept, _ = checkpoint.load(tmp_path / "last", jax.eval_shape(lambda: state))
    uninterrupted, resumed = go_on((state, env, obs)), go_on((kept, env, obs))
    jax.tree.map(np.testing.assert_array_equal, *(jax.tree.map(plain, x) for x in (resumed, uninterrupted)))


def plain(x):
    return jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x


@of(name for name, entry in agents.REGISTRY.items() if entry.config is Config)
def test_no_gradient_flows_into_the_target_network(name):
    config, spec, rng = settings_of(name), catch().spec(ENVS), np.random.default_rng(0)
    head = head_of(config)
    network = network_of(config, spec, **network_variant(config, head))
    obs, next_obs = jnp.asarray(rng.integers(spec.num_states, size=(2, ENVS)), spec.obs.dtype)
    action, ones = jnp.asarray(rng.integers(3, size=ENVS)), jnp.ones(ENVS)
    rows = Transition(obs=obs, action=action, reward=ones, discount=ones / 2, next_obs=next_obs, weight=ones)
    params, target = (network.init(jax.random.key(i), obs) for i in range(2))

    def loss(params, target):
        key = jax.random.key(2) if config.noisy or head.fractions else None
        return q_loss(params, target, rows, network.apply, backup=backup_of(config), head=head, key=key)[0]

    into_online, into_target = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, target)
    assert gap(into_online, jax.tree.map(jnp.zeros_like, into_online)) > 0
    assert gap(into_target, jax.tree.map(jnp.zeros_like, into_target)) == 0


@pytest.mark.float32
@pytest.mark.parametrize("name", ["per-dqn", pytest.param("r2d2", marks=pytest.mark.slow)])
def test_a_compiled_loop_copies_no_store(name):
    """XLA would copy it at every turn, if a write did not depend on what was read from it."""
    config = settings_of(name)
    agent = agents.REGISTRY[name].make(dataclasses.replace(config, capacity=5_002), catch().spec(ENVS))
    _, start, env_step = program(agent, REPLAY)
    carry = start(jax.random.key(0), hyper_of(name))
    slots = len(ring_of(carry[0]).rows.valid)
    played = jax.jit(lambda carry: loop.train(agent, env_step, carry, **REPLAY), donate_argnums=0)
    text = played.lower(carry).compile().as_text()
    stores = rf"\[{slots},|\[{-(-slots * ENVS // 128)},128\]"
    assert re.search(rf"= \w+(?:{stores})\S* parameter", text), "the store is not where it is looked for"
    copies = [line.strip()[:99] for line in text.splitlines() if re.search(rf"= \w+(?:{stores})\S* copy\(", line)]
    assert not copies


@pytest.mark.float32
@every_agent("q-learning")
@pytest.mark.trust(9)
def test_policy_is_greedy_at_zero_and_random_at_one(name):
    agent = agent_of(name)
    (state, env, obs), _ = jax.jit(program(agent, plan_of(name))[0])(jax.random.key(0), hyper_of(name))
    keys = jax.random.split(jax.random.key(1), 200)
    greedy, random = (
        np.asarray(jax.vmap(lambda key, e=e: agent.policy(state.params, obs, (), key, e)[0])(keys)) for e in (0.0, 1.0)
    )
    assert {tuple(np.unique(column)) for column in random.T} == {(0, 1, 2)}
    if deep(name):
        assert np.all(greedy == greedy[0])


ANNUITY = JaxEnv(  # pays 1 and never changes
    reset=lambda key: jnp.int32(0),
    step=lambda key, state, action: (state, jnp.float32(1), jnp.bool_(False)),
    num_actions=1,
    num_states=1,
)
BIAS = Network(  # one number, whatever is seen
    init=lambda key, obs: jnp.zeros(1),
    apply=lambda params, obs, memory=(), key=None: (jnp.broadcast_to(params, (*obs.shape, 1)), memory),
)
PROBES = {
    "q-learning": (q_learning(1, 1), 0.01),
    "dqn": (
        dqn(BIAS, uniform_replay(1200), scalar(optax.l2_loss), batch_size=256, optimizer=optax.identity()),
        0.1,
    ),
}


@pytest.mark.often("q-learning")
@pytest.mark.parametrize("name", PROBES)
@pytest.mark.trust(2)
def test_truncation_bootstraps_and_termination_does_not(name):
    """An annuity of 1 at discount 0.9 is worth 10; if one step in 5 ends it, and all look alike, 1 / (1 - 0.72)."""
    agent, learning_rate = PROBES[name]
    plan = dict(warmup=300, rounds=2000, rollout_length=1)
    hyper = hyper_of(name)._replace(learning_rate=learning_rate, target_period_updates=10)
    for limit_terminates, worth in (False, 10.0), (True, 1 / (1 - 0.9 * 4 / 5)):
        run = program(agent, plan, ANNUITY, step_limit=5, limit_terminates=limit_terminates)[0]
        (state, *_), _ = jax.jit(run)(jax.random.key(0), hyper)
        np.testing.assert_allclose(jax.tree.leaves(state.params)[0].ravel()[0], worth, atol=0.1)


def test_an_mdp_of_gymnasium_runs_inside_scan_and_is_learned():
    mdp = from_gymnasium("FrozenLake-v1", is_slippery=False)
    jax_env = from_mdp(mdp)
    agent = q_learning(jax_env.num_states, jax_env.num_actions)
    hyper = Hyper(**TABLES | dict(learning_rate=0.2, exploration_steps=20_000.0))
    plan = dict(warmup=0, rounds=10_000, rollout_length=1)
    (state, *_), _ = jax.jit(program(agent, plan, jax_env)[0])(jax.random.key(0), hyper)
    np.testing.assert_allclose(jnp.max(state.params["q_values"][0]), 0.9**5, atol=1e-3)


@pytest.mark.float32
@of((name for name in agents.REGISTRY if deep(name)), often=("dqn",))
def test_it_catches(name):
    """Nearly every ball caught (mean return 1) after 30 compiled seconds at most; without learning the mean is -0.6."""
    config = dataclasses.replace(settings_of(name), gradient_steps=8 if name == "pqn" else 1)
    agent = agents.REGISTRY[name].make(config, catch().spec(ENVS))
    hyper = hyper_of_settings(config)._replace(learning_rate=3e-3, discount=0.9, target_period_updates=50)
    hyper = hyper._replace(exploration_steps=min(hyper.exploration_steps, 4_000))
    hyper = hyper if isinstance(hyper.beta, tuple) else hyper._replace(beta_steps=8_000)
    plan = dict(warmup=100, rounds=1_500, rollout_length=1)
    plan = dict(warmup=0, rounds=1_500, rollout_length=8) if name == "pqn" else plan
    run = jax.jit(program(agent, plan)[0]).lower(jax.random.key(0), hyper).compile()
    began = time.perf_counter()
    (state, env, obs), _ = jax.block_until_ready(run(jax.random.key(0), hyper))
    seconds = time.perf_counter() - began
    _, env_step = autoreset(catch(), num_envs=ENVS)

    def play(carry, tick):
        env, obs = carry
        action, _ = agent.policy(state.params, obs, (), jax.random.key(0))
        env, (obs, reward, terminated, *_) = env_step(env, action)
        return (env, obs), (reward, terminated)

    _, (rewards, ended) = jax.lax.scan(play, (env, obs), None, 300)
    assert jnp.sum(rewards) / jnp.sum(ended) >= 0.8
    assert seconds < 30


REPLAYS = {  # settings whose learner has a replay
    "dqn": dict(capacity=20_000, batch_size=8, gradient_steps=2, hidden=(8,)),
    "per-dqn": dict(capacity=20_000, batch_size=8, gradient_steps=2, hidden=(8,)),
    "r2d2": dict(capacity=20_000, batch_size=8, gradient_steps=2, hidden=(8,), core_width=4, prioritised=True),
}


@pytest.mark.often("dqn", "per-dqn")
@pytest.mark.parametrize("name", REPLAYS)
def test_learn_copies_no_buffer_of_the_replay(name):
    """The compiled program reuses the memory of the state that it is given, and its own is less than the store's."""
    entry = agents.REGISTRY[name]
    config = entry.config(**entry.overrides | REPLAYS[name])
    agent, obs = entry.make(config, catch().spec(ENVS)), jnp.zeros(ENVS, jnp.int32)
    state = jax.eval_shape(agent.init, jax.random.key(0), obs, hyper_of_settings(config))
    compiled = jax.jit(agent.learn, donate_argnums=0).lower(state).compile()
    memory, ring = compiled.memory_analysis(), ring_of(state)
    stored = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((ring.rows, ring.priorities)))
    assert memory.alias_size_in_bytes == memory.argument_size_in_bytes
    assert memory.temp_size_in_bytes < stored
    slots = len(ring.rows.valid)
    stores = rf"\[{slots},|\[{-(-slots * ENVS // 128)},128\]"
    assert re.search(rf"= \w+(?:{stores})\S* parameter", compiled.as_text()), "the store is not where it is looked for"
    assert not re.search(rf"= \w+(?:{stores})\S* copy\(", compiled.as_text())
