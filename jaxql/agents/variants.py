"""The published variants of deep Q-learning: what each name changes of the settings it starts from.

Those are tuned for an env or the defaults of `jaxql.agents.dqn`; what is not written here is not from the paper.
"""

RAINBOW = dict(
    head="categorical",
    double=True,
    dueling=True,
    noisy=True,
    epsilon=0.0,
    exploration_steps=1,
    n_step=3,
    prioritised=True,
)
ATARI = dict(  # what the newer papers share, in place of what is tuned for one game
    num_envs=1,
    updates=1,
    batch_size=32,
    layer_norm=False,
    convolution="auto",
    bfloat16=False,
    clip_rewards=True,
    v_min=-10.0,
    v_max=10.0,
    discount=0.99,
    alpha=0.5,
    adam_epsilon=1.5e-4,
)

NAMED = {
    "double-dqn": dict(double=True),  # https://arxiv.org/abs/1509.06461
    "dueling-dqn": dict(dueling=True, double=True),  # https://arxiv.org/abs/1511.06581
    "per-dqn": dict(prioritised=True, alpha=0.6, double=True),  # https://arxiv.org/abs/1511.05952
    "noisy-dqn": dict(noisy=True, epsilon=0.0, exploration_steps=1),  # https://arxiv.org/abs/1706.10295
    "c51": dict(head="categorical"),  # https://arxiv.org/abs/1707.06887
    "qr-dqn": dict(head="quantile"),  # https://arxiv.org/abs/1710.10044
    "iqn": dict(head="implicit-quantile", atoms=32),  # https://arxiv.org/abs/1806.06923
    "munchausen-dqn": dict(head="munchausen", double=False),  # https://arxiv.org/abs/2007.14430
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
        head="munchausen-implicit-quantile",
        atoms=8,
        double=False,
        dueling=True,
        noisy=True,
        n_step=3,
        discount=0.997,
        prioritised=True,
        alpha=0.2,
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
        double=True,
        dueling=True,
        prioritised=True,
        beta=0.5,
        beta_steps=10**9,  # beta is constant
        life_loss=True,
        updates=2,
        n_step=10,
        n_step_end=3,
        discount=0.97,
        discount_end=0.997,
        anneal_updates=10_000,
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
