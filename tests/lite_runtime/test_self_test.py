"""The self test as a board's owner runs it, on a bundle that is right and on bundles that expect something else."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import artifact
from lite_runtime import bundle, recording
from lite_runtime.pipeline import OcrPipeline
from lite_runtime.recorder import record
from lite_runtime.self_test import compare

COMMAND = Path(__file__).parents[2] / "lite_runtime" / "self_test.py"


def self_test(*args) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, COMMAND, *map(str, args)], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_right_bundle_passes_and_is_recorded(colour_bundle, tmp_path):
    done = self_test(colour_bundle, "--record", tmp_path / "run")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.splitlines()[-1].endswith("computes what it did where it was made")
    assert "DIFFERS" not in done.stdout
    found = recording.read(tmp_path / "run", images=True)
    assert found.engine == "paddlelite 2.13rc0" and found.device["bundle"] == artifact.digest(colour_bundle)
    [image] = found.images
    assert [line.text for line in image.lines] == ["rgb", "rb", "rgbg", "rb"]
    assert [line.angle for line in image.lines] == [0, 0, 180, 0]
    assert [(t.task, t.index) for t in image.tensors if t.task != "rec"] == [
        ("det", 0),
        *[("cls", n) for n in range(4)],
    ]
    assert image.tensor("rec", 2).input.shape == (1, 3, 32, 320)


def changed(folder, change):
    """The bundle with other expectations, sealed again."""
    run = recording.read(folder / bundle.SELF_TEST)
    recording.write(folder / bundle.SELF_TEST, replace(run, images=(change(run.images[0]),)))
    bundle.write(folder, artifact.load(folder, verify=False), "test")
    return folder


def other_tensor(task, by):
    def change(image):
        tensors = [replace(t, output=t.output + np.float32(by)) if t.task == task else t for t in image.tensors]
        return replace(image, tensors=tuple(tensors))

    return change


def other_line(**fields):
    return lambda image: replace(image, lines=(replace(image.lines[0], **fields), *image.lines[1:]))


def moved(image):
    quad = tuple((x + 3.0, y) for x, y in image.lines[0].quad)
    return replace(image, lines=(replace(image.lines[0], quad=quad), *image.lines[1:]))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (other_tensor("det", 0.001), "det output"),
        (other_tensor("cls", 0.001), "cls output"),
        (other_tensor("rec", 0.001), "rec output"),
        (other_tensor("rec", 0.0004), None),  # within the tolerance
        (other_line(text="rgd"), "texts"),
        (other_line(angle=180), "directions"),
        (other_line(score=0.9), "scores"),
        (moved, "boxes"),
        (lambda image: replace(image, tensors=image.tensors[:1], lines=()), "boxes"),
        (
            lambda image: replace(
                image, tensors=(replace(image.tensors[0], input=image.tensors[0].input * 0.9), *image.tensors[1:])
            ),
            "det output",
        ),
    ],
)
def test_what_differs_is_named(colour_bundle, tmp_path, change, what):
    models = bundle.read(changed(shutil.copytree(colour_bundle, tmp_path / "bundle"), change))
    ocr = OcrPipeline.from_models(models)
    expected = recording.read(models.self_test)
    from lite_runtime.preprocess import read_image

    picture = read_image(models.self_test / "images" / "page.png")
    found = recording.Recording("here", (record(ocr, picture, "images/page.png", expected.images[0].sha256),))
    failed = [check.what for check in compare(models, ocr, expected, found) if not check.passed]
    assert failed[:1] == ([what] if what else [])


def test_a_difference_exits_1(colour_bundle, tmp_path):
    folder = changed(shutil.copytree(colour_bundle, tmp_path / "bundle"), other_line(text="bgr"))
    done = self_test(folder, "--json")
    assert done.returncode == 1 and done.stderr == ""
    data = json.loads(done.stdout)
    assert [c["what"] for c in data["checks"] if not c["passed"]] == ["texts"] and not data["passed"]
    assert "'rgb', expected 'bgr'" in json.dumps(data)
    table = self_test(folder)
    assert table.returncode == 1 and table.stdout.rstrip().endswith("differs first in texts of page.png")


def test_bad_input_is_one_line(colour_bundle, colour_models, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    broken = shutil.copytree(colour_bundle, tmp_path / "broken")
    (broken / "self_test" / "page.det.0.out.f32.gz").write_bytes(b"")
    for arguments, words in (
        ([colour_models / "x86"], "expected a bundle with self_test/, found none"),
        ([tmp_path / "none"], "expected a folder with det/, cls/ and rec/"),
        ([broken], "page.det.0.out.f32.gz: expected"),
        ([colour_bundle, "--record", tmp_path / "taken"], "expected a folder that does not exist yet"),
    ):
        done = self_test(*arguments)
        assert done.returncode == 2 and done.stdout == "" and words in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in (tmp_path / "taken").iterdir()) == ["file"]


def test_paddle_is_never_imported(colour_bundle):
    script = (
        "import sys\n"
        "from lite_runtime import self_test\n"
        "code = self_test.run(self_test.build_parser().parse_args(sys.argv[1:]))\n"
        "foreign = {'paddle', 'ocr_models', 'slim', 'export'} & {name.split('.')[0] for name in sys.modules}\n"
        "assert not foreign, foreign\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, colour_bundle], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
