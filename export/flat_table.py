"""Reads tables of a flatbuffer, checking every offset: damaged files end in FlatError and in nothing else.

A table starts with a signed offset back to its vtable; the vtable holds, per field, the field's offset in the table or
0 where it is left out. Strings, vectors and tables are reached by an unsigned offset from where it stands.
https://flatbuffers.dev/internals
"""

from __future__ import annotations

import struct
from typing import Any

SCALARS = {"bool": "<?", "int8": "<b", "int32": "<i", "uint32": "<I", "int64": "<q", "float32": "<f", "uint8": "<B"}
_ITEM = {"bool": "?", "int8": "b", "int32": "i", "int64": "q", "float32": "f"}

# What one part costs of a buffer's budget: about the bytes of memory that it takes as Python objects.
_COST_TABLE = 128
_COST_TEXT = 64
_COST_LIST = 64
_COST_ITEM = 36


class FlatError(Exception):
    """The bytes are no flatbuffer of the expected shape."""


class Buffer:
    """Bytes with bounds and a budget.

    Tables may share children, so that a small damaged file would unfold into a huge tree; the budget, in bytes of
    memory, ends that. opt's files need 4 per byte of theirs; the rest is room for small files that share nearly all.
    """

    def __init__(self, data: bytes | memoryview, per_byte: int = 32) -> None:
        self.data = memoryview(data)
        self.size = len(self.data)
        self.left = (4 << 20) + per_byte * self.size
        self.texts: dict[int, str] = {}

    def unpack(self, layout: str, at: int) -> Any:
        size = struct.calcsize(layout)
        if at < 0 or at + size > self.size:
            raise FlatError(f"an offset ({at}) points outside of {self.size} bytes")
        return struct.unpack_from(layout, self.data, at)[0]

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise FlatError("its parts refer to each other more often than its size allows")

    def slice(self, at: int, size: int) -> memoryview:
        if at < 0 or size < 0 or at + size > self.size:
            raise FlatError(f"a block of {size} bytes at {at} does not fit into {self.size} bytes")
        return self.data[at : at + size]

    def follow(self, at: int) -> int:
        return at + self.unpack("<I", at)

    def root(self) -> Table:
        return Table(self, self.follow(0))


class Table:
    """One table; fields are numbered in the order of the schema."""

    def __init__(self, buffer: Buffer, at: int) -> None:
        buffer.spend(_COST_TABLE)
        self.buffer = buffer
        self.at = at
        self.vtable = at - buffer.unpack("<i", at)
        self.vtable_size = buffer.unpack("<H", self.vtable)

    def _field(self, index: int) -> int | None:
        slot = 4 + 2 * index
        if slot + 2 > self.vtable_size:
            return None
        offset = self.buffer.unpack("<H", self.vtable + slot)
        return self.at + offset if offset else None

    def has(self, index: int) -> bool:
        return self._field(index) is not None

    def scalar(self, index: int, kind: str, default: Any = 0) -> Any:
        at = self._field(index)
        return default if at is None else self.buffer.unpack(SCALARS[kind], at)

    def string(self, index: int) -> str:
        at = self._field(index)
        return "" if at is None else self._string(self.buffer.follow(at))

    def table(self, index: int) -> Table | None:
        at = self._field(index)
        return None if at is None else Table(self.buffer, self.buffer.follow(at))

    def tables(self, index: int) -> list[Table]:
        return [Table(self.buffer, self.buffer.follow(at)) for at in self._items(index, 4)]

    def strings(self, index: int) -> list[str]:
        return [self._string(self.buffer.follow(at)) for at in self._items(index, 4)]

    def numbers(self, index: int, kind: str) -> list[Any]:
        items = self._items(index, struct.calcsize("<" + _ITEM[kind]))
        if not items:
            return []
        return list(struct.unpack_from(f"<{len(items)}{_ITEM[kind]}", self.buffer.data, items[0]))

    def block(self, index: int) -> memoryview:
        """The bytes of a [byte] vector, without a copy."""
        at = self._field(index)
        if at is None:
            return memoryview(b"")
        at = self.buffer.follow(at)
        return self.buffer.slice(at + 4, self.buffer.unpack("<I", at))

    def _items(self, index: int, size: int) -> range:
        at = self._field(index)
        if at is None:
            return range(0)
        at = self.buffer.follow(at)
        count = self.buffer.unpack("<I", at)
        self.buffer.slice(at + 4, count * size)
        self.buffer.spend(_COST_LIST + _COST_ITEM * count)
        return range(at + 4, at + 4 + count * size, size)

    def _string(self, at: int) -> str:
        content = self.buffer.slice(at + 4, self.buffer.unpack("<I", at))
        # A shared text is one object, but who prints the tree prints it each time.
        self.buffer.spend(_COST_TEXT + len(content))
        if at not in self.buffer.texts:
            try:
                self.buffer.texts[at] = str(content, "utf-8")
            except UnicodeDecodeError:
                raise FlatError(f"the text at {at} is not UTF-8") from None
        return self.buffer.texts[at]
