"""Probability map → boxes: tables that can be checked by hand, and the properties that hold for every map."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lite_runtime import db_postprocess as db

RULES = {
    "thresh": 0.3,
    "box_thresh": 0.6,
    "unclip_ratio": 1.5,
    "max_candidates": 1000,
    "score_mode": "fast",
    "use_dilation": False,
}


def box_map(*boxes: tuple[int, int, int, int, float], size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """Map of (height, width) with filled boxes (x0, y0, x1, y1 inclusive, probability)."""
    prob_map = np.zeros(size, np.float32)
    for x0, y0, x1, y1, p in boxes:
        prob_map[y0 : y1 + 1, x0 : x1 + 1] = p
    return prob_map


def found(prob_map: np.ndarray, image_shape: tuple[int, int] | None = None, **changes) -> tuple[np.ndarray, np.ndarray]:
    return db.boxes_from_prob_map(
        prob_map, **{**RULES, **changes}, image_shape=image_shape or (prob_map.shape[0], prob_map.shape[1])
    )


def rectangle(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


@pytest.mark.parametrize(
    ("quad", "ratio", "distance"),
    [
        (rectangle(0, 0, 40, 10), 1.5, 6.0),  # 400 * 1.5 / 100
        (rectangle(0, 0, 10, 10), 2.0, 5.0),
        (rectangle(5, 5, 25, 5), 1.5, 0.0),  # no area
        ([[0, 5], [5, 0], [10, 5], [5, 10]], 1.0, 50 / (4 * 50**0.5)),
    ],
)
def test_unclip_distance(quad, ratio, distance):
    assert db.unclip_distance(np.array(quad, np.float32), ratio) == pytest.approx(distance)


def test_unclip_distance_of_a_point():
    with pytest.raises(ValueError, match="outline"):
        db.unclip_distance(np.full((4, 2), 3.0), 1.5)


def test_unclip_grows_by_its_distance():
    grown = db.unclip(np.array(rectangle(20, 20, 60, 30), np.float32), 1.5)
    assert [grown[:, 0].min(), grown[:, 1].min(), grown[:, 0].max(), grown[:, 1].max()] == [14, 14, 66, 36]


def test_one_box():
    quads, scores = found(box_map((20, 20, 60, 30, 0.9)))  # 40 x 10 between pixel centres: grows by 6
    assert quads.tolist() == [rectangle(14, 14, 66, 36)]
    assert scores.tolist() == [pytest.approx(0.9)]
    assert quads.dtype == scores.dtype == np.float32


def test_boxes_are_scaled_to_the_image():
    quads, _ = found(box_map((20, 20, 60, 30, 0.9)), image_shape=(192, 384))  # 2 down, 3 across
    assert quads.tolist() == [rectangle(42, 28, 198, 72)]


def test_boxes_end_at_the_image():
    quads, _ = found(box_map((0, 0, 127, 20, 0.9)))
    assert quads.min() == 0 and quads[..., 0].max() == 128


@pytest.mark.parametrize(
    ("boxes", "changes", "count"),
    [
        ([], {}, 0),
        ([(20, 20, 60, 30, 0.29)], {}, 0),  # not above thresh
        ([(20, 20, 60, 30, 0.29)], {"thresh": 0.2, "box_thresh": 0.2}, 1),
        ([(20, 20, 60, 30, 0.5)], {}, 0),  # text by pixel, not by box
        ([(20, 20, 60, 30, 0.5)], {"box_thresh": 0.5}, 1),
        ([(20, 20, 60, 22, 0.9)], {}, 0),  # 3 rows: 2 px between centres, less than 3
        ([(20, 20, 60, 23, 0.9)], {}, 1),
        ([(20, 20, 20, 20, 0.9)], {}, 0),  # a dot
        ([(20, 20, 23, 23, 0.9)], {"unclip_ratio": 0.1}, 0),  # 3 px, grown by .075: less than 5
        ([(10, 10, 50, 20, 0.9), (10, 40, 50, 50, 0.9), (10, 70, 50, 80, 0.9)], {}, 3),
        ([(10, 10, 50, 20, 0.9), (10, 40, 50, 50, 0.9), (10, 70, 50, 80, 0.9)], {"max_candidates": 2}, 2),
    ],
)
def test_what_counts_as_text(boxes, changes, count):
    quads, scores = found(box_map(*boxes), **changes)
    assert quads.shape == (count, 4, 2) and scores.shape == (count,)


def test_nan_is_no_text():
    assert found(np.full((64, 64), np.nan, np.float32))[0].shape == (0, 4, 2)


def test_score_modes():
    """Two bars in an L: the rectangle around them is half empty, the contour is not."""
    prob_map = box_map((10, 10, 90, 20, 0.9), (10, 10, 20, 80, 0.9))
    assert found(prob_map, score_mode="fast")[0].shape[0] == 0
    quads, scores = found(prob_map, score_mode="slow")
    assert len(quads) == 1 and scores[0] == pytest.approx(0.9)


def test_unknown_score_mode():
    with pytest.raises(ValueError, match="expected fast or slow"):
        found(box_map(), score_mode="medium")


def test_dilation_joins_what_one_pixel_parts():
    prob_map = box_map((20, 20, 39, 30, 0.9), (41, 20, 60, 30, 0.9))
    assert len(found(prob_map)[0]) == 2
    assert len(found(prob_map, use_dilation=True)[0]) == 1


@pytest.mark.parametrize("angle", [0, 10, 30, 45, 60, 80, 89])
def test_min_area_quad_is_clockwise_from_top_left(angle):
    corners = cv2.boxPoints(((100, 100), (80, 20), angle))
    quad, short = db.min_area_quad(corners)
    assert short == pytest.approx(20, abs=0.1)
    following = np.roll(quad, -1, axis=0)
    doubled_area = (quad[:, 0] * following[:, 1] - following[:, 0] * quad[:, 1]).sum()
    assert doubled_area == pytest.approx(3200, rel=1e-2)  # positive: clockwise, as y points down
    assert quad[0, 1] < quad[3, 1] and quad[1, 1] < quad[2, 1]  # each upper corner before its lower one


def test_clockwise():
    shuffled = np.array([[50, 5], [5, 20], [5, 5], [50, 20]], np.float32)
    assert db.clockwise(shuffled[None]).tolist() == [rectangle(5, 5, 50, 20)]


def test_clockwise_keeps_a_square_on_its_tip():
    """Sums and differences tie; taking a corner twice would leave a box without area."""
    diamond = np.array([[749, 243], [759, 254], [750, 263], [740, 253]], np.float32)
    assert db.clockwise(diamond[None]).tolist() == [diamond.tolist()]


@pytest.mark.parametrize(
    ("quad", "expected"),
    [
        (rectangle(10, 10, 50, 20), rectangle(10, 10, 50, 20)),
        (rectangle(10, 10, 14, 20), rectangle(10, 10, 14, 20)),
        (rectangle(10, 10, 13, 20), None),  # 3 px
        (rectangle(10, 10, 50, 13), None),
        (rectangle(96, 10, 300, 20), None),  # 3 px are left inside
        (rectangle(90, 10, 300, 90), rectangle(90, 10, 99, 59)),  # the last pixel is 99, 59
        (rectangle(-9, -9, 20, 20), rectangle(0, 0, 20, 20)),
    ],
)
def test_keep_sizeable(quad, expected):
    quads, scores = db.keep_sizeable(np.array([quad], np.float32), np.array([0.7], np.float32), (60, 100))
    assert quads.tolist() == ([] if expected is None else [expected])
    assert quads.shape[1:] == (4, 2) and len(scores) == len(quads)


@pytest.mark.parametrize(
    ("corners", "order"),
    [
        ([], []),
        ([(5, 5)], [0]),
        ([(50, 100), (50, 10)], [1, 0]),
        ([(50, 10), (5, 19)], [1, 0]),  # 9 px lower: the same row
        ([(50, 10), (5, 20)], [0, 1]),  # 10 px: the next
        ([(50, 10), (5, 10)], [1, 0]),
        ([(90, 0), (50, 5), (10, 9)], [2, 1, 0]),
        ([(90, 0), (50, 8), (10, 16)], [1, 0, 2]),  # 16 px below the first it stops; then neighbours only
        ([(10, 50), (90, 0), (10, 4), (50, 52)], [2, 1, 0, 3]),
    ],
)
def test_reading_order(corners, order):
    quads = np.array([rectangle(x, y, x + 30, y + 8) for x, y in corners], np.float32).reshape(-1, 4, 2)
    assert db.reading_order(quads) == order


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 110), st.integers(0, 80), st.integers(3, 60), st.integers(3, 30)), max_size=6))
def test_every_map_gives_valid_boxes(boxes):
    prob_map = box_map(*[(x, y, x + w, y + h, 0.95) for x, y, w, h in boxes])
    quads, scores = found(prob_map, image_shape=(200, 300))
    assert quads.shape == (len(scores), 4, 2)
    assert np.all((scores >= 0.6) & (scores <= 1.0))
    assert np.all(quads >= 0) and np.all(quads <= (300, 200)) and np.array_equal(quads, np.round(quads))
    kept, _ = db.keep_sizeable(quads, scores, (200, 300))
    assert np.all(kept <= (299, 199))
    assert sorted(db.reading_order(kept)) == list(range(len(kept)))


def test_two_hundred_boxes_are_fast_enough():
    """A page must not cost more than the network; 200 boxes take about 30 ms here."""
    import time

    prob_map = np.zeros((960, 960), np.float32)
    for row in range(20):
        for column in range(10):
            prob_map[row * 48 + 10 : row * 48 + 30, column * 96 + 8 : column * 96 + 80] = 0.9
    start = time.perf_counter()
    quads, scores = found(prob_map)
    quads, _ = db.keep_sizeable(quads, scores, (960, 960))
    order = db.reading_order(quads)
    assert len(order) == 200
    assert time.perf_counter() - start < 1.0
