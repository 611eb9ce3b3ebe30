"""Deep Q-learning: one learner, of which the published variants are settings that combine freely."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from jaxql import heads, losses
from jaxql.agents.base import (
    INIT,
    LEARN,
    LEARN_DRAWS,
    RunConfig,
    State,
    address,
    after,
    beta_of,
    epsilon_greedy_on,
    epsilon_of,
    grouped_gradient,
    learning_rate_of,
    new_state,
    within,
)
from jaxql.errors import UserError
from jaxql.networks import fits, make_network, masked, natural_network
from jaxql.replay import blank_step, prioritised_replay, uniform_replay
from jaxql.types import Agent, Network, Replay, Spec, Step


@dataclasses.dataclass(frozen=True)
class Config(RunConfig):
    """Settings of the deep Q learner; `NAMED` has those of the papers."""

    # auto: nature-cnn for images, minatar-cnn for small ones, else mlp
    network: Literal["auto", "mlp", "nature-cnn", "nips-cnn", "minatar-cnn"] = "auto"
    hidden: tuple[int, ...] = (64, 64)  # widths of the MLP's hidden layers
    convolution: Literal["auto", "xla", "products"] = "auto"  # auto: matrix products on CPUs and of many seeds
    layer_norm: bool = False  # before each ReLU
    dueling: bool = False  # a stream for the value, one for the advantages
    noisy: bool = False  # noise in the weights of the last layers explores; set epsilon to 0 beside it
    head: Literal["scalar", "munchausen", "categorical", "quantile", "implicit-quantile", "hl-gauss"] = "scalar"
    atoms: int = within(51, 1)  # of a distributional head: atoms, quantiles, fractions or bins
    v_min: float = within(-10.0, -math.inf)  # the least return of a categorical or hl-gauss head
    v_max: float = within(10.0, -math.inf)  # the greatest
    munchausen_temperature: float = within(0.03, 1e-9)  # of the munchausen head
    munchausen_alpha: float = within(0.9, 0)  # its share of the log-policy in the reward
    double: bool = False  # the online network selects the next action, the target network evaluates it
    n_step: int = within(1, 1)  # steps of reward before the bootstrap
    loss: Literal["huber", "squared"] = "huber"
    batch_size: int = within(32, 1)
    groups: int = within(1, 1)  # parts of worlds and batch that draw and learn apart; a multiple of a mesh's devices
    capacity: int = within(100_000, 1, 2**31 - 1)  # rows of replay
    prioritised: bool = False  # rows are drawn in proportion to (|TD error| + 1e-6)**alpha
    alpha: float = within(0.5, 0)  # that exponent
    beta: float = within(0.4, 0)  # exponent of the importance weights at the start; it rises linearly to 1 ...
    beta_steps: int = within(1_000_000, 1)  # ... in so many env steps
    clip_rewards: bool = False  # the learner sees the sign of a reward; scores stay raw
    learning_rate: float = within(2.5e-4, 0)  # Adam's
    decay_from: int = within(0, 0)  # updates after which the learning rate falls
    decay_updates: int = within(1, 1)  # updates in which it falls linearly to decay_to of itself
    decay_to: float = within(1.0, 0, 1)  # 1 keeps it constant
    adam_epsilon: float = within(1e-8, 0)
    max_gradient_norm: float = within(10.0, 0)  # the global norm; 0 for no limit
    target: Literal["hard", "polyak", "none"] = "hard"  # how the target network follows the online one
    target_period_updates: int = within(500, 1)  # hard: updates between copies
    tau: float = within(0.005, 0, 1)  # polyak: how much of the way it goes with every update
    epsilon: float = within(0.01, 0, 1)  # where exploration ends
    exploration_steps: int = within(30_000, 1)  # env steps in which epsilon falls there from 1


def make(config: Config, spec: Spec, network: Network | None = None) -> Agent:
    """The learner for these worlds, with the network given or the one that the settings name."""
    auto, head = natural_network(spec), head_of(config)
    name = auto if config.network == "auto" else config.network
    if name != "mlp" and not fits(name, spec) and network is None:
        raise UserError(f'network "{name}" needs images (bytes [H, W, C] or stacked frames); use "{auto}" here')
    if spec.num_worlds % config.groups or config.batch_size % config.groups:
        raise UserError(
            f"groups is {config.groups}; it must divide the number of worlds ({spec.num_worlds}) and batch_size "
            f"({config.batch_size})"
        )
    make_replay = prioritised_replay if config.prioritised else uniform_replay
    variant = {name: getattr(config, name) for name in ("dueling", "noisy", "layer_norm", "convolution")}
    limit = optax.clip_by_global_norm(config.max_gradient_norm) if config.max_gradient_norm else optax.identity()
    return dqn(
        network or make_network(name, spec, config.hidden, outputs=head.outputs, fractions=head.fractions, **variant),
        make_replay(config.capacity, config.n_step, spec.stack, groups=config.groups),
        head,
        batch_size=config.batch_size,
        groups=config.groups,
        double=config.double,
        penalty={"huber": optax.huber_loss, "squared": optax.l2_loss}[config.loss],
        optimizer=optax.chain(limit, optax.scale_by_adam(eps=config.adam_epsilon)),
        target=config.target,
        clip_rewards=config.clip_rewards,
        draws=config.noisy or head.fractions > 0,
    )


def head_of(config: Config) -> heads.Head:
    """The head that the settings name."""
    if config.v_min >= config.v_max:
        raise UserError(f"v_min is {config.v_min} and v_max {config.v_max}; v_min must be less")
    if config.head == "munchausen" and config.double:
        raise UserError("the munchausen head averages over a policy and chooses no action; set double to False")
    return {
        "scalar": heads.scalar,
        "munchausen": lambda: heads.munchausen(config.munchausen_temperature, config.munchausen_alpha),
        "categorical": lambda: heads.categorical(config.v_min, config.v_max, config.atoms),
        "hl-gauss": lambda: heads.hl_gauss(config.v_min, config.v_max, config.atoms),
        "quantile": lambda: heads.quantile(config.atoms),
        "implicit-quantile": lambda: heads.implicit_quantile(config.atoms),
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
) -> Agent:
    """The agent of any network, replay and head (scalar if None).

    `groups` is the replay's; the gradient of a batch is the weighted mean of theirs, and each has its own noise.
    `optimizer` has no learning rate, which is in `state.hyper`. `draws` says that the network draws noise or fractions,
    so that it needs a key to act and to learn; the policy that is evaluated draws nothing.
    """
    network, head = masked(network), head or heads.scalar()
    optimizer = optimizer or optax.scale_by_adam()
    act, policy = epsilon_greedy_on(
        lambda params, obs, key: head.q_values(network.apply(params, obs, key=key if draws else None)[0])
    )

    def init(key, obs, hyper) -> State:
        params, ring = network.init(address(key, INIT), obs), replay.init(blank_step(obs))
        followed = () if target == "none" else params
        return new_state(key, hyper, params=params, target=followed, opt_state=optimizer.init(params), data=ring)

    def observe(state: State, step: Step) -> State:
        reward = jnp.sign(step.reward) if clip_rewards else step.reward
        return after(state, step, data=replay.add(state.data, step._replace(reward=reward)))

    def learn(state: State):
        hyper, updates = state.hyper, state.updates + 1
        key = address(state.key, LEARN, state.updates)
        batch = replay.sample(state.data, key, batch_size, hyper.discount, beta_of(state))

        def loss(params, batch, key):
            followed = state.params if target == "none" else state.target
            return head.loss(params, followed, batch, network.apply, double=double, penalty=penalty, key=key)

        draws_key = address(state.key, LEARN_DRAWS, state.updates) if draws else None
        (value, (td_errors, q_values)), gradient = grouped_gradient(loss, state.params, batch, draws_key, groups)
        direction, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        rate = learning_rate_of(state)
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
        followed = state.target
        if target == "hard":
            followed = optax.periodic_update(params, followed, updates, hyper.target_period_updates)
        elif target == "polyak":
            followed = optax.incremental_update(params, followed, hyper.tau)
        data = state.data
        if replay.update is not None:
            data = replay.update(data, batch.index, td_errors, hyper.alpha)
        metrics = {
            "loss": value,
            "epsilon": epsilon_of(state),
            "gradient_norm": optax.tree.norm(gradient),
            "q_mean": losses.weighted_mean(q_values, batch.weight),
        }
        return state._replace(params=params, target=followed, opt_state=opt_state, data=data, updates=updates), metrics

    return Agent(init=init, act=act, observe=observe, learn=learn, policy=policy)


NAMED = {  # what each name changes of the defaults
    "double-dqn": dict(double=True),  # https://arxiv.org/abs/1509.06461
    "dueling-dqn": dict(dueling=True, double=True),  # https://arxiv.org/abs/1511.06581
    "per-dqn": dict(prioritised=True, alpha=0.6, double=True),  # https://arxiv.org/abs/1511.05952
    "noisy-dqn": dict(noisy=True, epsilon=0.0, exploration_steps=1),  # https://arxiv.org/abs/1706.10295
    "c51": dict(head="categorical"),  # https://arxiv.org/abs/1707.06887
    "qr-dqn": dict(head="quantile"),  # https://arxiv.org/abs/1710.10044
    "iqn": dict(head="implicit-quantile", atoms=32),  # https://arxiv.org/abs/1806.06923
    "munchausen-dqn": dict(head="munchausen", double=False),  # https://arxiv.org/abs/2007.14430
    "rainbow": dict(  # https://arxiv.org/abs/1710.02298
        head="categorical",
        double=True,
        dueling=True,
        noisy=True,
        epsilon=0.0,
        exploration_steps=1,
        n_step=3,
        prioritised=True,
    ),
}

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
        convolution="xla",  # a tenth faster than products for so small a network
        layer_norm=True,
        double=True,
        n_step=10,
        discount=0.98,
        prioritised=True,
        beta_steps=600_000,
        learning_rate=5e-4,
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
