"""Where to clip, on histograms that one can work out by hand."""

import math

import numpy as np
import pytest

from slim import thresholds
from slim.thresholds import Histogram


def filled(counts, top, zeros=0):
    histogram = Histogram(len(counts))
    histogram.counts = np.array(counts, np.int64)
    histogram.top = histogram.peak = float(top)
    histogram.zeros = zeros
    return histogram


def test_counting():
    """Bins of .25 up to 1; then 3 comes, the top doubles twice, and pairs are merged twice."""
    histogram = Histogram(4)
    histogram.add(np.array([[0.0, 0.1], [-0.3, 1.0]]))
    assert (histogram.counts.tolist(), histogram.top, histogram.zeros) == ([1, 1, 0, 1], 1.0, 1)
    histogram.add(np.array([-3.0, 0.0, 0.6]))
    assert (histogram.counts.tolist(), histogram.top, histogram.zeros) == ([4, 0, 0, 1], 4.0, 2)
    assert histogram.peak == 3.0 and histogram.width == 1.0


def test_counting_in_parts_or_at_once_is_the_same():
    values = np.random.default_rng(1).standard_normal(5000) * np.array([1.0, 4.0]).repeat(2500)
    parts, whole = Histogram(), Histogram()
    for part in np.split(values, 10):
        parts.add(part)
    whole.add(np.array([parts.top]))
    whole.add(values)
    whole.counts[-1] -= 1
    # A value on a bin's edge may fall to either side of it.
    assert parts.counts.sum() == whole.counts.sum() == 5000
    assert np.abs(np.cumsum(parts.counts - whole.counts)).max() <= 1


def test_not_finite_values_are_refused():
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="expected finite values"):
            Histogram().add(np.array([1.0, bad]))


@pytest.mark.parametrize(
    "counts, zeros, percentile, level",
    [
        ([5, 3, 1, 1], 0, 50, 1.0),  # half of ten values lie in the first bin
        ([5, 3, 1, 1], 0, 80, 2.0),
        ([5, 3, 1, 1], 0, 65, 1.5),  # half-way through the second bin
        ([5, 3, 1, 1], 0, 100, 4.0),
        ([5, 3, 1, 1], 10, 75, 1.0),  # ten zeros come first
        ([5, 3, 1, 1], 90, 80, 0.0),  # among the zeros
        ([5, 0, 0, 5], 0, 50, 1.0),  # no further than needed
    ],
)
def test_percentile(counts, zeros, percentile, level):
    assert thresholds.by_percentile(filled(counts, 4, zeros), percentile) == pytest.approx(level)


def test_squared_error_by_hand():
    """Centres .5, 1.5, 2.5, 3.5; threshold 2 in two steps of 1: → 0 (rint of .5), 2, 2, 2."""
    error = thresholds.squared_error(np.array([4, 2, 1, 1]), 1.0, 2.0, levels=2)
    assert error == pytest.approx(4 * 0.25 + 2 * 0.25 + 1 * 0.25 + 1 * 2.25)
    # Threshold 4 in two steps of 2: → 0, 2, 2, 4.
    error = thresholds.squared_error(np.array([4, 2, 1, 1]), 1.0, 4.0, levels=2)
    assert error == pytest.approx(4 * 0.25 + 2 * 0.25 + 1 * 0.25 + 1 * 0.25)


def test_squared_error_agrees_with_the_values_themselves():
    values = np.random.default_rng(2).laplace(size=20000)
    histogram = Histogram()
    histogram.add(values)
    for level in (2.0, 5.0, histogram.peak):
        step = level / 127
        exact = np.square(values - np.clip(np.rint(values / step), -127, 127) * step).sum()
        found = thresholds.squared_error(histogram.counts, histogram.width, level)
        assert found == pytest.approx(exact, rel=0.05)
    best = thresholds.by_squared_error(histogram)
    assert 3.0 < best < histogram.peak, "a Laplace tail is worth clipping at eight bits"


def test_divergence_by_hand():
    """Four bins as two groups. All kept: means 3, 3, 1, 1 against 4, 2, 1, 1. Two kept: the tail moves into bin 2."""
    counts = np.array([4, 2, 1, 1])
    expected = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3)
    assert thresholds.divergence(counts, 4, levels=2) == pytest.approx(expected)
    # P = (4, 4)/8, Q = (4, 2)/6.
    expected = 0.5 * math.log(0.5 / (4 / 6)) + 0.5 * math.log(0.5 / (2 / 6))
    assert thresholds.divergence(counts, 2, levels=2) == pytest.approx(expected)


def test_divergence_skips_empty_bins():
    """(6, 0) as one group is spread over its one filled bin: nothing is lost."""
    assert thresholds.divergence(np.array([6, 0, 2, 2]), 4, levels=2) == pytest.approx(0)


def test_divergence_charges_for_what_is_lost():
    """The clipped tail falls on an empty bin, which Q cannot fill."""
    found = thresholds.divergence(np.array([9, 0, 0, 1]), 2, levels=2)
    assert found == pytest.approx(0.9 * math.log(0.9) + 0.1 * math.log(0.1 / thresholds.NEVER))


@pytest.mark.parametrize("method", thresholds.METHODS)
def test_uniform_values_are_kept_whole(method):
    histogram = filled([100] * thresholds.BINS, 8.0)
    assert thresholds.threshold(histogram, method, 100) == pytest.approx(8.0, rel=0.02)


@pytest.mark.parametrize("method", thresholds.METHODS)
def test_a_lone_outlier_is_clipped(method):
    """A million values within ±1 and a single 40."""
    values = np.random.default_rng(3).uniform(-1, 1, 1_000_000)
    histogram = Histogram()
    histogram.add(values)
    histogram.add(np.array([40.0]))
    assert thresholds.threshold(histogram, method, 99.99) < (10 if method == "mse" else 4)


@pytest.mark.parametrize("method", thresholds.METHODS)
def test_thresholds_of_little(method):
    nothing = Histogram()
    nothing.add(np.zeros(9))
    assert thresholds.threshold(nothing, method, 99.99) == 1.0
    single = Histogram()
    single.add(np.array([0.0] * 99999 + [3.0]))
    assert thresholds.threshold(single, method, 99.99) == pytest.approx(3.0)
