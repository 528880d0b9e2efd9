"""Medians and intervals against values that one can work out by hand."""

import numpy as np
import pytest

from benchmarks.stats import median_interval, ratio_interval


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([5.0], (5.0, 5.0, 5.0)),
        ([2.0, 2.0, 2.0], (2.0, 2.0, 2.0)),
        ([1.0, 2.0, 9.0], (2.0, 1.0, 9.0)),
    ],
    ids=["one sample", "no spread", "three samples"],
)
def test_median_interval(samples, expected):
    assert median_interval(np.array(samples)) == expected


def test_the_interval_holds_the_true_median_about_95_times_in_100():
    rng = np.random.default_rng(3)
    held = 0
    for trial in range(100):
        _, low, high = median_interval(rng.exponential(size=60), seed=trial)
        held += low <= np.log(2) <= high
    assert 88 <= held <= 100


def test_drift_that_hits_both_models_does_not_widen_the_ratio():
    drift = np.linspace(1, 3, 40)
    ratio, low, high = ratio_interval(2.0 * drift, drift)
    assert (ratio, low, high) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize(("samples", "reference"), [([], []), ([1.0], [1.0, 2.0])], ids=["none", "unequal"])
def test_refuses_what_has_no_ratio(samples, reference):
    with pytest.raises(ValueError, match="expected two equally long"):
        ratio_interval(np.array(samples), np.array(reference))
    with pytest.raises(ValueError, match="expected samples"):
        median_interval(np.array([]))
