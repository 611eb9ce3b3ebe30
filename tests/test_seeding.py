"""Episode seeds do not collide, and the actions of current episodes are kept."""

import numpy as np
import pytest

from jaxql.envs.seeding import PURPOSES, EpisodeActions, episode_seed


def test_actions_of_current_episodes_are_kept():
    log, rng = EpisodeActions(2), np.random.default_rng(0)
    everything, start = [], np.zeros(2, int)
    for tick in range(5000):
        everything.append(rng.integers(0, 9, 2))
        log.append(everything[-1])
        ended = rng.random(2) < (0.002 if tick < 4000 else 0.1)
        log.start_episodes(ended)
        start[ended] = tick + 1
        if tick % 500 == 499:
            ticks, actions = log.current()
            np.testing.assert_array_equal(ticks, tick + 1 - start)
            np.testing.assert_array_equal(actions, np.reshape(everything[start.min() :], (-1, 2)))


@pytest.mark.trust(16)
def test_seeds_of_purposes_are_disjoint_and_runs_share_nothing():
    grid = [(env_index, episode) for env_index in range(8) for episode in range(40)]
    seeds = {
        (run, purpose): {episode_seed(run, purpose, *place) for place in grid} for run in (0, 1) for purpose in PURPOSES
    }
    assert all(len(s) == len(grid) for s in seeds.values())
    assert len(set.union(*seeds.values())) == sum(map(len, seeds.values()))
    assert {seed >> 29 for seed in seeds[1, "evaluate"]} == {2}
    assert all(0 <= seed < 2**31 for s in seeds.values() for seed in s)
