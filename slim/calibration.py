"""What values reach each layer of a float network: where its int8 version starts from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import paddle
from paddle import nn

from command import ModelError, progress
from slim.thresholds import Histogram, threshold

if TYPE_CHECKING:
    from slim.training import Task

PERCENTILE = 99.99
_OBSERVED = (nn.Conv2D, nn.Linear)
_NORMS = (nn.BatchNorm, nn.BatchNorm1D, nn.BatchNorm2D, nn.BatchNorm3D)


def freeze_batch_norm(network: nn.Layer) -> None:
    """Use the running statistics and leave them alone, while the rest of the network stays in train mode."""
    for layer in network.sublayers(include_self=True):
        if isinstance(layer, _NORMS):
            layer.eval()


def training_inputs(task: Task, batches: int) -> list[paddle.Tensor]:
    """(N, 3, H, W) each: training samples as they are, without augmentation."""
    sampler, data = task.sampler(), task.data
    augment, data.augment = data.augment, False
    try:
        draws = [sampler.draw(step) for step in range(batches)]
        return [paddle.to_tensor(task.load(draw)[0]) for draw in progress(draws, "calibrating")]
    finally:
        data.augment = augment


def observe(network: nn.Layer, batches: Iterable[paddle.Tensor]) -> dict[str, Histogram]:
    """Magnitudes of the input of every convolution and linear layer, by structured name in running order.

    network: float. It runs in train mode, because the detector's threshold branch runs in no other, with batch norm
    frozen; it is left in eval mode. batches: (N, 3, H, W), prepared as for evaluation.
    Raises ValueError for no batches, ModelError with the layer's name for values that are not finite.
    """
    seen: dict[str, Histogram] = {}

    def watch(name: str):
        def before(layer, inputs):
            try:
                seen.setdefault(name, Histogram()).add(inputs[0].numpy())
            except ValueError as error:
                raise ModelError(f"{name}: its input: {error}; check the weights and the calibration data") from None

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
    return seen


def levels(
    histograms: Mapping[str, Histogram], method: str = "hist", percentile: float = PERCENTILE
) -> dict[str, float]:
    """Where to clip the input of each layer. method: see `slim.thresholds`."""
    return {name: threshold(histogram, method, percentile) for name, histogram in histograms.items()}
