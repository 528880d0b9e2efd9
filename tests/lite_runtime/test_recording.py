"""Recorded runs: what was written is read again; what another machine may have spoilt is refused in one line."""

import gzip
import hashlib
import json

import numpy as np
import pytest

from artifact import ArtifactError
from lite_runtime import recording
from lite_runtime.recording import Line, RecordedImage, Recording, Tensor


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def record(sha256: str = "0" * 64) -> Recording:
    quad = ((1.0, 2.0), (30.5, 2.0), (30.5, 9.0), (1.0, 9.0))
    tensors = (
        Tensor("det", 0, values(1, 3, 32, 64), values(1, 1, 32, 64)),
        Tensor("cls", 0, values(1, 3, 48, 192), values(1, 2)),
        Tensor("rec", 0, values(1, 3, 32, 96), values(1, 24, 5)),
    )
    lines = (Line(quad, "añ ", 0.75, 180),)
    return Recording("an engine", (RecordedImage("images/a.png", sha256, tensors, lines),), {"model": "x"})


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"a picture")
    recording.write(tmp_path, record(hashlib.sha256(b"a picture").hexdigest()))
    return tmp_path


def test_what_was_written_is_read(folder):
    found, expected = recording.read(folder, images=True), record(hashlib.sha256(b"a picture").hexdigest())
    assert (found.engine, found.device) == (expected.engine, expected.device)
    [image], [other] = found.images, expected.images
    assert (image.image, image.sha256, image.lines) == (other.image, other.sha256, other.lines)
    for one, two in zip(image.tensors, other.tensors, strict=True):
        assert (one.task, one.index) == (two.task, two.index)
        assert np.array_equal(one.input, two.input) and np.array_equal(one.output, two.output)
    assert found.image("images/a.png") is image and found.image("b.png") is None
    assert image.tensor("cls", 0) is image.tensors[1] and image.tensor("cls", 1) is None


def test_files_are_what_another_language_expects(folder):
    data = gzip.decompress((folder / "a.rec.0.in.f32.gz").read_bytes())
    assert data == values(1, 3, 32, 96).astype("<f4").tobytes()
    assert (folder / "a.rec.0.in.f32.gz").read_bytes()[4:8] == bytes(4)  # gzip's time stamp
    before = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    recording.write(folder, record(hashlib.sha256(b"a picture").hexdigest()))
    assert before == {path.name: path.read_bytes() for path in folder.glob("*.*")}


def test_images_of_one_name_keep_their_tensors_apart(tmp_path):
    [image] = record().images
    pair = (image, RecordedImage("other/a.jpg", "1", (Tensor("det", 0, values(1, 3, 9, 9), values(1, 1, 9, 9)),), ()))
    recording.write(tmp_path, Recording("e", pair))
    found = recording.read(tmp_path)
    assert [i.tensors[0].input.shape for i in found.images] == [(1, 3, 32, 64), (1, 3, 9, 9)]


def test_images_may_be_missing_unless_they_are_needed(folder):
    (folder / "images" / "a.png").unlink()
    assert recording.read(folder).images
    with pytest.raises(ArtifactError, match=r"expected the image images/a\.png, found none"):
        recording.read(folder, images=True)


def test_another_image_is_refused(folder):
    (folder / "images" / "a.png").write_bytes(b"a picturf")
    with pytest.raises(ArtifactError, match="found another image"):
        recording.read(folder)


def change(*path, to):
    def apply(record):
        at = record
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = to

    return apply


TENSOR = ("images", 0, "tensors", 2)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (change("schema", to=2), "expected schema 1, found 2"),
        (change("more", to=1), "expected the keys device, engine, images, schema"),
        (change("device", to={"a": 1}), "object of strings"),
        (change("images", to={}), "images: expected a list, found dict"),
        (change("images", 0, to=3), "expected the keys .*found int"),
        (change("images", 0, "image", to="../a.png"), "expected file names inside the folder"),
        (change("images", 0, "image", to="/etc/passwd"), "expected file names inside the folder"),
        (change("images", 0, "image", to="C:\\a.png"), "expected file names inside the folder"),
        (change("images", 0, "image", to=""), "expected file names inside the folder"),
        (change("images", 0, "lines", to=[]), "expected 0 lines of tensors, found cls 0"),
        (change("images", 0, "lines", 0, "angle", to=90), "angle of 0 or 180, found 90"),
        (change("images", 0, "lines", 0, "score", to=float("nan")), "expected a score, found nan"),
        (change("images", 0, "lines", 0, "quad", to=[[0, 0]] * 3), "four corners"),
        (change("images", 0, "lines", 0, "quad", to=[["0", 0]] * 4), "four corners"),
        (change("images", 0, "lines", 0, "text", to=None), "text: expected a string, found None"),
        (change(*TENSOR, "task", to="ocr"), r"det \| cls \| rec, found 'ocr'"),
        (change(*TENSOR, "index", to=-1), "expected an index from 0, found -1"),
        (change(*TENSOR, "index", to=True), "expected an index from 0, found True"),
        (change(*TENSOR, "task", to="cls"), "expected a shape .* of 2 sides"),
        (change(*TENSOR, "input", "shape", to=[1, 3, 32, 95]), "expected 36480 bytes .*found more"),
        (change(*TENSOR, "input", "shape", to=[1, 3, 32, 97]), "expected 37248 bytes .*found 36864"),
        (change(*TENSOR, "input", "shape", to=[2, 3, 16, 96]), r"expected a shape \(1, …\)"),
        (change(*TENSOR, "input", "shape", to=[1, 3, 1 << 20, 1 << 20]), "50331648 values at most"),
        (change(*TENSOR, "input", "shape", to=[1, 3, 0, 9]), "whole numbers from 1"),
        (change(*TENSOR, "input", "file", to="a.det.0.in.f32.gz"), "a second time"),
        (change(*TENSOR, "input", "file", to="none.gz"), "found No such file"),
        (change(*TENSOR, "input", "file", to="../x.gz"), "expected file names inside the folder"),
    ],
)
def test_spoilt_records_are_one_line(folder, spoil, words):
    path = folder / recording.FILE
    data = json.loads(path.read_text())
    spoil(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=words) as caught:
        recording.read(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_twice_the_same(folder):
    path = folder / recording.FILE
    data = json.loads(path.read_text())
    data["images"].append({**data["images"][0], "tensors": []})
    path.write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match="each image once"):
        recording.read(folder)


@pytest.mark.parametrize("data", [b"", b"no gzip", gzip.compress(bytes(9999))[:30]])
def test_damaged_tensors(folder, data):
    (folder / "a.det.0.out.f32.gz").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"det 0 output: expected .*a\.det\.0\.out\.f32\.gz"):
        recording.read(folder)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\ud800"])
def test_no_json(tmp_path, text):
    (tmp_path / recording.FILE).write_text(text, errors="surrogatepass")
    with pytest.raises(ArtifactError, match=r"expected JSON|expected the keys"):
        recording.read(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(ArtifactError, match="expected a recorded run, found No such file"):
        recording.read(tmp_path / "none")


@pytest.mark.parametrize("name", ["a.det.0.in.f32.gz", "images/a.png", "images", recording.FILE])
def test_symbolic_links_are_not_followed(folder, name):
    (folder / name).rename(folder / "elsewhere")
    (folder / name).symlink_to(folder / "elsewhere")
    with pytest.raises(ArtifactError, match=f"found the symbolic link {name}"):
        recording.read(folder)
