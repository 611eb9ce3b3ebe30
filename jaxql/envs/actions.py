"""Actions of a Gymnasium env as the numbers 0..A-1."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import Space, spaces

from jaxql.errors import UserError

MAX_ACTIONS = 10_000  # joint actions of a space with several parts


class Actions(NamedTuple):
    """How the numbers 0..A-1 become the actions of an env."""

    num_actions: int
    convert: Callable[[int], Any]  # (number) -> the env's own action
    sizes: tuple[int, ...]  # choices of each part; their product is num_actions
    note: str = ""  # a line for the person who runs this


def adapt_actions(space: Space, id: str) -> Actions:
    """Returns the actions of a Discrete space, or the joint actions of a MultiDiscrete, MultiBinary, Tuple or Dict.

    Joint actions are numbered with the last part fastest.

    Args:
      space: of one env.
      id: the env's name in messages.

    Raises:
      UserError: one line, if the space is infinite, or has too many joint actions.

    >>> actions = adapt_actions(spaces.MultiDiscrete([2, 3]), "env")
    >>> actions.num_actions, actions.convert(4)
    (6, array([1, 1]))
    """
    if isinstance(space, spaces.Discrete):
        kind, start = np.dtype(space.dtype).type, space.start
        return Actions(int(space.n), lambda action: kind(action + start), (int(space.n),))
    sizes = tuple(_sizes(space, id))
    count = math.prod(sizes)
    if count > MAX_ACTIONS:
        raise UserError(f"{id}: {space} has {count} joint actions, more than {MAX_ACTIONS}; fix some with a wrapper")

    def convert(action: int) -> Any:
        return _assemble(space, iter(np.unravel_index(int(action), sizes)))

    return Actions(count, convert, sizes, f"actions: {space} as {count} joint actions")


def _sizes(space: Space, id: str) -> Iterator[int]:
    """Yields the number of choices of every part."""
    if isinstance(space, spaces.Discrete):
        yield int(space.n)
    elif isinstance(space, spaces.MultiDiscrete):
        yield from map(int, space.nvec.ravel())
    elif isinstance(space, spaces.MultiBinary):
        yield from itertools.repeat(2, math.prod(space.shape))
    elif isinstance(space, spaces.Tuple | spaces.Dict):
        for part in _inner(space):
            yield from _sizes(part, id)
    else:
        raise UserError(
            f"{id}: its action space is {space}, and Q-learning needs a Discrete one; "
            "choose some of its actions with a wrapper, gymnasium.wrappers.TransformAction for instance"
        )


def _assemble(space: Space, digits: Iterator[Any]) -> Any:
    """Returns the action of a space whose parts take the next digits."""
    if isinstance(space, spaces.Discrete):
        return np.dtype(space.dtype).type(next(digits) + space.start)
    if isinstance(space, spaces.Tuple):
        return tuple(_assemble(part, digits) for part in space.spaces)
    if isinstance(space, spaces.Dict):
        return {name: _assemble(part, digits) for name, part in space.items()}
    shape: tuple[int, ...] = space.shape or ()
    values = np.array(list(itertools.islice(digits, math.prod(shape)))).reshape(shape)
    return (values + getattr(space, "start", 0)).astype(space.dtype)


def _inner(space: spaces.Tuple | spaces.Dict) -> list[Space]:
    return list(space.values()) if isinstance(space, spaces.Dict) else list(space.spaces)
