"""Medians and intervals against values that one can work out by hand."""

import numpy as np
import pytest

from benchmarks.stats import first_mean, harmonic_mean, median_interval, paired_difference, ratio_interval


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


def test_the_same_answers_differ_by_nothing():
    right = np.array([[1.0], [0.0], [1.0]])
    assert paired_difference(right, right, first_mean) == (0.0, 0.0, 0.0)


def test_a_model_that_is_right_where_the_other_is_wrong():
    ours, theirs = np.array([[1.0], [1.0]]), np.array([[0.0], [1.0]])
    # Of two images drawn twice: both the first (1), one of each (1/2), both the second (0).
    assert paired_difference(ours, theirs, first_mean) == (0.5, 0.0, 1.0)


def test_the_interval_is_that_of_the_known_deviation():
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 100, 400)  # how hard an image is, the same for both
    gain = rng.normal(2, 1, 400)
    difference, low, high = paired_difference((hard + gain)[:, None], hard[:, None], first_mean)
    deviation = gain.std() / 20  # of a mean of 400
    assert difference == pytest.approx(gain.mean())
    assert (low, high) == pytest.approx((difference - 1.96 * deviation, difference + 1.96 * deviation), abs=0.02)


def test_the_f_score_of_all_images_is_not_the_mean_of_theirs():
    ours = np.array([[1, 1, 1], [0, 2, 4]])  # matched, detected, expected: 2 · 1 / (3 + 5)
    theirs = np.array([[1, 1, 1], [3, 4, 4]])  # 2 · 4 / (5 + 5)
    difference, low, high = paired_difference(ours, theirs, harmonic_mean)
    assert difference == pytest.approx(0.25 - 0.8)
    assert (low, high) == pytest.approx((0 - 0.75, 0.0))  # both the second image, both the first
    nothing = np.zeros((2, 3))
    assert paired_difference(nothing, nothing, harmonic_mean) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("other", [np.zeros((2, 1)), np.zeros((0, 1)), np.zeros(3)], ids=["shorter", "none", "flat"])
def test_refuses_records_that_are_no_pairs(other):
    with pytest.raises(ValueError, match="expected two equal tables"):
        paired_difference(np.zeros((3, 1)) if len(other) else other, other, first_mean)
