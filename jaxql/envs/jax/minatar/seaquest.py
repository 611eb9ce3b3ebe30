"""Seaquest: a submarine shoots fish and submarines, rescues divers and comes up for air.

Friends and foes lie in arrays, the newest first. Their lengths suffice whatever the player does: a bullet leaves the
board within 9 steps and can be fired each 5; a diver appears each 30 steps and leaves within 60; at most one enemy
appears in a step, and once that is so an enemy leaves within 30.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.envs.jax.minatar.game import (
    CELLS,
    DOWN,
    FIRE,
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
    from_bits,
    moved,
    row_bits,
)
from jaxql.types import Array

MAX_OXYGEN, MAX_DIVERS = 200, 6
RELOAD, ENEMY_RELOAD = 5, 10
DIVER_SPAWN_INTERVAL, DIVER_MOVE_INTERVAL = 30, 5
MAX_BULLETS, MAX_DIVERS_AROUND, MAX_ENEMIES = 2, 2, 32
AGE = np.arange(MAX_ENEMIES, dtype=np.int32)  # of an enemy's place: the newest has 0
EVERY_COLUMN = 2**SIZE - 1


class Outcomes(NamedTuple):
    """The enemy and the diver that appear when their times have come."""

    enemy_rightwards: Array  # it comes from the left
    enemy_is_sub: Array
    enemy_row: Array  # 1..8
    diver_rightwards: Array
    diver_row: Array  # 1..8


class Movers(NamedTuple):
    """Things [N] that move along rows, the newest first. Fields that a kind does not need stay 0."""

    present: Array  # bool
    row: Array  # int32
    column: Array  # int32
    rightwards: Array  # bool
    move_timer: Array  # int32, steps until it moves
    is_sub: Array  # bool
    shot_timer: Array  # int32, steps until a submarine shoots


class State(NamedTuple):
    """One episode; scalars are int32."""

    row: Array  # of our submarine
    column: Array
    rightwards: Array  # bool, where it looks
    at_surface: Array  # bool, it has not dived since it came up
    oxygen: Array
    divers_aboard: Array  # -1 after a rescue of six, and lower if it comes up again
    bullets: Movers  # [2]
    divers: Movers  # [2]
    enemies: Movers  # [32]
    bullets_left: Array  # of enemies, as `row_bits`, int32 [10]
    bullets_right: Array
    spawn_timer: Array
    spawn_interval: Array
    move_interval: Array
    diver_timer: Array
    shot_timer: Array
    ramps: Array  # how often the game got harder


def outcomes(words: Array) -> Outcomes:
    """Returns the random outcomes of one step."""
    row, diver_row = 1 + below(words[2], 8), 1 + below(words[4], 8)
    return Outcomes(chance(words[0], 1 / 2), chance(words[1], 1 / 3), row, chance(words[3], 1 / 2), diver_row)


def start(outcomes: Outcomes) -> State:
    """Returns the first state: our submarine at the surface, nothing else around."""
    zero, none = jnp.int32(0), jnp.zeros(SIZE, jnp.int32)
    return State(
        row=zero,
        column=jnp.int32(5),
        rightwards=jnp.bool_(False),
        at_surface=jnp.bool_(True),
        oxygen=jnp.int32(MAX_OXYGEN),
        divers_aboard=zero,
        bullets=_no_movers(MAX_BULLETS),
        divers=_no_movers(MAX_DIVERS_AROUND),
        enemies=_no_movers(MAX_ENEMIES),
        bullets_left=none,
        bullets_right=none,
        spawn_timer=jnp.int32(20),
        spawn_interval=jnp.int32(20),
        move_interval=jnp.int32(5),
        diver_timer=jnp.int32(DIVER_SPAWN_INTERVAL),
        shot_timer=zero,
        ramps=zero,
    )


def step(state: State, action: Array, outcomes: Outcomes) -> tuple[State, Array, Array]:
    """Returns (state, reward, terminated).

    The reward is 1 for an enemy shot and up to 10, for the air that is left, when six divers come up. The end is an
    enemy, its bullet, no air, or to come up with nobody aboard.
    """
    state = _move_sub(_spawn(state, outcomes), action)
    state, shot = _move_bullets(state)
    state = _move_divers(state)
    state, shot_by_moving, rammed = _move_enemies(state)
    state, struck = _move_enemy_bullets(state)
    state = state._replace(
        spawn_timer=state.spawn_timer - (state.spawn_timer > 0),
        diver_timer=state.diver_timer - (state.diver_timer > 0),
        shot_timer=state.shot_timer - (state.shot_timer > 0),
    )
    state, rescue, drowned = _breathe(state)
    return state, shot + shot_by_moving + rescue, rammed | struck | drowned


def _no_movers(n: int) -> Movers:
    none, zero = jnp.zeros(n, bool), jnp.zeros(n, jnp.int32)
    return Movers(none, zero, zero, none, zero, none, zero)


def _add(movers: Movers, when: Array, **new: Any) -> Movers:
    """Puts a new one first, where `when`; the last one falls out. Fields that are not given are 0."""
    values = Movers(**{name: jnp.asarray(new.get(name, 0)) for name in Movers._fields})
    return jax.tree.map(
        lambda x, value: jnp.where(when, jnp.concatenate([value.astype(x.dtype)[None], x[:-1]]), x),
        movers,
        values._replace(present=jnp.bool_(True)),
    )


def _spawn(state: State, outcomes: Outcomes) -> State:
    """Lets an enemy and a diver appear. An enemy must not face others in its row."""
    due, rightwards, row = state.spawn_timer == 0, outcomes.enemy_rightwards, outcomes.enemy_row
    enemies = state.enemies
    facing = jnp.any(enemies.present & (enemies.row == row) & (enemies.rightwards != rightwards))
    enemies = _add(
        enemies,
        due & ~facing,
        row=row,
        column=jnp.where(rightwards, 0, SIZE - 1),
        rightwards=rightwards,
        move_timer=state.move_interval,
        is_sub=outcomes.enemy_is_sub,
        shot_timer=ENEMY_RELOAD,
    )
    diver_due, rightwards = state.diver_timer == 0, outcomes.diver_rightwards
    divers = _add(
        state.divers,
        diver_due,
        row=outcomes.diver_row,
        column=jnp.where(rightwards, 0, SIZE - 1),
        rightwards=rightwards,
        move_timer=DIVER_MOVE_INTERVAL,
    )
    return state._replace(
        enemies=enemies,
        divers=divers,
        spawn_timer=jnp.where(due, state.spawn_interval, state.spawn_timer),
        diver_timer=jnp.where(diver_due, DIVER_SPAWN_INTERVAL, state.diver_timer),
    )


def _move_sub(state: State, action: Array) -> State:
    fires = (action == FIRE) & (state.shot_timer == 0)
    bullet = dict(row=state.row, column=state.column, rightwards=state.rightwards)
    return state._replace(
        row=moved(state.row, action, UP, DOWN, high=SIZE - 2),
        column=moved(state.column, action, LEFT, RIGHT),
        rightwards=jnp.where(action == RIGHT, True, jnp.where(action == LEFT, False, state.rightwards)),
        bullets=_add(state.bullets, fires, **bullet),
        shot_timer=jnp.where(fires, RELOAD, state.shot_timer),
    )


def _ahead(movers: Movers) -> Array:
    """Returns the columns [N] of the cells before them."""
    return movers.column + jnp.where(movers.rightwards, 1, -1)


def _on_board(columns: Array) -> Array:
    return (columns >= 0) & (columns < SIZE)


def _at_sub(state: State, movers: Movers) -> Array:
    return movers.present & (movers.row == state.row) & (movers.column == state.column)


def _shoot(state: State, candidates: Array, rank: Array) -> tuple[State, Array]:
    """Removes each bullet that is where a candidate is, with the candidate of the highest rank. Returns also how many.

    Two bullets are never in the same cell, for our submarine is slower than they are.

    Args:
      candidates: [32] of the enemies.
      rank: [32], different whole numbers from 0.
    """
    bullets, enemies = state.bullets, state.enemies
    here = (bullets.row[:, None] == enemies.row[None, :]) & (bullets.column[:, None] == enemies.column[None, :])
    hit = here & bullets.present[:, None] & (candidates & enemies.present)[None, :]  # [2, 32]
    ranks = jnp.where(hit, rank[None, :], -1)
    killed = hit & (ranks == jnp.max(ranks, axis=1, keepdims=True))
    spent = jnp.any(hit, axis=1)
    enemies = enemies._replace(present=enemies.present & ~jnp.any(killed, axis=0))
    return state._replace(bullets=bullets._replace(present=bullets.present & ~spent), enemies=enemies), count(spent)


def _move_bullets(state: State) -> tuple[State, Array]:
    """Moves our bullets. One that reaches enemies removes the oldest fish, or else the oldest submarine."""
    column = _ahead(state.bullets)
    bullets = state.bullets._replace(column=column, present=state.bullets.present & _on_board(column))
    rank = jnp.where(state.enemies.is_sub, AGE, MAX_ENEMIES + AGE)
    return _shoot(state._replace(bullets=bullets), state.enemies.present, rank)


def _move_divers(state: State) -> State:
    """Moves divers and takes them aboard, the newest first, while there is room."""
    divers, aboard = state.divers, state.divers_aboard
    due, ahead, here = divers.move_timer == 0, _ahead(divers), _at_sub(state, divers)
    there = _at_sub(state, divers._replace(column=ahead)) & due
    stays = []
    for i in range(MAX_DIVERS_AROUND):
        boards = (here | there)[i] & (aboard < MAX_DIVERS)
        aboard += boards
        stays.append(divers.present[i] & ~boards)
    column = jnp.where(due, ahead, divers.column)
    divers = divers._replace(
        present=jnp.stack(stays) & _on_board(column),
        column=column,
        move_timer=jnp.where(due, DIVER_MOVE_INTERVAL, divers.move_timer - 1),
    )
    return state._replace(divers=divers, divers_aboard=aboard)


def _move_enemies(state: State) -> tuple[State, Array, Array]:
    """Moves and lets shoot the enemies. One that moves onto a bullet is shot: the newest submarine, or else fish.

    Returns:
      (state, number of enemies shot, whether our submarine is rammed)
    """
    enemies = state.enemies
    due = enemies.move_timer == 0
    moved_enemies = enemies._replace(
        column=jnp.where(due, _ahead(enemies), enemies.column),
        move_timer=jnp.where(due, state.move_interval, enemies.move_timer - 1),
        shot_timer=jnp.where(enemies.shot_timer == 0, ENEMY_RELOAD, enemies.shot_timer - 1),
    )
    rammed = jnp.any(_at_sub(state, enemies) | _at_sub(state, moved_enemies))

    shoots = enemies.present & enemies.is_sub & (enemies.shot_timer == 0)
    places = moved_enemies.row, moved_enemies.column
    state = state._replace(
        bullets_left=state.bullets_left | row_bits(*places, shoots & ~enemies.rightwards),
        bullets_right=state.bullets_right | row_bits(*places, shoots & enemies.rightwards),
    )
    present = enemies.present & _on_board(moved_enemies.column)
    state = state._replace(enemies=moved_enemies._replace(present=present))
    rank = jnp.where(enemies.is_sub, 2 * MAX_ENEMIES, MAX_ENEMIES) - 1 - AGE
    state, shot = _shoot(state, due, rank)
    return state, shot, rammed


def _move_enemy_bullets(state: State) -> tuple[State, Array]:
    """Moves their bullets. Returns also whether one strikes our submarine, before or after its move."""
    left, right = state.bullets_left >> 1, state.bullets_right << 1 & EVERY_COLUMN
    anywhere = state.bullets_left | state.bullets_right | left | right
    struck = jnp.any((CELLS == state.row) & (anywhere >> state.column & 1 == 1))
    return state._replace(bullets_left=left, bullets_right=right), struck


def _breathe(state: State) -> tuple[State, Array, Array]:
    """Uses air below the surface; coming up fills it, costs a diver and makes the game harder.

    Returns:
      (state, reward, whether the game ends for want of air or of divers)
    """
    dives = state.row > 0
    comes_up = ~dives & ~state.at_surface
    surfaces = comes_up & (state.divers_aboard != 0)
    rescues = surfaces & (state.divers_aboard == MAX_DIVERS)
    drowned = (state.oxygen <= 0) | (comes_up & ~surfaces)
    reward = jnp.where(rescues, state.oxygen * 10 // MAX_OXYGEN, 0)

    ramps = surfaces & ((state.spawn_interval > 1) | (state.move_interval > 2))
    state = state._replace(
        at_surface=~dives & (state.at_surface | surfaces),
        oxygen=jnp.where(surfaces, MAX_OXYGEN, state.oxygen - dives),
        divers_aboard=jnp.where(rescues, 0, state.divers_aboard) - surfaces,
        move_interval=state.move_interval - (ramps & (state.move_interval > 2) & (state.ramps % 2 == 1)),
        spawn_interval=state.spawn_interval - (ramps & (state.spawn_interval > 1)),
        ramps=state.ramps + ramps,
    )
    return state, reward, drowned


def observe(state: State) -> Array:
    """Returns bool [10, 10, 10].

    The channels: the front and the back of our submarine, our bullets, the cells behind enemies and divers, enemies'
    bullets, fish, submarines, air, divers aboard, divers.
    """
    enemies, divers, bullets = state.enemies, state.divers, state.bullets
    back = state.column - jnp.where(state.rightwards, 1, -1)
    behind = _bits(enemies, 2 * enemies.column - _ahead(enemies)) | _bits(divers, 2 * divers.column - _ahead(divers))
    air = jnp.maximum(state.oxygen, 0) * 10 // MAX_OXYGEN
    bottom = (CELLS == SIZE - 1)[:, None]
    return as_channels(
        cell(state.row, state.column),
        cell(state.row, back),
        from_bits(_bits(bullets, bullets.column)),
        from_bits(behind),
        from_bits(state.bullets_left | state.bullets_right),
        from_bits(row_bits(enemies.row, enemies.column, enemies.present & ~enemies.is_sub)),
        from_bits(row_bits(enemies.row, enemies.column, enemies.present & enemies.is_sub)),
        bottom & (CELLS < air)[None, :],
        bottom & ((CELLS >= 9 - state.divers_aboard) & (CELLS < 9))[None, :],
        from_bits(_bits(divers, divers.column)),
    )


def _bits(movers: Movers, columns: Array) -> Array:
    return row_bits(movers.row, columns, movers.present)


GAME = Game(num_words=5, outcomes=outcomes, start=start, step=step, observe=observe)
