"""Whole-batch losses of deep Q-learning: any backup (what the target is) with any head (what an output says).

`q_loss` joins the two; the other losses are named pairs. A backup of your own is a function, a head of your own is a
`jaxql.types.Head`:

>>> import jax, jax.numpy as jnp
>>> from jaxql.types import Backup, Transition
>>> rows = Transition(obs=jnp.array([0]), action=jnp.array([1]), reward=jnp.array([1.0]),
...                   discount=jnp.array([0.5]), next_obs=jnp.array([1]), weight=jnp.ones(1))
>>> table = jnp.array([[0.0, 1.0], [2.0, 3.0]])
>>> def uniform(values):
...     return Backup(policy=jnp.full_like(values.target_next, 0.5))
>>> squared = heads.scalar()._replace(loss=lambda q, action, target: (target - q[jnp.arange(1), action]) ** 2)
>>> loss, info = q_loss(table, table, rows, lambda params, obs: (params[obs], ()), backup=uniform, head=squared)
>>> print(loss)  # (1 + 0.5 * 2.5 - 1)**2
1.5625
"""

from jaxql.losses import backups as backups, heads as heads
from jaxql.losses.backups import ActionValues as ActionValues
from jaxql.losses.batch import weighted_mean as weighted_mean
from jaxql.losses.named import (
    c51_loss as c51_loss,
    double_dqn_loss as double_dqn_loss,
    dqn_loss as dqn_loss,
    full_quantile_loss as full_quantile_loss,
    hl_gauss_loss as hl_gauss_loss,
    implicit_quantile_loss as implicit_quantile_loss,
    munchausen_loss as munchausen_loss,
    quantile_loss as quantile_loss,
    two_hot_loss as two_hot_loss,
)
from jaxql.losses.q_loss import LossInfo as LossInfo, q_loss as q_loss
from jaxql.losses.sequences import (
    r2d2_loss as r2d2_loss,
    sequence_priority as sequence_priority,
    unroll as unroll,
)
