"""Reads Paddle-Lite's `.nb` file: a pure Python reader of the format, so that a conversion is checked by its result.

Little-endian, format version 2:
    u16 version | char[16] opt version, ended by a NUL | u64 size of the topology | flatbuffer ProgramDesc
    | u16 params version | u16 meta size | u16 header size | u16 count of params | u32 largest tensor
    | count × (u32 size of what follows, u32 offset of the flatbuffer in it, flatbuffer ParamDesc)
Field numbers: lite/model_parser/flatbuffers/framework.fbs and param.fbs of Paddle-Lite.

Raises NbError and nothing else, whatever the bytes are. Memory stays below 8 MB + 64 times the file's size, and time
grows in step with it.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from command import ModelError
from export.flat_table import Buffer, FlatError, Table
from export.nb_codes import ATTRIBUTES, DTYPES, LAYOUTS, PRECISIONS, TARGETS

if TYPE_CHECKING:
    import numpy as np

META_VERSION = 2
VERSION_FIELD = slice(2, 18)
KERNEL_ATTRIBUTE = "__@kernel_type_attr@__"

_HEADER = 26
_SCALE = re.compile(r"(\d|_quant)_scale$")

# Paddle's own limit is 9. A longer shape is damage, and its product would take time that grows with its square.
_MAX_RANK = 16
_MAX_BYTES = 1 << 30
_COST_OP = 512


class NbError(ModelError):
    """The bytes are no `.nb` file that this reader understands; the message is one line."""


@dataclass(frozen=True)
class Kernel:
    """Which kernel opt picked for an op."""

    op: str
    alias: str
    target: str
    precision: str
    layout: str


@dataclass(frozen=True)
class Op:
    type: str
    inputs: dict[str, list[str]]
    outputs: dict[str, list[str]]
    attributes: dict[str, Any]
    kernel: Kernel | None


@dataclass(frozen=True)
class Var:
    name: str
    dtype: str
    shape: tuple[int, ...]
    persistable: bool


@dataclass(frozen=True)
class Param:
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview

    def array(self) -> np.ndarray:
        """A read-only view, in the param's shape."""
        import numpy as np

        return np.frombuffer(self.data, dtype=self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class NbFile:
    """A parsed file. ops: the ops of all blocks in order; sizes in bytes."""

    meta_version: int
    opt_version: str
    ops: list[Op]
    vars: dict[str, Var]
    params: dict[str, Param]
    size_bytes: int
    topology_bytes: int

    @cached_property
    def targets(self) -> frozenset[str]:
        """Machines that its kernels are for, without host and any, which run everywhere."""
        found = {op.kernel.target for op in self.ops if op.kernel}
        return frozenset(found - {"host", "any", "unknown"})

    @cached_property
    def inputs(self) -> list[str]:
        return [name for op in self.ops if op.type == "feed" for names in op.outputs.values() for name in names]

    @cached_property
    def outputs(self) -> list[str]:
        return [name for op in self.ops if op.type == "fetch" for names in op.inputs.values() for name in names]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the first output, -1 for a free side; () where the file does not say."""
        var = self.vars.get(self.outputs[0]) if self.outputs else None
        return var.shape if var else ()

    def kernels(self) -> dict[str, dict[str, int]]:
        """Op type → precision of its kernel → count, in the order of first use; feed and fetch left out."""
        counts: dict[str, Counter[str]] = {}
        for op in self.ops:
            if op.type not in ("feed", "fetch"):
                counts.setdefault(op.type, Counter())[op.kernel.precision if op.kernel else "unknown"] += 1
        return {kind: dict(counter) for kind, counter in counts.items()}

    def weights_by_type(self) -> dict[str, tuple[int, int]]:
        """Item type → how many params have it and their bytes together."""
        found: dict[str, tuple[int, int]] = {}
        for param in self.params.values():
            count, size = found.get(param.dtype, (0, 0))
            found[param.dtype] = (count + 1, size + len(param.data))
        return found

    @cached_property
    def scale_bytes(self) -> int:
        """Bytes of quantization scales, which stand in the topology as op attributes such as Filter0_scale."""
        found = sum(
            4 * len(value)
            for op in self.ops
            for name, value in op.attributes.items()
            if isinstance(value, list) and _SCALE.search(name)
        )
        return min(found, self.topology_bytes)  # ops may share a list

    def parts(self) -> dict[str, int]:
        """Where the bytes go; the parts add up to the file's size."""
        weights = sum(len(param.data) for param in self.params.values())
        topology = self.topology_bytes - self.scale_bytes
        rest = self.size_bytes - weights - self.topology_bytes
        return {"weights": weights, "scales": self.scale_bytes, "topology": topology, "framing": rest}


def read(path: str | Path) -> NbFile:
    """Parse the file at `path`. Raises NbError for a file that is missing, damaged or of another format."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise NbError(f"{path}: expected an .nb file, found a device or a pipe; copy it to a file first")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise NbError(
            f"{path}: expected an .nb file, found {error.strerror or error}; make one with to_nb.py"
        ) from None
    if len(data) > _MAX_BYTES:
        raise NbError(f"{path}: expected an .nb file of at most {_MAX_BYTES:,} bytes, found more; give another file")
    try:
        return parse(data)
    except NbError as error:
        raise NbError(f"{path}: {error}") from None


def parse(data: bytes) -> NbFile:
    """Parse the bytes of a file."""
    if len(data) < _HEADER:
        raise NbError(f"expected an .nb file, found {len(data)} bytes; it is truncated, convert the model again")
    meta_version = struct.unpack_from("<H", data)[0]
    if meta_version != META_VERSION:
        raise NbError(
            f"expected .nb format version {META_VERSION}, found {meta_version}; it is no .nb file or one of an "
            "opt before 2.9, convert the model again"
        )
    version = data[VERSION_FIELD].split(b"\0")[0]
    try:
        opt_version = version.decode("ascii")
    except UnicodeDecodeError:
        opt_version = ""
    if not opt_version.isprintable() or not opt_version:
        raise NbError("expected opt's version in the header, found no text; it is no .nb file, convert the model again")
    topology = struct.unpack_from("<Q", data, 18)[0]
    if topology > len(data) - _HEADER:
        raise NbError(
            f"expected {topology} bytes of topology, found {len(data) - _HEADER}; the file is truncated, "
            "convert the model again"
        )
    view = memoryview(data)
    try:
        ops, variables = _program(Buffer(view[_HEADER : _HEADER + topology]).root())
        params: dict[str, Param] = {}
        for param in _params(view[_HEADER + topology :]):
            if param.name in params:
                raise FlatError(f"two params are called {param.name[:60]!r}")
            params[param.name] = param
    except FlatError as error:
        raise NbError(f"expected a whole .nb file, found damage: {error}; convert the model again") from None
    if not ops:
        raise NbError("expected a program with ops, found none; it is no .nb file of a model, convert the model again")
    return NbFile(meta_version, opt_version, ops, variables, params, len(data), topology)


def _program(program: Table) -> tuple[list[Op], dict[str, Var]]:
    ops: list[Op] = []
    variables: dict[str, Var] = {}
    for block in program.tables(0):
        for table in block.tables(2):
            var = _var(table)
            variables[var.name] = var
        ops += [_op(table) for table in block.tables(3)]
    return ops, variables


def _op(table: Table) -> Op:
    table.buffer.spend(_COST_OP)
    attributes = dict(_attribute(attribute) for attribute in table.tables(3))
    text = attributes.get(KERNEL_ATTRIBUTE)
    kernel = _kernel(text) if isinstance(text, str) else None
    return Op(table.string(0), _arguments(table, 1), _arguments(table, 2), attributes, kernel)


def _arguments(table: Table, index: int) -> dict[str, list[str]]:
    return {argument.string(0): argument.strings(1) for argument in table.tables(index)}


def _attribute(table: Table) -> tuple[str, Any]:
    """Name and value; None for a type that came after this reader."""
    name = table.string(0)
    index, kind = ATTRIBUTES.get(table.scalar(1, "int32"), (-1, ""))
    if index < 0:
        return name, None
    if kind == "string":
        return name, table.string(index)
    if kind == "strings":
        return name, table.strings(index)
    if kind.endswith("s"):
        return name, table.numbers(index, kind[:-1])
    return name, table.scalar(index, kind)


def _kernel(text: str) -> Kernel:
    """`op/alias/target/precision/layout`, the last three as numbers."""
    fields = text.split("/")
    if len(fields) != 5:
        raise FlatError(f"the kernel {text[:60]!r} is not op/alias/target/precision/layout")
    op, alias, *codes = fields
    target, precision, layout = (
        names[int(code)] if code.isascii() and code.isdigit() and len(code) < 4 and int(code) < len(names) else code[:8]
        for code, names in zip(codes, (TARGETS, PRECISIONS, LAYOUTS), strict=True)
    )
    return Kernel(op, alias, target, precision, layout)


def _var(table: Table) -> Var:
    name, dtype, shape = table.string(0), "", []
    kind = table.table(1)
    tensor = kind.table(2) if kind else None  # lod_tensor, absent for feed and fetch lists
    tensor = tensor.table(0) if tensor else None
    if tensor:
        dtype = DTYPES.get(tensor.scalar(0, "int32"), ("", 0))[0]
        shape = tensor.numbers(1, "int64")
        if len(shape) > _MAX_RANK:
            raise FlatError(f"the variable {name[:60]!r} has {len(shape)} dimensions")
    return Var(name, dtype, tuple(shape), table.scalar(2, "bool", False))


def _params(data: memoryview) -> Iterator[Param]:
    buffer = Buffer(data)
    if buffer.size == 0:
        raise FlatError("it ends before its params")
    header, count = buffer.unpack("<H", 4), buffer.unpack("<H", 6)
    at = 6 + header
    for _ in range(count):
        total, offset = buffer.unpack("<I", at), buffer.unpack("<I", at + 4)
        yield _param(Buffer(buffer.slice(at + 4 + offset, total - offset)).root())
        at += 4 + total
    if at != buffer.size:
        raise FlatError(f"{buffer.size - at} bytes are left after its {count} params")


def _param(table: Table) -> Param:
    name, tensor = table.string(1), table.table(3)
    if not name or tensor is None:
        raise FlatError("a param has no name or no tensor")
    dtype, item = DTYPES.get(tensor.scalar(3, "int32"), ("", 0))
    shape, data = tuple(tensor.numbers(2, "int64")), tensor.block(4)
    if not dtype:
        raise FlatError(f"the param {name[:60]!r} has an unknown item type")
    if len(shape) > _MAX_RANK or any(side < 0 for side in shape) or math.prod(shape) * item != len(data):
        raise FlatError(f"the param {name[:60]!r} of shape {shape[:8]} does not match its {len(data)} bytes")
    return Param(name, dtype, shape, data)
