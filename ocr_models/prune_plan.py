"""Which channels of which weights a pruned network keeps, by structured name.

A pruned network's weights alone do not say how its layers fit together, and parameter names such as `conv2d_57.w_0`
depend on what else the process has built. The plan beside the weights rebuilds the shapes in any room.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from command import ModelError, one_line

FILE = "prune_plan.json"
SCHEMA = 1

Kept = dict[str, dict[int, tuple[int, ...]]]


@dataclass(frozen=True)
class PrunePlan:
    """kept: {structured name: {axis: indices that stay, ascending, counted in the network before this plan}}.

    shapes: {structured name: shape before this plan} of the same tensors; a plan for another network is refused by it.
    """

    kept: Kept = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, axes in self.kept.items():
            shape = self.shapes.get(name)
            if shape is None:
                raise ModelError(f"prune plan: expected the shape of {name}, found none; prune the model again")
            for axis, indices in axes.items():
                size = shape[axis] if 0 <= axis < len(shape) else 0
                if not indices or list(indices) != sorted(set(indices)) or indices[0] < 0 or indices[-1] >= size:
                    raise ModelError(
                        f"prune plan: expected ascending indices below {size} for axis {axis} of {name}, "
                        f"found {list(indices)[:4]}…; prune the model again"
                    )

    def __bool__(self) -> bool:
        return bool(self.kept)

    def shape_after(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor of this plan once the plan is applied."""
        axes = self.kept[name]
        return tuple(len(axes[axis]) if axis in axes else size for axis, size in enumerate(self.shapes[name]))

    @classmethod
    def from_masks(cls, layer: nn.Layer, masks: Mapping[str, Mapping[int, Any]]) -> PrunePlan:
        """Build from masks: {structured name: {axis: sequence of booleans, true where a channel stays}}.

        layer: the network before pruning. Masks that keep everything are left out.
        """
        state = layer.state_dict()
        kept: Kept = {}
        for name, axes in masks.items():
            if name not in state:
                raise ModelError(f"prune plan: expected a tensor of {type(layer).__name__}, found {name}")
            for axis, mask in axes.items():
                flags = np.asarray(mask).astype(bool)
                if flags.shape != (state[name].shape[axis],):
                    raise ModelError(
                        f"prune plan: expected a mask of {state[name].shape[axis]} for axis {axis} of {name}, "
                        f"found {flags.size}"
                    )
                if not flags.all():
                    kept.setdefault(name, {})[int(axis)] = tuple(int(i) for i in np.flatnonzero(flags))
        return cls(kept, {name: tuple(state[name].shape) for name in kept})

    def save(self, path: str | Path) -> None:
        """Write as JSON; a folder gets the file `prune_plan.json`."""
        path = Path(path)
        record = {
            "schema": SCHEMA,
            "tensors": {
                name: {
                    "shape": list(self.shapes[name]),
                    "kept": {str(axis): list(indices) for axis, indices in sorted(axes.items())},
                }
                for name, axes in self.kept.items()
            },
        }
        text = json.dumps(record, separators=(",", ":")) + "\n"
        (path / FILE if path.is_dir() else path).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> PrunePlan:
        """Read a plan file, or the one in an artifact folder. Raises ModelError for anything else."""
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record.get("schema") != SCHEMA:
                raise ValueError(f"schema {record.get('schema')!r}")
            kept: Kept = {}
            shapes: dict[str, tuple[int, ...]] = {}
            for name, entry in record["tensors"].items():
                shapes[name] = tuple(int(size) for size in entry["shape"])
                kept[name] = {int(axis): tuple(map(int, ids)) for axis, ids in entry["kept"].items()}
        except OSError as error:
            raise ModelError(
                f"{path}: expected a prune plan, found {error.strerror}; copy the artifact again"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelError(
                f"{path}: expected a prune plan (JSON, schema {SCHEMA}), found {one_line(str(error))}; "
                "copy the artifact again"
            ) from None
        return cls(kept, shapes)

    def apply(self, layer: nn.Layer) -> None:
        """Cut the network's tensors down to the kept channels and bring its layers in line. Nothing is half done.

        Values of kept channels stay, so a plan also prunes a trained network. Raises ModelError when the plan is
        not this network's or leaves two layers that do not fit together.
        """
        state = layer.state_dict()
        for name, shape in self.shapes.items():
            if name not in state:
                raise ModelError(
                    f"prune plan: expected tensors of {type(layer).__name__}, found {name}; give the model's own plan"
                )
            if tuple(state[name].shape) != shape:
                raise ModelError(
                    f"prune plan: expected {name} of shape {list(shape)} before pruning, "
                    f"found {state[name].shape}; give the model's own plan"
                )
        sizes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        sizes.update({name: self.shape_after(name) for name in self.kept})
        changes = [
            (sublayer, change)
            for prefix, sublayer in layer.named_sublayers(include_self=True)
            if (change := _attributes(sublayer, prefix, sizes))
        ]
        for name, axes in self.kept.items():
            value = state[name].numpy()
            for axis, indices in axes.items():
                value = value.take(indices, axis)
            _resize(state[name], value)
        for sublayer, change in changes:
            for attribute, value in change.items():
                setattr(sublayer, attribute, value)

    def compose(self, later: PrunePlan) -> PrunePlan:
        """The one plan that does what this plan and then `later`, made on the pruned network, do."""
        kept: Kept = {name: dict(axes) for name, axes in self.kept.items()}
        shapes = dict(self.shapes)
        for name, axes in later.kept.items():
            before = self.shape_after(name) if name in self.kept else later.shapes[name]
            if later.shapes[name] != before:
                raise ModelError(
                    f"prune plan: expected {name} of shape {list(before)} before the later plan, "
                    f"found {list(later.shapes[name])}; prune the pruned model again"
                )
            shapes.setdefault(name, later.shapes[name])
            for axis, indices in axes.items():
                earlier = self.kept.get(name, {}).get(axis)
                kept.setdefault(name, {})[axis] = tuple(earlier[i] for i in indices) if earlier else indices
        return PrunePlan(kept, shapes)


def _resize(tensor: paddle.Tensor, value: np.ndarray) -> None:
    """Give a parameter another shape in place: the layer, its optimizer and its second names share this object."""
    tensor.value().get_tensor().set(np.ascontiguousarray(value), paddle.CPUPlace())


def _attributes(sublayer: nn.Layer, prefix: str, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """What a layer has to remember about its new shapes; raises ModelError when they do not fit together."""

    def size(name: str) -> tuple[int, ...]:
        return sizes[f"{prefix}.{name}" if prefix else name]

    def require(good: bool, expected: str) -> None:
        if not good:
            raise ModelError(f"prune plan: expected {prefix} with {expected}; prune the model again")

    if isinstance(sublayer, nn.Conv2D):
        out, per_group = size("weight")[:2]
        groups = sublayer._groups
        if groups > 1:
            # Pruning takes whole groups: the filters of each group stay together.
            per_out = sublayer._out_channels // groups
            require(out % per_out == 0, f"groups of {per_out} filters, found {out} filters")
            groups = out // per_out
        require(sublayer.bias is None or size("bias") == (out,), f"{out} biases")
        return {"_groups": groups, "_in_channels": per_group * groups, "_out_channels": out}
    if isinstance(sublayer, nn.Conv2DTranspose):
        inp, out = size("weight")[:2]
        require(sublayer._groups == 1, "one group")
        require(sublayer.bias is None or size("bias") == (out,), f"{out} biases")
        return {"_in_channels": inp, "_out_channels": out}
    if isinstance(sublayer, nn.BatchNorm2D):
        (channels,) = size("weight")
        same = all(size(name) == (channels,) for name in ("bias", "_mean", "_variance"))
        require(same, f"{channels} channels in weight, bias, _mean and _variance")
        return {"_num_features": channels}
    if isinstance(sublayer, nn.Linear):
        inp, out = size("weight")
        require(sublayer.bias is None or size("bias") == (out,), f"{out} biases")
        return {"in_features": inp, "out_features": out} if hasattr(sublayer, "in_features") else {}
    if isinstance(sublayer, nn.LSTM):
        rows, inp = size("weight_ih_l0")
        require(rows == 4 * sublayer.hidden_size, f"{4 * sublayer.hidden_size} gate rows (hidden units cannot go)")
        require(size("weight_ih_l0_reverse")[1] == inp, f"{inp} inputs in both directions")
        return {"input_size": inp}
    return {}
