"""What the numbers in a `.nb` file stand for."""

# TargetType, PrecisionType and DataLayoutType of lite/api/paddle_place.h, by number.
TARGETS = (
    "unknown", "host", "x86", "cuda", "arm", "opencl", "any", "fpga", "npu", "xpu", "bm", "mlu", "rknpu", "apu",
    "huawei_ascend_npu", "imagination_nna", "intel_fpga", "metal", "nnadapter",
)  # fmt: skip
PRECISIONS = ("unknown", "fp32", "int8", "int32", "any", "fp16", "bool", "int64", "int16", "uint8", "fp64")
LAYOUTS = (
    "unknown", "NCHW", "any", "NHWC", "image2d", "image_folder", "image_nw", "metal_texture_array", "metal_texture",
)  # fmt: skip

# VarType.Type: number → (name, bytes per item).
DTYPES = {
    0: ("bool", 1), 1: ("int16", 2), 2: ("int32", 4), 3: ("int64", 8), 4: ("float16", 2), 5: ("float32", 4),
    6: ("float64", 8), 20: ("uint8", 1), 21: ("int8", 1),
}  # fmt: skip

# AttrType: number → (field of the Attr table, how to read it).
ATTRIBUTES = {
    0: (2, "int32"), 1: (3, "float32"), 2: (4, "string"), 3: (5, "int32s"), 4: (6, "float32s"), 5: (7, "strings"),
    6: (8, "bool"), 7: (9, "bools"), 8: (10, "int32"), 9: (11, "int64"), 10: (12, "int32s"), 11: (13, "int64s"),
}  # fmt: skip
