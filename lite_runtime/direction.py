"""Text crops → upright or upside down, through any engine."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from artifact import Manifest
from command import ModelError
from lite_runtime import preprocess
from lite_runtime.engine import Engine
from lite_runtime.options import Options
from lite_runtime.stage import Stage


class DirectionClassifier(Stage):
    """The classifier of a line's direction."""

    TASK = "cls"
    NAME = "classifier"

    def __init__(self, engine: Engine, manifest: Manifest, options: Options | None = None) -> None:
        super().__init__(engine, manifest, options)
        self.angles = np.array([int(label) for label in manifest.post.get("labels", ("0", "180"))])

    def prepare(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """N crops (h, w, 3) uint8 BGR → (N, 3, H, W) float32, H and W fixed by the manifest."""
        _, _, height, width = self.input.shape
        return preprocess.batch(crops, height, width, self.input)

    def classify(self, crops: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Angle in degrees (N,) int, 0 or 180, and its probability (N,) float32."""
        angles, scores = [np.zeros(0, int)], [np.zeros(0, np.float32)]
        for start in range(0, len(crops), self.options.cls_batch_num):
            part = crops[start : start + self.options.cls_batch_num]
            probs = self.engine.run(self.prepare(part))  # (N, classes)
            if probs.shape != (len(part), len(self.angles)) or not np.isfinite(probs).all():
                raise ModelError(
                    f"{self.manifest.name}: expected probabilities {(len(part), len(self.angles))}, found "
                    f"{probs.shape}{'' if np.isfinite(probs).all() else ' with NaN'}; this is no working classifier"
                )
            angles.append(self.angles[probs.argmax(axis=1)])
            scores.append(probs.max(axis=1))
        return np.concatenate(angles), np.concatenate(scores)

    def upright(self, crops: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """The crops, those called 180 with a score above cls_thresh turned; and what classify() said."""
        angles, scores = self.classify(crops)
        turned = [
            cv2.rotate(crop, cv2.ROTATE_180) if angle == 180 and score > self.options.cls_thresh else crop
            for crop, angle, score in zip(crops, angles, scores, strict=True)
        ]
        return turned, angles, scores
