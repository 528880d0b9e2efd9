"""The proof that a slim file does the same, with every kind of fault in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import artifact
from export import diet, nb_file, nb_writer, opt, program, structure
from export.nb_file import NbFile


def edit(path: Path, change: Callable[[list[dict[str, Any]], dict[str, Any]], None]) -> NbFile:
    """The file with another topology."""
    data = path.read_bytes()
    topology = nb_writer.read_topology(data)
    change(topology["blocks"][0]["ops"], topology["blocks"][0])
    return nb_file.parse(nb_writer.with_topology(data, topology))


def first(ops: list[dict[str, Any]], attribute: str) -> dict[str, Any]:
    return next(found for op in ops for found in op["attrs"] if found["name"] == attribute)


def drop(ops: list[dict[str, Any]], attribute: str) -> None:
    op = next(op for op in ops if any(found["name"] == attribute for found in op["attrs"]))
    op["attrs"] = [found for found in op["attrs"] if found["name"] != attribute]


def swap(ops: list[dict[str, Any]]) -> None:
    """Two weights of one shape, each in the other's place."""
    slots = [slot for op in ops for slot in op["inputs"] if op["type"] == "conv2d" and slot["parameter"] == "Filter"]
    slots[3]["arguments"], slots[4]["arguments"] = slots[4]["arguments"], slots[3]["arguments"]


FAULTS: dict[str, tuple[Callable[..., Any], str]] = {
    "a scale": (lambda ops, _: first(ops, "Filter0_scale")["floats"].reverse(), "attributes"),
    "a stride": (lambda ops, _: first(ops, "strides").update(ints=[1, 1]), "attributes"),
    "an attribute that is read": (lambda ops, _: drop(ops, "paddings"), "attributes"),
    "a new attribute": (lambda ops, _: ops[3]["attrs"].append({"name": "zz", "type": 0, "i": 1}), "attributes"),
    "a sign": (lambda ops, _: first(ops, "bias").update(f=-1e-45), "attributes"),
    "a kernel": (lambda ops, _: first(ops, "__@kernel_type_attr@__").update(s="feed/def/2/1/1"), "kernels"),
    "an op": (lambda ops, _: ops.pop(5), "ops kernels"),
    "wires": (lambda ops, _: swap(ops), "weights variables"),
    "an output": (lambda ops, _: ops[2]["outputs"][0].update(arguments=["x"]), "arguments variables"),
    "a shape": (
        lambda _, block: block["vars"][9]["type"]["lod_tensor"]["tensor"].update(dims=[1, 2, 3, 4]), "variables",
    ),
    "a variable": (lambda _, block: block["vars"].pop(9), "variables"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_every_change_is_found(convert, fault):
    change, where = FAULTS[fault]
    whole, changed = nb_file.read(convert("cls-int8", "arm", keep=True)), edit(convert("cls-int8", "arm"), change)
    assert {finding.what for finding in diet.same_program(whole, changed) if not finding.passed} == set(where.split())


def test_changed_weight_is_found(convert):
    path = convert("cls-int8", "arm")
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    findings = diet.same_program(nb_file.read(convert("cls-int8", "arm", keep=True)), nb_file.parse(bytes(data)))
    assert [finding.what for finding in findings if not finding.passed] == ["weights"]


@pytest.fixture
def judge(stages, tmp_path) -> Callable[[str, bytes, bool | None], list[tuple[str, bool]]]:
    """judge(stage, file's bytes, what the manifest says of the diet) → what was looked at, and whether it passed."""

    def look(source: str, data: bytes, slim: bool | None) -> list[tuple[str, bool]]:
        manifest = artifact.load(stages(source) / "arm")
        extra = {name: value for name, value in manifest.extra.items() if name != "diet"}
        folder = tmp_path / "arm"
        folder.mkdir(exist_ok=True)
        (folder / "model.nb").write_bytes(data)
        changed = manifest.replace(extra=extra if slim is None else {**extra, "diet": slim})
        found = structure.check_nb(folder, changed, stages(source) / "inference")
        return [(finding.what, finding.passed) for finding in found]

    return look


@pytest.mark.parametrize("source", ["cls", "cls-int8"])
def test_structure_of_an_artifact(convert, judge, stages, tmp_path, source):
    """Slim, with --keep-attributes, and made before there was a diet."""
    model = program.read(stages(source) / "inference")
    opt.convert(model.model, model.params, tmp_path / "raw.nb", target="arm")
    for slim, path in (
        (True, convert(source, "arm")),
        (False, convert(source, "arm", keep=True)),
        (None, tmp_path / "raw.nb"),
    ):
        findings = judge(source, path.read_bytes(), slim)
        assert [what for what, passed in findings if not passed] == []
        assert ("arm: without the diet" in dict(findings)) is (slim is True)


def test_structure_finds_a_change(convert, judge):
    data = convert("cls-int8", "arm").read_bytes()
    topology = nb_writer.read_topology(data)
    first(topology["blocks"][0]["ops"], "groups")["i"] = 2
    findings = judge("cls-int8", nb_writer.with_topology(data, topology), True)
    assert [what for what, passed in findings if not passed] == ["arm: a fresh conversion", "arm: without the diet"]
