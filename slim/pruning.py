"""Filter pruning by geometric median: which filters of a network can go, and the plan that takes them out.

He et al. 2019, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration" (FPGM),
arXiv:1811.00250: a filter whose distances to all others of its layer sum up to little can be replaced by them.
PaddleSlim finds the layers that have to be cut together (shortcuts, depthwise convolutions, squeeze and excitation)
and scores the filters; how many go, and how the result is kept, is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from paddle import nn

from command import UsageError
from ocr_models.checkpoints import LEFTOVER
from ocr_models.prune_plan import PrunePlan
from slim.pact import quiet

# The CPU kernels work on eight channels at a time: the same size unrounded took half as long again.
MULTIPLE = 8
# Beyond this share hardly a filter is left of any layer.
MAX_RATIO = 0.9
SEARCH_STEPS = 12
MAX_LEVELS = 64


class Group(NamedTuple):
    """Filters that are scored and removed together.

    name: structured name of the weights that are scored. filters: how many there are. tensors: all that shrink with
    them, as (structured name, axis).
    """

    name: str
    filters: int
    tensors: tuple[tuple[str, int], ...]


def kept_filters(filters: int, ratio: float, multiple: int = MULTIPLE) -> int:
    """How many of `filters` stay when a share `ratio` is to go: the nearest multiple, at least one, at most all."""
    return min(filters, max(multiple, int(filters * (1.0 - ratio) / multiple + 0.5) * multiple))


def levels(filters: int, multiple: int = MULTIPLE, deepest: float = MAX_RATIO) -> tuple[int, ...]:
    """Numbers of filters that may stay, from all downwards in multiples; no more than a share `deepest` goes.

    At most MAX_LEVELS of them: finer steps cost the search much and win it nothing.
    """
    step = multiple * -(-filters // (multiple * MAX_LEVELS))
    first = (filters - 1) // step * step
    return (filters, *(kept for kept in range(first, 0, -step) if 1.0 - kept / filters <= deepest + 1e-9))


class FilterPruner:
    """Plans for one trained network. Its weights are read once, on construction.

    network: float, weights already loaded; left in eval mode. input_shape: (N, 3, H, W) that it can run.
    """

    def __init__(self, network: nn.Layer, input_shape: tuple[int, ...]) -> None:
        with quiet():
            from paddleslim.dygraph import FPGMFilterPruner

            # In train mode, or the detector's threshold branch is not seen and keeps inputs that no longer exist.
            network.train()
            self._slim = FPGMFilterPruner(network, list(input_shape))
            network.eval()
        self.network = network
        self._structured = {tensor.name: name for name, tensor in network.state_dict().items()}
        self._master: dict[str, str] = {}
        groups = []
        for collection in self._slim.collections:
            master = collection.master_name
            # Transposed convolutions are listed by PaddleSlim as not prunable.
            if collection.master_axis != 0 or master in self._slim.skip_vars or master not in self._structured:
                continue
            name = self._structured[master]
            tensors = {
                (self._structured[detail.name], detail.axis)
                for detail in collection.all_pruning_details()
                if detail.name in self._structured
            }
            self._master[name] = master
            groups.append(Group(name, int(collection.values[master].shape[0]), tuple(sorted(tensors))))
        self.groups: tuple[Group, ...] = tuple(groups)

    def ratios(self, ratio: float, multiple: int = MULTIPLE) -> dict[str, float]:
        """Share of each group's filters that really goes when `ratio` is asked for everywhere."""
        return self.ratios_for({g.name: kept_filters(g.filters, ratio, multiple) for g in self.groups})

    def ratios_for(self, kept: Mapping[str, int]) -> dict[str, float]:
        """The same for filters that stay by group."""
        return {g.name: 1.0 - kept[g.name] / g.filters for g in self.groups}

    def plan(self, ratios: Mapping[str, float]) -> PrunePlan:
        """What stays when from each named group that share of its filters goes; the network is not touched."""
        with quiet():
            masks = self._slim.prune_vars(self._by_parameter(ratios), 0, apply=None).masks
        named: dict[str, dict[int, np.ndarray]] = {}
        for parameter, cuts in masks.items():
            # Temporaries of the traced graph are listed, too.
            if parameter in self._structured:
                named[self._structured[parameter]] = {cut.dims: np.asarray(cut.mask) for cut in cuts}
        return PrunePlan.from_masks(self.network, named)

    def prune(self, ratios: Mapping[str, float]) -> None:
        """Let PaddleSlim cut the network itself; the reference that a plan is checked against. It cannot be undone."""
        with quiet():
            self._slim.prune_vars(self._by_parameter(ratios), 0)
        for layer in self.network.sublayers(include_self=True):
            for name in [name for name in layer._buffers if name.endswith(LEFTOVER)]:
                del layer._buffers[name]

    def _by_parameter(self, ratios: Mapping[str, float]) -> dict[str, float]:
        return {self._master[name]: ratio for name, ratio in ratios.items() if ratio > 0}


def search_ratio(measure: Callable[[float], float], target: float, what: str) -> float:
    """The smallest uniform ratio that brings `measure(ratio)`, a share of the original, down to `target`.

    measure falls, in steps, while the ratio grows. Raises UsageError when MAX_RATIO does not get there.
    """
    low, high = 0.0, MAX_RATIO
    if measure(low) <= target:
        return low
    least = measure(high)
    if least > target:
        raise UsageError(
            f"expected a {what} that pruning can reach, {least:.3f} or more for this model, found {target}; raise it"
        )
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        if measure(middle) <= target:
            high = middle
        else:
            low = middle
    return high
