"""Millions of transitions a second through the update functions, compiled, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import interleaved
from jaxql import bellman, distributional

BATCH, LENGTH, ACTIONS, ATOMS = 65_536, 64, 6, 51


def rows(quick: bool = False):
    rng = np.random.default_rng(0)
    batch = BATCH // 8 if quick else BATCH
    envs = batch // LENGTH

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    q, q_t, reward, discount = normal(batch, ACTIONS), normal(batch, ACTIONS), normal(batch), jnp.full(batch, 0.99)
    action = jnp.asarray(rng.integers(ACTIONS, size=batch))
    sequence, gammas = normal(envs, LENGTH), jnp.full((envs, LENGTH), 0.99)
    atoms, logits = jnp.linspace(-10, 10, ATOMS), normal(batch // 16, ACTIONS, ATOMS)
    few = slice(batch // 16)
    contestants = {
        "q_learning": (lambda q: bellman.q_learning(q, action, reward, discount, q_t), q, batch),
        "double_q_learning": (lambda q: bellman.double_q_learning(q, action, reward, discount, q_t, -q_t), q, batch),
        "lambda_returns": (lambda v: bellman.lambda_returns(sequence, gammas, v, 0.9), sequence, batch),
        "n_step_bootstrapped_returns": (
            lambda v: bellman.n_step_bootstrapped_returns(sequence, gammas, v, 5),
            sequence,
            batch,
        ),
        "categorical_q_learning": (
            jax.vmap(
                lambda x, a, r, d, y: distributional.categorical_q_learning(atoms, x, a, r, d, atoms, y),
            ),
            (logits, action[few], reward[few], discount[few], logits[::-1]),
            batch // 16,
        ),
    }
    calls, sizes = {}, {}
    for name, (f, x, size) in contestants.items():
        xs = x if isinstance(x, tuple) else (x,)
        value = jax.jit(f)
        gradient = jax.jit(jax.grad(lambda *xs, f=f: jnp.sum(jnp.square(f(*xs)))))
        for kind, call in (("value", value), ("gradient", gradient)):
            calls[f"{name}, {kind}"], sizes[f"{name}, {kind}"] = (lambda call=call, xs=xs: call(*xs)), size
    for name, row in interleaved(calls, repeats=3 if quick else 7, least=0.1).items():
        yield {
            "part": "equations",
            "name": name,
            "transitions": sizes[name],
            "million_per_second": sizes[name] / row["seconds"] / 1e6,
            "compile_seconds": row["first_call"],
        }
