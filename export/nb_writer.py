"""Writes a `.nb` file from its parts: the counterpart of nb_file.

The topology is taken as plain dicts and lists that mirror framework.fbs of Paddle-Lite, field by field, so that nothing
that the reader does not know is lost on the way. A vector that is empty is written as an empty one, one that is absent
stays absent: Paddle-Lite looks into some of them without asking whether they are there.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from export import flat_builder
from export.flat_table import SCALARS, Buffer, FlatError, Table
from export.nb_file import VERSION_FIELD, NbError

# Where the size of the topology stands, and where the topology itself begins.
_SIZE = VERSION_FIELD.stop
_TOPOLOGY = _SIZE + 8

# Room for what is shared: a file of ours unfolds into up to 40 bytes of memory per byte.
_BYTES_PER_BYTE = 256

# Of framework.fbs, in the order of their numbers. Enumerations are int32.
SCHEMA: dict[str, tuple[tuple[str, str], ...]] = {
    "ProgramDesc": (("blocks", "[BlockDesc]"), ("version", "Version"), ("op_compatible_map", "OpCompatibleMap")),
    "Version": (("version", "int64"),),
    "BlockDesc": (
        ("idx", "int32"), ("parent_idx", "int32"), ("vars", "[VarDesc]"), ("ops", "[OpDesc]"),
        ("forward_block_idx", "int32"),
    ),
    "OpDesc": (
        ("type", "string"), ("inputs", "[Var]"), ("outputs", "[Var]"), ("attrs", "[Attr]"), ("is_target", "bool"),
    ),
    "Var": (("parameter", "string"), ("arguments", "[string]")),
    "Attr": (
        ("name", "string"), ("type", "int32"), ("i", "int32"), ("f", "float32"), ("s", "string"), ("ints", "[int32]"),
        ("floats", "[float32]"), ("strings", "[string]"), ("b", "bool"), ("bools", "[bool]"), ("block_idx", "int32"),
        ("l", "int64"), ("blocks_idx", "[int32]"), ("longs", "[int64]"),
    ),
    "VarDesc": (("name", "string"), ("type", "VarType"), ("persistable", "bool"), ("need_check_feed", "bool")),
    "VarType": (
        ("type", "int32"), ("selected_rows", "TensorDesc"), ("lod_tensor", "LoDTensorDesc"),
        ("tensor_array", "LoDTensorDesc"), ("reader", "ReaderDesc"), ("tuple", "Tuple"),
    ),
    "TensorDesc": (("data_type", "int32"), ("dims", "[int64]")),
    "LoDTensorDesc": (("tensor", "TensorDesc"), ("lod_level", "int32")),
    "ReaderDesc": (("lod_tensor", "[LoDTensorDesc]"),),
    "Tuple": (("element_type", "[int32]"),),
    "OpCompatibleMap": (("pair", "[OpCompatiblePair]"), ("default_required_version", "string")),
    "OpCompatiblePair": (("op_name", "string"), ("compatible_info", "CompatibleInfo")),
    "CompatibleInfo": (("version", "string"), ("type", "int32")),
}  # fmt: skip
DEFAULTS = {("BlockDesc", "forward_block_idx"): -1}


def read_topology(data: bytes) -> dict[str, Any]:
    """The topology of a file as dicts and lists; a field that is left out has no key. Raises NbError for damage."""
    size = struct.unpack_from("<Q", data, _SIZE)[0]
    try:
        root = Buffer(memoryview(data)[_TOPOLOGY : _TOPOLOGY + size], _BYTES_PER_BYTE).root()
        return _unfold("ProgramDesc", root)
    except FlatError as error:
        raise NbError(f"expected a whole .nb file, found damage: {error}; convert the model again") from None


def with_topology(data: bytes, topology: Mapping[str, Any]) -> bytes:
    """The file with another topology; header and params stay what they are."""
    size = struct.unpack_from("<Q", data, _SIZE)[0]
    content = flat_builder.build(SCHEMA, "ProgramDesc", topology, DEFAULTS)
    return data[:_SIZE] + struct.pack("<Q", len(content)) + content + data[_TOPOLOGY + size :]


def _unfold(name: str, table: Table) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for index, (field, kind) in enumerate(SCHEMA[name]):
        if not table.has(index):
            continue
        if kind in SCALARS:
            values[field] = table.scalar(index, kind)
        elif kind == "string":
            values[field] = table.string(index)
        elif kind == "[string]":
            values[field] = table.strings(index)
        elif kind[1:-1] in SCALARS:
            values[field] = table.numbers(index, kind[1:-1])
        elif kind.startswith("["):
            values[field] = [_unfold(kind[1:-1], item) for item in table.tables(index)]
        else:
            child = table.table(index)
            assert child is not None
            values[field] = _unfold(kind, child)
    return values
