"""Encodings of a scalar as a histogram, two-hot and HL-Gauss: regression becomes classification."""

import jax.numpy as jnp
from jax.scipy.special import erf
from jax.typing import ArrayLike

from jaxql.bellman.arguments import ASCENDING, EDGES, POSITIVE
from jaxql.bellman.core import batched, legal_discount, maybe_stop_gradient, td_target
from jaxql.distributional.categorical import categorical_l2_project
from jaxql.types import Array, Scalar


def centers(edges: ArrayLike) -> Array:
    """Midpoints [..., N] of the bins between edges [..., N + 1].

    With them as atoms `categorical_mean` decodes HL-Gauss.

    Source: Farebrother et al. (2024), the locations of equation 2.2, https://arxiv.org/abs/2403.03950

    >>> print(centers(jnp.array([0.0, 1.0, 3.0])))
    [0.5 2. ]
    """
    EDGES("centers: edges", edges)
    edges = jnp.asarray(edges)
    return (edges[..., 1:] + edges[..., :-1]) / 2


@batched("", "N", atoms=ASCENDING)
def two_hot(x: ArrayLike, atoms: Array) -> Array:
    """Probabilities [..., N] of the two atoms around x, with mean x; outside the support, of its nearest end.

    Args:
      x: [...].
      atoms: [N] in ascending order.

    Raises:
      ValueError: batch axes differ, or there is no axis N.

    Source: Farebrother et al. (2024), equation 3.2, https://arxiv.org/abs/2403.03950

    >>> print(two_hot(0.75, jnp.arange(3.0)))
    [0.25 0.75 0.  ]
    """
    return categorical_l2_project(jnp.asarray(x)[None], jnp.ones(1, jnp.result_type(x, atoms, 1.0)), atoms)


@batched("", "N", edges=EDGES, sigma=POSITIVE)
def hl_gauss(x: ArrayLike, edges: Array, sigma: Scalar | None = None) -> Array:
    """Probabilities [..., N] of the bins under a Gaussian around x, cut at the ends of the support.

    p_i = (Phi((e_{i+1} - x) / sigma) - Phi((e_i - x) / sigma)) / (Phi((e_N - x) / sigma) - Phi((e_0 - x) / sigma)).
    `categorical_mean` with `centers(edges)` decodes it to x, except for the part of the Gaussian that is cut off. So
    the support should reach some 3 sigma past the values it must hold.

    Args:
      x: [...]; outside the support it counts as the nearest end.
      edges: [N + 1] in strictly ascending order.
      sigma: standard deviation, above 0; 0.75 of the mean width of a bin if None.

    Raises:
      ValueError: batch axes differ, there is no axis of edges, they are out of order, or sigma is not above 0.

    Source: Imani & White (2018), section 3, https://arxiv.org/abs/1806.04613; Farebrother et al. (2024), equation
    3.3, https://arxiv.org/abs/2403.03950

    >>> print(hl_gauss(0.0, jnp.array([-1.0, 0.0, 1.0])))
    [0.5 0.5]
    """
    sigma = 0.75 * (edges[-1] - edges[0]) / (edges.shape[0] - 1) if sigma is None else sigma
    x = jnp.clip(x, edges[0], edges[-1])
    areas = erf((edges - x) / (sigma * 2**0.5))
    return jnp.maximum(jnp.diff(areas), 0) / (areas[-1] - areas[0])  # XLA's erf is not quite monotone


@batched("", "", "A", "A", "N", atoms=ASCENDING)
def two_hot_target(
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t: Array,
    q_selector: Array,
    atoms: Array,
    *,
    stop_target_gradients: bool = True,
) -> Array:
    """Target probabilities [..., N]: two_hot(r_t + discount_t * q_t[a*]) with a* = argmax_a q_selector[a].

    Args:
      r_t, discount_t: [...] reward, and gamma or 0 past a termination.
      q_t: [..., A] decoded values at t, the target network's for instance.
      q_selector: [..., A] the values to maximise: q_t again, or the online network's values; -inf for illegal actions.
      atoms: [N] in ascending order.
      stop_target_gradients: True makes the target a constant.

    Raises:
      ValueError: an argument lacks axes, or batch axes differ.

    Source: Farebrother et al. (2024), equation 3.2, https://arxiv.org/abs/2403.03950

    >>> q = jnp.array([0.0, 1.0])
    >>> print(two_hot_target(1.0, 0.5, q, q, jnp.arange(3.0)))
    [0.  0.5 0.5]
    """
    target = td_target(r_t, legal_discount(discount_t, q_selector), q_t[jnp.argmax(q_selector)])
    return maybe_stop_gradient(two_hot(target, atoms), stop_target_gradients)


@batched("", "", "A", "A", "N", edges=EDGES, sigma=POSITIVE)
def hl_gauss_target(
    r_t: ArrayLike,
    discount_t: ArrayLike,
    q_t: Array,
    q_selector: Array,
    edges: Array,
    *,
    sigma: Scalar | None = None,
    stop_target_gradients: bool = True,
) -> Array:
    """Target probabilities [..., N]: hl_gauss(r_t + discount_t * q_t[a*]) with a* = argmax_a q_selector[a].

    Shapes and errors as in `two_hot_target`; edges [N + 1] and sigma as in `hl_gauss`.

    Source: Farebrother et al. (2024), equation 3.3, https://arxiv.org/abs/2403.03950

    >>> q = jnp.array([0.0, 1.0])
    >>> print(hl_gauss_target(1.0, 0.0, q, q, jnp.arange(3.0)))
    [0.5 0.5]
    """
    target = td_target(r_t, legal_discount(discount_t, q_selector), q_t[jnp.argmax(q_selector)])
    return maybe_stop_gradient(hl_gauss(target, edges, sigma), stop_target_gradients)
