"""Scores of stand-in networks whose right answer is known, and the command on every kind of artifact."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import artifact
from artifact import Input, Manifest
from command import ArtifactError, ModelError, UsageError
from lite_runtime.detector import TextDetector
from lite_runtime.direction import DirectionClassifier
from slim import evaluate, scoring
from slim.labels import read_cls_labels, read_det_labels

ROOT = Path(evaluate.__file__).resolve().parent.parent
PRETRAINED = ROOT / "ocr_models" / "pretrained"


class MapEngine:
    """A detector that sees dark ink: every pixel darker than the scenes' paper is text."""

    def run(self, x: np.ndarray) -> np.ndarray:
        dark = (x[0].mean(axis=0) < 0.3).astype(np.uint8)
        return cv2.morphologyEx(dark, cv2.MORPH_CLOSE, np.ones((15, 25), np.uint8)).astype(np.float32)[None, None]

    def close(self) -> None: ...


class AlwaysUpright:
    def run(self, x: np.ndarray) -> np.ndarray:
        return np.tile(np.array([[0.9, 0.1]], np.float32), (len(x), 1))

    def close(self) -> None: ...


DET = Manifest(
    kind="checkpoint",
    task="det",
    name="toy",
    input=Input((-1, 3, -1, -1), (0.0,) * 3, (1.0,) * 3, multiple_of=32, limit_side_len=960, limit_type="max"),
    post={"box_thresh": 0.3, "unclip_ratio": 1.2},
)
CLS = Manifest(
    kind="checkpoint",
    task="cls",
    name="toy",
    input=Input((-1, 3, 48, 192), (0.5,) * 3, (0.5,) * 3, aspect="pad_right"),
    post={"labels": ["0", "180"]},
)


def test_a_detector_that_sees_ink_finds_most_words(toy_data):
    scenes = read_det_labels(toy_data / "det" / "label.txt")
    counts = scoring.score_detector(TextDetector(MapEngine(), DET), scenes)
    assert [c.expected for c in counts] == [4, 4, 4, 4]
    assert sum(c.matched for c in counts) >= 8


def test_ignored_regions_are_not_expected(toy_data):
    scenes = [
        (path, [("###" if i == 0 else text, quad) for i, (text, quad) in enumerate(regions)])
        for path, regions in read_det_labels(toy_data / "det" / "label.txt")
    ]
    assert [c.expected for c in scoring.score_detector(TextDetector(MapEngine(), DET), scenes)] == [3, 3, 3, 3]


def test_a_classifier_that_always_says_upright_is_right_half_of_the_time(toy_data):
    crops = read_cls_labels(toy_data / "cls" / "label.txt")
    right = scoring.score_classifier(DirectionClassifier(AlwaysUpright(), CLS), crops)
    assert right.tolist() == [1.0, 0.0] * 16


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [
        pytest.param(5, None, [0, 1, 2, 3, 4], id="all"),
        pytest.param(5, 9, [0, 1, 2, 3, 4], id="more than there are"),
        pytest.param(5, 3, [0, 2, 4], id="spread over the list"),
        pytest.param(5, 1, [0], id="one"),
    ],
)
def test_spread(count, limit, expected):
    assert scoring.spread(range(count), limit) == expected


def test_no_labels_is_one_line(tmp_path):
    with pytest.raises(UsageError, match=r"expected det/label\.txt, found none"):
        scoring.find_labels(tmp_path, "det")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """The default det, cls and rec: DIR/<kind>/<task> for checkpoint, inference, x86 and arm."""
    from export import to_inference, to_nb
    from ocr_models import catalogue, checkpoints

    root = tmp_path_factory.mktemp("models")
    for name in ("det_mv3_db", "cls_mv3", "rec_mv3_crnn_en"):
        card = catalogue.card(name)
        with artifact.create(root / "checkpoint" / card.task) as folder:
            manifest = card.manifest(folder)
            trained, _ = checkpoints.load_network(PRETRAINED / card.task)
            checkpoints.save_network(trained, folder)
            artifact.write(folder, manifest, "test")
        to_inference.export(root / "checkpoint" / card.task, root / "inference" / card.task)
    for target in ("x86", "arm"):
        words = [str(root / "inference" / "rec"), "--target", target, "--out", str(root / target / "rec")]
        assert to_nb.run(to_nb.build_parser().parse_args(words)) == 0
    return root


def evaluated(capsys, *words) -> dict:
    assert evaluate.run(evaluate.build_parser().parse_args([*map(str, words), "--json"])) == 0
    return json.loads(capsys.readouterr().out)["results"]


def test_three_kinds_of_one_model_score_the_same(models, toy_data, capsys):
    found = [
        evaluated(capsys, models / kind / "rec", "--data", toy_data) for kind in ("checkpoint", "inference", "x86")
    ]
    assert found[0]["rec"]["samples"] == 32
    assert set(found[0]["rec"]["metrics"]) == set(found[0]["rec"]["intervals"]) == {"accuracy", "ned"}
    assert found[0]["rec"]["metrics"]["ned"] > 0.5, "equal zeros would prove nothing"
    for other in found[1:]:
        assert other["rec"]["metrics"] == pytest.approx(found[0]["rec"]["metrics"], abs=0.02)


def test_three_models_are_judged_end_to_end_as_well(models, toy_data, tmp_path, capsys):
    parts = [models / "inference" / task for task in ("rec", "det", "cls")]
    results = evaluated(capsys, *parts, "--data", toy_data, "--limit", "2", "--out", tmp_path / "report.json")
    assert list(results) == ["det", "cls", "rec", "system"]
    assert set(results["system"]["metrics"]) == {"f_score"}
    assert [results[task]["samples"] for task in results] == [2, 2, 2, 2]
    assert json.loads((tmp_path / "report.json").read_text())["results"] == results


def test_every_sample_has_a_record_of_its_own(models, toy_data, tmp_path, capsys):
    parts = [models / "inference" / task for task in ("rec", "det")]
    file = tmp_path / "images.json"
    results = evaluated(capsys, *parts, "--data", toy_data, "--limit", "3", "--per-image", file)
    assert all("per_image" not in result for result in results.values())
    tasks = json.loads(file.read_text())["tasks"]
    assert set(tasks) == {"det", "rec", "system"}
    assert tasks["det"]["images"] == ["images/0.png", "images/2.png", "images/3.png"]
    assert tasks["rec"]["labels_sha256"] == results["rec"]["measured_on"]["labels_sha256"]
    exact, similarity = np.mean(tasks["rec"]["records"], axis=0)
    assert {"accuracy": exact, "ned": similarity} == pytest.approx(results["rec"]["metrics"])
    assert tasks["det"]["columns"] == ["matched", "detected", "expected"]
    matched, detected, expected = np.sum(tasks["det"]["records"], axis=0)
    assert expected == 12 and detected and matched / expected == pytest.approx(results["det"]["metrics"]["recall"])


def test_only_the_whole_chain_can_be_measured(models, toy_data, tmp_path, capsys):
    parts = [models / "inference" / task for task in ("det", "rec")]
    assert list(evaluated(capsys, *parts, "--data", toy_data, "--limit", "1", "--end-to-end")) == ["system"]
    with pytest.raises(UsageError, match="expected a detector and a recognizer with --end-to-end, found det;"):
        evaluated(capsys, parts[0], "--data", toy_data, "--end-to-end")
    with pytest.raises(UsageError, match="give another --per-image"):
        evaluated(capsys, *parts, "--data", toy_data, "--per-image", tmp_path / "none" / "a.json")


def test_record_writes_the_metrics_into_the_manifest(models, toy_data, capsys):
    folder = models / "checkpoint" / "cls"
    older = artifact.load(folder).replace(extra={"steps": 3, "validation_samples": 7})
    (folder / artifact.MANIFEST).write_text(json.dumps(older.to_json()))
    results = evaluated(capsys, folder, "--data", toy_data, "--record")
    manifest = artifact.load(folder)
    assert manifest.metrics == results["cls"]["metrics"]
    assert manifest.measured_on == results["cls"]["measured_on"]
    assert manifest.measured_on is not None and (manifest.measured_on["samples"], manifest.measured_on["of"]) == (
        32,
        32,
    )
    assert manifest.extra == {"steps": 3}


def test_metrics_of_a_part_are_not_recorded(models, toy_data, capsys):
    folder = models / "checkpoint" / "rec"
    before = (folder / artifact.MANIFEST).read_bytes()
    with pytest.raises(UsageError, match="expected --record without --limit, found --limit 4;"):
        evaluated(capsys, folder, "--data", toy_data, "--record", "--limit", "4")
    assert (folder / artifact.MANIFEST).read_bytes() == before


def test_what_metrics_were_measured_on(tmp_path):
    """The data folder's name and, where slim/synthesize.py made it, its split."""
    folder = tmp_path / "photos" / "rec"
    folder.mkdir(parents=True)
    (folder / "label.txt").write_bytes(b"abc")
    expected = {
        "data": "photos",
        "split": "",
        "labels_sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "samples": 2,
        "of": 5,
    }
    assert scoring.measured_on(folder / "label.txt", 2, 5) == expected
    (folder / "dataset.json").write_text('{"split": "test"}')
    assert scoring.measured_on(folder / "label.txt", 2, 5) == {**expected, "split": "test"}
    (folder / "label.txt").rename(tmp_path / "photos" / "label.txt")
    assert scoring.measured_on(tmp_path / "photos" / "label.txt", 2, 5) == expected


def test_text_shows_every_metric_with_its_interval(models, toy_data, capsys):
    words = [str(models / "checkpoint" / "cls"), "--data", str(toy_data)]
    assert evaluate.run(evaluate.build_parser().parse_args(words)) == 0
    header, _, line = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["task", "metric", "value"]
    assert line.split()[:2] == ["cls", "accuracy"] and line.split()[-1] == "32"


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        pytest.param(["arm/rec"], "arm", id="an .nb for a phone"),
        pytest.param(["checkpoint/rec", "x86/rec"], "expected one rec model, found", id="two of a task"),
        pytest.param(["none"], "expected an artifact folder, found nothing", id="no such folder"),
    ],
)
def test_what_cannot_be_judged_is_refused(folders, message, models, toy_data):
    words = [*(str(models / folder) for folder in folders), "--data", str(toy_data)]
    with pytest.raises((ArtifactError, ModelError, UsageError), match=message) as caught:
        evaluate.run(evaluate.build_parser().parse_args(words))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_process_ends_with_one_line(models, toy_data, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "slim/evaluate.py"), str(models / "arm" / "rec"), "--data", str(toy_data)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("evaluate.py: ")


def test_counts_of_an_empty_scene_list():
    assert scoring.score_detector(TextDetector(MapEngine(), DET), []) == []
