"""The three tasks as the training loop sees them: samples, loss, validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

import artifact
from artifact import Manifest
from command import UsageError
from lite_runtime.detector import TextDetector
from lite_runtime.direction import DirectionClassifier
from lite_runtime.options import Options
from lite_runtime.preprocess import bucket_width
from lite_runtime.recognizer import TextRecognizer
from ocr_models.paddle_engine import NetworkEngine
from slim import metrics, scoring
from slim.datasets import CTC_STRIDE, ClsDataset, DetDataset, RecDataset, steps_needed
from slim.labels import read_cls_labels, read_det_labels, read_rec_labels
from slim.losses import CrossEntropyLoss, CTCLoss, DBLoss
from slim.recipes import Recipe
from slim.sampling import Draw, Sampler
from slim.training import Task

BATCH_AT_VALIDATION = 32
SQUEEZE = 1.25  # how much wider than the widest batch a training line may be


def open_task(manifest: Manifest, recipe: Recipe, train: Path, validation: Path, charset: Sequence[str] = ()) -> Task:
    """The task of `manifest` on the label files of two data folders (DIR/<task>/label.txt, or DIR/label.txt).

    charset: the entries of the recognizer's charset. Raises UsageError when the recipe is for another task.
    """
    if recipe.task != manifest.task:
        raise UsageError(
            f"expected a recipe for task {manifest.task}, found one for {recipe.task}; "
            f"give --config configs/{manifest.task}.yaml"
        )
    train_file, validation_file = (
        scoring.find_labels(train, manifest.task),
        scoring.find_labels(validation, manifest.task),
    )
    if manifest.task == "det":
        return DetTask(manifest, recipe, train_file, validation_file)
    if manifest.task == "cls":
        lines = train / "rec" / scoring.LABEL_FILE
        joined = lines if recipe.upright_lines and lines.is_file() else None
        return ClsTask(manifest, recipe, train_file, validation_file, joined)
    return RecTask(manifest, recipe, train_file, validation_file, charset)


class DetTask:
    metric_names: tuple[str, ...] = ("hmean", "precision", "recall")

    def __init__(self, manifest: Manifest, recipe: Recipe, train: Path, validation: Path) -> None:
        assert manifest.input is not None
        self.manifest, self.recipe = manifest, recipe
        self.data = DetDataset(train, input=manifest.input, size_px=recipe.size_px, augment=recipe.augment)
        self.scenes = read_det_labels(validation)
        self.criterion = DBLoss(
            recipe.prob_weight, recipe.binary_weight, recipe.threshold_weight, recipe.negative_ratio
        )

    def sampler(self) -> Sampler:
        return _plain_sampler(len(self.data), self.recipe)

    def load(self, draw: Draw) -> tuple[np.ndarray, ...]:
        rows = [
            self.data.sample(index, np.random.default_rng([*draw.seed, number]))
            for number, index in enumerate(draw.indices)
        ]
        return tuple(np.stack(column) for column in zip(*rows, strict=True))

    def loss(self, network: paddle.nn.Layer, batch: tuple[np.ndarray, ...]) -> tuple[paddle.Tensor, dict[str, float]]:
        x, *targets = (paddle.to_tensor(array) for array in batch)
        return self.criterion(network(x), tuple(targets))

    def validate(self, network: paddle.nn.Layer, limit: int | None) -> dict[str, Any]:
        scenes = scoring.spread(self.scenes, limit)
        detector = TextDetector(NetworkEngine(network), self.manifest)
        return {
            **metrics.f_score(scoring.score_detector(detector, scenes)),
            "samples": len(scenes),
            "of": len(self.scenes),
        }


class ClsTask:
    metric_names: tuple[str, ...] = ("accuracy",)

    def __init__(
        self, manifest: Manifest, recipe: Recipe, train: Path, validation: Path, lines: Path | None = None
    ) -> None:
        assert manifest.input is not None
        self.manifest, self.recipe = manifest, recipe
        self.data = ClsDataset(train, input=manifest.input, augment=recipe.augment, lines=lines)
        self.crops = read_cls_labels(validation)
        self.criterion = CrossEntropyLoss()

    def sampler(self) -> Sampler:
        return _plain_sampler(len(self.data), self.recipe)

    def load(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        rows = [
            self.data.sample(index, np.random.default_rng([*draw.seed, number]))
            for number, index in enumerate(draw.indices)
        ]
        return np.stack([x for x, _ in rows]), np.array([label for _, label in rows], np.int64)

    def loss(self, network: paddle.nn.Layer, batch: Any) -> tuple[paddle.Tensor, dict[str, float]]:
        x, labels = batch
        return self.criterion(network(paddle.to_tensor(x)), paddle.to_tensor(labels))

    def validate(self, network: paddle.nn.Layer, limit: int | None) -> dict[str, Any]:
        crops = scoring.spread(self.crops, limit)
        options = Options.from_manifests(self.manifest, cls_batch_num=BATCH_AT_VALIDATION)
        classifier = DirectionClassifier(NetworkEngine(network), self.manifest, options)
        return {
            **metrics.direction(scoring.score_classifier(classifier, crops)),
            "samples": len(crops),
            "of": len(self.crops),
        }


class RecTask:
    metric_names: tuple[str, ...] = ("accuracy", "ned")

    def __init__(
        self, manifest: Manifest, recipe: Recipe, train: Path, validation: Path, charset: Sequence[str]
    ) -> None:
        assert manifest.input is not None and manifest.charset is not None
        self.manifest, self.recipe = manifest, recipe
        self.labels = artifact.charset_labels(charset, manifest.charset.space)
        self.data = RecDataset(train, input=manifest.input, labels=self.labels, augment=recipe.augment)
        self.lines = read_rec_labels(validation)
        self.criterion = CTCLoss(manifest.charset.blank)

    def sampler(self) -> Sampler:
        widths = np.asarray(self.recipe.widths)
        # A line somewhat wider than the widest batch is squeezed into it, as at run time; beyond that, or with more
        # characters than CTC then has steps for, it would teach nothing.
        slots = widths[np.minimum(np.searchsorted(widths, self.data.widths), len(widths) - 1)]
        needed = np.array([steps_needed(text) for text in self.data.texts])
        usable = (self.data.widths <= SQUEEZE * widths[-1]) & (needed <= slots // CTC_STRIDE)
        if not usable.any():
            raise UsageError(
                f"expected lines of at most {SQUEEZE * widths[-1]:.0f} px at height {self.data.height}, found none; "
                "give wider `widths` in the recipe"
            )
        groups = {int(width): np.flatnonzero(usable & (slots == width)) for width in widths}
        return Sampler(
            {width: members for width, members in groups.items() if len(members)},
            self._batch_of,
            self.recipe.seed,
            self.recipe.widest_px,
            self._padded_of,
        )

    def _padded_of(self, width: int) -> int:
        assert self.manifest.input is not None
        return max(width, bucket_width(width, self.manifest.input.width_buckets))

    def _batch_of(self, width: int) -> int:
        recipe = self.recipe
        batch = max(round(recipe.batch * recipe.batch_width_px / width), 1)
        return min(batch, recipe.max_batch) if recipe.max_batch else batch

    def load(self, draw: Draw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = [
            self.data.sample(index, np.random.default_rng([*draw.seed, number]), draw.width)
            for number, index in enumerate(draw.indices)
        ]
        lengths = np.array([len(ids) for _, ids in rows], np.int64)
        labels = np.zeros((len(rows), max(int(lengths.max()), 1)), np.int32)
        for into, (_, ids) in zip(labels, rows, strict=True):
            into[: len(ids)] = ids
        return np.stack([x for x, _ in rows]), labels, lengths

    def loss(self, network: paddle.nn.Layer, batch: Any) -> tuple[paddle.Tensor, dict[str, float]]:
        x, labels, lengths = (paddle.to_tensor(array) for array in batch)
        return self.criterion(network(x), labels, lengths)

    def validate(self, network: paddle.nn.Layer, limit: int | None) -> dict[str, Any]:
        lines = scoring.spread(self.lines, limit)
        options = Options.from_manifests(self.manifest, rec_batch_num=BATCH_AT_VALIDATION)
        recognizer = TextRecognizer(NetworkEngine(network), self.manifest, self.labels, options)
        return {
            **metrics.reading(scoring.score_recognizer(recognizer, lines)),
            "samples": len(lines),
            "of": len(self.lines),
        }


def _plain_sampler(samples: int, recipe: Recipe) -> Sampler:
    return Sampler({0: np.arange(samples)}, lambda _width: recipe.batch, recipe.seed)
