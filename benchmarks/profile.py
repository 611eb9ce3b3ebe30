"""Where an update of the Nature CNN's DQN spends its time: its parts alone, each compiled by itself.

`share_of_matmul_peak` is that of a large float32 matrix product, measured beside them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.learner import ACTIONS, FLOPS, matmul_peak
from benchmarks.measure import interleaved
from jaxql import networks
from jaxql.kernels import convolve
from jaxql.types import EnvSpec

LAYERS = (  # side, channels, kernel, stride, features
    (84, 4, 8, 4, 32),
    (20, 32, 4, 2, 64),
    (9, 64, 3, 1, 64),
)


def rows(quick: bool = False):
    for batch in (32,) if quick else (32, 256):
        peak = matmul_peak()
        parts = pieces(batch)
        measured = interleaved({name: call for name, (call, _) in parts.items()}, repeats=3 if quick else 7, least=0.1)
        for name, row in measured.items():
            work = parts[name][1]
            share = {"share_of_matmul_peak": work / row["seconds"] / peak} if work else {}
            yield {"part": "profile", "name": name, "batch": batch, "milliseconds": 1e3 * row["seconds"]} | share


def pieces(batch: int) -> dict:
    """{name: (a call of no arguments, its floating-point operations)}."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def call(f, *args):
        f = jax.jit(f)
        return lambda: f(*args)

    frames = jnp.asarray(rng.integers(256, size=(batch, 4, 84, 84), dtype=np.uint8))
    network = networks.make_network("nature-cnn", EnvSpec(jax.eval_shape(lambda: frames), ACTIONS, batch, stack=4))
    params, optimizer = network.init(jax.random.key(0), frames), optax.adam(1e-4)
    gradient = jax.grad(lambda params, obs: jnp.sum(network.apply(params, obs)[0]))
    wide, weights, narrow = normal(batch, 3136), normal(3136, 512), normal(batch, 512)
    dense = 2 * batch * 3136 * 512
    found = {
        "forward": (call(lambda params, obs: network.apply(params, obs)[0], params, frames), FLOPS * batch),
        "forward and backward": (call(gradient, params, frames), 3 * FLOPS * batch),
        "adam": (call(optimizer.update, params, optimizer.init(params)), 0),
        "hidden layer, forward": (call(jnp.matmul, wide, weights), dense),
        "hidden layer, into its input": (call(lambda g, w: g @ w.T, narrow, weights), dense),
        "hidden layer, into its weights": (call(lambda x, g: x.T @ g, wide, narrow), dense),
    }
    for number, (side, channels, size, stride, features) in enumerate(LAYERS, 1):
        out = (side - size) // stride + 1
        x, w = normal(batch, side, side, channels), normal(size, size, channels, features)
        g, forward = normal(batch, out, out, features), functools.partial(convolve, stride=stride)
        work = 2 * g.size * w[..., 0].size
        found[f"convolution {number}, forward"] = call(forward, x, w), work
        for which, name in enumerate(("input", "kernel")):
            if number > 1 or name == "kernel":  # nothing is learned below the first
                into = functools.partial(_gradient, forward, which)
                found[f"convolution {number}, into its {name}"] = call(into, x, w, g), work
    return found


def _gradient(f, which, x, w, g):
    return jax.vjp(f, x, w)[1](g)[which]
