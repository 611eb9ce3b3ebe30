"""Asterix: treasure and enemies cross eight rows, and the player runs for one and from the other."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxql.envs.jax.minatar.game import (
    DOWN,
    LEFT,
    RIGHT,
    SIZE,
    UP,
    Game,
    as_channels,
    below,
    cell,
    chance,
    count,
    lanes,
    moved,
)
from jaxql.types import Array

LANES = np.arange(1, 9, dtype=np.int32)  # rows with at most one thing each
RAMP_INTERVAL = 100
PLACES = 840  # a multiple of 1..8, so that a number below it, modulo n, chooses one of n lanes fairly


class Outcomes(NamedTuple):
    """The enemy or gold that appears when its time has come."""

    rightwards: Array  # it comes from the left
    is_gold: Array
    place: Array  # int32 below 840: its remainder chooses among the empty lanes


class State(NamedTuple):
    """One episode; scalars are int32, things [8] are those of the rows 1..8."""

    row: Array  # of the player
    column: Array
    present: Array  # bool [8]
    columns: Array  # int32 [8]
    rightwards: Array  # bool [8]
    is_gold: Array  # bool [8]
    spawn_timer: Array
    spawn_interval: Array
    move_timer: Array
    move_interval: Array
    ramp_timer: Array
    ramps: Array  # how often the game got harder


def outcomes(words: Array) -> Outcomes:
    """Returns the random outcomes of one step."""
    return Outcomes(chance(words[0], 1 / 2), chance(words[1], 1 / 3), below(words[2], PLACES))


def start(outcomes: Outcomes) -> State:
    """Returns the first state: the player in the middle, the lanes empty."""
    none = jnp.zeros(8, bool)
    numbers = (jnp.int32(n) for n in (10, 10, 5, 5, RAMP_INTERVAL, 0))
    return State(jnp.int32(5), jnp.int32(5), none, jnp.zeros(8, jnp.int32), none, none, *numbers)


def step(state: State, action: Array, outcomes: Outcomes) -> tuple[State, Array, Array]:
    """Returns (state, reward, terminated): 1 for treasure, and the end at an enemy."""
    state = _spawn(state, outcomes)
    row = moved(state.row, action, UP, DOWN, low=1, high=8)
    column = moved(state.column, action, LEFT, RIGHT)

    met = state.present & (LANES == row) & (state.columns == column)
    present = state.present & ~(met & state.is_gold)
    moves = state.move_timer == 0
    columns = jnp.where(moves, state.columns + jnp.where(state.rightwards, 1, -1), state.columns)
    met_now = moves & present & (LANES == row) & (columns == column)
    present = present & ~(met_now & state.is_gold) & (columns >= 0) & (columns < SIZE)
    reward = count((met | met_now) & state.is_gold)
    terminated = jnp.any((met | met_now) & ~state.is_gold)

    state = state._replace(row=row, column=column, present=present, columns=columns)
    state = state._replace(
        spawn_timer=state.spawn_timer - 1,
        move_timer=jnp.where(moves, state.move_interval, state.move_timer) - 1,
    )
    return _ramp(state), reward, terminated


def _spawn(state: State, outcomes: Outcomes) -> State:
    """Lets something appear in an empty lane, if it is time and a lane is empty."""
    due, empty = state.spawn_timer == 0, ~state.present
    chosen = outcomes.place % jnp.maximum(count(empty), 1)
    new = due & empty & (jnp.cumsum(empty, dtype=jnp.int32) - 1 == chosen)
    return state._replace(
        present=state.present | new,
        columns=jnp.where(new, jnp.where(outcomes.rightwards, 0, SIZE - 1), state.columns),
        rightwards=jnp.where(new, outcomes.rightwards, state.rightwards),
        is_gold=jnp.where(new, outcomes.is_gold, state.is_gold),
        spawn_timer=jnp.where(due, state.spawn_interval, state.spawn_timer),
    )


def _ramp(state: State) -> State:
    """Shortens the intervals when the ramp's time is over: that of moves every second time."""
    ramps = (state.spawn_interval > 1) | (state.move_interval > 1)
    due = ramps & (state.ramp_timer < 0)
    faster = due & (state.move_interval > 1) & (state.ramps % 2 == 1)
    return state._replace(
        spawn_interval=state.spawn_interval - (due & (state.spawn_interval > 1)),
        move_interval=state.move_interval - faster,
        ramp_timer=jnp.where(due, RAMP_INTERVAL, state.ramp_timer - ramps),
        ramps=state.ramps + due,
    )


def observe(state: State) -> Array:
    """Returns bool [10, 10, 4]: player, enemies, the cells behind things, treasure."""
    behind = state.columns - jnp.where(state.rightwards, 1, -1)
    return as_channels(
        cell(state.row, state.column),
        lanes(state.columns, state.present & ~state.is_gold),
        lanes(behind, state.present),
        lanes(state.columns, state.present & state.is_gold),
    )


GAME = Game(num_words=3, outcomes=outcomes, start=start, step=step, observe=observe)
