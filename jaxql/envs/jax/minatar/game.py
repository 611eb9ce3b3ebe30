"""What the games of MinAtar share: actions, boards of 10 x 10 cells, random outcomes and sticky actions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.envs.jax.protocol import JaxEnv
from jaxql.errors import UserError
from jaxql.types import Array

SIZE = 10
NOOP, LEFT, UP, RIGHT, DOWN, FIRE = range(6)
CELLS = np.arange(SIZE, dtype=np.int32)  # rows or columns of the board


class Game(NamedTuple):
    """A game as pure functions; its random outcomes are an argument, a pytree of arrays.

    Every function is of one episode. `step` does not look at `outcomes` where the game draws nothing.
    """

    num_words: int  # random words [num_words] that one step needs
    outcomes: Callable[[Array], Any]  # (words, uint32) -> outcomes
    start: Callable[[Any], Any]  # (outcomes) -> state
    step: Callable[
        [Any, Array, Any], tuple[Any, Array, Array]
    ]  # (state, action, outcomes) -> state, reward, terminated
    observe: Callable[[Any], Array]  # (state) -> bool [10, 10, channels]


class StickyState(NamedTuple):
    """A game and the action that was last taken in it."""

    game: Any
    last_action: Array


def with_sticky_actions(game: Game, probability: float) -> JaxEnv:
    """Returns a game as a `JaxEnv`, in which an action is ignored and the last one taken again with a probability.

    Source: Machado et al. (2018), "Revisiting the Arcade Learning Environment", section 5, arXiv:1709.06009

    Raises:
      UserError: a probability outside 0..1.
    """
    if not 0 <= probability <= 1:
        raise UserError(f"sticky_action_probability={probability} must be from 0 to 1; MinAtar's own is 0.1")

    def draw(key: Array) -> tuple[Array, Any]:
        words = jax.random.bits(key, (1 + game.num_words,), np.uint32)
        return chance(words[0], probability), game.outcomes(words[1:])

    def reset(key: Array, /) -> StickyState:
        return StickyState(game.start(draw(key)[1]), jnp.int32(NOOP))

    def step(key: Array, state: StickyState, action: Array, /) -> tuple[StickyState, Array, Array]:
        return sticky_step(game, state, action, *draw(key))

    return JaxEnv(reset, step, num_actions=6, observe=lambda state: game.observe(state.game))


def sticky_step(
    game: Game, state: StickyState, action: Array, repeats: Array, outcomes: Any
) -> tuple[StickyState, Array, Array]:
    """Returns (state, reward, terminated) after `action`, or after the last action where `repeats`."""
    action = jnp.where(repeats, state.last_action, jnp.asarray(action, jnp.int32))
    stepped, reward, terminated = game.step(state.game, action, outcomes)
    return StickyState(stepped, action), reward, terminated


def chance(word: Array, probability: float) -> Array:
    """Returns True with a probability, from a random word.

    >>> words = jax.random.bits(jax.random.key(0), (1000,))
    >>> print(chance(words, 0.0).any(), chance(words, 1.0).all())
    False True
    """
    return word >> 8 < np.uint32(round(probability * 2**24))


def below(word: Array, limit: int) -> Array:
    """Returns a whole number from 0 to `limit` - 1, int32, from a random word. A bias is at most limit / 2**32."""
    return (word % np.uint32(limit)).astype(jnp.int32)


def moved(position: Array, action: Array, back: int, forth: int, low: int = 0, high: int = SIZE - 1) -> Array:
    """Returns a position after an action: one less for `back`, one more for `forth`, from `low` to `high`.

    >>> print(moved(jnp.int32(9), jnp.int32(RIGHT), LEFT, RIGHT), moved(jnp.int32(9), jnp.int32(LEFT), LEFT, RIGHT))
    9 8
    """
    step = (action == forth).astype(jnp.int32) - (action == back)
    return jnp.clip(position + step, low, high)


def count(condition: Array) -> Array:
    """Returns how many elements hold, int32."""
    return jnp.sum(condition, dtype=jnp.int32)


def cell(row: Array | int, column: Array) -> Array:
    """Returns the board with one cell, bool [10, 10]; none where it lies outside."""
    return (CELLS == row)[:, None] & (CELLS == column)[None, :]


def lanes(columns: Array, present: Array) -> Array:
    """Returns the board with one cell in each of the rows 1..8, bool [10, 10].

    Args:
      columns: [8] of the cells; those outside the board are left out.
      present: [8] or [], whether there is a cell.
    """
    columns = jnp.pad(jnp.where(present, columns, -1), 1, constant_values=-1)
    return columns[:, None] == CELLS[None, :]


def row_bits(rows: Array, columns: Array, present: Array) -> Array:
    """Returns the board with some of N cells, as bits: bit c of element r, int32 [10], is the cell (r, c).

    Args:
      rows, columns: [N] of the cells; those outside the board are left out.
      present: [N] of the cells that are there.
    """
    inside = present & (columns >= 0) & (columns < SIZE)
    bits = jnp.where(inside, 1 << jnp.clip(columns, 0, SIZE - 1), 0)
    return jnp.bitwise_or.reduce(jnp.where(CELLS[:, None] == rows[None, :], bits[None, :], 0), axis=1)


def from_bits(bits: Array) -> Array:
    """Returns the board, bool [10, 10], of `row_bits`."""
    return (bits[:, None] >> CELLS[None, :]) & 1 == 1


def as_channels(*boards: Array) -> Array:
    """Returns the observation, bool [10, 10, C], of C boards."""
    return jnp.stack(boards, axis=-1)
