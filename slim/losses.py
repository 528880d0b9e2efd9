"""What training minimises: DB's three-part loss, CTC for lines, cross entropy for the direction.

Weights follow PaddleOCR's defaults for PP-OCR mobile v2.0: probability 5, binary map 1, threshold map 10, three hard
negatives for each positive pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import functional as F

EPSILON = 1e-6


def balanced_bce(prob: Tensor, target: Tensor, mask: Tensor, negative_ratio: float = 3.0) -> Tensor:
    """Binary cross entropy over all positives and the hardest negatives (OHEM; Liao et al. 2020, equation 8).

    prob, target, mask: (N, H, W); mask 0 leaves a pixel out. At most `negative_ratio` negatives count for each
    positive. An image set without a positive pixel has no negatives either and gives 0, as in PaddleOCR.
    """
    positive = target * mask
    negative = (1.0 - target) * mask
    positives = float(positive.sum())
    negatives = int(min(float(negative.sum()), positives * negative_ratio))
    clipped = paddle.clip(prob, EPSILON, 1.0 - EPSILON)
    # The weight of each pixel: positives and chosen negatives 1, all else 0; chosen outside the graph.
    chosen = positive.numpy()
    if negatives > 0:
        hardness = np.where(negative.numpy() > 0, clipped.detach().numpy(), -1.0).ravel()
        hardest = np.argpartition(hardness, hardness.size - negatives)[-negatives:]
        chosen = chosen.copy()
        chosen.ravel()[hardest] = 1.0
    cross_entropy = F.binary_cross_entropy(clipped, target, weight=paddle.to_tensor(chosen), reduction="sum")
    return cross_entropy / (positives + negatives + EPSILON)


def dice(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 − 2 |A ∩ B| / (|A| + |B|) over the masked pixels of (N, H, W) maps; 0 is a perfect match."""
    overlap = (pred * target * mask).sum()
    total = (pred * mask).sum() + (target * mask).sum()
    return 1.0 - 2.0 * overlap / (total + EPSILON)


def masked_l1(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean |pred − target| where mask is 1, over (N, H, W) maps; 0 for an empty mask."""
    return ((pred - target).abs() * mask).sum() / (mask.sum() + EPSILON)


@dataclass(frozen=True)
class DBLoss:
    """L = prob_weight · L_s + binary_weight · L_b + threshold_weight · L_t (arXiv:1911.08947, equation 7)."""

    prob_weight: float = 5.0
    binary_weight: float = 1.0
    threshold_weight: float = 10.0
    negative_ratio: float = 3.0

    def __call__(self, maps: Tensor, targets: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """maps: (N, 3, H, W) probability, threshold, binary. targets: shrunk text, its mask, threshold map, its mask,

        each (N, H, W) float32. Returns the loss and its three parts as plain numbers.
        """
        text, text_mask, threshold, threshold_mask = targets
        prob_loss = balanced_bce(maps[:, 0], text, text_mask, self.negative_ratio)
        binary_loss = dice(maps[:, 2], text, text_mask)
        threshold_loss = masked_l1(maps[:, 1], threshold, threshold_mask)
        loss = self.prob_weight * prob_loss + self.binary_weight * binary_loss + self.threshold_weight * threshold_loss
        return loss, {
            "prob": float(prob_loss),
            "binary": float(binary_loss),
            "threshold": float(threshold_loss),
        }


@dataclass(frozen=True)
class CTCLoss:
    """Mean over lines of −ln p(text | image) (Graves et al. 2006); the padded columns of a line take part."""

    blank: int = 0

    def __call__(self, logits: Tensor, labels: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, float]]:
        """logits: (N, T, classes) before softmax; labels: (N, L) int32, padded; lengths: (N,) int64 of the labels."""
        count, steps = logits.shape[:2]
        losses = F.ctc_loss(
            logits.transpose([1, 0, 2]),
            labels,
            paddle.full([count], steps, "int64"),
            lengths,
            blank=self.blank,
            reduction="none",
        )
        return losses.mean(), {}


@dataclass(frozen=True)
class CrossEntropyLoss:
    """Mean −ln p(label) over (N, classes) logits and (N,) int64 labels."""

    def __call__(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
        return F.cross_entropy(logits, labels), {}
