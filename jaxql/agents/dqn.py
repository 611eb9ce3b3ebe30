"""Deep Q-learning: one learner, of which the published variants are settings that combine freely."""

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxql import losses
from jaxql.agents import presets
from jaxql.agents.config import bounded
from jaxql.agents.deep import DeepConfig, network_of, optimizer_of
from jaxql.agents.registry import AgentEntry
from jaxql.agents.schedules import annealed_horizon, any_in_batch, beta_of, updates_since_reset
from jaxql.agents.state import (
    INIT,
    LEARN,
    LEARN_DRAWS,
    RESET,
    Hyper,
    State,
    count_step,
    epsilon_greedy_on,
    learned_reward,
    new_state,
)
from jaxql.agents.updates import apply_gradient, scan_updates, sharded_gradient, update_metrics, update_target
from jaxql.errors import UserError
from jaxql.kernels import derive_key
from jaxql.losses import backups, heads
from jaxql.losses.batch import legal
from jaxql.losses.heads.full_quantile import probabilities
from jaxql.networks import shrink_and_perturb, with_action_mask
from jaxql.replay import after_read, prioritised_replay, uniform_replay, without_priorities, zero_step
from jaxql.types import Agent, Array, BackupRule, EnvSpec, Head, Network, Replay, Step

BACKUPS: dict[str, Callable[[Any], BackupRule]] = {  # by the name of the setting; each from a Config
    "greedy": lambda config: backups.greedy,
    "double": lambda config: backups.double,
    "expected-sarsa": lambda config: backups.expected_sarsa(config.sarsa_epsilon),
    "persistent": lambda config: backups.persistent(config.persistence),
    "advantage": lambda config: backups.advantage(config.action_gap),
    "soft": lambda config: backups.soft(config.temperature),
    "munchausen": lambda config: backups.munchausen(config.temperature, config.munchausen_alpha),
}
OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {  # by the name of the setting
    "adam": lambda config: optax.scale_by_adam(eps=config.adam_epsilon),
    "rmsprop-centred": lambda config: optax.scale_by_stddev(decay=0.95, eps=0.01),  # as in DQN's paper
    "rmsprop-momentum": lambda config: optax.chain(  # as in MinAtar's DQN
        optax.scale_by_stddev(decay=0.95, eps=0.01, eps_in_sqrt=False), optax.trace(decay=0.95)
    ),
}
DISTRIBUTIONAL = ("categorical", "quantile", "implicit-quantile", "full-quantile")  # heads that predict returns
ReturnsFn: TypeAlias = Callable[[Any, Any], tuple[Array, Array]]  # (params, obs) -> (returns, probabilities) [B, A, M]
if TYPE_CHECKING:
    BackupName: TypeAlias = str
    HeadName: TypeAlias = str
    OptimizerName: TypeAlias = str
else:  # the names that the command line offers and that `validate` accepts
    BackupName, HeadName, OptimizerName = (Literal[tuple(names)] for names in (BACKUPS, heads.HEADS, OPTIMIZERS))


@dataclasses.dataclass(frozen=True)
class Config(DeepConfig):
    """Settings of the deep Q learner; `presets.VARIANTS` has those of the papers."""

    backup: BackupName = "greedy"  # the target rule
    head: HeadName = "scalar"  # the meaning of the network's output
    dueling: bool = False  # a stream for the value, one for the advantages
    noisy: bool = False  # noise in the weights of the last layers explores; set epsilon to 0 beside it
    num_atoms: int = bounded(51, 1)  # atoms, quantiles, fractions or bins of a distributional head
    v_min: float = bounded(-10.0, -math.inf)  # the least return of a categorical, hl-gauss or two-hot head
    v_max: float = bounded(10.0, -math.inf)  # the greatest return of these heads
    temperature: float = bounded(0.03, 1e-9)  # of the soft and munchausen backups
    munchausen_alpha: float = bounded(0.9, 0, 1)  # share of the log-policy in the reward (munchausen backup)
    sarsa_epsilon: float = bounded(0.01, 0, 1)  # epsilon of the policy that the expected-sarsa backup averages over
    persistence: float = bounded(0.1, 0, 1)  # probability of repeating the action (persistent backup)
    action_gap: float = bounded(0.9, 0, 1)  # scale of the bonus (advantage backup)
    n_step: int = bounded(1, 1)  # steps of reward before the bootstrap
    horizon_anneal_updates: int = bounded(0, 0)  # updates in which n falls and gamma rises; 0 keeps both constant
    n_step_end: int = bounded(1, 1)  # n at the end of that, which starts anew after a reset
    discount_end: float = bounded(0.997, 0, 1)  # gamma at the end of that
    reset_every_updates: int = bounded(0, 0)  # updates between resets of network, target and optimiser; 0 for none
    reset_keep: float = bounded(0.5, 0, 1)  # share of themselves that convolutions keep; other layers are drawn anew
    fraction_entropy: float = bounded(0.0, 0)  # weight of the entropy of a full-quantile head's fractions
    loss: Literal["huber", "squared"] = "huber"  # of the TD errors of a scalar head
    batch_size: int = bounded(32, 1)  # transitions of an update
    shards: int = bounded(1, 1)  # parts of envs and batch that draw and learn apart; a multiple of a mesh's devices
    capacity: int = bounded(100_000, 1, 2**31 - 1)  # rows of replay
    prioritised: bool = False  # rows are drawn by their errors; a categorical head's are divergences
    priority_exponent: float = bounded(0.5, 0)  # rows are drawn as (|error| + 1e-6) to this power
    beta: float = bounded(0.4, 0)  # exponent of the importance weights at the start; it rises linearly to 1
    beta_steps: int = bounded(1_000_000, 1)  # env steps in which beta rises
    optimizer: OptimizerName = "adam"  # rmsprop-centred is that of DQN's paper, rmsprop-momentum that of MinAtar's
    adam_epsilon: float = bounded(1e-8, 0)  # added to the root of Adam's second moment
    target: Literal["hard", "polyak", "none"] = "hard"  # how the target network follows the online one
    target_period_updates: int = bounded(500, 1)  # hard: updates between copies
    tau: float = bounded(0.005, 0, 1)  # polyak: share of the way that it moves at every update


def make(
    config: Config,
    spec: EnvSpec,
    network: Network | None = None,
    head: Head | None = None,
    backup: BackupRule | None = None,
) -> Agent:
    """Returns the learner for these envs, with the network, head and backup given or those that the settings name.

    Raises:
      UserError: settings that do not fit each other or the envs.
    """
    head = head or head_of(config)
    if spec.num_envs % config.shards or config.batch_size % config.shards:
        raise UserError(
            f"shards is {config.shards}; it must divide the number of envs ({spec.num_envs}) and batch_size "
            f"({config.batch_size})"
        )
    if config.horizon_anneal_updates and config.n_step_end > config.n_step:
        raise UserError(
            f"n_step_end is {config.n_step_end}; n falls, so it must be at most n_step, which is {config.n_step}"
        )
    make_replay = prioritised_replay if config.prioritised else uniform_replay
    return dqn(
        network or network_of(config, spec, **network_variant(config, head)),
        make_replay(config.capacity, config.n_step, spec.stack, shards=config.shards),
        head,
        backup or backup_of(config),
        gradient_steps=config.gradient_steps,
        batch_size=config.batch_size,
        shards=config.shards,
        optimizer=optimizer_of(config, OPTIMIZERS[config.optimizer](config)),
        target=config.target,
        clip_rewards=config.clip_rewards,
        draws=config.noisy or head.fractions > 0 and not head.proposes,
        anneals=config.horizon_anneal_updates > 0,
        resets=config.reset_every_updates > 0,
    )


def network_variant(config: Config, head: Head) -> dict[str, Any]:
    """Returns what a head and the settings ask of `jaxql.networks.make_network`."""
    return dict(
        outputs=head.outputs,
        fractions=head.fractions,
        proposes=head.proposes,
        dueling=config.dueling,
        noisy=config.noisy,
    )


def backup_of(config: Config) -> BackupRule:
    """Returns the backup that the settings name."""
    return BACKUPS[config.backup](config)


def head_of(config: Config) -> Head:
    """Returns the head that the settings name.

    Raises:
      UserError: v_min is not below v_max, or `loss` is not the head's.
    """
    if config.v_min >= config.v_max:
        raise UserError(f"v_min is {config.v_min} and v_max {config.v_max}; v_min must be less")
    if config.head == "scalar":
        return heads.scalar({"huber": optax.huber_loss, "squared": optax.l2_loss}[config.loss])
    if config.loss != "huber":
        raise UserError(f"loss is {config.loss}; the {config.head} head has one of its own: leave loss at huber")
    if config.head in ("categorical", "hl-gauss", "two-hot"):
        return heads.HEADS[config.head](config.v_min, config.v_max, config.num_atoms)
    if config.head == "full-quantile":
        return heads.full_quantile(config.num_atoms, entropy_coefficient=config.fraction_entropy)
    return heads.HEADS[config.head](config.num_atoms)


def return_distribution(config: Config, spec: EnvSpec, network: Network | None = None) -> ReturnsFn:
    """Returns the function that gives the distribution of returns which a head of `DISTRIBUTIONAL` predicts.

    Args:
      config: the settings, whose head is one of `DISTRIBUTIONAL`.
      spec: the envs.
      network: as in `make`.
    """
    head = head_of(config)
    network = with_action_mask(network or network_of(config, spec, **network_variant(config, head)))

    def distribution(params: Any, obs: Any) -> tuple[Array, Array]:
        output = network.apply(params, obs)[0]
        if config.head == "categorical":
            atoms = jnp.linspace(config.v_min, config.v_max, config.num_atoms)
            return jnp.broadcast_to(atoms, output.shape), jax.nn.softmax(output, axis=-1)
        if config.head == "full-quantile":
            return output.values, probabilities(output)
        values = output[0] if config.head == "implicit-quantile" else output
        return values, jnp.full(values.shape, 1 / values.shape[-1])

    return distribution


def dqn(
    network: Network,
    replay: Replay,
    head: Head | None = None,
    backup: BackupRule = backups.greedy,
    *,
    gradient_steps: int = 1,
    batch_size: int = 32,
    shards: int = 1,
    optimizer: optax.GradientTransformation | None = None,
    target: str = "hard",
    clip_rewards: bool = False,
    draws: bool = False,
    anneals: bool = False,
    resets: bool = False,
) -> Agent:
    """Returns the agent of any network, replay, head (None: scalar) and backup.

    Args:
      gradient_steps: updates of a round; each draws its own batch.
      batch_size: transitions of an update.
      shards: as of the replay; the gradient of a batch is the weighted mean of theirs, and each has its own noise.
      optimizer: gives a direction without a learning rate, which is in `state.hyper`. None: Adam.
      target: how the target network follows: "hard", "polyak" or "none".
      clip_rewards: the learner sees the sign of a reward.
      draws: the network draws noise or fractions, and needs a key to act and to learn; the policy draws nothing.
      anneals: n and gamma move as in `schedules.annealed_horizon`.
      resets: layers are drawn anew as in `networks.shrink_and_perturb`.

    Source: Mnih et al. (2015), algorithm 1, https://doi.org/10.1038/nature14236
    """
    network, head = with_action_mask(network), head or heads.scalar()
    optimizer = optimizer or optax.scale_by_adam()

    def q_values(params: Any, obs: Any, key: Array | None) -> Array:
        return legal(head.q_values(network.apply(params, obs, key=key if draws else None)[0]), obs)

    act, policy, evaluate = epsilon_greedy_on(q_values)

    def init(key: Array, obs: Any, hyper: Hyper) -> State:
        params, ring = network.init(derive_key(key, INIT, 0, unrolled=False), obs), replay.init(zero_step(obs))
        target_params = () if target == "none" else params
        return new_state(key, hyper, params=params, target=target_params, opt_state=optimizer.init(params), data=ring)

    def observe(state: State, step: Step) -> State:
        reward = learned_reward(state, step.reward, clip_rewards)
        return count_step(state, step, replay.add(state.data, step._replace(reward=reward)))

    def learn(state: State) -> tuple[State, dict[str, Array]]:
        stored, priorities = without_priorities(state.data)

        def update(state: State, priorities, _):
            ring = stored._replace(priorities=priorities[0], max_priorities=priorities[1])
            n, gamma = annealed_horizon(state) if anneals else (None, state.hyper.discount)
            key = derive_key(state.key, LEARN, state.updates, unrolled=False)  # unrolled, it compiles for longer
            batch = replay.sample(ring, key, batch_size, gamma, beta_of(state), n)

            def loss(params, batch, key):
                target_params = state.params if target == "none" else state.target
                return losses.q_loss(params, target_params, batch, network.apply, backup=backup, head=head, key=key)

            draws_key = derive_key(state.key, LEARN_DRAWS, state.updates, unrolled=False) if draws else None
            (value, info), gradient = sharded_gradient(loss, state.params, batch, draws_key, shards)
            metrics = update_metrics(state, value, gradient, info.q_values, batch.weight)
            if replay.update is not None:
                ring = replay.update(ring, batch.index, info.priorities, state.hyper.priority_exponent)
            state = update_target(apply_gradient(state, gradient, optimizer), target)
            state = reset(state, batch.obs) if resets else state
            return state, without_priorities(ring)[1], metrics

        state, priorities, metrics = scan_updates(update, state, priorities, length=gradient_steps)
        ring = stored._replace(priorities=priorities[0], max_priorities=priorities[1])
        return state._replace(data=after_read(ring, metrics["loss"][-1])), metrics

    def reset(state: State, obs: Any) -> State:
        """Returns the state with its layers drawn anew where a reset is due."""
        learned, due = (state.params, state.target, state.opt_state), updates_since_reset(state) == 0

        def fresh(params, target_params, opt_state):
            drawn = network.init(derive_key(state.key, RESET, state.updates, unrolled=False), obs)
            params = shrink_and_perturb(params, drawn, state.hyper.reset_keep)
            if target != "none":
                target_params = shrink_and_perturb(target_params, drawn, state.hyper.reset_keep)
            new = params, target_params, optimizer.init(params)
            return jax.tree.map(lambda new, old: jnp.where(due, new, old), new, learned)

        params, target_params, opt_state = jax.lax.cond(any_in_batch(due), fresh, lambda *learned: learned, *learned)
        return state._replace(params=params, target=target_params, opt_state=opt_state)

    return Agent(init=init, act=act, observe=observe, learn=learn, policy=policy, q_values=evaluate)


ENTRY = AgentEntry(Config, make, presets.DQN_PRESETS, presets.DQN, sources=presets.DQN_SOURCES)
