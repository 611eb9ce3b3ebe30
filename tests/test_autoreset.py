"""JAX envs obey the laws of NEXT_STEP envs, and an env made from a model has the model's distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql.envs.worlds import JaxEnv, autoreset, catch, catch_mdp, from_mdp, on_host
from jaxql.errors import UserError
from jaxql.types import MDP


def rollout(jax_env, num_envs, ticks, *, key=0, action_seed=0, **limits):
    """(actions, rows): NumPy arrays; obs [T + 1, B], all else [T, B]."""
    begin, env_step = autoreset(jax_env, num_envs, **limits)
    env, first = begin(jax.random.key(key))
    actions = np.random.default_rng(action_seed).integers(0, jax_env.num_actions, (ticks, num_envs), dtype=np.int32)
    _, (obs, *rows) = jax.lax.scan(env_step, env, jnp.asarray(actions))
    return actions, np.concatenate([first[None], obs]), *map(np.asarray, rows)


def random_mdp(seed=0, num_states=4, num_actions=2, successors=3):
    rng = np.random.default_rng(seed)
    shape = num_states, num_actions, successors
    probability = rng.dirichlet(np.ones(successors), shape[:2])
    probability[0, 0] = [0.5, 0, 0.5]  # the middle one pads
    probability[1, 1] = [1, 0, 0]
    return MDP(
        next_state=jnp.asarray(rng.integers(0, num_states, shape), jnp.int32),
        probability=jnp.asarray(probability, float),
        reward=jnp.asarray(np.arange(np.prod(shape)).reshape(shape), float),  # tells the successors apart
        ends=jnp.asarray(rng.random(shape) < 0.3),
        start=jnp.asarray([0.2, 0, 0.5, 0.3], float),
    )


def test_a_model_is_drawn_from_with_its_probabilities():
    mdp = random_mdp()
    actions, obs, reward, terminated, _, valid = rollout(from_mdp(mdp), 64, 400)
    drawn = reward[valid].astype(int)
    num_states, num_actions, successors = mdp.next_state.shape
    state, action, k = np.unravel_index(drawn, (num_states, num_actions, successors))
    np.testing.assert_array_equal(state, obs[:-1][valid])  # the reward says which successor was drawn
    np.testing.assert_array_equal(action, actions[valid])
    np.testing.assert_array_equal(np.asarray(mdp.next_state)[state, action, k], obs[1:][valid])
    np.testing.assert_array_equal(np.asarray(mdp.ends)[state, action, k], terminated[valid])
    counts = np.zeros(mdp.next_state.shape)
    np.add.at(counts, (state, action, k), 1)
    assert_drawn_from(counts.reshape(-1, successors), np.asarray(mdp.probability).reshape(-1, successors))
    starts = np.bincount(np.append(obs[0], obs[1:][~valid]), minlength=num_states)
    assert_drawn_from(starts[None], np.asarray(mdp.start)[None])


def assert_drawn_from(counts, probability):
    """Chi-square over all rows at once, at a level of about 1e-4; what has probability 0 was never drawn."""
    assert counts.sum() > 1000 and (counts[probability == 0] == 0).all()
    expected = counts.sum(1, keepdims=True) * probability
    possible = expected > 0
    statistic = np.sum((counts - expected)[possible] ** 2 / expected[possible])
    freedom = possible.sum() - len(counts)
    assert statistic < freedom + 4 * np.sqrt(2 * freedom) + 8


@pytest.mark.parametrize("number", [0.0, 0.25, 0.4999999, 0.99999994])
def test_what_has_probability_zero_is_never_drawn(number, monkeypatch):
    """`jax.random.uniform` may be exactly 0, and very nearly 1."""
    monkeypatch.setattr(jax.random, "uniform", lambda key: jnp.asarray(number))
    jax_env = from_mdp(random_mdp()._replace(start=jnp.asarray([0, 0.3, 0.7, 0], float)))
    assert int(jax_env.reset(jax.random.key(0))) in (1, 2)


def test_worlds_draw_independently():
    _, obs, *_ = rollout(from_mdp(random_mdp()), 2, 3000)
    assert abs(np.corrcoef(obs.T)[0, 1]) < 0.1


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
    for jax_env in range(3):
        for start in range(0, ticks, rows):
            ball, column, paddle = np.unravel_index(obs[start, jax_env], (rows, columns, columns))
            assert (ball, paddle) == (0, columns // 2)
            shown, score = reference_catch(rows, columns, column, actions[start:, jax_env])
            seen = obs[start + 1 : start + rows, jax_env]
            np.testing.assert_array_equal(np.transpose(np.unravel_index(seen, (rows, columns, columns))), shown)
            np.testing.assert_array_equal(reward[start : start + rows, jax_env], [0] * (rows - 2) + [score, 0])
            np.testing.assert_array_equal(terminated[start : start + rows, jax_env], np.arange(rows) == rows - 2)
            np.testing.assert_array_equal(valid[start : start + rows, jax_env], np.arange(rows) < rows - 1)
    assert not truncated.any()


def test_catch_and_its_model_are_the_same_world():
    jax_env, mdp = catch(4, 3), catch_mdp(4, 3)
    modelled = from_mdp(mdp)
    state, action = np.indices((27, 3), dtype=np.int32).reshape(2, -1)  # in the last row, 27..35, the episode is over
    key = jax.random.key(0)
    same = [jax.vmap(w.step, (None, 0, 0))(key, state, action) for w in (jax_env, modelled)]
    jax.tree.map(np.testing.assert_array_equal, *same)
    starts = {int(jax_env.reset(jax.random.key(i))) for i in range(60)}
    assert starts == set(np.flatnonzero(mdp.start))
    over = slice(27, 36)
    assert (mdp.reward[over] == 0).all() and mdp.ends[over].all()
    assert (mdp.next_state[over] == np.arange(27, 36)[:, None, None]).all()


def forever():
    """State counts the steps; it never ends."""
    return JaxEnv(lambda key: jnp.int32(0), lambda key, s, a: (s + 1, 1.0, jnp.bool_(False)), num_actions=1)


@pytest.mark.parametrize("terminates", [False, True])
def test_the_limit(terminates):
    _, obs, reward, terminated, truncated, valid = rollout(forever(), 2, 12, step_limit=5, limit_terminates=terminates)
    np.testing.assert_array_equal(obs[:, 0], [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0])
    late = np.arange(12) % 6 == 4
    np.testing.assert_array_equal((terminated if terminates else truncated)[:, 1], late)
    assert not (truncated if terminates else terminated).any()
    np.testing.assert_array_equal(valid[:, 0], np.arange(12) % 6 != 5)
    np.testing.assert_array_equal(reward, valid)


def test_the_models_own_limit_counts_unless_another_is_given():
    jax_env = from_mdp(catch_mdp(6, 5)._replace(step_limit=2))
    assert rollout(jax_env, 1, 9)[4].sum() == 3
    assert rollout(jax_env, 1, 9, step_limit=0)[4].sum() == 0


def test_an_end_at_the_limit_is_a_termination():
    *_, terminated, truncated, _ = rollout(catch(6, 5), 4, 30, step_limit=5)
    assert terminated.sum() == 20 and not truncated.any()


def test_other_worlds_change_nothing():
    """A row is a function of the env's key and its actions: with other actions elsewhere it is the same."""
    jax_env = from_mdp(random_mdp())
    begin, env_step = autoreset(jax_env, 3)
    actions = np.random.default_rng(0).integers(0, 2, (200, 3), dtype=np.int32)
    others = actions.copy()
    others[:, [0, 2]] = 1 - others[:, [0, 2]]
    env, _ = begin(jax.random.key(4))
    (_, rows), (_, again) = (jax.lax.scan(env_step, env, jnp.asarray(a)) for a in (actions, others))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:, 1], y[:, 1]), rows, again)
    assert any((x[:, 0] != y[:, 0]).any() for x, y in zip(rows, again, strict=True))


def test_host_and_device_show_the_same_rows():
    jax_env = from_mdp(random_mdp())
    begin, env_step = autoreset(jax_env, 3)
    actions = np.random.default_rng(0).integers(0, 2, (30, 3), dtype=np.int32)
    env, _ = begin(jax.random.key(0))
    _, expected = jax.lax.scan(env_step, env, jnp.asarray(actions))
    step = on_host(env_step, env)
    rows = [step((), action)[1] for action in actions]
    jax.tree.map(np.testing.assert_array_equal, tuple(map(np.stack, zip(*rows, strict=True))), expected)


def test_spec_and_dtypes():
    jax_env = from_mdp(random_mdp())
    spec = jax_env.spec(7)
    assert (spec.num_states, spec.num_actions, spec.num_envs, spec.stack) == (4, 2, 7, 1)
    begin, env_step = autoreset(jax_env, 7)
    env, obs = begin(jax.random.key(0))
    assert (obs.shape, obs.dtype) == (spec.obs.shape, spec.obs.dtype) == ((7,), jnp.int32)
    after, (obs, reward, terminated, truncated, valid) = env_step(env, jnp.zeros(7, jnp.int32))
    assert reward.dtype == jnp.result_type(float) and obs.dtype == jnp.int32
    assert terminated.dtype == truncated.dtype == valid.dtype == bool
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), env)


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="catch"):
        catch(1, 5)
    with pytest.raises(UserError, match="sum to 1"):
        from_mdp(random_mdp()._replace(start=jnp.ones(4)))
    with pytest.raises(UserError, match="num_envs"):
        autoreset(catch(), 0)
