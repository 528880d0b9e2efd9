"""The artifact contract: what it accepts, and the one line it answers to everything else."""

import json
import os
from pathlib import Path

import pytest

import artifact
from artifact import ArtifactError, Input, Manifest

REC_INPUT = Input(shape=(-1, 3, 32, -1), mean=(0.5,) * 3, std=(0.5,) * 3, width_buckets=(160, 320), aspect="pad_right")


def make(folder: Path, **changes) -> Path:
    with artifact.create(folder) as temporary:
        (temporary / "model.pdparams").write_bytes(b"weights")
        (temporary / "charset.txt").write_text("a\nb\n \n")
        record = artifact.charset_record(temporary / "charset.txt")
        manifest = Manifest(kind="checkpoint", task="rec", name="tiny", input=REC_INPUT, charset=record, **changes)
        artifact.write(temporary, manifest, "test")
    return folder


def edit(folder: Path, **changes) -> None:
    path = folder / artifact.MANIFEST
    record = json.loads(path.read_text())
    record.update(changes)
    path.write_text(json.dumps(record))


def test_what_is_written_is_read_again(tmp_path):
    folder = make(tmp_path / "a", metrics={"accuracy": 0.5}, network={"type": "CRNNRecognizer"})
    manifest = artifact.load(folder, kind="checkpoint", task="rec")
    assert manifest.input == REC_INPUT
    assert manifest.metrics == {"accuracy": 0.5}
    assert manifest.files["model.pdparams"]["bytes"] == 7
    assert manifest.made_by["command"] == "test"
    assert len(artifact.digest(folder)) == 64


def test_a_charset_line_is_never_stripped(tmp_path):
    folder = make(tmp_path / "a")
    manifest = artifact.load(folder)
    assert artifact.read_charset(folder, manifest) == ["a", "b", " "]
    # blank + a, b, " " + the extra space
    assert manifest.charset.classes == 5


@pytest.mark.parametrize(
    ("content", "entries"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"\xef\xbb\xbfa\n", ["a"]),
        (b"a\n \n", ["a", " "]),
        (b"\xe3\x80\x80\n", ["　"]),
        (b"\xe2\x80\xa8\nx\n", ["\u2028", "x"]),
    ],
    ids=["plain", "no last line end", "windows", "byte order mark", "space", "wide space", "line separator"],
)
def test_charset_files(tmp_path, content, entries):
    path = tmp_path / "charset.txt"
    path.write_bytes(content)
    assert artifact.read_charset_file(path) == entries


def test_a_foreign_charset_is_refused(tmp_path):
    folder = make(tmp_path / "a")
    manifest = artifact.load(folder)
    wrong = manifest.replace(charset=artifact.Charset(file="charset.txt", sha256="", classes=97))
    with pytest.raises(ArtifactError, match=r"expected 97 classes .* found 5"):
        artifact.read_charset(folder, wrong)


def damage_truncate(folder):
    (folder / "model.pdparams").write_bytes(b"weig")


def damage_flip_a_bit(folder):
    (folder / "model.pdparams").write_bytes(b"weightr")


def damage_remove(folder):
    (folder / "model.pdparams").unlink()


def damage_link(folder):
    (folder / "model.pdparams").rename(folder.parent / "elsewhere")
    (folder / "model.pdparams").symlink_to(folder.parent / "elsewhere")


def damage_unknown_key(folder):
    edit(folder, colour="RGB")


def damage_unknown_input_key(folder):
    edit(folder, input={"shape": [1, 3, 32, 320], "mean": [0] * 3, "std": [1] * 3, "height": 48})


def damage_missing_key(folder):
    path = folder / artifact.MANIFEST
    record = json.loads(path.read_text())
    del record["name"]
    path.write_text(json.dumps(record))


def damage_schema(folder):
    edit(folder, schema=99)


def damage_kind(folder):
    edit(folder, kind="onnx")


def damage_outside(folder):
    edit(folder, files={"../elsewhere": {"sha256": "0", "bytes": 1}})


def damage_charset_outside(folder):
    record = json.loads((folder / artifact.MANIFEST).read_text())
    edit(folder, charset={**record["charset"], "file": "../elsewhere"})


def damage_plan_outside(folder):
    edit(folder, compression={"prune_plan": "/etc/passwd"})


def damage_not_json(folder):
    (folder / artifact.MANIFEST).write_text('{"schema": 1,')


def damage_list(folder):
    (folder / artifact.MANIFEST).write_text("[1]")


def damage_input_type(folder):
    edit(folder, input=3)


def damage_measured_on(folder):
    edit(folder, measured_on="the test split")


def damage_shape(folder):
    edit(folder, input={"shape": [1, 3, 32], "mean": [0] * 3, "std": [1] * 3})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, "expected 7 bytes, found 4"),
        (damage_flip_a_bit, "expected sha256"),
        (damage_remove, "expected the file model.pdparams, found none"),
        (damage_link, "symbolic link"),
        (damage_unknown_key, "found colour"),
        (damage_unknown_input_key, "input: expected only known keys, found height"),
        (damage_missing_key, "expected the keys name"),
        (damage_schema, "expected schema 1, found 99"),
        (damage_kind, "expected kind checkpoint"),
        (damage_outside, "inside the folder"),
        (damage_charset_outside, "expected '../elsewhere' among its files"),
        (damage_plan_outside, "expected '/etc/passwd' among its files"),
        (damage_not_json, "expected JSON"),
        (damage_list, "expected a JSON object, found list"),
        (damage_measured_on, "expected measured_on to be a dict, found str"),
        (damage_input_type, "input: expected an object, found int"),
        (damage_shape, "expected input shape"),
    ],
    ids=lambda value: value.__name__.removeprefix("damage_") if callable(value) else "",
)
def test_damage_is_named_in_one_line(tmp_path, damage, message):
    folder = make(tmp_path / "a")
    damage(folder)
    with pytest.raises(ArtifactError, match=message) as caught:
        artifact.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_wrong_kind_task_and_place(tmp_path):
    folder = make(tmp_path / "a")
    with pytest.raises(ArtifactError, match=r"expected a inference artifact, found kind checkpoint.*to_inference"):
        artifact.load(folder, kind="inference")
    with pytest.raises(ArtifactError, match="expected a model for task det, found task rec"):
        artifact.load(folder, task="det")
    with pytest.raises(ArtifactError, match="found nothing"):
        artifact.load(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="found a file"):
        artifact.load(folder / "model.pdparams")


def test_an_error_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError), artifact.create(tmp_path / "a") as temporary:
        (temporary / "half").write_text("half")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_an_older_artifact_stays_until_the_new_one_is_whole(tmp_path):
    folder = make(tmp_path / "a", metrics={"accuracy": 0.1})
    with pytest.raises(ArtifactError, match="does not exist yet"), artifact.create(folder):
        pass
    with pytest.raises(RuntimeError), artifact.create(folder, replace=True) as temporary:
        (temporary / "half").write_text("half")
        raise RuntimeError
    assert artifact.load(folder).metrics == {"accuracy": 0.1}
    with artifact.create(folder, replace=True) as temporary:
        artifact.write(temporary, Manifest(kind="bundle", task="system", name="new"), "test")
    assert artifact.load(folder).name == "new"
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_of_the_user_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("x")
    with pytest.raises(ArtifactError, match="found something else"), artifact.create(tmp_path / "photos", replace=True):
        pass
    assert (tmp_path / "photos" / "one.jpg").exists()
