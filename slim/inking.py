"""Ink on a surface, and a photo of it: colours that can be told apart, effects, light, lens, sensor, compression.

Images are (H, W, 3) uint8 BGR, masks (H, W) uint8.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from slim import backgrounds, degrade
from slim.backgrounds import Backgrounds

MIN_CONTRAST = 60  # grey levels between text and what is behind it


def ground(rng: np.random.Generator, pool: Backgrounds, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A surface to write on and an ink that can be read on it."""
    drawn = rng.random()
    if drawn < 0.22:  # print as most print is: dark on near white
        base = int(rng.integers(200, 256))
        paper = np.clip(base + rng.integers(-10, 11, 3), 0, 255).astype(np.uint8)
        ink = np.clip(int(rng.integers(0, 70)) + rng.integers(-12, 13, 3), 0, 255).astype(np.uint8)
        return np.broadcast_to(paper, (height, width, 3)).copy(), ink
    if drawn < 0.4 or height > backgrounds.POOL_SIZE[0] or width > backgrounds.POOL_SIZE[1]:
        picture = backgrounds.flat(rng, height, width)
    elif drawn < 0.6:
        picture = backgrounds.gradient(rng, height, width)
        # Strong gradients cross every ink's grey: keep a third of the range.
        middle = np.array(cv2.mean(picture)[:3], np.float32)
        picture = (middle + (picture - middle) * np.float32(0.35) + np.float32(0.5)).astype(np.uint8)
    else:
        picture = pool.piece(rng, height, width)
        if rng.random() < 0.7:
            middle = np.array(cv2.mean(picture)[:3], np.float32)
            calm = np.float32(rng.uniform(0.2, 0.7))
            picture = (middle + (picture - middle) * calm + np.float32(0.5)).astype(np.uint8)
    return picture, ink_on(rng, np.array(cv2.mean(picture)[:3]))


def ink_on(rng: np.random.Generator, behind: np.ndarray) -> np.ndarray:
    """(3,) uint8 colour whose grey differs from `behind` by at least MIN_CONTRAST; black and white most often."""
    grey = _grey(behind)
    drawn = rng.random()
    if drawn < 0.55:
        dark = grey > 127 if rng.random() < 0.9 or not 70 < grey < 185 else grey <= 127
        level = rng.integers(0, 40) if dark else rng.integers(215, 256)
        return np.clip(level + rng.integers(-10, 11, 3), 0, 255).astype(np.uint8)
    for _ in range(8):
        ink = rng.integers(0, 256, 3).astype(np.uint8)
        if abs(_grey(ink) - grey) >= MIN_CONTRAST:
            return ink
    return np.full(3, 15 if grey > 127 else 240, np.uint8)


def _grey(bgr: np.ndarray) -> float:
    return 0.114 * float(bgr[0]) + 0.587 * float(bgr[1]) + 0.299 * float(bgr[2])


def inked(rng: np.random.Generator, picture: np.ndarray, alpha: np.ndarray, ink: np.ndarray, size: float) -> np.ndarray:
    """The text laid on: plain, with a drop shadow, an outline, or a little transparent."""
    style = rng.random()
    if style < 0.07:
        reach = max(1, round(size * rng.uniform(0.03, 0.08)))
        fallen = np.zeros_like(alpha)
        fallen[reach:, reach:] = alpha[:-reach, :-reach]
        shade = np.uint8(0 if _grey(ink) > 90 else 255)
        fallen = cv2.blur(fallen, (2 * (reach // 2) + 1,) * 2) // 2
        picture = blend(picture, np.full((1, 1, 3), shade, np.uint8), fallen)
    elif style < 0.12 and size >= 20:
        reach = max(3, 2 * round(size * 0.04) + 1)
        grown = cv2.dilate(alpha, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach)))
        rim = np.uint8(10 if _grey(ink) > 127 else 245)
        picture = blend(picture, np.full((1, 1, 3), rim, np.uint8), grown)
    elif style < 0.3:
        alpha = (alpha.astype(np.uint16) * int(rng.integers(190, 256)) // 255).astype(np.uint8)
    return blend(picture, ink.reshape(1, 1, 3), alpha)


def blend(under: np.ndarray, over: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """over where alpha is 255, under where it is 0; in integers, of which the largest, 255² + 127, fits 16 bits."""
    share = alpha.astype(np.uint16)[..., None]
    return ((under * (255 - share) + over * share + 127) // 255).astype(np.uint8)


def photographed(rng: np.random.Generator, picture: np.ndarray, size: float) -> np.ndarray:
    """Light, lens, sensor and compression, each on a part of the pictures; `size` px scales the blur."""
    if rng.random() < 0.4:
        picture = degrade.uneven_light(picture, rng, float(rng.uniform(0.05, 0.35)))
    if rng.random() < 0.12:
        picture = degrade.shadow(picture, rng, 0.5)
    if rng.random() < 0.15:  # a flat tone curve: low contrast
        keep, lift = int(rng.integers(130, 230)), int(rng.integers(0, 80))
        picture = np.minimum(picture.astype(np.int32) * keep // 255 + lift, 255).astype(np.uint8)
    drawn = rng.random()
    if drawn < 0.4:
        picture = degrade.defocus(picture, float(rng.uniform(0.2, 0.035 * size + 0.35)))
    elif drawn < 0.52:
        picture = degrade.motion(picture, float(rng.uniform(1.5, 0.08 * size + 2.0)), float(rng.uniform(0, math.pi)))
    if rng.random() < 0.4:
        picture = degrade.sensor_noise(picture, rng, float(rng.uniform(1, 9)))
    if rng.random() < 0.35:
        picture = degrade.jpeg(picture, int(rng.integers(35, 92)))
    return picture
