"""The comparison with PaddleSlim's analysis: hand-made results, and both commands for real."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import artifact
import command
from benchmarks import sensitivity_speed
from benchmarks.stats import rank_correlation

ROOT = Path(artifact.__file__).parent


@pytest.mark.parametrize(
    "first, second, expected",
    [
        ([1, 2, 3, 4], [10, 20, 30, 4000], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),  # 1 − 6 · (1 + 1 + 1 + 1) / (5 · 24)
        ([1, 1, 2], [1, 2, 3], 3**0.5 / 2),  # ranks 1.5 1.5 3 and 1 2 3
    ],
)
def test_rank_correlation(first, second, expected):
    assert rank_correlation(first, second) == pytest.approx(expected)


def test_rank_correlation_of_nothing():
    assert rank_correlation([1, 1], [1, 2]) != rank_correlation([1, 1], [1, 2])  # NaN
    for rows in (([1], [1]), ([1, 2], [1, 2, 3])):
        with pytest.raises(ValueError, match="two rows of at least two values"):
            rank_correlation(*rows)


def results(cpu_s=10.0, losses=(0.1, 0.2, 0.3, 0.4), halves=None):
    names = ("a", "b", "c", "d")
    ours = {
        "task": "cls",
        "metric": "accuracy",
        "samples": 10,
        "of": 100,
        "cpu_s": cpu_s,
        "wall_s": 20.0,
        "mean_losses": dict(zip(names, losses, strict=True)),
    }
    baseline = {
        "samples": 100,
        "evaluations": 9,
        "kernels": "paddle",
        "cpu_s": 100.0,
        "wall_s": 110.0,
        # means .05, .15, .25, .35
        "groups": {name: {"losses": [0.1 * i, 0.1 + 0.1 * i]} for i, name in enumerate(names)},
        "halves": halves or [[[1, 2, 3, 4], [1, 2, 3, 4]], [[1, 2, 3, 4], [1, 2, 4, 3]]],
    }
    return ours, baseline


@pytest.mark.parametrize(
    "change, times, correlation, wanted, passed",
    [
        ({}, 10.0, 1.0, 0.9, True),  # halves: 1 and .8
        ({"cpu_s": 10.1}, 9.9, 1.0, 0.9, False),
        ({"losses": (0.2, 0.1, 0.3, 0.4)}, 10.0, 0.8, 0.9, False),
        ({"halves": [[[1, 2, 3, 4], [1, 2, 3, 4]]]}, 10.0, 1.0, 0.95, True),
        ({"losses": (0.2, 0.1, 0.3, 0.4), "halves": [[[1, 2, 3, 4], [1, 2, 4, 3]]]}, 10.0, 0.8, 0.8, True),
    ],
)
def test_compare(change, times, correlation, wanted, passed):
    found = sensitivity_speed.compare(*results(**change))
    assert found["times_faster"] == times
    assert (found["rank_correlation"], found["wanted_correlation"]) == (correlation, wanted)
    assert found["passed"] is passed
    assert found["mean_losses"]["b"][0] == pytest.approx(0.15)
    text = sensitivity_speed.render({**found, "ratios": [0.5, 0.6]})
    assert f"{times:.1f}" in text and f"{correlation:.3f}" in text


def test_other_groups_are_no_comparison():
    ours, baseline = results()
    ours["mean_losses"].pop("a")
    with pytest.raises(command.ModelError, match="the same groups"):
        sensitivity_speed.compare(ours, baseline)


@pytest.mark.slow
def test_both_commands_run(tmp_path):
    """The shipped classifier on four crops: too few to be faster, which is what exit code 1 says."""
    sys.path.insert(0, str(ROOT / "tests" / "slim"))
    from slimming_toys import make_data

    line = [sys.executable, sensitivity_speed.__file__, ROOT / "ocr_models" / "pretrained" / "cls"]
    line += ["--data", make_data(tmp_path / "data"), "--out", tmp_path / "speed.json", "--ratios", 0.5]
    ended = subprocess.run([str(part) for part in line], stdout=subprocess.PIPE, text=True, timeout=600)
    assert ended.returncode == 1
    found = json.loads((tmp_path / "speed.json").read_text())
    assert found["groups"] == 26 and found["baseline"]["evaluations"] == 27 and found["ours"]["samples"] == 4
    assert not found["passed"] and f"{found['times_faster']:.1f}" in ended.stdout
    again = subprocess.run([str(part) for part in line], stdout=subprocess.PIPE, text=True, timeout=600)
    assert again.stdout == ended.stdout, "what is done is not done again"
