"""Settings of agents: what every algorithm has, and the check of their values."""

import dataclasses
import math
import typing
from typing import Any

from jaxql.errors import UserError

LARGEST_INT, LARGEST_FLOAT = 2**31 - 1, 3.4e38  # of int32 and float32, in which compiled programs hold settings


def bounded(default: Any, low: float, high: float = math.inf) -> Any:
    """Returns a dataclass field with this default whose value must lie in [low, high]; `validate` checks it."""
    return dataclasses.field(default=default, metadata={"range": (low, high)})


@dataclasses.dataclass(frozen=True)
class AgentConfig:
    """The settings that every agent has."""

    num_envs: int = bounded(1, 1)  # environments that step together
    rollout_length: int = bounded(1, 1)  # steps of every environment in a round
    gradient_steps: int = bounded(1, 1)  # updates in a round
    warmup_steps: int = bounded(0, 0)  # env steps before the first update
    discount: float = bounded(0.99, 0, 1)  # gamma
    life_loss: bool = False  # Atari: a lost life is a termination for the learner, though the game goes on


def validate(config: Any) -> None:
    """Raises UserError, one line that names the setting, unless all settings have the right type and lie in range.

    >>> validate(AgentConfig(discount=1.5))
    Traceback (most recent call last):
    jaxql.errors.UserError: discount is 1.5; it must be at least 0 and at most 1
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), hints[field.name]
        if typing.get_origin(kind) is typing.Literal:
            if value not in typing.get_args(kind):
                raise UserError(f"{field.name} is {value!r}; it must be one of {', '.join(typing.get_args(kind))}")
        elif kind in (int, float):
            _validate_number(field, value, kind)
        elif typing.get_origin(kind) is tuple:
            if not isinstance(value, tuple) or not all(type(x) is int and x > 0 for x in value):
                raise UserError(f"{field.name} is {value!r}; it must be a tuple of whole numbers above 0")
        elif not isinstance(value, kind):
            raise UserError(f"{field.name} is {value!r}; it must be a {kind.__name__}")


def _validate_number(field: dataclasses.Field, value: Any, kind: type) -> None:
    whole, (low, high) = kind is int, field.metadata.get("range", (-math.inf, math.inf))
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if right and not whole:
        right = value == value and ("range" not in field.metadata or abs(value) <= LARGEST_FLOAT)
    if not right:
        raise UserError(f"{field.name} is {value!r}; it must be a {'whole' if whole else 'finite'} number")
    high = min(high, LARGEST_INT) if whole else high
    if not low <= value <= high:
        known = high < (LARGEST_INT if whole and value < low else math.inf)
        raise UserError(f"{field.name} is {value}; it must be at least {low}" + f" and at most {high}" * known)
