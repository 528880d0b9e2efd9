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

# framework.proto's VarType numbers, so that this module can be imported without Paddle.
_LOD_TENSOR = 7
_DTYPES = {
    number: np.dtype(name)
    for number, name in {0: "?", 1: "<i2", 2: "<i4", 3: "<i8", 4: "<f2", 5: "<f4", 6: "<f8", 20: "u1", 21: "i1"}.items()
}


def find(folder: str | Path) -> tuple[Path, Path]:
    """Program and weights file of an inference folder, whatever Paddle's tools or the user called them.

    Raises ModelError for a folder without a model, with two, or with half of one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise ModelError(f"{folder}: expected an inference folder with {PROGRAM}, found {found}; check the path")
    # A model saved under a name of its own; two of them in one folder are a question, not an answer.
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
            f"{folder}: expected {PROGRAM}, found {PIR}, Paddle 3's new format, which neither Paddle 2.6 nor opt "
            "reads; export it again with FLAGS_enable_pir_api=0 or with Paddle 2.6"
        )
    raise ModelError(f"{folder}: expected {PROGRAM} and {WEIGHTS}, found none; give an inference folder")


def read_program(folder: str | Path) -> Any:
    """The ProgramDesc of an inference folder. Raises ModelError for a missing, empty or foreign file."""
    from google.protobuf.message import DecodeError
    from paddle.base.proto import framework_pb2

    path, _ = find(folder)
    content = _read(path)
    program = framework_pb2.ProgramDesc()
    try:
        program.ParseFromString(content)
    except DecodeError:
        program.Clear()
    if not program.blocks or not {"feed", "fetch"} <= {op.type for op in program.blocks[0].ops}:
        raise ModelError(
            f"{path}: expected a Paddle program with inputs and outputs, found {len(content)} bytes that are none; "
            "it is truncated or foreign, copy or export the model again"
        )
    return program


def read_weights(folder: str | Path, program: Any) -> dict[str, np.ndarray]:
    """The program's parameters by static name. Raises ModelError when the file is not this program's, whole."""
    return read_weights_file(find(folder)[1], program)


def read_weights_file(path: Path, program: Any) -> dict[str, np.ndarray]:
    """The same of a weights file that lies anywhere."""
    from google.protobuf.message import DecodeError

    content = _read(path)
    shapes = {
        var.name: tuple(var.type.lod_tensor.tensor.dims)
        for var in program.blocks[0].vars
        if var.persistable and var.type.type == _LOD_TENSOR
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
    from paddle.base.proto import framework_pb2

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
