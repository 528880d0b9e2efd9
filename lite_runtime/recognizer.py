"""Text crops → strings, through any engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from artifact import Manifest
from command import ModelError
from lite_runtime import ctc_decode, preprocess
from lite_runtime.engine import Engine
from lite_runtime.options import Options
from lite_runtime.stage import Stage


class TextRecognizer(Stage):
    """The CTC recognizer."""

    TASK = "rec"
    NAME = "recognizer"

    def __init__(
        self, engine: Engine, manifest: Manifest, labels: Sequence[str], options: Options | None = None
    ) -> None:
        """labels: one string a class, as artifact.charset_labels() gives them."""
        super().__init__(engine, manifest, options)
        if manifest.charset is None:
            raise ModelError(f"{manifest.name}: expected a charset in the manifest, found none; make it again")
        if not self.input.width_buckets:
            raise ModelError(
                f"{manifest.name}: expected input.width_buckets in the manifest, found none; make it again"
            )
        if len(labels) != manifest.charset.classes:
            raise ModelError(
                f"{manifest.name}: expected a charset of {manifest.charset.classes} classes, found {len(labels)}; "
                "use the charset that the model was trained with"
            )
        self.labels = list(labels)
        self.blank = manifest.charset.blank

    def prepare(self, crops: Sequence[np.ndarray], width: int) -> np.ndarray:
        """N crops (h, w, 3) uint8 BGR → (N, 3, H, width) float32."""
        return preprocess.batch(crops, self.input.shape[2], width, self.input)

    def recognize(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Text and mean character probability of each crop, in the crops' order."""
        lines: list[tuple[str, float]] = [("", 0.0)] * len(crops)
        for indices, width in self.batches(crops):
            probs = self.engine.run(self.prepare([crops[index] for index in indices], width))  # (N, T, classes)
            if probs.ndim != 3 or probs.shape[::2] != (len(indices), len(self.labels)) or not np.isfinite(probs).all():
                raise ModelError(
                    f"{self.manifest.name}: expected probabilities ({len(indices)}, T, {len(self.labels)}), found "
                    f"{probs.shape}{'' if np.isfinite(probs).all() else ' with NaN'}; use the charset and the "
                    "weights that belong together"
                )
            for index, line in zip(indices, ctc_decode.greedy(probs, self.labels, self.blank), strict=True):
                lines[index] = line
        return lines

    def batches(self, crops: Sequence[np.ndarray]) -> Iterator[tuple[list[int], int]]:
        """(indices of crops, input width) of each batch: narrow lines first, one width bucket a batch.

        A batch ends where the next bucket begins, so that a line's text does not depend on its neighbours: padding
        reaches the recurrent layers.
        """
        height = self.input.shape[2]
        widths = [preprocess.rec_width(crop.shape[1], crop.shape[0], height) for crop in crops]
        batch: list[int] = []
        batch_width = 0
        for index in sorted(range(len(crops)), key=widths.__getitem__):
            width = preprocess.bucket_width(widths[index], self.input.width_buckets)
            if batch and (width != batch_width or len(batch) == self.options.rec_batch_num):
                yield batch, batch_width
                batch = []
            batch.append(index)
            batch_width = width
        if batch:
            yield batch, batch_width
