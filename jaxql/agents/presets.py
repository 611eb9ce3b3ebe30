"""Settings as data: the published variants, tuned settings by env, and named presets.

A variant changes the settings it starts from: those tuned for an env, or the defaults of `jaxql.agents.dqn`. `c51`
means the DQN settings tuned for this env, with the categorical head. For the paper's plain algorithm add `--backup
greedy --n-step 1`. What is not written here is not from the paper. Settings of the run, such as steps and eval_every,
stand beside those of the algorithm; see `jaxql.lab.settings`.
"""

from typing import Any

Settings = dict[str, dict[str, Any]]

RAINBOW = dict(
    head="categorical",
    backup="double",
    dueling=True,
    noisy=True,
    epsilon=0.0,
    exploration_steps=1,
    n_step=3,
    prioritised=True,
)
ATARI = dict(  # what the newer papers share, in place of what is tuned for one game
    num_envs=1,
    gradient_steps=1,
    batch_size=32,
    layer_norm=False,
    convolution="auto",
    bfloat16=False,
    clip_rewards=True,
    v_min=-10.0,
    v_max=10.0,
    discount=0.99,
    priority_exponent=0.5,
    adam_epsilon=1.5e-4,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "double-dqn": dict(backup="double"),  # https://arxiv.org/abs/1509.06461
    "dueling-dqn": dict(dueling=True, backup="double"),  # https://arxiv.org/abs/1511.06581
    "per-dqn": dict(prioritised=True, priority_exponent=0.6, backup="double"),  # https://arxiv.org/abs/1511.05952
    "noisy-dqn": dict(noisy=True, epsilon=0.0, exploration_steps=1),  # https://arxiv.org/abs/1706.10295
    "c51": dict(head="categorical"),  # https://arxiv.org/abs/1707.06887
    "qr-dqn": dict(head="quantile"),  # https://arxiv.org/abs/1710.10044
    "iqn": dict(head="implicit-quantile", num_atoms=32),  # https://arxiv.org/abs/1806.06923
    "munchausen-dqn": dict(backup="munchausen"),  # https://arxiv.org/abs/2007.14430
    "rainbow": RAINBOW,  # https://arxiv.org/abs/1710.02298
    "data-efficient-rainbow": RAINBOW  # https://arxiv.org/abs/1906.05243, appendix
    | ATARI
    | dict(
        network="der-cnn",
        life_loss=True,
        n_step=20,
        capacity=100_000,
        warmup_steps=1_600,
        learning_rate=1e-4,
        target_period_updates=2_000,
        beta_steps=100_000,
        steps=100_000,
    ),
    # https://arxiv.org/abs/2411.03820 without spectral norms and the 6 x 6 maximum behind the convolutions; epsilon
    # stays at 0.01, not 0 from half-way on, and the priority is the error of the mean, not the mean error of pairs.
    "btr": ATARI
    | dict(
        network="impala-cnn",
        width=2,
        dense_width=512,
        head="implicit-quantile",
        backup="munchausen",
        num_atoms=8,
        dueling=True,
        noisy=True,
        n_step=3,
        discount=0.997,
        prioritised=True,
        priority_exponent=0.2,
        beta=0.45,
        beta_steps=50_000_000,
        num_envs=64,
        batch_size=256,
        capacity=2**20,
        warmup_steps=200_000,
        learning_rate=1e-4,
        adam_epsilon=0.005 / 256,
        target_period_updates=500,
        exploration_steps=2_000_000,
        steps=50_000_000,
    ),
    # https://arxiv.org/abs/2305.19452 without self-prediction, augmented images, weight decay and renormalised
    # features; the online network acts, not the target network.
    "bbf": ATARI
    | dict(
        network="impala-cnn",
        width=4,
        dense_width=2048,
        head="categorical",
        backup="double",
        dueling=True,
        prioritised=True,
        beta=0.5,
        beta_steps=10**9,  # beta is constant
        life_loss=True,
        gradient_steps=2,
        n_step=10,
        n_step_end=3,
        discount=0.97,
        discount_end=0.997,
        horizon_anneal_updates=10_000,
        reset_every_updates=40_000,
        reset_keep=0.5,
        capacity=200_000,
        warmup_steps=2_000,
        learning_rate=1e-4,
        target="polyak",
        tau=0.005,
        epsilon=0.0,
        exploration_steps=4_000,
        steps=100_000,
    ),
}


TWINS = {  # JAX envs, and other versions, by the env whose settings they take
    "CartPole-v1": ("jax:cartpole", "gymnax:CartPole-v1"),
    "Acrobot-v1": ("gymnax:Acrobot-v1",),
    "MountainCar-v0": ("gymnax:MountainCar-v0",),
    **{
        f"MinAtar/{game}-v0": (f"MinAtar/{game}-v1", f"gymnax:{game}-MinAtar", f"jax:minatar-{name}")
        for game, name in {
            "Asterix": "asterix",
            "Breakout": "breakout",
            "Freeway": "freeway",
            "Seaquest": "seaquest",
            "SpaceInvaders": "space-invaders",
        }.items()
    },
}
MINATAR = [env for env in TWINS if env.startswith("MinAtar/")]


def with_twins(tuned: dict[str, Any]) -> dict[str, Any]:
    """Returns what belongs to envs, by their ids, with the twins of these envs beside them."""
    return tuned | {twin: tuned[env] for env in tuned for twin in TWINS.get(env, ())}


# -------------------------------------------------------------------------------------------------------------- DQN
ONE_ENV = dict(num_envs=1, hidden=(256, 256))  # how the RL Zoo plays the classic tasks
TO_ZERO = dict(lr_decay_fraction=0.0)  # the learning rate falls to 0 at the end of the budget
DQN: Settings = with_twins(
    {
        "CartPole-v1": ONE_ENV
        | TO_ZERO
        | dict(
            rollout_length=16,
            gradient_steps=8,
            warmup_steps=1_000,
            steps=50_000,
            layer_norm=True,
            backup="double",
            v_min=0.0,
            v_max=100.0,
            n_step=3,
            batch_size=64,
            capacity=100_000,
            learning_rate=1e-3,
            lr_decay_steps=24_500,
            target_period_updates=128,
            exploration_steps=8_000,
            epsilon=0.04,
            solved_at=490.0,
            eval_every=2_000,
        ),
        "Acrobot-v1": ONE_ENV
        | dict(
            rollout_length=4,
            gradient_steps=4,
            steps=100_000,
            v_min=-100.0,
            v_max=0.0,
            batch_size=128,
            capacity=50_000,
            learning_rate=6.3e-4,
            target_period_updates=250,
            exploration_steps=12_000,
            epsilon=0.1,
        ),
        "MountainCar-v0": ONE_ENV
        | TO_ZERO
        | dict(
            rollout_length=16,
            gradient_steps=8,
            warmup_steps=1_000,
            steps=120_000,
            backup="double",
            n_step=3,
            discount=0.98,
            v_min=-50.0,
            v_max=0.0,
            batch_size=128,
            capacity=10_000,
            learning_rate=4e-3,
            lr_decay_steps=59_500,
            target_period_updates=300,
            exploration_steps=24_000,
            epsilon=0.07,
        ),
        "LunarLander-v3": ONE_ENV
        | TO_ZERO
        | dict(
            rollout_length=4,
            gradient_steps=4,
            steps=100_000,
            backup="double",
            v_min=-300.0,
            v_max=300.0,
            batch_size=128,
            capacity=50_000,
            learning_rate=6.3e-4,
            lr_decay_steps=100_000,
            target_period_updates=250,
            exploration_steps=12_000,
            epsilon=0.1,
        ),
        "jax:deep-sea": dict(
            num_envs=8,
            gradient_steps=4,
            warmup_steps=1_000,
            steps=200_000,
            prioritised=True,  # few episodes of random play find the treasure
            beta_steps=200_000,
            v_min=-1.0,
            v_max=1.0,
            batch_size=64,
            capacity=200_000,
            learning_rate=1e-3,
            target_period_updates=200,
            exploration_steps=150_000,
            epsilon=0.1,
        ),
        **dict.fromkeys(
            MINATAR,
            dict(
                num_envs=1,
                warmup_steps=5_000,
                steps=5_000_000,
                max_gradient_norm=0.0,
                batch_size=32,
                capacity=100_000,
                optimizer="rmsprop-momentum",
                learning_rate=2.5e-4,
                target_period_updates=1_000,
                exploration_steps=100_000,
                epsilon=0.1,
                eval_every=100_000,
                log_every=10_000,
                checkpoint_every=500_000,
            ),
        ),
        "PongNoFrameskip-v4": dict(
            num_envs=16,
            gradient_steps=2,
            warmup_steps=5_000,
            steps=2_000_000,
            network="nips-cnn",
            layer_norm=True,
            bfloat16=True,
            backup="double",
            n_step=10,
            discount=0.98,
            prioritised=True,
            beta_steps=600_000,
            learning_rate=5e-4,
            lr_decay_start=30_000,
            lr_decay_steps=20_000,
            lr_decay_fraction=0.2,
            adam_epsilon=1e-4,
            exploration_steps=60_000,
            clip_rewards=True,
            v_min=-5.0,
            v_max=5.0,
            eval_from=17.0,
            eval_every=10_000,
            solved_at=19.5,
        ),
    }
)
ZOO = "https://github.com/DLR-RM/rl-baselines3-zoo, hyperparams/dqn.yml"
DQN_SOURCES = with_twins(
    {
        "CartPole-v1": f"{ZOO}, with layer norm, double, 3 steps, rounds of 16, a learning rate from 0.001 to 0",
        "Acrobot-v1": ZOO,
        "MountainCar-v0": f"{ZOO}, with double, 3 steps, and a learning rate that falls to 0",
        "LunarLander-v3": f"{ZOO}, with double, and a learning rate that falls to 0",
        "jax:deep-sea": "tuned by hand on seeds from 100",
        **dict.fromkeys(
            MINATAR, "https://github.com/kenjyoung/MinAtar, examples/dqn.py, of https://arxiv.org/abs/1903.03176"
        ),
        "PongNoFrameskip-v4": "tuned by hand on Pong",
        "textbook": "the tutorial notebook: jaxql notebook",
    }
)

# -------------------------------------------------------------------------------------------------------------- PQN
CLASSIC_PQN = dict(
    reward_scale=0.1,
    num_envs=32,
    rollout_length=64,
    gradient_steps=64,
    minibatches=16,
    hidden=(256, 256),
    lambda_=0.95,
    learning_rate=1e-4,
    lr_decay_steps=15_600,
    lr_decay_fraction=0.0,
    epsilon=0.2,
    exploration_steps=100_000,
    steps=500_000,
)
PQN: Settings = with_twins(
    {
        "CartPole-v1": CLASSIC_PQN | dict(solved_at=490.0, eval_every=10_000),
        "Acrobot-v1": CLASSIC_PQN | dict(eval_every=20_000),
        **dict.fromkeys(
            MINATAR,
            dict(
                num_envs=128,
                rollout_length=32,
                gradient_steps=64,
                minibatches=32,
                lambda_=0.65,
                learning_rate=5e-4,
                lr_decay_steps=78_080,
                lr_decay_fraction=0.0,
                epsilon=0.05,
                exploration_steps=500_000,
                steps=5_000_000,
                eval_every=100_000,
                log_every=20_000,
                checkpoint_every=500_000,
            ),
        ),
        "PongNoFrameskip-v4": dict(
            num_envs=16,
            rollout_length=64,
            gradient_steps=32,
            minibatches=16,
            network="nips-cnn",
            bfloat16=True,
            lambda_=0.8,
            discount=0.98,
            learning_rate=5e-4,
            epsilon=0.01,
            exploration_steps=100_000,
            clip_rewards=True,
            steps=5_000_000,
            eval_from=17.0,
            eval_every=20_000,
            solved_at=19.5,
        ),
    }
)
PUREJAXQL = "https://github.com/mttga/purejaxql, config/alg"
PQN_SOURCES = with_twins(
    {
        **dict.fromkeys(("CartPole-v1", "Acrobot-v1"), f"{PUREJAXQL}/pqn_cartpole.yaml"),
        **dict.fromkeys(MINATAR, f"{PUREJAXQL}/pqn_minatar.yaml, for 5 million steps in place of 10"),
        "PongNoFrameskip-v4": "tuned by hand on Pong",
    }
)

# ----------------------------------------------------------------------------------------------------------- tables
Q_LEARNING: Settings = {
    "FrozenLake-v1": dict(
        num_envs=16,
        steps=500_000,
        lr_decay_steps=3_000,  # a slippery lake's returns are noise: with a constant alpha the policy never settles
        lr_decay_fraction=0.1,
        eval_every=1_000,
        solved_at=0.80,
        solved_strictly=True,
    ),
    "Taxi-v4": dict(
        num_envs=64,
        steps=2_000_000,
        learning_rate=0.3,
        discount=0.8,
        epsilon=0.1,
        exploration_steps=100_000,
        eval_every=250_000,
        eval_episodes=50,
        solved_at=7.0,
    ),
}

ITERATION: Settings = {
    "*": dict(log_every=100, eval_every=100),
    "FrozenLake-v1": dict(steps=200_000, solved_at=0.80, solved_strictly=True),
}

DQN_PRESETS: Settings = {
    # The hyperparameters and stop rule of the tutorial notebook: one environment, one update a step, plain Q-learning.
    "textbook": dict(
        num_envs=1,
        warmup_steps=10_000,
        network="nature-cnn",
        backup="greedy",
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
        eval_from=17.0,
        eval_every=50_000,
        steps=2_000_000,
    ),
}

R2D2: Settings = {
    "jax:memory-chain": dict(
        num_envs=8,
        rollout_length=4,
        gradient_steps=2,
        warmup_steps=1_000,
        steps=100_000,
        burn_in=0,
        length=11,  # an episode
        learning_rate=1e-3,
        exploration_steps=20_000,
        epsilon=0.05,
    ),
}
R2D2_PRESETS: Settings = {
    # The paper's hyperparameters; it plays 256 environments with an epsilon of each one's own.
    "paper": dict(
        core_width=512,
        dueling=True,
        burn_in=40,
        length=40,
        n_step=5,
        discount=0.997,
        batch_size=64,
        prioritised=True,
        learning_rate=1e-4,
        adam_epsilon=1e-3,
        target_period_updates=2_500,
    ),
}
R2D2_SOURCES = {
    "jax:memory-chain": "tuned by hand on seeds from 100",
    "paper": "https://openreview.net/pdf?id=r1lyTjAqYX",
}
