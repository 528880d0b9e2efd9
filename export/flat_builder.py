"""Writes a flatbuffer from plain values, as small as the format allows.

A table is a dict of its fields, a vector a list, a text a str. Equal vtables, texts, vectors and whole tables are
stored once: a reader follows offsets and never sees that. Offsets only point forward, so what is shared comes after
all that refer to it. Field numbers and types come from a schema:
    SCHEMA = {"Table": (("field", kind), …)}, kind a name of SCALARS, "string", "Table", or one of these in brackets.
https://flatbuffers.dev/internals
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from export.flat_table import SCALARS

Schema = Mapping[str, Sequence[tuple[str, str]]]
Key = tuple[Hashable, ...]


@dataclass
class _Node:
    """Bytes to be placed. align: of the byte at `skew` behind its start; refs: position of an offset → its target."""

    content: bytes
    align: int = 4
    skew: int = 0
    refs: dict[int, int] = field(default_factory=dict)
    vtable: bytes = b""


class _Graph:
    """Nodes by number, each content once."""

    def __init__(self, schema: Schema, defaults: Mapping[tuple[str, str], Any]) -> None:
        self.schema = schema
        self.defaults = defaults
        self.nodes: list[_Node] = []
        self._numbers: dict[Key, int] = {}

    def add(self, node: _Node) -> int:
        """Number of the node. Children have their numbers already, so that equal trees get equal keys."""
        key: Key = (node.content, node.align, node.vtable, tuple(node.refs.items()))
        if key not in self._numbers:
            self._numbers[key] = len(self.nodes)
            self.nodes.append(node)
        return self._numbers[key]

    def value(self, kind: str, value: Any) -> int:
        if kind == "string":
            content = value.encode()
            return self.add(_Node(struct.pack("<I", len(content)) + content + b"\0"))
        if kind.startswith("["):
            return self._vector(kind[1:-1], value)
        return self._table(kind, value)

    def _vector(self, kind: str, items: Sequence[Any]) -> int:
        head = struct.pack("<I", len(items))
        if kind in SCALARS:
            layout = SCALARS[kind][1:]
            size = struct.calcsize(layout)
            # Readers align the items, not the count before them.
            return self.add(_Node(head + struct.pack(f"<{len(items)}{layout}", *items), max(4, size), 4))
        refs = {4 + 4 * i: self.value(kind, item) for i, item in enumerate(items)}
        return self.add(_Node(head + bytes(4 * len(items)), refs=refs))

    def _table(self, name: str, values: Mapping[str, Any]) -> int:
        """Largest fields first, so that few bytes are lost to alignment."""
        fields = self.schema[name]
        unknown = values.keys() - {name for name, _ in fields}
        if unknown:
            raise ValueError(f"expected fields of {name}, found {', '.join(sorted(unknown))}")
        present = [
            (struct.calcsize(SCALARS.get(kind, "<I")), index, kind, values[field_])
            for index, (field_, kind) in enumerate(fields)
            if field_ in values and (kind not in SCALARS or values[field_] != self.defaults.get((name, field_), 0))
        ]
        present.sort(key=lambda item: (-item[0], item[1]))
        content, slots, refs = bytearray(4), [0] * (max((item[1] for item in present), default=-1) + 1), {}
        align = 4
        if present and present[0][0] == 8:
            content += bytes(4)
            align = 8
        for size, index, kind, value in present:
            slots[index] = len(content)
            if kind in SCALARS:
                content += struct.pack(SCALARS[kind], value)
            else:
                refs[len(content)] = self.value(kind, value)
                content += bytes(size)
        vtable = struct.pack(f"<HH{len(slots)}H", 4 + 2 * len(slots), len(content), *slots)
        return self.add(_Node(bytes(content), align, 0, refs, vtable))


def build(schema: Schema, root: str, value: Mapping[str, Any], defaults: Mapping[tuple[str, str], Any]) -> bytes:
    """The buffer of a root table. defaults: of scalar fields by (table, field) where they are not 0.

    The same value gives the same bytes.
    """
    graph = _Graph(schema, defaults)
    graph.value(root, value)
    out = bytearray(4)
    vtables: dict[bytes, int] = {}
    for node in reversed(graph.nodes):
        if node.vtable and node.vtable not in vtables:
            _pad(out, 2, 0)
            vtables[node.vtable] = len(out)
            out += node.vtable
    # Children have lower numbers than their parents: from the highest down, every offset points forward.
    places: list[int] = [0] * len(graph.nodes)
    for number in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[number]
        _pad(out, node.align, node.skew)
        places[number] = len(out)
        out += node.content
        if node.vtable:
            struct.pack_into("<i", out, places[number], places[number] - vtables[node.vtable])
    for number, node in enumerate(graph.nodes):
        for at, target in node.refs.items():
            struct.pack_into("<I", out, places[number] + at, places[target] - places[number] - at)
    struct.pack_into("<I", out, 0, places[-1])
    _pad(out, 8, 0)
    return bytes(out)


def _pad(out: bytearray, align: int, skew: int) -> None:
    out += bytes(-(len(out) + skew) % align)
