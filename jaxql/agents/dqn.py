"""Deep Q-learning: one learner, of which the published variants are settings that combine freely."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from jaxql import heads
from jaxql.agents.base import (
    INIT,
    LEARN,
    LEARN_DRAWS,
    RESET,
    State,
    after,
    annealed_horizon,
    anywhere,
    beta_of,
    epsilon_greedy_on,
    grouped_gradient,
    new_state,
    updates_since_reset,
    within,
)
from jaxql.agents.deep import DeepConfig, descend, follow, network_of, optimizer_of, report
from jaxql.errors import UserError
from jaxql.kernels import derive_key
from jaxql.networks import masked, shrunk
from jaxql.replay import blank_step, ordered, prioritised_replay, uniform_replay
from jaxql.types import Agent, Network, Replay, Spec, Step

Heads = Literal[
    "scalar", "munchausen", "categorical", "quantile", "implicit-quantile", "munchausen-implicit-quantile", "hl-gauss"
]


@dataclasses.dataclass(frozen=True)
class Config(DeepConfig):
    """Settings of the deep Q learner; `variants.NAMED` has those of the papers."""

    dueling: bool = False  # a stream for the value, one for the advantages
    noisy: bool = False  # noise in the weights of the last layers explores; set epsilon to 0 beside it
    head: Heads = "scalar"  # what the network says of an action
    atoms: int = within(51, 1)  # of a distributional head: atoms, quantiles, fractions or bins
    v_min: float = within(-10.0, -math.inf)  # the least return of a categorical or hl-gauss head
    v_max: float = within(10.0, -math.inf)  # the greatest
    munchausen_temperature: float = within(0.03, 1e-9)  # of a munchausen head
    munchausen_alpha: float = within(0.9, 0)  # its share of the log-policy in the reward
    double: bool = False  # the online network selects the next action, the target network evaluates it
    n_step: int = within(1, 1)  # steps of reward before the bootstrap
    anneal_updates: int = within(0, 0)  # updates from the start or a reset in which n falls from n_step to ...
    n_step_end: int = within(1, 1)  # ... this, and gamma rises from discount to ...
    discount_end: float = within(0.997, 0, 1)  # ... this, both exponentially; anneal_updates 0 keeps them constant
    reset_every_updates: int = within(0, 0)  # updates between resets of network, target and optimiser; 0 for none
    reset_keep: float = within(0.5, 0, 1)  # share of themselves that convolutions keep; other layers are drawn anew
    loss: Literal["huber", "squared"] = "huber"
    batch_size: int = within(32, 1)
    groups: int = within(1, 1)  # parts of worlds and batch that draw and learn apart; a multiple of a mesh's devices
    capacity: int = within(100_000, 1, 2**31 - 1)  # rows of replay
    prioritised: bool = False  # rows are drawn as (|TD error| + 1e-6)**alpha; of a categorical head: (KL + 1e-6)**alpha
    alpha: float = within(0.5, 0)  # that exponent
    beta: float = within(0.4, 0)  # exponent of the importance weights at the start; it rises linearly to 1 ...
    beta_steps: int = within(1_000_000, 1)  # ... in so many env steps
    adam_epsilon: float = within(1e-8, 0)
    target: Literal["hard", "polyak", "none"] = "hard"  # how the target network follows the online one
    target_period_updates: int = within(500, 1)  # hard: updates between copies
    tau: float = within(0.005, 0, 1)  # polyak: how much of the way it goes with every update


def make(config: Config, spec: Spec, network: Network | None = None, head: heads.Head | None = None) -> Agent:
    """The learner for these worlds, with the network and the head given, or those that the settings name."""
    head = head or head_of(config)
    if spec.num_worlds % config.groups or config.batch_size % config.groups:
        raise UserError(
            f"groups is {config.groups}; it must divide the number of worlds ({spec.num_worlds}) and batch_size "
            f"({config.batch_size})"
        )
    if config.anneal_updates and config.n_step_end > config.n_step:
        raise UserError(
            f"n_step_end is {config.n_step_end}; n falls, so it must be at most n_step, which is {config.n_step}"
        )
    make_replay = prioritised_replay if config.prioritised else uniform_replay
    outputs = dict(outputs=head.outputs, fractions=head.fractions, dueling=config.dueling, noisy=config.noisy)
    return dqn(
        network or network_of(config, spec, **outputs),
        make_replay(config.capacity, config.n_step, spec.stack, groups=config.groups),
        head,
        batch_size=config.batch_size,
        groups=config.groups,
        double=config.double,
        penalty={"huber": optax.huber_loss, "squared": optax.l2_loss}[config.loss],
        optimizer=optimizer_of(config, optax.scale_by_adam(eps=config.adam_epsilon)),
        target=config.target,
        clip_rewards=config.clip_rewards,
        draws=config.noisy or head.fractions > 0,
        anneals=config.anneal_updates > 0,
        resets=config.reset_every_updates > 0,
    )


def head_of(config: Config) -> heads.Head:
    """The head that the settings name."""
    if config.v_min >= config.v_max:
        raise UserError(f"v_min is {config.v_min} and v_max {config.v_max}; v_min must be less")
    if config.head.startswith("munchausen") and config.double:
        raise UserError(f"the {config.head} head averages over a policy and chooses no action; set double to False")
    if config.loss != "huber" and config.head not in ("scalar", "munchausen"):
        raise UserError(f"loss is {config.loss}; the {config.head} head has one of its own: leave loss at huber")
    return {
        "scalar": heads.scalar,
        "munchausen": lambda: heads.munchausen(config.munchausen_temperature, config.munchausen_alpha),
        "categorical": lambda: heads.categorical(config.v_min, config.v_max, config.atoms),
        "hl-gauss": lambda: heads.hl_gauss(config.v_min, config.v_max, config.atoms),
        "quantile": lambda: heads.quantile(config.atoms),
        "implicit-quantile": lambda: heads.implicit_quantile(config.atoms),
        "munchausen-implicit-quantile": lambda: heads.munchausen_implicit_quantile(
            config.atoms, config.munchausen_temperature, config.munchausen_alpha
        ),
    }[config.head]()


def dqn(
    network: Network,
    replay: Replay,
    head: heads.Head | None = None,
    *,
    batch_size: int = 32,
    groups: int = 1,
    double: bool = False,
    penalty=optax.huber_loss,
    optimizer=None,
    target: str = "hard",
    clip_rewards: bool = False,
    draws: bool = False,
    anneals: bool = False,
    resets: bool = False,
) -> Agent:
    """The agent of any network, replay and head (scalar if None).

    `groups` is the replay's; the gradient of a batch is the weighted mean of theirs, and each has its own noise.
    `optimizer` has no learning rate, which is in `state.hyper`. `draws` says that the network draws noise or fractions,
    so that it needs a key to act and to learn; the policy that is evaluated draws nothing.
    `anneals` and `resets` say that n and gamma move (`base.annealed_horizon`), and that layers are drawn anew
    (`networks.shrunk`), as numbers in `state.hyper` say.
    """
    network, head = masked(network), head or heads.scalar()
    optimizer = optimizer or optax.scale_by_adam()
    act, policy = epsilon_greedy_on(
        lambda params, obs, key: head.q_values(network.apply(params, obs, key=key if draws else None)[0])
    )

    def init(key, obs, hyper) -> State:
        params, ring = network.init(derive_key(key, INIT, 0, unrolled=False), obs), replay.init(blank_step(obs))
        followed = () if target == "none" else params
        return new_state(key, hyper, params=params, target=followed, opt_state=optimizer.init(params), data=ring)

    def observe(state: State, step: Step) -> State:
        reward = jnp.sign(step.reward) if clip_rewards else step.reward
        return after(state, step, data=replay.add(state.data, step._replace(reward=reward)))

    def learn(state: State):
        key = derive_key(state.key, LEARN, state.updates)
        n, gamma = annealed_horizon(state) if anneals else (None, state.hyper.discount)
        batch = replay.sample(state.data, key, batch_size, gamma, beta_of(state), n)

        def loss(params, batch, key):
            followed = state.params if target == "none" else state.target
            return head.loss(params, followed, batch, network.apply, double=double, penalty=penalty, key=key)

        draws_key = derive_key(state.key, LEARN_DRAWS, state.updates, unrolled=False) if draws else None
        (value, (priority, q_values)), gradient = grouped_gradient(loss, state.params, batch, draws_key, groups)
        metrics = report(state, value, gradient, q_values, batch.weight)
        state = state._replace(data=ordered(state.data, value))
        if replay.update is not None:
            state = state._replace(data=replay.update(state.data, batch.index, priority, state.hyper.alpha))
        state = follow(descend(state, gradient, optimizer), target)
        return reset(state, batch.obs) if resets else state, metrics

    def reset(state: State, obs) -> State:
        """The state with its layers drawn anew, if now is the time."""

        learned, due = (state.params, state.target, state.opt_state), updates_since_reset(state) == 0

        def fresh(params, followed, opt_state):
            drawn = network.init(derive_key(state.key, RESET, state.updates, unrolled=False), obs)
            params = shrunk(params, drawn, state.hyper.reset_keep)
            followed = () if target == "none" else shrunk(followed, drawn, state.hyper.reset_keep)
            new = params, followed, optimizer.init(params)
            return jax.tree.map(lambda new, old: jnp.where(due, new, old), new, learned)

        params, followed, opt_state = jax.lax.cond(anywhere(due), fresh, lambda *learned: learned, *learned)
        return state._replace(params=params, target=followed, opt_state=opt_state)

    return Agent(init=init, act=act, observe=observe, learn=learn, policy=policy)


PRESETS = {
    # The notebook's hyperparameters and stop rule: one environment, one update a step, plain Q-learning.
    "notebook": dict(
        num_envs=1,
        warmup_steps=10_000,
        network="nature-cnn",
        double=False,
        n_step=1,
        loss="squared",
        max_gradient_norm=0.0,
        batch_size=32,
        capacity=10_000,
        learning_rate=1e-4,
        target_period_updates=1_000,
        discount=0.99,
        epsilon=0.01,
        exploration_steps=148_500,  # 1 - t / 150,000 until 0.01
        solved_by="training",
        solved_at=19.0,
        solved_strictly=True,
        test_from=17.0,
        test_every=50_000,
        steps=2_000_000,
    ),
}

TUNED = {
    "CartPole-v1": dict(
        num_envs=8,
        updates=4,
        warmup_steps=1_000,
        steps=200_000,
        hidden=(128, 128),
        double=True,
        v_min=0.0,
        v_max=100.0,
        n_step=3,
        batch_size=64,
        capacity=50_000,
        learning_rate=5e-4,
        target_period_updates=200,
        exploration_steps=10_000,
        epsilon=0.02,
        solved_at=490.0,
        test_every=5_000,
    ),
    "PongNoFrameskip-v4": dict(
        num_envs=16,
        updates=2,
        warmup_steps=5_000,
        steps=2_000_000,
        network="nips-cnn",
        layer_norm=True,
        bfloat16=True,
        double=True,
        n_step=10,
        discount=0.98,
        prioritised=True,
        beta_steps=600_000,
        learning_rate=5e-4,
        decay_from=30_000,
        decay_updates=20_000,
        decay_to=0.2,
        adam_epsilon=1e-4,
        exploration_steps=60_000,
        clip_rewards=True,
        v_min=-5.0,
        v_max=5.0,
        test_from=17.0,
        test_every=10_000,
        solved_at=19.5,
    ),
}
TUNED["jax:cartpole"] = TUNED["CartPole-v1"]
