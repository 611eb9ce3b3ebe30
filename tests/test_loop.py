"""The order of act, learn, step and observe, and the scan turned by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxql import loop
from jaxql.types import Agent


def order(learns_last, **plan):
    calls = []

    def spy(name, *result):
        return lambda *args: calls.append(name) or result

    agent = Agent(None, spy("act", 0, ()), spy("observe"), spy("learn", 0, {}), None, learns_last)
    step = spy("step", 0, (0,) * 5)
    loop.train(agent, step, (0, 0, 0), **plan, scan=loop.host_scan)
    return " ".join(calls)


def test_order_is_law():
    plan = dict(warmup=0, rounds=1, rollout_length=2)
    assert order(False, **plan) == "act step observe act learn step observe"
    assert order(True, **plan) == "act step observe act step observe learn"
    assert order(False, warmup=2, rounds=1, rollout_length=1) == "act step observe " * 2 + "act learn step observe"


def test_counts_that_make_no_sense_are_refused():
    for plan in (dict(rollout_length=0), dict(rounds=0), dict(warmup=-1)):
        with pytest.raises(ValueError, match="need rounds, rollout_length >= 1"):
            order(False, **dict(warmup=0, rounds=1, rollout_length=1) | plan)


@pytest.mark.parametrize("length", [1, 5, 12])
def test_host_scan_is_lax_scan(length):
    def f(carry, _):
        return carry + 1, {"x": carry * 2.0, "y": jnp.ones(3)}

    carry, ys = loop.host_scan(f, jnp.float32(0), None, length)
    want_carry, want = jax.lax.scan(f, jnp.float32(0), None, length)
    assert carry == want_carry
    jax.tree.map(np.testing.assert_array_equal, ys, want)


def test_bounded_scan_is_lax_scan_up_to_a_traced_length():
    def f(carry, _):
        return carry + 1, {"x": carry * 2.0, "y": jnp.ones(3)}

    played = jax.jit(lambda length: loop.bounded_scan(5)(f, jnp.float32(0), None, length))
    for length in 0, 1, 5:
        want = jax.lax.scan(f, jnp.float32(0), None, length)
        carry, ys = played(length)
        jax.tree.map(np.testing.assert_array_equal, (carry, jax.tree.map(lambda x, n=length: x[:n], ys)), want)
        assert not any(np.any(x[length:]) for x in jax.tree.leaves(ys))
