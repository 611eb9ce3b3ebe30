"""End components: sets of states within which some policy can stay for ever."""

import numpy as np

from jaxql.planning.average_reward import relative_value_iteration
from jaxql.types import MDP

NEGLIGIBLE = 1e-6  # a mean reward below so much of the mean |reward| may be rounding


def endless_reward(mdp: MDP) -> int | None:
    """The lowest state of an end component whose best reward a step is above 0, if there is one.

    `mdp` is a concrete model that `check_mdp` returned. Within a component every state can reach every other, so the
    best reward a step is the same from all of them. Where no action costs anything, it is above 0 if any action pays.
    Elsewhere `relative_value_iteration` encloses it.
    """
    component, stays = end_components(mdp)
    probability, reward = np.asarray(mdp.probability, np.float64), np.asarray(mdp.reward, np.float64)
    mean, size = (probability * reward).sum(-1), (probability * np.abs(reward)).sum(-1)
    sign = np.where(np.abs(mean) > NEGLIGIBLE * size, np.sign(mean), 0)
    pays, costs = ((stays & (way * sign > 0)).max(axis=-1) for way in (1, -1))
    for label in np.unique(component[pays]):
        members = np.equal(component, label)
        if not costs[members].any():
            return int(np.argmax(members))
        best = relative_value_iteration(_restricted(mdp, members, stays), max_iterations=100_000)
        if best.gain > best.error_bound:
            return int(np.argmax(members))
    return None


def end_components(mdp: MDP) -> tuple[np.ndarray, np.ndarray]:
    """The maximal end components of a model that `check_mdp` returned: (component [S], stays [S, A]).

    States of the same component share a number. `stays` holds the actions that never end and never leave the component
    of their state. A state in which no action stays is in no component.

    Source: Baier & Katoen (2008), Principles of Model Checking, algorithm 47
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    next_state, ends, possible = np.asarray(mdp.next_state), np.asarray(mdp.ends), np.asarray(mdp.probability) > 0
    states = len(next_state)
    stays = ~(possible & ends).any(-1)
    if mdp.legal is not None:
        stays &= np.asarray(mdp.legal)
    while True:
        state, action, k = np.nonzero(possible & stays[..., None])
        edges = coo_array((np.ones(len(state), np.int8), (state, next_state[state, action, k])), (states, states))
        component = connected_components(edges, connection="strong")[1]
        leaves = (possible & (component[next_state] != component[:, None, None])).any(-1)
        if not (stays & leaves).any():
            return component, stays
        stays = stays & ~leaves


def _restricted(mdp: MDP, members: np.ndarray, stays: np.ndarray) -> MDP:
    """The model of a component alone, with the actions that stay in it."""
    new_index = np.where(members, np.cumsum(members) - 1, 0)
    next_state, probability, reward, ends = (np.asarray(x)[members] for x in mdp[:4])
    start = np.eye(1, len(next_state))[0]
    return MDP(new_index[next_state].astype(np.int32), probability, reward, ends, start, legal=stays[members])
