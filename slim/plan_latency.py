"""The predicted latency of a network with so many filters left in each group: the sum of its layers' measured times.

It leaves out what layers do to one another (caches, the order of memory), so it is a prediction and called one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from paddle import nn

from ocr_models.layer_shapes import layers
from ocr_models.layer_times import LayerTimes

if TYPE_CHECKING:
    from slim.pruning import Group


class PlanLatency:
    """network: before pruning. groups: its prunable groups; a choice is an array of kept filters in their order."""

    def __init__(
        self, network: nn.Layer, groups: Sequence[Group], input_shape: Sequence[int], times: LayerTimes
    ) -> None:
        owners = {tensor: index for index, group in enumerate(groups) for tensor in group.tensors}
        self._filters = np.array([group.filters for group in groups])
        # Layers of one kind whose channels follow the same groups take the same time.
        counts: dict[tuple, int] = {}
        geometries = {}
        for layer in layers(network, input_shape):
            ends = tuple(
                (channels, owners.get(axis) if axis else None)
                for channels, axis in ((layer.inputs, layer.input_axis), (layer.outputs, layer.output_axis))
            )
            key = (str(layer.geometry), ends)
            geometries[key] = layer.geometry
            counts[key] = counts.get(key, 0) + 1
        self._layers = [(geometries[key], key[1], count) for key, count in counts.items()]
        self._times, self.device = times, times.device
        self.whole_ms = float(self.of(self._filters))

    def of(self, kept: np.ndarray) -> np.ndarray:
        """kept: (…, groups) filters → (…,) ms."""
        total = np.zeros(np.shape(kept)[:-1])
        for geometry, ends, count in self._layers:
            inputs, outputs = (self._channels(kept, channels, group) for channels, group in ends)
            total = total + count * self._times.ms(geometry, inputs, outputs)
        return total

    def shares(self, kept: np.ndarray) -> np.ndarray:
        """(…, 1): the same as a share of the whole network's."""
        return (self.of(kept) / self.whole_ms)[..., None]

    def _channels(self, kept: np.ndarray, channels: int, group: int | None) -> np.ndarray:
        if group is None:
            return np.full(np.shape(kept)[:-1], float(channels))
        return channels - self._filters[group] + np.asarray(kept, float)[..., group]
