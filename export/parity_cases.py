"""The inputs on which stages are compared: photos or crops of the user's, or pages drawn here when none are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from artifact import Manifest
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
# A line that fills the widest bucket to the last pixel, and one that has to be squeezed into it.
LONG_SHARES = (1.0, 1.5)
# No grey: on a grey picture colour channels in the wrong order would not show.
TINT = np.array((1.0, 0.9, 0.75))
DRAWN_TEXT = ("Invoice 2024-07", "TOTAL 1,280.50", "www.example.org", "Gate B12", "Exit", "No. 4711", "open 9-18 h")


@dataclass(frozen=True)
class Case:
    """One question to every stage. images: photos (det) or crops (H, W, 3) uint8 BGR; label: how tables call it.

    prepare: a stage's manifest → its input (N, 3, H, W) float32, so that a setting that got lost shows.
    """

    label: str
    images: tuple[np.ndarray, ...]
    prepare: Callable[[Manifest], np.ndarray]


class _NoEngine:
    """The pipeline's stages prepare their input without running anything."""

    def run(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def close(self) -> None:
        pass


def make_cases(manifest: Manifest, images: Sequence[np.ndarray]) -> list[Case]:
    """At least three input shapes of a model, every width of a recognizer, and several batch sizes.

    manifest: the reference's, which decides what is asked. images: photos (H, W, 3) uint8 BGR for a detector, crops
    for the others.
    """
    assert manifest.input is not None
    if manifest.task == "det":
        shares = [*((1.0, image) for image in images), *((share, images[0]) for share in SMALLER_SHARES)]
        return [_photo(manifest, image, share) for share, image in shares]
    if manifest.task == "cls":
        width = manifest.input.shape[3]
        return [_batch(manifest, images, width, size) for size in BATCHES]
    cases = []
    for index, bucket in enumerate(manifest.input.width_buckets):
        size = BATCHES[index % len(BATCHES)] if bucket <= MAX_BATCH_WIDTH_PX else 1
        cases.append(_batch(manifest, images, bucket, size, start=index))
    return cases + [_long_line(manifest, images, share) for share in LONG_SHARES]


def prepare_photo(manifest: Manifest, image: np.ndarray, share: float = 1.0) -> np.ndarray:
    """A photo as the pipeline feeds it to a detector, its longer side shrunk to a share."""
    assert manifest.input is not None
    engine: Engine = _NoEngine()
    options = Options.from_manifests(manifest)
    if share < 1.0:
        longest = min(options.limit_side_len, max(image.shape[:2]))
        side = max(manifest.input.multiple_of, round(longest * share))
        options = replace(options, limit_side_len=side, limit_type="max")
    return TextDetector(engine, manifest, options).prepare(image)


def _photo(manifest: Manifest, image: np.ndarray, share: float) -> Case:
    label = _label(prepare_photo(manifest, image, share))
    return Case(label, (image,), lambda stage: prepare_photo(stage, image, share))


def _batch(manifest: Manifest, images: Sequence[np.ndarray], width: int, size: int, start: int = 0) -> Case:
    chosen = tuple(images[(start + i) % len(images)] for i in range(size))
    prepare = _at_width(chosen, width)
    return Case(_label(prepare(manifest)), chosen, prepare)


def _at_width(images: tuple[np.ndarray, ...], width: int) -> Callable[[Manifest], np.ndarray]:
    def prepare(stage: Manifest) -> np.ndarray:
        assert stage.input is not None
        return preprocess.batch(images, stage.input.shape[2], width, stage.input)

    return prepare


def _long_line(manifest: Manifest, images: Sequence[np.ndarray], share: float) -> Case:
    """Crops side by side that are `share` times as wide as the widest bucket, in the bucket that the stage chooses."""
    assert manifest.input is not None
    height, limit = manifest.input.shape[2], manifest.input.width_buckets[-1]
    width = round(limit * share)
    scaled = [cv2.resize(i, (max(1, round(i.shape[1] * height / i.shape[0])), height)) for i in images]
    row = np.concatenate(scaled, axis=1)
    line = np.concatenate([row] * -(-width // row.shape[1]), axis=1)[:, :width]

    def prepare(stage: Manifest) -> np.ndarray:
        assert stage.input is not None
        wide = preprocess.rec_width(line.shape[1], line.shape[0], stage.input.shape[2])
        return _at_width((line,), preprocess.bucket_width(wide, stage.input.width_buckets))(stage)

    return Case(f"a line {width} px wide", (line,), prepare)


def _label(x: np.ndarray) -> str:
    count, _, height, width = x.shape
    return f"{count} x {height}x{width}"


def read_images(folder: str | Path, limit: int) -> list[np.ndarray]:
    """The first `limit` images of a folder by name, subfolders included. Raises UsageError when there is none."""
    return [preprocess.read_image(path) for path in image_paths(folder)[:limit]]


def image_paths(folder: str | Path) -> list[Path]:
    """All images of a folder by name, subfolders included. Raises UsageError when there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of images, found {'a file' if folder.exists() else 'nothing'}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in preprocess.IMAGE_SUFFIXES)
    if not paths:
        raise UsageError(f"{folder}: expected images ({', '.join(preprocess.IMAGE_SUFFIXES)}), found none")
    return paths


def draw_images(task: str) -> list[np.ndarray]:
    """Pages (detector) or lines with OpenCV's built-in letters, always the same."""
    if task == "det":
        return [
            _page(height, width, shade) for height, width, shade in ((480, 640, 235), (640, 400, 60), (300, 960, 180))
        ]
    return [_line(text, 40 + 30 * (i % 7)) for i, text in enumerate(DRAWN_TEXT)]


def _page(height: int, width: int, shade: int) -> np.ndarray:
    ramp = np.linspace(-20, 20, width)[None, :, None] + np.linspace(-10, 10, height)[:, None, None]
    page = np.clip((shade + ramp) * TINT, 0, 255).astype(np.uint8)
    ink = (20, 30, 40) if shade > 127 else (230, 240, 220)
    for row, y in enumerate(range(50, height - 20, 60)):
        text = DRAWN_TEXT[row % len(DRAWN_TEXT)]
        cv2.putText(page, text, (20 + 25 * (row % 3), y), cv2.FONT_HERSHEY_SIMPLEX, 1.0, ink, 2, cv2.LINE_AA)
    return page


def _line(text: str, shade: int) -> np.ndarray:
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 2)
    line = np.ones((height + 20, width + 16, 3)) * (255 - shade) * TINT
    cv2.putText(line, text, (8, height + 8), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (shade // 3,) * 3, 2, cv2.LINE_AA)
    return np.rint(line).astype(np.uint8)
