"""The page of tables: what stands in a cell, and what never does."""

import re
from pathlib import Path

import pytest
import yaml

from benchmarks import paper_bars, paper_pictures, paper_render, reproduce_paper
from benchmarks.paper_render import interval, row_cells, share
from benchmarks.render import PHONE_ONLY

BASE = {"origin": "trained", "steps": 400, "params": 309_105, "macs": 1_189_750_400, "weight_bytes": 333_268,
        "nb_bytes": 632_134, "latency_ms": PHONE_ONLY}  # fmt: skip
TIMES = {"median": 59.2, "low": 57.0, "high": 63.0}


def row(task, variant, value, **changes):
    name = {"det": "hmean", "system": "f_score"}.get(task, "accuracy")
    metric = {"name": name, "value": value, "low": 0.9, "high": 1.0, "samples": 3000}
    differences = {} if variant == "float" else {"float": {"value": -0.0012, "low": -0.004, "high": 0.0017}}
    if variant in ("float", "fpgm"):
        changes = {"latency_ms": TIMES, **changes}
    return {**BASE, "task": task, "variant": variant, "metric": metric, "differences": differences, **changes}


@pytest.fixture
def results():
    rows = [row(task, variant, 0.96) for task in ("det", "cls", "rec") for variant in ("float", "fpgm", "pact", "both")]
    rows += [row("cls", "qat", 0.95), row("cls", "ptq-mse", 0.94)]
    parts = {"det": "both", "cls": "pact", "rec": "pact"}
    rows.append(
        row("system", "float", 0.62, parts=dict.fromkeys(parts, "float"), steps=None, macs=None, latency_ms=None)
    )
    rows.append(row("system", "slim", 0.63, parts=parts, steps=None, macs=None, origin="shipped"))
    rows.append({"task": "rec", "variant": "qat", "failed": "loss is nan at backbone.conv1"})
    paper = yaml.safe_load(reproduce_paper.PAPER.read_text(encoding="utf-8"))
    return {"schema": 1, "mode": "missing", "complete": True, "host": "a host", "paper": paper, "rows": rows,
            "bars": paper_bars.judge(rows), "published": None}  # fmt: skip


def test_a_row_reads_as_people_write_it():
    assert row_cells(row("det", "both", 0.96488)) == [
        "ours",
        "FPGM + PACT, 400 steps",
        "hmean 0.9649",
        "−0.0012 (−0.0040 to +0.0017)",
        "333 KB",
        "632 KB",
        "309,105",
        "1,189.8 M",
        "phone only",
    ]
    assert row_cells(row("det", "float", 0.5))[1] == "float" and row_cells(row("det", "float", 0.5))[-1] == "59.2"
    parts = {"det": "both", "cls": "pact", "rec": "pact"}
    slim = row("system", "slim", 0.63, parts=parts, steps=None, origin="shipped")
    assert row_cells(slim)[:2] == ["ours, shipped", "slim (det FPGM + PACT, cls PACT, rec PACT)"]
    assert (share(-0.8496), share(0.015), interval(0.01, [0, 0.02])) == (
        "−84.96 %",
        "+1.50 %",
        "+0.0100 (+0.0000 to +0.0200)",
    )


def test_the_page_has_the_papers_tables_beside_ours(results):
    page = paper_render.markdown(results)
    assert [int(number) for number in re.findall(r"^## Table (\d+):", page, re.M)] == [6, 8, 13, 14]
    sections = dict(zip((6, 8, 13, 14), re.split(r"^## Table \d+:", page, flags=re.M)[1:], strict=True))
    assert "| paper | FPGM | hmean 0.6169 | −0.0070 |  | 1.4 MB |  |  | 133 (SD 855) |" in sections[6]
    assert "| paper | PACT | accuracy 0.9456 | +0.0053 |  | 0.46 MB |  |  | 2.38 (SD 855) |" in sections[8]
    assert "| paper | PACT | accuracy 0.6740 | +0.0159 |" in sections[13]
    assert "| paper | slim | f_score 0.5210 | +0.0017 |  | 3.5 MB |  |  | 268 (SD 855) |" in sections[14]
    assert sections[6].count("| ours |") == 4 and "ours, shipped" in sections[14]
    assert "failed: loss is nan at backbone.conv1" in page
    assert "3,000 lines" in page and "prove nothing" not in page
    assert "prove nothing" in paper_render.markdown({**results, "complete": False})
    for line in page.splitlines():
        if line.startswith("| "):
            assert line.count("|") in (7, 10), line


def test_no_time_of_an_int8_model_is_ever_shown(results):
    """Whoever puts one into a row does not get it past the rows; the page only repeats them."""
    int8 = [r for r in results["rows"] if "failed" not in r and r["variant"] not in ("float", "fpgm")]
    assert int8 and all(row_cells(r)[-1] == PHONE_ONLY for r in int8)


def test_bars_show_met_and_unmet(results):
    page = paper_render.markdown(results)
    assert "| detector | params −46 % | +0.00 % | FPGM | **unmet** | FPGM (400 steps): +0.00 %;" in page
    assert "| classifier | no loss | −0.0012 (−0.0040 to +0.0017) | PACT | met |  |" in page
    assert "| 6,625 classes | weight bytes −60 % |  |  | not measured |  |" in page
    assert "unmet" in paper_render.text(results) and "**" not in paper_render.text(results)


def test_the_published_models_are_told(results):
    photo = {"reference": 4, "other": 4, "matched": 3, "identical": 2, "similarity": 2.5, "photos": 2}
    shares = {"boxes": 0.75, "texts": 2 / 3, "similarity": 2.5 / 3, "lines": 0.5}
    results["published"] = {
        "models": [
            {"task": "det", "variant": "float", "weight_bytes": 1000, "nb_bytes": 1100},
            {"task": "det", "variant": "both", "weight_bytes": 150, "nb_bytes": 300},
        ],
        "agreement": {
            "total": {**photo, "shares": shares},
            "folders": {"scenes_en": {**photo, "shares": shares}},
            "words": {"read": 5, "identical": 4},
        },
        "icdar2015_det": {"float": 0.258, "both": 0.25},
        "chinese": [
            {"variant": "float", "weight_bytes": 4_350_148, "nb_bytes": 4_480_000},
            {"variant": "ptq-mse", "weight_bytes": 1_706_260, "nb_bytes": 2_000_000},
        ],
    }
    page = paper_render.markdown(results)
    assert "| all photos | 2 | 4 | 75.0 % | 66.7 % | 83.3 % | 50.0 % |" in page and "4 of 5 read alike" in page
    assert "| scenes_en | 2 |" in page
    assert "1,706,260 bytes of weights (−60.78 %)" in page
    assert "| detector | FPGM + PACT | 0 KB | −85.00 % | 0 KB | 0.250 |" in page


def test_pictures_are_drawn_alike(results, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        drawn = paper_pictures.draw(results, tmp_path / name)
        assert [path.name for path in drawn] == [paper_pictures.SIZES, paper_pictures.DIFFERENCES]
    for name in (paper_pictures.SIZES, paper_pictures.DIFFERENCES):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_papers_figures_are_the_papers():
    """As the task's own yardstick lists them."""
    tables = yaml.safe_load(Path(reproduce_paper.PAPER).read_text(encoding="utf-8"))
    found = {table["table"]: [(r["value"], r["file_mb"], r["sd855_ms"]) for r in table["rows"]] for table in tables}
    assert found == {
        6: [(0.6239, 2.6, 164), (0.6169, 1.4, 133)],
        8: [(0.9403, 0.85, 3.21), (0.9456, 0.46, 2.38)],
        13: [(0.6581, 4.6, 12), (0.674, 1.5, 11)],
        14: [(0.5193, 8.1, 306), (0.521, 3.5, 268)],
    }
