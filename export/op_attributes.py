"""Which attributes of an op Paddle-Lite looks at: in opt's passes, when it attaches the op, or in a kernel.

KEPT follows AttachImpl of Paddle-Lite's lite/operators for every op of the project's networks, before and after opt's
fusions; what any version reads is kept for all. UNREAD are names that none reads of these ops: switches of Paddle's
own kernels (cuDNN, oneDNN), traces of the export, leftovers of the training. What neither table knows stays, and so
does everything of an op that is not in KEPT.
"""

from __future__ import annotations

import re

# What opt adds to any op: the kernel that it picked, and the mark and scales of an int8 one.
KERNEL = "__@kernel_type_attr@__"
# opt marks each weight that runs in half precision by an attribute called after the weight.
HALF = "_fp16"
# So are the scales of each weight that is stored in fewer bits than it is computed in.
STORED = "_quant_scale"
_QUANTIZED = re.compile(r"\w+_scale|enable_int8|bit_length|quantization_type|quantize_weight_bits|fpga_static_quant")
# What quantization-aware training leaves: opt's passes may derive output scales from them, no kernel looks.
_THRESHOLD = re.compile(r"out_threshold|\w+\d_threshold|skip_quant|with_quant_attr")

_CONV = (
    "strides", "paddings", "dilations", "groups", "padding_algorithm", "data_format", "with_act", "act_type",
    "fuse_brelu_threshold", "leaky_relu_alpha", "hard_swish_threshold", "hard_swish_scale", "hard_swish_offset",
    "slope", "offset", "prelu_mode", "swish_scale", "scale_activation_type", "fuse_elementwise_op_type",
)  # fmt: skip
_ELEMENTWISE = ("axis", "act_type", "fuse_scale", "scale", "alpha", "bias")
_MATMUL = ("transpose_X", "transpose_Y", "trans_x", "trans_y", "alpha", "x_num_col_dims", "y_num_col_dims")
_FAKE_QUANTIZER = ("bit_length", "quant_axis", "round_type", "is_test", "moving_rate")

KEPT: dict[str, frozenset[str]] = {
    op: frozenset(names)
    for op, names in {
        "batch_norm": ("epsilon", "momentum", "data_layout", "is_test", "use_global_stats"),
        "calib": ("scale",),
        "cast": ("in_dtype", "out_dtype"),
        "concat": ("axis",),
        "conv2d": _CONV,
        "conv2d_transpose": (*_CONV, "output_size", "output_padding"),
        "depthwise_conv2d": _CONV,
        "elementwise_add": _ELEMENTWISE,
        "elementwise_mul": _ELEMENTWISE,
        "fake_channel_wise_quantize_dequantize_abs_max": _FAKE_QUANTIZER,
        "fake_quantize_dequantize_moving_average_abs_max": _FAKE_QUANTIZER,
        "fc": (*_MATMUL, "in_num_col_dims", "activation_type", "padding_weights", "op_type"),
        "feed": ("col",),
        "fetch": ("col", "data_type"),
        "fill_constant": ("dtype", "shape", "value", "str_value", "force_cpu"),
        "fill_constant_batch_size_like": (
            "dtype", "shape", "value", "str_value", "force_cpu", "input_dim_idx", "output_dim_idx",
        ),
        "fusion_elementwise_add_activation": _ELEMENTWISE,
        "hard_sigmoid": ("slope", "offset"),
        "hard_swish": ("threshold", "scale", "offset"),
        "matmul": _MATMUL,
        "matmul_v2": _MATMUL,
        "nearest_interp_v2": (
            "scale", "out_h", "out_w", "align_mode", "align_corners", "interp_method", "data_layout",
        ),
        "pool2d": (
            "pooling_type", "ksize", "global_pooling", "strides", "paddings", "exclusive", "adaptive", "ceil_mode",
            "padding_algorithm", "data_format",
        ),
        "relu": (),
        "reshape2": ("shape", "inplace"),
        "rnn": (
            "dropout_prob", "is_bidirec", "input_size", "hidden_size", "num_layers", "mode", "is_test", "seed",
        ),
        "scale": ("scale", "bias", "bias_after_scale", "activation_type", "alpha"),
        "shape": (),
        "sigmoid": (),
        "slice": ("axes", "starts", "ends", "infer_flags", "decrease_axis"),
        "softmax": ("axis",),
        "squeeze2": ("axes", "inplace"),
        "transpose2": ("axis", "data_format"),
    }.items()
}  # fmt: skip

UNREAD = frozenset(
    {
        # traces of the export
        "op_callstack", "op_device", "op_namescope", "op_role", "op_role_var",
        # Paddle's kernels: cuDNN, oneDNN, accumulation
        "exhaustive_search", "force_fp32_output", "is_test", "mkldnn_data_type", "use_addto", "use_cudnn", "use_mkldnn",
        "use_quantizer", "workspace_size_MB", "x_data_format", "y_data_format", "data_format",
        "place_type", "out_d", "Scale_in", "Scale_in_eltwise", "Scale_out", "Scale_weights", "Scale_x", "Scale_y",
        # Paddle's own fusions, which this program has not seen
        "fuse_activation", "fuse_alpha", "fuse_beta", "fuse_brelu", "fuse_brelu_threshold", "fuse_relu",
        "fuse_relu_before_depthwise_conv", "fuse_residual_connection", "fuse_with_relu", "fused_reshape_Out",
        "fused_reshape_X", "fused_reshape_Y", "fused_transpose_Out", "fused_transpose_X", "fused_transpose_Y",
        # training
        "trainable_statistics",
    }
)  # fmt: skip

# Read where it is there and true; absent and false are one.
_SWITCHES = frozenset({"use_mkldnn", "use_quantizer"})
# Paddle-Lite takes these from the op where they are true, so a true one is no default.
_FUSED = frozenset({"fuse_relu", "fuse_brelu", "fuse_residual_connection", "fuse_with_relu"})


def needed(op: str, name: str, value: object, *, after_opt: bool) -> bool:
    """Whether an attribute has to stay. value: a number, text or list; after_opt: opt's passes have run."""
    if op not in KEPT or name in KEPT[op] or name == KERNEL:
        return True
    if name in _SWITCHES | _FUSED and value is True:
        return True
    if _THRESHOLD.fullmatch(name):
        return not after_opt
    return name not in UNREAD or _QUANTIZED.fullmatch(name) is not None


def known(op: str, name: str) -> bool:
    """Whether the tables say anything about an attribute; what they do not know stays."""
    return op in KEPT and (
        name in KEPT[op]
        or name in UNREAD
        or name == KERNEL
        or name.endswith((HALF, STORED))
        or bool(_QUANTIZED.fullmatch(name) or _THRESHOLD.fullmatch(name))
    )
