"""Writes an inference model in the two files that Paddle's tools read."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.program import FILE_NAMES, Program

if TYPE_CHECKING:
    import numpy as np


def write(folder: Path, desc: Any, weights: Mapping[str, np.ndarray]) -> Program:
    """Write a ProgramDesc and the arrays of its persistable tensors; the same input gives the same bytes.

    The weights file has no names: readers sort those of the program's persistable tensors, so it holds exactly these.
    """
    model, params = (folder / name for name in FILE_NAMES[0])
    model.write_bytes(desc.SerializeToString(deterministic=True))
    with params.open("wb") as file:
        for name in sorted(persistable(desc)):
            file.write(_tensor(weights[name]))
    return Program(model, params, desc)


def persistable(desc: Any) -> list[str]:
    """Names of the variables that the weights file holds, in the program's order."""
    from paddle.base.proto import framework_pb2

    tensor = framework_pb2.VarType.LOD_TENSOR
    return [var.name for var in desc.blocks[0].vars if var.persistable and var.type.type == tensor]


def _tensor(array: np.ndarray) -> bytes:
    """u32 version | u64 LoD levels | u32 tensor version | i32 size | TensorDesc | items."""
    from paddle.base.proto import framework_pb2

    kinds = framework_pb2.VarType
    kind = {
        "float16": kinds.FP16, "float32": kinds.FP32, "float64": kinds.FP64, "int8": kinds.INT8, "int16": kinds.INT16,
        "int32": kinds.INT32, "int64": kinds.INT64, "uint8": kinds.UINT8, "bool": kinds.BOOL,
    }[array.dtype.name]  # fmt: skip
    description = kinds.TensorDesc(data_type=kind, dims=array.shape).SerializeToString(deterministic=True)
    return struct.pack("<IQIi", 0, 0, 0, len(description)) + description + array.tobytes()
