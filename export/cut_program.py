"""Makes the variables inside an inference program its outputs: all of them at once, or those alive after one op.

Shapes and other whole numbers inside a program are no outputs: a wrong one shows in the next float tensor.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from command import ModelError
from export.program import Program

# Of the slots that an op writes, the ones that carry data; the others are statistics, shapes and states.
_DATA = ("Out", "Output", "Y")


@dataclass(frozen=True)
class Value:
    """A float tensor that an op computes. op: its number in the block; live: whether it depends on the input."""

    op: int
    type: str
    name: str
    weights: tuple[str, ...]
    inputs: tuple[str, ...]
    live: bool


def values(program: Program) -> list[Value]:
    """In the program's order. Raises ModelError for a program with branches or loops, which cannot be cut."""
    from paddle.base.proto import framework_pb2

    if len(program.desc.blocks) != 1:
        raise ModelError(
            f"{program.model}: expected a program without branches, found {len(program.desc.blocks)} blocks; "
            "it cannot be searched op by op"
        )
    persistable = {var.name for var in program.block.vars if var.persistable}
    dtypes = {var.name: var.type.lod_tensor.tensor.data_type for var in program.block.vars}
    alive = set(program.inputs)
    found = []
    for number, op in enumerate(program.block.ops):
        if op.type in ("feed", "fetch"):
            continue
        reads = [name for slot in op.inputs for name in slot.arguments]
        live = bool(alive & set(reads))
        for slot in op.outputs:
            for name in slot.arguments:
                if live and name not in persistable:
                    alive.add(name)
                data = slot.parameter in _DATA and name not in persistable
                if data and dtypes.get(name) == framework_pb2.VarType.FP32:
                    weights = tuple(read for read in reads if read in persistable)
                    inputs = tuple(read for read in reads if read not in persistable)
                    found.append(Value(number, op.type, name, weights, inputs, live))
    return found


def frontier(program: Program, computed: list[Value], upto: int) -> list[str]:
    """Names of the live tensors that ops after number `upto` still read, with those that it makes itself.

    Everything that later ops compute comes from these: a difference in any later tensor has shown in one of them, or is
    made later.
    """
    later = {
        name
        for number, op in enumerate(program.block.ops)
        if number > upto
        for slot in op.inputs
        for name in slot.arguments
    }
    names = [v.name for v in computed if v.live and v.op <= upto and (v.name in later or v.op == upto)]
    return list(dict.fromkeys(names))


def write(program: Program, names: list[str], folder: Path, *, upto: int | None = None) -> None:
    """Write inference.pdmodel and .pdiparams into `folder`, with the variables `names` as outputs in this order.

    upto: leave out the ops after this number. Ops that nothing then needs, and their weights, are left out too.
    """
    desc = type(program.desc)()
    desc.CopyFrom(program.desc)
    block = desc.blocks[0]
    ops = [op for number, op in enumerate(block.ops) if op.type != "fetch" and (upto is None or number <= upto)]
    needed = set(names)
    kept: list[Any] = []
    for op in reversed(ops):
        writes = {name for slot in op.outputs for name in slot.arguments}
        if op.type == "feed" or writes & needed:
            kept.append(op)
            needed |= {name for slot in op.inputs for name in slot.arguments} | writes
    kept.reverse()
    template = next(op for op in block.ops if op.type == "fetch")
    for column, name in enumerate(names):
        fetch = type(template)()
        fetch.CopyFrom(template)
        fetch.inputs[0].arguments[:] = [name]
        for attribute in fetch.attrs:
            if attribute.name == "col":
                attribute.i = column
        kept.append(fetch)
    special = {name for op in kept for slot in (*op.inputs, *op.outputs) for name in slot.arguments}
    variables = [var for var in block.vars if var.name in special]
    copied = [_copy(item) for item in kept], [_copy(var) for var in variables]
    del block.ops[:]
    del block.vars[:]
    block.ops.extend(copied[0])
    block.vars.extend(copied[1])
    (folder / "inference.pdmodel").write_bytes(desc.SerializeToString(deterministic=True))
    weights = program.weights()
    content = b"".join(_tensor(weights[name]) for name in sorted(special & set(weights)))
    (folder / "inference.pdiparams").write_bytes(content)


def _copy(message: Any) -> Any:
    other = type(message)()
    other.CopyFrom(message)
    return other


def _tensor(array: np.ndarray) -> bytes:
    """One tensor as ocr_models.inference_files reads it."""
    from paddle.base.proto import framework_pb2

    kinds = {
        "float16": "FP16", "float32": "FP32", "float64": "FP64", "int8": "INT8", "int16": "INT16", "int32": "INT32",
        "int64": "INT64", "uint8": "UINT8", "bool": "BOOL",
    }  # fmt: skip
    desc = framework_pb2.VarType.TensorDesc()
    desc.data_type = getattr(framework_pb2.VarType, kinds[array.dtype.name])
    desc.dims.extend(array.shape)
    head = desc.SerializeToString()
    return struct.pack("<IQIi", 0, 0, 0, len(head)) + head + np.ascontiguousarray(array).tobytes()
