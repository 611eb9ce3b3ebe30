"""Convolutions by oneDNN, which jaxlib carries for x86 CPUs.

XLA calls them by a name that is not part of JAX's interface. Their numbers are therefore tested at first use.
"""

import functools
import json
import math
import platform
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxql.kernels import private
from jaxql.kernels.matmul import kernel_blocks
from jaxql.types import Array

IMAGES, KERNELS = (0, 3, 1, 2), (2, 3, 0, 1)  # where batch, features, height, width are; inputs, outputs, ...
PART = {"float32": 32, "bfloat16": 256}  # images of which a kernel's gradient is taken at once
TRIED = ((9, 4, 2, 0), (5, 3, 1, 1))  # side, kernel size, stride and padding of the test at first use


def is_available(dtype: Any) -> bool:
    """Returns whether oneDNN can be used for numbers of this type, in what is traced now."""
    return not unavailable(dtype)


def unavailable(dtype: Any) -> str:
    """Returns why oneDNN cannot be used for numbers of this type, in what is traced now; "" if it can.

    A program that is partitioned over devices must not use it: XLA cannot divide what it does not know, so that each
    device would compute the whole.
    """
    name = jnp.dtype(dtype).name
    if not private.private_is_used():
        return private.SWITCHED_OFF
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "oneDNN comes with jaxlib for x86 CPUs under Linux only"
    if name not in PART or name == "bfloat16" and not _knows_bfloat16():
        return f"oneDNN does not multiply {name} on this CPU"
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        return "a program for several devices cannot divide oneDNN's work"
    return _fault(name)


@functools.cache
def _knows_bfloat16():
    try:
        with open("/proc/cpuinfo") as about:
            return " avx512_bf16 " in about.read()
    except OSError:
        return False


@functools.cache
def _fault(name: str) -> str:
    """Returns the reason why oneDNN cannot be used for this type in this process, or ""."""
    try:
        devices = jax.local_devices(backend="cpu")
        if len(devices) > 1:
            return f"this process has {len(devices)} CPU devices"
        with jax.ensure_compile_time_eval():
            return "" if _numbers_are_right(name, devices[0]) else "oneDNN's numbers are wrong with this jaxlib"
    except Exception as error:  # whatever a private interface may raise when it has changed
        return f"oneDNN cannot be called with this jaxlib ({str(error).splitlines()[0]})"


def _numbers_are_right(name, device):
    """Returns whether values and gradients of small whole numbers, whose sums are exact, are those of NumPy."""
    rng, arrays, right = np.random.default_rng(0), [], []
    for side, size, stride, padding in TRIED:
        out = (side + 2 * padding - size) // stride + 1
        shapes = (2, side, side, 3), (size, size, 3, 4), (2, out, out, 4)
        x, w, g = (rng.integers(-2, 3, shape).astype(np.float32) for shape in shapes)
        arrays.append([jax.device_put(each.astype(name), device) for each in (x, w, g)])
        right.append(_by_numpy(x, w, g, stride, padding))

    def parts(arrays):
        found = []
        for (x, w, g), (_, _, *window) in zip(arrays, TRIED, strict=True):
            y, pull = jax.vjp(lambda x, w, window=window: convolve(x, w, *window), x, w)
            found.append((y, *pull(g)))
        return found

    got = jax.tree.leaves(jax.device_get(jax.jit(parts)(arrays)))
    close = functools.partial(np.allclose, rtol=0.01 if name == "bfloat16" else 1e-5, atol=1e-4)
    return all(close(np.asarray(x, np.float32), y) for x, y in zip(got, jax.tree.leaves(right), strict=True))


def _by_numpy(x, w, g, stride, padding):
    """The convolution y, and what y's gradient g makes of the gradients of x and w."""
    x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    y, into_x, into_w = np.zeros_like(g), np.zeros_like(x), np.zeros_like(w)
    height, width = (stride * side for side in g.shape[1:3])
    for i, j in np.ndindex(w.shape[:2]):
        seen = np.s_[:, i : i + height : stride, j : j + width : stride]
        y += x[seen] @ w[i, j]
        into_x[seen] += g @ w[i, j].T
        into_w[i, j] = np.einsum("nhwc,nhwf->cf", x[seen], g)
    inner = slice(padding, x.shape[1] - padding)
    return y, into_x[:, inner, inner], into_w


def convolve(x: Array, w: Array, stride: int, padding: int = 0) -> Array:
    """Returns the convolution [N, H', W', F] of x [N, H, W, C] with w [k, k, C, F], where oneDNN `is_available`.

    Sums of bfloat16 products are float32 until they are returned.
    """
    return _convolve(x, w, stride, padding)


def _value(x: Array, w: Array, stride: int, padding: int) -> Array:
    size, features = w.shape[0], w.shape[-1]
    out = [(side + 2 * padding - size) // stride + 1 for side in x.shape[1:3]]
    x, pads = _touched(x, size, stride, padding, out)
    return _call(x, w, (len(x), *out, features), stride=stride, pads=pads)


def _forward(x, w, stride, padding):
    return _value(x, w, stride, padding), (x, w)


def _backward(stride, padding, saved, g):
    x, w = saved
    return _into_x(x, w, g, stride, padding), _into_w(x, w, g, stride, padding)


_convolve = jax.custom_vjp(_value, nondiff_argnums=(2, 3))
_convolve.defvjp(_forward, _backward)


def _into_x(x, w, g, stride, padding):
    """Blocks of stride x stride pixels are channels, so that it is a convolution of stride 1, of g with w turned."""
    channels = x.shape[-1]
    w = kernel_blocks(w, stride)[::-1, ::-1]
    taps, cut = len(w), padding if stride == 1 and padding < len(w) else 0
    blocks = [side + taps - 1 - 2 * cut for side in g.shape[1:3]]
    pads = [(taps - 1 - cut,) * 2] * 2
    into = _call(g, w, (len(x), *blocks, w.shape[2]), kernels=(3, 2, 0, 1), pads=pads)
    into = into.reshape(len(x), *blocks, stride, stride, channels).transpose(0, 1, 3, 2, 4, 5)
    into = into.reshape(len(x), blocks[0] * stride, blocks[1] * stride, channels)
    first = padding - cut
    into = into[:, first : first + x.shape[1], first : first + x.shape[2]]
    untouched = [(0, side - have) for side, have in zip(x.shape[1:3], into.shape[1:3], strict=True)]
    return jnp.pad(into, [(0, 0), *untouched, (0, 0)])


def _into_w(x, w, g, stride, padding):
    """A convolution whose images are the channels of x, whose channels are its images, and whose kernel is g.

    By parts of the images, added up: a kernel of more input features no longer fits the caches.
    """
    size, _, channels, features = w.shape
    x, pads = _touched(x, size, stride, padding, g.shape[1:3])
    part = PART[x.dtype.name]
    part = math.gcd(len(x), part) if len(x) > part else len(x)

    def add(total, part):
        x, g = part
        into = _call(x.transpose(3, 1, 2, 0), g, total.shape, jnp.float32, (0, 3, 1, 2), pads=pads, dilation=stride)
        return total + into, None

    parts = jax.tree.map(lambda x: x.reshape(-1, part, *x.shape[1:]), (x, g))
    total, _ = jax.lax.scan(add, jnp.zeros((channels, size, size, features), jnp.float32), parts)
    return total.transpose(1, 2, 0, 3).astype(w.dtype)


def _touched(x, size, stride, padding, out):
    """The part of x that a kernel of this size touches, and the zeros (before, after) of its height and width."""
    after = [(n - 1) * stride + size - padding - side for n, side in zip(out, x.shape[1:3], strict=True)]
    height, width = (side + min(0, pad) for side, pad in zip(x.shape[1:3], after, strict=True))
    return x[:, :height, :width], [(padding, max(0, pad)) for pad in after]


def _call(x, w, shape, dtype=None, kernels=KERNELS, stride=1, pads=((0, 0), (0, 0)), dilation=1):
    def layout(places, first, second):
        return {first: str(places[0]), second: str(places[1]), "spatial_dims": [str(place) for place in places[2:]]}

    def each(numbers):
        return [str(number) for number in numbers]

    images = {"data": layout(IMAGES, "batch_dim", "feature_dim")}
    settings = {
        "dims": "4",
        "feature_groups": "1",
        "input": images,
        "kernel": {"filter": layout(kernels, "input_feature_dim", "output_feature_dim")},
        "output": images,
        "window": {
            "pad_left": each(before for before, _ in pads),
            "pad_right": each(after for _, after in pads),
            "strides": each([stride] * 2),
            "window_dilations": each([dilation] * 2),
        },
    }
    return jax.ffi.ffi_call(
        "__onednn$convolution",
        jax.ShapeDtypeStruct(shape, dtype or x.dtype),
        vmap_method="sequential",
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({"onednn_conv_config": settings}),
    )(x, w)
