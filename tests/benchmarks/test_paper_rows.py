"""Rows gathered from artifacts and reports that one can check by hand."""

import json
from pathlib import Path

import pytest

import artifact
from benchmarks import paper_rows, render
from benchmarks.layout import PRETRAINED
from benchmarks.paper_models import Places
from command import ModelError

MODELS = {
    ("det", "float"): "det", ("det", "fpgm"): "slim/det-pruned", ("det", "both"): "slim/det",
    ("cls", "float"): "cls", ("cls", "pact"): "slim/cls", ("rec", "float"): "rec", ("rec", "pact"): "slim/rec",
}  # fmt: skip
ORIGINS = dict.fromkeys(MODELS, "shipped")
SYSTEMS = {
    "float": dict.fromkeys(("det", "cls", "rec"), "float"),
    "slim": {"det": "both", "cls": "pact", "rec": "pact"},
}
# Of two images: matched, detected, expected for det and system; right for cls; exact, 1−NED for rec.
RECORDS = {
    "det": {"float": [[2, 2, 2], [2, 2, 2]], "fpgm": [[2, 2, 2], [1, 2, 2]], "both": [[2, 2, 2], [0, 2, 2]]},
    "cls": {"float": [[1], [0]], "pact": [[1], [1]]},
    "rec": {"float": [[1, 1], [0, 0.5]], "pact": [[1, 1], [0, 0.5]]},
    "system": {"float": [[1, 2, 2], [1, 2, 2]], "slim": [[1, 2, 2], [2, 2, 2]]},
}
METRICS = {"det": "hmean", "cls": "accuracy", "rec": "accuracy", "system": "f_score"}


def write_scores(places: Places, task: str, variant: str, records: list) -> None:
    key = task, variant
    places.metrics(key).parent.mkdir(parents=True, exist_ok=True)
    result = {"metrics": {METRICS[task]: 0.9}, "intervals": {METRICS[task]: [0.8, 1.0]}, "samples": len(records)}
    places.metrics(key).write_text(json.dumps({"results": {task: result}}))
    images = {"labels_sha256": "0", "columns": [task], "images": ["a", "b"], "records": records}
    places.images(key).write_text(json.dumps({"schema": 1, "tasks": {task: images}}))


@pytest.fixture
def places(tmp_path) -> Places:
    places = Places(tmp_path)
    for key, place in MODELS.items():
        manifest = artifact.load(PRETRAINED / place)
        with artifact.create(places.nb(key, "arm")) as folder:
            (folder / "model.nb").write_bytes(b"0123456789" * len(key[1]))
            sizes = {"weights": 100, "topology": 7, **({"scales": 20} if manifest.quantized else {})}
            nb = manifest.replace(kind="nb", charset=None, compression={
                name: value for name, value in manifest.compression.items() if name == "quantization"
            }, extra={"target": "arm", "bytes": sizes}, files={})  # fmt: skip
            artifact.write(folder, nb, "test")
    floats = [key for key in MODELS if key[1] in ("float", "fpgm")]
    measured = [
        {"artifact": str(places.nb(key, "x86")), "median_ms": 5.0 + at, "median_low_ms": 4.0, "median_high_ms": 9.0}
        for at, key in enumerate(floats)
    ]
    places.latency.write_text(json.dumps({"models": measured}))
    parts = [str(places.nb((task, "float"), "x86")) for task in ("det", "cls", "rec")]
    timed = [{"artifacts": parts, "median_ms": 200.0, "median_low_ms": 190.0, "median_high_ms": 220.0}]
    places.photo_latency.write_text(json.dumps({"systems": timed}))
    for task, variants in RECORDS.items():
        for variant, records in variants.items():
            write_scores(places, task, variant, records)
    return places


def gather(places: Places) -> dict:
    models = {key: PRETRAINED / place for key, place in MODELS.items()}
    return {(row["task"], row["variant"]): row for row in paper_rows.gather(places, models, ORIGINS, SYSTEMS)}


def test_every_figure_comes_from_its_artifact(places):
    rows = gather(places)
    assert [*rows] == [*MODELS, ("system", "float"), ("system", "slim")]
    pruned = rows["det", "fpgm"]
    left = artifact.load(PRETRAINED / "slim" / "det-pruned").extra["pruning"]["params_ratio"]
    assert pruned["params"] == pytest.approx(left * rows["det", "float"]["params"], rel=2e-4)
    assert (rows["det", "float"]["params"], rows["det", "float"]["macs"]) == (572_441, 1_911_763_200)
    assert (pruned["weight_bytes"], pruned["nb_bytes"]) == (100, 40)
    assert pruned["latency_ms"] == {"median": 6.0, "low": 4.0, "high": 9.0} and pruned["origin"] == "shipped"
    assert pruned["metric"] == {"name": "hmean", "value": 0.9, "low": 0.8, "high": 1.0, "samples": 2}
    assert pruned["checkpoint_sha256"] == artifact.digest(PRETRAINED / "slim" / "det-pruned")
    # Int8 changes neither params nor MACs; its scales are weights, too; it has no time on this host.
    both = rows["det", "both"]
    assert (both["params"], both["macs"]) == (pruned["params"], pruned["macs"])
    assert (both["weight_bytes"], both["nb_bytes"]) == (120, 40)
    assert {row["latency_ms"] for key, row in rows.items() if key[1] in ("both", "pact", "slim")} == {render.PHONE_ONLY}
    slim = rows["system", "slim"]
    assert (slim["params"], slim["weight_bytes"], slim["nb_bytes"]) == (pruned["params"] + 133_628 + 454_321, 360, 120)
    assert rows["system", "float"]["latency_ms"]["median"] == 200.0
    assert slim["parts"] == SYSTEMS["slim"] and slim["origin"] == "shipped"


def test_differences_are_of_the_same_images(places):
    rows = gather(places)
    # hmean of (2 · 3) / (4 + 4) against 1; both images the second: 1/2 against 1.
    assert rows["det", "fpgm"]["differences"] == {"float": {"value": -0.25, "low": -0.5, "high": 0.0}}
    assert rows["det", "both"]["differences"] == {
        "float": {"value": -0.5, "low": -1.0, "high": 0.0},
        "fpgm": {"value": -0.25, "low": -0.5, "high": 0.0},
    }
    assert rows["cls", "pact"]["differences"] == {"float": {"value": 0.5, "low": 0.0, "high": 1.0}}
    assert rows["rec", "pact"]["differences"] == {"float": {"value": 0.0, "low": 0.0, "high": 0.0}}
    assert rows["system", "slim"]["differences"]["float"]["value"] == pytest.approx(0.25)
    assert rows["det", "float"]["differences"] == {}


@pytest.mark.parametrize("field", ["images", "labels_sha256"])
def test_other_images_are_no_pairs(places, field):
    file = places.images(("cls", "pact"))
    record = json.loads(file.read_text())
    record["tasks"]["cls"][field] = "others"
    file.write_text(json.dumps(record))
    with pytest.raises(ModelError, match=f"expected the same {field} as float, found others; measure both again"):
        gather(places)


def test_a_file_of_another_model_is_refused(places):
    places.nb(("cls", "float"), "arm").rename(places.out / "aside")
    places.nb(("cls", "pact"), "arm").rename(places.nb(("cls", "float"), "arm"))
    with pytest.raises(ModelError, match="expected a file of the float model, found another"):
        gather(places)


def test_the_committed_results_are_those_of_the_shipped_models():
    """Whoever ships other models has to measure them: benchmarks/reproduce_paper.py --keep-shipped --publish."""
    from benchmarks import paper_render
    from benchmarks.reproduce_paper import PUBLISH, RESULTS, TABLES

    if not PUBLISH[RESULTS].exists():
        pytest.skip("no results of the shipped models are committed yet")
    results = json.loads(PUBLISH[RESULTS].read_text(encoding="utf-8"))
    assert results["complete"]
    assert PUBLISH[TABLES].read_text(encoding="utf-8") == paper_render.markdown(results)
    found = {(row["task"], row["variant"]): row for row in results["rows"]}
    for key, place in MODELS.items():
        if Path(PRETRAINED / place).exists():
            assert found[key]["checkpoint_sha256"] == artifact.digest(PRETRAINED / place), key
