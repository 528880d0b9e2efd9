"""Runs a model's own runtime stages over labelled data and keeps what `metrics` needs.

Validation in training and slim/evaluate.py both come here, so a number means the same in both: the pre- and
post-processing is the runtime's, set by the manifest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from command import UsageError
from lite_runtime.detector import TextDetector
from lite_runtime.direction import DirectionClassifier
from lite_runtime.pipeline import OcrPipeline
from lite_runtime.preprocess import read_image
from lite_runtime.recognizer import TextRecognizer
from slim import metrics
from slim.labels import IGNORED
from slim.metrics import Counts

# Crops in memory at a time; the stages make their own, smaller batches of them.
CHUNK = 256
LABEL_FILE = "label.txt"

T = TypeVar("T")
Scene = tuple[Path, list[tuple[str, np.ndarray]]]


def find_labels(folder: Path, task: str) -> Path:
    """DIR/<task>/label.txt, else DIR/label.txt. Raises UsageError where neither is."""
    for path in (folder / task / LABEL_FILE, folder / LABEL_FILE):
        if path.is_file():
            return path
    raise UsageError(
        f"{folder}: expected {task}/{LABEL_FILE}, found none; make data with slim/synthesize.py or give another folder"
    )


def measured_on(label_file: Path, samples: int, of: int) -> dict[str, Any]:
    """What a manifest says that its metrics were measured on: so many samples of all that this label file lists.

    {"data": the data folder's name, "split": of data that slim/synthesize.py made, "labels_sha256", "samples", "of"}
    """
    split = ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        split = json.loads((label_file.parent / "dataset.json").read_text(encoding="utf-8"))["split"]
    folder = label_file.resolve().parent
    return {
        "data": folder.parent.name if folder.name in ("det", "cls", "rec") else folder.name,
        "split": split,
        "labels_sha256": hashlib.sha256(label_file.read_bytes()).hexdigest(),
        "samples": samples,
        "of": of,
    }


def spread(samples: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` samples, evenly over the whole list; None means all."""
    if limit is None or limit >= len(samples):
        return list(samples)
    return [samples[index] for index in np.linspace(0, len(samples) - 1, limit).round().astype(int)]


def score_detector(detector: TextDetector, scenes: Iterable[Scene]) -> list[Counts]:
    """Counts of each scene; scenes are (image path, [(text, quad (4, 2))])."""
    counts = []
    for path, regions in scenes:
        quads, _ = detector.detect(read_image(path))
        counts.append(metrics.detection_counts(quads, _quads(regions), _ignored(regions)))
    return counts


def score_classifier(classifier: DirectionClassifier, crops: Sequence[tuple[Path, int]]) -> np.ndarray:
    """(N,) whether each crop's direction (0 or 180) is told rightly."""
    right: list[float] = []
    for start in range(0, len(crops), CHUNK):
        part = crops[start : start + CHUNK]
        angles, _ = classifier.classify([read_image(path) for path, _ in part])
        right.extend(float(int(found) == int(angle)) for found, (_, angle) in zip(angles, part, strict=True))
    return np.array(right)


def score_recognizer(recognizer: TextRecognizer, lines: Sequence[tuple[Path, str]]) -> np.ndarray:
    """(N, 2) scores of each line: exactly right, and 1−NED."""
    found: list[str] = []
    for start in range(0, len(lines), CHUNK):
        part = lines[start : start + CHUNK]
        found.extend(text for text, _ in recognizer.recognize([read_image(path) for path, _ in part]))
    return metrics.line_scores(found, [text for _, text in lines])


def score_pipeline(pipeline: OcrPipeline, scenes: Iterable[Scene]) -> list[Counts]:
    """Counts of each scene end to end: a line matches with the right place and the same text."""
    counts = []
    for path, regions in scenes:
        result = pipeline(read_image(path))
        quads = np.array([line.quad for line in result.lines], np.float32).reshape(-1, 4, 2)
        counts.append(
            metrics.detection_counts(
                quads,
                _quads(regions),
                _ignored(regions),
                [line.text for line in result.lines],
                [text for text, _ in regions],
            )
        )
    return counts


def _quads(regions: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    return np.array([quad for _, quad in regions], np.float32).reshape(-1, 4, 2)


def _ignored(regions: Sequence[tuple[str, np.ndarray]]) -> list[bool]:
    return [text in IGNORED for text, _ in regions]
