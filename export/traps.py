"""What opt accepts or dies of, and Paddle-Lite then aborts at or computes wrongly: one row each.

Every row was seen to fail on the pinned paddlelite (2.13rc0) with the minimal model of tests/export/trap_models.py;
where an op has no kernel at all, opt's own list says so (export/preflight.py). `Trap.mend` names the change of
export/fixes.py that is safe: the same numbers, whatever the model is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from export.program import Program

BOOL, FLOAT16, FLOAT32, FLOAT64 = 0, 4, 5, 6  # of framework.proto's VarType.Type
# Activations that opt's x86 passes put into the addition before them, where the fused kernel does not know them.
UNFUSABLE_ON_X86 = ("abs",)


@dataclass(frozen=True)
class OpView:
    """An op of the program in plain Python. desc: its OpDesc, block: the BlockDesc that holds it."""

    type: str
    inputs: dict[str, list[str]]
    outputs: dict[str, list[str]]
    attributes: dict[str, Any]
    desc: Any
    block: Any

    @property
    def result(self) -> str:
        """Name of its first output."""
        return next((name for names in self.outputs.values() for name in names), "")


@dataclass(frozen=True)
class Trap:
    """find: the ops that fall into it. why: what happens; remedy: what to do. mend: key of fixes.MENDS, "" for none."""

    name: str
    find: Callable[[Program], list[OpView]]
    why: str
    remedy: str
    mend: str = ""
    targets: tuple[str, ...] = ("arm", "x86")


def ops(program: Program) -> Iterator[OpView]:
    """All ops of all blocks, feed and fetch left out."""
    for block in program.desc.blocks:
        for op in block.ops:
            if op.type not in ("feed", "fetch"):
                yield view(op, block)


def view(op: Any, block: Any) -> OpView:
    inputs = {slot.parameter: list(slot.arguments) for slot in op.inputs}
    outputs = {slot.parameter: list(slot.arguments) for slot in op.outputs}
    return OpView(op.type, inputs, outputs, {attr.name: _value(attr) for attr in op.attrs}, op, block)


def _value(attribute: Any) -> Any:
    """Of an op's attribute, whatever its type; None where an empty list leaves no trace in the file."""
    for field in ("i", "f", "s", "b", "l", "float64"):
        if attribute.HasField(field):
            return getattr(attribute, field)
    lists = (content for field, content in attribute.ListFields() if field.name not in ("name", "type"))
    return next((list(content) for content in lists), None)


def _states(program: Program) -> list[OpView]:
    """rnn ops whose initial states have a shape that is put together from 0-D constants."""
    made = {op.result: op for op in ops(program) if op.type == "fill_constant"}
    return [op for op in ops(program) if op.type == "rnn" and _state_constants(op, made)]


def _state_constants(rnn: OpView, made: dict[str, OpView]) -> set[str]:
    parts = {
        part
        for state in rnn.inputs.get("PreState", ())
        if state in made
        for part in made[state].inputs.get("ShapeTensorList", ())
    }
    return {part for part in parts if part in made and is_zero_dimensional(made[part])}


def _constants(program: Program) -> list[OpView]:
    """0-D constants that are not the business of an rnn's states."""
    made = {op.result: op for op in ops(program) if op.type == "fill_constant"}
    states = {name for op in ops(program) if op.type == "rnn" for name in _state_constants(op, made)}
    return [op for op in made.values() if is_zero_dimensional(op) and op.result not in states]


def is_zero_dimensional(op: OpView) -> bool:
    given = op.attributes.get("shape") or any(op.inputs.get(name) for name in ("ShapeTensor", "ShapeTensorList"))
    return op.type == "fill_constant" and not given


def _without_attribute(kind: str, name: str) -> Callable[[Program], list[OpView]]:
    return lambda program: [op for op in ops(program) if op.type == kind and name not in op.attributes]


def _without_output(kind: str, *names: str) -> Callable[[Program], list[OpView]]:
    def find(program: Program) -> list[OpView]:
        return [op for op in ops(program) if op.type == kind and not all(op.outputs.get(name) for name in names)]

    return find


def _without_input(kind: str, *names: str) -> Callable[[Program], list[OpView]]:
    def find(program: Program) -> list[OpView]:
        return [op for op in ops(program) if op.type == kind and not all(op.inputs.get(name) for name in names)]

    return find


def _of_type(*kinds: str) -> Callable[[Program], list[OpView]]:
    return lambda program: [op for op in ops(program) if op.type in kinds]


def _channels_last(program: Program) -> list[OpView]:
    layouts = ("data_format", "data_layout")
    kinds = ("conv2d", "depthwise_conv2d", "conv2d_transpose", "pool2d", "batch_norm")
    found = (op for op in ops(program) if op.type in kinds)
    return [op for op in found if any(op.attributes.get(name) == "NHWC" for name in layouts)]


def _reversed_to_the_end(program: Program) -> list[OpView]:
    """x[::-1], whose start is "as far as there is"; slices with a start inside of the tensor are right."""

    def beyond(op: OpView) -> bool:
        strides, starts = op.attributes.get("strides") or (), op.attributes.get("starts") or ()
        return any(stride < 0 and start >= 1 << 20 for stride, start in zip(strides, starts, strict=False))

    return [op for op in ops(program) if op.type == "strided_slice" and beyond(op)]


def _of_dtype(dtype: int) -> Callable[[Program], list[OpView]]:
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


def _norm_of_another_order(program: Program) -> list[OpView]:
    return [op for op in ops(program) if op.type == "p_norm" and op.attributes.get("porder", 2.0) != 2.0]


def _float_floor_division(program: Program) -> list[OpView]:
    floats = {v.name for b in program.desc.blocks for v in b.vars if v.type.lod_tensor.tensor.data_type == FLOAT32}
    return [op for op in ops(program) if op.type == "elementwise_floordiv" and op.result in floats]


def _unfusable(program: Program) -> list[OpView]:
    makers = {op.result: op.type for op in ops(program)}
    return [
        op
        for op in ops(program)
        if op.type in UNFUSABLE_ON_X86 and makers.get(op.inputs["X"][0], "").startswith(("elementwise_add", "conv2d"))
    ]


def _bool_output(program: Program) -> list[OpView]:
    kinds = {var.name: var.type.lod_tensor.tensor.data_type for var in program.block.vars}
    made = [op for op in ops(program) if op.result in program.outputs]
    return [op for op in made if kinds.get(op.result) == BOOL]


TABLE = (
    Trap(
        "rnn states",
        _states,
        "its default initial states take their shape from 0-D constants: opt converts them, the runtime aborts",
        "give explicit zero states whose shape is made of 1-D tensors, or use --fix",
        "zero_dimensional",
    ),
    Trap(
        "0-D constant",
        _constants,
        "a constant without dimensions: opt converts it, the runtime aborts (no valid out_shape)",
        "write the number as a tensor of shape [1], or use --fix",
        "zero_dimensional",
    ),
    Trap(
        "swish without beta",
        _without_attribute("swish", "beta"),
        "opt aborts: its swish insists on the attribute beta, which Paddle leaves out",
        "use F.silu in the network, or --fix",
        "swish",
    ),
    Trap(
        "relu6 without threshold",
        _without_attribute("relu6", "threshold"),
        "opt aborts: its relu6 insists on the attribute threshold, which Paddle leaves out",
        "use paddle.clip(x, 0, 6) in the network, or --fix",
        "relu6",
    ),
    Trap(
        "flatten without XShape",
        _without_output("flatten_contiguous_range", "XShape"),
        "opt ends with a segmentation fault: it reads the output XShape, which Paddle no longer writes",
        "use reshape([0, -1, …]) or squeeze in the network, or --fix",
        "flatten",
    ),
    Trap(
        "instance_norm without statistics",
        _without_output("instance_norm", "SavedMean", "SavedVariance"),
        "opt aborts: it wants the outputs SavedMean and SavedVariance, which Paddle no longer writes",
        "use batch normalisation in the network, or --fix",
        "instance_norm",
    ),
    Trap(
        "layer_norm without weights",
        _without_input("layer_norm", "Scale", "Bias"),
        "opt ends with a segmentation fault: it reads scale and bias, which this layer does not have",
        "give the layer a weight of ones and a bias of zeros",
    ),
    Trap(
        "bmm",
        _of_type("bmm"),
        "opt knows it and has no kernel for it",
        "use paddle.matmul in the network, or --fix",
        "bmm",
    ),
    Trap(
        "NHWC layout",
        _channels_last,
        "its kernels read NCHW whatever the attribute says: wrong numbers, a wrong shape or an abort",
        "build the network with data_format NCHW",
    ),
    Trap(
        "float16",
        _of_dtype(FLOAT16),
        "opt aborts: it has no cast to or from half precision in a program",
        "export the model in float32 and convert with --precision fp16",
    ),
    Trap(
        "float64",
        _of_dtype(FLOAT64),
        "opt aborts at a weight of double precision, and the runtime at a tensor",
        "export the model in float32",
    ),
    Trap(
        "reversed slice",
        _reversed_to_the_end,
        "x[::-1] starts beyond the tensor's end: opt converts it, the runtime aborts",
        "use paddle.flip in the network",
    ),
    Trap(
        "p_norm",
        _norm_of_another_order,
        "the runtime computes another number: it knows the norm of order 2 only",
        "write the norm with abs, sum and pow",
    ),
    Trap(
        "float floor division",
        _float_floor_division,
        "the runtime divides floats without rounding down: another number",
        "use paddle.floor(a / b) in the network",
    ),
    Trap(
        "abs after an addition",
        _unfusable,
        "opt's x86 passes fuse it with the addition before it, the runtime aborts (unsupported active type: abs)",
        "use paddle.maximum(x, -x) in the network; arm is not affected",
        targets=("x86",),
    ),
    Trap(
        "bool output",
        _bool_output,
        "the runtime hands out its bytes as numbers of another size: wrong values",
        "cast the output to float32",
    ),
)
