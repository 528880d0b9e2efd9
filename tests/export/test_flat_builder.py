"""The flatbuffer builder: bytes by hand, sharing, alignment."""

import struct

import pytest

from export import flat_builder
from export.flat_table import Buffer

SCHEMA = {
    "Root": (("number", "int32"), ("name", "string"), ("leaves", "[Leaf]"), ("long", "int64"), ("on", "bool")),
    "Leaf": (("label", "string"), ("longs", "[int64]"), ("floats", "[float32]"), ("depth", "int32")),
}


def build(value: dict, defaults: dict | None = None) -> bytes:
    return flat_builder.build(SCHEMA, "Root", value, defaults or {})


def test_bytes_of_one_table():
    """root offset | vtable: its size, the table's size, number at 4, name at 8 | table | text."""
    vtable = struct.pack("<HHHH", 8, 12, 4, 8)
    table = struct.pack("<iiI", 12 - 4, 7, 24 - 20)
    text = struct.pack("<I", 2) + b"hi\0"
    assert build({"number": 7, "name": "hi"}) == struct.pack("<I", 12) + vtable + table + text + bytes(1)


def test_what_is_a_default_is_left_out():
    assert not Buffer(build({"number": 0, "on": False})).root().has(0)
    root = Buffer(build({"number": -1, "on": True}, {("Root", "number"): -1})).root()
    assert not root.has(0) and root.scalar(4, "bool") is True
    assert Buffer(build({"number": 0}, {("Root", "number"): -1})).root().scalar(0, "int32", -1) == 0


def test_empty_is_not_absent():
    root = Buffer(build({"leaves": [], "name": ""})).root()
    assert root.has(1) and root.has(2) and not root.has(3)
    assert (root.string(1), root.tables(2)) == ("", [])


def test_equal_parts_are_stored_once():
    leaf = {"label": "a leaf with a long label", "longs": [1, 2, 3], "depth": 5}
    one, many = (build({"leaves": [dict(leaf) for _ in range(count)]}) for count in (1, 50))
    assert len(many) - len(one) <= 49 * 4 + 7  # an offset each, and the last padding
    leaves = Buffer(many).root().tables(2)
    assert {leaf.at for leaf in leaves} == {leaves[0].at}
    assert leaves[49].string(0) == leaf["label"] and leaves[49].numbers(1, "int64") == [1, 2, 3]
    other = build({"leaves": [leaf, {**leaf, "depth": 6}]})
    assert other.count(b"a leaf") == 1 and len({leaf.at for leaf in Buffer(other).root().tables(2)}) == 2


def test_equal_bytes_of_another_kind_are_not_confused():
    """1.0 and its bits as integers, a text and a vector of the same bytes."""
    bits = struct.unpack("<q", struct.pack("<ff", 1, 1))[0]
    root = Buffer(build({"leaves": [{"longs": [bits]}, {"floats": [1.0]}, {"label": ""}, {"floats": []}]})).root()
    longs, floats, text, nothing = root.tables(2)
    assert longs.numbers(1, "int64") == [bits] and floats.numbers(2, "float32") == [1.0]
    assert text.string(0) == "" and nothing.numbers(2, "float32") == []


@pytest.mark.parametrize("label", ["", "a", "ab", "abc", "abcd"])
def test_alignment(label):
    """Everything stands at a multiple of its size, whatever comes before it."""
    data = build({"long": -2, "name": label, "leaves": [{"label": label, "longs": [9]}, {"floats": [0.5]}], "on": True})
    root = Buffer(data).root()
    assert len(data) % 8 == 0 and root.vtable % 2 == 0
    assert root._field(3) % 8 == 0 and root.scalar(3, "int64") == -2
    first, second = root.tables(2)
    assert all(table.at % 4 == 0 for table in (root, first, second))
    assert first._items(1, 8)[0] % 8 == 0 and second._items(2, 4)[0] % 4 == 0
    assert first._field(0) % 4 == 0


def test_same_value_same_bytes():
    value = {"number": 3, "name": "x", "leaves": [{"label": str(i % 3), "floats": [i % 2]} for i in range(20)]}
    assert build(value) == build(dict(reversed(value.items())))


def test_unknown_field():
    with pytest.raises(ValueError, match="expected fields of Root, found nam"):
        build({"nam": "x"})
