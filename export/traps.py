"""What opt accepts or dies of, and Paddle-Lite then aborts at or computes wrongly: one row each.

Every row was seen to fail on the pinned paddlelite (2.13rc0) with the minimal model of tests/export/trap_models.py;
where an op has no kernel at all, opt's own list says so (export/preflight.py). `Trap.mend` names the change of
export/fixes.py that is safe: the same numbers, whatever the model is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from export import trap_signs
from export.op_view import OpView
from export.program import Program


@dataclass(frozen=True)
class Trap:
    """find: the ops that fall into it. why: what happens; remedy: what to do. mend: key of fixes.MENDS, "" for none."""

    name: str
    find: Callable[[Program], list[OpView]]
    why: str
    remedy: str
    mend: str = ""
    targets: tuple[str, ...] = ("arm", "x86")


TABLE = (
    Trap(
        "rnn states",
        trap_signs.states,
        "its default initial states take their shape from 0-D constants: opt converts them, the runtime aborts",
        "give explicit zero states whose shape is made of 1-D tensors, or use --fix",
        "zero_dimensional",
    ),
    Trap(
        "0-D constant",
        trap_signs.constants,
        "a constant without dimensions: opt converts it, the runtime aborts (no valid out_shape)",
        "write the number as a tensor of shape [1], or use --fix",
        "zero_dimensional",
    ),
    Trap(
        "swish without beta",
        trap_signs.without_attribute("swish", "beta"),
        "opt aborts: its swish insists on the attribute beta, which Paddle leaves out",
        "use F.silu in the network, or --fix",
        "swish",
    ),
    Trap(
        "relu6 without threshold",
        trap_signs.without_attribute("relu6", "threshold"),
        "opt aborts: its relu6 insists on the attribute threshold, which Paddle leaves out",
        "use paddle.clip(x, 0, 6) in the network, or --fix",
        "relu6",
    ),
    Trap(
        "flatten without XShape",
        trap_signs.without_output("flatten_contiguous_range", "XShape"),
        "opt ends with a segmentation fault: it reads the output XShape, which Paddle no longer writes",
        "use reshape([0, -1, …]) or squeeze in the network, or --fix",
        "flatten",
    ),
    Trap(
        "instance_norm without statistics",
        trap_signs.without_output("instance_norm", "SavedMean", "SavedVariance"),
        "opt aborts: it wants the outputs SavedMean and SavedVariance, which Paddle no longer writes",
        "use batch normalisation in the network, or --fix",
        "instance_norm",
    ),
    Trap(
        "layer_norm without weights",
        trap_signs.without_input("layer_norm", "Scale", "Bias"),
        "opt ends with a segmentation fault: it reads scale and bias, which this layer does not have",
        "give the layer a weight of ones and a bias of zeros",
    ),
    Trap(
        "bmm",
        trap_signs.of_type("bmm"),
        "opt knows it and has no kernel for it",
        "use paddle.matmul in the network, or --fix",
        "bmm",
    ),
    Trap(
        "NHWC layout",
        trap_signs.channels_last,
        "its kernels read NCHW whatever the attribute says: wrong numbers, a wrong shape or an abort",
        "build the network with data_format NCHW",
    ),
    Trap(
        "float16",
        trap_signs.of_dtype(trap_signs.FLOAT16),
        "opt aborts: it has no cast to or from half precision in a program",
        "export the model in float32 and convert with --precision fp16",
    ),
    Trap(
        "float64",
        trap_signs.of_dtype(trap_signs.FLOAT64),
        "opt aborts at a weight of double precision, and the runtime at a tensor",
        "export the model in float32",
    ),
    Trap(
        "backward slice",
        trap_signs.backwards,
        "opt converts a slice with a negative step; the runtime aborts at it or returns other numbers",
        "use paddle.flip in the network",
    ),
    Trap(
        "rnn that is neither LSTM nor GRU",
        trap_signs.other_rnn,
        "opt converts it, the runtime aborts: it has kernels for LSTM and GRU",
        "use nn.LSTM or nn.GRU in the network",
    ),
    Trap(
        "scale by a tensor",
        trap_signs.scaled_by_tensor,
        "opt aborts: its scale takes a number",
        "multiply by the tensor in the network",
    ),
    Trap(
        "vector to a number",
        trap_signs.vector_to_number,
        "opt converts the reduction of a 1-D tensor to 0 dimensions, the runtime ends with a segmentation fault",
        "keep the dimension (keepdim=True)",
    ),
    Trap(
        "square by pow",
        trap_signs.power(lambda factor: factor == 2),
        "the x86 kernel takes the logarithm: wrong for negative numbers",
        "use paddle.square in the network, or --fix",
        "square",
        targets=("x86",),
    ),
    Trap(
        "power of a negative number",
        trap_signs.power(lambda factor: factor not in (1, 2) and factor == int(factor)),
        "the x86 kernel takes the logarithm: wrong for negative numbers",
        "multiply in the network",
        targets=("x86",),
    ),
    Trap(
        "p_norm",
        trap_signs.norm_of_another_order,
        "the runtime computes another number: it knows the norm of order 2 only",
        "write the norm with abs, sum and pow",
    ),
    Trap(
        "float floor division",
        trap_signs.on_floats("elementwise_floordiv"),
        "the runtime divides floats without rounding down: another number",
        "use paddle.floor(a / b) in the network",
    ),
    Trap(
        "float remainder",
        trap_signs.on_floats("elementwise_mod"),
        "the runtime takes the remainder of whole numbers: another number, of another type",
        "use a - b * paddle.floor(a / b) in the network",
    ),
    Trap(
        "abs after an addition",
        trap_signs.unfusable,
        "opt's x86 passes fuse it with the addition before it, the runtime aborts (unsupported active type: abs)",
        "use paddle.maximum(x, -x) in the network; arm is not affected",
        targets=("x86",),
    ),
    Trap(
        "bool output",
        trap_signs.bool_output,
        "the runtime hands out its bytes as numbers of another size: wrong values",
        "cast the output to float32",
    ),
)
