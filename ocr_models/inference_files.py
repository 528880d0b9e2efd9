"""Reads an inference model's two files as data, without running or trusting them.

The model file is a protobuf ProgramDesc. The weights file holds the program's persistable tensors in the order of
their names, each as u32 version 0, u64 LoD levels 0, u32 tensor version 0, i32 size + protobuf TensorDesc, raw data.
Paddle itself aborts the process on many damaged files; here they end in a ModelError.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from paddle.base.proto import framework_pb2

from command import ModelError

PROGRAM = "inference.pdmodel"
WEIGHTS = "inference.pdiparams"
# Pairs of names that Paddle's tools have used for one model, newest first.
FILE_NAMES = (
    (PROGRAM, WEIGHTS),
    ("model.pdmodel", "model.pdiparams"),
    ("model", "params"),
    ("__model__", "__params__"),
)
# Paddle 3's own format.
PIR = "inference.json"

_DTYPES: dict[int, np.dtype[Any]] = {
    framework_pb2.VarType.FP16: np.dtype("<f2"),
    framework_pb2.VarType.FP32: np.dtype("<f4"),
    framework_pb2.VarType.FP64: np.dtype("<f8"),
    framework_pb2.VarType.INT8: np.dtype("i1"),
    framework_pb2.VarType.INT16: np.dtype("<i2"),
    framework_pb2.VarType.INT32: np.dtype("<i4"),
    framework_pb2.VarType.INT64: np.dtype("<i8"),
    framework_pb2.VarType.UINT8: np.dtype("u1"),
    framework_pb2.VarType.BOOL: np.dtype("?"),
}


def find(folder: str | Path) -> tuple[Path, Path]:
    """Program and weights file of an inference folder, whatever Paddle's tools or the user called them.

    Raises ModelError for a folder without a model, with two, or with half of one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise ModelError(f"{folder}: expected an inference folder with {PROGRAM}, found {found}; check the path")
    own = [(path.name, f"{path.stem}.pdiparams") for path in sorted(folder.glob("*.pdmodel"))]
    for program, weights in (*FILE_NAMES, *(own if len(own) == 1 else ())):
        if (folder / program).is_file():
            if not (folder / weights).is_file():
                raise ModelError(f"{folder}: expected {weights} beside {program}, found none; copy both files")
            return folder / program, folder / weights
    if own:
        names = ", ".join(program for program, _ in own)
        raise ModelError(f"{folder}: expected one model, found {names}; put each into a folder of its own")
    if (folder / PIR).is_file():
        raise ModelError(
            f"{folder}: expected {PROGRAM}, found {PIR}, the format of Paddle 3; export the model again with "
            "FLAGS_enable_pir_api=0 or with Paddle 2.6"
        )
    raise ModelError(f"{folder}: expected an inference folder with {PROGRAM} and {WEIGHTS}, found none; check the path")


def read_program(folder: str | Path) -> Any:
    """The ProgramDesc of an inference folder. Raises ModelError for a missing or foreign file."""
    path, _ = find(folder)
    content = _read(path)
    try:
        program = framework_pb2.ProgramDesc.FromString(content)
    except DecodeError:
        program = None
    if program is None or not program.blocks or not program.blocks[0].ops:
        raise ModelError(f"{path}: expected a Paddle inference program, found something else or a piece; copy it again")
    return program


def read_weights(folder: str | Path, program: Any) -> dict[str, np.ndarray]:
    """The program's parameters by static name. Raises ModelError when the file is not this program's, whole."""
    usual = Path(folder) / WEIGHTS
    return read_weights_file(usual if usual.is_file() else find(folder)[1], program)


def read_weights_file(path: Path, program: Any) -> dict[str, np.ndarray]:
    """The same of a weights file that lies anywhere."""
    content = _read(path)
    shapes = {
        var.name: tuple(var.type.lod_tensor.tensor.dims)
        for var in program.blocks[0].vars
        if var.persistable and var.type.type == framework_pb2.VarType.LOD_TENSOR
    }
    arrays: dict[str, np.ndarray] = {}
    offset = 0
    try:
        for name in sorted(shapes):
            array, offset = _tensor(content, offset)
            if array.shape != shapes[name]:
                raise ValueError(f"{name} of shape {list(array.shape)} where the program has {list(shapes[name])}")
            arrays[name] = array
        if offset != len(content):
            raise ValueError(f"{len(content) - offset} bytes more")
    except (struct.error, DecodeError, ValueError) as error:
        raise ModelError(
            f"{path}: expected the {len(shapes)} tensors of its program, found {error}; copy both files again"
        ) from None
    return arrays


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: expected a readable file, found {error.strerror}; check the path") from None


def _tensor(content: bytes, offset: int) -> tuple[np.ndarray, int]:
    """The tensor at `offset` and the offset after it. Raises ValueError, struct.error or DecodeError."""
    version, levels, tensor_version, size = struct.unpack_from("<IQIi", content, offset)
    if version or levels or tensor_version or not 0 < size < 4096:
        raise ValueError(f"no tensor at byte {offset}")
    offset += struct.calcsize("<IQIi")
    if offset + size > len(content):
        raise ValueError("the end of the file too early")
    desc = framework_pb2.VarType.TensorDesc.FromString(content[offset : offset + size])
    offset += size
    dtype = _DTYPES.get(desc.data_type)
    if dtype is None or any(d < 0 for d in desc.dims):
        raise ValueError(f"no numeric tensor at byte {offset}")
    count = math.prod(desc.dims)
    if offset + count * dtype.itemsize > len(content):
        raise ValueError("the end of the file too early")
    array = np.frombuffer(content, dtype, count, offset).reshape(tuple(desc.dims))
    return array, offset + count * dtype.itemsize
