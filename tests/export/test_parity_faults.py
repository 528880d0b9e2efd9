"""Faults put into one rung, and where the ladder says they are."""

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import pytest
import seeded_models

import artifact
from command import UsageError
from export import check_parity, parity_cases

LAYER = "backbone.blocks.2.expand_conv.conv"


def compare(*options, capsys) -> tuple[int, dict]:
    args = check_parity.build_parser().parse_args([*map(str, options), "--json"])
    code = check_parity.run(args)
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
    """The classifier's stages with one layer's weights changed."""
    folder = tmp_path_factory.mktemp("changed")
    layer = seeded_models.network("cls")
    weight = dict(layer.named_sublayers())[LAYER].weight
    weight.set_value(weight * 1.5)
    seeded_models.save_checkpoint(layer, "cls", folder / "checkpoint")
    seeded_models.export_all(folder / "checkpoint", ("x86",))
    return folder


def test_changed_layer_in_the_inference_model(stages, changed, capsys):
    folder = stages("cls")
    code, report = compare(folder / "checkpoint", changed / "inference", changed / "x86", "--bisect", capsys=capsys)
    assert (code, report["first_failure"]) == (1, "inference, as saved")
    assert (report["culprit"]["type"], report["culprit"]["layer"]) == ("conv2d", LAYER)


def test_changed_layer_in_the_nb_file(stages, changed, capsys):
    folder = stages("cls")
    code, report = compare(folder / "checkpoint", folder / "inference", changed / "x86", "--bisect", capsys=capsys)
    assert (code, report["first_failure"]) == (1, "x86, x86")
    assert report["first_difference"].startswith("x86, x86: output of cls ")
    assert (report["culprit"]["type"], report["culprit"]["layer"]) == ("conv2d", LAYER)
    assert {rung["fault"] for rung in report["rungs"] if rung["stage"].startswith("inference")} == {""}


@pytest.mark.parametrize(
    ("field", "value"),
    [("std", [0.5, 0.5, 0.25]), ("color", "RGB")],
)
def test_lost_setting_in_one_manifest(stages, tmp_path, capsys, field, value):
    folder = stages("cls")
    nb = shutil.copytree(folder / "x86", tmp_path / "x86")
    manifest = artifact.load(nb)
    assert manifest.input is not None
    artifact.write(nb, manifest.replace(input=dataclasses.replace(manifest.input, **{field: value})), "test")
    code, report = compare(folder / "checkpoint", folder / "inference", nb, "--bisect", capsys=capsys)
    assert (code, report["first_failure"]) == (1, "x86, x86")
    assert "input tensor" in report["first_difference"]
    assert f"input.{field}" in report["culprit"]["said"]
    assert {rung["fault"] for rung in report["rungs"] if rung["stage"].startswith("inference")} == {""}


def test_lost_threshold_in_one_manifest(stages, tmp_path, capsys):
    """Tensors agree; what is read from them does not."""
    folder = stages("det")
    (tmp_path / "pages").mkdir()
    cv2.imwrite(str(tmp_path / "pages" / "page.png"), parity_cases.draw_images("det")[0][:224, :320])
    nb = shutil.copytree(folder / "x86", tmp_path / "x86")
    manifest = artifact.load(nb)
    artifact.write(nb, manifest.replace(post={**manifest.post, "box_thresh": 0.99}), "test")
    code, report = compare(
        folder / "checkpoint", folder / "inference", nb, "--images", tmp_path / "pages", capsys=capsys
    )
    assert code == 1
    assert [f["found"] for f in report["structure"] if not f["passed"]] == ["0.99"]
    faults = {rung["fault"] for rung in report["rungs"] if rung["stage"] == "x86, x86"}
    assert faults <= {"", "boxes"}


def test_page_with_the_images(stages, changed, tmp_path, capsys):
    """One file, nothing loaded from elsewhere, with the crops and what each rung says."""
    folder = stages("cls")
    page = tmp_path / "report.html"
    options = [folder / "checkpoint", changed / "inference", "--html", page]
    assert check_parity.run(check_parity.build_parser().parse_args([*map(str, options)])) == 1
    text = page.read_text()
    assert text.count('<img src="data:image/jpeg;base64,') == 1 + 3 + 6
    assert "http" not in text and 'class="verdict bad"' in text
    assert "inference, as saved: differs" in text and "because" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "found neither"),
        (["C", "I", "--rec", "C", "I"], "found both"),
        (["C"], "found .* alone"),
        (["--rec", "C", "I"], "task rec, found task cls"),
        (["C", "I", "--html", "no/where.html"], "expected a file to write in a folder that exists"),
        (["C", "I", "--phone", "none"], "expected a recorded run"),
    ],
)
def test_refusals(stages, options, message):
    folder = stages("cls")
    names = {"C": str(folder / "checkpoint"), "I": str(folder / "inference")}
    args = check_parity.build_parser().parse_args([names.get(option, option) for option in options])
    with pytest.raises((UsageError, artifact.ArtifactError), match=message):
        check_parity.run(args)
