"""The command: bad input in one line; for real on tiny data, killed and gone on; a model that is trained for a row."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import artifact
import command
from benchmarks import reproduce_paper
from benchmarks.layout import PRETRAINED
from benchmarks.paper_models import Places
from benchmarks.paper_steps import Options, Steps
from benchmarks.steps import Runner

ROOT = Path(artifact.__file__).parent


def call(*words):
    args = reproduce_paper.build_parser().parse_args([str(word) for word in words])
    return command._attempt("reproduce_paper.py", reproduce_paper.run, args)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--limit", 0], "expected --limit of at least 1, found 0"),
        (["--steps-scale", 0], "expected --steps-scale above 0, at most 100, found 0.0"),
        (["--data", "nowhere"], "nowhere: expected a folder with train/, val/ and test/, found none"),
        (["--models", "nowhere"], "expected a float checkpoint of det and cls and rec, found none"),
        (["--publish"], "expected --publish with --shipped or --keep-shipped"),
        (["--publish", "--shipped", "--limit", 3], "expected --publish with --shipped or --keep-shipped"),
        (["--publish", "--keep-shipped", "--quick"], "expected --publish with --shipped or --keep-shipped"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(words, complaint, tmp_path, capsys):
    assert call("--out", tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_two_runs_do_not_share_a_folder(tmp_path, capsys):
    with reproduce_paper._lock(tmp_path):
        assert call("--out", tmp_path, "--shipped") == 2
        assert "expected no other run in this folder, found one" in capsys.readouterr().err
    with reproduce_paper._lock(tmp_path):
        pass


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """train/, val/ and test/ with two scenes of one word, and eight lines and crops, each."""
    folder = tmp_path_factory.mktemp("data")
    words = ["the", "and", "cat", "dog", "sun", "red", "box", "key"]
    for split in ("train", "val", "test"):
        labels: dict[str, list[str]] = {"det": [], "cls": [], "rec": []}
        for task in labels:
            (folder / split / task).mkdir(parents=True)
        for number, word in enumerate(words):
            crop = np.full((40, 30 + 20 * len(word), 3), 220, np.uint8)
            cv2.putText(crop, word, (5, 28), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (20,) * 3, 2, cv2.LINE_AA)
            crops = {"rec": (crop, word), "cls": (crop[::-1, ::-1], "180") if number % 2 else (crop, "0")}
            for task, (image, label) in crops.items():
                cv2.imwrite(str(folder / split / task / f"{number}.png"), image)
                labels[task].append(f"{number}.png\t{label}")
            if number < 2:
                scene = np.full((320, 320, 3), 200, np.uint8)
                height, width = crop.shape[:2]
                scene[100 : 100 + height, 60 : 60 + width] = crop
                points = [[60, 100], [60 + width, 100], [60 + width, 100 + height], [60, 100 + height]]
                cv2.imwrite(str(folder / split / "det" / f"{number}.png"), scene)
                labels["det"].append(f"{number}.png\t{json.dumps([{'transcription': word, 'points': points}])}")
        for task, lines in labels.items():
            (folder / split / task / "label.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_a_killed_run_goes_on_and_writes_its_tables(data, tmp_path):
    """Three float models and the int8 classifier, for real."""
    models = tmp_path / "models"
    for name in ("det", "cls", "rec", "slim/cls"):
        shutil.copytree(PRETRAINED / name, models / name)
    out = tmp_path / "out"
    words = ["--out", str(out), "--models", str(models), "--data", str(data), "--shipped", "--rounds", "2"]
    argv = [sys.executable, "benchmarks/reproduce_paper.py", *words, "--limit", "4"]
    first = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while len(finished(out)) < 3:
        assert first.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kept = finished(out)
    assert not (out / "results.json").exists()
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("kept from an earlier run") == len(kept)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    rows = {(row["task"], row["variant"]): row for row in results["rows"]}
    assert set(rows) == {("det", "float"), ("cls", "float"), ("rec", "float"), ("cls", "pact"), ("system", "float")}
    assert not results["complete"] and results["mode"] == "shipped"
    assert rows["cls", "pact"]["weight_bytes"] < 0.31 * rows["cls", "float"]["weight_bytes"]
    assert rows["cls", "pact"]["latency_ms"] == "phone only" and rows["cls", "float"]["latency_ms"]["median"] > 0
    assert rows["cls", "pact"]["metric"]["samples"] == 4
    assert "weight bytes −70 %" in done.stdout
    page = (out / "tables.md").read_text(encoding="utf-8")
    assert "## Table 8" in page and "prove nothing" in page
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in ("paper_sizes.png", "paper_differences.png"))


def finished(out: Path) -> list[str]:
    try:
        record = json.loads((out / "steps.json").read_text())
    except (OSError, json.JSONDecodeError):
        return []
    return [name for name, step in record.items() if "key" in step]


@pytest.mark.slow
def test_a_variant_is_trained_and_one_that_cannot_be_is_noted(data, tmp_path, monkeypatch):
    from benchmarks import paper_models, paper_steps

    options = Options(scale=0.001, quick=True, data=data)
    steps = Steps(
        Places(tmp_path), Runner(tmp_path, follow_code=False), options, {("cls", "float"): PRETRAINED / "cls"}
    )
    monkeypatch.setitem(
        paper_models.VARIANTS, "qat", paper_models.Made("float", "slim/quantize.py", ("--method", "no"))
    )
    assert steps.data == {}
    steps.make_data(training=True)
    steps.train([("cls", "both"), ("cls", "qat")])
    assert set(steps.models) == {("cls", "float"), ("cls", "fpgm"), ("cls", "both")}
    assert list(steps.failed) == [("cls", "qat")] and "invalid choice: 'no'" in steps.failed["cls", "qat"]
    for key, variant in ((("cls", "fpgm"), "fpgm"), (("cls", "both"), "both")):
        manifest = artifact.load(steps.models[key])
        assert paper_models.classify(manifest) == variant and manifest.extra["recipe"]["steps"] >= 1
    assert paper_steps.Steps._steps(steps, "slim/prune.py", "det") >= 1
