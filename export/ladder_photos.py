"""Whole photos through the runtime's own pipeline, once a rung: the same boxes and the same texts, end to end."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import artifact
from export.agreement import BoxAgreement, edit_distance, match_boxes
from export.answers import NO_QUADS, Answer, count
from export.ladder import AS_SAVED, FUSED, NETWORK, X86, Model, Picture, View
from export.parity import Rung
from lite_runtime import preprocess
from lite_runtime.crop import crop_quad
from lite_runtime.detector import TextDetector
from lite_runtime.direction import DirectionClassifier
from lite_runtime.pipeline import OcrPipeline
from lite_runtime.recognizer import TextRecognizer
from lite_runtime.recorder import record
from lite_runtime.recording import RecordedImage

TASK = "photo"
DRAWN = "drawn page"
# More crops of the photos than this show nothing new to one network.
MAX_CROPS = 12


@dataclass(frozen=True)
class Photo:
    """image: (H, W, 3) uint8 BGR; sha256: of its file, "" for a drawn one."""

    name: str
    sha256: str
    image: np.ndarray

    @property
    def key(self) -> str:
        return self.sha256 or self.name


@dataclass
class Photos:
    """references: photo's key → what the networks made of it, line by line."""

    rungs: list[Rung]
    pictures: list[Picture]
    references: dict[str, RecordedImage]
    unmeasured: list[str]


def read_photos(paths: Iterable[Path]) -> list[Photo]:
    return [
        Photo(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), preprocess.read_image(path)) for path in paths
    ]


def drawn(images: Sequence[np.ndarray]) -> list[Photo]:
    return [Photo(f"{DRAWN} {number}", "", image) for number, image in enumerate(images, start=1)]


def climb(models: dict[str, Model], photos: Sequence[Photo]) -> Photos:
    """Read all photos on every rung that all models have; the first one, the networks, is the reference."""
    found = Photos([], [], {}, [])
    pictures: dict[str, Picture] = {}
    for kind in (NETWORK, AS_SAVED, FUSED, X86):
        missing = [task for task, model in models.items() if model.stage(kind) is None]
        if missing:
            found.unmeasured.append(f"photos {kind}: not measured, {' and '.join(missing)} cannot run there")
            continue
        ocr = _pipeline(models, kind)
        for photo in photos:
            run = record(ocr, photo.image, photo.name, photo.sha256)
            passed = True
            if kind == NETWORK:
                found.references[photo.key] = run
                pictures[photo.key] = Picture(photo.name, TASK, (photo.image,), (1.0, 1.0), [])
            else:
                rung, _ = compare(kind, found.references[photo.key], run, photo.image)
                found.rungs.append(rung)
                passed = rung.passed
            pictures[photo.key].views.append(View(kind, answer(run), passed))
    found.pictures = list(pictures.values())
    return found


def _pipeline(models: dict[str, Model], kind: str) -> OcrPipeline:
    """Each stage with its own manifest; the models keep their engines."""
    stages = {task: model.stage(kind) for task, model in models.items()}
    det, cls, rec = (stages.get(task) for task in ("det", "cls", "rec"))
    assert det is not None and rec is not None and rec.manifest.charset is not None
    labels = artifact.charset_labels(artifact.read_charset(rec.folder, rec.manifest), rec.manifest.charset.space)
    return OcrPipeline(
        TextDetector(det.engine, det.manifest),
        DirectionClassifier(cls.engine, cls.manifest) if cls else None,
        TextRecognizer(rec.engine, rec.manifest, labels),
    )


def crops(found: Photos, photos: Sequence[Photo]) -> list[np.ndarray]:
    """The lines that the networks found, cut out of their photos: what classifier and recognizer really see."""
    cut = [crop_quad(photo.image, quad) for photo in photos for quad in quads(found.references[photo.key])]
    return cut[:: max(1, -(-len(cut) // MAX_CROPS))]


def compare(stage: str, reference: RecordedImage, other: RecordedImage, image: np.ndarray) -> tuple[Rung, BoxAgreement]:
    """Lines against lines: those whose boxes match belong together."""
    boxes = match_boxes(quads(reference), quads(other), allowed_px(reference, image))
    texts = [line.text for line in reference.lines], [line.text for line in other.lines]
    edits = edit_distance(*texts, boxes.pairs)
    turned = sum(reference.lines[i].angle != other.lines[j].angle for i, j in boxes.pairs)
    said = f"{count(len(other.lines), 'line')}{f', {turned} turned otherwise' if turned else ''}"
    rung = Rung(
        stage, other.image, None, 0.0, said, boxes.same and not edits and not turned, TASK, boxes=boxes, edits=edits
    )
    return rung, boxes


def quads(image: RecordedImage) -> np.ndarray:
    """(N, 4, 2) px of the image."""
    return np.array([line.quad for line in image.lines], np.float32) if image.lines else NO_QUADS


def answer(image: RecordedImage) -> Answer:
    return Answer(quads(image), tuple(line.text for line in image.lines))


def allowed_px(reference: RecordedImage, image: np.ndarray) -> float:
    """How far a corner may lie off in the image: one pixel of the probability map, in whole px."""
    seen = reference.tensor("det", 0)
    if seen is None:
        return 1.0
    share = max(side / sees for side, sees in zip(image.shape[:2], seen.output.shape[2:], strict=True))
    return float(max(1, math.ceil(share)))
