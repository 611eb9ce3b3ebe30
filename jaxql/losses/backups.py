"""Backups: what a Q-learning target is, whatever the network's head says of an action.

A backup is a function of the action values around a transition. It answers with a policy at the next state, a shift of
the values there, and a bonus on the reward. Every head then learns from

    target = reward + bonus + discount * sum_b policy(b) (Z(next_obs, b) + shift(b))

where Z is the head's output: a number, a distribution or quantiles. The values have leading batch axes [N, A]; a value
that a backup does not read is not computed.

A backup of your own is a function, and every loss takes it:

>>> def boltzmann(values):
...     return Backup(policy=jax.nn.softmax(values.target_next))
>>> values = ActionValues(action=jnp.array([0]), target_next=jnp.array([[0.0, 0.0]]))
>>> print(expected_target(values.target_next, boltzmann(values), jnp.array([1.0]), jnp.array([0.5])))
[1.]
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxql.bellman.arguments import NOT_NEGATIVE, NOT_POSITIVE, UNIT
from jaxql.bellman.core import safe_multiply, select_action, td_target
from jaxql.bellman.variants import scaled_log_softmax
from jaxql.types import Array, Backup, BackupRule, Scalar

_NAMES = ("target_now", "target_next", "online_next", "second_next")


class ActionValues:
    """The action values [N, A] that a backup may read, and the actions taken; each is computed when first read.

    Illegal actions are worth -inf.

    Attributes:
      action: [N] the action taken at obs.
      target_now: of the target network at obs.
      target_next: of the target network at next_obs.
      online_next: of the online network at next_obs.
      second_next: of a second critic's target network at next_obs.

    Args:
      action: [N].
      **values: each attribute above as an array [N, A], or as a function () -> [N, A].

    Raises:
      ValueError: a value is read that was not given.

    >>> values = ActionValues(action=jnp.array([1]), target_next=lambda: jnp.array([[1.0, 3.0]]))
    >>> print(greedy(values).policy)
    [[0. 1.]]
    """

    target_now: Array
    target_next: Array
    online_next: Array
    second_next: Array

    def __init__(self, action: Array, **values: Array | Callable[[], Array]):
        self.action = action
        self._values = values

    def __getattr__(self, name: str) -> Array:
        if name not in _NAMES:
            raise AttributeError(f"ActionValues has no attribute {name}; it may have {', '.join(_NAMES)}")
        values = self._values
        if name not in values:
            given = ", ".join(values) or "none"
            raise ValueError(f"a backup reads {name}, which was not given; the values given here are: {given}")
        value = values[name]
        self.__dict__[name] = value() if callable(value) else value
        return self.__dict__[name]


def greedy(values: ActionValues) -> Backup:
    """The target network's best action: Q-learning.

    Source: Watkins & Dayan (1992), equation 1, https://doi.org/10.1007/BF00992698
    """
    return Backup(policy=_best(values.target_next))


def double(values: ActionValues) -> Backup:
    """The online network's best action, which the target network evaluates: double Q-learning.

    Source: van Hasselt, Guez & Silver (2016), equation 4, https://arxiv.org/abs/1509.06461
    """
    return Backup(policy=_best(values.online_next))


def clipped_double(values: ActionValues) -> Backup:
    """The online network's best action, worth the lesser of two target networks' values.

    The first critic's output is shifted by min(0, Q2' - Q1') where the action is legal, so that its mean becomes the
    minimum.

    Source: Fujimoto, van Hoof & Meger (2018), equation 10, https://arxiv.org/abs/1802.09477
    """
    legal = values.target_next > -jnp.inf
    excess = jnp.minimum(values.second_next - values.target_next, 0)
    return Backup(policy=_best(values.online_next), shift=jnp.where(legal, excess, 0))


def expected_sarsa(epsilon: Scalar = 0.01) -> BackupRule:
    """A backup: the expectation under the target network's epsilon-greedy policy over legal actions.

    Raises:
      ValueError: epsilon is not in [0, 1].

    Source: Sutton & Barto (2018), equation 6.9, http://incompleteideas.net/book/the-book-2nd.html
    """

    UNIT("expected_sarsa: epsilon", epsilon)

    def rule(values: ActionValues) -> Backup:
        legal = values.target_next > -jnp.inf
        uniform = legal / jnp.maximum(jnp.sum(legal, axis=-1, keepdims=True), 1)
        return Backup(policy=(1 - epsilon) * _best(values.target_next) + epsilon * uniform)

    return rule


def persistent(share: Scalar = 0.1) -> BackupRule:
    """A backup: the action taken is repeated with probability `share`, else the best is chosen.

    The target is r + discount * ((1 - share) max_b Q'(next_obs, b) + share Q'(next_obs, action)).

    Raises:
      ValueError: share is not in [0, 1].

    Source: Bellemare et al. (2016), the operator T_PAL under theorem 1, https://arxiv.org/abs/1512.04860, mixed by
    `share` as in rlax
    """

    UNIT("persistent: share", share)

    def rule(values: ActionValues) -> Backup:
        again = jax.nn.one_hot(values.action, values.target_next.shape[-1], dtype=values.target_next.dtype)
        again = again * (values.target_next > -jnp.inf)
        repeated = share * jnp.sum(again, axis=-1, keepdims=True)  # 0 where the action is illegal next
        return Backup(policy=(1 - repeated) * _best(values.target_next) + share * again)

    return rule


def advantage(gap: Scalar = 0.9) -> BackupRule:
    """A backup: `greedy` with the bonus -gap * (max_b Q'(obs, b) - Q'(obs, action)), which widens action gaps.

    An illegal action has no bonus.

    Raises:
      ValueError: gap is not in [0, 1].

    Source: Bellemare et al. (2016), theorem 1 and the operator T_AL that it admits, https://arxiv.org/abs/1512.04860
    """

    UNIT("advantage: gap", gap)

    def rule(values: ActionValues) -> Backup:
        taken = select_action(values.target_now, values.action)
        lost = jnp.max(values.target_now, axis=-1) - taken
        return greedy(values)._replace(bonus=-gap * jnp.where(taken == -jnp.inf, 0, lost))

    return rule


def soft(temperature: Scalar = 0.03) -> BackupRule:
    """A backup: the softmax policy of the target network, with its entropy as part of the value.

    The target is r + discount * temperature * logsumexp(Q'(next_obs) / temperature). At temperature 0, the limit, it is
    that of `greedy`.

    Raises:
      ValueError: temperature is negative.

    Source: Haarnoja et al. (2017), theorem 1, https://arxiv.org/abs/1702.08165
    """

    NOT_NEGATIVE("soft: temperature", temperature)

    def rule(values: ActionValues) -> Backup:
        q = values.target_next
        log_policy, warm = scaled_log_softmax(q, temperature), temperature > jnp.finfo(q.dtype).tiny
        policy = jnp.where(warm, jnp.exp(log_policy / jnp.where(warm, temperature, 1)), _best(q))
        return Backup(policy=policy, shift=-log_policy)

    return rule


def munchausen(temperature: Scalar = 0.03, alpha: Scalar = 0.9, floor: Scalar = -1.0) -> BackupRule:
    """A backup: `soft` with the bonus alpha * clip(temperature * log pi(action | obs), floor, 0).

    Raises:
      ValueError: temperature is negative, alpha not in [0, 1], or floor above 0.

    Source: Vieillard, Pietquin & Geist (2020), equation 2, https://arxiv.org/abs/2007.14430
    """

    soft_rule = soft(temperature)
    UNIT("munchausen: alpha", alpha)
    NOT_POSITIVE("munchausen: floor", floor)

    def rule(values: ActionValues) -> Backup:
        log_policy = select_action(scaled_log_softmax(values.target_now, temperature), values.action)
        return soft_rule(values)._replace(bonus=alpha * jnp.clip(log_policy, floor, 0))

    return rule


def _best(q: Array) -> Array:
    """The greedy policy [N, A] of action values; the first of several best."""
    return jax.nn.one_hot(jnp.argmax(q, axis=-1), q.shape[-1], dtype=q.dtype)


def expected_target(q_next: Array, backup: Backup, reward: Array, discount: Array) -> Array:
    """The target [N] of expected values: reward + bonus + discount * sum_b policy(b) (q_next(b) + shift(b)).

    Args:
      q_next: [N, A] action values at next_obs.
      backup: the answer of a backup.
      reward, discount: [N].

    >>> answer = Backup(policy=jnp.array([[0.5, 0.5]]))
    >>> print(expected_target(jnp.array([[2.0, 4.0]]), answer, jnp.array([1.0]), jnp.array([0.5])))
    [2.5]
    """
    shifted = q_next if backup.shift is None else q_next + backup.shift
    return td_target(with_bonus(reward, backup), discount, jnp.sum(safe_multiply(backup.policy, shifted), axis=-1))


def with_bonus(reward: Array, backup: Backup) -> Array:
    """The reward [N] with the bonus of a backup added.

    >>> print(with_bonus(jnp.array([1.0]), Backup(policy=jnp.ones((1, 1)), bonus=jnp.array([0.5]))))
    [1.5]
    """
    return reward if backup.bonus is None else reward + backup.bonus
