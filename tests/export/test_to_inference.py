"""Checkpoint → inference model."""

import numpy as np
import pytest
import seeded_models
import yaml

import artifact
from artifact import ArtifactError
from command import ModelError
from export import program, to_inference
from ocr_models import checkpoints
from ocr_models.paddle_engine import InferenceEngine, NetworkEngine

SHAPES = {"det": [(1, 3, 64, 96), (1, 3, 96, 64)], "cls": [(1, 3, 48, 192), (4, 3, 48, 192)], "rec": [(3, 3, 32, 160)]}


@pytest.mark.parametrize("task", ["det", "cls", "rec"])
def test_computes_what_the_network_computes(stages, task):
    folder = stages(task)
    network = NetworkEngine(checkpoints.load_network(folder / "checkpoint")[0])
    exported = InferenceEngine(folder / "inference", optimize=False)
    for shape in SHAPES[task]:
        x = seeded_models.noise(shape)
        expected = network.run(x)
        assert expected.std() > 1e-4  # a constant output would prove nothing
        assert np.abs(exported.run(x) - expected).max() <= 1e-6


def test_artifact_is_complete(stages):
    folder = stages("rec")
    manifest = artifact.load(folder / "inference", kind="inference", task="rec")
    assert set(manifest.files) == {"inference.pdmodel", "inference.pdiparams", "inference.yml", "charset.txt"}
    assert manifest.parent == artifact.digest(folder / "checkpoint")
    parent = artifact.load(folder / "checkpoint")
    assert (manifest.input, manifest.post, manifest.charset) == (parent.input, parent.post, parent.charset)
    model = program.read(folder / "inference")
    assert model.shapes["x"] == (-1, 3, 32, -1)
    assert not model.quantized


def test_same_bytes_whenever_and_wherever(stages, tmp_path, monkeypatch):
    folder = stages("rec")
    seeded_models.network("det")  # moves the counters that number Paddle's variables
    monkeypatch.chdir(tmp_path)
    again = to_inference.export(folder / "checkpoint", tmp_path / "again")
    assert again.files == artifact.load(folder / "inference").files
    content = (tmp_path / "again" / "inference.pdmodel").read_bytes()
    assert b".py" not in content and b"op_callstack" not in content


def test_settings_as_paddleocr_reads_them(stages):
    det = yaml.safe_load((stages("det") / "inference" / "inference.yml").read_text())
    steps = {name: options for step in det["PreProcess"]["transform_ops"] for name, options in step.items()}
    assert steps["DetResizeForTest"] == {"limit_side_len": 960, "limit_type": "max"}
    assert steps["NormalizeImage"]["mean"] == [0.485, 0.456, 0.406]
    assert det["PostProcess"] == {
        "name": "DBPostProcess", "thresh": 0.3, "box_thresh": 0.6, "unclip_ratio": 1.5, "max_candidates": 1000,
        "score_mode": "fast", "use_dilation": False,
    }  # fmt: skip
    rec = yaml.safe_load((stages("rec") / "inference" / "inference.yml").read_text())
    entries = rec["PostProcess"]["character_dict"]
    assert len(entries) == 95 and entries[-1] == " " and entries[0] == "0" and all(isinstance(e, str) for e in entries)
    assert rec["PostProcess"]["name"] == "CTCLabelDecode" and rec["Global"]["use_space_char"] is True
    cls = yaml.safe_load((stages("cls") / "inference" / "inference.yml").read_text())
    assert cls["PreProcess"]["transform_ops"][1] == {"ClsResizeImg": {"image_shape": [3, 48, 192]}}


def test_quantized_checkpoint(stages):
    folder = stages("cls-int8")
    manifest = artifact.load(folder / "inference")
    assert manifest.quantized and program.read(folder / "inference").quantized
    assert set(manifest.files) == {"inference.pdmodel", "inference.pdiparams", "inference.yml"}


def test_refuses_other_kinds_and_leaves_nothing(stages, tmp_path):
    with pytest.raises(ArtifactError, match="expected a checkpoint artifact"):
        to_inference.export(stages("cls") / "inference", tmp_path / "out")
    weights = seeded_models.network("cls")
    broken = seeded_models.save_checkpoint(weights, "rec", tmp_path / "broken")
    with pytest.raises(ModelError, match="expected the"):
        to_inference.export(broken, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_pruned_checkpoint(tmp_path):
    """Rebuilt from its plan, exported with fewer weights, the plan carried along."""
    from slim.pruning import FilterPruner

    layer = seeded_models.network("cls")
    pruner = FilterPruner(layer, (1, 3, 48, 192))
    plan = pruner.plan(pruner.ratios(0.3))
    plan.apply(layer)
    checkpoint = tmp_path / "checkpoint"
    seeded_models.save_checkpoint(layer, "cls", checkpoint, plan=plan)
    manifest = to_inference.export(checkpoint, tmp_path / "inference")
    assert "prune_plan.json" in manifest.files
    x = seeded_models.noise((2, 3, 48, 192))
    expected = NetworkEngine(checkpoints.load_network(checkpoint)[0]).run(x)
    assert np.abs(InferenceEngine(tmp_path / "inference", optimize=False).run(x) - expected).max() <= 1e-6
    weights = manifest.files["inference.pdiparams"]["bytes"]
    assert weights < 0.7 * 540_000  # the unpruned one
