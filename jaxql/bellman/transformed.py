"""Returns and TD errors of values that are learned on another scale.

A network that learns h(Q) in place of Q meets smaller numbers. Its values are mapped back by the inverse of h, the
return is computed on the true scale, and h is applied to it. No reward is clipped.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxql.bellman import returns
from jaxql.bellman.arguments import NOT_NEGATIVE, TRACE, check_count, function, is_half, pair, rounded_once
from jaxql.bellman.core import batched, legal_discount, select_action
from jaxql.bellman.off_policy import retrace_traces
from jaxql.bellman.transforms import IDENTITY_PAIR, TxPair
from jaxql.types import Array, Scalar


def transform_values(build_targets: Callable, *value_argnums: int) -> Callable:
    """Returns `build_targets` for transformed values: (tx_pair, *its arguments) -> tx_pair.apply of its result.

    The arguments at `value_argnums` go through tx_pair.apply_inv, by position or by name. Shapes and errors are
    those of `build_targets`. With a two-hot pair, values [...] become [..., N].

    Source: the operator T_h of Pohlen et al. (2018), section 3.2 and proposition 3.1, https://arxiv.org/abs/1805.11593;
    van Hasselt et al. (2019), section 3, https://arxiv.org/abs/1907.03687

    >>> from jaxql.bellman import SIGNED_LOGP1_PAIR
    >>> transformed = transform_values(returns.lambda_returns, 2)
    >>> print(transformed(SIGNED_LOGP1_PAIR, jnp.ones(1), jnp.ones(1), v_t=jnp.log(jnp.array([7.0]))).round(3))
    [2.079]
    """
    function("transform_values: build_targets", build_targets)
    signature = inspect.signature(build_targets)
    for index in value_argnums:
        check_count("transform_values: a value_argnum", index, 0)
        if index >= len(signature.parameters):
            raise ValueError(
                f"transform_values: a value_argnum is {index}; it must be below {len(signature.parameters)}"
            )
    values = [list(signature.parameters)[index] for index in value_argnums]

    def build_transformed(tx_pair: TxPair, *args: Any, **kwargs: Any) -> Any:
        pair(f"{build_transformed.__name__}: tx_pair", tx_pair)
        bound = signature.bind(*args, **kwargs)
        half = {name: x for name, x in bound.arguments.items() if is_half(x)}

        def build(*wide: Array) -> Any:
            arguments = bound.arguments | dict(zip(half, wide, strict=True))
            arguments |= {name: tx_pair.apply_inv(arguments[name]) for name in values}
            full = inspect.BoundArguments(signature, arguments)
            return tx_pair.apply(build_targets(*full.args, **full.kwargs))

        return rounded_once(build, *half.values())

    name = build_targets.__name__
    build_transformed.__name__ = build_transformed.__qualname__ = f"transformed_{name}"
    build_transformed.__doc__ = (
        f"`{name}` of transformed values: (tx_pair, *its arguments); see `transform_values`.\n\n"
        f"Shapes and errors as in `{name}`: [..., T].\n\n"
        f"Source: that of `{name}`, under the operator T_h of Pohlen et al. (2018), proposition 3.1, "
        "https://arxiv.org/abs/1805.11593"
    )
    return build_transformed


transformed_lambda_returns = transform_values(returns.lambda_returns, 2)

transformed_n_step_returns = transform_values(returns.n_step_bootstrapped_returns, 2)

transformed_general_off_policy_returns_from_action_values = transform_values(
    returns.general_off_policy_returns_from_action_values, 0
)

transformed_lambda_returns.__doc__ = (
    f"{transformed_lambda_returns.__doc__}"
    """

>>> from jaxql.bellman import SIGNED_LOGP1_PAIR
>>> v_t = SIGNED_LOGP1_PAIR.apply(jnp.array([7.0, 3.0]))
>>> returns = transformed_lambda_returns(SIGNED_LOGP1_PAIR, jnp.ones(2), jnp.full(2, 0.5), v_t, 1.0)
>>> print(SIGNED_LOGP1_PAIR.apply_inv(returns).round(3))
[2.25 2.5 ]
"""
)

transformed_n_step_returns.__doc__ = (
    f"{transformed_n_step_returns.__doc__}"
    """

>>> from jaxql.bellman import SIGNED_LOGP1_PAIR
>>> v_t = SIGNED_LOGP1_PAIR.apply(jnp.array([7.0, 3.0]))
>>> returns = transformed_n_step_returns(SIGNED_LOGP1_PAIR, jnp.ones(2), jnp.full(2, 0.5), v_t, 1)
>>> print(SIGNED_LOGP1_PAIR.apply_inv(returns).round(3))
[4.5 2.5]
"""
)

transformed_general_off_policy_returns_from_action_values.__doc__ = (
    f"{transformed_general_off_policy_returns_from_action_values.__doc__}"
    """

>>> from jaxql.bellman import SIGNED_LOGP1_PAIR
>>> q_t = SIGNED_LOGP1_PAIR.apply(jnp.array([[7.0, 5.0], [3.0, 1.0]]))
>>> a_t, pi_t = jnp.zeros(2, int), jnp.array([[1.0, 0.0], [1.0, 0.0]])
>>> returns = transformed_general_off_policy_returns_from_action_values(
...     SIGNED_LOGP1_PAIR, q_t, a_t, jnp.ones(2), jnp.full(2, 0.5), jnp.zeros(2), pi_t)
>>> print(SIGNED_LOGP1_PAIR.apply_inv(returns).round(3))
[4.5 2.5]
"""
)


@batched("TA", "T", "T", "T", "TA", "T?", lambda_=TRACE, tx_pair=pair)
def transformed_q_lambda(
    q_tm1: Array,
    a_tm1: Array,
    r_t: Array,
    discount_t: Array,
    q_t: Array,
    lambda_: ArrayLike,
    stop_target_gradients: bool = True,
    tx_pair: TxPair = IDENTITY_PAIR,
) -> Array:
    """TD errors [..., T] of Q(lambda) for transformed values: `q_lambda`, with its return on the true scale.

    q_tm1, q_t [..., T, A] and the errors are on the scale of `tx_pair`. All else is as in `q_lambda`.

    Source: Sutton & Barto (2018), equation 12.20, http://incompleteideas.net/book/the-book-2nd.html, under the operator
    T_h of Pohlen et al. (2018), section 3.2 and proposition 3.1, https://arxiv.org/abs/1805.11593

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 0])
    >>> print(transformed_q_lambda(q, a, jnp.ones(2), jnp.full(2, 0.5), q, 1.0))
    [2.5 1. ]
    """
    v_t, discount_t = jnp.max(q_t, axis=-1), legal_discount(discount_t, q_t)
    targets = transformed_lambda_returns(tx_pair, r_t, discount_t, v_t, lambda_, stop_target_gradients)
    return targets - select_action(q_tm1, a_tm1)


@batched("TA", "TA", "T", "T", "T", "T", "TA", "T", "T?", lambda_=TRACE, eps=NOT_NEGATIVE, tx_pair=pair)
def transformed_retrace(
    q_tm1: Array,
    q_t: Array,
    a_tm1: Array,
    a_t: Array,
    r_t: Array,
    discount_t: Array,
    pi_t: Array,
    mu_t: Array,
    lambda_: ArrayLike,
    eps: Scalar = 1e-8,
    stop_target_gradients: bool = True,
    tx_pair: TxPair = IDENTITY_PAIR,
) -> Array:
    """TD errors [..., T] of Retrace(lambda) for transformed values: `retrace`, with its return on the true scale.

    q_tm1, q_t [..., T, A] and the errors are on the scale of `tx_pair`. All else is as in `retrace`.

    Source: Munos et al. (2016), equation 3 and table 1, https://arxiv.org/abs/1606.02647, under the operator T_h of
    Pohlen et al. (2018), section 3.2 and proposition 3.1, https://arxiv.org/abs/1805.11593

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 0])
    >>> print(transformed_retrace(q, q, a, a, jnp.ones(2), jnp.full(2, 0.5), jnp.full((2, 2), 0.5), jnp.ones(2), 1.0))
    [1.875 0.5  ]
    """
    c_t = retrace_traces(pi_t, mu_t, a_t, lambda_, eps)
    targets = transformed_general_off_policy_returns_from_action_values(
        tx_pair, q_t, a_t, r_t, discount_t, c_t, pi_t, stop_target_gradients
    )
    return targets - select_action(q_tm1, a_tm1)


@batched("TA", "T", "TA", "T", "T", "T", tx_pair=pair)
def transformed_n_step_q_learning(
    q_tm1: Array,
    a_tm1: Array,
    target_q_t: Array,
    a_t: Array,
    r_t: Array,
    discount_t: Array,
    n: int,
    stop_target_gradients: bool = True,
    tx_pair: TxPair = IDENTITY_PAIR,
) -> Array:
    """TD errors [..., T] of n-step Q-learning: the n-step return of v_t = target_q_t[a_t], less q_tm1[a_tm1].

    Args:
      q_tm1: [..., T, A] values before each reward, on the scale of `tx_pair`.
      a_tm1: [..., T] the actions taken there.
      target_q_t: [..., T, A] values after each reward, on that scale; the return is computed on the true one.
      a_t: [..., T] the actions that bootstrap: argmax of target_q_t, or of the online network's values (double).
      r_t, discount_t: [..., T] rewards and discounts; 0 past a termination.
      n: the number of steps, a positive Python integer; see `n_step_bootstrapped_returns`.
      stop_target_gradients: True makes the target a constant.
      tx_pair: the scale; the identity by default.

    Raises:
      ValueError: n is not positive, or lengths or batch axes differ.

    Source: Sutton & Barto (2018), equation 7.1, http://incompleteideas.net/book/the-book-2nd.html, under the operator
    T_h of Pohlen et al. (2018), section 3.2 and proposition 3.1, https://arxiv.org/abs/1805.11593; Kapturowski et al.
    (2019), section 2.3, in the text, https://openreview.net/pdf?id=r1lyTjAqYX

    >>> q, a = jnp.array([[0.0, 1.0], [2.0, 4.0]]), jnp.array([0, 0])
    >>> print(transformed_n_step_q_learning(q, a, q, jnp.argmax(q, -1), jnp.ones(2), jnp.full(2, 0.5), n=2))
    [2.5 1. ]
    """
    discount_t = legal_discount(discount_t, target_q_t)
    targets = transformed_n_step_returns(
        tx_pair, r_t, discount_t, select_action(target_q_t, a_t), n, stop_target_gradients=stop_target_gradients
    )
    return targets - select_action(q_tm1, a_tm1)
