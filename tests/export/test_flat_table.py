"""Flatbuffers written out byte by byte."""

import struct

import pytest

from export.flat_table import Buffer, FlatError

# One table {0: string "ab", 1: int32 (left out), 2: [int32] 5, 6}, laid out by hand:
#  0 root offset → 16 | 4 vtable: size 10, table size 12, fields at 4, 0, 8 | 14 padding
# 16 table: back to its vtable 12, string at 20+8, vector at 24+12
# 28 string: size 2, "ab", NUL, padding | 36 vector: count 2, 5, 6
TABLE = (
    struct.pack("<I5H2xiII", 16, 10, 12, 4, 0, 8, 12, 8, 12)
    + struct.pack("<I4s", 2, b"ab\0\0")
    + struct.pack("<Iii", 2, 5, 6)
)


def test_reads_strings_numbers_and_defaults():
    table = Buffer(TABLE).root()
    assert table.string(0) == "ab"
    assert table.scalar(1, "int32", 7) == 7  # left out
    assert table.numbers(2, "int32") == [5, 6]
    assert table.scalar(9, "int32", -1) == -1  # beyond the vtable: a field of a later schema
    assert table.string(1) == "" and table.tables(1) == []


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 4000), (16, 400), (16, -400), (20, 1 << 31), (28, 5000), (36, 1 << 30)],
    ids=["root", "vtable before", "vtable behind", "string offset", "string length", "vector length"],
)
def test_wild_offsets_are_errors(at, value):
    data = bytearray(TABLE)
    data[at : at + 4] = struct.pack("<I", value & 0xFFFFFFFF)
    with pytest.raises(FlatError):
        table = Buffer(bytes(data)).root()
        table.string(0)
        table.numbers(2, "int32")


def test_text_has_to_be_utf8():
    data = bytearray(TABLE)
    data[32] = 0xFF
    with pytest.raises(FlatError, match="UTF-8"):
        Buffer(bytes(data)).root().string(0)


def test_reading_is_bounded_by_the_size():
    table = Buffer(TABLE).root()
    with pytest.raises(FlatError, match="more often"):
        for _ in range(100_000):
            table.numbers(2, "int32")


def test_a_shared_text_is_one_object():
    table = Buffer(TABLE).root()
    assert table.string(0) is table.string(0)
