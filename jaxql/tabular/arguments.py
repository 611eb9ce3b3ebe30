"""Checks of the arguments of table functions, and their compilation: once for each shape.

Concrete arguments are checked by value. Traced ones are checked by shape and dtype only.
"""

import functools
import inspect
import operator
import reprlib
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxql.errors import UserError

P = ParamSpec("P")
Result = TypeVar("Result")

INDICES = {"state": 0, "next_state": 0, "action": 1, "next_action": 1}  # name -> axis of the table
FRACTIONS = "discount gamma learning_rate lambda_ epsilon sigma".split()  # in [0, 1]
WEIGHTS = "ratio eta kappa elapsed".split()  # finite, at least 0
ARRAYS = jax.Array, np.ndarray, np.generic


def compiled(*, rank: int | None = 2, **options: Any) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Returns a decorator that checks the arguments of a table function by name, and compiles it once for each shape.

    Args:
      rank: axes of the first argument, if it is a table; None for any.
      options: the parameters that are Python values, and what they may be: the least whole number, or all choices.
    """

    def decorate(f: Callable[P, Result]) -> Callable[P, Result]:
        signature = inspect.signature(f)
        run = jax.jit(f, static_argnames=tuple(options))

        @functools.wraps(f)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            for name, x in bound.arguments.items():
                if name in options:
                    bound.arguments[name] = _option(name, x, options[name])
                elif x is not None or signature.parameters[name].default is not None:
                    bound.arguments[name] = _array(name, x)
            _check_table(next(iter(bound.arguments.items())), rank)
            _check_values(bound.arguments)
            return run(*bound.args, **bound.kwargs)

        return call

    return decorate


def whole_number(name: str, x: Any, least: int) -> int:
    """x as a Python int. Raises ValueError unless it is a whole number of at least `least`, known at trace time."""
    if isinstance(x, Tracer):
        raise ValueError(f"{name} is traced; it must be a Python int, for it is the length of an array")
    if isinstance(x, bool) or not hasattr(x, "__index__") or np.ndim(x) or operator.index(x) < least:
        raise ValueError(f"{name} is {x!r}; it must be a whole number, at least {least}")
    return operator.index(x)


def choice(name: str, x: Any, choices: tuple[Any, ...]) -> Any:
    """x. Raises ValueError unless it is one of the choices."""
    if not any(type(x) is type(y) and x == y for y in choices):
        raise ValueError(f"{name} is {x!r}; it must be {' or '.join(map(repr, choices))}")
    return x


def check_range(name: str, x: Any, inside: Callable[[float], bool], want: str) -> None:
    """Raises UserError, saying that x must `want`, unless x is a number inside its range, or traced."""
    if isinstance(x, Tracer):
        return
    number = (
        not isinstance(x, str | bytes | bool) and np.ndim(x) == 0 and jnp.issubdtype(jnp.result_type(x), jnp.number)
    )
    if not number or not inside(x):
        raise UserError(f"{name} is {reprlib.repr(x)}; it must {want}")


def _option(name, x, allowed):
    return whole_number(name, x, allowed) if type(allowed) is int else choice(name, x, allowed)


def _array(name, x):
    """x as something that `jax.jit` takes. Raises ValueError unless its dtype suits the name."""
    if name == "counts":
        if not hasattr(x, "transitions"):
            raise ValueError(f"counts is {reprlib.repr(x)}; it must come from empty_counts or empty_sparse_counts")
        return x
    if name == "key":
        if not isinstance(x, ARRAYS) or not (
            jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) or x.dtype == np.uint32
        ):
            raise ValueError(f"key is {reprlib.repr(x)}; it must be a key, such as jax.random.key(0)")
        return x
    try:
        if type(x) is int and name not in INDICES:
            array = float(x)  # a number may be larger than an int32
        elif type(x) in (bool, int, float) or isinstance(x, ARRAYS):
            array = x
        else:
            array = jnp.asarray(x)
        dtype = array.dtype if isinstance(array, ARRAYS) else np.dtype(type(array))
        known = any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))
    except (TypeError, ValueError, OverflowError):
        known = False
    if not known:
        raise ValueError(f"{name} is {reprlib.repr(x)}; it must be a number or an array of numbers")
    if name in INDICES and not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(f"{name} is {dtype}; it must hold whole numbers, such as int32")
    return array


def _check_table(argument, rank):
    name, x = argument
    if rank is not None and not hasattr(x, "transitions") and (np.ndim(x) != rank or 0 in np.shape(x)):
        shape = {1: "[S]", 2: "[S, A]", 3: "[2, S, A]"}[rank]
        raise ValueError(f"{name} has shape {np.shape(x)}; it needs {shape}, none of them 0")


def _check_values(arguments):
    """Raises ValueError for a concrete value that is out of range in a valid row."""
    table, dtype, shape = next(iter(arguments.values())), None, ()
    if hasattr(table, "transitions"):
        dtype, shape = table.rewards.dtype, table.transitions.shape[:2]
    elif isinstance(table, ARRAYS):
        dtype, shape = table.dtype, table.shape[-2:]
    valid = _on_host(arguments.get("valid", True))
    for name, argument in arguments.items():
        if name in INDICES:
            high = shape[INDICES[name]] - 1
            inside, want = (lambda x, high=high: (x >= 0) & (x <= high)), f"lie in 0..{high}, the table's"
        elif name in FRACTIONS:
            inside, want = (lambda x: (x >= 0) & (x <= 1)), "lie in [0, 1]"
        elif name in WEIGHTS:
            inside, want = (lambda x: (x >= 0) & np.isfinite(x)), "be finite and at least 0"
        elif name == "behaviour":
            inside, want = (lambda x: (x > 0) & (x <= 1)), "lie in (0, 1]"
        elif name == "reward" and jnp.issubdtype(dtype, jnp.floating):
            largest = float(jnp.finfo(dtype).max)
            inside, want = (lambda x, largest=largest: np.abs(x.astype(float)) <= largest), f"be finite in {dtype}"
        elif name == "policy":
            inside, want = _sums_to_one, "hold probabilities [S, A] that sum to 1 in each state"
        else:
            continue
        x = _on_host(argument)
        if x is None:
            continue
        if not (x.ndim == 0 and name in FRACTIONS + WEIGHTS) and name != "policy":
            x = _where_valid(x, valid)
        ok = np.asarray(inside(x))
        if not ok.all():
            bad = x[~ok][0] if x.ndim else x
            raise ValueError(f"{name} is {bad.tolist()}; it must {want}")


def _sums_to_one(policy):
    policy = policy.astype(float)
    return (policy >= 0).all(axis=-1) & (np.abs(policy.sum(axis=-1) - 1) <= 1e-3)


def _on_host(x):
    """x as a NumPy array, or None if it is traced or lies on other hosts."""
    if x is None or isinstance(x, Tracer) or isinstance(x, jax.Array) and not x.is_fully_addressable:
        return None
    return np.asarray(x)


def _where_valid(x, valid):
    """The entries [M] of x that are in valid rows; none where that is unknown or the shapes differ."""
    if valid is None:
        return x[:0] if x.ndim else np.zeros(0, x.dtype)
    valid = valid.astype(bool)
    if valid.ndim and x.shape == (*valid.shape[:-1], valid.shape[-1] + 1):  # one more: the successor of the last row
        valid = np.concatenate([valid, np.ones_like(valid[..., :1])], axis=-1)
    if valid.ndim == 0 or x.ndim == 0:
        return x.reshape(-1) if valid.any() else x.reshape(-1)[:0]
    return x[valid] if x.shape == valid.shape else x.reshape(-1)[:0]
