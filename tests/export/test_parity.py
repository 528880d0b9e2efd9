"""Tables that can be checked by hand for the comparison, and real stages for the command."""

import json
import shutil
import struct

import cv2
import numpy as np
import pytest
import seeded_models

import artifact
from command import UsageError
from export import check_parity, nb_file, parity, parity_cases, structure, to_inference, to_nb
from export.parity import Difference


@pytest.mark.parametrize(
    ("reference", "other", "expected"),
    [
        ([0.0, 1.0], [0.0, 1.0], Difference(0.0, 0.0, 1.0)),
        ([0.0, 1.0], [0.5, 1.0], Difference(0.5, 0.25, 2**-0.5)),
        ([0.0, 1.0], [1.0, 0.0], Difference(1.0, 1.0, -1.0)),
        ([0.5, 0.5], [0.5, 0.5], Difference(0.0, 0.0, 1.0)),
        ([0.5, 0.5], [0.5, 0.6], Difference(0.1, 0.05, 0.0)),
        ([0.0, 1.0], [0.0, float("nan")], Difference(float("inf"), float("inf"), 0.0)),
        ([0.0, 1.0], [0.0, 1.0, 2.0], Difference(float("inf"), float("inf"), 0.0)),
        ([], [], Difference(0.0, 0.0, 1.0)),
    ],
    ids=["equal", "half", "opposite", "constant", "off constant", "NaN", "shape", "empty"],
)
def test_difference(reference, other, expected):
    found = parity.difference(np.array(reference), np.array(other))
    assert found.max_abs == pytest.approx(expected.max_abs)
    assert found.mean_abs == pytest.approx(expected.mean_abs)
    assert found.cosine == pytest.approx(expected.cosine)


def test_to_int8():
    weight = np.array([[1.0, -2.0], [0.5, 0.25], [0.0, 0.0]])
    assert parity.to_int8(weight, 0).tolist() == [[64, -127], [127, 64], [0, 0]]  # 63.5 goes to the even 64
    assert parity.to_int8(weight, 1).tolist() == [[127, -127], [64, 16], [0, 0]]


def compare(*folders, capsys, extra=()) -> tuple[int, dict]:
    args = check_parity.build_parser().parse_args([*map(str, folders), "--json", *extra])
    code = check_parity.run(args)
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def small_page(tmp_path) -> list[str]:
    """Options that keep the detector's inputs small: one page of 320 x 224."""
    folder = tmp_path / "pages"
    folder.mkdir()
    cv2.imwrite(str(folder / "page.png"), parity_cases.draw_images("det")[0][:224, :320])
    return ["--images", str(folder)]


@pytest.mark.parametrize(("task", "cases"), [("det", 3), ("cls", 3), ("rec", 7 + 2)])
def test_float_stages_agree(stages, capsys, small_page, task, cases):
    folder = stages(task)
    extra = small_page if task == "det" else []
    folders = (folder / name for name in ("checkpoint", "inference", "x86", "arm"))
    code, report = compare(*folders, capsys=capsys, extra=extra)
    assert (code, report["passed"], report["first_failure"], report["note"]) == (0, True, "", "")
    assert len(report["rungs"]) == 3 * cases  # as saved, fused, x86
    assert {rung["stage"] for rung in report["rungs"]} == {"inference, as saved", "inference, fused", "x86, x86"}
    assert len({rung["case"] for rung in report["rungs"]}) == cases
    asked = {(repeat["stage"], repeat["order"], repeat["runs"]) for repeat in report["repeats"]}
    stages_asked = ("network", "inference, as saved", "inference, fused", "x86, x86")
    assert asked == {(stage, *again) for stage in stages_asked for again in (("A, B, A", 2), ("20 times", 20))}
    assert all(repeat["identical"] == repeat["runs"] for repeat in report["repeats"])
    assert report["not_measured"][-1].startswith("phone: not measured")


@pytest.mark.parametrize("task", ["det", "cls"])
def test_int8_stages_agree(stages, capsys, small_page, task):
    folder = stages(f"{task}-int8")
    folders = (folder / name for name in ("checkpoint", "inference", "arm"))
    code, report = compare(*folders, capsys=capsys, extra=small_page if task == "det" else [])
    assert (code, report["first_failure"]) == (0, "")
    looked_at = {finding["what"] for finding in report["structure"]}
    assert {"arm: int8 layers", "arm: int8 weights", "arm: input scales", "arm: a fresh conversion"} <= looked_at


def test_perturbed_weights_are_found(stages, tmp_path, capsys):
    """The inference model and the .nb of slightly other weights: every stage differs, and the note says why."""
    layer = seeded_models.network("rec")
    weight = layer.head.fc.weight
    weight.set_value(weight + 0.02 * np.sign(weight.numpy()))
    other = seeded_models.save_checkpoint(layer, "rec", tmp_path / "other" / "checkpoint")
    seeded_models.export_all(other, ("x86",))
    folder = stages("rec")
    code, report = compare(folder / "checkpoint", tmp_path / "other" / "inference", folder / "x86", capsys=capsys)
    assert code == 1
    assert report["first_failure"] == "inference, as saved"
    assert "made from another checkpoint" in report["note"]
    passed = {rung["stage"]: rung["passed"] for rung in report["rungs"]}
    assert passed == {"inference, as saved": False, "inference, fused": False, "x86, x86": True}
    fresh = next(finding for finding in report["structure"] if "fresh" in finding["what"])
    assert not fresh["passed"]


def test_table_of_a_failure(stages, tmp_path, capsys):
    folder = stages("cls")
    seeded_models.save_checkpoint(seeded_models.network("cls", seed=8), "cls", tmp_path / "checkpoint")
    options = [tmp_path / "checkpoint", folder / "inference", "--out", tmp_path / "report.json"]
    args = check_parity.build_parser().parse_args([str(option) for option in options])
    assert check_parity.run(args) == 1
    assert json.loads((tmp_path / "report.json").read_text())["first_failure"] == "inference, as saved"
    said = capsys.readouterr().out
    assert "DIFFERS" in said and "differs first at inference, as saved" in said


def test_changed_int8_weight_is_found(stages, tmp_path):
    """One int8 weight of an ARM file changed on its way: nothing on this machine can run it, its structure tells."""
    folder = stages("det-int8")
    nb_folder = shutil.copytree(folder / "arm", tmp_path / "arm")
    manifest = artifact.load(nb_folder)
    path = nb_folder / "model.nb"
    nb = nb_file.read(path)
    param = next(param for param in nb.params.values() if param.dtype == "int8")
    data = path.read_bytes()
    at = data.index(bytes(param.data))
    weight = struct.unpack_from("b", data, at)[0]
    path.write_bytes(data[:at] + struct.pack("b", weight - 9 if weight > 0 else weight + 9) + data[at + 1 :])
    failed = [f.what for f in structure.check_nb(nb_folder, manifest, folder / "inference") if not f.passed]
    assert failed == ["arm: int8 weights", "arm: a fresh conversion", "arm: without the diet"]


def test_images_of_a_folder(stages, tmp_path, capsys):
    folder = stages("cls")
    (tmp_path / "cls").mkdir()
    cv2.imwrite(str(tmp_path / "cls" / "a.png"), np.random.default_rng(0).integers(0, 255, (30, 80, 3), np.uint8))
    names = ("checkpoint", "inference")
    code, _ = compare(*(folder / name for name in names), capsys=capsys, extra=["--data", str(tmp_path)])
    assert code == 0
    for extra in (["--images", str(tmp_path / "none")], ["--images", str(folder / "x86")]):
        with pytest.raises(UsageError, match=r"expected .*images"):
            compare(*(folder / name for name in names), capsys=capsys, extra=extra)


def test_float_and_int8_cannot_be_mixed(stages, capsys):
    with pytest.raises(UsageError, match="expected a float model like the checkpoint"):
        compare(stages("cls") / "checkpoint", stages("cls-int8") / "inference", capsys=capsys)


@pytest.mark.slow
def test_published_detector_through_every_stage(published, tmp_path, capsys):
    from ocr_models import catalogue, checkpoints

    card = catalogue.card("det_mv3_db")
    layer = catalogue.build(card.network)
    checkpoints.import_published(layer, published / "models" / "ch_ppocr_mobile_v2.0_det_infer")
    with artifact.create(tmp_path / "checkpoint") as folder:
        manifest = card.manifest(folder)
        checkpoints.save_network(layer, folder)
        artifact.write(folder, manifest, "test")
    to_inference.export(tmp_path / "checkpoint", tmp_path / "inference")
    to_nb.convert(tmp_path / "inference", tmp_path / "x86", target="x86")
    photos = ["--images", str(published / "images" / "scenes_en"), "--limit", "3"]
    folders = (tmp_path / name for name in ("checkpoint", "inference", "x86"))
    code, report = compare(*folders, capsys=capsys, extra=photos)
    assert code == 0
    assert any(not rung["result"].startswith("0") for rung in report["rungs"])
