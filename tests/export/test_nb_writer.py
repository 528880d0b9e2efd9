"""What the writer writes is what the reader has read, and the runtime's reader can address it."""

from typing import Any

import pytest

from export import flat_table, nb_file, nb_writer, opt, program
from export.flat_table import Buffer, Table
from export.nb_file import NbError

SIZES = {"bool": 1, "int8": 1, "uint8": 1, "int32": 4, "uint32": 4, "float32": 4, "int64": 8}


@pytest.fixture(scope="module")
def as_opt_writes(stages, tmp_path_factory) -> dict[str, bytes]:
    """Files as opt leaves them: every kind of topology."""
    folder = tmp_path_factory.mktemp("opt")
    found = {}
    for name, target, fp16 in (("rec", "x86", False), ("cls", "arm", True), ("det-int8", "arm", False)):
        model = program.read(stages(name) / "inference")
        opt.convert(model.model, model.params, folder / name, target=target, fp16=fp16)
        found[name] = (folder / name).read_bytes()
    return found


def rewritten(data: bytes) -> bytes:
    topology = nb_writer.read_topology(data)
    again = nb_writer.with_topology(data, topology)
    assert nb_writer.read_topology(again) == topology
    return again


def check_identity(data: bytes) -> None:
    again = rewritten(data)
    before, after = nb_file.parse(data), nb_file.parse(again)
    for field in ("meta_version", "opt_version", "ops", "vars", "inputs", "outputs", "targets"):
        assert getattr(before, field) == getattr(after, field), field
    assert list(before.params) == list(after.params)
    size = after.size_bytes - after.topology_bytes
    assert data[-size + 26 :] == again[-size + 26 :]  # params, to the byte
    assert after.topology_bytes < 0.4 * before.topology_bytes


@pytest.mark.parametrize("name", ["rec", "cls", "det-int8"])
def test_identity(as_opt_writes, name):
    check_identity(as_opt_writes[name])


@pytest.mark.parametrize("name", ["det_db", "cls", "rec_crnn"])
def test_identity_of_published_files(published, name):
    check_identity((published / "nb" / "ch_PP-OCRv2_slim" / f"{name}.nb").read_bytes())


@pytest.mark.parametrize("name", ["rec", "cls", "det-int8"])
def test_every_part_is_aligned(as_opt_writes, name):
    """ARMv7 faults on what x86 forgives."""
    data = rewritten(as_opt_writes[name])
    size = nb_file.parse(data).topology_bytes
    seen = walk("ProgramDesc", Buffer(memoryview(data)[26 : 26 + size], 1 << 12).root())
    assert size % 8 == 0 and seen > 500


def walk(name: str, table: Table) -> int:
    """Check a table and all below it; how many tables that were."""
    assert table.at % 4 == 0 and table.vtable % 2 == 0
    seen = 1
    for index, (_, kind) in enumerate(nb_writer.SCHEMA[name]):
        at = table._field(index)
        if at is None:
            continue
        assert at % SIZES.get(kind, 4) == 0
        if kind.startswith("["):
            items = table._items(index, SIZES.get(kind[1:-1], 4))
            assert items.start % SIZES.get(kind[1:-1], 4) == 0 and (items.start - 4) % 4 == 0
            if kind[1:-1] in nb_writer.SCHEMA:
                seen += sum(walk(kind[1:-1], item) for item in table.tables(index))
        elif kind == "string":
            assert table.buffer.follow(at) % 4 == 0
            end = table.buffer.follow(at) + 4 + len(table.string(index).encode())
            assert table.buffer.data[end] == 0  # C++ compares names up to their NUL
        elif kind in nb_writer.SCHEMA:
            child = table.table(index)
            assert child is not None
            seen += walk(kind, child)
    return seen


def test_names_stay_sorted(as_opt_writes):
    """Paddle-Lite looks attributes and slots up by bisection."""
    topology = nb_writer.read_topology(rewritten(as_opt_writes["det-int8"]))
    for op in topology["blocks"][0]["ops"]:
        for field, key in (("attrs", "name"), ("inputs", "parameter"), ("outputs", "parameter")):
            names = [item[key].encode() for item in op[field]]
            assert names == sorted(names)


def test_damaged_file(as_opt_writes):
    data = bytearray(as_opt_writes["cls"])
    data[26:30] = b"\xff\xff\xff\x7f"
    with pytest.raises(NbError, match="found damage"):
        nb_writer.read_topology(bytes(data))


def test_every_field_of_the_schema_survives():
    """One value of each kind, also of fields that opt leaves out."""

    def example(name: str) -> Any:
        values: dict[str, Any] = {}
        for field, kind in nb_writer.SCHEMA[name]:
            inner = kind.strip("[]")
            value: Any = 1 if inner in flat_table.SCALARS else field if inner == "string" else example(inner)
            values[field] = [value, value] if kind.startswith("[") else value
        return values

    value = example("ProgramDesc")
    data = nb_writer.with_topology(b"\2\0" + bytes(24), value)
    assert nb_writer.read_topology(data) == value
