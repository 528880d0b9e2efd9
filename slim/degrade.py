"""What light, lens, sensor and file format do to a picture. Pure: arrays and a generator in, a new array out.

Images are (H, W, 3) uint8 BGR. Only operations that give the same bytes on every x86-64 processor are used:
no BLAS, no vectorised transcendental functions.
"""

from __future__ import annotations

import math

import cv2
import numpy as np


def uneven_light(image: np.ndarray, rng: np.random.Generator, depth: float) -> np.ndarray:
    """Multiply by a slow field in 1 ± depth."""
    grid = (1.0 + depth * (2.0 * rng.random((2, int(rng.integers(2, 4)))) - 1.0)).astype(np.float32)
    return _scaled(image, cv2.resize(grid, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR))


def shadow(image: np.ndarray, rng: np.random.Generator, darkest: float) -> np.ndarray:
    """Darken one side of a soft straight edge down to `darkest` (a factor below 1)."""
    height, width = image.shape[:2]
    x, across = float(rng.uniform(0.2, 0.8)) * width, float(rng.uniform(-0.5, 0.5)) * height
    far = (width + height) * (1 if rng.random() < 0.5 else -1)
    edge = np.array([[x - across, 0], [x + across, height], [x + across + far, height], [x - across + far, 0]])
    field = np.ones((height, width), np.float32)
    cv2.fillConvexPoly(field, np.rint(edge).astype(np.int32), float(rng.uniform(darkest, 1.0)))
    side = int(max(3, min(height, width) * rng.uniform(0.02, 0.3))) | 1
    return _scaled(image, cv2.blur(field, (side, side)))


def _scaled(image: np.ndarray, field: np.ndarray) -> np.ndarray:
    product = image.astype(np.float32) * field[..., None] + np.float32(0.5)
    return np.clip(product, 0, 255).astype(np.uint8)


def defocus(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of `sigma` px."""
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0.15 else image


def motion(image: np.ndarray, length_px: float, angle: float) -> np.ndarray:
    """Blur along a line of length_px at `angle` radians."""
    side = math.ceil(length_px) | 1
    if side < 3:
        return image
    big = np.zeros((side * 8, side * 8), np.float32)
    middle, reach = side * 4, length_px * 4
    dx, dy = reach * math.cos(angle), reach * math.sin(angle)
    start, stop = (round(middle - dx), round(middle - dy)), (round(middle + dx), round(middle + dy))
    cv2.line(big, start, stop, 1.0, 6)
    kernel = cv2.resize(big, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.filter2D(
        image, -1, kernel / np.float32(math.fsum(kernel.ravel().tolist())), borderType=cv2.BORDER_REPLICATE
    )


def sensor_noise(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Gaussian noise of `sigma` grey levels on every channel."""
    noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(sigma)
    return np.clip(image.astype(np.float32) + noise + np.float32(0.5), 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """What is left after compression at `quality` (0..100)."""
    return cv2.imdecode(np.frombuffer(encode_jpeg(image, quality), np.uint8), cv2.IMREAD_COLOR)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"expected an image that JPEG can hold, found {image.shape}")
    return data.tobytes()
