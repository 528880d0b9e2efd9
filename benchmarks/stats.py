"""Medians with their uncertainty. Pure numpy: samples in, numbers out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
RESAMPLES = 2000


def median_interval(samples: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Median of (N,) samples and its percentile-bootstrap interval (Efron 1979) at 95 %.

    Raises ValueError for no samples. One sample: the interval is that sample.
    """
    samples = np.asarray(samples, float)
    if samples.size == 0:
        raise ValueError("expected samples, found none")
    draws = np.random.default_rng(seed).integers(0, samples.size, (RESAMPLES, samples.size))
    low, high = _percentiles(np.median(samples[draws], axis=1))
    return float(np.median(samples)), low, high


def ratio_interval(samples: np.ndarray, reference: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Median of `samples` over median of `reference`, (N,) both and paired round by round, with its 95 % interval.

    Rounds are resampled together, so a drift that hits both models in a round does not widen the interval.
    """
    samples, reference = np.asarray(samples, float), np.asarray(reference, float)
    if samples.size == 0 or samples.shape != reference.shape:
        raise ValueError(f"expected two equally long rows of samples, found {samples.shape} and {reference.shape}")
    draws = np.random.default_rng(seed).integers(0, samples.size, (RESAMPLES, samples.size))
    ratios = np.median(samples[draws], axis=1) / np.median(reference[draws], axis=1)
    low, high = _percentiles(ratios)
    return float(np.median(samples) / np.median(reference)), low, high


def paired_difference(
    records: ArrayLike, reference: ArrayLike, measure: Callable[[np.ndarray], np.ndarray], seed: int = 0
) -> tuple[float, float, float]:
    """`measure` of one model minus that of the other, with its 95 % interval; the same images for both.

    records, reference: (N, K), a row an image. measure: means of the K columns, (..., K), to values (...).
    Images are drawn again for both models together, so how hard an image is does not widen the interval.
    """
    ours, theirs = np.asarray(records, float), np.asarray(reference, float)
    if ours.ndim != 2 or ours.shape != theirs.shape or not len(ours):
        raise ValueError(f"expected two equal tables of records, found {ours.shape} and {theirs.shape}")
    count = len(ours)
    rng = np.random.default_rng(seed)
    # How often each image was drawn, rather than the draws themselves: a resample's mean is then one product.
    times = np.stack([np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(RESAMPLES)])
    differences = measure(times @ ours / count) - measure(times @ theirs / count)
    low, high = _percentiles(differences)
    return float(measure(ours.mean(axis=0)) - measure(theirs.mean(axis=0))), low, high


def first_mean(means: np.ndarray) -> np.ndarray:
    """Accuracy: the mean of the first column."""
    return means[..., 0]


def harmonic_mean(means: np.ndarray) -> np.ndarray:
    """F-score from means of (matched, detected, expected): 2 · matched / (detected + expected); 0 of nothing."""
    total = means[..., 1] + means[..., 2]
    return np.divide(2 * means[..., 0], total, out=np.zeros_like(total), where=total > 0)


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def rank_correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's correlation of two equally long rows: Pearson's, of their ranks, equal values sharing the mean rank.

    NaN where one row holds a single value over and over. Raises ValueError below two values or for unequal lengths.
    """
    one, other = np.asarray(first, float), np.asarray(second, float)
    if one.ndim != 1 or one.shape != other.shape or one.size < 2:
        raise ValueError(f"expected two rows of at least two values, found {one.shape} and {other.shape}")
    one, other = _ranks(one), _ranks(other)
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / scale if scale else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[place]
