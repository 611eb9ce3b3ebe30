"""The laws of a mesh, which need 8 devices: `test_mesh.py` runs them in a process that has so many."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from test_resume import settings_of

import jaxql
from jaxql import agents, loop, mesh
from jaxql.agents.state import hyper_of
from jaxql.envs.jax import autoreset, catch
from jaxql.errors import UserError
from jaxql.lab.settings import RunSettings
from jaxql.replay import Ring, zero_step
from jaxql.types import EnvSpec

ENVS, DEVICES = 16, Mesh(jax.devices(), ("envs",))
SMALL = dict(
    gradient_steps=4, n_step=3, capacity=400, batch_size=32, hidden=(32,), v_min=-2.0, v_max=2.0, beta_steps=500
)
TOLERANCE = 1e-10 if jax.config.jax_enable_x64 else 1e-5
COLLECTIVE = re.compile(r"= (.*) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


def agent_of(name, **changes):
    """(agent, hyper, plan) of some updates on Catch."""
    entry = agents.REGISTRY[name]
    settings, plan = entry.overrides | changes, dict(warmup=10, rounds=10, rollout_length=2)
    if entry.config is agents.REGISTRY["dqn"].config:
        settings = SMALL | settings
    elif name == "pqn":
        settings = dict(rollout_length=8, gradient_steps=4, minibatches=4, hidden=(32,))
        plan = plan | dict(warmup=0, rollout_length=8)
    else:
        plan = dict(warmup=0, rounds=40, rollout_length=1)
    config = entry.config(**settings)
    hyper = hyper_of(config)._replace(learning_rate=1e-3, discount=0.9, exploration_steps=500.0)
    return entry.make(config, catch().spec(ENVS)), hyper, plan


def trained(name, devices, **changes):
    """(state, obs) after training; on the first device alone if `devices` is None."""
    agent, hyper, plan = agent_of(name, **changes)
    agent = mesh.shard_agent(agent, devices) if devices else loop.jit_agent(agent)
    begin, env_step = autoreset(catch(), num_envs=ENVS)
    env, obs = jax.jit(begin)(jax.random.key(0))
    if devices:
        env, obs = jax.device_put((env, obs), mesh.env_sharding(devices))
    carry = jax.jit(agent.init)(jax.random.key(0), obs, hyper), env, obs
    (state, _, obs), _ = loop.train(agent, jax.jit(env_step), carry, **plan, scan=loop.host_scan)
    return state, obs


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        pytest.param("dqn", dict(shards=1), marks=pytest.mark.slow),
        pytest.param("per-dqn", dict(shards=16), marks=pytest.mark.slow),
        pytest.param("dqn", dict(shards=8), marks=pytest.mark.slow),
        pytest.param("q-learning", {}, marks=pytest.mark.slow),
        pytest.param("pqn", {}, marks=pytest.mark.slow),
        pytest.param("rainbow", dict(shards=8), marks=pytest.mark.slow),
        pytest.param("iqn", dict(shards=8), marks=pytest.mark.slow),
    ],
)
def test_eight_devices_equal_one(name, changes):
    (many, obs), (one, _) = trained(name, DEVICES, **changes), trained(name, None, **changes)
    for x, y in zip(jax.tree.leaves(many.params), jax.tree.leaves(one.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=TOLERANCE)
        assert x.is_fully_replicated
    assert many.updates == one.updates == 40
    assert many.env_steps == one.env_steps
    shards = {shard.data.shape for shard in obs.addressable_shards}
    assert shards == {(ENVS // 8,)}
    if isinstance(many.data, Ring):
        np.testing.assert_array_equal(many.data.rows.action, one.data.rows.action)
        for x in jax.tree.leaves(many.data.rows):
            assert [shard.data.shape[1] for shard in x.addressable_shards] == [ENVS // 8] * 8


def collectives(compiled):
    """[(kind, most numbers in one of its arrays)] of a compiled program."""
    found = COLLECTIVE.findall(compiled.as_text())
    return [(kind, max(_size(shape) for shape in re.findall(r"\[([\d,]*)\]", types))) for types, kind in found]


def _size(shape):
    return int(np.prod([int(x) for x in shape.split(",") if x], initial=1))


def placed_shapes(tree):
    shardings = mesh.tree_shardings(tree, DEVICES)
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree, shardings)


FRAMES = jax.ShapeDtypeStruct((ENVS, 4, 36, 36), jnp.uint8, sharding=mesh.env_sharding(DEVICES))


@pytest.mark.parametrize("convolution", ["xla", pytest.param("auto", marks=pytest.mark.slow)])
def test_learning_communicates_once(convolution):
    """From frames stored on 8 devices to new parameters: one all-reduce, which carries the gradient."""
    entry = agents.REGISTRY["dqn"]
    config = entry.config(shards=8, capacity=160, network="nips-cnn", convolution=convolution)
    agent = mesh.shard_agent(entry.make(config, EnvSpec(obs=FRAMES, num_actions=6, num_envs=ENVS, stack=4)), DEVICES)
    state = placed_shapes(jax.eval_shape(agent.init, jax.random.key(0), FRAMES, hyper_of(config)))
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    assert collectives(agent.learn.lower(state).compile()) == [
        ("all-reduce", parameters + 2)
    ]  # and the loss and the weights
    step = placed_shapes(jax.eval_shape(zero_step, FRAMES))
    assert collectives(agent.observe.lower(state, step).compile()) == [("all-reduce", 1)]  # the count of env steps
    assert collectives(agent.act.lower(state, FRAMES).compile()) == []


def test_the_store_is_shared_out_from_the_start_and_written_in_place():
    """Of prioritised replay too, whose learning communicates more than once; but the gradient does only once."""
    agent, hyper, _ = agent_of("per-dqn", shards=8)
    agent = mesh.shard_agent(agent, DEVICES)
    obs = jax.device_put(jnp.zeros(ENVS, jnp.int32), mesh.env_sharding(DEVICES))
    state = agent.init(jax.random.key(0), obs, hyper)
    step = jax.device_put(zero_step(obs), mesh.env_sharding(DEVICES))

    def places(tree):
        return [shard.data.unsafe_buffer_pointer() for x in jax.tree.leaves(tree) for shard in x.addressable_shards]

    every = places(state._replace(key=()))
    assert len(set(every)) == len(every), "two arrays share a buffer"
    before, learn = places(state.data.rows), agent.learn.lower(state).compile()
    for _ in range(2):
        state, _ = learn(agent.observe(state, step))
    assert places(state.data.rows) == before
    assert state.data.rows.reward.sharding.is_equivalent_to(mesh.env_sharding(DEVICES, axis=1), 2)
    sizes = [size for kind, size in collectives(learn) if kind == "all-reduce"]
    assert [size for size in sizes if size > 1] == [sum(x.size for x in jax.tree.leaves(state.params)) + 2]


RUN = dict(steps=800, num_envs=8, log_every=200, eval_every=400, checkpoint_every=200, eval_episodes=4, quiet=True)
RUN |= dict(solved_at=np.inf)


def settings_of_run(name):
    """Small settings of any agent, with as many shards as there are devices where it has shards."""
    fields = agents.REGISTRY[name].config.__dataclass_fields__
    small = settings_of(name) | dict(batch_size=32, shards=8, horizon_anneal_updates=50) | RUN
    of_run = RunSettings.__dataclass_fields__
    return {key: value for key, value in small.items() if key in fields or key in of_run or key == "quiet"}


def table_of(run):
    return np.genfromtxt(run.folder / "metrics.csv", delimiter=",", skip_header=1)


@pytest.mark.parametrize("name", ["dqn", *(pytest.param(name, marks=pytest.mark.slow) for name in agents.REGISTRY)])
def test_a_run_on_eight_devices_equals_one_and_resumes(tmp_path, name):
    settings, env = settings_of_run(name), "FrozenLake-v1" if name.endswith("iteration") else "jax:catch"
    one, many = (
        jaxql.train(name, env, out=tmp_path / str(devices), devices=devices, **settings) for devices in (1, "all")
    )
    for x, y in zip(jax.tree.leaves(many.state.params), jax.tree.leaves(one.state.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=10 * TOLERANCE)
    np.testing.assert_allclose(table_of(many), table_of(one), rtol=1_000 * TOLERANCE, atol=100 * TOLERANCE)

    def killed(row):
        if row["env_steps"] >= 600:
            raise RuntimeError("as good as killed")

    with pytest.raises(RuntimeError):
        jaxql.train(name, env, out=tmp_path / "parts", devices="all", callback=killed, **settings)
    resumed = jaxql.resume(tmp_path / "parts", quiet=True)
    np.testing.assert_array_equal(table_of(resumed), table_of(many))
    for x, y in zip(jax.tree.leaves(resumed.state.params), jax.tree.leaves(many.state.params), strict=True):
        np.testing.assert_array_equal(x, y)


def test_what_several_devices_cannot_share_is_refused(tmp_path):
    for settings, line in [
        (dict(devices=9), "devices=9, and JAX has 8 .cpu.; JAX_NUM_CPU_DEVICES"),
        (dict(devices=0), "devices=0: it must be"),
        (dict(devices=8, num_envs=4), "8 devices cannot share num_envs=4 equally: give a multiple of 8"),
        (dict(devices=2, seeds=2, num_envs=4), "several devices train one seed"),
    ]:
        with pytest.raises(UserError, match=line):
            jaxql.train("dqn", "jax:catch", out=tmp_path / "run", steps=400, quiet=True, **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_part_of_the_devices_will_do():
    four = Mesh(jax.devices()[:4], ("envs",))
    (many, _), (one, _) = (trained("dqn", devices, shards=4) for devices in (four, None))
    for x, y in zip(jax.tree.leaves(many.params), jax.tree.leaves(one.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=TOLERANCE)
        assert len(x.sharding.device_set) == 4
