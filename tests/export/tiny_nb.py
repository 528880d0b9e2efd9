"""Writes `.nb` files of a few ops, straight from the schema's field numbers: a second opinion on the reader's.

Every table gets its own vtable before it, and children follow their parent, so that a hex dump can be read from the
front. Nothing is aligned: the reader does not need it (Paddle-Lite might).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

HEADER = 26
_DTYPES = {"int8": (21, "b"), "float32": (5, "f"), "int64": (3, "q")}


@dataclass
class Scalar:
    layout: str
    value: Any


@dataclass
class Numbers:
    layout: str
    values: list


@dataclass
class TinyOp:
    type: str
    inputs: dict[str, list[str]]
    outputs: dict[str, list[str]]
    attributes: dict[str, Any] = field(default_factory=dict)
    kernel: str = "def/4/1/1"


@dataclass
class Repeated:
    """A vector whose items are all the same child."""

    child: Any
    count: int


def convolutions() -> dict[str, Any]:
    """x → conv2d → relu → conv2d → conv2d → elementwise_add of the last and relu's → out; weights of 4 floats."""
    ops = [
        TinyOp("feed", {"X": ["feed"]}, {"Out": ["x"]}),
        TinyOp("conv2d", {"Input": ["x"], "Filter": ["w0"]}, {"Output": ["a"]}, {"groups": 1, "strides": [2, 2]}),
        TinyOp("relu", {"X": ["a"]}, {"Out": ["b"]}),
        TinyOp("conv2d", {"Input": ["b"], "Filter": ["w1"]}, {"Output": ["c"]}, {"groups": 1, "strides": [1, 1]}),
        TinyOp("conv2d", {"Input": ["c"], "Filter": ["w2"]}, {"Output": ["d"]}, {"groups": 1, "strides": [1, 1]}),
        TinyOp("elementwise_add", {"X": ["d"], "Y": ["b"]}, {"Out": ["out"]}, {"axis": -1, "note": "keep"}),
        TinyOp("fetch", {"X": ["out"]}, {"Out": ["fetch"]}, {}),
    ]
    return {
        "ops": ops,
        "variables": {"x": (-1, 1, 4, 4), "out": (-1, 1, 2, 2)},
        "weights": {f"w{i}": ("float32", (1, 1, 2, 2), [i, 1.0, 2.0, 3.0]) for i in range(3)},
    }


def build(
    ops: list[TinyOp],
    variables: dict[str, tuple[int, ...]],
    weights: dict[str, tuple[str, tuple[int, ...], list]],
    version: bytes = b"v2.13-rc",
) -> bytes:
    """The file's bytes. variables: float32 ones and their shapes."""
    block = {
        2: [_variable(name, shape) for name, shape in variables.items()],
        3: [_op(op) for op in ops],
    }
    return frame(flat({0: [block]}), weights, version)


def frame(
    topology: bytes, weights: dict[str, tuple[str, tuple[int, ...], list]], version: bytes = b"v2.13-rc"
) -> bytes:
    """Header and params around a flatbuffer."""
    params = b"".join(_param(name, *weight) for name, weight in weights.items())
    largest = max((len(weight[2]) for weight in weights.values()), default=0)
    start = struct.pack("<H16sQ", 2, version, len(topology))
    return start + topology + struct.pack("<HHHHI", 0, 0, 6, len(weights), largest) + params


def flat(root: dict[int, Any]) -> bytes:
    out = bytearray(4)
    struct.pack_into("<I", out, 0, _write(root, out))
    return bytes(out)


def _write(value: Any, out: bytearray) -> int:
    """Append a string, vector or table; where it starts."""
    if isinstance(value, dict):
        return _table(value, out)
    at = len(out)
    if isinstance(value, str | bytes):
        content = value.encode() if isinstance(value, str) else value
        out += struct.pack("<I", len(content)) + content + b"\0"
    elif isinstance(value, Numbers):
        out += struct.pack(f"<I{len(value.values)}{value.layout}", len(value.values), *value.values)
    elif isinstance(value, Repeated):
        out += struct.pack("<I", value.count) + bytes(4 * value.count)
        child = _write(value.child, out)
        for i in range(value.count):
            _point(out, at + 4 + 4 * i, child)
    else:
        out += struct.pack("<I", len(value)) + bytes(4 * len(value))
        for i, child in enumerate(value):
            _point(out, at + 4 + 4 * i, _write(child, out))
    return at


def _table(fields: dict[int, Any], out: bytearray) -> int:
    inline, places, children = b"", {}, []
    for index, value in fields.items():
        places[index] = 4 + len(inline)
        if isinstance(value, Scalar):
            inline += struct.pack(value.layout, value.value)
        else:
            children.append((places[index], value))
            inline += bytes(4)
    count = max(fields, default=-1) + 1
    vtable = len(out)
    out += struct.pack(f"<{2 + count}H", 4 + 2 * count, 4 + len(inline), *(places.get(i, 0) for i in range(count)))
    at = len(out)
    out += struct.pack("<i", at - vtable) + inline
    for place, child in children:
        _point(out, at + place, _write(child, out))
    return at


def _point(out: bytearray, at: int, to: int) -> None:
    struct.pack_into("<I", out, at, to - at)


def _op(op: TinyOp) -> dict[int, Any]:
    attributes = {**op.attributes}
    if op.kernel:
        attributes["__@kernel_type_attr@__"] = f"{op.type}/{op.kernel}"
    return {
        0: op.type,
        1: [{0: slot, 1: list(names)} for slot, names in op.inputs.items()],
        2: [{0: slot, 1: list(names)} for slot, names in op.outputs.items()],
        3: [_attribute(name, value) for name, value in attributes.items()],
    }


def _attribute(name: str, value: Any) -> dict[int, Any]:
    """Number of the type, field and content."""
    first = value[0] if isinstance(value, list) and value else None
    kind, index, content = {
        bool: lambda: (6, 8, Scalar("<?", value)),
        int: lambda: (0, 2, Scalar("<i", value)) if abs(value) < 1 << 31 else (9, 11, Scalar("<q", value)),
        float: lambda: (1, 3, Scalar("<f", value)),
        str: lambda: (2, 4, value),
        list: lambda: {
            bool: (7, 9, Numbers("?", value)),
            float: (4, 6, Numbers("f", value)),
            str: (5, 7, value),
        }.get(type(first), (3, 5, Numbers("i", value))),
    }[type(value)]()
    return {0: name, 1: Scalar("<i", kind), index: content}


def _variable(name: str, shape: tuple[int, ...]) -> dict[int, Any]:
    tensor = {0: Scalar("<i", 5), 1: Numbers("q", list(shape))}
    return {0: name, 1: {0: Scalar("<i", 7), 2: {0: tensor, 1: Scalar("<i", 0)}}, 2: Scalar("<?", False)}


def _param(name: str, dtype: str, shape: tuple[int, ...], values: list) -> bytes:
    number, layout = _DTYPES[dtype]
    data = Numbers("B", list(struct.pack(f"<{len(values)}{layout}", *values)))
    tensor = {2: Numbers("q", list(shape)), 3: Scalar("<i", number), 4: data}
    content = flat({1: name, 2: Scalar("<B", 1), 3: tensor})
    return struct.pack("<II", 4 + len(content), 4) + content
