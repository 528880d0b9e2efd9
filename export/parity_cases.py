"""The inputs on which stages are compared: photos or crops of the user's, or pages drawn here when none are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from artifact import Input, Manifest
from command import UsageError
from lite_runtime import preprocess
from lite_runtime.detector import TextDetector
from lite_runtime.engine import Engine
from lite_runtime.options import Options

# The detector sees photos of every size: the first image once more at these shares of its input size.
SMALLER_SHARES = (2 / 3, 1 / 3)
BATCHES = (1, 3, 6)
# A batch of the widest lines takes a second; it shows nothing that one line does not.
MAX_BATCH_WIDTH_PX = 320
DRAWN_TEXT = ("Invoice 2024-07", "TOTAL 1,280.50", "www.example.org", "Gate B12", "Exit", "No. 4711", "open 9-18 h")


@dataclass(frozen=True)
class Case:
    """One prepared input. x: (N, 3, H, W) float32; label: how tables call it."""

    label: str
    x: np.ndarray


class _NoEngine:
    """The pipeline's stages prepare their input without running anything."""

    def run(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def close(self) -> None:
        pass


def make_cases(manifest: Manifest, images: Sequence[np.ndarray]) -> list[Case]:
    """At least three input shapes of a model, and several batch sizes where the pipeline batches.

    images: photos (H, W, 3) uint8 BGR for a detector, crops for the others.
    """
    assert manifest.input is not None
    if manifest.task == "det":
        return _detector_cases(manifest, manifest.input, images)
    height, width = manifest.input.shape[2:]
    if manifest.task == "cls":
        return [_batch(images, height, width, size, manifest.input) for size in BATCHES]
    cases = []
    for index, bucket in enumerate(manifest.input.width_buckets):
        size = BATCHES[index % len(BATCHES)] if bucket <= MAX_BATCH_WIDTH_PX else 1
        cases.append(_batch(images, height, bucket, size, manifest.input, start=index))
    return cases


def _detector_cases(manifest: Manifest, eats: Input, images: Sequence[np.ndarray]) -> list[Case]:
    engine: Engine = _NoEngine()
    base = Options.from_manifests(manifest)
    cases = []
    for share, image in [*((1.0, image) for image in images), *((share, images[0]) for share in SMALLER_SHARES)]:
        longest = min(base.limit_side_len, max(image.shape[:2]))
        side = max(eats.multiple_of, round(longest * share))
        detector = TextDetector(engine, manifest, replace(base, limit_side_len=side, limit_type="max"))
        x = detector.prepare(image)
        cases.append(Case(_label(x), x))
    return cases


def _batch(images: Sequence[np.ndarray], height: int, width: int, size: int, eats: Input, start: int = 0) -> Case:
    x = preprocess.batch([images[(start + i) % len(images)] for i in range(size)], height, width, eats)
    return Case(_label(x), x)


def _label(x: np.ndarray) -> str:
    count, _, height, width = x.shape
    return f"{count} x {height}x{width}"


def read_images(folder: str | Path, limit: int) -> list[np.ndarray]:
    """The first `limit` images of a folder by name, subfolders included. Raises UsageError when there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of images, found {'a file' if folder.exists() else 'nothing'}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in preprocess.IMAGE_SUFFIXES)
    if not paths:
        raise UsageError(f"{folder}: expected images ({', '.join(preprocess.IMAGE_SUFFIXES)}), found none")
    return [preprocess.read_image(path) for path in paths[:limit]]


def draw_images(task: str) -> list[np.ndarray]:
    """Pages (detector) or lines with OpenCV's built-in letters, always the same."""
    if task == "det":
        return [
            _page(height, width, shade) for height, width, shade in ((480, 640, 235), (640, 400, 60), (300, 960, 180))
        ]
    return [_line(text, 40 + 30 * (i % 7)) for i, text in enumerate(DRAWN_TEXT)]


def _page(height: int, width: int, shade: int) -> np.ndarray:
    ramp = np.linspace(-20, 20, width)[None, :, None] + np.linspace(-10, 10, height)[:, None, None]
    page = np.clip(shade + np.repeat(ramp, 3, axis=2), 0, 255).astype(np.uint8)
    ink = (20, 30, 40) if shade > 127 else (230, 240, 220)
    for row, y in enumerate(range(50, height - 20, 60)):
        text = DRAWN_TEXT[row % len(DRAWN_TEXT)]
        cv2.putText(page, text, (20 + 25 * (row % 3), y), cv2.FONT_HERSHEY_SIMPLEX, 1.0, ink, 2, cv2.LINE_AA)
    return page


def _line(text: str, shade: int) -> np.ndarray:
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 2)
    line = np.full((height + 20, width + 16, 3), 255 - shade, np.uint8)
    cv2.putText(line, text, (8, height + 8), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (shade // 3,) * 3, 2, cv2.LINE_AA)
    return line
