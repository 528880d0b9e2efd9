"""Bars against tables that one can work out by hand."""

import pytest

from benchmarks import paper_bars

METRIC = {"det": "hmean", "cls": "accuracy", "rec": "accuracy", "system": "f_score"}


def row(task, variant, weights, file=100, params=1000, steps=10, **differences):
    found = {name: {"value": v[0], "low": v[1], "high": v[2]} for name, v in differences.items()}
    return {
        "task": task,
        "variant": variant,
        "steps": steps,
        "weight_bytes": weights,
        "nb_bytes": file,
        "params": params,
        "differences": found,
    }


def verdict(rows, task, bar, stretch=False):
    wanted = (task, bar, stretch)
    [found] = [one for one in paper_bars.judge(rows) if (one["task"], one["bar"], one["stretch"]) == wanted]
    return found


DETECTOR = [
    row("det", "float", 1000),
    row("det", "fpgm", 540, params=540, float=(-0.007, -0.01, -0.004)),
    row("det", "both", 151, params=540, float=(-0.012, -0.02, 0.0), fpgm=(-0.005, -0.01, 0.0)),
]


def test_the_detectors_bars_are_met_at_their_limit_and_not_beyond():
    for bar, met, value in (
        ("params −46 %", True, -0.46),
        ("at most 0.007 lost against float", True, -0.007),
        ("at most 0.005 lost against fpgm", True, -0.005),
        ("weight bytes −85 %", False, -0.849),
    ):
        found = verdict(DETECTOR, "det", bar)
        assert (found["met"], found["value"]) == (met, pytest.approx(value)), bar
    worse = [DETECTOR[0], row("det", "fpgm", 540, params=541, float=(-0.0071, -0.01, 0.01))]
    assert verdict(worse, "det", "params −46 %")["met"] is False
    lost = verdict(worse, "det", "at most 0.007 lost against float")
    assert lost["met"] is False and lost["interval"] == [-0.01, 0.01]


def test_an_unmet_bar_tells_all_that_was_tried():
    rows = [*DETECTOR, row("det", "pact", 260, steps=400, float=(0, 0, 0)), {
        "task": "det", "variant": "qat", "failed": "loss is nan",
    }]  # fmt: skip
    tried = verdict(rows, "det", "weight bytes −85 %")["tried"]
    assert tried == [
        {"variant": "fpgm", "steps": 10, "value": pytest.approx(-0.46), "interval": None},
        {"variant": "both", "steps": 10, "value": pytest.approx(-0.849), "interval": None},
        {"variant": "pact", "steps": 400, "value": pytest.approx(-0.74), "interval": None},
        {"variant": "qat", "failed": "loss is nan"},
    ]
    assert verdict(DETECTOR, "det", "params −46 %")["tried"] == []


@pytest.mark.parametrize(
    ("low", "high", "met"),
    [(-0.01, 0.0, True), (-0.01, 0.002, True), (0.001, 0.002, True), (-0.01, -0.0001, False)],
    ids=["0 is its end", "0 within", "better", "worse"],
)
def test_no_loss_means_an_interval_with_0_or_better(low, high, met):
    rows = [row("rec", "float", 1000), row("rec", "pact", 580, float=((low + high) / 2, low, high))]
    assert verdict(rows, "rec", "no loss")["met"] is met


def test_one_model_has_to_clear_all_bars_of_its_group():
    rows = [
        row("cls", "float", 1000, file=1000),
        row("cls", "pact", 290, file=550, float=(0.0, -0.001, 0.001)),  # file unmet
        row("cls", "both", 200, file=400, float=(-0.02, -0.03, -0.01)),  # accuracy unmet
    ]
    found = [one for one in paper_bars.judge(rows) if one["task"] == "cls"]
    assert [(one["variant"], one["met"]) for one in found] == [("pact", True), ("pact", False), ("pact", True)]
    rows[2] = row("cls", "both", 200, file=400, float=(0.0, -0.001, 0.001))
    found = [one for one in paper_bars.judge(rows) if one["task"] == "cls"]
    assert {(one["variant"], one["met"]) for one in found} == {("both", True)}


def test_any_variant_may_reach_the_stretch_but_not_at_a_loss():
    rows = [row("rec", "float", 1000), row("rec", "pact", 580, float=(0, 0, 0))]
    rows.append(row("rec", "pact-lstm", 275, float=(-0.5, -0.6, -0.4)))
    found = verdict(rows, "rec", "weight bytes −70 %", stretch=True)
    assert (found["variant"], found["met"]) == ("pact", False)
    assert [each["variant"] for each in found["tried"]] == ["pact", "pact-lstm"]
    rows[2] = row("rec", "pact-lstm", 275, float=(-0.01, -0.02, 0.001))
    for bar in ("weight bytes −70 %", "no loss"):
        found = verdict(rows, "rec", bar, stretch=True)
        assert (found["variant"], found["met"]) == ("pact-lstm", True)
    # The LSTM stays float for the bar that says so.
    assert verdict(rows, "rec", "weight bytes −42 %, LSTM in float")["variant"] == "pact"


def test_what_was_not_measured_is_neither_met_nor_unmet():
    found = paper_bars.judge(DETECTOR)
    assert {one["met"] for one in found if one["task"] != "det"} == {None}
    assert all(one["value"] is None for one in found if one["met"] is None)
    chinese = [row("chinese", "float", 1000), row("chinese", "ptq-mse", 392)]
    found = verdict([*DETECTOR, *chinese], "chinese", "weight bytes −60 %")
    assert found["met"] is True and found["value"] == pytest.approx(-0.608)


def test_a_system_clears_its_bars_as_one():
    rows = [
        row("system", "float", 0, file=1000),
        row("system", "slim", 0, file=440, float=(0.01, -0.01, 0.02)),
        row("system", "both", 0, file=430, float=(-0.001, -0.02, 0.01)),
    ]
    found = [one for one in paper_bars.judge(rows) if one["task"] == "system"]
    assert [(one["variant"], one["met"]) for one in found] == [("both", True), ("both", True)]
