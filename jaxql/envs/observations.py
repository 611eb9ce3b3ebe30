"""Observations of a Gymnasium env in the form that agents read: an array, or the index of a state."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from gymnasium import Space, spaces

from jaxql.envs.options import EnvOptions
from jaxql.errors import UserError, nearest

NUMERIC = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
MAX_FEATURES = 100_000  # numbers of a flattened observation
MAX_STATES = 10_000_000  # rows of a table
SMALLEST_IMAGE = 36  # pixels of the shorter side, below which a matrix is no image


class Adaptation(NamedTuple):
    """How the observations of one env become what an agent reads."""

    space: spaces.Box | spaces.Discrete  # of the result
    convert: Callable[[Any], Any]  # (raw observation) -> result; raises ValueError that says what is wrong
    note: str = ""  # a line for the person who runs this


class Part(NamedTuple):
    """A part of an observation that is not made of parts itself."""

    name: str
    space: Space
    path: tuple[str | int, ...]

    def of(self, raw: Any) -> Any:
        """Returns this part of a raw observation. Raises ValueError if it is missing."""
        for key in self.path:
            try:
                raw = raw[key]
            except (KeyError, IndexError, TypeError):
                raise ValueError(f"has no part {self.name!r}") from None
        return raw


def adapt_observations(space: Space, id: str, options: EnvOptions = EnvOptions()) -> Adaptation:  # noqa: B008
    """Returns the adaptation of an observation space.

    - Box keeps its shape. Floats become the default JAX float. Bytes stay bytes where their space reaches 255.
    - Images become [H, W, C]. A Box of 3 axes is an image; so is a large matrix of bytes, or of floats from 0.
      A stack of images, 4 axes, gives one with the channels of all.
    - Discrete becomes indices 0..n-1, whatever its start.
    - Dict and Tuple: `obs_keys` choose the parts. Without them text and the like is left out, and of a space with
      one image only the image is used. Several parts become one vector; indices are one-hot in it.
    - With `table`, finite parts become one index.

    Args:
      space: of one env.
      id: the env's name in messages.
      options: see `EnvOptions`.

    Raises:
      UserError: one line, if the space is not supported, or has no such part.

    >>> adapt_observations(spaces.Box(0, 255, (4, 84, 84), np.uint8), "env").space.shape
    (84, 84, 4)
    """
    parts = list(_parts(space))
    chosen = _chosen(parts, space, id, options)
    if options.table and (adapted := _index(chosen)):
        return adapted
    images = [part for part in chosen if isinstance(part.space, spaces.Box) and _layout(part.space, "auto")]
    if len(chosen) > 1 and len(images) == 1 and not options.obs_keys:
        chosen = images
    if len(chosen) == 1 and isinstance(chosen[0].space, spaces.Box | spaces.Discrete):
        adapted = _single(chosen[0], id, options)
    else:
        adapted = _features(chosen, id)
    return adapted._replace(note="; ".join(filter(None, (adapted.note, _left_out(parts, chosen)))))


# ----------------------------------------------------------------------------------------------------------- parts
def _parts(space: Space, path: tuple[str | int, ...] = ()) -> Iterator[Part]:
    """Yields the parts of a space, in order."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for key, inner in space.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces):
            yield from _parts(inner, (*path, key))
    else:
        yield Part(".".join(map(str, path)), space, path)


def _chosen(parts: Sequence[Part], space: Space, id: str, options: EnvOptions) -> list[Part]:
    """Returns the parts that `obs_keys` name, or all that are numbers."""
    numeric = [part for part in parts if isinstance(part.space, NUMERIC)]
    if not options.obs_keys:
        if not numeric:
            raise UserError(f"{id}: observations of {space} are not supported: no part of them is made of numbers")
        return numeric
    names = ", ".join(part.name for part in numeric if part.name)
    if not names:
        raise UserError(f"{id}: obs_keys {list(options.obs_keys)} choose parts, and {space} has none of numbers")
    chosen = []
    for key in options.obs_keys:
        found = [part for part in numeric if part.name == key or part.name.startswith(f"{key}.")]
        if not found:
            other = any(part.name == key or part.name.startswith(f"{key}.") for part in parts)
            why = "is not made of numbers" if other else f"is no part{nearest(key, [part.name for part in parts])}"
            raise UserError(f'{id}: obs_keys: "{key}" {why}; the parts are {names}')
        chosen += [part for part in found if part not in chosen]
    return chosen


def _left_out(parts: Sequence[Part], chosen: Sequence[Part]) -> str:
    """Returns a line on the parts that are not used."""
    unused = [f"{part.name} ({type(part.space).__name__})" for part in parts if part not in chosen]
    if not unused:
        return ""
    used = ", ".join(part.name for part in chosen)
    return f"observations: {used} used, {', '.join(unused)} left out (--obs-key NAME chooses, once for each part)"


# ----------------------------------------------------------------------------------------------------- a single part
def _single(part: Part, id: str, options: EnvOptions) -> Adaptation:
    space = part.space
    if isinstance(space, spaces.Discrete):
        to_digits = _digits(space)
        return Adaptation(spaces.Discrete(int(space.n)), lambda raw: to_digits(part.of(raw))[0])
    assert isinstance(space, spaces.Box)
    layout = _layout(space, options.channels)
    if layout is None and options.channels != "auto":
        raise UserError(f"{id}: channels={options.channels!r} is for images, and observations are {space}")
    return _image(part, space, *layout) if layout else _array(part, space)


def _array(part: Part, space: spaces.Box) -> Adaptation:
    dtype = _array_dtype(space)
    low, high = (-np.inf, np.inf) if dtype.kind == "f" else _dtype_bounds(dtype)
    return Adaptation(spaces.Box(low, high, space.shape, dtype.type), _caster(part, space, dtype))


def _image(part: Part, space: spaces.Box, channels: str, note: str) -> Adaptation:
    """Returns the adaptation of an image to [H, W, C]."""
    is_bytes = space.dtype.kind in "iu" and space.low.min() >= 0 and space.high.max() == 255
    dtype = np.dtype(np.uint8) if is_bytes else _array_dtype(space)
    scaled = dtype.kind == "f" and space.low.min() == 0 and space.high.max() == 255
    cast = _caster(part, space, dtype)

    def convert(raw: Any) -> np.ndarray:
        x = _channels_last(cast(raw), channels)
        return x / dtype.type(255) if scaled else x

    shape = _channels_last(np.empty(space.shape, bool), channels).shape
    low, high = (-np.inf, np.inf) if dtype.kind == "f" else _dtype_bounds(dtype)
    notes = [note, "floats from 0 to 255 are scaled to 0..1" if scaled else ""]
    said = "; ".join(filter(None, notes))
    if said:
        said = f"observations: {said}; {list(space.shape)} becomes [height, width, channels] = {list(shape)}"
    return Adaptation(spaces.Box(low, high, shape, dtype.type), convert, said)


def _channels_last(x: np.ndarray, channels: str) -> np.ndarray:
    """Returns a matrix, an image or a stack of images as [H, W, C]."""
    if x.ndim == 2:
        return x[..., None]
    x = np.moveaxis(x, -3, -1) if channels == "first" else x
    return x if x.ndim == 3 else np.moveaxis(x, 0, -2).reshape(*x.shape[1:3], -1)


def _layout(space: spaces.Box, channels: str) -> tuple[str, str] | None:
    """Returns (axis of the channels, what to say), or None where observations are no images.

    The axis is that of another size than the other two; of three different sizes it is the smaller end.
    """
    shape, given = space.shape, channels != "auto"
    if len(shape) == 2 and min(shape) > 0 and (given or _is_picture(space)):
        return "last", "a matrix is an image of one channel"
    if len(shape) not in (3, 4) or 0 in shape:
        return None
    first, middle, last = shape[-3:]
    stack = f"a stack of {shape[0]} images, " if len(shape) == 4 else ""
    if given:
        return channels, f"{stack}channels {channels}" if stack or channels == "first" else ""
    by_shape = first != middle if middle == last else first != middle and first < last
    found = "first" if by_shape else "last"
    guessed = " (--channels last otherwise)" if found == "first" else ""
    if first == middle == last:
        guessed = " by default (--channels first otherwise)"
    return found, f"{stack}channels {found}{guessed}" if stack or guessed else ""


def _is_picture(space: spaces.Box) -> bool:
    """Returns whether a matrix is a picture: bytes up to 255 or floats from 0, and not small."""
    if min(space.shape) < SMALLEST_IMAGE or space.low.min() != 0:
        return False
    return space.high.max() == 255 or space.dtype.kind == "f" and space.high.max() == 1


# --------------------------------------------------------------------------------------------------- several parts
def _features(parts: Sequence[Part], id: str) -> Adaptation:
    """Returns the adaptation of several parts to one vector, as Gymnasium flattens them; bytes become 0..1."""
    size = sum(spaces.flatdim(part.space) for part in parts)
    names = ", ".join(f"{part.name} {list(part.space.shape or ())}" for part in parts)
    if size > MAX_FEATURES:
        raise UserError(
            f"{id}: {names} are {size} numbers side by side, more than {MAX_FEATURES}; choose some with --obs-key NAME"
        )
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(float))
    converters = [_numbers(part, dtype) for part in parts]
    note = f"observations: {names} as {size} numbers side by side" if len(parts) > 1 else ""
    space = spaces.Box(-np.inf, np.inf, (size,), dtype.type)
    return Adaptation(space, lambda raw: np.concatenate([convert(raw) for convert in converters]), note)


def _numbers(part: Part, dtype: np.dtype) -> Callable[[Any], np.ndarray]:
    """Returns the function of a raw observation to the numbers of one part, a vector."""
    space = part.space
    if isinstance(space, spaces.Box):
        cast, scale = _caster(part, space, dtype), 255 if space.dtype == np.uint8 and space.high.max() == 255 else 1
        return lambda raw: cast(raw).ravel() / dtype.type(scale)
    to_digits, sizes = _digits(space), _sizes(space)
    if isinstance(space, spaces.MultiBinary):
        return lambda raw: to_digits(part.of(raw)).astype(dtype)
    offsets = np.cumsum([0, *sizes[:-1]])

    def one_hot(raw: Any) -> np.ndarray:
        x = np.zeros(sum(sizes), dtype)
        x[offsets + to_digits(part.of(raw))] = 1
        return x

    return one_hot


def _index(parts: Sequence[Part]) -> Adaptation | None:
    """Returns the adaptation of finite parts to one index, or None if they are not finite or too many."""
    if not all(_sizes(part.space) for part in parts):
        return None
    sizes = [size for part in parts for size in _sizes(part.space)]
    states = math.prod(sizes)
    if states > MAX_STATES:
        return None
    readers = [(part, _digits(part.space)) for part in parts]
    if len(parts) == 1 and isinstance(space := parts[0].space, spaces.Discrete):
        return Adaptation(spaces.Discrete(states), _state(parts[0], space), "")

    def convert(raw: Any) -> int:
        digits = np.concatenate([to_digits(part.of(raw)) for part, to_digits in readers])
        return int(np.ravel_multi_index(tuple(digits), sizes))

    note = f"observations: {len(sizes)} numbers of {sizes} values as {states} states" if len(sizes) > 1 else ""
    return Adaptation(spaces.Discrete(states), convert, note)


def _state(part: Part, space: spaces.Discrete) -> Callable[[Any], int]:
    """Returns the function of a raw value of one Discrete space to its index: the common case, without arrays."""
    n, start, to_digits = int(space.n), int(space.start), _digits(space)

    def convert(raw: Any) -> int:
        value = part.of(raw)
        if isinstance(value, int | np.integer) and 0 <= value - start < n:
            return int(value - start)
        return int(to_digits(value)[0])

    return convert


def _sizes(space: Space) -> list[int]:
    """Returns the number of values of each entry of a finite space; nothing for an infinite one."""
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.ravel()]
    if isinstance(space, spaces.MultiBinary):
        return [2] * math.prod(space.shape)
    if isinstance(space, spaces.Box) and space.dtype.kind in "iub" and space.is_bounded():
        return [int(high) - int(low) + 1 for low, high in zip(space.low.ravel(), space.high.ravel(), strict=True)]
    return []


def _digits(space: Space) -> Callable[[Any], np.ndarray]:
    """Returns the function of a raw value of a finite space to its entries, counted from 0, a vector."""
    sizes, shape = np.array(_sizes(space)), space.shape
    if isinstance(space, spaces.Box):
        start = space.low.ravel().astype(np.int64)
    else:
        start = np.ravel(getattr(space, "start", 0)).astype(np.int64)

    def to_digits(raw: Any) -> np.ndarray:
        x = _array_of(raw, shape)
        if x.dtype.kind not in "iub":
            raise ValueError(f"is {_shown(raw)}, which is no whole number of {space}")
        digits = x.ravel().astype(np.int64) - start
        if (digits < 0).any() or (digits >= sizes).any():
            raise ValueError(f"is {_shown(raw)}, which is outside of {space}")
        return digits

    return to_digits


# ------------------------------------------------------------------------------------------------------------ arrays
def _array_dtype(space: spaces.Box) -> np.dtype:
    """Returns the dtype of a Box for agents: JAX's default for floats; bytes only if they reach beyond 127.

    Networks divide bytes by 255. Small numbers stored as bytes are no brightness and stay what they are.
    """
    if space.dtype.kind == "f":
        return np.dtype(jax.dtypes.canonicalize_dtype(float))
    if space.dtype == np.uint8 and space.high.max() <= 127:
        return np.dtype(np.int8)
    return np.dtype(jax.dtypes.canonicalize_dtype(space.dtype))


def _dtype_bounds(dtype: np.dtype) -> tuple[int, int]:
    if dtype.kind == "b":
        return 0, 1
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _caster(part: Part, space: Space, dtype: np.dtype) -> Callable[[Any], np.ndarray]:
    """Returns the function of a raw observation to one part's array of this dtype."""
    shape = space.shape

    def cast(raw: Any) -> np.ndarray:
        x = _array_of(part.of(raw), shape)
        if x.dtype == dtype:
            return x
        if x.dtype.kind not in "biuf":
            raise ValueError(f"is of {x.dtype}, which is no number")
        with np.errstate(over="ignore", invalid="ignore"):  # the caller refuses an infinity
            y = x.astype(dtype)
            if dtype.kind != "f" and not np.array_equal(y, x):
                wrong = x[y != x].flat[0]
                raise ValueError(f"holds {wrong}, which is no {dtype}")
        return y

    return cast


def _array_of(raw: Any, shape: tuple[int, ...] | None) -> np.ndarray:
    """Returns a raw value as an array of this shape. Raises ValueError if it has another."""
    try:
        x = np.asarray(raw)
    except ValueError:  # rows of different lengths
        raise ValueError(f"is {_shown(raw)}, which is no array") from None
    if x.shape != shape:
        raise ValueError(f"has shape {list(x.shape)}, and its space says {list(shape or ())}")
    return x


def _shown(raw: Any) -> str:
    """Returns a value as short text on one line."""
    text = " ".join(repr(raw).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
