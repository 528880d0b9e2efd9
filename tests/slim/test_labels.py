"""Label files as PaddleOCR's tools and people's editors leave them: read whole, or refused with file and line."""

import json
from pathlib import Path

import numpy as np
import pytest

from command import UsageError
from slim import labels

SQUARE = np.array([[10, 10], [50, 10], [50, 30], [10, 30]], np.float32)
POINTS = "[[0,0],[10,0],[10,10],[0,10]]"


def label_file(folder: Path, content: str | bytes, *images: str) -> Path:
    """FOLDER/l.txt with this content, and the images that it names (their pixels are not read here)."""
    for image in images or ("1.jpg",):
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).touch()
    (folder / "l.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / "l.txt"


def box(text: str, **more) -> str:
    return json.dumps([{"transcription": text, "points": SQUARE.tolist(), **more}], ensure_ascii=False)


def test_labels_come_back_as_written(tmp_path):
    boxes = [('a\tb "c" é', SQUARE), ("###", SQUARE + 3)]
    written = labels.det_line("x/1.jpg", boxes) + labels.det_line("2.jpg", [])
    read = labels.read_det_labels(label_file(tmp_path, written, "x/1.jpg", "2.jpg"))
    assert [path for path, _ in read] == [tmp_path / "x/1.jpg", tmp_path / "2.jpg"]
    assert [text for text, _ in read[0][1]] == ['a\tb "c" é', "###"] and read[1][1] == []
    np.testing.assert_array_equal(read[0][1][1][1], SQUARE + 3)

    assert labels.read_rec_labels(label_file(tmp_path, labels.rec_line("1.jpg", " a b\t"))) == [
        (tmp_path / "1.jpg", " a b\t")
    ]
    written = labels.cls_line("1.jpg", 180) + labels.cls_line("2.jpg", 0)
    assert labels.read_cls_labels(label_file(tmp_path, written, "1.jpg", "2.jpg")) == [
        (tmp_path / "1.jpg", 180),
        (tmp_path / "2.jpg", 0),
    ]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        pytest.param("1.jpg\tone\r\n1.jpg\ttwo\r\n", ["one", "two"], id="Windows line ends"),
        pytest.param(b"\xef\xbb\xbf1.jpg\tone\n", ["one"], id="byte order mark"),
        pytest.param("1.jpg\tone", ["one"], id="no line end"),
        pytest.param("\n1.jpg\tone\n\r\n   \n", ["one"], id="blank lines"),
        pytest.param("1.jpg\t a  b \n", [" a  b "], id="spaces at both ends"),
        pytest.param("1.jpg\ta\tb\n", ["a\tb"], id="a tab in the text"),
        pytest.param("1.jpg\t \n", [" "], id="nothing but a space"),
        pytest.param("1.jpg\t###\n", ["###"], id="three number signs are a text here"),
        pytest.param("1.jpg\ta\u2028b\x0bc\x85d\n", ["a\u2028b\x0bc\x85d"], id="line ends of other alphabets"),
        pytest.param("1.jpg\t中文 é \U0001f600\n", ["中文 é \U0001f600"], id="any script"),
        pytest.param("1.jpg\t\\u4e2d\n", ["\\u4e2d"], id="a backslash is a backslash"),
    ],
)
def test_recognition_texts(tmp_path, content, texts):
    assert [text for _, text in labels.read_rec_labels(label_file(tmp_path, content))] == texts


@pytest.mark.parametrize(
    "image", ["a b.jpg", "deep/er/1.jpg", "./1.jpg", "[1].jpg", "[1]", "日本.jpg"], ids=lambda name: name
)
def test_names_of_images(tmp_path, image):
    assert labels.read_rec_labels(label_file(tmp_path, f"{image}\tt\n", image)) == [(tmp_path / image, "t")]


def test_absolute_paths(tmp_path):
    elsewhere = tmp_path / "elsewhere" / "1.jpg"
    path = label_file(tmp_path, f"{elsewhere}\t180\n", "elsewhere/1.jpg")
    assert labels.read_cls_labels(path) == [(elsewhere, 180)]


def test_a_list_of_images_shares_a_label(tmp_path):
    """PaddleOCR's form for samples that were augmented beforehand."""
    path = label_file(tmp_path, '["1.jpg", "2.jpg"]\tone\n3.jpg\ttwo\n', "1.jpg", "2.jpg", "3.jpg")
    assert [(image.name, text) for image, text in labels.read_rec_labels(path)] == [
        ("1.jpg", "one"),
        ("2.jpg", "one"),
        ("3.jpg", "two"),
    ]


def test_boxes_as_paddleocr_and_its_label_tool_write_them(tmp_path):
    escaped = json.dumps([{"transcription": "中é", "points": SQUARE.tolist()}])
    assert "\\u4e2d" in escaped
    lines = [escaped, box("", difficult=False), box("###", difficult=True), box("*", key_cls="None"), "[]", " [] "]
    read = labels.read_det_labels(label_file(tmp_path, "".join(f"1.jpg\t{line}\r\n" for line in lines)))
    assert [[text for text, _ in boxes] for _, boxes in read] == [["中é"], [""], ["###"], ["*"], [], []]
    assert set(labels.IGNORED) == {"###", "*"}
    for _, boxes in read[:4]:
        np.testing.assert_array_equal(boxes[0][1], SQUARE)


def test_points_beyond_the_image_and_polygons(tmp_path):
    six = "[[0,0],[10,0],[20,0],[20,10],[10,10],[0,10]]"
    outside = "[[-3,-2.5],[10,0],[10,10],[0,10]]"
    content = f'1.jpg\t[{{"transcription": "t", "points": {six}}}, {{"transcription": "u", "points": {outside}}}]\n'
    [(_, [(_, polygon), (_, quad)])] = labels.read_det_labels(label_file(tmp_path, content))
    np.testing.assert_allclose(polygon, [[0, 0], [20, 0], [20, 10], [0, 10]], atol=1e-4)
    assert quad[0].tolist() == [-3, -2.5]


def det(points: str) -> str:
    return f'1.jpg\t[{{"transcription": "t", "points": {points}}}]\n'


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (labels.read_det_labels, "1.jpg\t[]\nno tab\n", r"l\.txt:2: expected path, tab, label, found 'no tab'"),
        (labels.read_det_labels, "\t[]\n", r"l\.txt:1: expected path, tab, label"),
        (labels.read_det_labels, "1.jpg\t[{]\n", r"l\.txt:1: expected a JSON list"),
        (labels.read_det_labels, "1.jpg\t{}\n", r"l\.txt:1: expected a JSON list"),
        (labels.read_det_labels, "1.jpg\t[{'transcription': 't'}]\n", r"l\.txt:1: expected a JSON list"),
        (labels.read_det_labels, "1.jpg\t" + "[" * 100_000 + "\n", r"l\.txt:1: expected a JSON list .*too deep"),
        (labels.read_det_labels, '1.jpg\t[{"points": []}]\n', r"l\.txt:1: expected transcription and points"),
        (labels.read_det_labels, '1.jpg\t[{"transcription": 7, "points": []}]\n', "expected transcription and points"),
        (labels.read_det_labels, '1.jpg\t[["t"]]\n', "expected transcription and points"),
        (labels.read_det_labels, det("[[1, 2]]"), "at least 4 points"),
        (labels.read_det_labels, det("[[1, 2], 3]"), "at least 4 points"),
        (labels.read_det_labels, det("[[NaN, 2], [1, 2], [1, 2], [1, 2]]"), "at least 4 points"),
        (labels.read_det_labels, det(f"[[1{'0' * 400}, 2], [1, 2], [1, 2], [1, 2]]"), "at least 4 points"),
        (labels.read_rec_labels, "1.jpg\tfine\n1.jpg\t\n", r"l\.txt:2: expected path, tab, text, found no text"),
        (labels.read_rec_labels, "", "expected labels, found an empty file"),
        (labels.read_rec_labels, "\n \n", "expected labels, found an empty file"),
        (labels.read_rec_labels, "1.jpg\ta\nnone.jpg\tb\n", r"l\.txt:2: expected an image file, found none at .*none"),
        (labels.read_rec_labels, '["1.jpg", "none.jpg"]\tb\n', r"l\.txt:1: expected an image file, .*none\.jpg"),
        (labels.read_rec_labels, "1\0.jpg\tb\n", r"l\.txt:1: expected an image file"),
        (labels.read_rec_labels, ".\tb\n", r"l\.txt:1: expected an image file"),
        (labels.read_cls_labels, "1.jpg\t0\n1.jpg\t90\n", r"l\.txt:2: expected 0 or 180, found '90'"),
        (labels.read_cls_labels, "1.jpg\t180 \n", r"l\.txt:1: expected 0 or 180, found '180 '"),
    ],
)  # fmt: skip
def test_wrong_labels_are_named_by_line(tmp_path, read, content, message):
    with pytest.raises(UsageError, match=message) as error:
        read(label_file(tmp_path, content))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(tmp_path)) * 2 + 400


def test_files_that_are_no_labels(tmp_path):
    for name, content in (("binary", b"\xff\xfe\x00"), ("GBK", "1.jpg\t中文".encode("gbk"))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match="expected a label file in UTF-8, found other bytes"):
            labels.read_rec_labels(tmp_path / name)
    with pytest.raises(UsageError, match="expected a label file in UTF-8, found No such file"):
        labels.read_rec_labels(tmp_path / "none.txt")
