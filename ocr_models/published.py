"""Finds, for every parameter of our network, its value in a published inference folder.

The folder names its parameters by construction order in somebody else's process ("conv2d_56.w_0"), so names tell
nothing. Both networks are laid out as graphs and walked together from the output to the input: operators, shapes and
convolution attributes must agree at each step, and where an addition or product may have its operands the other way
round, both ways are tried. What the walk pairs is the same parameter. The order of operators in the file is irrelevant.
A batch norm that was folded into its convolution pairs with the bias that is left of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.base.proto import framework_pb2

from command import ModelError
from ocr_models.inference_files import read_program, read_weights

# Operators that only rename, reshape or pass on: the same network is exported with different ones.
_TRANSPARENT = {
    "scale", "assign", "cast", "dropout", "reshape2", "squeeze2", "unsqueeze2", "transpose2", "flatten2",
    "flatten_contiguous_range", "feed", "fetch",
}  # fmt: skip
_SYNONYMS = {
    "depthwise_conv2d": "conv2d",
    "mul": "matmul",
    "matmul_v2": "matmul",
    "nearest_interp_v2": "nearest_interp",
    "sync_batch_norm": "batch_norm",
}
# Slots that carry weights or data, in a fixed order; others (PreState, ShapeTensor) hold constants and shapes.
_SLOTS = ("X", "Input", "Y", "Filter", "Scale", "Bias", "Mean", "Variance", "WeightList")
_COMMUTATIVE = {"elementwise_add", "elementwise_mul"}
_COMPARED = {
    "conv2d": ("strides", "paddings", "dilations", "groups"),
    "conv2d_transpose": ("strides", "paddings", "dilations", "groups"),
    "pool2d": ("pooling_type", "ksize", "strides", "paddings", "adaptive"),
    "rnn": ("mode", "hidden_size", "num_layers", "is_bidirec"),
    "hard_sigmoid": ("slope", "offset"),
    "batch_norm": ("epsilon",),
    "concat": ("axis",),
}


@dataclass(frozen=True)
class _Node:
    """An operator that computes something, a parameter, or the network's input."""

    kind: str  # operator type, "parameter" or "input"
    name: str  # name of the variable that it makes
    inputs: tuple[str, ...] = ()
    attributes: tuple[Any, ...] = ()
    shape: tuple[int, ...] = ()


class _Graph:
    """A program's data flow: `node(name)` is what makes a variable, transparent operators left out."""

    def __init__(self, program: Any) -> None:
        block = program.blocks[0]
        self.parameters = {
            var.name: tuple(var.type.lod_tensor.tensor.dims)
            for var in block.vars
            if var.persistable and var.type.type == framework_pb2.VarType.LOD_TENSOR
        }
        self.producer = {}
        for op in block.ops:
            for slot in op.outputs:
                for name in slot.arguments:
                    # Batch norm lists its running mean and variance as outputs too.
                    if name not in self.parameters:
                        self.producer[name] = op
        self.outputs = [name for op in block.ops if op.type == "fetch" for name in _slot(op, "X")]
        self._nodes: dict[str, _Node] = {}

    def node(self, name: str) -> _Node:
        if name not in self._nodes:
            self._nodes[name] = self._make(name)
        return self._nodes[name]

    def _make(self, name: str) -> _Node:
        for _ in range(len(self.producer) + 1):  # a damaged program may have a loop
            if name in self.parameters:
                return _Node("parameter", name, shape=self.parameters[name])
            op = self.producer.get(name)
            if op is None or op.type == "feed":
                return _Node("input", name)
            if op.type not in _TRANSPARENT:
                kind = _SYNONYMS.get(op.type, op.type)
                inputs = tuple(v for slot in _SLOTS for v in _slot(op, slot))
                return _Node(kind, name, inputs, _attributes(op, _COMPARED.get(kind, ())))
            data = _slot(op, "X") or _slot(op, "Input")
            if not data:
                break
            name = data[0]
        raise ModelError("expected a feed-forward program, found a loop; give another model")


def _slot(op: Any, name: str) -> list[str]:
    return [v for slot in op.inputs if slot.parameter == name for v in slot.arguments]


def _attributes(op: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
    """The attributes in a form that compares equal across float32 rounding."""
    found: dict[str, Any] = {}
    for attr in op.attrs:
        if attr.name in names:
            kind = framework_pb2.AttrType.Name(attr.type)
            if kind in ("INTS", "LONGS"):
                found[attr.name] = tuple(attr.ints or attr.longs)
            else:
                value: Any = getattr(attr, {"FLOAT": "f", "INT": "i", "STRING": "s", "BOOLEAN": "b"}.get(kind, "i"))
                found[attr.name] = round(value, 9) if isinstance(value, float) else value
    return tuple(found.get(name) for name in names)


class _Walk:
    """Pairs two graphs from a pair of outputs down; `pairs` maps our variables to theirs."""

    def __init__(self, ours: _Graph, theirs: _Graph) -> None:
        self.ours, self.theirs = ours, theirs
        self.pairs: dict[str, str] = {}
        self.back: dict[str, str] = {}
        self.deepest = -1
        self.difference = ""

    def match(self, our_name: str, their_name: str) -> bool:
        mine, other = self.ours.node(our_name), self.theirs.node(their_name)
        if mine.name in self.pairs or other.name in self.back:
            return self.pairs.get(mine.name) == other.name
        if mine.kind == "batch_norm" and other.kind == "elementwise_add":
            return self._match_folded(mine, other)
        for what, a, b in (
            ("operator", mine.kind, other.kind),
            ("shape", mine.shape, other.shape),
            ("inputs", len(mine.inputs), len(other.inputs)),
            ("settings", mine.attributes, other.attributes),
        ):
            if a != b:
                return self._differ(f"{what} {a!r}", f"{b!r} at {other.name}")
        pairings = [other.inputs]
        if mine.kind in _COMMUTATIVE:
            pairings.append(other.inputs[::-1])
        before = list(self.pairs)
        for inputs in pairings:
            self.pairs[mine.name], self.back[other.name] = other.name, mine.name
            if all(self.match(a, b) for a, b in zip(mine.inputs, inputs, strict=True)):
                return True
            self._forget(len(before))
        return False

    def _match_folded(self, mine: _Node, other: _Node) -> bool:
        """Our batch norm (x, scale, bias, mean, variance) and their addition of what is left of it, a bias."""
        their_bias = self.theirs.node(other.inputs[1])
        channels = int(np.prod(self.ours.node(mine.inputs[2]).shape))
        if their_bias.kind != "parameter" or int(np.prod(their_bias.shape)) != channels:
            return self._differ(f"batch norm of {channels} channels or its bias", f"{other.kind!r} at {other.name}")
        before = len(self.pairs)
        for ours, theirs in ((mine.name, other.name), (mine.inputs[2], their_bias.name)):
            self.pairs[ours], self.back[theirs] = theirs, ours
        if self.match(mine.inputs[0], other.inputs[0]):
            return True
        self._forget(before)
        return False

    def folded(self) -> list[_Node]:
        """Our batch norms of which the other graph has only a bias."""
        nodes = [self.ours.node(name) for name in self.pairs if name not in self.ours.parameters]
        return [
            node
            for node in nodes
            if node.kind == "batch_norm" and self.theirs.node(self.pairs[node.name]).kind != "batch_norm"
        ]

    def _forget(self, count: int) -> None:
        for name in list(self.pairs)[count:]:
            del self.back[self.pairs.pop(name)]

    def _differ(self, expected: str, found: str) -> bool:
        """Keep the difference that lies farthest in: the shallow ones are mere wrong turns."""
        if len(self.pairs) > self.deepest:
            self.deepest, self.difference = len(self.pairs), f"expected {expected}, found {found}"
        return False


def read_published(layer: paddle.nn.Layer, folder: str | Path) -> dict[str, np.ndarray]:
    """Arrays by structured name for every parameter that `layer` uses in inference.

    layer: a network of `ocr_models`; its mode is left as it was. folder: inference.pdmodel + inference.pdiparams.
    Raises ModelError when the published program is not this network.
    """
    program = read_program(folder)
    weights = read_weights(folder, program)
    theirs, ours = _Graph(program), _Graph(_trace(layer))
    if len(theirs.outputs) != 1:
        raise ModelError(f"{folder}: expected a program with one output, found {len(theirs.outputs)}; give another")
    walk = _Walk(ours, theirs)
    try:
        same = walk.match(ours.outputs[0], theirs.outputs[0])
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from None
    if not same:
        raise ModelError(
            f"{folder}: expected the network {type(layer).__name__}; going back from its output, {walk.difference}; "
            "give a model of this network"
        )
    structured = {tensor.name: name for name, tensor in reversed(layer.state_dict().items())}
    found = {name: weights[walk.pairs[name]] for name in ours.parameters if name in walk.pairs}
    for node in walk.folded():
        _, scale, bias, mean, variance = node.inputs
        found[bias] = found[bias].reshape(-1)
        # With these (x - mean) / sqrt(variance + epsilon) · scale is x.
        ones = np.ones_like(found[bias])
        found |= {scale: ones, mean: 0 * ones, variance: ones * (1 - float(node.attributes[0]))}
    return {structured[name]: value for name, value in found.items()}


def _trace(layer: paddle.nn.Layer) -> Any:
    """The program of the network in eval mode, with its output fetched."""
    training = layer.training
    layer.eval()
    try:
        spec = [paddle.static.InputSpec([None, 3, None, None], "float32", "x")]
        traced = paddle.jit.to_static(layer.forward, input_spec=spec, full_graph=True).concrete_program
    finally:
        if training:
            layer.train()
    program = framework_pb2.ProgramDesc.FromString(traced.main_program.desc.serialize_to_string())
    fetch = program.blocks[0].ops.add()
    fetch.type = "fetch"
    fetch.inputs.add(parameter="X", arguments=[traced.outputs[0].name])
    return program
