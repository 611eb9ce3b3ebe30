"""The JAX games of MinAtar do in every step what the package minatar does with the same actions and random outcomes."""

import copy
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql.envs.jax import autoreset, make_minatar
from jaxql.envs.jax.minatar import GAMES, StickyState, asterix, breakout, freeway, seaquest, sticky_step
from jaxql.envs.jax.minatar.game import DOWN, FIRE, LEFT, NOOP, RIGHT, UP
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
    fields = dict(spawn_interval="spawn_speed", move_interval="move_speed", ramps="ramp_index", ramp_timer="ramp_timer")
    reached = dict(things=8, ramps=9, fastest=-2, rewards=1)

    def outcomes(given, random):
        asked = given.get("_spawn_entity", [])
        rightwards, gold, place = (asked + [random.rand(), random.rand(), random.randint(PLACES)][len(asked) :])[:3]
        return asterix.Outcomes(rightwards < 1 / 2, gold < 1 / 3, np.int32(place))

    def start_late(game, random):
        game.spawn_speed, game.move_speed = random.randint(1, 11), random.randint(1, 6)
        game.ramp_index, game.ramp_timer = random.randint(8), random.randint(-1, 101)

    def extremes(game):
        things = sum(thing is not None for thing in game.entities)
        return dict(things=things, ramps=game.ramp_index, fastest=-game.spawn_speed - game.move_speed)


class Breakout:
    fields = dict(bricks="brick_map")
    reached = dict(bricks=30, few=0, rewards=1)

    def outcomes(given, random):
        return breakout.Outcomes(given.get("reset", [random.randint(2)])[0] % 2 == 1)

    def start_late(game, random):
        game.brick_map *= random.rand(10, 10) < random.choice([0.02, 0.1, 0.5])

    def extremes(game):
        return dict(bricks=np.count_nonzero(game.brick_map), few=-np.count_nonzero(game.brick_map))


class Freeway:
    fields = dict(row="pos", time_left="terminate_timer")
    reached = dict(rewards=1, terminations=1)

    def outcomes(given, random):
        speeds, sides = given.get("_randomize_cars", [random.randint(1, 6, 8), random.rand(8)])
        return freeway.Outcomes(np.where(sides > 0.5, speeds, -speeds).astype(np.int32))

    def start_late(game, random):
        game.pos, game.terminate_timer = random.randint(1, 10), random.choice([0, 30, 300, 2500])

    def extremes(game):
        return {}


class Seaquest:
    fields = dict(
        row="sub_y",
        oxygen="oxygen",
        divers_aboard="diver_count",
        spawn_interval="e_spawn_speed",
        move_interval="move_speed",
        ramps="ramp_index",
        enemies=lambda game: Seaquest.movers(
            32, *([*x, False, 0] for x in game.e_fish), *([*x[:4], True, x[4]] for x in game.e_subs)
        ),
        shot_timer="shot_timer",
        bullets=lambda game: Seaquest.movers(2, *([*x, 0, False, 0] for x in game.f_bullets)),
    )
    reached = dict(enemies=20, subs=8, bullets=5, own_bullets=2, divers=2, low=3, ramps=19, rewards=5)

    def movers(size, *things):
        """Our array of the package's lists, in which the newest is the last."""
        rows = [(True, y, x, rightwards, timer, is_sub, shot) for x, y, rightwards, timer, is_sub, shot in things]
        rows = rows[::-1] + [(False,) * 7] * (size - len(rows))
        return seaquest.Movers(*(np.array(column) for column in zip(*rows, strict=True)))

    def outcomes(given, random):
        enemy = given.get("_spawn_enemy", [random.rand(), random.rand(), random.randint(1, 9)])
        diver = given.get("_spawn_diver", [random.rand(), random.randint(1, 9)])
        enemy = enemy[0] < 1 / 2, enemy[1] < 1 / 3, np.int32(enemy[2])
        return seaquest.Outcomes(*enemy, diver[0] < 1 / 2, np.int32(diver[1]))

    def start_late(game, random):
        crowded = random.rand() < 1 / 2
        ramps = game.ramp_index = random.choice([0, 3, 5, 10] if crowded else [0, 5, 10, 18, 19, 19])
        game.e_spawn_speed, game.move_speed = 20 - ramps, max(2, 5 - ramps // 2)
        game.oxygen = random.choice([1, 20, 60, 140, 200])
        game.diver_count = random.choice([-2, -1, 0, 1, 4, 5, 6])
        game.sub_y = random.choice([0, 0, 0, 1, 4, 7])
        if crowded:  # several enemies in a cell, and a bullet on its way to them
            y, rightwards, to_right = random.randint(1, 9), random.rand() < 1 / 2, random.rand() < 1 / 2
            game.f_bullets.append([6 if to_right else 4, y, to_right])
            game.shot_timer = 4  # it was fired just now
            for _ in range(random.randint(2, 12)):
                x = random.randint(7, 9) if to_right else random.randint(1, 3)
                enemy = [x, y, rightwards, random.randint(game.move_speed + 1)]
                if random.rand() < 1 / 2:
                    game.e_fish.append(enemy)
                else:
                    game.e_subs.append([*enemy, random.randint(11)])

    def extremes(game):
        sizes = dict(enemies=len(game.e_fish + game.e_subs), subs=len(game.e_subs), bullets=len(game.e_bullets))
        sizes |= dict(own_bullets=len(game.f_bullets), divers=len(game.divers), ramps=game.ramp_index)
        return sizes | dict(low=-game.diver_count)


class SpaceInvaders:
    fields = dict(aliens="alien_map", max_interval="enemy_move_interval")
    reached = dict(aliens=24, few=-1, ramps=1, low=9, rewards=1)

    def outcomes(given, random):
        return ()

    def start_late(game, random):
        game.alien_map = np.float64(random.rand(10, 10) < random.choice([0.03, 0.1]))
        game.alien_map[random.choice([6, 10]) :] = 0
        game.alien_map[0, random.randint(10)] = 1  # there is always one
        game.enemy_move_interval = random.choice([6, 7, 7, 8, 12])

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
    for action in (random.choice([FIRE, NOOP, LEFT]), *random.permutation(6)):
        trial = copy.deepcopy(game)
        for each in (action, 0, 0):
            trial.act(each)
        if not trial.terminal:
            return action
    return random.randint(6)


def read_field(game, theirs):
    return theirs(game) if callable(theirs) else np.array(getattr(game, theirs))


def play_package(name, seed, num_steps):
    """Plays the package's game. Episodes are cut after 200 steps or so; most begin late; many are played with care.

    Returns:
      (what the same steps need [T], what they showed [T], the extremes that were reached)
    """
    minatar = pytest.importorskip("minatar", reason="minatar is not installed: pip install 'jaxql[minatar]'")
    case, random, recorder = CASES[name], np.random.RandomState(seed), Recorder(seed + 1)
    env = minatar.Environment(name.replace("-", "_"))
    env.random = env.env.random = recorder
    needed, shown, extremes, over = [], [], {}, True
    for _ in range(num_steps):
        begins = over or random.rand() < 1 / 200
        if begins:
            recorder.given = {}
            env.reset()
            env.last_action = 0
            start = case.outcomes(recorder.given, random)
            if random.rand() < 3 / 4:
                case.start_late(env.env, random)
            fields = {field: read_field(env.env, theirs) for field, theirs in case.fields.items()}
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
        dtypes = jax.tree.map(lambda x: x.dtype, first)._asdict()
        changes = {field: jax.tree.map(jnp.asarray, value, dtypes[field]) for field, value in fields.items()}
        first = StickyState(first._replace(**changes), jnp.int32(NOOP))
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
    extremes = compare(name, seeds=range(4), num_steps=5_000)
    for what, least in CASES[name].reached.items():
        assert extremes[what] >= least, (what, extremes)


def hop(num_envs, num_steps):
    """Seaquest that goes on after its end. The boat comes up as often as it can, which makes it faster, or lies still.

    Returns:
      (observations [T, B, 10, 10, 10], reward [T, B], how many enemies there were at most)
    """
    game = GAMES["seaquest"]

    def one_step(state, t):
        words = jax.random.bits(jax.random.fold_in(jax.random.key(1), t), (num_envs, game.num_words + 1), jnp.uint32)
        still = jnp.where(words[:, 0] % 2 == 0, FIRE, words[:, 0] // 2 % 6)  # shoots along its row, for the most part
        action = jnp.where((t // 64) % 4 == jnp.arange(num_envs) % 4, still, jnp.where(state.row > 0, UP, DOWN))
        outcomes = jax.vmap(game.outcomes)(words[:, 1:])
        state, reward, _ = jax.vmap(game.step)(state, action, outcomes)
        return state, (jax.vmap(game.observe)(state), reward, jnp.sum(state.enemies.present, axis=1))

    words = jnp.zeros((num_envs, game.num_words), jnp.uint32)
    first = jax.vmap(game.start)(jax.vmap(game.outcomes)(words))
    first = first._replace(divers_aboard=jnp.where(jnp.arange(num_envs) % 2 == 0, -1, first.divers_aboard + 4))
    obs, reward, enemies = jax.jit(lambda: jax.lax.scan(one_step, first, jnp.arange(num_steps))[1])()
    return np.asarray(obs), np.asarray(reward), int(enemies.max())


@pytest.mark.slow
def test_seaquests_arrays_hold_whatever_can_be_around(monkeypatch):
    obs, reward, most = hop(num_envs=64, num_steps=1_000)
    for name in "MAX_ENEMIES", "MAX_BULLETS", "MAX_DIVERS_AROUND":
        monkeypatch.setattr(seaquest, name, 2 * getattr(seaquest, name))
    monkeypatch.setattr(seaquest, "AGE", np.arange(seaquest.MAX_ENEMIES, dtype=np.int32))
    larger_obs, larger_reward, larger_most = hop(num_envs=64, num_steps=1_000)
    np.testing.assert_array_equal(obs, larger_obs)
    np.testing.assert_array_equal(reward, larger_reward)
    assert most == larger_most >= 25 and reward.sum() > 0


CHANCES = {  # of the outcomes: how likely each value is
    "asterix": dict(rightwards={1: 1 / 2}, is_gold={1: 1 / 3}, place=dict.fromkeys(range(PLACES), 1 / PLACES)),
    "breakout": dict(from_right={1: 1 / 2}),
    "freeway": dict(velocities={v: 1 / 10 for v in range(-5, 6) if v}),
    "seaquest": dict(
        enemy_rightwards={1: 1 / 2},
        enemy_is_sub={1: 1 / 3},
        enemy_row=dict.fromkeys(range(1, 9), 1 / 8),
        diver_rightwards={1: 1 / 2},
        diver_row=dict.fromkeys(range(1, 9), 1 / 8),
    ),
}


@pytest.mark.parametrize("name", CHANCES)
def test_random_outcomes_are_as_likely_as_the_packages(name):
    """Of 200,000 draws: each count lies within 5 standard deviations, and outcomes do not go together."""
    game, n = GAMES[name], 200_000
    drawn = jax.vmap(game.outcomes)(jax.random.bits(jax.random.key(3), (n, game.num_words), jnp.uint32))
    assert CHANCES[name].keys() == set(drawn._fields)
    columns = np.concatenate([np.asarray(x, float).reshape(n, -1) for x in drawn], axis=1)
    correlation = np.atleast_2d(np.corrcoef(columns.T)) - np.eye(columns.shape[1])
    assert np.abs(correlation).max() < 5 / np.sqrt(n)
    for field, likely in CHANCES[name].items():
        values = np.asarray(getattr(drawn, field)).astype(int).ravel()
        for value, p in likely.items():
            assert abs(np.sum(values == value) - p * values.size) < 5 * np.sqrt(p * (1 - p) * values.size), (
                field,
                value,
            )
        assert set(values) <= set(likely) | ({0} if len(likely) == 1 else set())


@pytest.mark.parametrize("probability", [0.0, 0.1, 1.0])
def test_actions_stick_as_often_as_asked_for(probability):
    env, n = make_minatar("breakout", probability), 20_000
    keys = jax.random.split(jax.random.key(5), n)
    state = jax.jit(env.reset)(keys[0])
    assert state.last_action == NOOP
    after = jax.jit(jax.vmap(lambda key: env.step(key, state._replace(last_action=jnp.int32(LEFT)), RIGHT)[0]))(keys)
    stuck = np.asarray(after.game.paddle == state.game.paddle - 1)
    assert abs(stuck.mean() - probability) <= 5 * np.sqrt(probability * (1 - probability) / n)
    np.testing.assert_array_equal(after.last_action, np.where(stuck, LEFT, RIGHT))


def test_episodes_start_at_either_wall_and_end_by_themselves():
    begin, env_step = autoreset(make_minatar("breakout"), num_envs=200)
    env_state, obs = jax.jit(begin)(jax.random.key(0))
    sides = np.asarray(obs)[:, 3, :, 1].sum(axis=0)
    assert obs.shape == (200, 10, 10, 4) and obs.dtype == bool
    assert sides[0] + sides[9] == 200 and 60 < sides[0] < 140
    step, right = jax.jit(env_step), jnp.full(200, RIGHT)
    for _ in range(6):  # the ball falls past a paddle that goes away
        env_state, result = step(env_state, right)
    assert result.terminated.all() and not result.truncated.any() and result.valid.all()
    _, result = step(env_state, right)
    assert not result.valid.any() and not result.terminated.any()
    np.testing.assert_array_equal(np.asarray(result.next_obs)[:, 3, :, 1].sum(axis=1), 1)


def test_nonsense_is_refused():
    with pytest.raises(UserError, match='braekout: MinAtar has no such game .did you mean "breakout"'):
        make_minatar("braekout")
    for probability in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="sticky_action_probability=.* must be from 0 to 1"):
            make_minatar("breakout", probability)
