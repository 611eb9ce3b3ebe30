"""Values and ranges of settings, as a person writes them."""

import ast
import dataclasses
import math
import re
import zlib
from typing import Any

import numpy as np

from jaxql.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """Values to draw from: those between two ends, both included, or a list of choices."""

    low: int | float = 0
    high: int | float = 0
    log: bool = False  # even in the logarithm
    choices: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if self.choices:
            return ",".join(map(str, self.choices))
        return f"{self.low}..{self.high}" + ":log" * self.log

    @property
    def whole(self) -> bool:
        """Whether the values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, *address: Any) -> Any:
        """Returns a value that depends on the address alone: numbers and strings."""
        words = [each if isinstance(each, int) else zlib.crc32(str(each).encode()) for each in address]
        generator = np.random.default_rng(words)
        if self.choices:
            return self.choices[int(generator.integers(len(self.choices)))]
        low, high = (self.low, self.high + 1) if self.whole else (self.low, self.high)
        if self.log:
            value = math.exp(generator.uniform(math.log(low), math.log(high)))
        else:
            value = float(generator.uniform(low, high))
        rounded = math.floor(value) if self.whole else float(f"{value:.4g}")
        return min(max(rounded, self.low), self.high)


def parse_range(key: str, given: Any) -> Range:
    """Returns the range "LOW..HIGH", "LOW..HIGH:log" or of a list of choices.

    Raises:
      UserError: it is none of these.

    >>> parse_range("learning_rate", "1e-5..1e-2:log")
    Range(low=1e-05, high=0.01, log=True, choices=())
    >>> parse_range("loss", "huber,squared").choices
    ('huber', 'squared')
    """
    if not isinstance(given, str) or ".." not in given:
        choices = parse_values(given)
        if len(choices) < 2:
            raise UserError(f"range {key}={given}: it is LOW..HIGH, LOW..HIGH:log, or choices A,B,C")
        return Range(choices=choices)
    ends, colon, scale = given.partition(":")
    low, high = (parse_value(end) for end in ends.split("..", 1))
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not (-math.inf < low < high < math.inf) or (colon and scale != "log"):
        raise UserError(f"range {key}={given}: it is LOW..HIGH or LOW..HIGH:log, with numbers, LOW below HIGH")
    if colon and low <= 0:
        raise UserError(f"range {key}={given}: a range with :log begins above 0")
    return Range(low, high, bool(colon))


def parse_values(given: Any) -> tuple[Any, ...]:
    """Returns the values in a list, or in text with commas between them; commas within brackets do not count.

    >>> parse_values("1e-3,3e-4"), parse_values("[64,64],[128]"), parse_values([1, [2, 3]])
    ((0.001, 0.0003), ((64, 64), (128,)), (1, (2, 3)))
    """
    if isinstance(given, list | tuple):
        return tuple(tuple(each) if isinstance(each, list) else each for each in given)
    words = re.findall(r"(?:[^,\[(]|\[[^\]]*\]|\([^)]*\))+", given) if isinstance(given, str) else [given]
    return tuple(map(parse_value, words))


def parse_value(given: Any) -> Any:
    """Returns a number, boolean or tuple that text stands for, or else the text.

    >>> [parse_value(word) for word in ("3", "1e-3", "inf", "true", "mlp", "[64, 64]")]
    [3, 0.001, inf, True, 'mlp', (64, 64)]
    """
    if not isinstance(given, str):
        return tuple(given) if isinstance(given, list) else given
    text = given.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for parse in (ast.literal_eval, float):
        try:
            value = parse(text)
        except (ValueError, SyntaxError):
            continue
        return tuple(value) if isinstance(value, list) else value
    return text
