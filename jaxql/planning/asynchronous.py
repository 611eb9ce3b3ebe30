"""Asynchronous value iteration: in place, or one state at a time in order of priority."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxql.planning import sweeps
from jaxql.planning.arguments import is_concrete, whole_number
from jaxql.planning.methods import Method, Solution, resume_from_proof, solve, start_at_zero, unchanged
from jaxql.planning.model import check_mdp
from jaxql.planning.policy_solvers import check_discounted
from jaxql.types import MDP, Scalar


def gauss_seidel_value_iteration(
    mdp: MDP,
    discount: Scalar = 0.9,
    tolerance: Scalar | None = None,
    max_iterations: int = 1_000_000,
    *,
    blocks: int | None = None,
    stopping: str = "error",
    initial_values: ArrayLike | None = None,
) -> Solution:
    """Optimal values by value iteration in place: blocks of states, lowest first, each from the newest values.

    `blocks=None` backs up one state after another, as in the textbook: fewest sweeps, but nothing runs in parallel.
    With fewer blocks the states of a block are backed up together; `blocks=1` is `value_iteration`. A sweep still
    contracts by b, and the proof is a synchronous sweep. Promises, arguments and errors are those of `value_iteration`
    below discount 1.

    Source: Puterman (1994), the algorithm of section 6.3.3, https://doi.org/10.1002/9780470316887; its backup: Sutton &
    Barto (2018), equation 4.10, http://incompleteideas.net/book/the-book-2nd.html

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> round(float(gauss_seidel_value_iteration(loop, 0.5).values[0]), 5)
    2.0
    """
    check_discounted(discount)
    mdp = check_mdp(mdp)
    states = len(mdp.start)
    blocks = states if blocks is None else whole_number("blocks", blocks, 1, states, ", the number of states, or None")
    settings = np.zeros(-(-states // blocks), np.int8)  # its length is the size of a block
    return solve(GAUSS_SEIDEL, mdp, discount, tolerance, max_iterations, stopping, settings, initial_values)


def _sweep_in_place(table, block, values, extra):
    size, states = len(block), len(values)

    def back_up(i, new):
        first = jnp.minimum(i * size, states - size)  # the last block may repeat some of the one before
        part = table._replace(
            **{
                name: jax.lax.dynamic_slice_in_dim(getattr(table, name), first, size, axis=-1)
                for name in ("next_state", "weight", "reward_mean")
            }
        )
        return jax.lax.dynamic_update_slice_in_dim(new, sweeps.backup_best(part, new), first, axis=0)

    new = jax.lax.fori_loop(jnp.int32(0), jnp.int32(-(-states // size)), back_up, values)
    worst = jnp.max(jnp.abs(new - values))  # in place, the smallest and largest change bound no more than this
    return new, extra, -worst, worst


GAUSS_SEIDEL = Method(start_at_zero, _sweep_in_place, unchanged, resume_from_proof, 1000)


def prioritised_sweeping(
    mdp: MDP,
    discount: Scalar = 0.9,
    tolerance: Scalar | None = None,
    max_iterations: int = 10_000,
    *,
    stopping: str = "error",
    initial_values: ArrayLike | None = None,
) -> Solution:
    """Optimal values by backups of one state at a time: always the state whose value may change most.

    After a change of V(s) by c, the priority of each predecessor u grows by |c| times the largest weight of s among the
    actions of u. So a priority is at least |(T V)(u) - V(u)|. The largest is found by a scan of [S], not a heap. The
    proof is a synchronous sweep. Promises, arguments and errors are those of `value_iteration` below discount 1.

    `iterations` counts backups; `max_iterations` counts S of them as one. The predecessors of a concrete model are
    listed, in memory [S, largest number of them]. In a traced model they are searched for at every backup, which then
    costs a sweep.

    Source: Sutton & Barto (2018), the algorithm of section 8.4 with the backup of equation 4.10,
    http://incompleteideas.net/book/the-book-2nd.html; Moore & Atkeson (1993), https://doi.org/10.1007/BF00993104, with
    a known model

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> round(float(prioritised_sweeping(loop, 0.5).values[0]), 5)
    2.0
    """
    check_discounted(discount)
    mdp = check_mdp(mdp)
    states = len(mdp.start)
    max_iterations = whole_number("max_iterations", max_iterations, 1)
    minimum = min if is_concrete(max_iterations) else jnp.minimum
    backups = minimum(max_iterations, (2**31 - 2) // states) * states
    settings = _predecessors(mdp) if is_concrete(mdp) else ()
    return solve(PRIORITISED_SWEEPING, mdp, discount, tolerance, backups, stopping, settings, initial_values)


def _predecessors(mdp):
    """Predecessors [S, M] of each state, and the largest probability [S, M] of moving on from them; 0 for padding."""
    probability, ends = np.asarray(mdp.probability, np.float64), np.asarray(mdp.ends)
    states, actions, _ = probability.shape
    probability = np.where(ends, 0, probability / probability.sum(-1, keepdims=True))
    before, action, k = np.nonzero(probability)
    after = np.asarray(mdp.next_state)[before, action, k].astype(np.int64)
    moves, where = np.unique((after * states + before) * actions + action, return_inverse=True)
    chance = np.bincount(where, probability[before, action, k])
    pairs, where = np.unique(moves // actions, return_inverse=True)
    likely = np.zeros(len(pairs))
    np.maximum.at(likely, where, chance)
    after, before = np.divmod(pairs, states)
    counts = np.bincount(after, minlength=states)
    column = np.arange(len(pairs)) - np.repeat(np.cumsum(counts) - counts, counts)
    table, most_likely = np.zeros((states, max(counts.max(), 1)), np.int32), np.zeros((states, max(counts.max(), 1)))
    table[after, column], most_likely[after, column] = before, likely
    return table, most_likely


def _back_up_most_urgent(table, settings, values, priority):
    largest = jnp.max(priority)
    state = jnp.min(jnp.where(priority == largest, jnp.arange(len(values), dtype=jnp.int32), len(values) - 1))
    q = table.reward_mean[:, state] + sweeps.sum_over_successors(
        lambda w, s: w * values[s], table.weight[:, :, state, None], table.next_state[:, :, state, None]
    )[:, 0]  # fmt: skip
    new = jnp.max(q)
    change, priority = jnp.abs(new - values[state]), priority.at[state].set(0)
    if settings:
        predecessors, most_likely = settings
        priority = priority.at[predecessors[state]].add(table.discount * most_likely[state] * change)
    else:
        weight = sweeps.sum_over_successors(lambda w, s: jnp.where(s == state, w, 0), table.weight, table.next_state)
        priority = priority + jnp.max(weight, axis=0) * change
    worst = jnp.max(priority)
    return values.at[state].set(new), priority, -worst, worst


def _exact_priorities(values, priority, proof):
    return values, jnp.abs(proof.values - values)


def _with_exact_priorities(table, initial):
    values, _ = start_at_zero(table, initial)
    return values, jnp.abs(sweeps.backup_best(table, values) - values)


PRIORITISED_SWEEPING = Method(
    _with_exact_priorities,
    _back_up_most_urgent,
    unchanged,
    _exact_priorities,
    2**30,
)
