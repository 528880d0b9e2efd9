"""Probability map of the DB detector → text quads (Liao et al. 2020, arXiv:1911.08947, box formation).

Follows PaddleOCR 2.x's DBPostProcess and its detector's box filter step by step, roundings included.
"""

from __future__ import annotations

import cv2
import numpy as np
import pyclipper

MIN_SIDE_PX = 3  # of the shrunk text region, in the map
MIN_BOX_SIDE_PX = 3  # of the final box, in the image: this or less is dropped
ROW_TOLERANCE_PX = 10


def boxes_from_prob_map(
    prob_map: np.ndarray,
    *,
    thresh: float,
    box_thresh: float,
    unclip_ratio: float,
    max_candidates: int,
    score_mode: str,
    use_dilation: bool,
    image_shape: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Quads in the pixels of the image that the map was computed from.

    prob_map: (H, W) in 0..1; image_shape: (height, width) of the image; score_mode: "fast" (mean probability inside
    the rectangle) or "slow" (inside the contour).
    Returns quads (N, 4, 2) float32 with whole-number coordinates, clockwise from top-left, and scores (N,) float32,
    in the order cv2 finds the contours. Nothing found: shapes (0, 4, 2) and (0,).
    """
    if score_mode not in ("fast", "slow"):
        raise ValueError(f"score_mode: expected fast or slow, found {score_mode!r}")
    prob_map = np.ascontiguousarray(prob_map, np.float32)
    mask = (prob_map > thresh).astype(np.uint8)
    if use_dilation:
        mask = cv2.dilate(mask, np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    quads, scores = [], []
    for contour in contours[:max_candidates]:
        if len(contour) < 3:
            continue  # a dot or a line: its rectangle has no second side
        quad, short_side = min_area_quad(contour)
        if short_side < MIN_SIDE_PX:
            continue
        score = polygon_score(prob_map, quad if score_mode == "fast" else contour.reshape(-1, 2))
        if score < box_thresh:
            continue
        grown = unclip(quad, unclip_ratio)
        if len(grown) < 3:
            continue
        quad, short_side = min_area_quad(grown)
        if short_side < MIN_SIDE_PX + 2:
            continue
        quads.append(quad)
        scores.append(score)
    if not quads:
        return np.zeros((0, 4, 2), np.float32), np.zeros(0, np.float32)
    # (w, h) each; float32 and divided first, as PaddleOCR has it: the order decides where a half rounds to
    map_size, image_size = np.array(prob_map.shape[::-1], np.float32), np.array(image_shape[::-1], np.float32)
    placed = np.clip(np.round(np.stack(quads) / map_size * image_size), 0, image_size)
    return placed, np.array(scores, np.float32)


def min_area_quad(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Smallest rotated rectangle around (N, 2) or (N, 1, 2) points.

    Returns its corners (4, 2) float32, clockwise from top-left, and its shorter side in px. Of the two leftmost
    corners the upper one comes first, of the two rightmost the upper one second.
    """
    rectangle = cv2.minAreaRect(points)
    corners = sorted(cv2.boxPoints(rectangle).tolist(), key=lambda corner: corner[0])
    left, right = corners[:2], corners[2:]
    if left[1][1] <= left[0][1]:
        left.reverse()
    if right[1][1] <= right[0][1]:
        right.reverse()
    return np.array([left[0], right[0], right[1], left[1]], np.float32), min(rectangle[1])


def polygon_score(prob_map: np.ndarray, polygon: np.ndarray) -> float:
    """Mean probability inside a polygon (N, 2), which may reach over the map's edge."""
    height, width = prob_map.shape
    low = np.floor(polygon.min(axis=0)).astype(int)
    high = np.ceil(polygon.max(axis=0)).astype(int)
    x0, y0 = np.clip(low, 0, (width - 1, height - 1))
    x1, y1 = np.clip(high, 0, (width - 1, height - 1))
    mask = np.zeros((y1 - y0 + 1, x1 - x0 + 1), np.uint8)
    cv2.fillPoly(mask, [(polygon - np.array((x0, y0), polygon.dtype)).astype(np.int32)], 1)
    return float(cv2.mean(prob_map[y0 : y1 + 1, x0 : x1 + 1], mask)[0])


def unclip_distance(quad: np.ndarray, unclip_ratio: float) -> float:
    """Offset (px) that grows a shrunk DB quad back to text size.

    D' = A' * r' / L'   (arXiv:1911.08947, box formation)
    quad: (N, 2) px. Raises ValueError for a quad without outline.
    """
    following = np.roll(quad, -1, axis=0).astype(float)
    length = float(np.linalg.norm(following - quad, axis=1).sum())
    if length == 0:
        raise ValueError(f"expected a quad with an outline, found the point {quad[0].tolist()}")
    area = abs(float((quad[:, 0] * following[:, 1] - quad[:, 1] * following[:, 0]).sum())) / 2
    return area * unclip_ratio / length


def unclip(quad: np.ndarray, unclip_ratio: float) -> np.ndarray:
    """Grow a quad by its unclip distance, corners rounded → outline (M, 2) int32; (0, 2) when nothing is left."""
    distance = unclip_distance(quad, unclip_ratio)
    offset = pyclipper.PyclipperOffset()
    # Clipper counts in whole px and truncates; said here, because a port has to do the same.
    offset.AddPath(np.trunc(quad).astype(int).tolist(), pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    paths = offset.Execute(distance)
    return np.array(paths[0], np.int32) if paths else np.zeros((0, 2), np.int32)


def clockwise(quads: np.ndarray) -> np.ndarray:
    """(N, 4, 2) corners → the same, clockwise from the corner with the smallest x + y.

    First and third corner have the smallest and largest x + y, second and fourth the smallest and largest y - x
    of the rest. Where that rule ties (a square on its tip), PaddleOCR takes one corner twice and gets a box without
    area; here the corners keep the order they came in and only the first is chosen.
    """
    ordered = np.empty_like(quads)
    for into, quad in zip(ordered, quads, strict=True):
        total = quad.sum(axis=1)
        first, third = int(total.argmin()), int(total.argmax())
        rest = [corner for corner in range(4) if corner not in (first, third)]
        lean = quad[rest, 1] - quad[rest, 0]
        if len(rest) != 2 or lean[0] == lean[1]:
            into[:] = np.roll(quad, -first, axis=0)
        else:
            into[:] = quad[[first, rest[int(lean.argmin())], third, rest[int(lean.argmax())]]]
    return ordered


def keep_sizeable(quads: np.ndarray, scores: np.ndarray, image_shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Order corners, clip them into the image, drop boxes with a side of 3 px or less.

    quads: (N, 4, 2), scores: (N,), image_shape: (height, width) → (M, 4, 2) float32, (M,).
    """
    height, width = image_shape
    quads = np.trunc(np.clip(clockwise(quads), 0, (width - 1, height - 1))).astype(np.float32)
    wide = np.linalg.norm(quads[:, 0] - quads[:, 1], axis=1).astype(int)
    high = np.linalg.norm(quads[:, 0] - quads[:, 3], axis=1).astype(int)
    keep = (wide > MIN_BOX_SIDE_PX) & (high > MIN_BOX_SIDE_PX)
    return quads[keep], scores[keep]


def reading_order(quads: np.ndarray) -> list[int]:
    """Indices of (N, 4, 2) quads from top to bottom; in a row (tops within 10 px) from left to right.

    Rows are formed by PaddleOCR's neighbour swaps, not by clustering: a staircase of small steps is one row.
    """
    corners = quads[:, 0].tolist()  # [x, y] of each first corner
    order = sorted(range(len(corners)), key=lambda index: (corners[index][1], corners[index][0]))
    for upto in range(1, len(order)):
        for at in range(upto, 0, -1):
            (left_x, left_y), (x, y) = corners[order[at - 1]], corners[order[at]]
            if not (abs(y - left_y) < ROW_TOLERANCE_PX and x < left_x):
                break
            order[at - 1], order[at] = order[at], order[at - 1]
    return order
