"""The batching decorator, and the helpers that all equations share."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.experimental import checkify
from jax.experimental.xla_metadata import set_xla_metadata
from jax.typing import ArrayLike

from jaxql.bellman.arguments import (
    CHECKING,
    Rule,
    as_real,
    check_actions,
    check_count,
    checking,
    rounded_once,
)
from jaxql.types import Array

P = ParamSpec("P")
Result = TypeVar("Result")
Core = str | int | None

ACTIONS = "a_tm1", "a_t"  # parameters that hold actions


def batched(*cores: Core, **rules: Rule) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Returns a decorator that maps an equation of one transition or sequence over leading batch axes.

    `cores` holds the core axes of the leading parameters, in order. `rules` holds checks of values, by parameter; an
    argument of None is not checked. A core is one of:
      an int        the number of core axes
      "TA"          a letter for each core axis; axes with the same letter must have the same length
      "T?"          either a number, shared by the whole batch, or [T]
      None          an option, not an array

    The axes before the core are the batch axes. They are the same for all arguments, or absent. Anything else raises
    ValueError: a reward of [B, 1] beside values of [B, A] would silently give errors of [B, B]. A core axis of length
    0 raises too, unless its letter is S, which counts the steps between the entries of another axis.

    The remaining parameters are options: scalars or non-arrays, not batched. An array parameter that defaults to None
    may be left out. Integers and booleans are promoted where the equation computes with them. Half precision is
    computed in float32, and the result rounded once.
    """

    def decorate(equation: Callable[P, Result]) -> Callable[P, Result]:
        signature = inspect.signature(equation)
        cores_of = {name: core for name, core in zip(signature.parameters, cores, strict=False) if core is not None}
        optional = {name for name in cores_of if signature.parameters[name].default is None}

        @functools.wraps(equation)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            options = bound.arguments
            given = [name for name in cores_of if not (name in optional and options[name] is None)]
            passed = dict(options)
            arrays = {name: as_real(f"{equation.__name__}: {name}", options.pop(name)) for name in given}
            batches = _batch_axes(equation.__name__, arrays, cores_of)
            _check_options(equation.__name__, options)
            for name, rule in rules.items():
                if passed[name] is not None:
                    rule(f"{equation.__name__}: {name}", passed[name])
            for name in arrays.keys() & ACTIONS:
                check_actions(f"{equation.__name__}: {name}", arrays[name])

            def mapped(*xs):
                return equation(**dict(zip(arrays, xs, strict=True)), **options)  # pyright: ignore[reportCallIssue]

            for _ in next(filter(None, batches), ()):
                mapped = jax.vmap(mapped, [0 if batch else None for batch in batches])
            return rounded_once(mapped, *arrays.values())

        return call

    return decorate


def _batch_axes(equation: str, arrays: dict[str, Array], cores_of: dict[str, Any]) -> list[tuple[int, ...]]:
    """The batch axes of each argument. Raises ValueError unless axes and lengths agree."""
    axes = {name: " " * cores_of[name] if isinstance(cores_of[name], int) else cores_of[name] for name in arrays}
    axes = {name: own.rstrip("?") if arrays[name].ndim or "?" not in own else "" for name, own in axes.items()}
    batches = [x.shape[: max(x.ndim - len(axes[name]), 0)] for name, x in arrays.items()]
    full = next(filter(None, batches), ())
    lengths: dict[str, int] = {}
    for (name, x), batch in zip(arrays.items(), batches, strict=True):
        rank = len(axes[name])
        if x.ndim < rank or batch not in ((), full):
            raise ValueError(
                f"{equation}: {name} has shape {x.shape}; it needs {rank} axes of its own, and before "
                f"them the batch axes {full} of the other arguments, or none"
            )
        for letter, length in zip(axes[name], x.shape[x.ndim - rank :], strict=True):
            if length == 0 and letter != "S":
                raise ValueError(f"{equation}: {name} has shape {x.shape}; an axis of its own is empty")
            if letter != " " and lengths.setdefault(letter, length) != length:
                raise ValueError(
                    f"{equation}: {name} has shape {x.shape}; its axis {letter} needs length {lengths[letter]}, as in "
                    f"the arguments before it"
                )
    return batches


def _check_options(equation: str, options: dict[str, Any]) -> None:
    for name, option in options.items():
        if getattr(option, "ndim", 0):
            raise ValueError(
                f"{equation}: {name} has shape {option.shape}; it is one number for the whole batch, "
                "and for several there is jax.vmap"
            )
        if isinstance(option, str):
            raise ValueError(f"{equation}: {name} is {option!r}, a string; it must be a number, a bool or a function")


def drop_unweighted(weight: ArrayLike, x: ArrayLike) -> Array:
    """x, with 0 where the weight is 0 and x is not finite, so that x spoils neither the value nor the gradient."""
    return jnp.where(jnp.equal(weight, 0) & ~jnp.isfinite(x), 0, x)


def safe_multiply(factor: ArrayLike, x: ArrayLike) -> Array:
    """factor * x, where 0 times an infinity or a NaN is 0."""
    return jnp.multiply(factor, drop_unweighted(factor, x))


def td_target(r_t: ArrayLike, discount_t: ArrayLike, v_t: ArrayLike) -> Array:
    """r_t + discount_t * v_t. Past a termination (discount 0) not even an infinite v_t counts."""
    return jnp.add(r_t, safe_multiply(discount_t, v_t))


def legal_discount(discount_t: ArrayLike, q_t: Array) -> Array:
    """discount_t [...], but 0 where no action is legal: q_t [..., A] all -inf. There is nothing to bootstrap from.

    Under `checked` a discount above 0 raises there.
    """
    no_action = jnp.all(q_t == -jnp.inf, axis=-1)
    if checking():
        checkify.check(
            jnp.all(~no_action | jnp.equal(discount_t, 0)), "no action is legal in a next state that bootstraps"
        )
    return jnp.where(no_action, 0, discount_t)


def paired_sum(x: Array) -> Array:
    """The sum [...] of x [..., N], whose first and last entry are added first, and so on: opposites leave exactly 0."""
    return jnp.sum(x + jnp.flip(x, axis=-1), axis=-1) / 2


def static_where(condition: bool | Array, x: Array, y: Array) -> Array:
    """x or y. A Python bool is resolved at trace time; a traced one uses `jnp.where`."""
    if isinstance(condition, Tracer):
        return jnp.where(condition, x, y)
    return x if condition else y


def maybe_stop_gradient(target: Array, stop: bool | Array) -> Array:
    """The target, as a constant if `stop` is true."""
    return static_where(stop, jax.lax.stop_gradient(target), target)


def check_steps(equation: str, n: Any) -> None:
    """Raises ValueError unless n is a number of steps."""
    check_count(f"{equation}: n", n)


def check_index(name: str, i: Array, length: int) -> None:
    """Raises, under `checked` only, unless every entry of i [...] is in 0 .. length - 1."""
    if checking():
        last = jnp.asarray(min(length - 1, jnp.iinfo(i.dtype).max), i.dtype)  # the length itself may not fit i.dtype
        inside = (i >= 0) & (i <= last)
        checkify.check(jnp.all(inside), f"{name} is not in 0 .. {length - 1}: {{i}}", i=i)


def select_action(x: Array, a: ArrayLike) -> Array:
    """x[..., a] for x [..., A] and actions a [...]. Under `checked` an invalid action raises."""
    a = jnp.asarray(a)
    check_index("an action", a, x.shape[-1])
    return jnp.take_along_axis(x, a[..., None], axis=-1, mode="clip")[..., 0]


def select_action_row(x: Array, a: ArrayLike) -> Array:
    """x[a] for x [A, ...] and one action a. Under `checked` an invalid action raises."""
    return x[select_action(jnp.arange(x.shape[0]), a)]


def checked(f: Callable[P, Result]) -> Callable[P, Result]:
    """Returns f compiled, with a check of every action and option it gives to an equation: a mode for debugging.

    JAX reads an action past the last, and -1 too, as the last action, so a wrong action learns in silence.
    `checked(f)` raises instead. It also raises where a next state that bootstraps has no legal action, and where a
    traced option is out of its range. The arguments of f are arrays, as for `jax.jit`. Bind options with
    `functools.partial`. f may itself be compiled, mapped or differentiated: `checked` goes outermost. Without
    `checked` nothing is checked, because even an idle check costs a compiled f a millisecond a call.

    Raises:
      ValueError: an action is not in 0 .. A - 1, a next state that bootstraps has no legal action, or a traced option
        is out of its range.

    Source: `jax.experimental.checkify`, https://docs.jax.dev/en/latest/debugging/checkify_guide.html

    >>> from jaxql.bellman import q_learning
    >>> q = jnp.array([0.0, 1.0])
    >>> print(q_learning(q, 2, 1.0, 0.5, q), checked(q_learning)(q, 1, 1.0, 0.5, q))
    0.5 0.5
    >>> checked(q_learning)(q, 2, 1.0, 0.5, q)
    Traceback (most recent call last):
        ...
    ValueError: an action is not in 0 .. 1: 2
    """
    run = _checked_program(f)

    @functools.wraps(f)
    def call(*args: P.args, **kwargs: P.kwargs) -> Result:
        token = CHECKING.set(True)
        try:
            # The metadata is part of JAX's cache key: programs traced without checks are not reused.
            with set_xla_metadata(checked=True):
                error, result = run(*args, **kwargs)
        finally:
            CHECKING.reset(token)
        if message := error.get():
            raise ValueError(message.removesuffix(" (`check` failed)"))
        return result

    return call


@functools.lru_cache(maxsize=256)
def _checked_program(f: Callable) -> Callable:
    """The compiled f with its checks: one for each f, so that `checked(f)` in a loop compiles once."""
    return jax.jit(checkify.checkify(f))


def promoted(*xs: ArrayLike) -> tuple[Array, ...]:
    """The arrays in their common floating dtype."""
    dtype = jnp.result_type(*xs, 1.0)  # the weak 1.0 turns integers into floats
    return tuple(jnp.asarray(x).astype(dtype) for x in xs)
