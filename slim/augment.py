"""Base data augmentation (BDA) of PP-OCR (arXiv:2009.09941, section 2): rotation, perspective, motion blur, noise.

Pure: an image (H, W, 3) uint8 and a generator in, a new image out; geometry as homographies (3, 3), so that quads can
follow. Each operation happens with the probability that its table gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from slim import degrade


@dataclass(frozen=True)
class Strength:
    """How much and how often. Angles in degrees, blur in px, noise in grey levels, the rest as shares."""

    rotation: float
    perspective: float
    stretch: float
    blur_px: float
    noise: float
    tone: float
    chance: float


# Crops come warped and blurred from the generator already, scenes are square to the camera more often.
LINE = Strength(rotation=2.5, perspective=0.07, stretch=0.14, blur_px=3.0, noise=8.0, tone=0.25, chance=0.25)
SCENE = Strength(rotation=10.0, perspective=0.06, stretch=0.10, blur_px=4.0, noise=8.0, tone=0.25, chance=0.3)
NONE = Strength(0, 0, 0, 0, 0, 0, 0)


def augment_line(image: np.ndarray, rng: np.random.Generator, strength: Strength = LINE) -> np.ndarray:
    """A text crop as it would look through another lens; its size may change, the text stays inside."""
    height, width = image.shape[:2]
    matrix = geometry(height, width, rng, strength)
    if matrix is not None:
        image, _ = warp_whole(image, matrix)
    return pixels(image, rng, strength)


def geometry(height: int, width: int, rng: np.random.Generator, strength: Strength) -> np.ndarray | None:
    """A homography drawn from rotation, perspective and stretch; None when none of them came up."""
    matrix = np.eye(3)
    turned, leaned, stretched = rng.random(3) < strength.chance
    angle, factor = float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1))
    moves = rng.uniform(-1, 1, (4, 2))
    if stretched:
        matrix = np.diag([1.0 + strength.stretch * factor, 1.0, 1.0]) @ matrix
    if turned:
        matrix = rotation(height, width, strength.rotation * angle) @ matrix
    if leaned:
        matrix = perspective(height, width, moves * strength.perspective) @ matrix
    return matrix if turned or leaned or stretched else None


def rotation(height: int, width: int, degrees: float) -> np.ndarray:
    """Homography (3, 3) that turns a height x width image about its centre, clockwise for positive degrees."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return np.array([[c, -s, x - c * x + s * y], [s, c, y - s * x - c * y], [0, 0, 1]])


def perspective(height: int, width: int, shares: np.ndarray) -> np.ndarray:
    """Homography that moves the corners by `shares` (4, 2) of the height (clockwise from top-left, x then y)."""
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    return cv2.getPerspectiveTransform(corners, (corners + shares * min(height, width)).astype(np.float32))


def warp_whole(image: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the image under the homography, large enough for all of it; the homography with its shift)."""
    height, width = image.shape[:2]
    corners = warp_points(np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64), matrix)
    left, top = corners.min(axis=0)
    right, bottom = corners.max(axis=0)
    matrix = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]]) @ matrix
    size = (max(1, math.ceil(right - left)), max(1, math.ceil(bottom - top)))
    return cv2.warpPerspective(image, matrix, size, borderMode=cv2.BORDER_REPLICATE), matrix


def warp_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(..., 2) points through a homography (3, 3)."""
    homogeneous = np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1) @ matrix.T
    return homogeneous[..., :2] / homogeneous[..., 2:]


def pixels(image: np.ndarray, rng: np.random.Generator, strength: Strength) -> np.ndarray:
    """Tone, motion blur and Gaussian noise; the size stays."""
    toned, blurred, noisy = rng.random(3) < strength.chance
    contrast, lift = rng.uniform(-1, 1, 2) * strength.tone
    length, angle, sigma = rng.random(3)
    if toned:
        image = tone(image, 1.0 + float(contrast), 90.0 * float(lift))
    if blurred:
        # A blur that is long against the letters leaves nothing to read.
        longest = min(strength.blur_px, image.shape[0] / 10)
        image = degrade.motion(image, 1.0 + float(length) * longest, float(angle) * math.pi)
    if noisy:
        image = degrade.sensor_noise(image, rng, float(sigma) * strength.noise)
    return image


def tone(image: np.ndarray, contrast: float, lift: float) -> np.ndarray:
    """Contrast about mid grey, then `lift` grey levels."""
    levels = (np.arange(256) - 127.5) * contrast + 127.5 + lift
    return cv2.LUT(image, np.clip(np.rint(levels), 0, 255).astype(np.uint8))
