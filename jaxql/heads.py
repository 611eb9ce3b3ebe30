"""What a network says of an action besides one number: how it becomes action values, and how it is learned."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxql import distributional, losses
from jaxql.types import Array


class Head(NamedTuple):
    """The last layer's meaning."""

    outputs: int | None  # numbers a network gives for each action; None: one, without an axis of its own
    q_values: Callable  # (output [N, A, ...]) -> action values [N, A]; illegal actions, all -inf, are worth -inf
    loss: Callable  # (params, target_params, transitions, apply, *, double, penalty, key) -> (loss, (priority, values))
    fractions: int = 0  # above 0, the network draws so many fractions and gives (quantiles, fractions)


def scalar() -> Head:
    """The expected return itself: `losses.dqn_loss`."""
    return Head(outputs=None, q_values=lambda q: q, loss=losses.dqn_loss)


def munchausen(temperature: float = 0.03, alpha: float = 0.9, floor: float = -1.0) -> Head:
    """The expected return of a softmax policy, its log-policy being part of the reward: `losses.munchausen_loss`."""

    def loss(*args, double=False, **options):
        return losses.munchausen_loss(*args, temperature=temperature, alpha=alpha, floor=floor, **options)

    return Head(outputs=None, q_values=lambda q: q, loss=loss)


def categorical(v_min: float, v_max: float, atoms: int = 51) -> Head:
    """Logits of evenly spaced returns (C51): `losses.c51_loss`, whose divergences are the priorities, as in Rainbow.

    >>> print(categorical(-1.0, 1.0, 3).q_values(jnp.array([[[0.0, 0.0, 0.0], [-9e9, -9e9, 0.0]]])))
    [[0. 1.]]
    """
    support = _spaced(v_min, v_max, atoms)

    def loss(*args, penalty=None, **options):
        return losses.c51_loss(*args, atoms=support(), divergence=True, **options)

    return Head(atoms, lambda logits: distributional.categorical_mean(logits, support()), loss)


def hl_gauss(v_min: float, v_max: float, bins: int = 51) -> Head:
    """Logits of bins, learned towards a Gaussian around the scalar target: `losses.hl_gauss_loss`."""
    edges = _spaced(v_min, v_max, bins + 1)

    def loss(*args, penalty=None, **options):
        return losses.hl_gauss_loss(*args, edges=edges(), **options)

    return Head(bins, lambda logits: distributional.categorical_mean(logits, distributional.centers(edges())), loss)


def quantile(quantiles: int = 51) -> Head:
    """Quantiles at fixed fractions (QR-DQN): `losses.quantile_loss`."""
    return Head(quantiles, lambda output: jnp.mean(output, axis=-1), _quantile_loss)


def implicit_quantile(fractions: int = 32) -> Head:
    """Quantiles at drawn fractions (IQN): `losses.quantile_loss` of a network that gives (quantiles, fractions)."""
    return Head(None, lambda output: jnp.mean(output[0], axis=-1), _quantile_loss, fractions)


def munchausen_implicit_quantile(
    fractions: int = 32, temperature: float = 0.03, alpha: float = 0.9, floor: float = -1.0
) -> Head:
    """Quantiles at drawn fractions of the return of a softmax policy (M-IQN): `losses.munchausen_quantile_loss`."""

    def loss(*args, double=False, penalty=None, **options):
        return losses.munchausen_quantile_loss(*args, temperature=temperature, alpha=alpha, floor=floor, **options)

    return implicit_quantile(fractions)._replace(loss=loss)


def _quantile_loss(*args, penalty=None, **options):
    return losses.quantile_loss(*args, **options)


def _spaced(low: float, high: float, number: int) -> Callable[[], Array]:
    return lambda: jnp.linspace(low, high, number, dtype=float)  # made where it is used: importing allocates nothing
