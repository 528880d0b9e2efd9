"""Where to clip a tensor before it becomes int8: three rules over one histogram of its magnitudes. numpy only.

hist  a percentile of the values
mse   the smallest mean squared error of clipping and rounding together
kl    the smallest divergence between the values' distribution and its int8 version (Migacz 2017, "8-bit Inference
      with TensorRT", GTC)
A threshold T maps [-T, T] to -127 … 127 in equal steps; what lies beyond is clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

BINS = 2048
# Steps from 0 to T; int8 is used symmetrically, so -128 stays free.
LEVELS = 127
# Values exactly 0 are 0 under any threshold, so they take no part in KL; it groups bins as TensorRT does.
KL_LEVELS = 128
MSE_CANDIDATES = 256
# Stands for "never": a value that int8 has lost costs its share times ln(share / NEVER).
NEVER = 1e-9
METHODS = ("kl", "hist", "mse")


class Histogram:
    """|x| in `BINS` equal bins from 0 to `top`, which doubles when something larger comes; zeros are counted apart.

    peak: the largest |x| so far.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.counts = np.zeros(bins, np.int64)
        self.top = self.peak = 0.0
        self.zeros = 0

    @property
    def width(self) -> float:
        """Of one bin."""
        return self.top / self.counts.size

    def add(self, x: np.ndarray) -> None:
        """Count an array of any shape. Raises ValueError for values that are not finite."""
        magnitudes = np.abs(np.asarray(x, np.float32)).ravel()
        largest = float(magnitudes.max(initial=0.0))
        if not np.isfinite(largest):
            raise ValueError("expected finite values, found nan or inf")
        nonzero = magnitudes[magnitudes > 0]
        self.zeros += magnitudes.size - nonzero.size
        if not nonzero.size:
            return
        self.peak = max(self.peak, largest)
        self.top = self.top or largest
        while self.top < largest:
            # Pairs of bins become one: every count stays exact.
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([merged, np.zeros_like(merged)])
            self.top *= 2
        self.counts += np.histogram(nonzero, bins=self.counts.size, range=(0.0, self.top))[0]


def by_percentile(histogram: Histogram, percentile: float) -> float:
    """The magnitude that `percentile` of all values, zeros among them, stay below; linear within a bin."""
    wanted = percentile / 100 * (histogram.zeros + histogram.counts.sum()) - histogram.zeros
    if wanted <= 0:
        return 0.0
    reached = np.cumsum(histogram.counts)
    index = min(int(np.searchsorted(reached, wanted)), reached.size - 1)
    below = reached[index - 1] if index else 0
    return float((index + (wanted - below) / histogram.counts[index]) * histogram.width)


def squared_error(counts: np.ndarray, width: float, threshold: float, levels: int = LEVELS) -> float:
    """Σ (x - q(x))² with every value in the middle of its bin; counts: (bins,)."""
    centres = (np.arange(counts.size) + 0.5) * width
    step = threshold / levels
    rounded = np.minimum(np.rint(centres / step), levels) * step
    return float((counts * np.square(centres - rounded)).sum())


def by_squared_error(histogram: Histogram, levels: int = LEVELS) -> float:
    """The threshold of the smallest squared error among `MSE_CANDIDATES` equally spaced ones up to the top."""
    candidates = histogram.top * np.arange(1, MSE_CANDIDATES + 1) / MSE_CANDIDATES
    errors = [squared_error(histogram.counts, histogram.width, float(t), levels) for t in candidates]
    return float(candidates[int(np.argmin(errors))])


def divergence(counts: np.ndarray, kept: int, levels: int = KL_LEVELS) -> float:
    """KL(P ‖ Q) when only the first `kept` bins survive; counts: (bins,), kept ≥ levels.

    P: the kept bins, with all that is clipped added to the last. Q: the kept bins as `levels` equal groups, each spread
    evenly over its bins that are not empty.
    """
    inside = counts[:kept].astype(np.float64)
    wanted = inside.copy()
    wanted[-1] += counts[kept:].sum()
    starts = (np.arange(levels) * kept) // levels
    group = np.repeat(np.arange(levels), np.diff(np.append(starts, kept)))
    filled = np.add.reduceat((inside > 0).astype(np.float64), starts)
    mean = np.add.reduceat(inside, starts) / np.maximum(filled, 1)
    found = np.where(inside > 0, mean[group], 0.0)
    wanted, found = wanted / wanted.sum(), found / max(found.sum(), 1.0)
    some = wanted > 0
    return float((wanted[some] * np.log(wanted[some] / np.maximum(found[some], NEVER))).sum())


def by_divergence(histogram: Histogram, levels: int = KL_LEVELS, every: int = 4) -> float:
    """The threshold of the smallest divergence, tried at every `every`-th bin's end."""
    bins = histogram.counts.size
    ends = [*range(levels, bins, every), bins]
    best = min(ends, key=lambda kept: divergence(histogram.counts, kept, levels))
    return best * histogram.width


def threshold(histogram: Histogram, method: str, percentile: float) -> float:
    """Where `method` clips; never above the peak. A tensor without a value but 0 gets 1: nothing to clip."""
    if not histogram.peak:
        return 1.0
    rules: dict[str, Callable[[], Any]] = {
        "hist": lambda: by_percentile(histogram, percentile),
        "mse": lambda: by_squared_error(histogram),
        "kl": lambda: by_divergence(histogram),
    }
    # A percentile may lie among the zeros; then there is nothing but the peak to go by.
    return min(rules[method](), histogram.peak) or histogram.peak
