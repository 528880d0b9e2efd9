"""What the DB detector learns from: shrunk text, threshold borders, and where neither counts.

Liao et al. 2020, arXiv:1911.08947, "Label generation": a text polygon of area A and perimeter L is shrunk and
grown by D = A (1 - r²) / L with r = 0.4; the threshold map falls from .7 on the text's border to .3 at distance D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

SHRINK_RATIO = 0.4
THRESH_MIN, THRESH_MAX = 0.3, 0.7
MIN_SIDE_PX = 6.0  # smaller text does not count: after the shrink nothing would be left of it


class Targets(NamedTuple):
    """Each (H, W) float32. prob: 0/1 shrunk text; masks: 1 where the loss looks; thresh: .3 to .7."""

    prob: np.ndarray
    prob_mask: np.ndarray
    thresh: np.ndarray
    thresh_mask: np.ndarray


def shrink_distance(quad: np.ndarray, ratio: float = SHRINK_RATIO) -> float:
    """D = A (1 - r²) / L in px, for a quad (n, 2)."""
    area = abs(float(cv2.contourArea(quad.astype(np.float32))))
    length = float(cv2.arcLength(quad.astype(np.float32), True))
    return area * (1 - ratio * ratio) / max(length, 1e-6)


def offset(quad: np.ndarray, distance: float) -> np.ndarray | None:
    """The polygon (m, 2) float32 `distance` px outside the quad (negative: inside); None if nothing is left."""
    import pyclipper

    scale = 256  # pyclipper counts in integers
    tool = pyclipper.PyclipperOffset()
    tool.AddPath(
        [(round(float(x) * scale), round(float(y) * scale)) for x, y in quad],
        pyclipper.JT_ROUND,
        pyclipper.ET_CLOSEDPOLYGON,
    )
    found = tool.Execute(distance * scale)
    if not found:
        return None
    largest = max(found, key=lambda path: abs(pyclipper.Area(path)))
    return np.array(largest, np.float32) / scale


def draw(height: int, width: int, quads: Sequence[np.ndarray], ignored: Sequence[bool]) -> Targets:
    """Targets of an image of height x width px with text quads (4, 2); ignored ones take their area out of the loss."""
    prob, prob_mask = np.zeros((height, width), np.float32), np.ones((height, width), np.float32)
    closeness, thresh_mask = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    for quad, skip in zip(quads, ignored, strict=True):
        sides = np.linalg.norm(quad - np.roll(quad, -1, axis=0), axis=1)
        distance = shrink_distance(quad)
        shrunk = None if skip or min(sides) < MIN_SIDE_PX else offset(quad, -distance)
        if shrunk is None or len(shrunk) < 3:
            cv2.fillPoly(prob_mask, [_whole(quad)], 0.0)
            continue
        cv2.fillPoly(prob, [_whole(shrunk)], 1.0)
        _border(closeness, thresh_mask, quad, distance)
    return Targets(prob, prob_mask, THRESH_MIN + (THRESH_MAX - THRESH_MIN) * closeness, thresh_mask)


def _border(closeness: np.ndarray, mask: np.ndarray, quad: np.ndarray, distance: float) -> None:
    """Raise `closeness` to 1 - (distance from the quad's border) / D, inside the quad grown by D."""
    grown = offset(quad, distance)
    if grown is None:
        return
    cv2.fillPoly(mask, [_whole(grown)], 1.0)
    height, width = closeness.shape
    x0, y0 = np.floor(grown.min(axis=0)).astype(int)
    x1, y1 = np.ceil(grown.max(axis=0)).astype(int) + 1
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    if x0 >= x1 or y0 >= y1:
        return
    xs, ys = np.arange(x0, x1, dtype=np.float32)[None, :], np.arange(y0, y1, dtype=np.float32)[:, None]
    nearest = np.full((y1 - y0, x1 - x0), np.inf, np.float32)
    for start, stop in zip(quad, np.roll(quad, -1, axis=0), strict=True):
        np.minimum(nearest, segment_distance(xs, ys, start, stop), out=nearest)
    part = closeness[y0:y1, x0:x1]
    np.maximum(part, np.clip(1 - nearest / distance, 0, 1), out=part)


def segment_distance(xs: np.ndarray, ys: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Distance px from the points (xs, ys), broadcast together, to the segment start..stop."""
    dx, dy = float(stop[0] - start[0]), float(stop[1] - start[1])
    along = np.clip(((xs - start[0]) * dx + (ys - start[1]) * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
    return np.hypot(xs - (start[0] + along * dx), ys - (start[1] + along * dy)).astype(np.float32)


def _whole(polygon: np.ndarray) -> np.ndarray:
    return np.rint(polygon).astype(np.int32)
