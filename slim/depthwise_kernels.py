"""Depthwise 3x3 and 5x5 convolution on the CPU, forward and backward, as compiled loops over NumPy arrays.

    y[n, c, i, j] = Σ_uv w[c, u, v] · x[n, c, i·s + u - p, j·s + v - p]

Every image plane is copied once into a zero-padded strip of `pitch` columns a row. There the tap (u, v) is the constant
offset u·pitch + v, so one long loop without borders serves all rows at once; the columns that straddle two rows come
out as junk and stay behind when the result is copied out. Strides are computed at stride 1 and thinned: wasteful, but
few layers have them.

x, w, y and their gradients are C-contiguous float32: x (N, C, H, W), w (C, 1, size, size), y (N, C, rows, cols).
Compiled at the first import and then cached beside this file.
"""

import functools

import numba
import numpy as np
from numba import types

# Sums may be reordered to fill vector registers; NaN and infinity keep their meaning, so that a diverging run shows.
FAST = {"reassoc", "contract", "nsz", "arcp"}
IMAGE = types.Array(types.float32, 4, "C")
UNSIGNED = np.uintp

_jit = functools.partial(numba.njit, fastmath=FAST, cache=True, nogil=True)


def _correlator(size):
    """out[q] = Σ_uv taps[u, v] · strip[q + u·pitch + v], for one `size`.

    That size is a constant here, which lets the compiler unroll the taps and fill vector registers along q; so do the
    unsigned indices, which spare the test for negative ones. Together 50 GMAC/s instead of 10.
    """

    @numba.njit(fastmath=FAST, nogil=True)
    def correlate(out, strip, taps, pitch):
        for q in range(UNSIGNED(out.size)):
            total = np.float32(0)
            for u in range(size):
                for v in range(size):
                    total += taps[u, v] * strip[q + UNSIGNED(u) * UNSIGNED(pitch) + UNSIGNED(v)]
            out[q] = total

    return correlate


_correlate3, _correlate5 = _correlator(3), _correlator(5)


@_jit()
def _correlate(out, strip, taps, pitch):
    if taps.shape[0] == 3:
        _correlate3(out, strip, taps, pitch)
    else:
        _correlate5(out, strip, taps, pitch)


@_jit()
def _add_dots(sums, grid, strip, pitch):
    """sums[u, v] += Σ_q grid[q] · strip[q + u·pitch + v]"""
    for u in range(sums.shape[0]):
        for v in range(sums.shape[1]):
            window = strip[u * pitch + v :]
            total = np.float32(0)
            for q in range(UNSIGNED(grid.size)):
                total += grid[q] * window[q]
            sums[u, v] += total


@_jit()
def _copy(target, source):
    """A loop, because numba's slice assignment is several times slower on short rows."""
    for t in range(UNSIGNED(target.size)):
        target[t] = source[t]


@_jit()
def _fill(strip, plane, pitch, pad_h, pad_w):
    width = plane.shape[1]
    for i in range(plane.shape[0]):
        start = (i + pad_h) * pitch + pad_w
        _copy(strip[start : start + width], plane[i])


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
        taps = w[c, 0].copy()  # memory of its own: `out` cannot overlap it, so the loops keep the taps in registers
        for n in range(batch):
            _fill(strip, x[n, c], pitch, pad_h, pad_w)
            _correlate(out, strip, taps, pitch)
            for i in range(rows):
                line = out[i * stride_h * pitch :]
                if stride_w == 1:
                    _copy(y[n, c, i], line)
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
                line = grid[i * stride_h * pitch :]
                if stride_w == 1:
                    _copy(line[:cols], gy[n, c, i])
                else:
                    for j in range(cols):
                        line[j * stride_w] = gy[n, c, i, j]
            _correlate(out, spread, flipped, pitch)
            for i in range(height):
                start = (i + pad_h) * pitch + pad_w
                _copy(gx[n, c, i], out[start : start + width])
            _add_dots(sums, grid, strip, pitch)
        for u in range(size):
            for v in range(size):
                gw[c, 0, u, v] = sums[u, v]
