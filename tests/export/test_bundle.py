"""Three .nb artifacts → one folder."""

import shutil
from dataclasses import replace

import pytest

import artifact
from artifact import ArtifactError
from command import ModelError
from export import bundle
from lite_runtime.pipeline import OcrPipeline


@pytest.fixture
def parts(stages):
    return {role: stages(role) / "x86" for role in bundle.ROLES}


def test_bundle_is_whole_and_opens(parts, tmp_path):
    manifest = bundle.bundle(parts, tmp_path / "bundle")
    assert (manifest.kind, manifest.task, manifest.extra["target"]) == ("bundle", "system", "x86")
    found = artifact.load(tmp_path / "bundle", kind="bundle", task="system")
    assert {"det/model.nb", "cls/manifest.json", "rec/charset.txt"} <= set(found.files)
    for role, folder in parts.items():
        assert artifact.load(tmp_path / "bundle" / role, kind="nb", task=role) == artifact.load(folder)
        assert found.extra["models"][role]["parent"] == artifact.digest(folder)
    assert OcrPipeline.from_folder(tmp_path / "bundle").rec.labels[-1] == " "


def test_machines_must_agree(parts, stages, tmp_path):
    with pytest.raises(ModelError, match="expected target x86 as the det model has, found arm"):
        bundle.bundle({**parts, "cls": stages("cls") / "arm"}, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_float_and_int8_go_together_on_arm(stages, tmp_path):
    folders = {"det": stages("det-int8") / "arm", "cls": stages("cls") / "arm", "rec": stages("rec") / "arm"}
    models = bundle.bundle(folders, tmp_path / "bundle").extra["models"]
    assert [models[role]["precision"] for role in bundle.ROLES] == ["int8", "fp32", "fp32"]


def test_roles_must_fit(parts, tmp_path):
    with pytest.raises(ArtifactError, match="expected a model for task cls, found task det"):
        bundle.bundle({**parts, "cls": parts["det"]}, tmp_path / "bundle")


def test_charset_must_fit_the_output(parts, tmp_path):
    folder = shutil.copytree(parts["rec"], tmp_path / "rec")
    manifest = artifact.load(folder)
    charset = folder / "charset.txt"
    charset.write_text(charset.read_text() + "é\n", encoding="utf-8")
    artifact.write(folder, manifest.replace(charset=artifact.charset_record(charset)), "test")
    with pytest.raises(ModelError, match="expected a recognizer of 98 classes as its charset has, found 97"):
        bundle.bundle({**parts, "rec": folder}, tmp_path / "bundle")


def test_manifest_must_tell_the_truth(parts, tmp_path):
    folder = shutil.copytree(parts["det"], tmp_path / "det")
    manifest = artifact.load(folder)
    artifact.write(folder, replace(manifest, extra={**manifest.extra, "target": "arm"}), "test")
    with pytest.raises(ModelError, match="expected kernels for arm, found x86"):
        bundle.bundle({**parts, "det": folder}, tmp_path / "bundle")
    artifact.write(folder, replace(manifest, extra={}), "test")
    with pytest.raises(ArtifactError, match=r"expected extra\.target"):
        bundle.bundle({**parts, "det": folder}, tmp_path / "bundle")


def test_changed_bit_is_refused(parts, tmp_path):
    folder = shutil.copytree(parts["det"], tmp_path / "det")
    data = bytearray((folder / "model.nb").read_bytes())
    data[-100] ^= 1
    (folder / "model.nb").write_bytes(data)
    with pytest.raises(ArtifactError, match="sha256"):
        bundle.bundle({**parts, "det": folder}, tmp_path / "bundle")
