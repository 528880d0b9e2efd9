"""Depthwise 3x3 and 5x5 convolution on the CPU, forward and backward, as compiled loops over NumPy arrays.

    y[n, c, i, j] = Σ_uv w[c, u, v] · x[n, c, i·s + u - p, j·s + v - p]

Every image plane is copied once into a zero-padded strip of `pitch` columns a row. There the tap (u, v) is the constant
offset u·pitch + v, so one long loop without borders serves all rows at once; the columns that straddle two rows come
out as junk and stay behind when the result is copied out. Strides are computed at stride 1 and thinned: wasteful, but
few layers have them.

x, w, y and their gradients are C-contiguous float32: x (N, C, H, W), w (C, 1, size, size), y (N, C, rows, cols).
Compiled on first use and then cached beside this file.
"""

import functools

import numba
import numpy as np
from numba import types

# Sums may be reordered to fill vector registers; NaN and infinity keep their meaning, so that a diverging run shows.
FAST = {"reassoc", "contract", "nsz", "arcp"}
IMAGE = types.Array(types.float32, 4, "C")

_jit = functools.partial(numba.njit, fastmath=FAST, cache=True, nogil=True)


@_jit()
def _add_row(out, strip, taps):
    """out[q] += Σ_v taps[v] · strip[q + v], for 3 or 5 taps; spelled out so that the taps stay in registers."""
    if taps.size == 3:
        a, b, c = taps[0], taps[1], taps[2]
        s1, s2 = strip[1:], strip[2:]
        for q in range(out.size):
            out[q] += a * strip[q] + b * s1[q] + c * s2[q]
    else:
        a, b, c, d, e = taps[0], taps[1], taps[2], taps[3], taps[4]
        s1, s2, s3, s4 = strip[1:], strip[2:], strip[3:], strip[4:]
        for q in range(out.size):
            out[q] += a * strip[q] + b * s1[q] + c * s2[q] + d * s3[q] + e * s4[q]


@_jit()
def _correlate(out, strip, taps, pitch):
    """out[q] = Σ_uv taps[u, v] · strip[q + u·pitch + v]"""
    out[:] = 0
    for u in range(taps.shape[0]):
        _add_row(out, strip[u * pitch :], taps[u])


@_jit()
def _dot_row(sums, grid, strip):
    """sums[v] += Σ_q grid[q] · strip[q + v]"""
    zero = np.float32(0)
    if sums.size == 3:
        a, b, c = zero, zero, zero
        s1, s2 = strip[1:], strip[2:]
        for q in range(grid.size):
            g = grid[q]
            a += g * strip[q]
            b += g * s1[q]
            c += g * s2[q]
        sums[0] += a
        sums[1] += b
        sums[2] += c
    else:
        a, b, c, d, e = zero, zero, zero, zero, zero
        s1, s2, s3, s4 = strip[1:], strip[2:], strip[3:], strip[4:]
        for q in range(grid.size):
            g = grid[q]
            a += g * strip[q]
            b += g * s1[q]
            c += g * s2[q]
            d += g * s3[q]
            e += g * s4[q]
        sums[0] += a
        sums[1] += b
        sums[2] += c
        sums[3] += d
        sums[4] += e


@_jit()
def _fill(strip, plane, pitch, pad_h, pad_w):
    width = plane.shape[1]
    for i in range(plane.shape[0]):
        start = (i + pad_h) * pitch + pad_w
        strip[start : start + width] = plane[i]


@_jit((IMAGE, IMAGE, IMAGE, types.intp, types.intp, types.intp, types.intp))
def forward(x, w, y, stride_h, stride_w, pad_h, pad_w):
    """Writes y."""
    batch, channels, height, width = x.shape
    rows, cols = y.shape[2], y.shape[3]
    size = w.shape[2]
    pitch = width + 2 * pad_w
    padded = height + 2 * pad_h
    strip = np.zeros(padded * pitch + size, np.float32)
    out = np.empty((padded - size + 1) * pitch, np.float32)
    for c in range(channels):
        for n in range(batch):
            _fill(strip, x[n, c], pitch, pad_h, pad_w)
            _correlate(out, strip, w[c, 0], pitch)
            for i in range(rows):
                line = out[i * stride_h * pitch : (i * stride_h + 1) * pitch]
                if stride_w == 1:
                    y[n, c, i] = line[:cols]
                else:
                    for j in range(cols):
                        y[n, c, i, j] = line[j * stride_w]


@_jit((IMAGE, IMAGE, IMAGE, IMAGE, IMAGE, types.intp, types.intp, types.intp, types.intp))
def backward(x, w, gy, gx, gw, stride_h, stride_w, pad_h, pad_w):
    """Writes gx and gw, the gradients of x and w, from gy, the gradient of y."""
    batch, channels, height, width = x.shape
    rows, cols = gy.shape[2], gy.shape[3]
    size = w.shape[2]
    pitch = width + 2 * pad_w
    padded = height + 2 * pad_h
    length = (padded - size + 1) * pitch
    margin = (size - 1) * (pitch + 1)
    strip = np.zeros(padded * pitch + size, np.float32)
    # gy spread to stride 1 on the strip's pitch, zeros between, before and after: the flipped kernel slides over it.
    spread = np.zeros(margin + length + margin + size, np.float32)
    grid = spread[margin : margin + length]
    out = np.empty(padded * pitch, np.float32)
    for c in range(channels):
        flipped = w[c, 0, ::-1, ::-1].copy()
        sums = np.zeros((size, size), np.float64)
        for n in range(batch):
            _fill(strip, x[n, c], pitch, pad_h, pad_w)
            for i in range(rows):
                line = grid[i * stride_h * pitch : (i * stride_h + 1) * pitch]
                if stride_w == 1:
                    line[:cols] = gy[n, c, i]
                else:
                    for j in range(cols):
                        line[j * stride_w] = gy[n, c, i, j]
            _correlate(out, spread, flipped, pitch)
            for i in range(height):
                start = (i + pad_h) * pitch + pad_w
                gx[n, c, i] = out[start : start + width]
            for u in range(size):
                _dot_row(sums[u], grid, strip[u * pitch :])
        for u in range(size):
            for v in range(size):
                gw[c, 0, u, v] = sums[u, v]
