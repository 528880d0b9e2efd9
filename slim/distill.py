"""Learning from the network as it was: the slimmed one is taught the answers of its unslimmed twin beside the labels.

Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531. What is compared:
det  probability map (divergence of one pixel's text / no text) and threshold map (absolute difference near borders),
     with the weights that DB's own loss gives them
rec  CTC posteriors of each column (divergence at a temperature, summed over a line as CTC's own loss is), and the
     sequence features in front of the last layer
cls  logits (divergence at a temperature)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from command import ModelError, UsageError
from slim.calibration import freeze_batch_norm
from slim.losses import EPSILON, DBLoss
from slim.sampling import Draw, Sampler

if TYPE_CHECKING:
    from slim.training import Task

WEIGHT = 1.0
TEMPERATURE = 2.0
# Where the teacher sees text; each side of it counts the same, however little of a page is text.
TEXT = 0.5

Parts = dict[str, Tensor]


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), summed over the last axis and kept along the others.

    student, teacher: (…, classes) logits. T² keeps the gradient's size whatever T is (section 2 of the paper).
    """
    wanted = F.log_softmax(teacher / temperature, axis=-1)
    found = F.log_softmax(student / temperature, axis=-1)
    return temperature**2 * (wanted.exp() * (wanted - found)).sum(axis=-1)


def map_divergence(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """KL of text / no text by pixel: its mean where the teacher sees text plus its mean where it sees none.

    student, teacher: (N, H, W) probabilities; mask: (N, H, W), 0 leaves a pixel out. A side without pixels gives 0.
    """
    wanted = paddle.clip(teacher, EPSILON, 1.0 - EPSILON)
    found = paddle.clip(student, EPSILON, 1.0 - EPSILON)
    divergence = wanted * (wanted / found).log() + (1.0 - wanted) * ((1.0 - wanted) / (1.0 - found)).log()
    text = (teacher >= TEXT).astype("float32") * mask
    rest = mask - text
    return (divergence * text).sum() / (text.sum() + EPSILON) + (divergence * rest).sum() / (rest.sum() + EPSILON)


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ (student - teacher)² / Σ teacher²: 0 for equal features, 1 for features of zeros."""
    return (student - teacher).square().sum() / (teacher.square().sum() + EPSILON)


def _det(student: Tensor, teacher: Tensor, features: tuple, batch: tuple[np.ndarray, ...]) -> Parts:
    """student, teacher: (N, 3, H, W) probability, threshold, binary maps."""
    weights = DBLoss()
    text_mask, threshold_mask = paddle.to_tensor(batch[2]), paddle.to_tensor(batch[4])
    apart = ((student[:, 1] - teacher[:, 1]).abs() * threshold_mask).sum() / (threshold_mask.sum() + EPSILON)
    return {
        "prob": weights.prob_weight * map_divergence(student[:, 0], teacher[:, 0], text_mask),
        "threshold": weights.threshold_weight * apart,
    }


def _rec(student: Tensor, teacher: Tensor, features: tuple[Tensor, Tensor], batch: Any) -> Parts:
    """student, teacher: (N, T, classes) logits. features: (N, T, C) of each, before the last layer."""
    return {
        "posteriors": softened_divergence(student, teacher).sum(axis=1).mean(),
        "features": relative_error(*features),
    }


def _cls(student: Tensor, teacher: Tensor, features: tuple, batch: Any) -> Parts:
    """student, teacher: (N, classes) logits."""
    return {"logits": softened_divergence(student, teacher).mean()}


COMPARE: dict[str, Callable[..., Parts]] = {"DBDetector": _det, "CRNNRecognizer": _rec, "DirectionClassifier": _cls}
# The layer whose output counts as the features, where they are compared.
FEATURES = {"CRNNRecognizer": "neck"}


def with_teacher(task: Task, teacher: nn.Layer, weight: float = WEIGHT) -> Task:
    """`task` with `weight` · (distance to what `teacher` puts out) added to its loss; all else stays as it is.

    teacher: float, and not the network that is trained; its weights and statistics are left alone.
    Raises UsageError for a negative weight, ModelError for a network that nothing is known about. 0 gives `task` back.
    """
    if not (np.isfinite(weight) and weight >= 0):
        raise UsageError(f"expected a distillation weight of 0 or more, found {weight}; give --distill-weight 1")
    kind = type(teacher).__name__
    if kind not in COMPARE:
        raise ModelError(f"expected a teacher among {', '.join(COMPARE)}, found {kind}; give --no-distill")
    return TaughtTask(task, teacher, weight) if weight else task


class TaughtTask:
    """See `with_teacher`."""

    def __init__(self, task: Task, teacher: nn.Layer, weight: float) -> None:
        self.metric_names, self.data = task.metric_names, task.data
        self._task, self._teacher, self._weight = task, teacher, weight
        kind = type(teacher).__name__
        self._compare, self._features = COMPARE[kind], FEATURES.get(kind)
        for parameter in teacher.parameters():
            parameter.stop_gradient = True
        # In train mode networks give what losses read: logits, and the threshold map.
        teacher.train()
        freeze_batch_norm(teacher)

    def sampler(self) -> Sampler:
        return self._task.sampler()

    def load(self, draw: Draw) -> Any:
        return self._task.load(draw)

    def validate(self, network: nn.Layer, limit: int | None) -> dict[str, Any]:
        return self._task.validate(network, limit)

    def loss(self, network: nn.Layer, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """The task's loss plus the weighted distance; its parts appear as `teacher_…`, unweighted by `weight`."""
        student = network._layers if isinstance(network, paddle.DataParallel) else network
        with _Watch(student, self._features) as seen:
            loss, parts = self._task.loss(network, batch)
        with paddle.no_grad(), _Watch(self._teacher, self._features) as wanted:
            self._teacher(paddle.to_tensor(batch[0]))
        features = (seen.features, wanted.features)
        distances = self._compare(seen.output, wanted.output, features, batch)
        for distance in distances.values():
            loss = loss + self._weight * distance
        return loss, {**parts, **{f"teacher_{name}": float(value) for name, value in distances.items()}}


class _Watch:
    """Keeps what a network puts out, and one of its sublayers, while the loss runs it."""

    output: Tensor
    features: Tensor | None = None

    def __init__(self, network: nn.Layer, features: str | None) -> None:
        self._watched = {"output": network}
        if features:
            self._watched["features"] = getattr(network, features)
        self._hooks: list[Any] = []

    def __enter__(self) -> _Watch:
        def keep(name: str) -> Callable[..., None]:
            return lambda _layer, _inputs, output: setattr(self, name, output)

        self._hooks = [layer.register_forward_post_hook(keep(name)) for name, layer in self._watched.items()]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
