"""Tables from result rows, and the README's own table."""

import json
from pathlib import Path

import pytest

import artifact
from benchmarks import render
from benchmarks.results import METRIC_TOLERANCE
from command import UsageError

ROOT = Path(artifact.__file__).parent
ROW = {
    "task": "det",
    "variant": "shipped",
    "form": "pruned + int8",
    "params": 321660,
    "macs": 1_371_000_000,
    "weight_bytes": 345_678,
    "nb_bytes": 1_234_567,
    "metric": {"name": "hmean", "value": 0.86904, "low": 0.85, "high": 0.88},
    "latency_ms": render.PHONE_ONLY,
}


def test_a_row_reads_as_people_write_it():
    assert render.cells(ROW) == [
        "detector",
        "shipped, pruned + int8",
        "321,660",
        "1,371.0 M",
        "346 KB",
        "1.23 MB",
        "hmean 0.8690",
        "phone only",
    ]


def test_what_does_not_apply_is_empty():
    row = {**ROW, "params": None, "macs": None, "metric": None, "latency_ms": None, "form": ""}
    assert render.cells(row) == ["detector", "shipped", "", "", "346 KB", "1.23 MB", "", ""]


def test_markdown_has_one_line_a_row():
    lines = render.markdown_table([ROW, ROW]).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {len(render.HEADERS) + 1}


def test_the_page_escapes_what_was_read(tmp_path):
    image = tmp_path / "a.png"
    image.write_bytes(b"\x89PNG")
    photo = {"title": "a <b>", "image": image, "lines": [("<script>alert(1)</script>", 0.5)]}
    page = render.html_page("title", [ROW], [photo], ["note"])
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "data:image/png;base64," in page


def test_only_the_marked_part_of_a_readme_changes():
    text = f"before\n{render.README_START}\nold\n{render.README_END}\nafter\n"
    changed = render.in_readme(text, [ROW])
    assert changed.startswith("before\n") and changed.endswith("\nafter\n")
    assert "old" not in changed and "321,660" in changed
    with pytest.raises(UsageError, match="expected the lines"):
        render.in_readme("no marks", [ROW])


@pytest.mark.parametrize("content", ["", "[]", '{"rows": 3}', '{"rows": [{}]}'], ids=["empty", "list", "number", "row"])
def test_foreign_results_are_refused(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="expected a results file"):
        render.read_rows(path)


def test_the_readme_shows_the_shipped_results():
    rows = render.read_rows(ROOT / "ocr_models" / "pretrained" / "results.json")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert render.in_readme(readme, rows) == readme


def test_shipped_results_are_those_of_the_shipped_models():
    pretrained = ROOT / "ocr_models" / "pretrained"
    rows = json.loads((pretrained / "results.json").read_text())["rows"]
    for row in rows:
        if row["task"] == "system":
            continue
        name = "det-pruned" if row["form"] == "pruned fp32" else row["task"]
        folder = pretrained / ("slim" if row["variant"] == "shipped" else "") / name
        recorded = artifact.load(folder).metrics[row["metric"]["name"]]
        assert row["metric"]["value"] == pytest.approx(recorded, abs=METRIC_TOLERANCE), row
