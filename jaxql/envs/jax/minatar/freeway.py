"""Freeway: a chicken crosses eight lanes of cars, up and again, for 2,501 steps."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxql.envs.jax.minatar.game import DOWN, SIZE, UP, Game, as_channels, below, cell, lanes, moved
from jaxql.types import Array

LANES = np.arange(1, 9, dtype=np.int32)  # the rows of the cars
COLUMN = 4  # of the chicken
REST = 3  # steps from one move of the chicken to the next
TIME_LIMIT = 2500


class Outcomes(NamedTuple):
    """Velocities [8] that the cars get when the chicken arrives: -5..-1 leftwards, 1..5 rightwards, 1 the fastest."""

    velocities: Array


class State(NamedTuple):
    """One episode; scalars are int32, cars [8] are those of the rows 1..8."""

    row: Array  # of the chicken
    rest: Array  # steps until the chicken can move
    time_left: Array
    columns: Array  # int32 [8]
    timers: Array  # int32 [8] steps until the car moves
    velocities: Array  # int32 [8]


def outcomes(words: Array) -> Outcomes:
    """Returns the random outcomes of one step."""
    drawn = below(words, 10)
    return Outcomes(jnp.where(drawn < 5, drawn - 5, drawn - 4))


def start(outcomes: Outcomes) -> State:
    """Returns the first state: the chicken at the bottom, the cars at the left."""
    velocities = outcomes.velocities
    row, rest, time_left = jnp.int32(SIZE - 1), jnp.int32(REST), jnp.int32(TIME_LIMIT)
    return State(row, rest, time_left, jnp.zeros(8, jnp.int32), jnp.abs(velocities), velocities)


def step(state: State, action: Array, outcomes: Outcomes) -> tuple[State, Array, Array]:
    """Returns (state, reward, terminated): 1 for a crossing, and the end when the time is over."""
    walks = (state.rest == 0) & ((action == UP) | (action == DOWN))
    row = jnp.where(walks, moved(state.row, action, UP, DOWN), state.row)
    rest = jnp.where(walks, REST, state.rest)

    arrives = row == 0
    row = jnp.where(arrives, SIZE - 1, row)
    velocities = jnp.where(arrives, outcomes.velocities, state.velocities)
    timers = jnp.where(arrives, jnp.abs(velocities), state.timers)

    drives = timers == 0
    columns = jnp.where(drives, (state.columns + jnp.sign(velocities)) % SIZE, state.columns)
    timers = jnp.where(drives, jnp.abs(velocities), timers - 1)
    hit = jnp.any((LANES == row) & ((state.columns == COLUMN) | (columns == COLUMN)))
    row = jnp.where(hit, SIZE - 1, row)

    time_left = state.time_left - 1
    state = State(row, rest - (rest > 0), time_left, columns, timers, velocities)
    return state, arrives.astype(jnp.int32), time_left < 0


def observe(state: State) -> Array:
    """Returns bool [10, 10, 7]: chicken, cars, and the cells behind cars of speeds 1 to 5."""
    behind, speeds = (state.columns - jnp.sign(state.velocities)) % SIZE, jnp.abs(state.velocities)
    trails = (lanes(behind, speeds == speed) for speed in range(1, 6))
    return as_channels(cell(state.row, jnp.int32(COLUMN)), lanes(state.columns, jnp.bool_(True)), *trails)


GAME = Game(num_words=8, outcomes=outcomes, start=start, step=step, observe=observe)
