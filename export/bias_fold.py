"""Adds a bias as it is where a program reshapes it first.

Paddle exports the bias of a convolution as reshape2([C] → [1, C, 1, 1]) and elementwise_add, which opt does not fuse:
Paddle-Lite then reshapes the constant on every run and adds it in an op of its own. elementwise_add along axis 1 adds
the same numbers at the same places, and opt knows it as a bias.
"""

from __future__ import annotations

from collections import Counter
from typing import Any


def fold(desc: Any) -> int:
    """Change a ProgramDesc in place; return how many reshapes are gone. Programs with sub-blocks stay as they are."""
    if len(desc.blocks) != 1:
        return 0
    block = desc.blocks[0]
    shapes = {var.name: tuple(var.type.lod_tensor.tensor.dims) for var in block.vars if var.type.HasField("lod_tensor")}
    persistable = {var.name for var in block.vars if var.persistable}
    uses = Counter(name for op in block.ops for slot in op.inputs for name in slot.arguments)
    produced = Counter(name for op in block.ops for slot in op.outputs for name in slot.arguments)
    reshapes: dict[str, Any] = {}
    for op in block.ops:
        if op.type == "reshape2":
            inputs, outputs = _slots(op.inputs), _slots(op.outputs)
            bias, out = inputs["X"], outputs["Out"]
            if (
                len(bias) == len(out) == 1
                and not inputs.get("Shape")
                and not inputs.get("ShapeTensor")
                and bias[0] in persistable
                and len(shapes[bias[0]]) == 1
                and _shape(op) == [1, shapes[bias[0]][0], 1, 1]
                and uses[out[0]] == produced[out[0]] == 1
                and not any(uses[name] for name in outputs.get("XShape", ()))
            ):
                reshapes[out[0]] = op
    folded = []
    for op in block.ops:
        if op.type != "elementwise_add":
            continue
        inputs = _slots(op.inputs)
        reshape = reshapes.get(inputs["Y"][0])
        if reshape is None or len(shapes.get(inputs["X"][0], ())) != 4:
            continue
        axis = next(attribute for attribute in op.attrs if attribute.name == "axis")
        if axis.i not in (-1, 0):
            continue
        axis.i = 1
        for slot in op.inputs:
            if slot.parameter == "Y":
                slot.arguments[:] = [_slots(reshape.inputs)["X"][0]]
        folded.append(reshape)
    for reshape in folded:
        block.ops.remove(reshape)
    return len(folded)


def _slots(slots: Any) -> dict[str, list[str]]:
    return {slot.parameter: list(slot.arguments) for slot in slots}


def _shape(op: Any) -> list[int]:
    shape = next((attribute for attribute in op.attrs if attribute.name == "shape"), None)
    return list(shape.ints) if shape is not None else []
