"""MinAtar's five games as JAX envs: Atari games on boards of 10 x 10 cells.

Source: Young & Tian (2019), "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible Reinforcement Learning
Experiments", arXiv:1903.03176. Their rules are those of the package minatar 1.0.15, step by step.
"""

from jaxql.envs.jax.minatar import asterix, breakout, freeway, seaquest, space_invaders
from jaxql.envs.jax.minatar.game import (
    Game as Game,
    StickyState as StickyState,
    sticky_step as sticky_step,
    with_sticky_actions,
)
from jaxql.envs.jax.protocol import JaxEnv
from jaxql.errors import UserError, nearest

GAMES: dict[str, Game] = {
    "asterix": asterix.GAME,
    "breakout": breakout.GAME,
    "freeway": freeway.GAME,
    "seaquest": seaquest.GAME,
    "space-invaders": space_invaders.GAME,
}


def make_minatar(game: str, sticky_action_probability: float = 0.1) -> JaxEnv:
    """Returns a game of MinAtar as a `JaxEnv`.

    It is what `MinAtar/NAME-v0` of the package minatar is: six actions (none, left, up, right, down, fire), sticky
    actions, difficulty that ramps, no limit of steps. Observations are bool [10, 10, channels], rewards whole numbers.
    Only the first step of an episode differs: the action that it may repeat is none. The package repeats the last
    action of the episode before.

    Args:
      game: "asterix", "breakout", "freeway", "seaquest" or "space-invaders".
      sticky_action_probability: how likely a step takes the last action again, in place of the one that is given.

    Raises:
      UserError: an unknown game, or a probability outside 0..1.

    >>> make_minatar("breakout").spec(num_envs=8).obs
    ShapeDtypeStruct(shape=(8, 10, 10, 4), dtype=bool)
    """
    if game not in GAMES:
        raise UserError(f"{game}: MinAtar has no such game{nearest(game, GAMES)}; it has {', '.join(GAMES)}")
    return with_sticky_actions(GAMES[game], sticky_action_probability)
