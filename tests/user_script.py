"""A user's script, which a type checker must accept: an agent, a backup and a head of one's own, and a run."""

import jax
import jax.numpy as jnp

import jaxql
from jaxql import bellman, loop, losses
from jaxql.agents import AgentEntry, dqn
from jaxql.agents.state import hyper_of
from jaxql.envs.jax import autoreset, catch
from jaxql.losses import ActionValues, heads
from jaxql.types import Agent, Array, Backup, BackupRule, Head, Network, Transition


def boltzmann(values: ActionValues) -> Backup:
    return Backup(policy=jax.nn.softmax(values.target_next))


def table(params: Array, obs: Array, memory: tuple[()] = (), key: Array | None = None) -> tuple[Array, tuple[()]]:
    return params[obs], memory


def update(params: Array, rows: Transition, backup: BackupRule = boltzmann) -> Array:
    head: Head = heads.scalar()
    gradient = jax.grad(lambda p: losses.q_loss(p, params, rows, table, backup=backup, head=head)[0])(params)
    return params - 0.1 * gradient


def play() -> float:
    config = dqn.Config(capacity=100, batch_size=4, backup="munchausen", head="two-hot")
    jax_env = catch()
    agent: Agent = dqn.make(config, jax_env.spec(4), backup=boltzmann)
    begin, env_step = autoreset(jax_env, num_envs=4)
    env, obs = begin(jax.random.key(0))
    carry = agent.init(jax.random.key(0), obs, hyper_of(config)), env, obs
    _, metrics = loop.train(agent, env_step, carry, warmup=20, rounds=5, rollout_length=1)
    return float(metrics["loss"][-1, -1])


def train(entry: AgentEntry | str = "q-learning") -> float:
    run = jaxql.train(entry, "FrozenLake-v1", seed=0, steps=1_000, quiet=True)
    assert isinstance(run, jaxql.Run)
    return float(run.evaluate(episodes=5).returns.mean())


if __name__ == "__main__":
    network = Network(init=lambda key, obs: jnp.zeros((3, 2)), apply=table)
    rows = Transition(
        obs=jnp.array([0]),
        action=jnp.array([1]),
        reward=jnp.ones(1),
        discount=jnp.ones(1),
        next_obs=jnp.array([1]),
        weight=jnp.ones(1),
    )
    print(update(network.init(jax.random.key(0), rows.obs), rows))
    print(bellman.q_learning(jnp.zeros(2), 0, 1.0, 0.9, jnp.ones(2)))
    print(play(), train())
