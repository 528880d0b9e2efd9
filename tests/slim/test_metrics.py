import numpy as np
import pytest
from shapely.geometry import Polygon

from slim import metrics
from slim.metrics import Counts


def box(x, y, width, height):
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]


def quads(*boxes):
    return np.array([box(*b) for b in boxes], np.float32).reshape(-1, 4, 2)


A, B = (0, 0, 40, 10), (100, 0, 40, 10)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param(box(0, 0, 4, 4), box(0, 0, 4, 4), 1.0, id="perfect"),
        pytest.param(box(0, 0, 4, 4), box(2, 2, 4, 4), 4 / 28, id="partial 4/28"),
        pytest.param(box(0, 0, 4, 4), box(9, 9, 4, 4), 0.0, id="apart"),
        pytest.param(box(0, 0, 4, 4), box(4, 0, 4, 4), 0.0, id="touching"),
        pytest.param(box(0, 0, 4, 0), box(0, 0, 4, 4), 0.0, id="degenerate line"),
        pytest.param(box(0, 0, 0, 0), box(0, 0, 0, 0), 0.0, id="degenerate point twice"),
    ],
)
def test_intersection_over_union(a, b, expected):
    assert metrics.intersection_over_union(Polygon(a), Polygon(b)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("found", "expected", "ignored", "counts"),
    [
        pytest.param([A, B], [A, B], [0, 0], (2, 2, 2), id="perfect"),
        pytest.param([A], [A, B], [0, 0], (1, 1, 2), id="one missed"),
        pytest.param([A, B], [A], [0], (1, 2, 1), id="one too many"),
        pytest.param([A, A], [A], [0], (1, 2, 1), id="found twice, matched once"),
        pytest.param([(0, 0, 20, 10)], [A], [0], (0, 1, 1), id="IoU of exactly one half is not enough"),
        pytest.param([(0, 0, 21, 10)], [A], [0], (1, 1, 1), id="IoU just above one half"),
        pytest.param([A, B], [A, B], [0, 1], (1, 1, 1), id="ignored text found"),
        pytest.param([A], [A, B], [0, 1], (1, 1, 1), id="ignored text missed"),
        pytest.param([A, (120, 0, 40, 10)], [A, B], [0, 1], (1, 2, 1), id="half on an ignored region counts"),
        pytest.param([A, (119, 0, 40, 10)], [A, B], [0, 1], (1, 1, 1), id="more than half on one does not"),
        pytest.param([], [A], [0], (0, 0, 1), id="nothing found"),
        pytest.param([A], [], [], (0, 1, 0), id="nothing expected"),
        pytest.param([], [], [], (0, 0, 0), id="empty"),
    ],
)
def test_detection_counts(found, expected, ignored, counts):
    assert metrics.detection_counts(quads(*found), quads(*expected), [bool(i) for i in ignored]) == Counts(*counts)


def test_a_quad_with_crossing_sides_is_no_crash():
    bow_tie = np.array([[[0, 0], [40, 10], [40, 0], [0, 10]]], np.float32)
    assert metrics.detection_counts(bow_tie, quads(A), [False]) == Counts(0, 1, 1)


@pytest.mark.parametrize(
    ("found", "expected", "matched"),
    [
        pytest.param(["cat", "dog"], ["cat", "dog"], 2, id="right place and text"),
        pytest.param(["cat", "dqg"], ["cat", "dog"], 1, id="right place, one letter wrong"),
        pytest.param(["dog", "cat"], ["cat", "dog"], 0, id="texts swapped"),
        pytest.param(["Cat", "dog "], ["cat", "dog"], 0, id="case and spaces count"),
    ],
)
def test_end_to_end_counts(found, expected, matched):
    counts = metrics.detection_counts(quads(A, B), quads(A, B), [False, False], found, expected)
    assert counts == Counts(matched, 2, 2)


@pytest.mark.parametrize(
    ("counts", "precision", "recall", "hmean"),
    [
        pytest.param([(2, 2, 2), (1, 1, 1)], 1.0, 1.0, 1.0, id="perfect"),
        pytest.param([(1, 1, 2), (1, 3, 2)], 0.5, 0.5, 0.5, id="half, over all images together"),
        pytest.param([(1, 1, 4)], 1.0, 0.25, 0.4, id="precise, not complete"),
        pytest.param([(0, 3, 2)], 0.0, 0.0, 0.0, id="all wrong"),
        pytest.param([(0, 0, 0)], 0.0, 0.0, 0.0, id="an image without text"),
        pytest.param([], 0.0, 0.0, 0.0, id="empty"),
    ],
)
def test_f_score(counts, precision, recall, hmean):
    found = metrics.f_score([Counts(*c) for c in counts])
    assert found == pytest.approx({"hmean": hmean, "precision": precision, "recall": recall})


@pytest.mark.parametrize(
    ("found", "expected", "value"),
    [
        pytest.param("cat", "cat", 1.0, id="equal"),
        pytest.param("cart", "cat", 0.75, id="one inserted, of 4"),
        pytest.param("kitten", "sitting", 1 - 3 / 7, id="three edits, of 7"),
        pytest.param("", "cat", 0.0, id="nothing read"),
        pytest.param("", "", 1.0, id="empty"),
    ],
)
def test_similarity(found, expected, value):
    assert metrics.similarity(found, expected) == pytest.approx(value)


def test_reading():
    scores = metrics.line_scores(["cat", "cart"], ["cat", "cat"])
    assert metrics.reading(scores) == pytest.approx({"accuracy": 0.5, "ned": 0.875})
    assert metrics.reading(metrics.line_scores([], [])) == {"accuracy": 0.0, "ned": 0.0}


def test_direction():
    assert metrics.direction(np.array([1.0, 1.0, 0.0, 1.0])) == {"accuracy": 0.75}
    assert metrics.direction(np.zeros(0)) == {"accuracy": 0.0}


class TestBootstrap:
    def test_all_alike_leaves_no_doubt(self):
        assert metrics.bootstrap(np.ones(20), metrics.direction) == {"accuracy": (1.0, 1.0)}

    def test_interval_of_a_coin(self):
        """50 of 100: the binomial's 95 % interval is .5 ± 1.96 · .05."""
        low, high = metrics.bootstrap(np.repeat([0.0, 1.0], 50), metrics.direction)["accuracy"]
        assert low == pytest.approx(0.40, abs=0.015)
        assert high == pytest.approx(0.60, abs=0.015)

    def test_same_seed_same_interval(self):
        counts = [Counts(n % 3, 3, 3) for n in range(30)]
        first = metrics.bootstrap(counts, metrics.f_score, seed=3)
        assert first == metrics.bootstrap(counts, metrics.f_score, seed=3)
        assert first != metrics.bootstrap(counts, metrics.f_score, seed=4)

    def test_empty(self):
        assert metrics.bootstrap([], metrics.f_score)["hmean"] == (0.0, 0.0)
