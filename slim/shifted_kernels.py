"""The second half of a dense convolution done as "matrix product first, shifts after": sums of shifted planes.

    y[n, o, i, j] = Σ_uv z[n, (o·size + u)·size + v, i + u - pad, j + v - pad]

z (N, O·size², H, W) are the 1x1 convolutions of the input with every tap of the kernel; y (N, O, H, W), so
size = 2·pad + 1. Both C-contiguous float32. Compiled at the first import and then cached beside this file.
"""

import functools

import numba
import numpy as np
from numba import types

IMAGE = types.Array(types.float32, 4, "C")

_jit = functools.partial(numba.njit, cache=True, nogil=True)


@_jit((IMAGE, IMAGE, types.intp))
def gather(z, y, pad):
    """Writes y."""
    size = 2 * pad + 1
    batch, outputs, height, width = y.shape
    for n in range(batch):
        for o in range(outputs):
            for i in range(height):
                line = np.zeros(width, np.float32)
                for u in range(max(0, pad - i), min(size, height + pad - i)):
                    for v in range(size):
                        shift = v - pad
                        source = z[n, (o * size + u) * size + v, i + u - pad]
                        inside = width - abs(shift)
                        target, source = line[max(0, -shift) :], source[max(0, shift) :]
                        for t in range(np.uintp(inside)):
                            target[t] += source[t]
                for t in range(np.uintp(width)):
                    y[n, o, i, t] = line[t]


@_jit((IMAGE, IMAGE, types.intp))
def scatter(gy, gz, pad):
    """Writes gz, the gradient of z, from gy, the gradient of y: every plane of gy once for each tap, shifted back."""
    size = 2 * pad + 1
    batch, outputs, height, width = gy.shape
    for n in range(batch):
        for o in range(outputs):
            for u in range(size):
                for v in range(size):
                    shift = v - pad
                    left, right = max(0, -shift), max(0, shift)
                    for r in range(height):
                        i = r - u + pad
                        row = gz[n, (o * size + u) * size + v, r]
                        if i < 0 or i >= height:
                            row[:] = 0
                            continue
                        row[:right] = 0
                        row[width - left :] = 0
                        target, source = row[right:], gy[n, o, i, left:]
                        for t in range(np.uintp(width - left - right)):
                            target[t] = source[t]
