"""Image → text: detect, crop, turn, recognize."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

import artifact
from command import ModelError
from lite_runtime import bundle
from lite_runtime.crop import crop_quad
from lite_runtime.detector import TextDetector
from lite_runtime.direction import DirectionClassifier
from lite_runtime.engine import LiteEngine
from lite_runtime.options import Options
from lite_runtime.preprocess import to_bgr
from lite_runtime.recognizer import TextRecognizer
from lite_runtime.result import OcrResult, TextLine

__all__ = ["DEFAULT_MODELS", "OcrPipeline", "Options"]

DEFAULT_MODELS = Path(artifact.__file__).parent / "ocr_models" / "pretrained" / "x86"


class OcrPipeline:
    """The three stages in a row; each may run on another engine."""

    def __init__(
        self,
        det: TextDetector,
        cls: DirectionClassifier | None,
        rec: TextRecognizer,
        options: Options | None = None,
    ) -> None:
        """options: given, it replaces the stages' own; else each keeps what its manifest says."""
        if options is not None:
            for stage in (det, cls, rec):
                if stage is not None:
                    stage.options = options
        self.det = det
        self.cls = cls
        self.rec = rec
        self.options = options or Options.from_manifests(det.manifest, cls.manifest if cls else None, rec.manifest)

    @classmethod
    def from_folder(cls, folder: Path | str = DEFAULT_MODELS, **options: Any) -> OcrPipeline:
        """Open a bundle, or any folder whose subfolders are `.nb` artifacts: one det, one rec, at most one cls.

        options: fields of Options that shall differ from the manifests' values. Raises ArtifactError, ModelError.
        """
        return cls.from_models(bundle.read(folder), **options)

    @classmethod
    def from_models(cls, models: bundle.Models, **options: Any) -> OcrPipeline:
        """The same for a folder that has been read."""
        found = models.manifests
        chosen = Options.from_manifests(found["det"], found.get("cls"), found["rec"], **options)
        engines = {role: _open(models, role) for role in found}
        return cls(
            TextDetector(engines["det"], found["det"], chosen),
            DirectionClassifier(engines["cls"], found["cls"], chosen) if "cls" in found else None,
            TextRecognizer(engines["rec"], found["rec"], models.labels, chosen),
            chosen,
        )

    def __call__(self, image: np.ndarray) -> OcrResult:
        """Read an image: (H, W, 3) uint8 BGR, also grey or with alpha. Lines come in reading order."""
        clock = _Clock()
        image = to_bgr(image)
        quads, _ = self.det.detect(image)
        clock.lap("det")
        crops = [crop_quad(image, quad) for quad in quads]
        clock.lap("crop")
        angles, angle_scores = None, None
        if self.cls is not None and self.options.use_angle_cls:
            crops, angles, angle_scores = self.cls.upright(crops)
            clock.lap("cls")
        read = self.rec.recognize(crops)
        clock.lap("rec")
        lines = []
        for index, (text, score) in enumerate(read):
            if score < self.options.drop_score:
                continue
            top_left, top_right, bottom_right, bottom_left = ((float(x), float(y)) for x, y in quads[index])
            lines.append(
                TextLine(
                    (top_left, top_right, bottom_right, bottom_left),
                    text,
                    score,
                    None if angles is None else int(angles[index]),
                    None if angle_scores is None else float(angle_scores[index]),
                )
            )
        return OcrResult(tuple(lines), clock.finish())

    def close(self) -> None:
        """Free the engines."""
        for stage in (self.det, self.cls, self.rec):
            if stage is not None:
                stage.engine.close()


def _open(models: bundle.Models, role: str) -> LiteEngine:
    """The engine of a role; the file must be of the opt version that its bundle was made for."""
    engine = LiteEngine(models.nb(role), input=models.manifests[role].input)
    if models.bundle and engine.targets.opt_version != models.bundle.extra["opt_version"]:
        raise ModelError(
            f"{models.nb(role)}: expected a file of opt {models.bundle.extra['opt_version']} as the bundle has, found "
            f"{engine.targets.opt_version}; make the bundle again with export/bundle.py"
        )
    return engine


class _Clock:
    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round((now - self.last) * 1000, 3)
        self.last = now

    def finish(self) -> dict[str, float]:
        return {**self.laps, "total": round((time.perf_counter() - self.start) * 1000, 3)}
