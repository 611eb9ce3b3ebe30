"""Laws of the one loss: what must not count, where gradients may not go, what is refused, and pairs of one's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_losses import (
    ACTIONS,
    BACKUPS,
    HEADS,
    OUTPUTS,
    ROWS,
    STATES,
    batch,
    fast_loss,
    look_up,
    masks,
    table,
    to_jax,
)

from jaxql import bellman, losses
from jaxql.agents import dqn
from jaxql.agents.state import hyper_of
from jaxql.losses import backups
from jaxql.networks import with_action_mask
from jaxql.replay import zero_step
from jaxql.types import Backup, EnvSpec, Head, Network, Transition

pytestmark = pytest.mark.float64

# Every head once and every backup once: what a law says of a pair it says of its halves.
PAIRS = [
    ("huber", "clipped_double"),
    ("l2", "persistent"),
    ("categorical", "munchausen"),
    ("quantile", "soft"),
    ("implicit_quantile", "double"),
    ("full_quantile", "advantage"),
    ("hl_gauss", "expected_sarsa"),
    ("two_hot", "greedy"),
]
each_pair = pytest.mark.parametrize(("head", "backup"), PAIRS)


def assert_same(a, b, tolerance=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def tables(head, *seeds):
    return [to_jax(table(head, seed)) for seed in seeds]


def loss_of_rows(head, backup):
    """A compiled (online, target, second, rows) -> ((loss, LossInfo), gradient)."""

    def loss(online, target, second, rows):
        options = dict(head=HEADS[head], backup=BACKUPS[backup], second_target_params=second)
        return losses.q_loss(online, target, rows, look_up, **options)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_the_pairs_are_every_head_and_every_backup():
    assert {head for head, _ in PAIRS} == set(HEADS) and {backup for _, backup in PAIRS} == set(BACKUPS)


@each_pair
def test_rows_that_do_not_count_weights_and_order(head, backup):
    params, rows, f = tables(head, 0, 1, 2), batch(3, strange=False), loss_of_rows(head, backup)
    result = f(*params, rows)
    assert np.any(jax.tree.leaves(result[1])[-1])
    counts = np.asarray(rows.weight) != 0

    def same(rows, order=slice(None)):
        (loss, info), gradient = f(*params, rows)
        (want, want_info), want_gradient = result
        assert_same((loss, gradient), (want, want_gradient))
        kept = counts[order]
        assert_same([x[kept] for x in info], [np.asarray(x)[order][kept] for x in want_info])
        assert not np.any(np.asarray(info.td_errors)[~kept]), "errors of rows of weight 0 are 0"
        assert np.all(np.isfinite(jnp.stack(info)))

    order = np.random.default_rng(4).permutation(ROWS)
    same(jax.tree.map(lambda x: x[order], rows), order)
    same(rows._replace(weight=rows.weight / 4))
    idle, ended = ~counts, np.asarray(rows.discount) == 0
    assert np.any(ended & counts)
    for state, number in ((STATES, jnp.nan), (STATES + 1, jnp.inf), (STATES + 2, -jnp.inf)):
        same(
            rows._replace(
                obs=jnp.where(idle, state, rows.obs),
                action=jnp.where(idle, 99, rows.action),
                reward=jnp.where(idle, number, rows.reward),
                discount=jnp.where(idle, number, rows.discount),
                next_obs=jnp.where(idle | ended, state, rows.next_obs),
            )
        )
    (loss, info), gradient = f(*params, rows._replace(weight=jnp.zeros(ROWS)))
    assert loss == 0 and not any(np.any(x) for x in jax.tree.leaves((info.td_errors, gradient)))


def test_an_observation_of_nan_spoils_no_gradient():
    """Where the network multiplies what it sees, so that its gradient is 0 times a NaN."""
    rng = np.random.default_rng(5)
    obs, next_obs = jnp.asarray(rng.normal(size=(2, ROWS, 4)))
    rows = batch(6, strange=False)._replace(obs=obs, next_obs=next_obs)
    weights = jnp.asarray(rng.normal(size=(4, ACTIONS)))
    f = jax.jit(jax.value_and_grad(lambda w, rows: losses.dqn_loss(w, w, rows, lambda w, x: (x @ w, ()))[0]))
    idle, ended = (rows.weight == 0)[:, None], (rows.discount == 0)[:, None]
    spoilt = rows._replace(
        obs=jnp.where(idle, jnp.nan, rows.obs), next_obs=jnp.where(idle | ended, jnp.inf, rows.next_obs)
    )
    assert_same(f(weights, spoilt), f(weights, rows))


@pytest.mark.often("hl_gauss-expected_sarsa", "huber-clipped_double", "full_quantile-advantage")
@each_pair
def test_no_gradient_but_into_what_the_online_network_says_of_obs(head, backup):
    """A network whose output depends smoothly on a number that it sees; rewards and discounts are constants too."""
    params, rows = tables(head, 7, 8, 9), batch(10, strange=False)

    def seen(params, obs):
        state, number = obs
        output = look_up(params, state)[0]
        return jax.tree.map(lambda x: x * number.reshape(-1, *[1] * (x.ndim - 1)), output), ()

    def value(online, target, second, number, next_number, reward):
        these = rows._replace(obs=(rows.obs, number), next_obs=(rows.next_obs, next_number), reward=reward)
        options = dict(head=HEADS[head], backup=BACKUPS[backup], second_target_params=second)
        loss, info = losses.q_loss(online, target, these, seen, **options)
        return loss, jnp.sum(info.td_errors) + jnp.sum(info.q_values) + jnp.sum(info.priorities)

    arguments = *params, jnp.ones(ROWS), jnp.ones(ROWS), rows.reward
    for which in 0, 1:  # the loss, then what it reports, which is constant altogether
        gradients = jax.jit(jax.grad(lambda *args, w=which: value(*args)[w], argnums=range(6)))(*arguments)
        flows = [any(np.any(x) for x in jax.tree.leaves(gradient)) for gradient in gradients]
        assert flows == [which == 0, False, False, which == 0, False, False]


@pytest.mark.often("huber-clipped_double")
@each_pair
def test_masks_in_their_three_forms_agree(head, backup):
    params, rows = tables(head, 11, 12, 13), batch(14, strange=False)
    legal, every = jnp.asarray(masks(15)), jnp.ones((ROWS, ACTIONS), bool)
    tempting = params[1]["values"].at[:, ACTIONS - 1].add(5.0 if head in ("huber", "l2") else 5.0 * jnp.arange(OUTPUTS))
    params[1] |= {"values": tempting}
    carried = rows._replace(
        obs={"observation": rows.obs, "action_mask": every},
        next_obs={"observation": rows.next_obs, "action_mask": legal},
    )
    blocked = with_action_mask(Network(init=None, apply=look_up)).apply
    hidden = carried._replace(next_obs=carried.next_obs | {"action_mask": legal.astype(jnp.int8)})
    given = fast_loss(head, backup, rows, mask=legal)(*params)
    assert_same(fast_loss(head, backup, carried)(*params), given)
    assert_same(fast_loss(head, backup, hidden, blocked)(*params), given)
    assert_same(fast_loss(head, backup, carried, mask=legal.astype(int))(*params), given)
    unmasked = fast_loss(head, backup, rows)(*params)
    assert abs(unmasked[0][0] - given[0][0]) > 1e-3


@pytest.mark.trust(12)
def test_an_illegal_action_of_the_next_state_is_not_bootstrapped():
    values = jnp.array([[0.0, 0.0], [1.0, 1e9]])
    network = with_action_mask(Network(init=None, apply=lambda p, obs, memory=(), key=None: (p[obs], memory)))
    rows = Transition(
        obs={"observation": jnp.array([0]), "action_mask": jnp.array([[1, 1]])},
        action=jnp.array([0]),
        reward=jnp.array([1.0]),
        discount=jnp.array([0.5]),
        next_obs={"observation": jnp.array([1]), "action_mask": jnp.array([[1, 0]])},
        weight=jnp.ones(1),
    )
    ended = rows._replace(discount=jnp.zeros(1), next_obs=rows.next_obs | {"action_mask": jnp.array([[0, 0]])})
    for backup in (backups.greedy, backups.double, backups.soft(0.1)):
        f = functools.partial(losses.q_loss, target_params=values, apply=network.apply, backup=backup)
        np.testing.assert_allclose(f(values, transitions=rows)[1].td_errors, 1.5, rtol=1e-6)
        gradient = jax.grad(lambda p, f=f: f(p, transitions=ended)[0])(values)
        assert jnp.all(jnp.isfinite(gradient))


@pytest.mark.often("quantile-soft", "l2-persistent")
@each_pair
@pytest.mark.trust(1)
def test_mapped_over_parameters_and_not_compiled_it_is_the_same(head, backup):
    first, second = tables(head, 16, 17, 18), tables(head, 19, 20, 21)
    rows = batch(22)
    f = fast_loss(head, backup, rows)
    both = jax.jit(jax.vmap(f))(*jax.tree.map(lambda x, y: jnp.stack([x, y]), first, second))
    alone = [f(*first), f(*second)]
    assert_same(both, jax.tree.map(lambda x, y: jnp.stack([x, y]), *alone))
    if head in ("huber", "categorical"):  # these take seconds
        with jax.disable_jit():
            assert_same(f(*first)[0], alone[0][0])


@pytest.mark.often("quantile-soft", "huber-clipped_double", "full_quantile-advantage")
@each_pair
def test_half_precision_is_computed_with_in_float32_at_least(head, backup):
    params, rows = tables(head, 23, 24, 25), batch(26, strange=False)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    (loss, info), gradient = fast_loss(head, backup, rows)(*half)
    assert all(jnp.finfo(x.dtype).bits >= 32 for x in (loss, *info))
    assert {x.dtype for x in jax.tree.leaves(gradient)} == {jnp.bfloat16.dtype}
    if head != "full_quantile":  # whose fractions the network itself computes, in bfloat16
        whole = jax.tree.map(lambda x: x.astype(float), half)
        assert_same((loss, info), fast_loss(head, backup, rows)(*whole)[0], 1e-4)


@pytest.mark.trust(1)
def test_mismatched_shapes_are_refused_by_name():
    (params, target), rows = tables("huber", 27, 28), batch(29, strange=False)
    f = functools.partial(losses.q_loss, params, target)
    for change, message in (
        (dict(reward=rows.reward[:, None]), r"reward has shape \(\d+, 1\); it needs \(\d+,\), as action"),
        (dict(discount=0.9), r"discount has shape \(\)"),
        (dict(weight=rows.weight[1:]), "weight has shape"),
        (dict(weight=rows.weight[:, None]), "weight has shape"),
        (dict(action=0), r"action has shape \(\); it needs \[N\]"),
        (dict(obs=rows.obs[1:]), "obs has shape .* rows, as action"),
        (dict(next_obs=rows.next_obs[0]), "next_obs has shape .* rows, as action"),
    ):
        with pytest.raises(ValueError, match=message):
            f(rows._replace(**change), look_up)
    with pytest.raises(ValueError, match=r"mask has shape \(\d+, 1\); it needs that of the action values"):
        f(rows, look_up, mask=jnp.ones((ROWS, 1)))
    with pytest.raises(ValueError, match=r"the network's output has shape \(6, 3\); it needs \d+ rows"):
        f(rows, lambda params, obs: (params["values"], ()))
    with pytest.raises(ValueError, match=r"the head's values have shape \(\d+, 3, 1\); they need \[N, A\]"):
        f(rows, lambda params, obs: (params["values"][obs][..., None], ()))
    even = jnp.full((ROWS, ACTIONS), 1 / ACTIONS)
    for answer, message in (
        (Backup(policy=even[0]), r"the backup's policy has shape \(3,\)"),
        (Backup(policy=even, shift=even[0]), r"the backup's shift has shape \(3,\)"),
        (Backup(policy=even, bonus=even[:, :1]), r"the backup's bonus has shape \(\d+, 1\); it needs \(\d+,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            f(rows, look_up, backup=lambda values, answer=answer: answer)
    with pytest.raises(ValueError, match="a backup reads second_next, which was not given"):
        f(rows, look_up, backup=backups.clipped_double)


@pytest.mark.parametrize("head", ["huber", "quantile", "categorical"])
def test_checked_reports_actions_of_rows_that_count(head):
    (params, target), rows = tables(head, 30, 31), batch(32, strange=False)
    idle = rows.weight == 0
    run = bellman.checked(
        lambda action: losses.q_loss(params, target, rows._replace(action=action), look_up, head=HEADS[head])[0]
    )
    run(jnp.where(idle, 99, rows.action))
    for invalid in 99, -1:
        with pytest.raises(ValueError, match="an action is not in 0 .*: "):
            run(jnp.where(idle, rows.action, invalid))


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int32])
def test_actions_are_integers_of_any_kind(dtype):
    (params, target), rows = tables("quantile", 33, 34), batch(35, strange=False)
    f = jax.jit(lambda action: losses.quantile_loss(params, target, rows._replace(action=action), look_up)[0])
    np.testing.assert_array_equal(f(rows.action.astype(dtype)), f(rows.action))


def boltzmann(values):
    """A backup of one's own: a softmax policy without its entropy."""
    return Backup(policy=jax.nn.softmax(values.target_next))


def expectile(tau=0.8):
    """A head of one's own: an expectile, and how far it lies from the mean is a second output that nothing learns."""

    def loss(output, action, target):
        error = target - output[jnp.arange(len(action)), action, 0]
        return jnp.abs(tau - (error < 0)) * error**2

    def target(output, backup, reward, discount):
        return backups.expected_target(output[..., 0], backup, reward, discount)

    return Head(outputs=2, q_values=lambda output: output[..., 0], target=target, loss=loss)


def test_a_backup_and_a_head_of_ones_own():
    rng = np.random.default_rng(36)
    online, target = rng.normal(size=(2, STATES, ACTIONS, 2))
    rows = batch(37, strange=False)
    say = lambda params, obs: (params[obs], ())  # noqa: E731
    f = functools.partial(losses.q_loss, apply=say, backup=boltzmann, head=expectile())
    loss, info = jax.jit(f)(jnp.asarray(online), jnp.asarray(target), rows)
    costs, errors = [], []
    for state, action, reward, discount, after in zip(*map(np.asarray, rows[:5]), strict=True):
        q = target[after, :, 0]
        error = reward + discount * np.sum(np.exp(q) / np.sum(np.exp(q)) * q) - online[state, action, 0]
        costs.append((0.8 if error >= 0 else 0.2) * error**2)
        errors.append(error)
    np.testing.assert_allclose(loss, np.average(costs, weights=rows.weight), rtol=1e-5)
    np.testing.assert_allclose(info.td_errors, np.where(rows.weight != 0, errors, 0), rtol=1e-4, atol=1e-5)


def test_an_agent_learns_by_a_backup_and_a_head_of_ones_own():
    spec = EnvSpec(jax.ShapeDtypeStruct((2,), jnp.int32), num_actions=3, num_envs=2, num_states=5)
    config = dqn.Config(hidden=(8,), capacity=64, batch_size=4, learning_rate=0.01)
    obs = jnp.array([0, 1], jnp.int32)

    def trained(**own):
        agent = dqn.make(config, spec, **own)
        state = jax.jit(agent.init)(jax.random.key(0), obs, hyper_of(config))
        observe, learn = jax.jit(agent.observe), jax.jit(agent.learn)
        for action in np.random.default_rng(39).integers(3, size=(8, 2), dtype=np.int32):
            step = zero_step(obs)._replace(action=action, reward=jnp.ones(2), valid=jnp.ones(2, bool))
            state = observe(state, step)
        state, metrics = learn(state)
        action, _ = agent.policy(state.params, obs, (), jax.random.key(1))
        assert action.shape == (2,) and np.all(np.isfinite(metrics["loss"]))
        return state.params

    own, other = trained(head=expectile(), backup=boltzmann), trained(head=expectile())
    assert jax.tree.structure(own) == jax.tree.structure(other)
    assert any(np.any(x != y) for x, y in zip(jax.tree.leaves(own), jax.tree.leaves(other), strict=True))
