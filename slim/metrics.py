"""How good a model is: detection, reading, direction and all of it together. Pure functions on plain data.

Each measure returns one record of counts per image (or line), so that totals and bootstrap intervals come from the same
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein
from shapely.geometry import Polygon

IOU_LIMIT = 0.5
IGNORED_SHARE = 0.5


@dataclass(frozen=True)
class Counts:
    """Of one image: matched detections, detections that count, ground truths that count."""

    matched: int
    detected: int
    expected: int


def detection_counts(
    found: np.ndarray,
    expected: np.ndarray,
    ignored: Sequence[bool],
    found_texts: Sequence[str] | None = None,
    expected_texts: Sequence[str] | None = None,
) -> Counts:
    """One image by the ICDAR 2015 protocol (Karatzas et al. 2015), one to one at IoU above .5.

    found: (N, 4, 2), expected: (M, 4, 2) px; ignored: M flags. A detection that lies with more than half of its area in
    one ignored region counts neither for nor against. With texts a pair matches only if its texts are equal as well,
    which makes it PP-OCR's end-to-end measure: the right place *and* the same text.
    """
    truths = [_polygon(quad) for quad in expected]
    detections = [_polygon(quad) for quad in found]
    dont_care = [truth for truth, skip in zip(truths, ignored, strict=True) if skip]
    counted = [
        index
        for index, polygon in enumerate(detections)
        if not any(polygon.intersection(region).area > IGNORED_SHARE * polygon.area for region in dont_care)
    ]
    open_truths = [index for index, skip in enumerate(ignored) if not skip]
    total = len(open_truths)
    matched = 0
    taken: set[int] = set()
    # In the truths' order, each takes the first detection that fits, as the protocol's own script does.
    for truth in open_truths:
        for detection in counted:
            if detection in taken or intersection_over_union(truths[truth], detections[detection]) <= IOU_LIMIT:
                continue
            if (
                found_texts is not None
                and expected_texts is not None
                and (found_texts[detection] != expected_texts[truth])
            ):
                continue
            taken.add(detection)
            matched += 1
            break
    return Counts(matched, len(counted), total)


def intersection_over_union(a: Polygon, b: Polygon) -> float:
    """Of two polygons; 0 where neither has an area."""
    overlap = a.intersection(b).area
    union = a.area + b.area - overlap
    return overlap / union if union > 0 else 0.0


def _polygon(quad: np.ndarray) -> Polygon:
    polygon = Polygon(np.asarray(quad, float))
    # A quad whose sides cross is repaired to the area that it covers; one without area becomes empty.
    return polygon if polygon.is_valid else polygon.buffer(0)


def f_score(counts: Sequence[Counts]) -> dict[str, float]:
    """precision, recall and their harmonic mean over all images; 0 where nothing was found or expected."""
    matched = sum(c.matched for c in counts)
    detected = sum(c.detected for c in counts)
    expected = sum(c.expected for c in counts)
    precision = matched / detected if detected else 0.0
    recall = matched / expected if expected else 0.0
    mean = 2 * precision * recall / (precision + recall) if matched else 0.0
    return {"hmean": mean, "precision": precision, "recall": recall}


def similarity(found: str, expected: str) -> float:
    """1 − edit distance / length of the longer text (1−NED); 1 for two empty texts."""
    longer = max(len(found), len(expected))
    return 1.0 - Levenshtein.distance(found, expected) / longer if longer else 1.0


def line_scores(found: Sequence[str], expected: Sequence[str]) -> np.ndarray:
    """(N, 2): whether each line is exactly right (0 or 1), and its 1−NED."""
    pairs = zip(found, expected, strict=True)
    return np.array([(float(a == b), similarity(a, b)) for a, b in pairs]).reshape(-1, 2)


def reading(scores: np.ndarray) -> dict[str, float]:
    """accuracy (lines without a single error) and ned (mean of 1−NED) from (N, 2) line scores; 0 for no line."""
    accuracy, ned = scores.mean(axis=0) if len(scores) else (0.0, 0.0)
    return {"accuracy": float(accuracy), "ned": float(ned)}


def direction(right: np.ndarray) -> dict[str, float]:
    """accuracy from (N,) flags of right answers; 0 for no crop."""
    return {"accuracy": float(right.mean()) if len(right) else 0.0}


def rows(records: Sequence[Counts] | np.ndarray) -> list[list[float]]:
    """One list of plain numbers a record: matched, detected, expected of Counts; (N,) and (N, K) arrays as they are."""
    if isinstance(records, np.ndarray):
        return records.reshape(len(records), -1).tolist()
    return [list(astuple(count)) for count in records]


def bootstrap(
    records: Any,
    measure: Callable[[Any], dict[str, float]],
    *,
    rounds: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile interval of every value of `measure` over records (images, lines) drawn again with replacement.

    records: a list, or an array of (N, …) of which rows are drawn.

    Returns name → (low, high); of an empty set the point value twice.
    """
    point = measure(records)
    if not len(records):
        return {name: (value, value) for name, value in point.items()}
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in point}
    for _ in range(rounds):
        indices = rng.integers(len(records), size=len(records))
        again = records[indices] if isinstance(records, np.ndarray) else [records[i] for i in indices]
        for name, value in measure(again).items():
            drawn[name].append(value)
    tail = (1.0 - level) / 2.0
    return {
        name: (float(np.quantile(values, tail)), float(np.quantile(values, 1.0 - tail)))
        for name, values in drawn.items()
    }
