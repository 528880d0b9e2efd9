"""Two systems on the same photos: agreement by hand, and a system beside itself for real."""

import json

import cv2
import numpy as np
import pytest

import command
from benchmarks import compare_twins
from benchmarks.compare_twins import agreement, match, quad_iou, total


def box(left, top, width=10, height=10):
    return [[left, top], [left + width, top], [left + width, top + height], [left, top + height]]


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        (box(0, 0), box(0, 0), 1.0),
        (box(0, 0), box(5, 0), 50 / 150),
        (box(0, 0), box(20, 0), 0.0),
        (box(0, 0), [[5, 0], [10, 5], [5, 10], [0, 5]], 0.5),
        (box(0, 0, 0, 0), box(0, 0, 0, 0), 0.0),
    ],
    ids=["same", "half", "apart", "diamond within", "no area"],
)
def test_iou(a, b, iou):
    assert quad_iou(a, b) == pytest.approx(iou, abs=1e-6)


def test_boxes_are_matched_one_to_one_best_first():
    assert match([box(0, 0), box(2, 0)], [box(1, 0), box(0, 0)]) == [(0, 1), (1, 0)]
    assert match([box(0, 0)], [[[5, 0], [10, 5], [5, 10], [0, 5]]]) == [(0, 0)]  # an IoU of just .5
    assert match([box(0, 0)], [box(4, 0)]) == []  # 60 / 140
    assert match([], [box(0, 0)]) == []


def lines(*pairs):
    return [{"quad": quad, "text": text} for quad, text in pairs]


def test_agreement_and_its_shares():
    first = agreement(
        lines((box(0, 0), "one"), (box(0, 50), "four"), (box(0, 90), "gone")),
        lines((box(0, 1), "one"), (box(0, 50), "five")),
    )
    # "four" against "five": 3 of 4 letters to change.
    assert first == {"reference": 3, "other": 2, "matched": 2, "identical": 1, "similarity": pytest.approx(1.25)}
    second = agreement(lines((box(0, 0), "same")), lines((box(0, 0), "same"), (box(50, 0), "new")))
    shares = total([first, second])["shares"]
    assert shares == {
        "boxes": pytest.approx(2 * 3 / 8),
        "texts": pytest.approx(2 / 3),
        "similarity": pytest.approx(2.25 / 3),
        "lines": pytest.approx(2 / 4),
    }
    nothing = total([agreement([], [])])["shares"]
    assert nothing == {"boxes": 1.0, "texts": None, "similarity": None, "lines": None}


def test_every_folder_has_its_own_total():
    one, none = agreement(lines((box(0, 0), "a")), lines((box(0, 0), "a"))), agreement(lines((box(0, 0), "a")), [])
    found = compare_twins.by_folder({"en/1.jpg": one, "ch/1.jpg": none, "en/2.jpg": none, "top.png": one})
    assert {folder: (each["photos"], each["shares"]["lines"]) for folder, each in found.items()} == {
        "en": (2, 0.5),
        "ch": (1, 0.0),
        "": (1, 1.0),
    }


def call(*words):
    args = compare_twins.build_parser().parse_args([str(word) for word in words])
    return command._attempt("compare_twins.py", compare_twins.run, args)


def test_bad_input_is_one_line(tmp_path, capsys):
    three = [tmp_path / "none"] * 3
    options = ["--reference", *three, "--other", *three]
    assert call(*options, "--photos", tmp_path, "--out", tmp_path / "o.json") == 2
    assert "expected pictures (.jpg, .jpeg, .png), found none" in capsys.readouterr().err
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    assert call(*options, "--photos", tmp_path, "--out", tmp_path / "o.json") == 2
    assert "expected an artifact folder" in capsys.readouterr().err
    assert call(*options, "--photos", tmp_path, "--out", tmp_path / "o.json", "--limit", 0) == 2
    assert call(*options, "--photos", tmp_path, "--out", tmp_path) == 2
    assert not (tmp_path / "o.json").exists()


def test_words_are_told_from_photos(tmp_path):
    for name in ("b/2.jpg", "a.png", "words/en/1.png", "words/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    photos, words = compare_twins.pictures(tmp_path, None)
    assert [str(path.relative_to(tmp_path)) for path in (*photos, *words)] == ["a.png", "b/2.jpg", "words/en/1.png"]
    assert compare_twins.pictures(tmp_path, 1)[0] == photos[:1]


def test_what_was_read_of_other_models_is_not_believed(tmp_path):
    question = {"reference": {"det": "1"}, "other": {"det": "2"}}
    file = tmp_path / "partial"
    file.write_text(json.dumps({"question": question, "reference": {"a": []}, "other": {}}))
    assert compare_twins._known(file, question)["reference"] == {"a": []}
    assert compare_twins._known(file, {**question, "other": {"det": "3"}})["reference"] == {}
    file.write_text("{")
    assert compare_twins._known(file, question)["other"] == {}
