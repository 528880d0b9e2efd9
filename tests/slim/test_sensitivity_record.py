"""sensitivity.json: what it says of ratios between the measured ones, and what it refuses."""

import json

import pytest

from command import ModelError
from slim.sensitivity_picture import draw
from slim.sensitivity_record import GroupSensitivity, Sensitivity


def group(name, filters, removed, accuracy, measured=(True, True, True)):
    return GroupSensitivity(
        name=name,
        filters=filters,
        members=((name, 0), ("next.weight", 1)),
        removed=removed,
        metrics={"accuracy": accuracy},
        measured=measured,
        params=(10, 20, 30),
        macs=(100, 200, 300),
    )


def record(*groups):
    return Sensitivity(
        task="cls",
        name="toy",
        weights="w",
        data="d",
        samples=10,
        of=100,
        metric="accuracy",
        baseline={"accuracy": 0.9},
        ratios=(0.25, 0.5, 0.75),
        groups=groups,
    )


@pytest.fixture
def sensitivity():
    return record(
        group("rising", 8, (2, 4, 6), (0.8, 0.5, 0.4)),  # losses .1 .4 .5
        group("noisy", 8, (2, 4, 6), (0.95, 0.85, 0.88)),  # losses -.05 .05 .02
        group("coarse", 2, (0, 1, 1), (0.9, 0.7, 0.7), (True, True, False)),  # shares 0, 1/2, 1/2
    )


@pytest.mark.parametrize(
    "name, ratio, loss",
    [
        ("rising", 0.0, 0.0),
        ("rising", 0.125, 0.05),  # half way from 0 to .1
        ("rising", 0.25, 0.1),
        ("rising", 0.375, 0.25),  # half way from .1 to .4
        ("rising", 0.75, 0.5),
        ("rising", 0.875, 0.7),  # half way from .5 to all of .9
        ("rising", 1.0, 0.9),
        ("noisy", 0.25, 0.0),  # a gain is no negative loss
        ("noisy", 0.5, 0.05),
        ("noisy", 0.75, 0.05),  # .02 there is chance: less had cost .05
        ("coarse", 0.25, 0.1),  # one of two filters costs .2; the line leads there from none
        ("coarse", 0.5, 0.2),
    ],
)
def test_predicted_loss(name, ratio, loss, sensitivity):
    assert sensitivity.predicted_loss(name, ratio) == pytest.approx(loss)


def test_predicted_loss_never_falls(sensitivity):
    for one in sensitivity.groups:
        losses = [sensitivity.predicted_loss(one.name, step / 100) for step in range(101)]
        assert losses == sorted(losses) and losses[0] == 0


def test_losses(sensitivity):
    assert sensitivity.losses("noisy") == pytest.approx((-0.05, 0.05, 0.02))
    assert sensitivity.mean_loss("rising") == pytest.approx(1 / 3)
    with pytest.raises(ModelError, match="expected a group of the measured network, found other"):
        sensitivity.losses("other")
    with pytest.raises(ValueError, match="from 0 to 1"):
        sensitivity.predicted_loss("rising", 1.1)


def test_the_disk_keeps_everything(sensitivity, tmp_path):
    sensitivity.save(tmp_path)
    assert Sensitivity.load(tmp_path) == Sensitivity.load(tmp_path / "sensitivity.json") == sensitivity


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: r.update(schema=2), "another schema"),
        (lambda r: r.update(extra=1), "keys extra"),
        (lambda r: r.pop("samples"), "keys samples"),
        (lambda r: r["groups"][0].pop("macs"), "keys macs"),
        (lambda r: r["groups"][0].update(removed=[2, 4]), "3 values a list in rising"),
        (lambda r: r["groups"][0].update(removed=[2, 4, 8]), "ascending counts in rising"),
        (lambda r: r["groups"][0].update(metrics={"ned": [1, 1, 1]}), "the baseline's metrics in rising"),
        (lambda r: r.update(ratios=[0.5, 0.25, 0.75]), "ascending ratios"),
        (lambda r: r.update(metric="ned"), "a baseline of ned"),
    ],
)
def test_what_is_not_understood_is_refused(change, message, sensitivity, tmp_path):
    sensitivity.save(tmp_path)
    path = tmp_path / "sensitivity.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=message):
        Sensitivity.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": 1}', "[" * 100000])
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "sensitivity.json").write_text(text)
    with pytest.raises(ModelError, match="expected a sensitivity record"):
        Sensitivity.load(tmp_path)
    with pytest.raises(ModelError, match="make it with slim/sensitivity"):
        Sensitivity.load(tmp_path / "none")


def test_the_picture_marks_what_was_chosen(sensitivity, tmp_path):
    for name, chosen in (("plain.svg", None), ("marked.svg", {"rising": 0.5})):
        draw(sensitivity, tmp_path / name, chosen)
    plain, marked = ((tmp_path / name).read_text() for name in ("plain.svg", "marked.svg"))
    colour = "#c23b22"
    assert colour not in plain and colour in marked
    draw(sensitivity, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
