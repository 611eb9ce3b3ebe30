"""Space Invaders: a cannon shoots at rows of aliens, which come nearer and shoot back."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxql.envs.jax.minatar.game import CELLS, FIRE, LEFT, RIGHT, SIZE, Game, as_channels, cell, count, moved
from jaxql.types import Array

WAVE = np.zeros((SIZE, SIZE), bool)
WAVE[0:4, 2:8] = True
BOTTOM = SIZE - 1
RELOAD = 5
SLOWEST, FASTEST = 12, 6  # most steps between moves of the aliens: of the first wave, and of the last ones
SHOT_INTERVAL = 10  # of the aliens


class State(NamedTuple):
    """One episode; scalars are int32, boards bool [10, 10]."""

    cannon: Array  # its column
    bullets: Array
    alien_bullets: Array
    aliens: Array
    right: Array  # 1 where the aliens move right, -1 left
    max_interval: Array  # most steps between moves of the aliens
    move_timer: Array
    alien_shot_timer: Array
    shot_timer: Array


def outcomes(words: Array) -> tuple[()]:
    """Returns the random outcomes of one step: there are none."""
    return ()


def start(outcomes: tuple[()]) -> State:
    """Returns the first state: a wave of aliens at the top, about to move left."""
    none, numbers = jnp.zeros((SIZE, SIZE), bool), (-1, SLOWEST, SLOWEST, SHOT_INTERVAL, 0)
    return State(jnp.int32(5), none, none, jnp.asarray(WAVE), *(jnp.int32(n) for n in numbers))


def step(state: State, action: Array, outcomes: tuple[()]) -> tuple[State, Array, Array]:
    """Returns (state, reward, terminated): 1 for an alien, and the end at a bullet or where the aliens get through."""
    fires = (action == FIRE) & (state.shot_timer == 0)
    cannon = moved(state.cannon, action, LEFT, RIGHT)
    at_cannon = cell(BOTTOM, cannon)
    bullets = _shifted_up(state.bullets | (at_cannon & fires))
    alien_bullets = _shifted_up(state.alien_bullets[::-1])[::-1]
    terminated = jnp.any(at_cannon & (alien_bullets | state.aliens))

    moves = state.move_timer == 0
    aliens, right, got_through = _march(state.aliens, state.right)
    aliens, right = jnp.where(moves, aliens, state.aliens), jnp.where(moves, right, state.right)
    terminated |= (moves & got_through) | jnp.any(at_cannon & aliens)
    interval = jnp.minimum(count(state.aliens), state.max_interval)
    shoots = state.alien_shot_timer == 0
    alien_bullets |= _nearest(aliens, cannon) & shoots

    killed = aliens & bullets
    aliens, bullets = aliens & ~killed, bullets & ~killed
    cleared = ~jnp.any(aliens)
    shot_timer = jnp.where(fires, RELOAD, state.shot_timer)
    state = State(
        cannon=cannon,
        bullets=bullets,
        alien_bullets=alien_bullets,
        aliens=jnp.where(cleared, WAVE, aliens),
        right=right,
        max_interval=state.max_interval - (cleared & (state.max_interval > FASTEST)),
        move_timer=jnp.where(moves, interval, state.move_timer) - 1,
        alien_shot_timer=jnp.where(shoots, SHOT_INTERVAL, state.alien_shot_timer) - 1,
        shot_timer=shot_timer - (shot_timer > 0),
    )
    return state, count(killed), terminated


def _shifted_up(board: Array) -> Array:
    return jnp.pad(board[1:], ((0, 1), (0, 0)))


def _march(aliens: Array, right: Array) -> tuple[Array, Array, Array]:
    """Returns (aliens, direction, whether they got through the bottom) after a move: aside, or down at a wall."""
    at_wall = jnp.any(aliens & _column(jnp.where(right > 0, SIZE - 1, 0)))
    aside = jnp.where(right > 0, jnp.roll(aliens, 1, axis=1), jnp.roll(aliens, -1, axis=1))
    got_through = at_wall & jnp.any(aliens[BOTTOM])
    return jnp.where(at_wall, jnp.roll(aliens, 1, axis=0), aside), jnp.where(at_wall, -right, right), got_through


def _column(column: Array) -> Array:
    return jnp.broadcast_to((CELLS == column)[None, :], (SIZE, SIZE))


def _nearest(aliens: Array, cannon: Array) -> Array:
    """Returns the board with the lowest alien of the column nearest to the cannon; the left one of two."""
    distance = 2 * jnp.abs(CELLS - cannon) + (CELLS > cannon)
    distance = jnp.where(jnp.any(aliens, axis=0), distance, 2 * SIZE)
    column = aliens & (distance == jnp.min(distance))[None, :]
    row = jnp.max(jnp.where(jnp.any(column, axis=1), CELLS, -1))
    return column & (CELLS == row)[:, None]


def observe(state: State) -> Array:
    """Returns bool [10, 10, 6]: cannon, aliens, those on their way left, those right, our bullets, theirs."""
    left, right = state.aliens & (state.right < 0), state.aliens & (state.right > 0)
    return as_channels(cell(BOTTOM, state.cannon), state.aliens, left, right, state.bullets, state.alien_bullets)


GAME = Game(num_words=0, outcomes=outcomes, start=start, step=step, observe=observe)
