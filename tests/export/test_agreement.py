"""How far two results are apart as the user sees them: tables that can be checked by hand."""

import numpy as np
import pytest

from export import agreement

BOX = np.array([[[0, 0], [10, 0], [10, 4], [0, 4]]], np.float32)
NONE = np.zeros((0, 4, 2), np.float32)
FAR = BOX + 100
RIGHT = np.array([1, 0], np.float32)


@pytest.mark.parametrize(
    ("reference", "other", "pairs", "iou", "shift", "same"),
    [
        (BOX, BOX, ((0, 0),), 1.0, 0.0, True),
        (BOX, BOX + RIGHT, ((0, 0),), 36 / 44, 1.0, True),
        (BOX, BOX + 2 * RIGHT, ((0, 0),), 32 / 48, 2.0, False),
        (BOX, FAR, (), 1.0, 0.0, False),
        (NONE, NONE, (), 1.0, 0.0, True),
        (BOX, NONE, (), 1.0, 0.0, False),
        (np.concatenate([BOX, FAR]), np.concatenate([FAR, BOX]), ((0, 1), (1, 0)), 1.0, 0.0, True),
        (BOX, np.concatenate([BOX, BOX]), ((0, 1),), 1.0, 0.0, False),
        (BOX, BOX[:, [1, 2, 3, 0]], ((0, 0),), 1.0, 10.0, False),
    ],
    ids=["equal", "1 px", "2 px", "elsewhere", "none", "lost", "other order", "twice", "turned"],
)
def test_match_boxes(reference, other, pairs, iou, shift, same):
    found = agreement.match_boxes(reference, other, 1.0)
    assert len(found.pairs) == len(pairs)
    if len(other) != 2 or len(reference) == 2:
        assert found.pairs == pairs
    assert (found.iou_lowest, found.shift_px, found.same) == (pytest.approx(iou), shift, same)


def test_mean_and_lowest_overlap():
    found = agreement.match_boxes(np.concatenate([BOX, FAR]), np.concatenate([BOX, FAR + RIGHT]), 1.0)
    assert found.iou_lowest == pytest.approx(36 / 44)
    assert found.iou_mean == pytest.approx((1 + 36 / 44) / 2)


@pytest.mark.parametrize(
    ("reference", "other", "pairs", "edits"),
    [
        (["Gate", "B12"], ["Gate", "B12"], None, 0),
        (["Gate", "B12"], ["Gale", "B1"], None, 2),
        (["Gate", "B12"], ["Gate"], None, 3),
        ([], ["Gate"], None, 4),
        (["Gate", "B12"], ["B12", "Gate"], ((0, 1), (1, 0)), 0),
        (["Gate", "B12"], ["B13"], ((1, 0),), 4 + 1),
    ],
)
def test_edit_distance(reference, other, pairs, edits):
    assert agreement.edit_distance(reference, other, pairs) == edits
