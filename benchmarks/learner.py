"""Updates a second of the Nature CNN's DQN: each convolution (XLA's is flax's), and PyTorch, on the same batches.

An update is the target network at the next observations, the online one at the observations, its gradient, and Adam.
"""

import contextlib
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.measure import interleaved
from jaxql import losses, networks
from jaxql.kernels import onednn
from jaxql.types import EnvSpec, Transition

ACTIONS = 6
METHODS = "onednn", "matmul", "xla"
SCANNED = 4  # updates in a scan
FLOPS = 2 * (400 * 256 * 32 + 81 * 512 * 64 + 49 * 576 * 64 + 3136 * 512 + 512 * ACTIONS)  # of one example, forward


def rows(quick: bool = False):
    """Rows of every batch size, the matrix product's peak beside them."""
    for batch in (32,) if quick else (32, 256):
        rng = np.random.default_rng(0)
        frames = rng.integers(256, size=(SCANNED + 1, batch, 4, 84, 84), dtype=np.uint8)
        action, reward = rng.integers(ACTIONS, size=batch), rng.normal(size=batch).astype(np.float32)
        methods = [method for method in METHODS if method != "onednn" or onednn.is_available(jnp.result_type(float))]
        every = [(method, inside) for method in methods for inside in (False, True)]
        if quick or batch > 32:
            every.remove(("xla", True))  # seconds an update
        every = [(method, inside, False) for method, inside in every]
        if onednn.is_available(jnp.bfloat16):
            every[2:2] = [("onednn", False, True), ("onednn", True, True)]
        contestants = {
            f"jaxql, {method}{' bfloat16' * bfloat16}{' inside lax.scan' * inside}": _jax_update(
                frames, action, reward, method, bfloat16=bfloat16, inside_scan=inside
            )
            for method, inside, bfloat16 in every
        }
        with contextlib.suppress(ImportError):
            contestants |= _torch_updates(frames[:2], action, reward)
        work = FLOPS * batch * 4  # two forwards, and a backward of twice a forward
        peak = matmul_peak()
        for name, row in interleaved(contestants, repeats=3 if quick else 7).items():
            per_call = SCANNED if "scan" in name else 1
            seconds = row["seconds"] / per_call
            yield {
                "part": "learner",
                "name": name,
                "batch": batch,
                "milliseconds": 1e3 * seconds,
                "updates_per_second": 1 / seconds,
                "share_of_matmul_peak": work / seconds / peak,
                "compile_seconds": row["first_call"],
                "spread": [1e3 * row["least"] / per_call, 1e3 * row["most"] / per_call],
            }


def _jax_update(frames, action, reward, method, bfloat16=False, inside_scan=False):
    spec = EnvSpec(jax.ShapeDtypeStruct(frames[0].shape, jnp.uint8), ACTIONS, len(action), stack=4)
    network = networks.make_network("nature-cnn", spec, convolution=method, bfloat16=bfloat16)
    optimizer = optax.adam(2.5e-4)
    weight = jnp.ones(len(action))
    frames, action, reward = (jnp.asarray(x) for x in (frames, action, reward))
    params = network.init(jax.random.key(0), frames[0])

    def update(carry, pair):
        params, target, opt_state = carry
        batch = Transition(pair[0], action, reward, 0.99 * weight, pair[1], weight)
        gradient = jax.grad(lambda p: losses.dqn_loss(p, target, batch, network.apply)[0])(params)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), target, opt_state), None

    if inside_scan:  # each update has observations of its own: what they share could be computed once for all
        pairs = jnp.stack([frames[:-1], frames[1:]], axis=1)
        step = jax.jit(lambda carry, pairs: jax.lax.scan(update, carry, pairs)[0], donate_argnums=0)
    else:
        pairs = frames[:2]
        step = jax.jit(lambda carry, pair: update(carry, pair)[0], donate_argnums=0)
    carry = (params, jax.tree.map(jnp.copy, params), optimizer.init(params))

    def call():
        nonlocal carry
        carry = step(carry, pairs)
        return carry

    return call


def _torch_updates(frames, action, reward):
    import torch
    from torch import nn

    torch.set_num_threads(len(os.sched_getaffinity(0)))

    def one(memory_format, dtype):
        def network():
            layers = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1)]
            layers += [nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, ACTIONS)]
            return nn.Sequential(*layers).to(memory_format=memory_format)

        online, target = network(), network()
        optimizer = torch.optim.Adam(online.parameters(), lr=2.5e-4)
        obs, next_obs = (torch.from_numpy(x).to(memory_format=memory_format) for x in frames)
        a, r = torch.from_numpy(action)[:, None], torch.from_numpy(reward)

        def call():
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                with torch.no_grad():
                    goal = r + 0.99 * target(next_obs / 255.0).max(1).values.float()
                q = online(obs / 255.0).gather(1, a)[:, 0].float()
            loss = nn.functional.smooth_l1_loss(q, goal)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return call

    return {
        "PyTorch float32 NCHW": one(torch.contiguous_format, torch.float32),
        "PyTorch float32 channels_last": one(torch.channels_last, torch.float32),
        "PyTorch bfloat16 channels_last": one(torch.channels_last, torch.bfloat16),
    }


def matmul_peak(size: int = 2048) -> float:
    """FLOP/s of a large float32 matrix product: the best of five."""
    x = jnp.ones((size, size))
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    best = min(_seconds(lambda: product(x).block_until_ready()) for _ in range(5))
    return 2 * size**3 / best


def _seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
