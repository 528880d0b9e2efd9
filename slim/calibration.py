"""What values reach each layer of a float network: where PACT starts from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import paddle
from paddle import nn

PERCENTILE = 99.99
_OBSERVED = (nn.Conv2D, nn.Linear)
_NORMS = (nn.BatchNorm, nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D)


class Range(NamedTuple):
    """level: |x| that all but a few values stay below. peak: the largest |x|. Both averaged over batches."""

    level: float
    peak: float


def freeze_batch_norm(network: nn.Layer) -> None:
    """Use the running statistics and leave them alone, while the rest of the network stays in train mode."""
    for layer in network.sublayers(include_self=True):
        if isinstance(layer, _NORMS):
            layer.eval()


def observe(network: nn.Layer, batches: Iterable[paddle.Tensor], percentile: float = PERCENTILE) -> dict[str, Range]:
    """Range of the input of every convolution and linear layer, by structured name.

    network: float. It runs in train mode, because the detector's threshold branch runs in no other, with batch norm
    frozen; it is left in eval mode. batches: (N, 3, H, W), prepared as for evaluation.
    Raises ValueError for no batches. A layer whose input is all zero gets the range (1, 1).
    """
    seen: dict[str, list[tuple[float, float]]] = {}

    def watch(name: str):
        def before(layer, inputs):
            values = np.abs(inputs[0].numpy())
            seen.setdefault(name, []).append((float(np.percentile(values, percentile)), float(values.max())))

        return before

    hooks = [
        layer.register_forward_pre_hook(watch(name))
        for name, layer in network.named_sublayers()
        if isinstance(layer, _OBSERVED)
    ]
    network.train()
    freeze_batch_norm(network)
    try:
        with paddle.no_grad():
            for x in batches:
                network(x)
    finally:
        for hook in hooks:
            hook.remove()
        network.eval()
    if not seen:
        raise ValueError("no batches to observe")
    return {name: _range(np.asarray(values)) for name, values in seen.items()}


def _range(values: np.ndarray) -> Range:
    """values: (batches, 2) level and peak."""
    level, peak = values.mean(axis=0)
    # A peak with nothing below it but zeros has no percentile of its own.
    return Range(float(level) or float(peak) or 1.0, float(peak) or 1.0)
