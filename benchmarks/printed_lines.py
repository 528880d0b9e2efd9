"""Lines read from a photo beside the lines that are printed on it, and beside another system's. Pure functions.

The rule of comparison: a printed line counts as read when the system gives a line that is equal to it, character for
character, upper and lower case and punctuation included; each line read serves for one printed line. Where it lies
does not matter. With spaces ignored, all white space is first taken out of both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

FILE = Path(__file__).with_suffix(".yaml")
# Of two boxes that hold the same line; a line found in two pieces stays in two rows.
SAME_PLACE = 0.5


def load() -> dict[str, list[str]]:
    """Photo, as a path under images/ → the lines printed on it."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def count_read(read: Sequence[str], printed: Sequence[str], *, spaces: bool) -> int:
    """How many of the printed lines were read without a single error."""
    if not spaces:
        read, printed = (["".join(line.split()) for line in lines] for lines in (read, printed))
    return (Counter(read) & Counter(printed)).total()


def pair_lines(ours: np.ndarray, theirs: np.ndarray) -> list[tuple[int | None, int | None]]:
    """Which lines of two systems lie at the same place: (index or None, index or None), in the photo's order.

    ours: (N, 4, 2), theirs: (M, 4, 2) px. Boxes are compared by their upright rectangles; the pairs that overlap most
    are made first. What has no partner stands alone, between its neighbours from top to bottom.
    """
    a, b = _rectangles(ours), _rectangles(theirs)
    overlaps = sorted(
        ((_overlap(a[i], b[j]), i, j) for i in range(len(a)) for j in range(len(b))),
        key=lambda row: (-row[0], *row[1:]),
    )
    partner: dict[int, int] = {}
    for share, i, j in overlaps:
        if share > SAME_PLACE and i not in partner and j not in partner.values():
            partner[i] = j
    rows: list[tuple[int | None, int | None]] = [(i, partner.get(i)) for i in range(len(a))]
    rows += [(None, j) for j in range(len(b)) if j not in partner.values()]

    def place(row: tuple[int | None, int | None]) -> tuple[float, float]:
        rectangle = a[row[0]] if row[0] is not None else b[row[1]] if row[1] is not None else np.zeros(4)
        return float(rectangle[1] + rectangle[3]), float(rectangle[0])

    return sorted(rows, key=place)


def _rectangles(quads: np.ndarray) -> np.ndarray:
    """(N, 4, 2) → (N, 4) as left, top, right, bottom."""
    quads = np.asarray(quads, float).reshape(-1, 4, 2)
    return np.concatenate([quads.min(axis=1), quads.max(axis=1)], axis=1)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two rectangles; 0 where neither has an area."""
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0.0, None)
    shared = float(sides.prod())
    union = float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - shared
    return shared / union if union > 0 else 0.0
