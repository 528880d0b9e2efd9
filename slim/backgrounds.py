"""What text stands on: flat colours, gradients, textures and clutter, drawn by rule.

A split has a pool of large pictures made once from its seed; every sample takes a piece of one. Nothing is
downloaded. (H, W, 3) uint8 BGR throughout.
"""

from __future__ import annotations

import cv2
import numpy as np

POOL = 40
POOL_SIZE = (900, 1000)  # height, width px
STREAM = 99  # keeps the pool's random numbers apart from those of the samples


class Backgrounds:
    """Pieces of a seeded pool; pool pictures are drawn when first asked for."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._pool: dict[int, np.ndarray] = {}

    def piece(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """A fresh (height, width, 3) piece, at a random place, sometimes mirrored; both sides up to the pool's."""
        picture = self._picture(int(rng.integers(0, POOL)))
        y = int(rng.integers(0, POOL_SIZE[0] - height + 1))
        x = int(rng.integers(0, POOL_SIZE[1] - width + 1))
        piece = picture[y : y + height, x : x + width]
        return np.ascontiguousarray(piece[:, ::-1] if rng.random() < 0.5 else piece)

    def _picture(self, index: int) -> np.ndarray:
        if index not in self._pool:
            rng = np.random.default_rng([self._seed, STREAM, index])
            self._pool[index] = KINDS[index % len(KINDS)](rng, *POOL_SIZE)
        return self._pool[index]


def colour(rng: np.random.Generator) -> np.ndarray:
    """(3,) uint8: greys and muted tones more often than loud ones."""
    grey = rng.integers(0, 256)
    spread = (0, 12, 40, 160)[int(rng.choice(4, p=[0.2, 0.35, 0.25, 0.2]))]
    return np.clip(grey + rng.integers(-spread, spread + 1, 3), 0, 255).astype(np.uint8)


def flat(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return np.broadcast_to(colour(rng), (height, width, 3)).copy()


def gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Between a few random colours, near each other or not."""
    corners = np.stack([colour(rng) for _ in range(4)]).reshape(2, 2, 3)
    if rng.random() < 0.6:
        corners = (corners.astype(np.int32) + 2 * corners[:1, :1].astype(np.int32)) // 3
    return cv2.resize(corners.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)


def cloudy(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise of several scales: plaster, stone, cloth, foliage out of focus."""
    total = np.zeros((height, width), np.float32)
    finest = int(rng.choice([16, 64, 300]))
    cells, weight = 3, 1.0
    while cells <= finest:
        layer = rng.random((cells, cells + 1), dtype=np.float32) - np.float32(0.5)
        total += np.float32(weight) * cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, weight = cells * 3, weight * float(rng.uniform(0.4, 0.8))
    low, high = float(total.min()), float(total.max())
    share = ((total - np.float32(low)) / np.float32(high - low))[..., None]
    a, b = colour(rng).astype(np.float32), colour(rng).astype(np.float32)
    b = a + (b - a) * np.float32(rng.uniform(0.15, 0.8))
    return (a + (b - a) * share + np.float32(0.5)).astype(np.uint8)


def paper(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Light or dark stock with a fine grain and folds."""
    base = int(rng.integers(150, 250)) if rng.random() < 0.75 else int(rng.integers(20, 110))
    tint = base + rng.integers(-14, 15, 3)
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(1, 7))
    sheet = tint.astype(np.float32) + cv2.blur(grain, (int(rng.integers(1, 4)), int(rng.integers(1, 4))))[..., None]
    for _ in range(int(rng.integers(0, 4))):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        sheet[y:, :] += np.float32(rng.uniform(-9, 9))
        sheet[:, x:] += np.float32(rng.uniform(-9, 9))
    return np.clip(sheet, 0, 255).astype(np.uint8)


def stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Boards, corrugation, brushed metal: noise that varies along one axis mostly."""
    cells = int(rng.choice([12, 60, 250]))
    line = rng.random((cells, 6), dtype=np.float32)
    field = cv2.resize(line, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
    a, b = colour(rng).astype(np.float32), colour(rng).astype(np.float32)
    b = a + (b - a) * np.float32(rng.uniform(0.1, 0.6))
    picture = (a + (b - a) * field + np.float32(0.5)).astype(np.uint8)
    return np.ascontiguousarray(picture.transpose(1, 0, 2)[:height, :width]) if height == width else picture


def clutter(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Overlapping shapes and edges, part of them out of focus: a street, a shelf, a desk from afar."""
    picture = cloudy(rng, height, width)
    for _ in range(int(rng.integers(40, 120))):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        size = int(rng.integers(10, 180))
        paint = tuple(int(v) for v in colour(rng))
        shape = int(rng.integers(0, 5))
        if shape == 0:
            w, h = int(size * rng.uniform(0.3, 2)), int(size * rng.uniform(0.3, 2))
            cv2.rectangle(picture, (x, y), (x + w, y + h), paint, -1 if rng.random() < 0.7 else 2)
        elif shape == 1:
            axes = (size // 2 + 2, int(size * rng.uniform(0.2, 0.7)) + 2)
            cv2.ellipse(
                picture, (x, y), axes, int(rng.integers(0, 180)), 0, 360, paint, -1 if rng.random() < 0.6 else 3
            )
        elif shape == 2:
            ends = rng.integers(-2 * size, 2 * size + 1, 2)
            cv2.line(picture, (x, y), (x + int(ends[0]), y + int(ends[1])), paint, int(rng.integers(1, 9)))
        elif shape == 3:
            corners = np.array([x, y]) + rng.integers(-size, size + 1, (int(rng.integers(3, 7)), 2))
            cv2.fillPoly(picture, [corners.astype(np.int32)], paint)
        else:
            corners = np.array([x, y]) + rng.integers(-size, size + 1, (5, 2))
            cv2.polylines(picture, [corners.astype(np.int32)], False, paint, int(rng.integers(1, 6)))
        if rng.random() < 0.06:
            picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(1, 5)))
    return cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.5, 3)))


def tiles(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Bricks, tiles, windows: a grid with joints."""
    picture = cloudy(rng, height, width).astype(np.int32)
    w, h = int(rng.integers(40, 200)), int(rng.integers(20, 120))
    offset = w // 2 if rng.random() < 0.5 else 0
    joint = colour(rng).astype(np.int32)
    for row, y in enumerate(range(0, height, h)):
        for x in range(-w, width + w, w):
            left = max(0, x + offset * (row % 2))
            picture[y : y + h, left : max(0, x + w + offset * (row % 2))] += int(rng.integers(-14, 15))
            picture[y : y + h, left : left + 2] = joint
        picture[y : y + 2] = joint
    return cv2.GaussianBlur(np.clip(picture, 0, 255).astype(np.uint8), (0, 0), float(rng.uniform(0.4, 2)))


KINDS = (clutter, cloudy, paper, gradient, clutter, stripes, flat, tiles)
