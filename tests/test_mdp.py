"""An env made from a model has the model's distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_envs import random_mdp, rollout

from jaxql.envs.jax import (
    cartpole,
    from_mdp,
    to_mdp,
)
from jaxql.errors import UserError


def assert_drawn_from(counts, probability):
    """Chi-square over all rows at once, at a level of about 1e-4; what has probability 0 was never drawn."""
    assert counts.sum() > 1000 and (counts[probability == 0] == 0).all()
    expected = counts.sum(1, keepdims=True) * probability
    possible = expected > 0
    statistic = np.sum((counts - expected)[possible] ** 2 / expected[possible])
    freedom = possible.sum() - len(counts)
    assert statistic < freedom + 4 * np.sqrt(2 * freedom) + 8


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


@pytest.mark.parametrize("number", [0.0, 0.25, 0.4999999, 0.99999994])
def test_what_has_probability_zero_is_never_drawn(number, monkeypatch):
    """`jax.random.uniform` may be exactly 0, and very nearly 1."""
    monkeypatch.setattr(jax.random, "uniform", lambda key: jnp.asarray(number))
    jax_env = from_mdp(random_mdp()._replace(start=jnp.asarray([0, 0.3, 0.7, 0], float)))
    assert int(jax_env.reset(jax.random.key(0))) in (1, 2)


def test_nonsense_is_refused():
    with pytest.raises(UserError, match="start sums to 4"):
        from_mdp(random_mdp()._replace(start=jnp.ones(4)))
    with pytest.raises(UserError, match="indices"):
        to_mdp(cartpole(), np.ones(1), 0)
