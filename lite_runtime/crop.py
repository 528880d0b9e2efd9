"""Quads → upright crops."""

from __future__ import annotations

import cv2
import numpy as np

TALL = 1.5  # height / width from which a crop is taken for a vertical line
REMAP_LIMIT_PX = 32_000  # cv2's remap counts in int16


def crop_quad(image: np.ndarray, quad: np.ndarray) -> np.ndarray:
    """Rectify the text inside `quad` by a perspective warp.

    image: (H, W, 3) uint8; quad: (4, 2) px, clockwise from top-left.
    Returns (h, w, 3) with w, h the longer of the opposite sides in whole px; a crop with h / w >= 1.5 is turned
    90 degrees anticlockwise, so that a line that runs downwards reads from left to right.
    Raises ValueError for a quad with a side shorter than one px.
    """
    quad = np.asarray(quad, np.float32)
    top, right, bottom, left = np.linalg.norm(quad - np.roll(quad, -1, axis=0), axis=1)
    width, height = int(max(top, bottom)), int(max(left, right))
    if width < 1 or height < 1:
        raise ValueError(f"expected a quad with sides of at least 1 px, found {quad.tolist()}")
    if max(image.shape[:2]) > REMAP_LIMIT_PX:
        image, quad = _around(image, quad)
    flat = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    crop = cv2.warpPerspective(
        image,
        cv2.getPerspectiveTransform(quad, flat),
        (width, height),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    if height / width >= TALL:
        crop = np.ascontiguousarray(np.rot90(crop))
    return crop


def _around(image: np.ndarray, quad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of an oversized image that the quad needs (with the cubic kernel's reach), and the quad in it."""
    margin = 4
    x0, y0 = np.maximum(np.floor(quad.min(axis=0)).astype(int) - margin, 0)
    x1, y1 = np.ceil(quad.max(axis=0)).astype(int) + margin
    return image[y0:y1, x0:x1], quad - np.array([x0, y0], np.float32)
