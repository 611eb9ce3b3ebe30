"""Exact dynamic programming on an `MDP`: operators, optima, values of policies, best returns within a step limit.

The operators keep the dtype they are given. The solvers compute in float64 whatever JAX's default (a planner that
rounds at every sweep cannot say how wrong it is) and round once, on return. Shapes: S states, A actions, K successors.
Arguments are checked where their values are known; under `jit` and `vmap` that is left to the caller.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.errors import UserError
from jaxql.types import MDP, Array


class Solution(NamedTuple):
    """What value iteration found: `values == max(q_values)` and, below discount 1, `policy == argmax(q_values)`."""

    values: Array  # [S]
    q_values: Array  # [S, A]
    policy: Array  # [S] int32 greedy, lowest index on ties; at discount 1 a greedy one that also gets to the end
    iterations: Array  # sweeps made
    residual: Array  # largest change of the last sweep
    converged: Array  # bool: see `value_iteration` for what it promises
    error_bound: Array  # proven bound on max|q_values - Q*| and max|values - V*|; inf where nothing is proven


# ------------------------------------------------------------------------------------------------------------ operators
def action_values(mdp: MDP, values: Array, discount) -> Array:
    """One step ahead: q[s, a] = sum_k p[s, a, k] (r[s, a, k] + discount * (0 if ends[s, a, k] else values[next])).

    Args: `values` [S]; `discount` scalar in [0, 1]. Returns q [S, A]. Source: Sutton & Barto (2018), 4.6.

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[2.0]]], [[[False]]], [1.0])))
    >>> float(action_values(loop, np.ones(1), 0.5)[0, 0])
    2.5
    """
    ahead = jnp.where(mdp.ends, 0, jnp.asarray(values)[mdp.next_state])
    return _tree_sum(mdp.probability * (mdp.reward + discount * ahead))


def bellman_optimality(mdp: MDP, values: Array, discount) -> Array:
    """(T v)(s) = max_a q[s, a], [S] -> [S]: monotone, and in the maximum norm a contraction by `discount`."""
    return jnp.max(action_values(mdp, values, discount), axis=-1)


def bellman_expectation(mdp: MDP, policy: Array, values: Array, discount) -> Array:
    """(T_pi v)(s) = sum_a pi[s, a] q[s, a], [S]; `policy` is [S] of action indices or [S, A] of probabilities."""
    return average(policy, action_values(mdp, values, discount))


def average(policy: Array, q: Array) -> Array:
    """Mean [S] of q [S, A] under a policy: [S] of action indices, or [S, A] of probabilities."""
    policy = jnp.asarray(policy)
    if policy.ndim == 1:
        return jnp.take_along_axis(q, policy[:, None], axis=-1)[:, 0]
    return jnp.sum(jnp.where(policy == 0, 0, policy.astype(q.dtype) * q), axis=-1)


def greedy_policy(q: Array, tie: str = "lowest") -> Array:
    """The greedy policy of q [S, A]: `tie="lowest"` gives [S] int32, `tie="uniform"` [S, A], equal among equals.

    Raises UserError for any other `tie`.

    >>> greedy_policy(np.array([[1.0, 1.0, 0.0]]), tie="uniform").tolist()
    [[0.5, 0.5, 0.0]]
    """
    q = jnp.asarray(q)
    if tie == "lowest":
        return _argmax(q)
    if tie != "uniform":
        raise UserError(f'tie is {tie!r}; it must be "lowest" or "uniform"')
    best = q == jnp.max(q, axis=-1, keepdims=True)
    return best / jnp.sum(best, axis=-1, keepdims=True)


# --------------------------------------------------------------------------------------------------------------- optima
def value_iteration(mdp: MDP, discount=0.9, tolerance=1e-6, max_iterations: int = 1_000_000) -> Solution:
    """Repeats V <- T V from 0 until max|V - V*| <= tolerance is proven, or cannot be.

    Below discount 1, `converged` promises |values - V*| <= tolerance and |q_values - Q*| <= tolerance everywhere. V*
    belongs to the model as it was before its numbers were rounded to their dtype (whole numbers are taken as exact).
    Proof: let b be discount times the largest probability of going on, rho = max|V_n - V_(n-1)|, and d bound the
    rounding of one sweep, that of the data and of float64 arithmetic (see `_noise`). T contracts by b and
    |V_n - T V_(n-1)| <= d, so e = |V_n - V*| <= d + b |V_(n-1) - V*| <= d + b (rho + e): e <= (b rho + d) / (1 - b).
    Rounding the result adds what it adds. Once b rho <= d / 4 more sweeps cannot help: if the bound (returned as
    `error_bound`) is still above `tolerance`, the dtype cannot reach it, and `converged` is False.

    At discount 1 there is no contraction. `converged` then promises that `values` is the value of `policy` (by a linear
    solve, to its round-off; rounded to the dtype within `tolerance`) and that no action improves on it by more than
    float64 round-off e = 64 eps (1 + max|q|): then v >= T_pi v - e for every pi, so no policy that ends with
    probability 1, after N steps on average, is better by more than e N. The solve takes [S, S] memory. A *traced*
    discount of 1 is not checked, and `converged` is False.

    Args: `discount` in [0, 1] and `tolerance` > 0, in the unit of the reward, may be traced or mapped;
      `max_iterations` >= 1.
    Returns: `Solution` in the dtype of the rewards.
    Raises: UserError for a model, discount or tolerance that makes no sense. Source: Puterman (1994), section 6.3.

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> round(float(value_iteration(loop, 0.5).values[0]), 5)
    2.0
    """
    return _optimum(mdp, discount, tolerance, max_iterations, of_states=True)


def q_iteration(mdp: MDP, discount=0.9, tolerance=1e-6, max_iterations: int = 1_000_000) -> Solution:
    """`value_iteration` on action values, Q <- sum p (r + discount max Q): the residual is the largest change of any q.

    Arguments, promises and errors are those of `value_iteration`, and the sweeps too, but it may take more to stop.

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> round(float(q_iteration(loop, 0.5).q_values[0, 0]), 5)
    2.0
    """
    return _optimum(mdp, discount, tolerance, max_iterations, of_states=False)


def _optimum(mdp, discount, tolerance, max_iterations, of_states):
    check(mdp)
    _check_discount(discount)
    if _known(tolerance) and not 0 < tolerance < math.inf:
        raise UserError(f"tolerance is {tolerance}; it must be finite and above 0, such as 1e-6")
    if _known(max_iterations) and max_iterations < 1:
        raise UserError(f"max_iterations is {max_iterations}; it must be at least 1")
    dtype = _dtype(mdp)
    with jax.enable_x64(True):
        exact = type(discount) in (int, float)  # Python's are float64 already; an array's was rounded to its dtype
        options = dict(of_states=of_states, undiscounted=_is_one(discount), dtype=dtype, exact=exact)
        solution = _solve(_double(mdp), _double(discount), _double(tolerance), max_iterations, **options)
        return _round(solution, dtype)


class _Sweeps(NamedTuple):
    q: Array  # [S, A]
    policy: Array  # [S] greedy; an action stays until another is better, so among equals it is one that got ahead
    iterations: Array
    residual: Array
    bound: Array
    floor: Array  # bool: the residual is below the rounding


@functools.partial(jax.jit, static_argnames=("of_states", "undiscounted", "dtype", "exact"))
def _solve(mdp, discount, tolerance, max_iterations, *, of_states, undiscounted, dtype, exact) -> Solution:
    slack = jnp.abs(_tree_sum(mdp.probability) - 1)
    mdp = _normalised(mdp)
    nothing, unknown = jnp.zeros(slack.shape, jnp.float64), jnp.float64(jnp.inf)
    start = _Sweeps(nothing, jnp.zeros(len(nothing), jnp.int32), jnp.int32(0), unknown, unknown, jnp.bool_(False))

    unit = jnp.finfo(jnp.float64 if undiscounted else dtype).eps / 2
    noise = functools.partial(_noise, mdp, slack, discount, unit, unit * (not exact))
    sweep = functools.partial(_sweep, mdp, discount, of_states, noise)

    def until(done, sweeps):
        def unfinished(s):
            return ~(done(s) | s.floor | (s.iterations >= max_iterations))

        return jax.lax.while_loop(unfinished, sweep, sweep(sweeps))

    if undiscounted:
        return _undiscounted(mdp, tolerance, max_iterations, until, start, dtype)
    sweeps = until(lambda s: s.bound + _rounding(s.q, dtype) <= tolerance, start)
    bound = sweeps.bound + _rounding(sweeps.q, dtype)
    return Solution(
        values=jnp.max(sweeps.q, axis=-1),
        q_values=sweeps.q,
        policy=_argmax(_rounded(sweeps.q, dtype)),
        iterations=sweeps.iterations,
        residual=sweeps.residual,
        converged=bound <= tolerance,
        error_bound=bound,
    )


def _sweep(mdp, discount, of_states, noise, sweeps: _Sweeps) -> _Sweeps:
    """One Bellman backup of everything, and what it proves of float64 values."""
    values = jnp.max(sweeps.q, axis=-1)
    q = action_values(mdp, values, discount)
    best = jnp.max(q, axis=-1)
    residual = jnp.max(jnp.abs(best - values if of_states else q - sweeps.q))
    contraction = discount * jnp.max(_tree_sum(jnp.where(mdp.ends, 0, mdp.probability)))
    rounding = noise(values, q)
    return _Sweeps(
        q=q,
        policy=jnp.where(average(sweeps.policy, q) < best, _argmax(q), sweeps.policy),
        iterations=sweeps.iterations + 1,
        residual=residual,
        bound=jnp.where(contraction < 1, (contraction * residual + rounding) / (1 - contraction), jnp.inf),
        floor=contraction * residual <= rounding / 4,
    )


def _noise(mdp, slack, discount, unit, discount_unit, values, q):
    """How far a backup of `values` may be off the exact model's, the numbers of which were rounded by `unit`.

    Rewards, unless whole, and discount: unit * sum p (|r| + discount |v|). Probabilities, divided by their sum: unit *
    the mean absolute deviation of what they weigh; undivided: `slack`, by which they miss 1. Arithmetic: log2(K) sums.
    """
    ahead = discount * jnp.where(mdp.ends, 0, values[mdp.next_state])
    deviation = unit * _tree_sum(mdp.probability * jnp.abs(mdp.reward + ahead - q[..., None]))
    broken = jnp.where(mdp.reward == jnp.round(mdp.reward), 0, jnp.abs(mdp.reward))
    inexact = unit * broken + discount_unit * jnp.abs(ahead)
    operations = 6 + 2 * math.ceil(math.log2(mdp.probability.shape[-1]))  # of the backup, and of the probabilities' sum
    factor = slack + operations * jnp.finfo(jnp.float64).eps / 2
    size = jnp.abs(mdp.reward) + jnp.abs(ahead)
    return jnp.max(deviation + _tree_sum(mdp.probability * (inexact + factor[..., None] * size)))


def _undiscounted(mdp, tolerance, max_iterations, until, start, dtype) -> Solution:
    """Sweeps until the policy so far satisfies Bellman's equation; each round asks for ten times less change."""

    def attempt(carry):
        sweeps, threshold, _, _ = carry
        sweeps = until(lambda s: s.residual <= threshold, sweeps)
        values = _policy_values(mdp, sweeps.policy, jnp.float64(1))
        q = action_values(mdp, values, 1.0)
        noise = 64 * jnp.finfo(jnp.float64).eps * (1 + jnp.max(jnp.abs(q)))
        proven = jnp.max(jnp.abs(jnp.max(q, axis=-1) - values)) <= noise  # False where a value is NaN
        return sweeps, threshold / 10, proven, q

    def unproven(carry):
        sweeps, _, proven, _ = carry
        return ~(proven | sweeps.floor | (sweeps.iterations >= max_iterations))

    sweeps, _, proven, q = jax.lax.while_loop(unproven, attempt, (start, tolerance, jnp.bool_(False), start.q))
    q = jnp.where(proven, q, sweeps.q)
    return Solution(
        values=jnp.max(q, axis=-1),
        q_values=q,
        policy=sweeps.policy,
        iterations=sweeps.iterations,
        residual=sweeps.residual,
        converged=proven & (_rounding(q, dtype) <= tolerance),
        error_bound=jnp.float64(jnp.inf),
    )


# ------------------------------------------------------------------------------------------------------------- policies
def policy_evaluation(mdp: MDP, policy: Array, discount) -> Array:
    """Values [S] of a policy: the exact solution of v = T_pi v, by a linear solve of [S, S] in float64.

    At discount 1 the value is the expected total reward: 0 where nothing is earned ever after, NaN where with positive
    probability the policy goes round for ever and its rewards do not stop.

    Args: `policy` [S] of action indices or [S, A] of probabilities; `discount` in [0, 1].
    Raises: UserError for a model, policy or discount that makes no sense. Source: Sutton & Barto (2018), section 4.1.

    >>> loop = MDP(*map(np.asarray, ([[[0]]], [[[1.0]]], [[[1.0]]], [[[False]]], [1.0])))
    >>> policy_evaluation(loop, np.array([0]), 0.75).tolist()
    [4.0]
    """
    check(mdp)
    _check_discount(discount)
    _check_policy(mdp, policy)
    dtype = _dtype(mdp)
    with jax.enable_x64(True):
        return _round(_evaluate(_normalised(_double(mdp)), _double_policy(policy), _double(discount)), dtype)


def _policy_values(mdp, policy, discount):
    states = jnp.arange(mdp.probability.shape[0], dtype=jnp.int32)
    goes_on = jnp.where(mdp.ends, 0, mdp.probability)
    weight = goes_on * _probabilities(policy, goes_on.shape[1])[..., None]
    matrix = jnp.zeros((len(states), len(states))).at[states[:, None, None], mdp.next_state].add(weight)
    reward = average(policy, _tree_sum(mdp.probability * mdp.reward))

    def may_reach(goal):
        def back_one_step(_, reached):
            return reached | jnp.any((matrix > 0) & reached[None, :], axis=1)

        return jax.lax.fori_loop(np.int32(0), np.int32(len(states)), back_one_step, goal)

    stirs = average(policy, _tree_sum(mdp.probability * (mdp.reward != 0))) > 0
    quiet = ~may_reach(stirs)
    ending = average(policy, _tree_sum(jnp.where(mdp.ends, mdp.probability, 0))) > 0
    endless = ~may_reach(ending | quiet)
    settled = (discount == 1) & (quiet | endless)  # their rows of I - P would be singular
    system = jnp.eye(len(states)) - jnp.where(settled[:, None], 0, discount * matrix)
    values = jnp.linalg.solve(system, jnp.where(settled, 0, reward))
    return jnp.where((discount == 1) & (may_reach(endless)), jnp.nan, values)


_evaluate = jax.jit(_policy_values)


def start_returns(mdp: MDP, policy: Array, discount=1.0, step_limit: Any = "mdp") -> Array:
    """Expected return [S] of an episode that starts in each state, exactly: the backward recursion over the step limit.

    Args: `policy` [S] of action indices or [S, A] of probabilities; `step_limit` "mdp" (the model's own), an int >= 0,
    or None, which means none: then `policy_evaluation` answers. Raises: UserError as there.
    """
    _check_discount(discount)
    limit = _limit(mdp, step_limit)
    if limit is None:
        return policy_evaluation(mdp, policy, discount)
    check(mdp)
    _check_policy(mdp, policy)
    return _backward(mdp, policy, discount, limit)


def expected_return(mdp: MDP, policy: Array, discount=1.0, step_limit: Any = "mdp") -> Array:
    """Mean of `start_returns` over the start distribution, a scalar: what infinitely many episodes would average."""
    return _from_start(mdp, start_returns(mdp, policy, discount, step_limit))


def success_probability(mdp: MDP, policy: Array, step_limit: Any = "mdp") -> Array:
    """Probability that an episode succeeds: earns the reward 1 that ends it, where all else earns 0 (FrozenLake).

    It is then the expected undiscounted return. Raises: UserError if the model pays anything else, or pays and goes on.
    """
    if all(_known(x) for x in mdp):
        reward, ends = np.asarray(mdp.reward), np.asarray(mdp.ends)
        if np.any((np.asarray(mdp.probability) > 0) & (reward != 0) & ~((reward == 1) & ends)):
            raise UserError("success is a reward of 1 at the end, and this model pays otherwise; use expected_return")
    return expected_return(mdp, policy, 1.0, step_limit)


def best_return(mdp: MDP, discount=1.0, step_limit: Any = "mdp") -> Array:
    """The best expected return that any policy can have from the start, a scalar; it may look at the clock.

    Backward induction over `step_limit` ("mdp": the model's own), or without one `value_iteration`.
    Raises: UserError as `value_iteration`, and if at discount 1 without a step limit no optimum could be proven.
    """
    check(mdp)
    _check_discount(discount)
    limit = _limit(mdp, step_limit)
    if limit is not None:
        return _from_start(mdp, _backward(mdp, None, discount, limit))
    undiscounted = _is_one(discount)
    solution = value_iteration(mdp, discount, 1.0 if undiscounted else 1e-300)  # as close as the dtype gets
    if undiscounted and _known(solution.converged) and not solution.converged:
        raise UserError("no best total reward could be proven at discount 1; give a step_limit, or a discount below 1")
    return _from_start(mdp, solution.values)


def finite_horizon(mdp: MDP, horizon: int, discount=1.0) -> Array:
    """Optimal values [horizon + 1, S] with 0, 1, ..., horizon steps to go: v[0] = 0, v[h + 1] = T v[h].

    With h + 1 steps to go the best action is greedy in `action_values(mdp, v[h], discount)`: it depends on the clock.
    Raises: UserError for a model, horizon or discount that makes no sense. Source: Puterman (1994), section 4.5.
    """
    check(mdp)
    _check_discount(discount)
    horizon, dtype = _limit(mdp, horizon), _dtype(mdp)
    with jax.enable_x64(True):
        model, gamma = _normalised(_double(mdp)), _double(discount)
        first = jnp.zeros(len(mdp.start), jnp.float64)

        def step(values, _):
            values = bellman_optimality(model, values, gamma)
            return values, values

        later = jax.lax.scan(step, first, None, horizon)[1]
        return _round(jnp.concatenate([first[None], later]), dtype)


def _backward(mdp, policy, discount, steps):
    dtype = _dtype(mdp)
    with jax.enable_x64(True):
        policy = None if policy is None else _double_policy(policy)
        return _round(_recursion(_normalised(_double(mdp)), policy, _double(discount), steps), dtype)


@jax.jit
def _recursion(mdp, policy, discount, steps):
    def step(_, values):
        q = action_values(mdp, values, discount)
        return jnp.max(q, axis=-1) if policy is None else average(policy, q)

    return jax.lax.fori_loop(np.int32(0), jnp.int32(steps), step, jnp.zeros(mdp.probability.shape[0], jnp.float64))


def _from_start(mdp, values):
    dtype = _dtype(mdp)
    with jax.enable_x64(True):
        start = _double(mdp.start)
        values = jnp.where(start > 0, _double(values), 0)  # where no episode starts, not even NaN counts
        return _round(jnp.sum(start * values) / jnp.sum(start), dtype)


# -------------------------------------------------------------------------------------------------------------- numbers
def _tree_sum(x):
    """Sum over the last axis by halves: the error grows with log2(K), where one after another it may grow with K."""
    while x.shape[-1] > 1:
        half = x.shape[-1] // 2
        x = jnp.concatenate([x[..., :half] + x[..., half : 2 * half], x[..., 2 * half :]], axis=-1)
    return x[..., 0]


def _argmax(q):
    """Lowest index of the largest, int32 throughout: an outer jit without float64 cannot lower jnp's argmax of it."""
    action = jax.lax.broadcasted_iota(jnp.int32, q.shape, q.ndim - 1)
    best = q == jnp.max(q, axis=-1, keepdims=True)
    return jnp.min(jnp.where(best, action, jnp.int32(q.shape[-1] - 1)), axis=-1)


def _rounded(x, dtype):
    """x as `dtype` will hold it, still float64; two conversions in a row XLA may drop."""
    return x if dtype == jnp.float64 else jax.lax.reduce_precision(x, jnp.finfo(dtype).nexp, jnp.finfo(dtype).nmant)


def _rounding(x, dtype):
    return jnp.max(jnp.abs(x - _rounded(x, dtype)))


def _dtype(mdp):
    """The dtype of the answer, as it is outside float64 mode."""
    return jnp.result_type(0.0, mdp.reward)


def _double(x):
    """Floats of a pytree as float64; an MDP's bools and indices, and its step limit, stay."""
    if isinstance(x, MDP):
        floats = {name: _double(getattr(x, name)) for name in ("probability", "reward", "start")}
        return x._replace(next_state=jnp.asarray(x.next_state), ends=jnp.asarray(x.ends), step_limit=None, **floats)
    return jax.lax.convert_element_type(x, np.float64)


def _double_policy(policy):
    policy = jnp.asarray(policy)
    return policy if policy.ndim == 1 else _double(policy) / jnp.sum(_double(policy), axis=-1, keepdims=True)


def _probabilities(policy, num_actions):
    return policy if policy.ndim == 2 else jax.nn.one_hot(policy, num_actions, dtype=jnp.float64)


def _normalised(mdp):
    """Thirds in float32 add up to 1.00000003, and undiscounted that compounds."""
    return mdp._replace(probability=mdp.probability / _tree_sum(mdp.probability)[..., None])


def _round(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


# --------------------------------------------------------------------------------------------------------------- checks
def _known(x) -> bool:
    return not isinstance(x, jax.core.Tracer)


def _is_one(discount) -> bool:
    return _known(discount) and float(discount) == 1


def check(mdp: MDP) -> None:
    """Raises UserError, naming the state and action, unless `mdp` is a model; what is traced is taken on trust.

    Probabilities must not be negative, and sum to 1 within 1e-5 (solvers divide by the sum); rewards must be finite;
    successors, those with probability 0 too, must be states.
    """
    shape = np.shape(mdp.probability)
    if len(shape) != 3 or 0 in shape or any(np.shape(x) != shape for x in mdp[:4]):
        raise UserError(f"an MDP needs four arrays [S, A, K]; they have {[np.shape(x) for x in mdp[:4]]}")
    if np.shape(mdp.start) != shape[:1]:
        raise UserError(f"start has shape {np.shape(mdp.start)}; it must be [{shape[0]}], a probability for each state")
    if not all(_known(x) for x in mdp[:5]):
        return
    probability, next_state, start = (np.asarray(x) for x in (mdp.probability, mdp.next_state, mdp.start))
    total = probability.sum(axis=-1, dtype=np.float64)
    for bad, what in (
        ((probability < 0).any(-1), "has a negative probability"),
        (~(np.abs(total - 1) <= 1e-5), "has probabilities that do not sum to 1"),
        (((next_state < 0) | (next_state >= shape[0])).any(-1), f"leads to a state outside 0..{shape[0] - 1}"),
        (~np.isfinite(np.asarray(mdp.reward)).all(-1), "has a reward that is not finite"),
    ):
        if bad.any():
            state, action = (int(x) for x in np.argwhere(bad)[0])
            raise UserError(f"state {state}, action {action} {what}: {_row(mdp, state, action)}")
    if (start < 0).any() or not abs(start.sum(dtype=np.float64) - 1) <= 1e-5:
        raise UserError(f"start sums to {start.sum(dtype=np.float64)}; it must be a distribution over the states")


def _row(mdp, state, action) -> str:
    names = ("probability", "next_state", "reward")
    return ", ".join(f"{name} {np.asarray(getattr(mdp, name))[state, action][:8].tolist()}" for name in names)


def _check_discount(discount):
    if np.ndim(discount) != 0:
        raise UserError(f"discount has shape {np.shape(discount)}; it must be one number; for several, use jax.vmap")
    if _known(discount) and not 0 <= float(discount) <= 1:
        raise UserError(f"discount is {float(discount)}; it must lie in [0, 1]")


def _check_policy(mdp, policy):
    shape = np.shape(mdp.probability)[:2]
    if np.shape(policy) not in (shape, shape[:1]):
        raise UserError(f"policy has shape {np.shape(policy)}; it must be {shape[:1]}, actions, or {shape}, their odds")
    if not _known(policy):
        return
    policy = np.asarray(policy)
    if policy.ndim == 1 and (policy.dtype.kind not in "iu" or (policy < 0).any() or (policy >= shape[1]).any()):
        raise UserError(f"policy [S] must hold actions, whole numbers in 0..{shape[1] - 1}; probabilities are [S, A]")
    off = np.abs(policy.sum(axis=-1, dtype=np.float64) - 1)
    if policy.ndim == 2 and not ((policy >= 0).all() and (off <= 1e-5).all()):
        state = int(np.argmax((policy < 0).any(axis=-1) | ~(off <= 1e-5)))
        raise UserError(f"policy has {policy[state].tolist()} in state {state}; probabilities must sum to 1")


def _limit(mdp, step_limit):
    limit = mdp.step_limit if isinstance(step_limit, str) and step_limit == "mdp" else step_limit
    if limit is None or not _known(limit):
        return limit
    if isinstance(limit, str | bool) or np.ndim(limit) or int(limit) != limit or limit < 0:
        raise UserError(f'step_limit is {limit!r}; it must be a whole number from 0 on, None, or "mdp"')
    return int(limit)


# ------------------------------------------------------------------------------------------------------------ Gymnasium
def from_gymnasium(env_or_id: Any, **env_kwargs: Any) -> MDP:
    """The model inside a Gymnasium toy-text env: FrozenLake, CliffWalking, Taxi, or one with a like `.unwrapped.P`.

    P[s][a] is a list of (probability, next state, reward, terminated). Equal outcomes are merged; K is the largest
    number of different ones; the rest is padded with probability 0 and next_state s. The start distribution is the
    env's; the step limit is its spec's. Wrappers are looked through: what they change is not in the model.

    Args: an id, with `env_kwargs` for `gymnasium.make`, or an env, which is left open.
    Raises: UserError if there is no such env, it has no P, or P is not its whole truth (Taxi's fickle passenger).

    >>> lake = from_gymnasium("FrozenLake-v1")
    >>> lake.probability.shape, lake.step_limit
    ((16, 4, 3), 100)
    """
    import gymnasium  # only here: planning needs no emulator

    if isinstance(env_or_id, str):
        try:
            env = gymnasium.make(env_or_id, **env_kwargs)
        except (gymnasium.error.Error, TypeError) as error:
            raise UserError(f"{env_or_id}: {' '.join(str(error).split())}") from error
        try:
            return from_gymnasium(env)
        finally:
            env.close()
    if env_kwargs:
        raise UserError(f"{', '.join(env_kwargs)}: settings go with an id; this env is already made")
    env = getattr(env_or_id, "unwrapped", env_or_id)
    name = env.spec.id if getattr(env, "spec", None) else type(env).__name__
    if not hasattr(env, "P"):
        raise UserError(f"{name} has no transition table (env.unwrapped.P); FrozenLake, CliffWalking and Taxi have one")
    if getattr(env, "fickle_passenger", False):
        raise UserError(f"{name} with fickle_passenger=True is not the process in its P; make it without")
    limit = env_or_id.spec.max_episode_steps if getattr(env_or_id, "spec", None) else None
    return _from_table(env.P, _start(env, name), None if limit is None or limit < 0 else int(limit))


def _start(env, name):
    if hasattr(env, "initial_state_distrib"):
        start = np.asarray(env.initial_state_distrib, np.float64)
        return start / start.sum()
    if hasattr(env, "start_state_index"):
        return np.eye(len(env.P))[int(env.start_state_index)]
    raise UserError(f"{name} does not say where it starts: no initial_state_distrib, no start_state_index")


def _from_table(table, start, step_limit) -> MDP:
    num_states, num_actions = len(table), len(table[0])
    merged = np.empty((num_states, num_actions), object)
    for state, action in np.ndindex(merged.shape):
        merged[state, action] = outcomes = {}
        for probability, successor, reward, ended in table[state][action]:
            key = int(successor), float(reward), bool(ended)
            outcomes[key] = outcomes.get(key, 0.0) + float(probability)
    shape = (*merged.shape, max(len(outcomes) for outcomes in merged.flat))
    next_state = np.broadcast_to(np.arange(num_states, dtype=np.int32)[:, None, None], shape).copy()
    probability, reward, ends = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    for pair in np.ndindex(merged.shape):
        for k, (outcome, chance) in enumerate(merged[pair].items()):
            next_state[*pair, k], reward[*pair, k], ends[*pair, k] = outcome
            probability[*pair, k] = chance
    probability, reward, start = (jnp.asarray(x, jnp.result_type(float)) for x in (probability, reward, start))
    return MDP(jnp.asarray(next_state), probability, reward, jnp.asarray(ends), start, step_limit)
