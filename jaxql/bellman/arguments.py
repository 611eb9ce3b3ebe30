"""Checks of arguments: what a number may be, and the one line that says so.

A check looks at values that are known: numbers, NumPy arrays, JAX arrays. A traced value is checked under `checked`
only.
"""

import contextvars
import operator
import reprlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import checkify
from jax.typing import ArrayLike

from jaxql.types import Array

Rule = Callable[[str, Any], None]  # (name, value) -> None; raises ValueError

CHECKING = contextvars.ContextVar("traced values are checked", default=False)


def checking() -> bool:
    """True while a function is traced under `checked`."""
    return CHECKING.get()


def as_real(name: str, x: Any) -> Array:
    """Returns x as an array of real numbers or booleans.

    Raises:
      ValueError: it is none.

    >>> as_real("discount", "0.9")
    Traceback (most recent call last):
        ...
    ValueError: discount is '0.9'; it must be a real number or an array of them
    """
    try:
        array = None if isinstance(x, str) else jnp.asarray(x)  # JAX reads a string as the name of a dtype
    except (TypeError, ValueError, OverflowError):
        array = None
    if array is None or not (_is_real(array.dtype) or array.dtype == bool):
        raise ValueError(f"{name} is {_shown(x)}; it must be a real number or an array of them")
    return array


def check_actions(name: str, a: Array) -> None:
    """Raises ValueError unless actions a [...] are integers."""
    if not jnp.issubdtype(a.dtype, jnp.integer):
        raise ValueError(f"{name} has dtype {a.dtype}; actions are integers, 0 .. A - 1")


def check_count(name: str, n: Any, least: int = 1) -> None:
    """Raises ValueError unless n is a Python integer of at least `least`.

    >>> check_count("n", 2.5)
    Traceback (most recent call last):
        ...
    ValueError: n is 2.5; it must be a whole number, at least 1
    """
    if isinstance(n, Tracer):
        raise ValueError(
            f"{name} is traced; it must be a Python integer: bind it before jax.jit, or name it in static_argnames"
        )
    try:
        whole = not isinstance(n, bool | np.bool_) and operator.index(n) >= least
    except TypeError:
        whole = False
    if not whole:
        raise ValueError(f"{name} is {_shown(n)}; it must be a whole number, at least {least}")


def numbers(allowed: str, contains: Callable[[Any], Any], *, arrays: bool = False) -> Rule:
    """Returns the rule of a number in a range; with `arrays`, of arrays whose every entry is in it.

    Args:
      allowed: the range in words, after "it must be".
      contains: (x) -> whether x is in the range, elementwise; False for NaN.
      arrays: False refuses arrays with axes.

    >>> numbers("above 0", lambda x: x > 0)("sigma", -1.0)
    Traceback (most recent call last):
        ...
    ValueError: sigma is -1.0; it must be above 0
    """

    def rule(name: str, x: Any) -> None:
        if isinstance(x, Tracer):
            if checking():
                checkify.check(jnp.all(contains(x)), f"{name} is {{x}}; it must be {allowed}", x=x)
            return
        values = np.asarray(x)
        right = _is_real(values.dtype) and (arrays or values.ndim == 0)
        if not right or not np.all(contains(_plain(values))):
            raise ValueError(f"{name} is {_shown(x)}; it must be {allowed}")

    return rule


def of_scalars(rule: Rule) -> Rule:
    """Returns the rule, which arrays with axes, traces of every step for instance, need not keep."""

    def relaxed(name: str, x: Any) -> None:
        if np.ndim(x) == 0:
            rule(name, x)

    return relaxed


def ascending(*, strictly: bool = False) -> Rule:
    """Returns the rule of finite numbers [..., N] in ascending order; without `strictly`, neighbours may be equal.

    >>> ascending()("atoms", [0.0, 2.0, 1.0])
    Traceback (most recent call last):
        ...
    ValueError: atoms are [0.0, 2.0, 1.0]; they must be finite and in ascending order
    """

    def rule(name: str, x: Any) -> None:
        message = f"they must be finite and in {'strictly ' if strictly else ''}ascending order"
        if isinstance(x, Tracer):
            if checking():
                checkify.check(_ascends(jnp, x, strictly), f"{name} are {{x}}; {message}", x=x)
        elif not _ascends(np, _plain(np.asarray(x)), strictly):
            raise ValueError(f"{name} are {_shown(x)}; {message}")

    return rule


def function(name: str, f: Any) -> None:
    """Raises ValueError unless f can be called."""
    if not callable(f):
        raise ValueError(f"{name} is {_shown(f)}; it must be a function")


def pair(name: str, x: Any) -> None:
    """Raises ValueError unless x is a `TxPair` or like one."""
    if not (hasattr(x, "apply") and hasattr(x, "apply_inv")):
        raise ValueError(f"{name} is {_shown(x)}; it must be a TxPair, such as IDENTITY_PAIR")


def _real_numbers(x: Any) -> Any:
    return (x > -np.inf) & (x < np.inf)


REAL = numbers("a finite number", _real_numbers)
REALS = numbers("finite", _real_numbers, arrays=True)
POSITIVE = numbers("a finite number above 0", lambda x: (x > 0) & (x < np.inf))
POSITIVES = numbers("finite and above 0", lambda x: (x > 0) & (x < np.inf), arrays=True)
NOT_NEGATIVE = numbers("a finite number, at least 0", lambda x: (x >= 0) & (x < np.inf))
NOT_POSITIVE = numbers("a number, at most 0", lambda x: x <= 0)
UNIT = numbers("a number in [0, 1]", lambda x: (x >= 0) & (x <= 1))
UNITS = numbers("in [0, 1]", lambda x: (x >= 0) & (x <= 1), arrays=True)
LEVEL = numbers("a number above 0 and at most 1", lambda x: (x > 0) & (x <= 1))
FRACTIONS = numbers("in [0, 1]", lambda x: (x >= 0) & (x <= 1 + 1e-5), arrays=True)  # sums round
TRACE = of_scalars(UNIT)
ASCENDING = ascending()
EDGES = ascending(strictly=True)


def _ascends(xp: Any, x: Any, strictly: bool) -> Any:
    steps = x[..., 1:] - x[..., :-1]
    return xp.all(xp.isfinite(x)) & xp.all(steps > 0 if strictly else steps >= 0)


def _is_real(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


def _plain(values: np.ndarray) -> np.ndarray:
    """The values in float64 where they are floats: NumPy knows no half precision of its own."""
    return values.astype(np.float64) if jnp.issubdtype(values.dtype, jnp.floating) else values


def _shown(x: Any) -> str:
    """A value in a message: short, on one line."""
    text = str(x) if isinstance(x, jax.Array | np.ndarray) else reprlib.repr(x)
    return " ".join(text.split())[:80]


def is_half(x: ArrayLike) -> bool:
    """True for an array of 16-bit floats.

    >>> is_half(jnp.ones(2, jnp.bfloat16)), is_half(jnp.ones(2)), is_half(0.5)
    (True, False, False)
    """
    dtype = getattr(x, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits == 16


def rounded_once(f: Callable[..., Any], *args: Array) -> Any:
    """Returns f(*args), with args of half precision computed in float32 and its results rounded once.

    A sum in half precision stops growing where a term is less than half a unit in its last place.

    >>> ones = jnp.ones(1000, jnp.bfloat16)
    >>> print(rounded_once(lambda x: jax.lax.reduce(x, x[0] * 0, jax.lax.add, (0,)), ones))
    1000
    """
    if not any(map(is_half, args)):
        return f(*args)
    dtypes = jax.eval_shape(f, *args)
    wide = [x.astype(jnp.float32) if is_half(x) else x for x in args]
    return jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), f(*wide), dtypes)
