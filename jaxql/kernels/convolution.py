"""A convolution by XLA, by oneDNN, or as one matrix product whose gradient is one too."""

import functools

import jax
import jax.numpy as jnp

from jaxql.kernels import matmul, onednn, private
from jaxql.types import Array


def convolve(x: Array, w: Array, stride: int, method: str = "auto", padding: int = 0) -> Array:
    """Returns the convolution [N, H', W', F] of x [N, H, W, C] with w [k, k, C, F].

    y[n, i, j, f] = sum_{u, v, c} x[n, i stride + u, j stride + v, c] w[u, v, c, f] of x between `padding` zeros on each
    side; H' = (H + 2 padding - k) // stride + 1. All methods agree up to rounding.

    Args:
      x: images.
      w: kernels.
      stride: pixels from one place of the kernel to the next.
      method: "xla", "onednn", "matmul" or "auto". A program lowered for a CPU has oneDNN under "auto" where it is
        available, else matrix products. A program lowered for any other platform has XLA's convolution, and matrix
        products where it is vmapped over kernels.
      padding: zeros on each side.

    Raises:
      ValueError: for "onednn" where it is not available.

    >>> x, w = jnp.ones((1, 4, 4, 1)), jnp.ones((2, 2, 1, 1))
    >>> print(convolve(x, w, 2)[0, :, :, 0])
    [[4. 4.]
     [4. 4.]]
    """
    if method == "auto":
        return _auto(x, w, stride, padding)
    if method == "onednn":
        if reason := onednn.unavailable(_wide(x)):
            raise ValueError(f'convolution "onednn" cannot be used: {reason}; "auto" takes it where it can')
        call = functools.partial(METHODS[method], stride=stride, padding=padding)
        return jax.lax.platform_dependent(x, w, cpu=call)
    return METHODS[method](x, w, stride, padding)


def _wide(x):
    return jnp.promote_types(x.dtype, jnp.float32)


def _by_xla(x, w, stride, padding):
    pads = [(padding, padding)] * 2
    return jax.lax.conv_general_dilated(x, w, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _by_onednn(x, w, stride, padding):
    dtype = x.dtype if onednn.is_available(x.dtype) else _wide(x)
    return onednn.convolve(x.astype(dtype), w.astype(dtype), stride, padding).astype(x.dtype)


def _by_matmul(x, w, stride, padding):
    """Narrower sums over taps would lose what the products had."""
    return matmul.convolve(x.astype(_wide(x)), w.astype(_wide(x)), stride, padding).astype(x.dtype)


METHODS = {"xla": _by_xla, "onednn": _by_onednn, "matmul": _by_matmul}


def _on_cpu(dtype):
    """The method of programs for a CPU."""
    reason = onednn.unavailable(jnp.promote_types(dtype, jnp.float32))
    private.note("convolution", f"convolutions on CPUs: matrix products, because {reason}" if reason else None)
    return _by_matmul if reason else _by_onednn


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _auto(x, w, stride, padding):
    """The convolution by the method of the platform. Its gradients choose anew: none passes through the choice."""
    return _chosen(lambda method, x, w: method(x, w, stride, padding), x, w, kernel=1)


def _forward(x, w, stride, padding):
    return _auto(x, w, stride, padding), (x, w)


def _backward(stride, padding, saved, g):
    x, w = saved
    image, kernel = x.shape[1:], w.shape  # all that a gradient reads of what it is the gradient of

    def into_x(method, w, g):
        return jax.vjp(lambda x: method(x, w, stride, padding), jnp.zeros((len(g), *image), g.dtype))[1](g)[0]

    def into_w(method, x, g):
        return jax.vjp(lambda w: method(x, w, stride, padding), jnp.zeros(kernel, g.dtype))[1](g)[0]

    return _chosen(into_x, w, g, kernel=0), _chosen(into_w, x, g)


_auto.defvjp(_forward, _backward)


def _chosen(part, *args, kernel=None):
    """part(method, *args) by the method of the platform that the program is lowered for."""
    on_cpu = functools.partial(part, _on_cpu(args[0].dtype))
    return jax.lax.platform_dependent(*args, cpu=on_cpu, default=_elsewhere(part, kernel))


def _elsewhere(part, kernel):
    """part(method, *args) by XLA; by matrix products where it is vmapped over kernels, for XLA is slow with many.

    `kernel` is the place of the kernel in args. None stands for its gradient, of which a vmap always gives many.
    """

    @jax.custom_batching.custom_vmap
    def call(*args):
        return part(_by_xla, *args)

    @call.def_vmap
    def _(size, batched, *args):
        if kernel is None or batched[kernel]:
            return jax.vmap(functools.partial(part, _by_matmul), [0 if each else None for each in batched])(*args), True
        args = list(args)
        images = args[1 - kernel]
        args[1 - kernel] = images.reshape(-1, *images.shape[2:])
        together = call(*args)
        return together.reshape(size, -1, *together.shape[1:]), True

    return call
