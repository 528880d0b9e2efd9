"""Which filters each prunable group loses at each ratio, and what that saves: all that measuring needs to know.

Finding it takes PaddleSlim several seconds; `save` and `load` spare them to the workers of one run.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paddle
from paddle import nn

from ocr_models.checkpoints import parameters
from ocr_models.prune_plan import PrunePlan

if TYPE_CHECKING:
    from slim.pruning import FilterPruner


@dataclass(frozen=True)
class Cut:
    """removed: filters that go. kept: {structured name of a convolution's weight: filters that stay}.

    params, macs: how many of them go with the filters.
    """

    removed: int
    kept: dict[str, tuple[int, ...]]
    params: int
    macs: int


@dataclass(frozen=True)
class GroupCuts:
    """A group: the scored weight's name, its filters, all tensors that shrink as (name, axis), a cut for each ratio.

    widths: {structured name of a convolution's weight: its filters}, of all that lose some.
    """

    name: str
    filters: int
    members: tuple[tuple[str, int], ...]
    widths: dict[str, int]
    cuts: tuple[Cut, ...]


def group_cuts(pruner: FilterPruner, ratios: Sequence[float], macs: dict[str, int]) -> tuple[GroupCuts, ...]:
    """Cuts of every group, the filters being those that prune.py removes. macs: as from `layer_macs`.

    As many filters go as the ratio says, to the nearest whole one; at least one always stays.
    """
    skipped = tuple(getattr(pruner.network, "train_only", ())) or ("\0",)
    found = []
    for group in pruner.groups:
        plans = [pruner.plan({group.name: ratio}) for ratio in ratios]
        widths = {name: plan.shapes[name][0] for plan in plans for name in _convolutions(plan)}
        cuts = []
        for plan in plans:
            kept = {name: plan.kept[name][0] for name in widths if 0 in plan.kept.get(name, {})}
            removed = group.filters - len(kept.get(group.name, range(group.filters)))
            cuts.append(Cut(removed, kept, *_saved(plan, macs, skipped)))
        found.append(GroupCuts(group.name, group.filters, group.tensors, widths, tuple(cuts)))
    return tuple(found)


def _convolutions(plan: PrunePlan) -> list[str]:
    """Weights of convolutions that lose filters; of a linear layer only inputs go."""
    return [
        name
        for name, axes in plan.kept.items()
        if 0 in axes and len(plan.shapes[name]) == 4 and name.endswith("weight")
    ]


def _saved(plan: PrunePlan, macs: dict[str, int], skipped: tuple[str, ...]) -> tuple[int, int]:
    """(parameters, multiply-accumulates) of the export that a plan takes away."""
    params = work = 0.0
    for name, axes in plan.kept.items():
        if name.startswith(skipped):
            continue
        stays = math.prod(len(indices) / plan.shapes[name][axis] for axis, indices in axes.items())
        params += math.prod(plan.shapes[name]) * (1 - stays)
        work += macs.get(name, 0) * (1 - stays)
    return round(params), round(work)


def layer_macs(network: nn.Layer, input_shape: Sequence[int]) -> dict[str, int]:
    """{structured name of a weight: multiply-accumulates it takes part in} for one input in eval mode.

    `ocr_models.complexity.macs` by weight. An LSTM's layers and directions are told apart.
    """
    names = {id(tensor): name for name, tensor in parameters(network).items()}
    found: dict[str, int] = {}

    def count(layer: nn.Layer, inputs: Any, output: Any) -> None:
        if isinstance(layer, nn.LSTM):
            steps = inputs[0].shape[0] * inputs[0].shape[1]
            matrices = [p for name, p in layer.named_parameters() if name.startswith("weight")]
            found.update({names[id(matrix)]: steps * matrix.size for matrix in matrices})
            return
        weight = layer.weight
        if isinstance(layer, nn.Conv2DTranspose):
            work = inputs[0].size * weight.size // weight.shape[0]
        elif isinstance(layer, nn.Conv2D):
            work = output.size * weight.size // weight.shape[0]
        else:
            work = output.size * weight.shape[0]
        found[names[id(weight)]] = work

    counted = (nn.Conv2D, nn.Conv2DTranspose, nn.Linear, nn.LSTM)
    hooks = [s.register_forward_post_hook(count) for s in network.sublayers(True) if isinstance(s, counted)]
    training = network.training
    network.eval()
    try:
        with paddle.no_grad():
            network(paddle.zeros(list(input_shape), "float32"))
    finally:
        for hook in hooks:
            hook.remove()
        if training:
            network.train()
    return found


def to_json(groups: Sequence[GroupCuts]) -> str:
    return json.dumps([dataclasses.asdict(group) for group in groups], separators=(",", ":"))


def load(path: Path) -> tuple[GroupCuts, ...]:
    """Read what `to_json` made. Raises OSError, ValueError, KeyError or TypeError for anything else."""
    return tuple(
        GroupCuts(
            name=entry["name"],
            filters=entry["filters"],
            members=tuple((name, axis) for name, axis in entry["members"]),
            widths=dict(entry["widths"]),
            cuts=tuple(
                Cut(
                    cut["removed"],
                    {name: tuple(kept) for name, kept in cut["kept"].items()},
                    cut["params"],
                    cut["macs"],
                )
                for cut in entry["cuts"]
            ),
        )
        for entry in json.loads(path.read_text(encoding="utf-8"))
    )
