"""Runs a pipeline on one image and keeps what each network was given and what it answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from lite_runtime.crop import crop_quad
from lite_runtime.pipeline import OcrPipeline
from lite_runtime.preprocess import to_bgr
from lite_runtime.recording import Line, RecordedImage, Tensor


def record(ocr: OcrPipeline, image: np.ndarray, name: str, sha256: str) -> RecordedImage:
    """Read an image (H, W, 3) uint8 BGR line by line, each alone, so that a tensor belongs to one line.

    name, sha256: of the image's file. Weak lines stay in: drop_score is the reader's matter.
    """
    image = to_bgr(image)
    with _listening(ocr.det) as runs:
        quads, _ = ocr.det.detect(image)
    tensors = [Tensor("det", 0, *runs[0])]
    lines = []
    for index, quad in enumerate(quads):
        crops, angle = [crop_quad(image, quad)], 0
        if ocr.cls is not None:
            with _listening(ocr.cls) as runs:
                crops, angles, _ = ocr.cls.upright(crops)
            tensors.append(Tensor("cls", index, *runs[0]))
            angle = int(angles[0])
        with _listening(ocr.rec) as runs:
            [(text, score)] = ocr.rec.recognize(crops)
        tensors.append(Tensor("rec", index, *runs[0]))
        lines.append(Line(tuple((float(x), float(y)) for x, y in quad), text, float(score), angle))
    return RecordedImage(name, sha256, tuple(tensors), tuple(lines))


class _Listener:
    """An engine that passes everything on and remembers it."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.runs: list[tuple[np.ndarray, np.ndarray]] = []

    def run(self, x: np.ndarray) -> np.ndarray:
        y = self.engine.run(x)
        self.runs.append((np.array(x), np.array(y)))
        return y

    def close(self) -> None:
        self.engine.close()


@contextmanager
def _listening(stage: Any) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    listener = _Listener(stage.engine)
    stage.engine = listener
    try:
        yield listener.runs
    finally:
        stage.engine = listener.engine
