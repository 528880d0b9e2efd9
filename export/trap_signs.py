"""How a program is seen to fall into a trap: each function gives the ops that do."""

from __future__ import annotations

from collections.abc import Callable

from export.op_view import OpView, ops
from export.program import Program

BOOL, FLOAT16, FLOAT32, FLOAT64 = 0, 4, 5, 6  # of framework.proto's VarType.Type
# Activations that opt's x86 passes put into the addition before them, where the fused kernel does not know them.
UNFUSABLE_ON_X86 = ("abs",)
NEVER_NEGATIVE = ("abs", "exp", "hard_sigmoid", "relu", "relu6", "sigmoid", "softmax", "square")


def states(program: Program) -> list[OpView]:
    """rnn ops whose initial states have a shape that is put together from 0-D constants."""
    made = {op.result: op for op in ops(program) if op.type == "fill_constant"}
    return [op for op in ops(program) if op.type == "rnn" and state_constants(op, made)]


def state_constants(rnn: OpView, made: dict[str, OpView]) -> set[str]:
    parts = {
        part
        for state in rnn.inputs.get("PreState", ())
        if state in made
        for part in made[state].inputs.get("ShapeTensorList", ())
    }
    return {part for part in parts if part in made and is_zero_dimensional(made[part])}


def constants(program: Program) -> list[OpView]:
    """0-D constants that are not the business of an rnn's states."""
    made = {op.result: op for op in ops(program) if op.type == "fill_constant"}
    states = {name for op in ops(program) if op.type == "rnn" for name in state_constants(op, made)}
    return [op for op in made.values() if is_zero_dimensional(op) and op.result not in states]


def is_zero_dimensional(op: OpView) -> bool:
    given = op.attributes.get("shape") or any(op.inputs.get(name) for name in ("ShapeTensor", "ShapeTensorList"))
    return op.type == "fill_constant" and not given


def without_attribute(kind: str, name: str) -> Callable[[Program], list[OpView]]:
    return lambda program: [op for op in ops(program) if op.type == kind and name not in op.attributes]


def without_output(kind: str, *names: str) -> Callable[[Program], list[OpView]]:
    def find(program: Program) -> list[OpView]:
        return [op for op in ops(program) if op.type == kind and not all(op.outputs.get(name) for name in names)]

    return find


def without_input(kind: str, *names: str) -> Callable[[Program], list[OpView]]:
    def find(program: Program) -> list[OpView]:
        return [op for op in ops(program) if op.type == kind and not all(op.inputs.get(name) for name in names)]

    return find


def of_type(*kinds: str) -> Callable[[Program], list[OpView]]:
    return lambda program: [op for op in ops(program) if op.type in kinds]


def channels_last(program: Program) -> list[OpView]:
    layouts = ("data_format", "data_layout")
    kinds = ("conv2d", "depthwise_conv2d", "conv2d_transpose", "pool2d", "batch_norm")
    found = (op for op in ops(program) if op.type in kinds)
    return [op for op in found if any(op.attributes.get(name) == "NHWC" for name in layouts)]


def backwards(program: Program) -> list[OpView]:
    slices = (op for op in ops(program) if op.type == "strided_slice")
    return [op for op in slices if any(stride < 0 for stride in op.attributes.get("strides") or ())]


def other_rnn(program: Program) -> list[OpView]:
    return [op for op in ops(program) if op.type == "rnn" and op.attributes.get("mode") not in ("LSTM", "GRU")]


def scaled_by_tensor(program: Program) -> list[OpView]:
    return [op for op in ops(program) if op.type == "scale" and op.inputs.get("ScaleTensor")]


def vector_to_number(program: Program) -> list[OpView]:
    ranks = {var.name: len(var.type.lod_tensor.tensor.dims) for block in program.desc.blocks for var in block.vars}
    reduced = (op for op in ops(program) if op.type.startswith("reduce_") and not op.attributes.get("keep_dim"))
    return [op for op in reduced if ranks.get(op.inputs["X"][0]) == 1]


def power(factor: Callable[[float], bool]) -> Callable[[Program], list[OpView]]:
    """Powers with a whole factor of what may be negative."""

    def find(program: Program) -> list[OpView]:
        makers = {op.result: op.type for op in ops(program)}
        powers = (op for op in ops(program) if op.type == "pow" and not op.inputs.get("FactorTensor"))
        return [
            op
            for op in powers
            if factor(op.attributes.get("factor", 1.0)) and makers.get(op.inputs["X"][0]) not in NEVER_NEGATIVE
        ]

    return find


def of_dtype(dtype: int) -> Callable[[Program], list[OpView]]:
    def find(program: Program) -> list[OpView]:
        names = {
            var.name
            for block in program.desc.blocks
            for var in block.vars
            if var.type.lod_tensor.tensor.data_type == dtype
        }
        touched = (op for op in ops(program) if any(n in names for part in op.inputs.values() for n in part))
        made = (op for op in ops(program) if any(n in names for part in op.outputs.values() for n in part))
        return list(made) or list(touched)

    return find


def norm_of_another_order(program: Program) -> list[OpView]:
    return [op for op in ops(program) if op.type == "p_norm" and op.attributes.get("porder", 2.0) != 2.0]


def on_floats(kind: str) -> Callable[[Program], list[OpView]]:
    def find(program: Program) -> list[OpView]:
        floats = {v.name for b in program.desc.blocks for v in b.vars if v.type.lod_tensor.tensor.data_type == FLOAT32}
        return [op for op in ops(program) if op.type == kind and op.result in floats]

    return find


def unfusable(program: Program) -> list[OpView]:
    makers = {op.result: op.type for op in ops(program)}
    return [
        op
        for op in ops(program)
        if op.type in UNFUSABLE_ON_X86 and makers.get(op.inputs["X"][0], "").startswith(("elementwise_add", "conv2d"))
    ]


def bool_output(program: Program) -> list[OpView]:
    kinds = {var.name: var.type.lod_tensor.tensor.data_type for var in program.block.vars}
    made = [op for op in ops(program) if op.result in program.outputs]
    return [op for op in made if kinds.get(op.result) == BOOL]
