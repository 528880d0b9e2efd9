"""The demo's table, gathered from the repository's own models and from reports that one can check by hand."""

import json
import shutil
from pathlib import Path

import pytest

import artifact
from benchmarks import render, results
from benchmarks.layout import PRETRAINED, SYSTEMS, Layout

# What this project's models have; see the README's table.
PARAMS = {"det": 572_441, "cls": 133_628, "rec": 454_321}
PRUNED = 223_393
HMEAN = {"float": 0.9, "shipped": 0.8, "demo": 0.5}


def report(system: str) -> dict:
    """As slim/evaluate.py writes it: every metric of a system has the same value."""
    found = {}
    for task, names in {
        "det": ["hmean"],
        "cls": ["accuracy"],
        "rec": ["accuracy", "ned"],
        "system": ["f_score"],
    }.items():
        value = HMEAN[system]
        found[task] = {
            "metrics": dict.fromkeys(names, value),
            "intervals": {name: [value - 0.1, value + 0.1] for name in names},
            "samples": 320,
            "measured_on": {"data": "test", "split": "test", "labels_sha256": "0", "samples": 320, "of": 320},
        }
    return {"data": "test", "models": {}, "results": found}


@pytest.fixture
def layout(tmp_path, monkeypatch) -> Layout:
    """A demo's folder after its last step. The demo's own models are the shipped ones again."""
    layout = Layout(tmp_path)
    shutil.copytree(PRETRAINED / "slim", tmp_path / "slim")
    for name, checkpoint in layout.checkpoints().items():
        manifest = artifact.load(checkpoint)
        with artifact.create(layout.nb(name, "arm")) as folder:
            (folder / "model.nb").write_bytes(b"0123456789" * len(name))
            extra: dict = {"target": "arm", "precision": "fp32", "bytes": {"weights": 100, "topology": 7}}
            if manifest.quantized:
                extra["bytes"] = {**extra["bytes"], "scales": 20}
            nb = manifest.replace(kind="nb", charset=None, compression={
                key: value for key, value in manifest.compression.items() if key == "quantization"
            }, extra=extra, files={})  # fmt: skip
            artifact.write(folder, nb, "test")
    floats = ["float/det", "float/cls", "float/rec", "shipped/det-pruned", "demo/det-pruned"]
    measured = [
        {"artifact": str(layout.nb(name, "x86")), "median_ms": 5.0 + at, "median_low_ms": 4.0, "median_high_ms": 9.0}
        for at, name in enumerate(floats)
    ]
    layout.latency.write_text(json.dumps({"models": measured}))
    for system in SYSTEMS:
        layout.metrics(system).parent.mkdir(exist_ok=True)
        layout.metrics(system).write_text(json.dumps(report(system)))
    (layout.photos).mkdir()
    (layout.photos / "a.png").write_bytes(b"\x89PNG")
    line = {"text": "EXIT <1>", "score": 0.9}
    images = [{"image": "samples/a.jpg", "annotated": "a.png", "lines": [line]}]
    (layout.photos / "results.json").write_text(json.dumps({"images": images}))
    return layout


def row(found: dict, variant: str, task: str, form: str) -> dict:
    [one] = [r for r in found["rows"] if (r["variant"], r["task"], r["form"]) == (variant, task, form)]
    return one


def test_every_row_stands_on_its_artifact(layout):
    found = results.gather(layout, steps=20, complete=True)
    assert found["complete"] and len(found["rows"]) == 14
    assert {r["variant"] for r in found["rows"]} == {"float", "shipped", "demo (20 steps)"}

    detector = row(found, "float", "det", "fp32")
    assert (detector["params"], detector["weight_bytes"], detector["nb_bytes"]) == (PARAMS["det"], 100, 90)
    assert detector["macs"] == 1_911_763_200
    assert detector["latency_ms"] == {"median": 5.0, "low": 4.0, "high": 9.0}
    assert detector["metric"] == {"name": "hmean", "value": 0.9, "low": 0.8, "high": 1.0, "samples": 320}

    pruned = row(found, "shipped", "det", "pruned fp32")
    assert pruned["params"] == PRUNED and pruned["latency_ms"]["median"] == 8.0
    recorded = artifact.load(PRETRAINED / "slim" / "det-pruned").metrics["hmean"]
    assert pruned["metric"] == {"name": "hmean", "value": recorded}
    assert row(found, "demo (20 steps)", "det", "pruned fp32")["metric"] is None

    # An int8 row shows the work of the network that it was made of, its own bytes, and no latency.
    small = row(found, "shipped", "det", "pruned + int8")
    assert (small["params"], small["weight_bytes"], small["nb_bytes"]) == (PRUNED, 120, 110)
    assert small["latency_ms"] == render.PHONE_ONLY
    assert row(found, "shipped", "rec", "int8")["params"] == PARAMS["rec"]

    system = row(found, "shipped", "system", "")
    assert system["params"] == PRUNED + PARAMS["cls"] + PARAMS["rec"]
    assert (system["weight_bytes"], system["nb_bytes"]) == (360, 330)
    assert system["metric"]["name"] == "f_score" and system["metric"]["value"] == 0.8
    assert row(found, "float", "system", "")["params"] == sum(PARAMS.values())


def test_the_report_shows_the_table_and_what_was_read(layout):
    found = results.gather(layout, steps=20, complete=True)
    text = results.write_report(layout, found)
    assert len(text.splitlines()) == 16
    assert json.loads((layout.out / "results.json").read_text()) == found
    assert (layout.out / "table.md").read_text() == render.markdown_table(found["rows"]) + "\n"
    page = (layout.out / "report.html").read_text()
    assert "EXIT &lt;1&gt;" in page and f"{PRUNED:,}" in page
    assert "detector at 640x640, classifier at 48x192, recognizer at 32x320" in page


def test_a_shipped_figure_that_moved_is_told():
    rows = [
        {"task": "det", "variant": "shipped", "metric": {"name": "hmean", "value": 0.95}},
        {"task": "cls", "variant": "shipped", "metric": {"name": "accuracy", "value": 0.97}},
        {"task": "det", "variant": "float", "metric": {"name": "hmean", "value": 0.1}},
        {"task": "det", "variant": "shipped", "metric": None},
        {"task": "system", "variant": "shipped", "metric": {"name": "f_score", "value": 0.6}},
    ]
    recorded = {"det": {"hmean": 0.97}, "cls": {"accuracy": 0.975}, "system": {}}
    told = ["det: expected hmean 0.9700 as shipped, found 0.9500"]
    assert results.drift({"complete": True, "rows": rows}, recorded) == told
    assert results.drift({"complete": False, "rows": rows}, recorded) == []


def test_what_was_shipped_is_known_for_every_task(layout):
    assert [sorted(metrics) for metrics in results.shipped_metrics(layout).values()] == [
        ["hmean", "precision", "recall"],
        ["accuracy"],
        ["accuracy", "ned"],
        ["f_score"],
    ]


def test_publishing_changes_results_readme_and_bundles(layout, tmp_path):
    package, readme = tmp_path / "package", tmp_path / "README.md"
    for name in ("x86", "arm-slim"):
        shutil.copytree(PRETRAINED / name, package / name)
    readme.write_text(f"a\n{render.README_START}\n{render.README_END}\nb\n")
    found = results.gather(layout, steps=20, complete=True)
    results.publish(layout, found, package, readme)
    rows = json.loads((package / "results.json").read_text())["rows"]
    assert {r["variant"] for r in rows} == {"float", "shipped"} and len(rows) == 9
    assert render.in_readme(readme.read_text(), rows) == readme.read_text()
    assert f"{PRUNED:,}" in readme.read_text()
    for name, value in (("x86", 0.9), ("arm-slim", 0.8)):
        bundle = artifact.load(package / name, kind="bundle")
        assert bundle.metrics == {"f_score": value}
        assert bundle.measured_on is not None and bundle.measured_on["split"] == "test"


def test_the_demo_writes_where_the_layout_says():
    names = Layout(Path("out")).checkpoints()
    assert len(names) == 11
    assert names["float/det"] == PRETRAINED / "det" and names["shipped/rec"] == PRETRAINED / "slim" / "rec"
    assert names["demo/det-pruned"] == Path("out/slim/det-pruned")
