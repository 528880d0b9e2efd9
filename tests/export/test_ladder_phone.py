"""Recorded runs of a device: the shipped models' own, and the same with faults put in."""

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from artifact import ArtifactError
from command import UsageError
from export import check_parity, ladder, ladder_photos, parity_cases, to_inference
from lite_runtime import recording
from lite_runtime.recorder import record

PRETRAINED = Path(check_parity.__file__).parents[1] / "ocr_models" / "pretrained"
TASKS = ("det", "cls", "rec")


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> Path:
    """images/ with two small pages, inference/TASK, and phone/: what the inference models record on the pages."""
    root = tmp_path_factory.mktemp("system")
    (root / "images").mkdir()
    pages = parity_cases.draw_images("det")
    cv2.imwrite(str(root / "images" / "a.png"), pages[0][:192, :320])
    cv2.imwrite(str(root / "images" / "b.png"), pages[1][:160, :320])
    models = {}
    for task in TASKS:
        to_inference.export(PRETRAINED / task, root / "inference" / task)
        models[task] = ladder.open_model(PRETRAINED / task, root / "inference" / task, (), tolerance=5e-4)
    ocr = ladder_photos._pipeline(models, ladder.FUSED)
    images = [
        record(ocr, photo.image, f"images/{photo.name}", photo.sha256)
        for photo in ladder_photos.read_photos(sorted((root / "images").iterdir()))
    ]
    assert all(image.lines for image in images)
    (root / "phone").mkdir()
    recording.write(root / "phone", recording.Recording("test", tuple(images), {"model": "a phone"}))
    return root


def climb(system, phone, capsys, *extra, tasks=TASKS) -> tuple[int, dict]:
    argv = ["--phone", phone, "--images", system / "images", *extra, "--json"]
    for task in tasks:
        argv += [f"--{task}", PRETRAINED / task, system / "inference" / task]
    code = check_parity.run(check_parity.build_parser().parse_args([*map(str, argv)]))
    return code, json.loads(capsys.readouterr().out)


def changed(system, folder, change) -> Path:
    """The recording with its images changed by `change`, a function of the tuple of them."""
    run = recording.read(system / "phone")
    folder.mkdir()
    recording.write(folder, dataclasses.replace(run, images=change(run.images)))
    return folder


def on_phone(report) -> dict[str, set[str]]:
    return {
        task: {rung["fault"] for rung in report["rungs"] if rung["task"] == task and rung["stage"].startswith("phone")}
        for task in (*TASKS, "photo")
    }


@pytest.mark.slow
def test_a_right_phone(system, capsys, tmp_path):
    code, report = climb(system, system / "phone", capsys, "--html", str(tmp_path / "page.html"))
    assert (code, report["first_difference"], report["task"]) == (0, "", "system")
    assert on_phone(report) == {task: {""} for task in (*TASKS, "photo")}
    lines = sum(len(image.lines) for image in recording.read(system / "phone").images)
    for task, count in (("det", 2), ("cls", lines), ("rec", lines), ("photo", 2)):
        rungs = [r for r in report["rungs"] if r["task"] == task and r["stage"].startswith("phone")]
        assert len(rungs) == count and all(rung["input"] is not None for rung in rungs if task != "photo")
    assert not any("phone" in line for line in report["not_measured"])
    page = (tmp_path / "page.html").read_text()
    assert page.count("as phone phone reads it") == 2
    assert recording.read(system / "phone").images[0].lines[0].text in page


@pytest.mark.slow
def test_faults_of_a_phone(system, capsys, tmp_path):
    """A text, a recognizer's output, the detector's input: each is found where it is, and nowhere else."""

    def change(images):
        a, b = images
        lines = [dataclasses.replace(a.lines[0], text=a.lines[0].text + "!"), *a.lines[1:]]
        tensors = list(b.tensors)
        rec = next(i for i, t in enumerate(tensors) if t.task == "rec")
        tensors[rec] = dataclasses.replace(tensors[rec], output=tensors[rec].output * np.float32(0.98))
        det = next(i for i, t in enumerate(tensors) if t.task == "det")
        tensors[det] = dataclasses.replace(tensors[det], input=tensors[det].input[:, ::-1])
        return dataclasses.replace(a, lines=tuple(lines)), dataclasses.replace(b, tensors=tuple(tensors))

    code, report = climb(system, changed(system, tmp_path / "phone", change), capsys, "--bisect")
    assert (code, report["first_difference"]) == (1, "phone phone: input tensor of det images/b.png 0")
    assert on_phone(report) == {"det": {"", "input tensor"}, "cls": {""}, "rec": {"", "output"}, "photo": {"", "texts"}}
    photo = next(r for r in report["rungs"] if r["fault"] == "texts")
    assert (photo["case"], photo["edits"], photo["boxes"]["same"]) == ("images/a.png", 1, True)
    assert "what goes in differs already" in report["culprit"]["said"]


def test_missing_image(system, capsys, tmp_path):
    phone = changed(system, tmp_path / "phone", lambda images: images[:1])
    code, report = climb(system, phone, capsys, tasks=("det",))
    assert (code, report["first_difference"]) == (1, "phone phone: missing of photo b.png")


def test_one_model_without_the_images(system, capsys):
    """A recognizer alone: its recorded inputs are enough, where the crops came from does not matter."""
    options = [PRETRAINED / "rec", system / "inference" / "rec", "--phone", system / "phone", "--json"]
    assert check_parity.run(check_parity.build_parser().parse_args(list(map(str, options)))) == 0
    report = json.loads(capsys.readouterr().out)
    assert on_phone(report)["rec"] == {""}


@pytest.mark.parametrize("fault", ["truncated", "no tensor", "no images"])
def test_damaged_folders(system, capsys, tmp_path, fault):
    phone = shutil.copytree(system / "phone", tmp_path / "phone")
    if fault == "truncated":
        path = next(phone.glob("*.det.0.out.f32.gz"))
        path.write_bytes(path.read_bytes()[:-100])
    elif fault == "no tensor":
        next(phone.glob("*.rec.0.in.f32.gz")).unlink()
    else:
        run = recording.read(phone)
        recording.write(
            phone, dataclasses.replace(run, images=tuple(dataclasses.replace(i, sha256="0" * 64) for i in run.images))
        )
    expected = UsageError if fault == "no images" else ArtifactError
    with pytest.raises(expected, match=r"expected .* found .*") as caught:
        climb(system, phone, capsys)
    assert "\n" not in str(caught.value)
