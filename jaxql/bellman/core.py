"""How an equation for one transition becomes one for any batch, and what all equations share."""

import contextvars
import functools
import inspect

import jax
import jax.numpy as jnp
from jax.experimental import checkify
from jax.experimental.xla_metadata import set_xla_metadata

_CHECKING = contextvars.ContextVar("an action that is none is reported", default=False)


def batched(*cores):
    """Batches an equation written for one transition or sequence, given the axes of its leading parameters.

    A parameter's own axes are a number of them, or a string with a letter for each, where equal letters must have
    equal lengths: "TA" is [T, A]; "T?" is a number, shared by the whole batch, or [T]; None is an option among data.
    The axes before its own are the batch: the same for all arguments, or absent. Anything else raises ValueError, for
    a reward of [B, 1] beside values of [B, A] would silently give errors of [B, B], and so does an axis of length 0,
    unless it is S, what lies between the entries of another.
    Parameters after the leading ones are options, shared by the whole batch: a number each, or what is no array.
    Integers and booleans are promoted where the equation computes with them.
    """

    def decorate(equation):
        signature = inspect.signature(equation)
        cores_of = {name: core for name, core in zip(signature.parameters, cores, strict=False) if core is not None}

        @functools.wraps(equation)
        def call(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            options = bound.arguments
            arrays = {name: jnp.asarray(options.pop(name)) for name in cores_of}
            batches = _batches(equation.__name__, arrays, cores_of)
            for name, option in options.items():
                if getattr(option, "ndim", 0):
                    raise ValueError(
                        f"{equation.__name__}: {name} has shape {option.shape}; it is one number for the whole batch, "
                        "and for several there is jax.vmap"
                    )

            def mapped(*xs):
                return equation(**dict(zip(arrays, xs, strict=True)), **options)

            for _ in next(filter(None, batches), ()):
                mapped = jax.vmap(mapped, [0 if batch else None for batch in batches])
            return mapped(*arrays.values())

        return call

    return decorate


def _batches(equation, arrays, cores_of):
    """The batch axes of each argument; raises ValueError unless axes and lengths agree."""
    axes = {name: " " * core if isinstance(core, int) else core for name, core in cores_of.items()}
    axes = {name: own.rstrip("?") if arrays[name].ndim or "?" not in own else "" for name, own in axes.items()}
    batches = [x.shape[: max(x.ndim - len(axes[name]), 0)] for name, x in arrays.items()]
    full = next(filter(None, batches), ())
    lengths = {}
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


def weighed(factor, x):
    """x, with 0 for what is not finite and has no weight: it must not count, nor spoil a gradient."""
    return jnp.where((factor == 0) & ~jnp.isfinite(x), 0, x)


def product(factor, x):
    """factor * x, where 0 times an infinity or a NaN is 0."""
    return factor * weighed(factor, x)


def bootstrap(r_t, discount_t, v_t):
    """r_t + discount_t * v_t; past an end (discount 0) not even an infinite v_t counts."""
    return r_t + product(discount_t, v_t)


def either(condition, x, y):
    """x where `condition` is true, which may be traced, else y; one that is known leaves no gradient of the other."""
    if isinstance(condition, jax.core.Tracer):
        return jnp.where(condition, x, y)
    return x if condition else y


def stopped(target, stop):
    """The target as a constant where `stop` is true."""
    return either(stop, jax.lax.stop_gradient(target), target)


def check_steps(equation, n):
    """Raises ValueError unless n is a number of steps."""
    if not hasattr(n, "__index__") or n < 1:
        raise ValueError(f"{equation}: n is {n}; a window has a whole number of steps, at least 1")


def checking():
    """Whether this is being traced under `checked`."""
    return _CHECKING.get()


def check_index(what, i, length):
    """Under `checked`: i [...] must be in 0 .. length - 1."""
    if checking():
        last = jnp.asarray(min(length - 1, jnp.iinfo(i.dtype).max), i.dtype)  # a length itself may not fit in i's
        within = (i >= 0) & (i <= last)
        checkify.check(jnp.all(within), f"{what} is not in 0 .. {length - 1}: {{i}}", i=i)


def taken(x, a):
    """x[..., a]: what belongs to the action taken; x [..., A], a [...]. An invalid a is reported under `checked`."""
    check_index("an action", a, x.shape[-1])
    return jnp.take_along_axis(x, a[..., None], axis=-1, mode="clip")[..., 0]


def checked(f):
    """f, compiled, with a check of every action it gives to an equation of this package: a mode for debugging.

    JAX reads an action past the last as the last and -1 as the last too, so that a wrong action learns in silence.
    `checked(f)` raises instead. The arguments of f are arrays, as for `jax.jit`; bind options with
    `functools.partial`. f may itself be compiled, mapped or differentiated; `checked` goes outermost. Without it
    there are no checks, for even those that are not made would cost a compiled f a millisecond a call.

    Raises:
      ValueError: an action is not in 0 .. A - 1.

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
    run = jax.jit(checkify.checkify(f))

    @functools.wraps(f)
    def call(*args, **kwargs):
        token = _CHECKING.set(True)
        try:
            with set_xla_metadata(
                checked=True
            ):  # JAX keeps what it traced without checks apart from what it traces now
                error, result = run(*args, **kwargs)
        finally:
            _CHECKING.reset(token)
        if message := error.get():
            raise ValueError(message.removesuffix(" (`check` failed)"))
        return result

    return call


def promoted(*xs):
    """The arrays in their common dtype, a floating one."""
    dtype = jnp.result_type(*xs, 1.0)  # the weak 1.0 turns integers into floats
    return tuple(jnp.asarray(x).astype(dtype) for x in xs)


def same_length(**sequences):
    """Raises ValueError unless all sequences have the same length."""
    lengths = {name: x.shape[0] for name, x in sequences.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"sequences must have one length T, got {lengths}")
