"""TD errors and returns of one transition or one sequence, with any leading batch axes.

Names, positional order and results are rlax's, so that changing the import is enough; time is in the name (`_tm1` is
t - 1, `_t` is t). `discount_t` already holds gamma (gamma**m after m steps) and is 0 past a termination: no equation
here knows of gamma or of endings.
"""

import functools
import inspect

import jax
import jax.numpy as jnp

from jaxql.types import Array


def batched(*core_ranks: int):
    """Batches an equation written for one transition or sequence, whose leading parameters have these ranks.

    The axes before the core are the batch: the same for all arguments, or absent. Anything else raises ValueError, for
    a reward of [B, 1] beside values of [B, A] would silently give errors of [B, B]. Parameters after the leading ones
    are options, shared by the whole batch. Integers and booleans are promoted where the equation computes with them.
    """

    def decorate(equation):
        signature = inspect.signature(equation)
        names = list(signature.parameters)[: len(core_ranks)]

        @functools.wraps(equation)
        def call(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            arrays = [jnp.asarray(bound.arguments.pop(name)) for name in names]
            batches = [x.shape[: max(x.ndim - rank, 0)] for x, rank in zip(arrays, core_ranks, strict=True)]
            full = next(filter(None, batches), ())
            for name, x, rank, batch in zip(names, arrays, core_ranks, batches, strict=True):
                if x.ndim < rank or batch not in ((), full):
                    raise ValueError(
                        f"{equation.__name__}: {name} has shape {x.shape}; it needs {rank} axes of its own, and before "
                        f"them the batch axes {full} of the other arguments, or none"
                    )
            mapped = functools.partial(equation, **bound.arguments)
            for _ in full:
                mapped = jax.vmap(mapped, [0 if batch else None for batch in batches])
            return mapped(*arrays)

        return call

    return decorate


def _product(factor, x):
    """factor * x, where 0 times an infinity or a NaN is 0."""
    return factor * jnp.where((factor == 0) & ~jnp.isfinite(x), 0, x)


def _bootstrap(r_t, discount_t, v_t):
    """r_t + discount_t * v_t; past an end (discount 0) not even an infinite v_t counts."""
    return r_t + _product(discount_t, v_t)


def _stopped(target, stop):
    return jnp.where(stop, jax.lax.stop_gradient(target), target)


def _same_length(**sequences):
    lengths = {name: x.shape[0] for name, x in sequences.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"sequences must have one length T, got {lengths}")


@batched(0, 0, 0, 0)
def td_learning(v_tm1, r_t, discount_t, v_t, stop_target_gradients=True) -> Array:
    """TD error [...] of a state value: r_t + discount_t * v_t - v_tm1; all arguments [...].

    Source: Sutton & Barto (2018), equation 6.5, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(td_learning(1.0, 2.0, 0.5, 4.0))
    3.0
    """
    return _stopped(_bootstrap(r_t, discount_t, v_t), stop_target_gradients) - v_tm1


@batched(1, 0, 0, 0, 1)
def q_learning(q_tm1, a_tm1, r_t, discount_t, q_t, stop_target_gradients=True) -> Array:
    """TD error [...] of Q-learning: r_t + discount_t * max_a q_t[a] - q_tm1[a_tm1].

    Args:
      q_tm1: [..., A] action values at t - 1.
      a_tm1: [...] the action taken, an index into A.
      r_t: [...] reward.
      discount_t: [...] gamma, or 0 past a termination.
      q_t: [..., A] action values at t, the target network's for instance.
      stop_target_gradients: whether the target is a constant.

    Raises:
      ValueError: an argument lacks axes, or its batch axes differ from the others'.

    Source: Watkins & Dayan (1992), equation 1, https://doi.org/10.1007/BF00992698

    >>> q_tm1, q_t = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[5.0, 6.0], [7.0, jnp.inf]])
    >>> print(q_learning(q_tm1, jnp.array([0, 1]), jnp.array([1, 1]), jnp.array([0.5, 0.0]), q_t))
    [ 3. -3.]
    """
    return _stopped(_bootstrap(r_t, discount_t, jnp.max(q_t)), stop_target_gradients) - q_tm1[a_tm1]


@batched(1, 0, 0, 0, 1, 1)
def double_q_learning(q_tm1, a_tm1, r_t, discount_t, q_t_value, q_t_selector, stop_target_gradients=True) -> Array:
    """TD error [...] of double Q-learning: r_t + discount_t * q_t_value[argmax_a q_t_selector[a]] - q_tm1[a_tm1].

    Shapes and errors as in `q_learning`; `q_t_selector` [..., A] (the online network) chooses the action that
    `q_t_value` [..., A] (the target network) evaluates.

    Source: van Hasselt, Guez & Silver (2016), equation 4, https://arxiv.org/abs/1509.06461

    >>> q = jnp.array([0.0, 1.0])
    >>> print(double_q_learning(q, 0, 1.0, 0.5, jnp.array([4.0, 2.0]), q))
    2.0
    """
    v_t = q_t_value[jnp.argmax(q_t_selector)]
    return _stopped(_bootstrap(r_t, discount_t, v_t), stop_target_gradients) - q_tm1[a_tm1]


@batched(1, 0, 0, 0, 1, 0)
def sarsa(q_tm1, a_tm1, r_t, discount_t, q_t, a_t, stop_target_gradients=True) -> Array:
    """TD error [...] of SARSA: r_t + discount_t * q_t[a_t] - q_tm1[a_tm1]; shapes and errors as in `q_learning`.

    Source: Sutton & Barto (2018), equation 6.7, http://incompleteideas.net/book/the-book-2nd.html

    >>> q = jnp.array([0.0, 1.0])
    >>> print(sarsa(q, 0, 1.0, 0.5, jnp.array([4.0, 2.0]), 1))
    2.0
    """
    return _stopped(_bootstrap(r_t, discount_t, q_t[a_t]), stop_target_gradients) - q_tm1[a_tm1]


@batched(1, 0, 0, 0, 1, 1)
def expected_sarsa(q_tm1, a_tm1, r_t, discount_t, q_t, probs_a_t, stop_target_gradients=True) -> Array:
    """TD error [...] of expected SARSA: r_t + discount_t * sum_a probs_a_t[a] q_t[a] - q_tm1[a_tm1].

    Shapes and errors as in `q_learning`; `probs_a_t` [..., A] is the target policy at t. An action of probability 0
    does not count, whatever its value.

    Source: Sutton & Barto (2018), equation 6.9, http://incompleteideas.net/book/the-book-2nd.html

    >>> q = jnp.array([0.0, 1.0])
    >>> print(expected_sarsa(q, 0, 1.0, 0.5, jnp.array([4.0, 2.0]), jnp.array([0.5, 0.5])))
    2.5
    """
    v_t = jnp.sum(_product(probs_a_t, q_t))
    return _stopped(_bootstrap(r_t, discount_t, v_t), stop_target_gradients) - q_tm1[a_tm1]


@batched(1, 1, 1)
def lambda_returns(r_t, discount_t, v_t, lambda_=1.0, stop_target_gradients=False) -> Array:
    """Lambda-returns [..., T]: G_t = r_t + discount_t * ((1 - lambda_t) v_t + lambda_t G_{t+1}), with G_T = v_{T-1}.

    Args:
      r_t, discount_t, v_t: [..., T] rewards, discounts and state values, in step: v_t follows r_t.
      lambda_: the trace, a number or [T].
      stop_target_gradients: whether the returns are constants.

    Raises:
      ValueError: lengths or batch axes differ.

    Source: Sutton & Barto (2018), equation 12.18, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(lambda_returns(jnp.ones(3), jnp.full(3, 0.5), jnp.zeros(3), 1.0))
    [1.75 1.5  1.  ]
    """
    _same_length(r_t=r_t, discount_t=discount_t, v_t=v_t)
    dtype = jnp.result_type(r_t, discount_t, v_t, lambda_, 1.0)  # the weak 1.0 turns integers into floats
    r_t, discount_t, v_t = (x.astype(dtype) for x in (r_t, discount_t, v_t))
    lambda_t = jnp.broadcast_to(jnp.asarray(lambda_, dtype), r_t.shape)

    def backwards(g, row):
        r, discount, v, trace = row
        g = _bootstrap(r, discount, (1 - trace) * v + trace * g)
        return g, g

    _, returns = jax.lax.scan(backwards, v_t[-1], (r_t, discount_t, v_t, lambda_t), reverse=True)
    return _stopped(returns, stop_target_gradients)


def discounted_returns(r_t, discount_t, v_t, stop_target_gradients=False) -> Array:
    """Discounted returns [..., T]: G_t = r_t + discount_t * G_{t+1}, bootstrapped with the last v_t.

    `v_t` is [..., T] (only its last entry counts) or [...]. Otherwise as `lambda_returns` with lambda 1.

    Source: Sutton & Barto (2018), equation 3.9, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(discounted_returns(jnp.ones(3), jnp.full(3, 0.5), 8.0))
    [2.75 3.5  5.  ]
    """
    r_t, v_t = jnp.asarray(r_t), jnp.asarray(v_t)
    v_t = v_t[..., None] if v_t.ndim < max(r_t.ndim, 1) else v_t
    bootstrap = jnp.broadcast_to(v_t, r_t.shape) if v_t.shape[-1] == 1 else v_t
    return lambda_returns(r_t, discount_t, bootstrap, 1.0, stop_target_gradients)


@batched(1, 1, 1)
def n_step_bootstrapped_returns(r_t, discount_t, v_t, n, lambda_t=1.0, stop_target_gradients=False) -> Array:
    """n-step returns [..., T]: G_t = r_t + discount_t * (r_{t+1} + ... discount_{t+n-1} * v_{t+n-1}).

    Near the end of the sequence the window shortens and bootstraps from the last v_t. With `lambda_t` below 1 each
    step mixes in its own value, as in `lambda_returns`.

    Args:
      r_t, discount_t, v_t: [..., T] in step: v_t follows r_t. A discount of 0 ends the window.
      n: the number of steps, a positive Python integer.
      lambda_t: the trace, a number or [T].
      stop_target_gradients: whether the returns are constants.

    Raises:
      ValueError: n is not positive, or lengths or batch axes differ.

    Source: Sutton & Barto (2018), equation 7.1, http://incompleteideas.net/book/the-book-2nd.html

    >>> print(n_step_bootstrapped_returns(jnp.ones(3), jnp.full(3, 0.5), jnp.full(3, 8.0), n=2))
    [3.5 3.5 5. ]
    """
    _same_length(r_t=r_t, discount_t=discount_t, v_t=v_t)
    if n < 1:
        raise ValueError(f"n_step_bootstrapped_returns: n is {n}; a window has at least 1 step")
    length = r_t.shape[0]
    lambda_t = jnp.broadcast_to(jnp.asarray(lambda_t), (length,))

    def window(x, beyond):  # [T, n]: entries t .. t + n - 1, continued past the end by `beyond`
        padded = jnp.concatenate([x, jnp.full((n - 1,), beyond, x.dtype)])
        return jnp.stack([padded[i : i + length] for i in range(n)], axis=-1)

    # Past the end: reward 0, discount 1 and the last value, which leaves the bootstrap as it is.
    rewards, discounts, traces = window(r_t, 0), window(discount_t, 1), window(lambda_t, 1)
    values = window(v_t, v_t[-1])
    target = values[:, -1]
    for i in reversed(range(n)):
        mixed = (1 - traces[:, i]) * values[:, i] + traces[:, i] * target
        target = _bootstrap(rewards[:, i], discounts[:, i], mixed)
    return _stopped(target, stop_target_gradients)
