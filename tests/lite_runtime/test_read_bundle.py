"""Folders of models: what is loaded, and that nothing changed, foreign or linked is."""

import json
import os
import shutil

import pytest

import artifact
from artifact import ArtifactError
from command import ModelError
from lite_runtime import bundle
from lite_runtime.pipeline import OcrPipeline


@pytest.fixture
def copy(colour_bundle, tmp_path):
    return shutil.copytree(colour_bundle, tmp_path / "copy")


def refused(folder) -> str:
    with pytest.raises((ArtifactError, ModelError)) as caught:
        OcrPipeline.from_folder(folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def rewritten(folder, change, role=None):
    """The bundle after a change of a manifest's JSON, with hashes and seal that agree with it again."""
    path = folder / (role or "") / artifact.MANIFEST
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    outer = artifact.load(folder, verify=False)
    (folder / bundle.SEAL).unlink()
    bundle.write(folder, outer, "test")
    return folder


def test_a_bundle_is_read(colour_bundle, page):
    models = bundle.read(colour_bundle)
    assert models.labels == ["", "r", "g", "b", " "]
    assert models.nb("det") == colour_bundle / "det" / "model.nb" and models.self_test == colour_bundle / "self_test"
    assert OcrPipeline.from_models(models)(page).texts == ["rgb", "rb", "rgbg", "rb"]


def test_each_file_is_hashed_once(colour_bundle, monkeypatch):
    hashed = []
    fingerprint = artifact._fingerprint
    monkeypatch.setattr(artifact, "_fingerprint", lambda path: hashed.append(path) or fingerprint(path))
    bundle.read(colour_bundle)
    assert len(hashed) == len(set(hashed)) == len(artifact.load(colour_bundle, verify=False).files)


def test_one_bit_anywhere(copy):
    """Every file, at its start, its end and in between: a flipped bit is refused, and the flip back is not."""
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    names = {path.relative_to(copy).as_posix() for path in files}
    assert {"manifest.json", "manifest.sha256", "cls/manifest.json", "rec/charset.txt"} <= names
    assert any(name.startswith("self_test/images/") for name in names)
    for path in files:
        data = path.read_bytes()
        for at in sorted({0, len(data) // 3, len(data) // 2, len(data) - 1}):
            for bit in (0, 5):
                changed = bytearray(data)
                changed[at] ^= 1 << bit
                path.write_bytes(changed)
                assert refused(copy), (path, at, bit)
        path.write_bytes(data)
    bundle.read(copy)


def test_every_bit_of_the_manifest_s_fields(copy):
    path = copy / artifact.MANIFEST
    text = path.read_text()
    for word in ("x86", "v2.13-rc", '"det"', '"sha256"', "fp32", "schema", "system"):
        path.write_text(text.replace(word, word[:-1] + chr(ord(word[-1]) ^ 1), 1))
        assert path.read_text() != text
        refused(copy)


def test_bytes_more_or_less(copy):
    for name in ("manifest.json", "manifest.sha256", "det/model.nb", "det/manifest.json"):
        data = (copy / name).read_bytes()
        for other in (data + b"\n", data[:-1], b""):
            (copy / name).write_bytes(other)
            refused(copy)
        (copy / name).write_bytes(data)


def test_missing_and_foreign_files(copy):
    (copy / "det" / "notes.txt").write_text("hello")
    assert "expected the files of its manifest only, found det/notes.txt; remove it" in refused(copy)
    (copy / "det" / "notes.txt").unlink()
    (copy / bundle.SEAL).rename(copy.parent / "seal")
    assert "expected manifest.sha256 beside manifest.json, found none" in refused(copy)
    (copy.parent / "seal").rename(copy / bundle.SEAL)
    (copy / "rec" / "charset.txt").unlink()
    assert "expected the file rec/charset.txt, found none" in refused(copy)


@pytest.mark.parametrize("name", ["det/model.nb", "rec", "self_test/images", "manifest.json", "manifest.sha256"])
def test_symbolic_links(copy, name):
    """To the very bytes: what a link leads to may change after the check."""
    elsewhere = copy.parent / "elsewhere"
    (copy / name).rename(elsewhere)
    (copy / name).symlink_to(elsewhere)
    assert f"found the symbolic link {name}" in refused(copy)


def test_links_that_no_manifest_lists(copy):
    (copy / "self_test" / "more").symlink_to("/")
    assert "found the symbolic link self_test/more" in refused(copy)
    (copy / "self_test" / "more").unlink()
    os.mkfifo(copy / "pipe")
    assert "expected plain files, found pipe" in refused(copy)


@pytest.mark.parametrize("name", ["../model.nb", "/etc/passwd", "det/../../x", "C:/x", "det\\model.nb", ""])
def test_names_that_lead_outside(copy, name):
    path = copy / artifact.MANIFEST
    record = json.loads(path.read_text())
    record["files"][name] = record["files"]["det/model.nb"]
    path.write_text(json.dumps(record))
    bundle._seal(copy)
    assert "expected file names inside the folder" in refused(copy)


@pytest.mark.parametrize(
    ("role", "change", "words"),
    [
        (None, lambda r: r["extra"].update(models={}), "expected models det, cls and rec"),
        (None, lambda r: r["extra"].update(target="arm"), "expected target arm as the bundle has, found x86"),
        (None, lambda r: r["extra"].update(opt_version="v2.12"), "expected opt_version v2.12 as the bundle has"),
        (None, lambda r: r["extra"]["models"]["rec"].update(precision="int8"), "rec: expected the precision"),
        ("det", lambda r: r.update(task="rec"), "expected a model for task det, found task rec"),
        ("det", lambda r: r.update(kind="checkpoint"), "expected a nb artifact, found kind checkpoint"),
        ("det", lambda r: r.pop("input"), "expected a manifest with `input`, found none"),
        ("det", lambda r: r.update(files={}), "expected model.nb in the manifest"),
        ("cls", lambda r: r["files"].update({"../rec/model.nb": {}}), "expected the files that the bundle's manifest"),
        ("cls", lambda r: r["files"]["model.nb"].update(bytes=1), "expected the files that the bundle's manifest"),
        ("rec", lambda r: r["charset"].update(classes=6), "expected 6 classes .*found 5"),
        ("rec", lambda r: r["charset"].update(space=False), "expected 5 classes .*found 4"),
        ("rec", lambda r: r["charset"].update(sha256="0" * 64), "expected the charset 'charset.txt' to be the one"),
        ("rec", lambda r: r["charset"].update(file="../rec/charset.txt"), "expected the charset '../rec/charset.txt'"),
        ("rec", lambda r: r.pop("charset"), "expected a recognizer with a charset"),
    ],
)
def test_manifests_that_were_sealed_wrongly(copy, role, change, words):
    rewritten(copy, change, role)
    with pytest.raises((ArtifactError, ModelError), match=words):
        OcrPipeline.from_folder(copy)


def test_the_files_themselves_are_asked_for_their_version(copy):
    """Manifests that agree with each other and not with the file."""
    for role in (*bundle.ROLES, None):
        rewritten(copy, lambda record: record["extra"].update(opt_version="v2.12"), role)
    assert "expected a file of opt v2.12 as the bundle has, found v2.13-rc" in refused(copy)


def test_new_metrics_are_sealed(copy):
    manifest = artifact.load(copy).replace(metrics={"f_score": 0.5})
    bundle.rewrite(copy, manifest)
    models = bundle.read(copy)
    assert models.bundle is not None and models.bundle.metrics == {"f_score": 0.5}


def test_a_bundle_is_plain_to_other_tools(copy):
    """The seal is what `sha256sum -c` reads."""
    assert (copy / bundle.SEAL).read_text() == f"{artifact.digest(copy)}  manifest.json\n"


def test_loose_artifacts(colour_models, tmp_path):
    x86 = colour_models / "x86"
    assert bundle.read(x86).folders == {task: x86 / task for task in ("cls", "det", "rec")}
    for task in ("det", "rec"):
        shutil.copytree(x86 / task, tmp_path / f"my_{task}")  # any names; a classifier may be missing
    models = bundle.read(tmp_path)
    assert models.folders == {"det": tmp_path / "my_det", "rec": tmp_path / "my_rec"} and models.self_test is None
    assert OcrPipeline.from_folder(tmp_path).cls is None
    shutil.copytree(x86 / "det", tmp_path / "second")
    with pytest.raises(ArtifactError, match="expected one det model, found my_det and second"):
        bundle.read(tmp_path)


def test_other_folders(colour_models, tmp_path):
    with pytest.raises(ArtifactError, match="found no det and no rec"):
        bundle.read(tmp_path)
    with pytest.raises(ArtifactError, match="found none; give it with --models"):
        bundle.read(tmp_path / "none")
    with pytest.raises(ArtifactError, match="expected a bundle artifact, found kind nb"):
        bundle.read(colour_models / "x86" / "det")
