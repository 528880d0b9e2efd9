"""Which row a checkpoint belongs to, and which three make a system."""

import shutil
from pathlib import Path

import pytest

import artifact
from artifact import Manifest
from benchmarks import paper_models
from benchmarks.layout import PRETRAINED
from benchmarks.paper_models import QUANTIZE, VARIANTS, classify, finished, systems
from command import UsageError


def checkpoint(quantization=None, pruned=False, calibration=None) -> Manifest:
    compression = {"prune_plan": "prune_plan.json"} if pruned else {}
    if quantization:
        compression["quantization"] = quantization
    extra = {"quantize": {"calibration": calibration}} if calibration else {}
    return Manifest(kind="checkpoint", task="rec", name="toy", compression=compression, extra=extra)


@pytest.mark.parametrize(
    ("manifest", "variant"),
    [
        (checkpoint(), "float"),
        (checkpoint(pruned=True), "fpgm"),
        (checkpoint("pact-int8"), "pact"),
        (checkpoint("pact-int8", pruned=True), "both"),
        (checkpoint("qat-int8"), "qat"),
        (checkpoint("ptq-int8", calibration="kl"), "ptq-kl"),
        (checkpoint("qat-int8", pruned=True), None),
        (checkpoint("ptq-int8"), None),
    ],
)
def test_a_checkpoint_is_known_by_what_it_says(manifest, variant):
    assert classify(manifest) == variant


def test_the_shipped_models_are_found():
    found = finished(PRETRAINED)
    assert {("det", "float"), ("det", "fpgm"), ("det", "both"), ("cls", "float"), ("rec", "float")} <= set(found)
    assert found["det", "fpgm"] == PRETRAINED / "slim" / "det-pruned"
    for (task, variant), folder in found.items():
        manifest = artifact.load(folder)
        assert manifest.task == task and manifest.quantized == (variant not in ("float", "fpgm"))


def test_two_of_a_kind_and_too_few_are_refused(tmp_path):
    for task in ("det", "cls"):
        shutil.copytree(PRETRAINED / task, tmp_path / task)
    with pytest.raises(UsageError, match="expected a float checkpoint of rec, found none"):
        finished(tmp_path)
    shutil.copytree(PRETRAINED / "rec", tmp_path / "rec.run" / "iteration-1")  # a training's own state
    shutil.copytree(PRETRAINED / "cls", tmp_path / "older" / "cls")
    with pytest.raises(UsageError, match="expected one float checkpoint of cls, found"):
        finished(tmp_path)


def test_systems_are_made_of_what_is_there():
    tasks = ("det", "cls", "rec")
    everything = {(task, variant): Path("x") for task in tasks for variant in ("float", *VARIANTS)}
    found = systems(everything, {})
    assert list(found) == ["float", "fpgm", "pact", "both", "pruned", "slim"]
    with_lstm = systems(everything | {("rec", "pact-lstm"): Path("x")}, {})
    assert with_lstm["slim-lstm"] == {**found["slim"], "rec": "pact-lstm"}
    assert found["slim"] == {"det": "both", "cls": "pact", "rec": "pact"}
    # Where pruned int8 ships of all, that is the slim system already.
    assert "slim" not in systems(everything, {(task, "both"): Path("x") for task in tasks})
    few = {(task, "float"): Path("x") for task in tasks} | {("det", "both"): Path("x"), ("cls", "pact"): Path("x")}
    assert list(systems(few, few)) == ["float"]
    few["rec", "pact"] = Path("x")
    assert list(systems(few, few)) == ["float", "slim"]


def test_every_variant_is_made_by_a_command_that_exists():
    for variant, made in VARIANTS.items():
        assert (Path(artifact.__file__).parent / made.by).is_file()
        assert made.of in ("float", *VARIANTS) and (made.by == QUANTIZE) == (variant in paper_models.INT8)
