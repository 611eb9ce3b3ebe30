"""The JAX games of MinAtar do in every step what the package minatar does with the same actions and random outcomes."""

import copy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql.envs.jax import autoreset, make_minatar
from jaxql.envs.jax.minatar import GAMES, StickyState, asterix, breakout, freeway, seaquest, sticky_step
from jaxql.errors import UserError

PLACES = 840  # a multiple of every number of lanes


class Recorder:
    """Random numbers for a game of the package. It keeps what it gave, by the name of the function that asked."""

    def __init__(self, seed):
        self.source, self.given = np.random.RandomState(seed), {}

    def _keep(self, value):
        self.given.setdefault(sys._getframe(2).f_code.co_name, []).append(copy.copy(value))
        return value

    def rand(self, *shape):
        return self._keep(self.source.rand(*shape))

    def randint(self, low, high=None, size=None):
        if high is None:
            return self._keep(self.source.randint(PLACES)) % low
        return self._keep(self.source.randint(low, high, size))

    def __deepcopy__(self, memo):
        return np.random.RandomState(0)


class Asterix:
    renamed = dict(spawn_interval="spawn_speed", move_interval="move_speed", ramps="ramp_index", ramp_timer="ramp_timer")
    reached = dict(things=8, ramps=14, fastest=-2)

    def outcomes(given, random):
        asked = given.get("_spawn_entity", [])
        rightwards, gold, place = (asked + [random.rand(), random.rand(), random.randint(PLACES)][len(asked) :])[:3]
        return asterix.Outcomes(rightwards < 1 / 2, gold < 1 / 3, np.int32(place))

    def late(random):
        intervals = dict(spawn_interval=random.randint(1, 11), move_interval=random.randint(1, 6))
        return intervals | dict(ramps=random.randint(8), ramp_timer=random.randint(-1, 101))

    def extremes(game):
        things = sum(thing is not None for thing in game.entities)
        return dict(things=things, ramps=game.ramp_index, fastest=-game.spawn_speed - game.move_speed)


class Breakout:
    renamed = dict(bricks="brick_map")
    reached = dict(bricks=30, few=-1, rewards=1)

    def outcomes(given, random):
        return breakout.Outcomes(given.get("reset", [random.randint(2)])[0] % 2 == 1)

    def late(random):
        return dict(bricks=breakout.WALL & (random.rand(10, 10) < random.choice([0.02, 0.1, 0.5])))

    def extremes(game):
        return dict(bricks=np.count_nonzero(game.brick_map), few=-np.count_nonzero(game.brick_map))


class Freeway:
    renamed = dict(row="pos", time_left="terminate_timer")
    reached = dict(rewards=1, terminations=1)

    def outcomes(given, random):
        speeds, sides = given.get("_randomize_cars", [random.randint(1, 6, 8), random.rand(8)])
        return freeway.Outcomes(np.where(sides > 0.5, speeds, -speeds).astype(np.int32))

    def late(random):
        return dict(row=random.randint(1, 10), time_left=random.choice([0, 30, 300, 2500]))

    def extremes(game):
        return {}


class Seaquest:
    renamed = dict(
        oxygen="oxygen",
        divers_aboard="diver_count",
        spawn_interval="e_spawn_speed",
        move_interval="move_speed",
        ramps="ramp_index",
    )
    reached = dict(enemies=26, subs=8, bullets=10, own_bullets=2, divers=2, low=2, ramps=9, rewards=3)

    def outcomes(given, random):
        enemy = given.get("_spawn_enemy", [random.rand(), random.rand(), random.randint(1, 9)])
        diver = given.get("_spawn_diver", [random.rand(), random.randint(1, 9)])
        enemy = enemy[0] < 1 / 2, enemy[1] < 1 / 3, np.int32(enemy[2])
        return seaquest.Outcomes(*enemy, diver[0] < 1 / 2, np.int32(diver[1]))

    def late(random):
        intervals = dict(spawn_interval=random.choice([1, 1, 2, 5, 20]), move_interval=random.randint(2, 6))
        boat = dict(oxygen=random.choice([1, 20, 60, 140, 200]), divers_aboard=random.choice([-2, -1, 0, 1, 4, 5, 6]))
        return intervals | boat | dict(ramps=random.randint(8))

    def extremes(game):
        sizes = dict(enemies=len(game.e_fish + game.e_subs), subs=len(game.e_subs), bullets=len(game.e_bullets))
        sizes |= dict(own_bullets=len(game.f_bullets), divers=len(game.divers), ramps=game.ramp_index)
        return sizes | dict(low=-game.diver_count)


class SpaceInvaders:
    renamed = dict(aliens="alien_map", max_interval="enemy_move_interval")
    reached = dict(aliens=24, few=-1, ramps=6, low=9, rewards=1)

    def outcomes(given, random):
        return ()

    def late(random):
        aliens = random.rand(10, 10) < random.choice([0.03, 0.1])
        aliens[0, random.randint(10)] = True  # there is always one
        aliens[random.choice([6, 10]) :] = False
        return dict(aliens=aliens, max_interval=random.randint(6, 13))

    def extremes(game):
        aliens = np.count_nonzero(game.alien_map)
        return dict(aliens=aliens, few=-aliens, ramps=game.ramp_index, low=np.nonzero(game.alien_map)[0].max())


CASES = {
    "asterix": Asterix,
    "breakout": Breakout,
    "freeway": Freeway,
    "seaquest": Seaquest,
    "space-invaders": SpaceInvaders,
}


def careful_action(game, random):
    """An action after which the game goes on for three steps at least, should there be one; in Breakout to the ball."""
    if hasattr(game, "brick_map"):
        return 1 if game.ball_x < game.pos else 3 if game.ball_x > game.pos else 0
    for action in random.permutation(6):
        trial = copy.deepcopy(game)
        for each in (action, 0, 0):
            trial.act(each)
        if not trial.terminal:
            return action
    return random.randint(6)


def play_package(name, seed, num_steps):
    """Plays the package's game. An episode's policy is random or careful; it begins as it does, or late in the game.

    Returns:
      (what the same steps need [T], what they showed [T], the extremes that were reached)
    """
    minatar = pytest.importorskip("minatar", reason="minatar is not installed: pip install 'jaxql[minatar]'")
    case, random, recorder = CASES[name], np.random.RandomState(seed), Recorder(seed + 1)
    env = minatar.Environment(name.replace("-", "_"))
    env.random = env.env.random = recorder
    needed, shown, extremes, over = [], [], {}, True
    for _ in range(num_steps):
        begins = over
        if begins:
            recorder.given = {}
            env.reset()
            env.last_action = 0
            start = case.outcomes(recorder.given, random)
            late = case.late(random) if random.rand() < 3 / 4 else {}
            for field, value in late.items():
                setattr(env.env, case.renamed[field], np.array(value, float) if np.ndim(value) else int(value))
            fields = {field: np.array(getattr(env.env, theirs)) for field, theirs in case.renamed.items()}
            careful = random.choice([0.0, 0.5, 1.0, 1.0])
        obs = env.state()
        action = careful_action(env.env, random) if random.rand() < careful else random.randint(6)
        recorder.given = {}
        reward, over = env.act(action)
        repeats = recorder.given["act"][0] < 0.1
        needed.append((begins, start, fields, action, repeats, case.outcomes(recorder.given, random)))
        shown.append((obs, env.state(), reward, over))
        reached = case.extremes(env.env) | dict(rewards=reward, terminations=over)
        extremes = {key: max(value, extremes.get(key, value)) for key, value in reached.items()}
    return *(jax.tree.map(lambda *x: np.stack(x), *rows) for rows in (needed, shown)), extremes


def play_jax(name):
    """Returns a compiled function: what the JAX game shows in the same steps."""
    game = GAMES[name]

    def one_step(state, needed):
        begins, start, fields, action, repeats, outcomes = needed
        first = game.start(start)
        changes = {field: jnp.asarray(value, getattr(first, field).dtype) for field, value in fields.items()}
        first = StickyState(first._replace(**changes), jnp.int32(0))
        state = jax.tree.map(lambda new, old: jnp.where(begins, new, old), first, state)
        after, reward, over = sticky_step(game, state, action, repeats, outcomes)
        return after, (game.observe(state.game), game.observe(after.game), reward, over)

    def steps(needed):
        first = StickyState(game.start(jax.tree.map(lambda x: x[0], needed[1])), jnp.int32(0))
        return jax.lax.scan(one_step, first, needed)[1]

    return jax.jit(steps)


def compare(name, seeds, num_steps):
    ours, extremes = play_jax(name), {}
    for seed in seeds:
        needed, shown, reached = play_package(name, seed, num_steps)
        for what, theirs, mine in zip(("obs", "next obs", "reward", "end"), shown, ours(needed), strict=True):
            wrong = np.flatnonzero((theirs != np.asarray(mine)).reshape(num_steps, -1).any(axis=1))
            assert not wrong.size, f"{name}, seed {seed}: the {what} of step {wrong[0]}"
        extremes = {key: max(value, extremes.get(key, value)) for key, value in reached.items()}
    return extremes


@pytest.mark.parametrize("name", GAMES)
def test_every_step_is_the_packages(name):
    compare(name, seeds=range(2), num_steps=600)


@pytest.mark.slow
@pytest.mark.parametrize("name", GAMES)
def test_every_step_is_the_packages_late_in_the_games_too(name):
    extremes = compare(name, seeds=range(4), num_steps=20_000)
    for what, least in CASES[name].reached.items():
        assert extremes[what] >= least, (what, extremes)
