"""Three .nb artifacts and what they were made from → one folder that proves itself: the shipped models, for real."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import artifact
from artifact import ArtifactError
from command import ModelError, UsageError
from export import bundle, expected, to_inference, to_nb
from lite_runtime import bundle as sealed
from lite_runtime import recording
from lite_runtime.pipeline import DEFAULT_MODELS, OcrPipeline

ROOT = Path(__file__).parents[2]
PRETRAINED = DEFAULT_MODELS.parent


@pytest.fixture(scope="module")
def inference(tmp_path_factory):
    out = tmp_path_factory.mktemp("inference")
    for role in bundle.ROLES:
        to_inference.export(PRETRAINED / role, out / role)
    return {role: out / role for role in bundle.ROLES}


@pytest.fixture(scope="module")
def parts(inference, tmp_path_factory):
    out = tmp_path_factory.mktemp("x86")
    for role, folder in inference.items():
        to_nb.convert(folder, out / role, target="x86")
    return {role: out / role for role in bundle.ROLES}


@pytest.fixture(scope="module")
def made(parts, inference, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "x86"
    bundle.bundle(parts, out, inference=inference)
    return out


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def run_command(*args) -> subprocess.CompletedProcess:
    argv = [sys.executable, ROOT / "export" / "bundle.py", *map(str, args)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)


def test_a_bundle_is_whole_and_opens(made, parts):
    manifest = artifact.load(made, kind="bundle", task="system")
    assert manifest.extra["target"] == "x86" and manifest.extra["self_test"]["lines"] >= 8
    assert {"det/model.nb", "cls/manifest.json", "rec/charset.txt", "self_test/recorded.json"} <= set(manifest.files)
    for role, folder in parts.items():
        assert artifact.load(made / role, kind="nb", task=role) == artifact.load(folder)
        assert manifest.extra["models"][role]["parent"] == artifact.digest(folder)
    assert OcrPipeline.from_folder(made).rec.labels[-1] == " "


def test_the_self_test_covers_what_a_phone_may_get_wrong(made):
    run = recording.read(made / "self_test", images=True)
    tensors = [tensor for image in run.images for tensor in image.tensors]
    assert len({t.input.shape[3] for t in tensors if t.task == "rec"}) >= 4  # width buckets
    assert {line.angle for image in run.images for line in image.lines} == {0, 180}
    assert len({t.input.shape[2:] for t in tensors if t.task == "det"}) >= 3
    assert sum(path.stat().st_size for path in (made / "self_test").rglob("*") if path.is_file()) < 1_500_000
    for image in run.images:  # lossless: the very pixels that were read
        assert cv2.imread(str(made / "self_test" / image.image)).shape[2] == 3 and image.image.endswith(".png")


def test_expectations_are_the_networks_own(made, inference):
    """To the millionth that is kept: one network by hand, without the pipeline."""
    from ocr_models.paddle_engine import InferenceEngine

    tensor = recording.read(made / "self_test").images[0].tensor("rec", 0)
    assert tensor is not None
    output = InferenceEngine(inference["rec"], onednn=False, optimize=False).run(tensor.input)
    assert float(np.abs(output - tensor.output).max()) <= 0.5 / expected.STEPS + 1e-7


def test_the_same_parts_give_the_same_files(made, parts, inference, tmp_path):
    manifest = bundle.bundle(parts, tmp_path / "again", inference=inference)
    assert manifest.files == artifact.load(made).files


def test_the_command_checks_a_bundle(made, tmp_path):
    done = run_command("--check", made)
    assert done.returncode == 0 and done.stdout.rstrip().endswith("whole and consistent"), done.stdout + done.stderr
    done = run_command("--check", made, "--json")
    assert json.loads(done.stdout)["passed"] and done.stderr == ""


def resealed(folder):
    sealed.write(folder, artifact.load(folder, verify=False), "test")


def spoil_text(folder):
    path = folder / "self_test" / "recorded.json"
    path.write_text(path.read_text().replace("IMMEDIATE", "IMMEDIATF"))
    resealed(folder)


def spoil_input(folder):
    run = recording.read(folder / "self_test")
    first = run.images[0]
    tensors = (replace(first.tensors[0], input=first.tensors[0].input[..., ::-1]), *first.tensors[1:])
    recording.write(folder / "self_test", replace(run, images=(replace(first, tensors=tensors), *run.images[1:])))
    resealed(folder)


def spoil_kernels(folder):
    path = folder / "cls" / artifact.MANIFEST
    record = json.loads(path.read_text())
    record["extra"]["kernels"]["conv2d"] = {"fp32": 1}
    path.write_text(json.dumps(record))
    resealed(folder)


def spoil_height(folder):
    path = folder / "rec" / artifact.MANIFEST
    record = json.loads(path.read_text())
    record["input"]["shape"][2] = 48
    path.write_text(json.dumps(record))
    resealed(folder)


def flip_bit(name):
    def flip(folder):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 4
        (folder / name).write_bytes(data)

    return flip


def spoil_seal(folder):
    (folder / "manifest.sha256").unlink()


def spoil_self_test(folder):
    shutil.rmtree(folder / "self_test")
    resealed(folder)


@pytest.mark.parametrize(
    ("spoil", "row", "words"),
    [
        (flip_bit("manifest.json"), "files", ""),
        (flip_bit("rec/manifest.json"), "files", "expected sha256"),
        (flip_bit("det/model.nb"), "files", "expected sha256"),
        (flip_bit("self_test/images/long.png"), "files", "expected sha256"),
        (flip_bit("self_test/recorded.json"), "files", "expected sha256"),
        (spoil_seal, "files", "expected manifest.sha256"),
        (spoil_kernels, "direction classifier", "expected the kernels that its manifest lists"),
        (spoil_height, "recognizer", "expected an input of 48 px height as its manifest has, found 32"),
        (spoil_self_test, "self test", "expected a bundle with self_test/"),
        (spoil_text, "self test", "expected the line 'IMMEDIATE BURIAL' that its tensors give"),
        (spoil_input, "self test", "expected the det input that the image gives"),
    ],
)
def test_check_names_what_is_wrong(copy, spoil, row, words, capsys):
    spoil(copy)
    code = bundle.run(bundle.build_parser().parse_args(["--check", str(copy), "--json"]))
    data = json.loads(capsys.readouterr().out)
    assert code == 1 and not data["passed"]
    assert data["checks"][-1]["what"] == row and words in data["checks"][-1]["found"]


def test_wrong_arguments_are_one_line(tmp_path):
    done = run_command("--check", tmp_path)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "expected an artifact folder with manifest.json, found none" in done.stderr
    for arguments, words in (
        (["--check", str(tmp_path / "none")], "expected an artifact folder, found nothing"),
        (["--check", str(tmp_path), "--out", str(tmp_path / "x")], "expected --check DIR alone"),
        (["--det", "a", "--cls", "b", "--rec", "c"], "found no --inference"),
        ([], "found no --det"),
    ):
        with pytest.raises((ArtifactError, UsageError), match=words):
            bundle.run(bundle.build_parser().parse_args(arguments))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_float_and_int8_go_together_on_arm(inference, tmp_path):
    to_inference.export(PRETRAINED / "slim" / "det", tmp_path / "slim")
    sources = {**inference, "det": tmp_path / "slim"}
    parts = {role: tmp_path / role for role in bundle.ROLES}
    for role, folder in sources.items():
        to_nb.convert(folder, parts[role], target="arm")
    with pytest.raises(ArtifactError, match=r"expected the inference artifact that .* was made from, found another"):
        bundle.bundle(parts, tmp_path / "bundle", inference=inference)
    manifest = bundle.bundle(parts, tmp_path / "bundle", inference=sources)
    assert [manifest.extra["models"][role]["precision"] for role in bundle.ROLES] == ["int8", "fp32", "fp32"]
    assert all(probe() for _, probe in bundle.checks(tmp_path / "bundle"))


def test_images_must_have_text(parts, inference, tmp_path):
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "white.png"), np.full((64, 64, 3), 255, np.uint8))
    with pytest.raises(ModelError, match="expected text on the 1 self-test images, found none"):
        bundle.bundle(parts, tmp_path / "bundle", inference=inference, images=tmp_path / "images")
    (tmp_path / "images" / "white.png").unlink()
    with pytest.raises(UsageError, match="expected images"):
        bundle.bundle(parts, tmp_path / "bundle", inference=inference, images=tmp_path / "images")
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_files_that_compute_something_else_are_found(parts, inference, tmp_path):
    """Manifests that agree, and weights of the recognizer's last layer that do not."""
    folder = shutil.copytree(parts["rec"], tmp_path / "rec")
    nb = to_nb.nb_file.read(folder / "model.nb")
    last = max(
        (p for p in nb.params.values() if p.shape and p.shape[-1] == 97 and p.dtype == "float32"),
        key=lambda p: len(p.data),
    )
    data = bytearray((folder / "model.nb").read_bytes())
    at = data.index(bytes(last.data))
    weights = np.frombuffer(last.data, np.float32) * np.float32(1.1)
    data[at : at + len(last.data)] = weights.tobytes()
    (folder / "model.nb").write_bytes(data)
    artifact.write(folder, artifact.load(folder, verify=False), "test")
    with pytest.raises(ModelError, match=r"expected the \.nb files to compute what .* rec output of .* differs"):
        bundle.bundle({**parts, "rec": folder}, tmp_path / "bundle", inference=inference)
    assert not (tmp_path / "bundle").exists()


def refused(parts, inference, tmp_path, error, words, **options):
    with pytest.raises(error, match=words):
        bundle.bundle(parts, tmp_path / "bundle", inference=inference, **options)
    assert not (tmp_path / "bundle").exists()


def altered(folder, to, **changes):
    shutil.copytree(folder, to)
    manifest = artifact.load(to)
    changes = {key: value(getattr(manifest, key)) if callable(value) else value for key, value in changes.items()}
    artifact.write(to, manifest.replace(**changes), "test")
    return to


def test_machines_must_agree(parts, inference, tmp_path):
    to_nb.convert(inference["cls"], tmp_path / "cls", target="arm")
    found = {**parts, "cls": tmp_path / "cls"}
    refused(found, inference, tmp_path, ModelError, "expected target x86 as the det model has, found arm")


def test_opt_versions_must_agree(parts, inference, tmp_path):
    folder = shutil.copytree(parts["cls"], tmp_path / "cls")
    data = bytearray((folder / "model.nb").read_bytes())
    data[2:18] = b"v2.12".ljust(16, b"\0")
    (folder / "model.nb").write_bytes(data)
    artifact.write(folder, artifact.load(folder, verify=False), "test")
    found = {**parts, "cls": folder}
    refused(found, inference, tmp_path, ModelError, "expected opt version v2.13-rc as the det model has, found v2.12")


def test_roles_come_from_the_outputs(parts, inference, tmp_path):
    refused(
        {**parts, "cls": parts["det"]},
        inference,
        tmp_path,
        ArtifactError,
        "expected a model for task cls, found task det",
    )
    liar = altered(parts["det"], tmp_path / "liar", task="cls")
    words = r"expected a direction classifier, whose output has 2 sides, found \[-1, 1, -1, -1\]"
    refused({**parts, "cls": liar}, inference, tmp_path, ModelError, words)
    liar = altered(parts["cls"], tmp_path / "angles", post=lambda post: {**post, "labels": ["0", "90", "180"]})
    words = "expected 3 directions of a classifier, found 2"
    refused({**parts, "cls": liar}, inference, tmp_path, ModelError, words)


def test_input_heights(parts, inference, tmp_path):
    tall = altered(parts["rec"], tmp_path / "tall", input=lambda eats: replace(eats, shape=(-1, 3, 48, -1)))
    words = "expected an input of 48 px height as its manifest has, found 32"
    refused({**parts, "rec": tall}, inference, tmp_path, ModelError, words)


def test_manifests_must_tell_the_truth(parts, inference, tmp_path):
    for number, (change, words) in enumerate(
        [
            ({"target": "arm"}, "expected kernels for arm, found x86"),
            ({"precision": "fp16"}, "expected fp16 convolutions"),
            ({"precision": "weight-int8"}, "whose answers Paddle cannot tell"),
            ({"target": None}, r"expected extra\.target"),
        ]
    ):
        liar = altered(parts["det"], tmp_path / f"{number}", extra=lambda extra, change=change: {**extra, **change})
        refused({**parts, "det": liar}, inference, tmp_path, (ArtifactError, ModelError), words)


def test_the_inference_models_must_be_the_right_ones(parts, inference, tmp_path):
    swapped = {**inference, "cls": inference["det"]}
    refused(parts, swapped, tmp_path, ArtifactError, "expected a model for task cls, found task det")
    bare = shutil.copytree(inference["det"], tmp_path / "bare")
    (bare / artifact.MANIFEST).unlink()
    words = "was made from, found a folder without manifest.json"
    refused(parts, {**inference, "det": bare}, tmp_path, ArtifactError, words)


def test_a_charset_of_its_own(parts, inference, tmp_path):
    own = (parts["rec"] / "charset.txt").read_text(encoding="utf-8").splitlines()
    other = tmp_path / "other.txt"
    other.write_text("".join(f"{entry}\n" for entry in own).replace("A\n", "Ä\n"), encoding="utf-8")
    manifest = bundle.bundle(parts, tmp_path / "bundle", inference=inference, charset=other)
    models = sealed.read(tmp_path / "bundle")
    assert "Ä" in models.labels and "A" not in models.labels and len(models.labels) == 97
    assert manifest.files["rec/charset.txt"]["bytes"] == other.stat().st_size
    texts = [line.text for image in recording.read(models.self_test).images for line in image.lines]
    assert any("Ä" in text for text in texts) and not any("A" in text for text in texts)
    shutil.rmtree(tmp_path / "bundle")
    other.write_text("".join(f"{entry}\n" for entry in own[:-2]), encoding="utf-8")
    refused(parts, inference, tmp_path, ModelError, "expected a charset of 95 entries", charset=other)


def test_a_charset_must_fit_the_output(parts, inference, tmp_path):
    folder = shutil.copytree(parts["rec"], tmp_path / "rec")
    charset = folder / "charset.txt"
    charset.write_text(charset.read_text() + "é\n", encoding="utf-8")
    manifest = artifact.load(folder, verify=False).replace(charset=artifact.charset_record(charset))
    artifact.write(folder, manifest, "test")
    words = "expected a recognizer of 98 classes as its charset has, found 97"
    refused({**parts, "rec": folder}, inference, tmp_path, ModelError, words)


def test_a_changed_bit_of_a_part(parts, inference, tmp_path):
    folder = shutil.copytree(parts["det"], tmp_path / "det")
    flip_bit("model.nb")(folder)
    refused({**parts, "det": folder}, inference, tmp_path, ArtifactError, "sha256")
