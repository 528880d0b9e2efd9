"""What a network costs with so many filters left in each group, counted from its shapes without building it.

Groups meet in the layers between them: a convolution's work is its inputs times its filters, and both may shrink.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from paddle import nn

from ocr_models.checkpoints import parameters
from slim.group_cuts import layer_macs

if TYPE_CHECKING:
    from slim.pruning import Group

KINDS = ("params", "macs")
# No tensor has more axes than two that shrink: outputs and inputs.
AXES = 2


class PlanCost:
    """Parameters of the export and multiply-accumulates of one image, for every choice of kept filters.

    network: before pruning. groups: its prunable groups; a choice is an array of kept filters in their order.
    """

    def __init__(self, network: nn.Layer, groups: Sequence[Group], input_shape: Sequence[int]) -> None:
        skipped = tuple(getattr(network, "train_only", ())) or ("\0",)
        tensors = {name: t for name, t in parameters(network).items() if not name.startswith(skipped)}
        macs = layer_macs(network, input_shape)
        owners: dict[str, list[tuple[int, int]]] = {name: [] for name in tensors}
        for index, group in enumerate(groups):
            for name, axis in group.tensors:
                if name in owners:
                    owners[name].append((axis, index))
        # Tensors whose axes shrink alike are counted as one: (group, how many more the axis holds) of both axes.
        # The group beyond the last stands for axes that stay: one filter, always kept.
        scales: dict[tuple[tuple[int, int], ...], np.ndarray] = {}
        for name, tensor in tensors.items():
            size, axes = tensor.size, [(len(groups), 0)] * AXES
            for column, (axis, index) in enumerate(owners[name]):
                axes[column] = (index, tensor.shape[axis] - groups[index].filters)
                size //= tensor.shape[axis]
            scale = np.array([size, macs.get(name, 0) / tensor.size * size])
            scales[tuple(axes)] = scales.get(tuple(axes), 0) + scale
        self._group, self._rest = np.moveaxis(np.array(list(scales)), -1, 0)  # (tensors, axes) each
        self._scale = np.array(list(scales.values()))  # (tensors, kinds)
        self.whole = self.of(np.array([group.filters for group in groups]))

    def of(self, kept: np.ndarray) -> np.ndarray:
        """kept: (…, groups) filters → (…, 2) params and MACs."""
        kept = np.concatenate([kept, np.ones((*np.shape(kept)[:-1], 1))], axis=-1)
        sizes = np.prod(kept[..., self._group] + self._rest, axis=-1)  # (…, tensors)
        return sizes @ self._scale

    def shares(self, kept: np.ndarray) -> np.ndarray:
        """The same as shares of the whole network's."""
        return self.of(kept) / self.whole
