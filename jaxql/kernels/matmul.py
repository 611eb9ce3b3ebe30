"""A convolution by matrix products alone, whose gradients are matrix products too."""

import jax
import jax.numpy as jnp

from jaxql.types import Array


def convolve(x: Array, w: Array, stride: int, padding: int = 0) -> Array:
    """Returns the convolution [N, H', W', F] of x [N, H, W, C] with w [k, k, C, F], as `jaxql.kernels.convolve` does.

    Blocks of stride x stride pixels become channels, of the image and of the kernel. That leaves a convolution of
    stride 1 with m x m taps. One product gives what every pixel contributes to every tap, and the taps are added up.

    >>> print(convolve(jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 1)), 2)[0, :, :, 0])
    [[4. 4.]
     [4. 4.]]
    """
    x = jnp.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)]) if padding else x
    out = [(side - len(w)) // stride + 1 for side in x.shape[1:3]]
    w = kernel_blocks(w, stride)
    x = _cropped(x, [(side - 1 + len(w)) * stride for side in out])
    return _add_taps(_blocks(x, stride), w)


def kernel_blocks(w: Array, stride: int) -> Array:
    """Returns the kernel [m, m, stride * stride * C, F] of stride 1 that reads blocks of stride x stride pixels."""
    size, channels, features = w.shape[0], *w.shape[2:]
    taps = -(-size // stride)
    w = jnp.pad(w, [(0, taps * stride - size)] * 2 + [(0, 0)] * 2)
    w = w.reshape(taps, stride, taps, stride, channels, features).transpose(0, 2, 1, 3, 4, 5)
    return w.reshape(taps, taps, stride * stride * channels, features)


def _cropped(x, sides):
    """x with these height and width: what a kernel never touches is cut, what it overhangs is zero."""
    x = x[:, : sides[0], : sides[1]]
    return jnp.pad(x, [(0, 0), (0, sides[0] - x.shape[1]), (0, sides[1] - x.shape[2]), (0, 0)])


def _blocks(x, stride):
    n, height, width, channels = x.shape
    x = x.reshape(n, height // stride, stride, width // stride, stride, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, height // stride, width // stride, stride * stride * channels)


@jax.custom_vjp
def _add_taps(x, w):
    """The convolution of stride 1 of x [N, H, W, C] with w [m, m, C, F]."""
    taps, _, channels, features = w.shape
    height, width = x.shape[1] - taps + 1, x.shape[2] - taps + 1
    y = x.reshape(-1, channels) @ w.transpose(2, 0, 1, 3).reshape(channels, -1)
    y = y.reshape(*x.shape[:3], taps, taps, features)
    return sum(y[:, i : i + height, j : j + width, i, j] for i in range(taps) for j in range(taps))


def _forward(x, w):
    return _add_taps(x, w), (x, w)


def _backward(saved, g):
    x, w = saved
    taps, _, channels, features = w.shape
    shifted = [
        jnp.pad(g, [(0, 0), (i, taps - 1 - i), (j, taps - 1 - j), (0, 0)]) for i in range(taps) for j in range(taps)
    ]
    # Written out in memory, once: fused into the products below it would be read by them bit by bit.
    spread = jax.lax.optimization_barrier(jnp.concatenate(shifted, axis=-1)).reshape(-1, taps * taps * features)
    into_x = (spread @ w.transpose(0, 1, 3, 2).reshape(-1, channels)).reshape(x.shape)
    into_w = (spread.T @ x.reshape(-1, channels)).reshape(taps, taps, features, channels)
    return into_x, into_w.transpose(0, 1, 3, 2)


_add_taps.defvjp(_forward, _backward)
