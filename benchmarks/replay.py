"""Seconds to add a tick and to sample a batch, by capacity: neither may grow with it."""

import jax
import jax.numpy as jnp

from benchmarks.measure import interleaved
from jaxql.replay import prioritised_replay, uniform_replay, zero_step

ENVS, BATCH = 16, 32


def rows(quick: bool = False):
    for capacity in (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000):
        for kind in uniform_replay, prioritised_replay:
            yield from _one(kind, capacity, quick)


def _one(kind, capacity, quick):
    replay = kind(capacity, n_step=3)
    step = zero_step(jnp.zeros((ENVS, 8)))._replace(valid=jnp.ones(ENVS, bool))
    add, sample = jax.jit(replay.add, donate_argnums=0), jax.jit(replay.sample, static_argnums=2)
    ring = jax.jit(lambda ring: jax.lax.fori_loop(0, capacity // ENVS + 4, lambda _, r: replay.add(r, step), ring))(
        replay.init(step)
    )
    key, gamma, beta = jax.random.key(0), jnp.float32(0.99), jnp.float32(0.5)

    def add_one():
        nonlocal ring
        ring = add(ring, step)
        return ring.count

    contestants = {"add": add_one, "sample": lambda: sample(ring, key, BATCH, gamma, beta)}
    if replay.update:
        update = jax.jit(replay.update, donate_argnums=0)
        batch, errors, alpha = sample(ring, key, BATCH, gamma, beta), jnp.ones(BATCH), jnp.float32(0.5)

        def update_some():
            nonlocal ring
            ring = update(ring, batch.index, errors, alpha)
            return ring.largest

        contestants["update"] = update_some
    for name, row in interleaved(contestants, repeats=3 if quick else 7, least=0.1).items():
        yield {
            "part": "replay",
            "name": f"{kind.__name__} {name}",
            "capacity": capacity,
            "envs": ENVS,
            "batch": BATCH,
            "milliseconds": 1e3 * row["seconds"],
            "compile_seconds": row["first_call"],
        }
