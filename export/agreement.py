"""How far two results are apart as the user sees them: boxes by their overlap, texts by their edit distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz.distance import Levenshtein
from shapely.geometry import Polygon

# Below this two boxes are not the same one somewhere else, but two.
MATCH_IOU = 0.5


@dataclass(frozen=True)
class BoxAgreement:
    """expected, found: how many boxes; pairs: (reference index, other index) of the matched ones.

    iou_lowest, iou_mean: of the matched boxes, 1 where there is none to match; shift_px: farthest any corner of a
    matched box lies off. same: whether every box has its partner within the shift that was allowed.
    """

    expected: int
    found: int
    pairs: tuple[tuple[int, int], ...]
    iou_lowest: float
    iou_mean: float
    shift_px: float
    same: bool


def match_boxes(reference: np.ndarray, other: np.ndarray, allowed_px: float) -> BoxAgreement:
    """Pair quads (N, 4, 2) and (M, 4, 2), best overlap first.

    A corner has to keep its place in the quad: a box that starts at another corner is cut out turned.
    """
    overlaps = sorted(
        (
            (_overlap(a, b), i, j)
            for i, a in enumerate(reference)
            for j, b in enumerate(other)
            if (a.min(0) <= b.max(0)).all() and (b.min(0) <= a.max(0)).all()
        ),
        reverse=True,
    )
    pairs: dict[int, int] = {}
    ious: list[float] = []
    for iou, i, j in overlaps:
        if iou >= MATCH_IOU and i not in pairs and j not in pairs.values():
            pairs[i] = j
            ious.append(iou)
    shift = max((float(np.abs(reference[i] - other[j]).max()) for i, j in pairs.items()), default=0.0)
    return BoxAgreement(
        len(reference),
        len(other),
        tuple(sorted(pairs.items())),
        min(ious, default=1.0),
        float(np.mean(ious)) if ious else 1.0,
        shift,
        len(pairs) == len(reference) == len(other) and shift <= allowed_px,
    )


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    if np.array_equal(a, b):
        return 1.0
    one, two = Polygon(a).buffer(0), Polygon(b).buffer(0)
    union = one.union(two).area
    return one.intersection(two).area / union if union else 0.0


def edit_distance(
    reference: Sequence[str], other: Sequence[str], pairs: Sequence[tuple[int, int]] | None = None
) -> int:
    """Letters to change, add or drop, over all lines; a line without partner counts with its length.

    pairs: which lines belong together; None: the ones at the same place.
    """
    if pairs is None:
        pairs = [(i, i) for i in range(min(len(reference), len(other)))]
    ours, theirs = {i for i, _ in pairs}, {j for _, j in pairs}
    lonely = [text for i, text in enumerate(reference) if i not in ours]
    lonely += [text for j, text in enumerate(other) if j not in theirs]
    return sum(Levenshtein.distance(reference[i], other[j]) for i, j in pairs) + sum(map(len, lonely))
