"""Losses by their equations, a row at a time in float64 NumPy, and batches that hold everything a batch may hold."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxql import losses
from jaxql.losses import backups, heads
from jaxql.types import FullQuantiles, Transition

STATES, ACTIONS, OUTPUTS, ROWS = 6, 3, 4, 40
LOW, HIGH = -2.0, 2.0
ATOMS, EDGES = np.linspace(LOW, HIGH, OUTPUTS), np.linspace(LOW, HIGH, OUTPUTS + 1)
SIGMA, KAPPA = 0.8, 0.7
TEMPERATURE, ALPHA, FLOOR, EPSILON, SHARE, GAP = 0.4, 0.7, -0.5, 0.2, 0.3, 0.6

BACKUPS = {
    "greedy": backups.greedy,
    "double": backups.double,
    "clipped_double": backups.clipped_double,
    "expected_sarsa": backups.expected_sarsa(EPSILON),
    "persistent": backups.persistent(SHARE),
    "advantage": backups.advantage(GAP),
    "soft": backups.soft(TEMPERATURE),
    "munchausen": backups.munchausen(TEMPERATURE, ALPHA, FLOOR),
}
HEADS = {
    "huber": heads.scalar(),
    "l2": heads.scalar(lambda error: 0.5 * error**2),
    "categorical": heads.categorical(LOW, HIGH, OUTPUTS),
    "quantile": heads.quantile(OUTPUTS, kappa=KAPPA),
    "implicit_quantile": heads.implicit_quantile(OUTPUTS, kappa=KAPPA),
    "full_quantile": heads.full_quantile(OUTPUTS, kappa=KAPPA),
    "hl_gauss": heads.hl_gauss(LOW, HIGH, OUTPUTS, sigma=SIGMA),
    "two_hot": heads.two_hot(LOW, HIGH, OUTPUTS),
}


def table(head, seed):
    """Random float64 parameters: what a head's network says of each state."""
    rng = np.random.default_rng(seed)
    if head in ("huber", "l2"):
        return {"values": rng.normal(size=(STATES, ACTIONS))}
    params = {"values": rng.normal(size=(STATES, ACTIONS, OUTPUTS))}
    if head == "implicit_quantile":
        params["taus"] = rng.random((STATES, OUTPUTS))
    if head == "full_quantile":
        params["logits"] = rng.normal(size=(STATES, OUTPUTS))
        params["at_edges"] = rng.normal(size=(STATES, ACTIONS, OUTPUTS - 1))
    return params


def look_up(params, obs, memory=(), key=None):
    """The network of a table. Of the state STATES it says NaN, of the next one infinity, of the next minus infinity."""
    obs = obs["observation"] if isinstance(obs, dict) else obs

    def rows(x):
        strange = jnp.array([jnp.nan, jnp.inf, -jnp.inf], x.dtype)
        strange = jnp.broadcast_to(strange.reshape(3, *[1] * (x.ndim - 1)), (3, *x.shape[1:]))
        return jnp.concatenate([x, strange])[obs]

    values = rows(params["values"])
    if "logits" in params:
        inner = jnp.cumsum(jax.nn.softmax(params["logits"]), axis=-1)[:, :-1]
        edges = jnp.pad(inner, ((0, 0), (1, 0)))
        edges = jnp.concatenate([edges, jnp.ones_like(edges[:, :1])], axis=-1)
        return FullQuantiles(values, rows(edges), rows(params["at_edges"])), memory
    if "taus" in params:
        return (values, rows(params["taus"])), memory
    return values, memory


def masks(seed):
    """[ROWS, ACTIONS], with a legal action in each row."""
    rng = np.random.default_rng(seed)
    mask = rng.random((ROWS, ACTIONS)) < 0.6
    mask[np.arange(ROWS), rng.integers(ACTIONS, size=ROWS)] = True
    return mask


def batch(seed, masked=False, strange=True):
    """Rows with n-step discounts, endings, and weights of which some are 0.

    Args:
      masked: observations have action masks; the action taken is legal.
      strange: rows of weight 0 hold NaN, infinity and invalid actions; the next_obs of ended rows makes a network say
        NaN or infinity, and so do both observations of rows of weight 0.
    """
    rng = np.random.default_rng(seed)
    obs, next_obs = rng.integers(STATES, size=(2, ROWS))
    action, reward = rng.integers(ACTIONS, size=ROWS), rng.normal(size=ROWS)
    discount, weight = rng.choice([0, 0.9, 0.9**3], ROWS), rng.choice([0, 0.5, 1], ROWS)
    legal, legal_next = masks(seed + 1), masks(seed + 2)
    legal[np.arange(ROWS), action] = True
    if strange:
        idle, ended = weight == 0, discount == 0
        next_obs = np.where(ended | idle, rng.choice([STATES, STATES + 1, STATES + 2], ROWS), next_obs)
        obs = np.where(idle, rng.choice([STATES, STATES + 1, STATES + 2], ROWS), obs)
        action = np.where(idle, rng.choice([-7, 99], ROWS), action)
        reward = np.where(idle, rng.choice([np.nan, np.inf, -np.inf], ROWS), reward)
        discount = np.where(idle, rng.choice([np.nan, np.inf, 0.5], ROWS), discount)
        legal_next[ended] &= rng.random(np.sum(ended))[:, None] < 0.5  # there may be no legal action after an end
    if masked:
        obs, next_obs = ({"observation": o, "action_mask": m} for o, m in ((obs, legal), (next_obs, legal_next)))
    return jax.tree.map(jnp.asarray, Transition(obs, action, reward, discount, next_obs, weight))


def to_jax(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, float), tree)


# Heads: an output of one action is a dictionary of what the table says of it, with the row's fractions.


def output_of(params, state, action):
    """What a float64 table says of an action."""
    said = {"values": params["values"][state, action]}
    if "taus" in params:
        said["taus"] = params["taus"][state]
    if "logits" in params:
        said["logits"], said["at_edges"] = params["logits"][state], params["at_edges"][state, action]
    return said


def softmax(x):
    odds = [math.exp(v - max(x)) for v in x]
    return [o / sum(odds) for o in odds]


def edges_of(logits):
    edges = [0.0]
    for p in softmax(logits):
        edges.append(edges[-1] + p)
    return edges


CENTERS = [(low + high) / 2 for low, high in zip(EDGES[:-1], EDGES[1:], strict=True)]


def value_of(head, said):
    """The expected return of an output."""
    values = said["values"]
    if head in ("huber", "l2"):
        return float(values)
    if head in ("categorical", "two_hot"):
        return sum(p * z for p, z in zip(softmax(values), ATOMS, strict=True))
    if head == "hl_gauss":
        return sum(p * z for p, z in zip(softmax(values), CENTERS, strict=True))
    if head == "full_quantile":
        edges = edges_of(said["logits"])
        return sum((high - low) * v for low, high, v in zip(edges[:-1], edges[1:], values, strict=True))
    return sum(values) / len(values)


def spread(x, probability, target):
    """Adds a probability at x to the two atoms around it, in proportion to how near they are."""
    x = min(max(x, LOW), HIGH)
    step = (HIGH - LOW) / (OUTPUTS - 1)
    place = (x - LOW) / step
    low = min(int(math.floor(place)), OUTPUTS - 2)
    target[low] += probability * (low + 1 - place)
    target[low + 1] += probability * (place - low)


def target_of(head, nexts, reward, discount):
    """What a head learns from; `nexts` are (probability, shift, output) of each next action that may be taken."""
    if head == "categorical":
        target = [0.0] * OUTPUTS
        for probability, shift, said in nexts or [(1.0, 0.0, {"values": np.zeros(OUTPUTS)})]:
            for p, z in zip(softmax(said["values"]), ATOMS, strict=True):
                spread(reward + discount * (z + shift), probability * p, target)
        return target
    if "quantile" in head:
        target = [reward] * OUTPUTS
        for probability, shift, said in nexts:
            for j in range(OUTPUTS):
                target[j] += discount * probability * (said["values"][j] + shift)
        return target
    expected = reward + discount * sum(p * (value_of(head, said) + shift) for p, shift, said in nexts)
    if head == "two_hot":
        target = [0.0] * OUTPUTS
        spread(expected, 1.0, target)
        return target
    if head == "hl_gauss":
        expected = min(max(expected, LOW), HIGH)
        below = [0.5 * (1 + math.erf((edge - expected) / (SIGMA * math.sqrt(2)))) for edge in EDGES]
        return [(b - a) / (below[-1] - below[0]) for a, b in zip(below[:-1], below[1:], strict=True)]
    return expected


def loss_of(head, said, target, fixed=None):
    """The loss of an output; `fixed` is the output whose values the loss of proposed fractions holds still."""
    values = said["values"]
    if head == "l2":
        return 0.5 * (target - values) ** 2
    if head == "huber":
        error = abs(target - values)
        return 0.5 * error**2 if error <= 1 else error - 0.5
    if "quantile" not in head:
        return -sum(p * math.log(q) for p, q in zip(target, softmax(values), strict=True))
    if head == "quantile":
        taus = [(2 * i + 1) / (2 * OUTPUTS) for i in range(OUTPUTS)]
    elif head == "implicit_quantile":
        taus = said["taus"]
    else:  # the fractions do not move with the quantiles' loss
        edges = edges_of((fixed or said)["logits"])
        taus = [(low + high) / 2 for low, high in zip(edges[:-1], edges[1:], strict=True)]
    total = 0.0
    for tau, value in zip(taus, values, strict=True):
        for goal in target:
            error = goal - value
            huber = 0.5 * error**2 if abs(error) <= KAPPA else KAPPA * (abs(error) - 0.5 * KAPPA)
            total += abs(tau - (error < 0)) * huber / KAPPA / len(target)
    if head == "full_quantile":
        still, edges = fixed or said, edges_of(said["logits"])
        for i in range(1, OUTPUTS):
            slope = 2 * still["at_edges"][i - 1] - still["values"][i] - still["values"][i - 1]
            total += slope * edges[i]
    return total


def slope_of(head, said, target, step=1e-6):
    """The gradient of `loss_of`, by differences: a dictionary like the output."""
    gradient = {}
    for name, x in said.items():
        x = np.asarray(x, np.float64)
        gradient[name] = np.zeros_like(x)
        if name == "taus" or name == "at_edges":
            continue  # neither is learned by this loss in a table whose fractions are data
        for place in np.ndindex(x.shape):
            sides = []
            for sign in (1, -1):
                moved = x.copy()
                moved[place] += sign * step
                sides.append(loss_of(head, said | {name: moved}, target, fixed=said))
            gradient[name][place] = (sides[0] - sides[1]) / (2 * step)
    return gradient


# Backups: (probability, shift) of each next action, and the bonus.


def log_softmax_of(values, action, temperature):
    """temperature * log of the softmax policy's probability of an action, among legal ones {action: value}."""
    top = max(values.values())
    return (
        values[action] - top - temperature * math.log(sum(math.exp((v - top) / temperature) for v in values.values()))
    )


def best(values):
    return max(values, key=lambda action: (values[action], -action))


def answer_of(backup, action, now, following, online, second):
    """({next action: (probability, shift)}, bonus); the rest are {legal action: value} of the networks."""
    bonus = 0.0
    if backup == "advantage":
        bonus = -GAP * (max(now.values()) - now[action])
    if backup == "munchausen":
        bonus = ALPHA * min(max(log_softmax_of(now, action, TEMPERATURE), FLOOR), 0.0)
    if not following:
        return {}, bonus
    if backup in ("greedy", "advantage"):
        return {best(following): (1.0, 0.0)}, bonus
    if backup == "double":
        return {best(online): (1.0, 0.0)}, bonus
    if backup == "clipped_double":
        chosen = best(online)
        return {chosen: (1.0, min(following[chosen], second[chosen]) - following[chosen])}, bonus
    if backup == "expected_sarsa":
        even = {b: EPSILON / len(following) for b in following}
        even[best(following)] += 1 - EPSILON
        return {b: (p, 0.0) for b, p in even.items()}, bonus
    if backup == "persistent":
        share = SHARE if action in following else 0.0
        policy = dict.fromkeys(following, 0.0)
        policy[best(following)] += 1 - share
        if share:
            policy[action] += share
        return {b: (p, 0.0) for b, p in policy.items()}, bonus
    log_policy = {b: log_softmax_of(following, b, TEMPERATURE) for b in following}
    return {b: (math.exp(p / TEMPERATURE), -p) for b, p in log_policy.items()}, bonus


class Slow(NamedTuple):
    """What `slow_loss` returns: a q_loss, and its gradient."""

    loss: float
    td_errors: np.ndarray
    q_values: np.ndarray  # NaN in rows of weight 0, of which nothing is promised
    priorities: np.ndarray
    gradient: dict


def slow_loss(head, backup, online, target, second, rows, mask=None):
    """The loss of a batch from float64 tables, row by row."""
    rows = jax.tree.map(np.asarray, rows)
    everything = np.ones((ROWS, ACTIONS), bool)
    legal = legal_next = everything
    if isinstance(rows.obs, dict):
        legal, legal_next = rows.obs["action_mask"], rows.next_obs["action_mask"]
        rows = rows._replace(obs=rows.obs["observation"], next_obs=rows.next_obs["observation"])
    legal_next = legal_next if mask is None else mask
    total, gradient = 0.0, {name: np.zeros_like(x) for name, x in online.items()}
    td_errors, q_values, priorities = np.zeros(ROWS), np.full(ROWS, np.nan), np.zeros(ROWS)
    weights = sum(float(w) for w in rows.weight)
    for i in range(ROWS):
        weight = float(rows.weight[i])
        if weight == 0:
            continue
        state, after, action = int(rows.obs[i]), int(rows.next_obs[i]), int(rows.action[i])
        reward, discount = float(rows.reward[i]), float(rows.discount[i])

        def values(params, where, which):
            return {b: value_of(head, output_of(params, where, b)) for b in np.flatnonzero(which)}

        following = [{} if discount == 0 else values(p, after, legal_next[i]) for p in (target, online, second)]
        answer, bonus = answer_of(backup, action, values(target, state, legal[i]), *following)
        nexts = [(p, shift, output_of(target, after, b)) for b, (p, shift) in answer.items()]
        goal, said = target_of(head, nexts, reward + bonus, discount), output_of(online, state, action)
        total += weight * loss_of(head, said, goal) / weights
        q_values[i] = value_of(head, said)
        expected = reward + bonus + discount * sum(p * (value_of(head, s) + shift) for p, shift, s in nexts)
        td_errors[i] = priorities[i] = expected - q_values[i]
        if head == "categorical":
            probabilities = softmax(said["values"])
            priorities[i] = sum(p * math.log(p / q) for p, q in zip(goal, probabilities, strict=True) if p > 0)
        for name, slope in slope_of(head, said, goal).items():
            place = (state, action) if name in ("values", "at_edges") else (state,)
            gradient[name][place] += weight * slope / weights
    return Slow(total, td_errors, q_values, priorities, gradient)


def fast_loss(head, backup, rows, apply=look_up, **options):
    """A compiled (params, target, second) -> ((loss, LossInfo), gradients in all three)."""
    rule = BACKUPS[backup] if isinstance(backup, str) else backup

    def loss(params, target, second):
        return losses.q_loss(
            params, target, rows, apply, head=HEADS[head], backup=rule, second_target_params=second, **options
        )

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
