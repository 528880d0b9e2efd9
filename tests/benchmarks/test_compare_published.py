"""Our models beside the published ones: what counts as read, which lines belong together, and the whole command."""

import json

import numpy as np
import pytest

import command
from benchmarks import compare_published, printed_lines

PRINTED = ["Open to all", "T1", "T1", "Yes"]


@pytest.mark.parametrize(
    ("read", "spaces", "count"),
    [
        (["Open to all", "T1", "T1", "Yes"], True, 4),
        (["Yes", "T1", "Open to all", "T1"], True, 4),
        (["Opentoall", "T1", "T1", "Yes"], True, 3),
        (["Opento all", "T1", "T1", "Y es"], False, 4),
        (["T1"], True, 1),
        (["T1", "T1", "T1"], True, 2),
        (["open to all", "Yes."], False, 0),
        ([], True, 0),
    ],
    ids=["all", "order", "space lost", "spaces ignored", "one of two", "one too many", "case, stop", "nothing"],
)
def test_a_line_counts_when_it_is_equal(read, spaces, count):
    assert printed_lines.count_read(read, PRINTED, spaces=spaces) == count


def box(left, top, width=100, height=10):
    return [[left, top], [left + width, top], [left + width, top + height], [left, top + height]]


@pytest.mark.parametrize(
    ("ours", "theirs", "rows"),
    [
        ([box(0, 0), box(0, 20)], [box(0, 21), box(2, 0)], [(0, 1), (1, 0)]),
        ([box(0, 0)], [box(0, 6)], [(0, None), (None, 0)]),
        ([box(0, 0)], [box(0, 0, 45), box(55, 0, 45)], [(0, None), (None, 0), (None, 1)]),
        ([box(0, 0)], [box(0, 2), box(0, 1)], [(0, 1), (None, 0)]),
        ([], [box(0, 20), box(0, 0)], [(None, 1), (None, 0)]),
        ([], [], []),
    ],
    ids=["pairs", "overlap 4/16", "two halves", "the closer one", "one side empty", "empty"],
)
def test_lines_at_the_same_place_share_a_row(ours, theirs, rows):
    quads = [np.array(boxes, np.float32).reshape(-1, 4, 2) for boxes in (ours, theirs)]
    assert printed_lines.pair_lines(*quads) == rows


def test_the_printed_lines_are_typed_once_each():
    printed = printed_lines.load()
    assert len(printed["scenes_en/img_12.jpg"]) == 11
    assert all(isinstance(line, str) and line == line.strip() for lines in printed.values() for line in lines)


def call(*arguments):
    args = compare_published.build_parser().parse_args([str(argument) for argument in arguments])
    return command._attempt("compare_published.py", compare_published.run, args)


def test_a_folder_without_the_models_is_refused(tmp_path, capsys):
    assert call("--published", tmp_path, "--out", tmp_path / "report.json") == 2
    complaint = capsys.readouterr().err
    assert "expected models/ch_ppocr_mobile_v2.0_det_infer in it" in complaint and complaint.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_models_and_reports_that_cannot_be_are_refused_at_once(published, tmp_path, capsys):
    assert call("--published", published, "--models", tmp_path) == 2
    assert f"{tmp_path / 'det'}: expected an artifact folder" in capsys.readouterr().err
    assert call("--published", published, "--out", tmp_path / "none" / "report.json") == 2
    assert "in a folder that exists" in capsys.readouterr().err


@pytest.mark.slow
def test_the_published_models_read_the_printed_page(published, tmp_path, capsys):
    """And ours read most of it, once the default models are in the tree."""
    assert call("--published", published, "--out", tmp_path / "report.json") == 0
    said = capsys.readouterr().out
    assert "1.00 ACKNOWLEDGEMENTS" in said
    systems = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["systems"]
    page = {name: system["photos"]["scenes_en/img_12.jpg"] for name, system in systems.items()}
    assert len(page["published"]["lines"]) == 11
    assert page["published"]["exact"] >= 1 and page["published"]["exact_spaces_ignored"] == 11
    assert (systems["published"]["words"]["exact"], systems["published"]["words"]["of"]) == (5, 5)
    assert 0 < systems["published"]["icdar2015_det"]["metrics"]["hmean"] < 1
    assert ("ours" in systems) == compare_published.PRETRAINED.is_dir()
    if "ours" in systems:
        assert page["ours"]["exact_spaces_ignored"] >= 6
    else:
        assert "no default models there yet" in said
