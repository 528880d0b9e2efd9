"""Whole systems on photos: the shipped one beside itself, and what is refused."""

import json

import cv2
import numpy as np
import pytest

import command
from benchmarks import run_photos
from benchmarks.layout import PRETRAINED

SYSTEM = [PRETRAINED / "x86" / task for task in ("det", "cls", "rec")]


def call(*words):
    args = run_photos.build_parser().parse_args([str(word) for word in words])
    return command._guarded("run_photos.py", run_photos.run, args)


@pytest.fixture
def photos(tmp_path):
    image = np.full((96, 160, 3), 220, np.uint8)
    cv2.putText(image, "red box", (10, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (20,) * 3, 2, cv2.LINE_AA)
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), image)
    return tmp_path / "photos"


def test_a_system_is_as_fast_as_itself(photos, tmp_path):
    out = tmp_path / "out.json"
    assert call(*SYSTEM, *SYSTEM, "--photos", photos, "--rounds", 3, "--out", out) == 0
    report = json.loads(out.read_text())
    assert report["photos"] == 1
    first, second = report["systems"]
    assert first["artifacts"] == [str(folder) for folder in SYSTEM]
    assert len(first["photo_ms"]) == len(second["photo_ms"]) == 3 and min(first["photo_ms"]) > 0
    assert "ratio" not in first and 0.05 < second["ratio"] < 20


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([*SYSTEM[:2]], "expected DET CLS REC of each system, found 2 artifacts"),
        ([SYSTEM[1], SYSTEM[0], SYSTEM[2]], "expected a model for task det, found task cls"),
        ([*SYSTEM, "--rounds", 0], "expected --rounds of at least 1, found 0"),
        ([PRETRAINED / "arm-slim" / task for task in ("det", "cls", "rec")], "arm"),
    ],
    ids=["two", "order", "rounds", "a phone's"],
)
def test_what_cannot_be_timed_is_one_line(words, complaint, photos, capfd):
    assert call(*words, "--photos", photos) == 2
    said = capfd.readouterr().err
    assert complaint in said and said.count("\n") == 1


def test_no_photos_are_one_line(tmp_path, capfd):
    assert call(*SYSTEM, "--photos", tmp_path) == 2
    assert "expected pictures (.jpg, .jpeg, .png), found none" in capfd.readouterr().err
