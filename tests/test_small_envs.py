"""Catch, CartPole, Deep Sea and Memory Chain are the envs that their descriptions say."""

import itertools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_envs import rollout

from jaxql import planning
from jaxql.envs.jax import (
    autoreset,
    cartpole,
    catch,
    catch_mdp,
    deep_sea,
    deep_sea_mdp,
    from_mdp,
    memory_chain,
)
from jaxql.errors import UserError

X64 = jax.config.jax_enable_x64
CLOSE = dict(rtol=1e-12, atol=1e-14) if X64 else dict(rtol=1e-5, atol=1e-6)


def reference_catch(rows, columns, column, actions):
    """One episode of catch, as a child would tell it: (states as (row, column, paddle), reward)."""
    paddle, shown = columns // 2, []
    for row, action in enumerate(actions[: rows - 1], start=1):
        paddle = min(max(paddle + action - 1, 0), columns - 1)
        shown.append((row, column, paddle))
    return shown, 1.0 if paddle == column else -1.0


@pytest.mark.parametrize(("rows", "columns"), [(6, 5), (2, 1), (4, 3)])
def test_catch(rows, columns):
    ticks = 5 * rows  # an episode of rows - 1 steps, and a reset
    actions, obs, reward, terminated, truncated, valid = rollout(catch(rows, columns), 3, ticks)
    for b in range(3):
        for start in range(0, ticks, rows):
            ball, column, paddle = np.unravel_index(obs[start, b], (rows, columns, columns))
            assert (ball, paddle) == (0, columns // 2)
            shown, score = reference_catch(rows, columns, column, actions[start:, b])
            seen = obs[start + 1 : start + rows, b]
            np.testing.assert_array_equal(np.transpose(np.unravel_index(seen, (rows, columns, columns))), shown)
            np.testing.assert_array_equal(reward[start : start + rows, b], [0] * (rows - 2) + [score, 0])
            np.testing.assert_array_equal(terminated[start : start + rows, b], np.arange(rows) == rows - 2)
            np.testing.assert_array_equal(valid[start : start + rows, b], np.arange(rows) < rows - 1)
    assert not truncated.any()


def test_catch_and_its_model_are_the_same_env():
    jax_env, mdp = catch(4, 3), catch_mdp(4, 3)
    modelled = from_mdp(mdp)
    state, action = np.indices((27, 3), dtype=np.int32).reshape(2, -1)  # in the last row, 27..35, the episode is over
    key = jax.random.key(0)
    same = [jax.vmap(env.step, (None, 0, 0))(key, state, action) for env in (jax_env, modelled)]
    jax.tree.map(np.testing.assert_array_equal, *same)
    starts = {int(jax_env.reset(jax.random.key(i))) for i in range(60)}
    assert starts == set(np.flatnonzero(mdp.start))
    over = slice(27, 36)
    assert (mdp.reward[over] == 0).all() and mdp.ends[over].all()
    assert (mdp.next_state[over] == np.arange(27, 36)[:, None, None]).all()


def gymnasium_rows(episodes):
    """(state, action, next state, reward, terminated) of Gymnasium's own CartPole under random actions, in float64."""
    env, rng, rows = gymnasium.make("CartPole-v1").unwrapped, np.random.default_rng(0), []
    for seed in range(episodes):
        env.reset(seed=seed)
        env.state = rng.uniform(-1, 1, 4) * [2.4, 3, 0.2, 3] if seed % 2 else env.state  # fast and far ones too
        terminated = False
        while not terminated:
            state, action = np.array(env.state), int(rng.integers(2))
            _, reward, terminated, _, _ = env.step(action)
            rows.append((state, action, np.array(env.state), reward, terminated))
    return map(np.array, zip(*rows, strict=True))


def test_cartpole_steps_as_gymnasium_does():
    state, action, expected, reward, terminated = gymnasium_rows(episodes=100)
    got, paid, over = jax.vmap(cartpole().step, (None, 0, 0))(None, jnp.asarray(state, float), jnp.asarray(action))
    assert got.dtype == jnp.result_type(float)
    np.testing.assert_allclose(got, expected, **CLOSE)
    np.testing.assert_array_equal(paid, reward)
    np.testing.assert_array_equal(over, terminated)
    for bound, i in ((2.4, 0), (np.deg2rad(12), 2)):  # both bounds, both signs
        assert (expected[terminated, i] > bound).any() and (expected[terminated, i] < -bound).any()


def balance(obs):
    return int(obs @ np.array([0.05, 0.1, 1.0, 0.5]) > 0)


def test_a_whole_cartpole_episode_ends_at_the_limit():
    begin, env_step = autoreset(cartpole(), 1)
    env, obs = begin(jax.random.key(0))
    env_step, theirs = jax.jit(env_step), gymnasium.make("CartPole-v1")
    theirs.reset(seed=0)
    assert (np.abs(obs) <= 0.05).all()
    for tick in range(500):
        action = balance(np.asarray(obs[0]))
        theirs.unwrapped.state = np.array(obs[0], float)  # for small differences grow: the pole is unstable
        env, (obs, reward, terminated, truncated, _) = env_step(env, jnp.array([action]))
        _, *expected, _ = theirs.step(action)
        assert [float(reward[0]), bool(terminated[0]), bool(truncated[0])] == expected
        assert bool(truncated[0]) == (tick == 499)
        np.testing.assert_allclose(obs[0], theirs.unwrapped.state, **CLOSE)


def dive(size, mapping, actions):
    """A dive as a child would tell it: (cells, rewards)."""
    column, cells, rewards = 0, [], []
    for row, action in enumerate(actions):
        if action == mapping[row][column]:
            rewards.append((1.0 if column == size - 1 else 0.0) - 0.01 / size)
            column = min(column + 1, size - 1)
        else:
            rewards.append(0.0)
            column = max(column - 1, 0)
        cells.append((row + 1, column))
    return cells, rewards


@pytest.mark.parametrize("size", [1, 4])
def test_deep_sea_is_what_it_says(size):
    jax_env = deep_sea(size, seed=3)
    paid = np.asarray(deep_sea_mdp(size, seed=3).reward)[: size * size, :, 0].reshape(size, size, 2)
    mapping = paid.argmin(axis=-1) if size > 1 else paid.argmax(axis=-1)  # to go right costs something
    mapping[:, -1] = paid[:, -1].argmax(axis=-1)
    for actions in itertools.product((0, 1), repeat=size):
        state, (cells, rewards) = jax_env.reset(None), dive(size, mapping, actions)
        for tick, action in enumerate(actions):
            state, reward, terminated = jax_env.step(None, state, action)
            assert divmod(int(state), size) == cells[tick]
            np.testing.assert_allclose(reward, rewards[tick], atol=1e-6)
            assert bool(terminated) == (tick == size - 1)


def test_the_best_return_of_deep_sea_is_known(size=9):
    mdp = deep_sea_mdp(size, seed=size)
    np.testing.assert_allclose(planning.best_return(mdp), 0.99, rtol=1e-6)
    state, action = np.indices((size * size, 2), dtype=np.int32).reshape(2, -1)
    steps = [jax.vmap(env.step, (None, 0, 0))(jax.random.key(0), state, action) for env in (deep_sea(size, size),
                                                                                      from_mdp(mdp))]  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *steps)


def test_the_seed_of_deep_sea_draws_its_actions():
    rewards = [np.asarray(deep_sea_mdp(8, seed).reward) for seed in (0, 0, 1)]
    assert (rewards[0] == rewards[1]).all() and (rewards[0] != rewards[2]).any()
    cheap = (rewards[0][:64, :, 0] < 0).argmax(axis=-1)
    assert 0.2 < cheap.mean() < 0.8, "neither action is always the right one"


def corridor(length):
    """The sights [cue, tick] of both cues, as tuples, and the return [cue, last action]."""
    jax_env, sights, returns = memory_chain(length), np.empty((2, length + 1), object), np.empty((2, 2))
    for cue, action in itertools.product(range(2), range(2)):
        state, rewards, ends = jnp.array([2 * cue - 1, 0]), [], []
        for tick in range(length + 1):
            sights[cue, tick] = tuple(map(float, jax_env.observe(state)))
            state, reward, terminated = jax_env.step(None, state, jnp.int32(action))
            rewards.append(float(reward))
            ends.append(bool(terminated))
        assert ends == [False] * length + [True] and not any(rewards[:-1])
        returns[cue, action] = rewards[-1]
    return sights, returns


@pytest.mark.parametrize("length", [1, 3])
def test_only_a_memory_remembers(length):
    sights, returns = corridor(length)
    seen = sorted(set(sights.ravel()))
    assert len(seen) == length + 2, "the cue is seen at the first step only"
    worth = []
    for choice in itertools.product((0, 1), repeat=len(seen)):  # every policy without memory; mixing adds no value
        policy = dict(zip(seen, choice, strict=True))
        worth.append(np.mean([returns[cue, policy[sights[cue, -1]]] for cue in (0, 1)]))
    assert max(worth) == min(worth) == 0
    assert np.mean([returns[cue, int(sights[cue, 0][0] > 0)] for cue in (0, 1)]) == 1, "who remembers the cue"


def test_cues_are_even_and_the_agent_sees_no_state():
    jax_env = memory_chain(3)
    cues = jax.vmap(jax_env.reset)(jax.random.split(jax.random.key(0), 400))[:, 0]
    assert set(np.unique(cues)) == {-1, 1} and abs(np.mean(cues)) < 0.2
    assert jax_env.spec(5).obs == jax.ShapeDtypeStruct((5, 3), jnp.result_type(float))
    begin, env_step = autoreset(jax_env, 5)
    (env, obs), env_step = jax.jit(begin)(jax.random.key(1)), jax.jit(env_step)
    shown = [obs]
    for _ in range(5):
        env, (obs, *_) = env_step(env, jnp.zeros(5, jnp.int32))
        shown.append(obs)
    np.testing.assert_array_equal(np.abs(np.stack(shown)[:, :, 0])[:, 0], [1, 0, 0, 0, 0, 1])


@pytest.mark.parametrize("wrong", [lambda: catch(1, 5), lambda: deep_sea(0), lambda: memory_chain(0)])
def test_sizes_without_an_env_are_refused(wrong):
    with pytest.raises(UserError, match="needs"):
        wrong()
