"""Image → text: detect, crop, turn, recognize."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

import artifact
from artifact import ArtifactError
from lite_runtime.crop import crop_quad
from lite_runtime.detector import TextDetector
from lite_runtime.direction import DirectionClassifier
from lite_runtime.engine import open_nb
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
        folders = find_models(folder)
        det_engine, det = open_nb(folders["det"], task="det")
        rec_engine, rec = open_nb(folders["rec"], task="rec")
        entries = artifact.read_charset(folders["rec"], rec)
        direction = open_nb(folders["cls"], task="cls") if "cls" in folders else None
        chosen = Options.from_manifests(det, direction[1] if direction else None, rec, **options)
        labels = artifact.charset_labels(entries, rec.charset.space) if rec.charset else []
        return cls(
            TextDetector(det_engine, det, chosen),
            DirectionClassifier(*direction, chosen) if direction else None,
            TextRecognizer(rec_engine, rec, labels, chosen),
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


def find_models(folder: Path | str) -> dict[str, Path]:
    """Artifact folder of each task in a bundle or a folder of artifacts. Raises ArtifactError."""
    folder = Path(folder)
    if (folder / artifact.MANIFEST).is_file():
        artifact.load(folder, kind="bundle", task="system")
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: expected a folder with det/, cls/ and rec/, found none; give it with --models")
    found: dict[str, Path] = {}
    for path in sorted(path.parent for path in folder.glob(f"*/{artifact.MANIFEST}")):
        task = artifact.load(path, verify=False).task
        if task in found:
            raise ArtifactError(f"{folder}: expected one {task} model, found {found[task].name} and {path.name}")
        found[task] = path
    if missing := [task for task in ("det", "rec") if task not in found]:
        raise ArtifactError(
            f"{folder}: expected subfolders with a det and a rec artifact, found no {' and no '.join(missing)}; "
            "give a bundle's folder"
        )
    return found


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
