"""Breakout: a paddle keeps a ball in play, which breaks three rows of bricks."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxql.envs.jax.minatar.game import LEFT, RIGHT, SIZE, Game, as_channels, cell, chance, moved
from jaxql.types import Array

WALL = np.zeros((SIZE, SIZE), bool)
WALL[1:4] = True
BOTTOM = SIZE - 1


class Outcomes(NamedTuple):
    """Whether the ball starts at the right wall, [], which only `start` reads."""

    from_right: Array


class State(NamedTuple):
    """One episode; scalars are int32."""

    paddle: Array  # its column
    row: Array  # of the ball
    column: Array
    down: Array  # the ball's direction: 1 down, -1 up
    right: Array  # 1 right, -1 left
    last_row: Array  # where the ball was a step ago
    last_column: Array
    bricks: Array  # bool [10, 10]
    striking: Array  # the ball ran into a brick in this step


def outcomes(words: Array) -> Outcomes:
    """Returns the random outcomes of one step."""
    return Outcomes(chance(words[0], 0.5))


def start(outcomes: Outcomes) -> State:
    """Returns the first state: the ball at a wall above the paddle, on its way down."""
    row, column = jnp.int32(3), jnp.where(outcomes.from_right, 9, 0).astype(jnp.int32)
    right = jnp.where(outcomes.from_right, -1, 1).astype(jnp.int32)
    return State(jnp.int32(4), row, column, jnp.int32(1), right, row, column, jnp.asarray(WALL), jnp.bool_(False))


def step(state: State, action: Array, outcomes: Outcomes) -> tuple[State, Array, Array]:
    """Returns (state, reward, terminated): 1 for a brick, and the end when the ball gets past the paddle."""
    paddle = moved(state.paddle, action, LEFT, RIGHT)
    row, column = state.row + state.down, state.column + state.right
    right = jnp.where((column < 0) | (column >= SIZE), -state.right, state.right)
    column = jnp.clip(column, 0, SIZE - 1)

    at_top, at_bottom = row < 0, row == BOTTOM
    ahead = cell(row, column)
    meets_brick = jnp.any(state.bricks & ahead)
    breaks = meets_brick & ~state.striking  # a second brick in a row lets the ball through
    refilled = at_bottom & ~jnp.any(state.bricks)
    bricks = jnp.where(refilled, WALL, state.bricks & ~(ahead & breaks))

    from_above = at_bottom & (state.column == paddle)
    at_corner = at_bottom & ~from_above & (column == paddle)
    bounces = breaks | from_above | at_corner
    down = jnp.where(at_top | bounces, -state.down, state.down)
    right = jnp.where(at_corner, -right, right)
    row = jnp.where(at_top, 0, jnp.where(bounces, state.row, row))
    state = State(paddle, row, column, down, right, state.row, state.column, bricks, meets_brick)
    return state, breaks.astype(jnp.int32), at_bottom & ~bounces


def observe(state: State) -> Array:
    """Returns bool [10, 10, 4]: paddle, ball, where the ball was, bricks."""
    ball, trail = cell(state.row, state.column), cell(state.last_row, state.last_column)
    return as_channels(cell(BOTTOM, state.paddle), ball, trail, state.bricks)


GAME = Game(num_words=1, outcomes=outcomes, start=start, step=step, observe=observe)
