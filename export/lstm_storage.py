"""Stores an LSTM's matrices as one byte a weight, which neither opt nor any quantizer does: Lite's `rnn` is float only.

In front of `rnn` three ops make the floats again, on every run, for each matrix (4 · hidden, inputs):

    cast (uint8 → fp32) | scale (x - 128) | elementwise_mul by one step a row

opt keeps the bytes, because no pass computes a cast in advance, and the kernels of rnn for arm and x86 prepare nothing
from their weights before the run. The bytes are unsigned on purpose: Paddle-Lite's cast reads int8 through plain `char`
(lite/kernels/host/cast_compute.cc), which ARM compilers take as unsigned, so that on a phone -1 would become 255 while
the same file is right on x86. Biases stay fp32.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from command import ModelError
from export import program_writer
from export.op_view import OpView, view
from export.program import Program

if TYPE_CHECKING:
    import paddle

_ZERO = 128
_LEVELS = 127
# A row whose largest weight lies below counts as zeros: its step would be no ordinary float.
_DEAD = 1e-30
SLOT = "WeightList"


def encode(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, inputs) float32 → codes of the same shape, uint8, 1 to 255, and steps (rows,), float32.

    The largest weight of a row becomes ±127 steps. Raises ModelError for weights that are no numbers.
    """
    peak = np.abs(matrix).max(axis=1)
    if not np.isfinite(peak).all():
        raise ModelError("expected finite LSTM weights, found NaN or infinity; train again from the last good state")
    steps = (np.where(peak > _DEAD, peak, _LEVELS) / _LEVELS).astype(np.float32)
    codes = np.clip(np.rint(matrix / steps[:, None]), -_LEVELS, _LEVELS) + _ZERO
    return codes.astype(np.uint8), steps


def decode(codes: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The float32 weights that the three ops compute, to the last bit."""
    return (codes.astype(np.float32) - np.float32(_ZERO)) * steps[:, None]


def store(program: Program, folder: Path) -> Program:
    """Write a copy whose LSTM matrices are bytes into `folder`, which may be the program's own.

    Raises ModelError for a program without a float LSTM.
    """
    desc = _copy(program.desc)
    weights = dict(program.weights())
    block = desc.blocks[0]
    uses = Counter(name for b in desc.blocks for op in b.ops for slot in op.inputs for name in slot.arguments)
    ops: list[Any] = []
    for op in block.ops:
        for slot in op.inputs if _is_lstm(op) else ():
            if slot.parameter == SLOT:
                for i, name in enumerate(slot.arguments):
                    matrix = weights.get(name)
                    if matrix is not None and matrix.ndim == 2 and matrix.dtype == np.float32 and uses[name] == 1:
                        weights[name], weights[f"{name}.step"] = encode(matrix)
                        slot.arguments[i] = f"{name}.value"
                        ops += _unpack(block, name, matrix.shape)
        ops.append(_copy(op))
    if len(ops) == len(block.ops):
        raise ModelError(f"{program.model}: expected an LSTM whose matrices are float32, found none; leave --lstm out")
    del block.ops[:]
    block.ops.extend(ops)
    return program_writer.write(folder, desc, weights)


def stored(program: Program) -> list[str]:
    """Names of the codes that the program's LSTMs are made of."""
    return [name for name, _, _ in chains(program)]


def restored(program: Program, folder: Path) -> Program:
    """The same network with float matrices, in `folder`; the program itself where none is stored."""
    found = chains(program)
    if not found:
        return program
    weights = dict(program.weights())
    desc = _copy(program.desc)
    block = desc.blocks[0]
    back: dict[str, str] = {}
    gone: set[str] = set()
    for name, step, ops in found:
        weights[name] = decode(weights[name], weights.pop(step))
        back[ops[-1].result] = name
        gone |= {step, *(op.result for op in ops)}
    for var in [var for var in block.vars if var.name in gone]:
        block.vars.remove(var)
    for var in block.vars:
        if var.name in back.values():
            var.type.lod_tensor.tensor.data_type = _types().FP32
    for op in [op for op in block.ops if view(op, block).result in gone]:
        block.ops.remove(op)
    for op in block.ops:
        for slot in op.inputs:
            slot.arguments[:] = [back.get(name, name) for name in slot.arguments]
    return program_writer.write(folder, desc, weights)


def round_network(network: paddle.nn.Layer) -> int:
    """Give a trainable network the weights that its stored form computes with; return how many matrices."""
    import paddle

    matrices = [
        weight
        for layer in network.sublayers()
        if isinstance(layer, paddle.nn.LSTM)
        for weight in layer.parameters()
        if weight.ndim == 2
    ]
    for weight in matrices:
        weight.set_value(decode(*encode(weight.numpy())))
    return len(matrices)


def chains(program: Program) -> list[tuple[str, str, tuple[OpView, OpView, OpView]]]:
    """Codes, steps, and the three ops of each matrix that an rnn reads."""
    block = program.block
    views = [view(op, block) for op in block.ops]
    made = {op.result: op for op in views}
    kinds = {var.name: var.type.lod_tensor.tensor.data_type for var in block.vars if var.persistable}
    found = []
    for rnn in (op for op in views if op.type == "rnn"):
        for name in rnn.inputs.get(SLOT, ()):
            times = made.get(name)
            shift = made.get(times.inputs["X"][0]) if times and times.type == "elementwise_mul" else None
            cast = made.get(shift.inputs["X"][0]) if shift and shift.type == "scale" else None
            if times and shift and cast and cast.type == "cast" and kinds.get(cast.inputs["X"][0]) == _types().UINT8:
                found.append((cast.inputs["X"][0], times.inputs["Y"][0], (cast, shift, times)))
    return found


def _unpack(block: Any, name: str, shape: tuple[int, ...]) -> list[Any]:
    """The three ops that make `name`.value of the codes `name`; their variables are added to the block."""
    types = _types()
    codes = next(var for var in block.vars if var.name == name)
    codes.type.lod_tensor.tensor.data_type = types.UINT8
    _variable(block, f"{name}.step", shape[:1], persistable=True)
    for part in ("float", "shifted", "value"):
        _variable(block, f"{name}.{part}", shape)
    return [
        _op("cast", {"X": name}, f"{name}.float", {"in_dtype": int(types.UINT8), "out_dtype": int(types.FP32)}),
        _op(
            "scale", {"X": f"{name}.float"}, f"{name}.shifted",
            {"scale": 1.0, "bias": float(-_ZERO), "bias_after_scale": True},
        ),
        _op("elementwise_mul", {"X": f"{name}.shifted", "Y": f"{name}.step"}, f"{name}.value", {"axis": 0}),
    ]  # fmt: skip


def _is_lstm(op: Any) -> bool:
    return op.type == "rnn" and any(a.name == "mode" and a.s == "LSTM" for a in op.attrs)


def _variable(block: Any, name: str, shape: tuple[int, ...], *, persistable: bool = False) -> None:
    types = _types()
    var = block.vars.add(name=name, persistable=persistable)
    var.type.type = types.LOD_TENSOR
    var.type.lod_tensor.tensor.data_type = types.FP32
    var.type.lod_tensor.tensor.dims.extend(shape)


def _op(kind: str, inputs: dict[str, str], output: str, attributes: dict[str, int | float | bool]) -> Any:
    from paddle.base.proto import framework_pb2

    op = framework_pb2.OpDesc(type=kind)
    for parameter, name in inputs.items():
        op.inputs.add(parameter=parameter, arguments=[name])
    op.outputs.add(parameter="Out", arguments=[output])
    fields = {bool: ("b", framework_pb2.BOOLEAN), int: ("i", framework_pb2.INT), float: ("f", framework_pb2.FLOAT)}
    for name, value in attributes.items():
        field, number = fields[type(value)]
        setattr(op.attrs.add(name=name, type=number), field, value)
    return op


def _copy(message: Any) -> Any:
    other = type(message)()
    other.CopyFrom(message)
    return other


def _types() -> Any:
    from paddle.base.proto import framework_pb2

    return framework_pb2.VarType
