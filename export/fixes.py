"""Changes to a program that give the same numbers and that opt needs: what `to_nb.py --fix` applies.

A mend takes one op (export/op_view.py) and changes its description in place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from export import traps
from export.op_view import OpView, view
from export.program import FILE_NAMES, Program
from export.trap_signs import is_zero_dimensional

# Of framework.proto: AttrType and VarType.Type.
_FLOAT, _BOOL, _LONGS = 1, 6, 11
_FLOAT32 = 5


def apply(program: Program, names: Sequence[str], folder: Path) -> Program:
    """A copy of the program in `folder` with the mends of the traps called `names`; the weights stay where they are."""
    fixed = Program(folder / FILE_NAMES[0][0], program.params, copy.deepcopy(program.desc))
    for trap in traps.TABLE:
        if trap.name in names:
            for op in trap.find(fixed):
                MENDS[trap.mend](op)
    fixed.model.write_bytes(fixed.desc.SerializeToString(deterministic=True))
    return Program(fixed.model, fixed.params, fixed.desc)


def _zero_dimensional(op: OpView) -> None:
    """A constant of shape [1] for one without dimensions; for an rnn, all those that its states' shapes are made of."""
    made = {other.result: other for other in (view(desc, op.block) for desc in op.block.ops)}
    if op.type == "fill_constant":
        constants = [op]
    else:
        states = (made[name] for name in op.inputs.get("PreState", ()) if name in made)
        constants = [made[part] for state in states for part in state.inputs.get("ShapeTensorList", ()) if part in made]
    for constant in constants:
        if is_zero_dimensional(constant):
            _set(constant, "shape", _LONGS, "longs", [1])
            _reshape(constant.block, constant.result, [1])


def _swish(op: OpView) -> None:
    """silu is swish with a beta of 1, which is what a missing beta means."""
    op.desc.type = "silu"


def _relu6(op: OpView) -> None:
    _set(op, "threshold", _FLOAT, "f", 6.0)


def _flatten(op: OpView) -> None:
    _add_output(op, "XShape")


def _instance_norm(op: OpView) -> None:
    for name in ("SavedMean", "SavedVariance"):
        if not op.outputs.get(name):
            _add_output(op, name)


def _bmm(op: OpView) -> None:
    """matmul_v2 without transpositions: the same product of 3-D tensors."""
    op.desc.type = "matmul_v2"
    for name in ("trans_x", "trans_y"):
        _set(op, name, _BOOL, "b", False)


def _square(op: OpView) -> None:
    op.desc.type = "square"
    del op.desc.attrs[:]


MENDS: dict[str, Callable[[OpView], None]] = {
    "zero_dimensional": _zero_dimensional,
    "swish": _swish,
    "relu6": _relu6,
    "flatten": _flatten,
    "instance_norm": _instance_norm,
    "bmm": _bmm,
    "square": _square,
}


def _set(op: OpView, name: str, kind: int, field: str, value: Any) -> None:
    attribute = next((a for a in op.desc.attrs if a.name == name), None)
    if attribute is None:
        attribute = op.desc.attrs.add()
    attribute.Clear()
    attribute.name, attribute.type = name, kind
    if isinstance(value, list):
        getattr(attribute, field).extend(value)
    else:
        setattr(attribute, field, value)


def _reshape(block: Any, name: str, shape: list[int]) -> None:
    for var in block.vars:
        if var.name == name:
            del var.type.lod_tensor.tensor.dims[:]
            var.type.lod_tensor.tensor.dims.extend(shape)


def _add_output(op: OpView, parameter: str) -> None:
    """A new temporary that nobody reads, as an output of the op."""
    from paddle.base.proto import framework_pb2

    name = f"{op.result}.{parameter}"
    var = op.block.vars.add(name=name, persistable=False)
    var.type.type = framework_pb2.VarType.LOD_TENSOR
    var.type.lod_tensor.tensor.data_type = _FLOAT32
    slot = next((slot for slot in op.desc.outputs if slot.parameter == parameter), None)
    if slot is None:
        slot = op.desc.outputs.add(parameter=parameter)
    slot.arguments.append(name)
