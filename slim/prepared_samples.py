"""Labelled samples made ready once: the network's inputs, and what its outputs are compared with.

Sensitivity runs the same samples hundreds of times. Reading, resizing and sorting into batches are the runtime's own
and happen once; decoding and comparing are the runtime's and `metrics`' own and happen after every run, so that a
number is the one that slim/evaluate.py gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import artifact
from artifact import Manifest
from command import UsageError
from lite_runtime import ctc_decode
from lite_runtime.detector import TextDetector
from lite_runtime.direction import DirectionClassifier
from lite_runtime.options import Options
from lite_runtime.preprocess import read_image
from lite_runtime.recognizer import TextRecognizer
from slim import labels, metrics, scoring
from slim.metrics import Counts

BATCH = 32
# The measure that losses are counted in comes first.
METRICS = {"det": ("hmean", "precision", "recall"), "cls": ("accuracy",), "rec": ("ned", "accuracy")}


class Batch(NamedTuple):
    """x: (N, 3, H, W) float32. judge: the network's output for x → one row of numbers for each sample."""

    x: np.ndarray
    judge: Callable[[np.ndarray], list[list[float]]]


class Prepared(NamedTuple):
    """batches of one task's samples; samples: how many; of: how many there were to choose from."""

    task: str
    batches: list[Batch]
    samples: int
    of: int


def prepare(folder: Path, manifest: Manifest, label_file: Path, limit: int | None) -> Prepared:
    """`limit` samples of a label file, spread evenly over it; all with None.

    folder: the model's artifact, for its charset. Raises UsageError for labels or images that cannot be used.
    """
    build = {"det": _det, "cls": _cls, "rec": _rec}[manifest.task]
    read: dict[str, Callable[[Path], Sequence[Any]]] = {
        "det": labels.read_det_labels,
        "cls": labels.read_cls_labels,
        "rec": labels.read_rec_labels,
    }
    found = read[manifest.task](label_file)
    chosen = scoring.spread(found, limit)
    if not chosen:
        raise UsageError(f"{label_file}: expected labelled samples, found none; give other data")
    return Prepared(manifest.task, build(folder, manifest, chosen), len(chosen), len(found))


def measure(task: str, rows: Sequence[Sequence[float]] | np.ndarray) -> dict[str, float]:
    """The task's metrics from the rows that `Batch.judge` gives."""
    if task == "det":
        return metrics.f_score([Counts(*map(int, row)) for row in rows])
    if task == "cls":
        return metrics.direction(np.array(rows)[:, 0])
    return metrics.reading(np.array(rows, float))


def _det(folder: Path, manifest: Manifest, chosen: Sequence[Any]) -> list[Batch]:
    detector = TextDetector(_NoEngine(), manifest)
    batches = []
    for path, regions in chosen:
        image = read_image(path)
        quads = np.array([quad for _, quad in regions], np.float32).reshape(-1, 4, 2)
        ignored = [text in labels.IGNORED for text, _ in regions]

        def judge(y: np.ndarray, shape=image.shape[:2], quads=quads, ignored=ignored) -> list[list[float]]:
            found, _ = detector.boxes(y[0, 0], shape)
            return [list(vars(metrics.detection_counts(found, quads, ignored)).values())]

        batches.append(Batch(detector.prepare(image), judge))
    return batches


def _cls(folder: Path, manifest: Manifest, chosen: Sequence[Any]) -> list[Batch]:
    classifier = DirectionClassifier(_NoEngine(), manifest)
    batches = []
    for start in range(0, len(chosen), BATCH):
        part = chosen[start : start + BATCH]
        expected = [angle for _, angle in part]

        def judge(y: np.ndarray, expected=expected) -> list[list[float]]:
            found = classifier.angles[y.argmax(axis=1)]
            return [[float(int(one) == int(other))] for one, other in zip(found, expected, strict=True)]

        batches.append(Batch(classifier.prepare([read_image(path) for path, _ in part]), judge))
    return batches


def _rec(folder: Path, manifest: Manifest, chosen: Sequence[Any]) -> list[Batch]:
    assert manifest.charset is not None
    texts = artifact.charset_labels(artifact.read_charset(folder, manifest), manifest.charset.space)
    options = Options.from_manifests(manifest, rec_batch_num=BATCH)
    recognizer = TextRecognizer(_NoEngine(), manifest, texts, options)
    crops = [read_image(path) for path, _ in chosen]
    batches = []
    for indices, width in recognizer.batches(crops):
        expected = [chosen[index][1] for index in indices]

        def judge(y: np.ndarray, expected=expected) -> list[list[float]]:
            found = [text for text, _ in ctc_decode.greedy(y, recognizer.labels, recognizer.blank)]
            return metrics.line_scores(found, expected).tolist()

        batches.append(Batch(recognizer.prepare([crops[index] for index in indices], width), judge))
    return batches


class _NoEngine:
    """The runtime's stages are used for their pre- and post-processing; the networks run elsewhere."""

    def run(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def close(self) -> None:
        pass
