"""Archives, addresses and distilled checkpoints become the same artifact as the plain file in them."""

import hashlib
import json
import tarfile
import zipfile

import numpy as np
import paddle
import pytest

import artifact
import command
from ocr_models import catalogue, checkpoints, import_weights
from ocr_models.pdparams import read_pdparams


def weights(seed=0, name="cls_mv3", **changes):
    """A state dict as PaddleOCR's training saves it."""
    paddle.seed(seed)
    layer = catalogue.build({**catalogue.card(name).network, **changes})
    return {key: tensor.numpy() for key, tensor in layer.state_dict().items()}


def save(path, arrays):
    paddle.save({key: paddle.to_tensor(array) for key, array in arrays.items()}, str(path))
    return path


def under(branch, arrays):
    return {f"{branch}.{key}": array for key, array in arrays.items()}


def call(capsys, *arguments):
    """Exit code, stdout and stderr of the command, in this process."""
    args = import_weights.build_parser().parse_args([str(argument) for argument in arguments])
    code = command._attempt("import_weights.py", import_weights.run, args)
    said = capsys.readouterr()
    return code, said.out, said.err


def holds(out, arrays):
    """Whether the artifact holds these weights to the last bit."""
    found = read_pdparams(out / checkpoints.WEIGHTS)
    return all(np.array_equal(array, arrays[key]) for key, array in found.items())


def refuse(capsys, tmp_path, said, *arguments):
    before = sorted(tmp_path.rglob("*"))
    code, out, complaint = call(capsys, *arguments, "--out", tmp_path / "new" / "out")
    assert (code, out) == (2, "") and complaint.count("\n") == 1, complaint
    assert said in complaint, complaint
    assert sorted(tmp_path.rglob("*")) == before


STUDENT, OTHER, TEACHER = weights(1), weights(2), weights(3)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """As PP-OCRv2's detectors are published: two students and a teacher in one file."""
    arrays = {**under("Teacher", TEACHER), **under("Student", STUDENT), **under("Student2", OTHER)}
    return save(tmp_path_factory.mktemp("distilled") / "best_accuracy.pdparams", arrays)


def test_the_student_is_taken_and_said(distilled, tmp_path, capsys):
    code, said, _ = call(capsys, distilled, "--out", tmp_path / "out")
    assert code == 0 and f"{distilled}: took Student (by default), not Teacher, Student2\n" in said
    assert holds(tmp_path / "out", STUDENT)
    assert artifact.load(tmp_path / "out").extra["notes"] == ["took Student (by default), not Teacher, Student2"]


@pytest.mark.parametrize(("branch", "arrays"), [("Student2", OTHER), ("Teacher", TEACHER), ("Student", STUDENT)])
def test_another_branch_is_taken_by_name(distilled, tmp_path, capsys, branch, arrays):
    code, said, _ = call(capsys, distilled, "--branch", branch, "--out", tmp_path / "out")
    assert code == 0 and f"took {branch} (as --branch says), not " in said
    assert holds(tmp_path / "out", arrays)


def test_a_recognizers_branch_has_second_names_too(tmp_path, capsys):
    arrays = weights(4, "rec_mv3_crnn_en")
    save(tmp_path / "rec.pdparams", under("Student", arrays))
    code, said, _ = call(capsys, tmp_path / "rec.pdparams", "--out", tmp_path / "out")
    assert code == 0 and "took Student (the only branch)" in said and holds(tmp_path / "out", arrays)


@pytest.mark.parametrize(
    ("branches", "options", "said"),
    [
        (["Student", "Teacher"], ["--branch", "Student3"], "expected --branch Student | Teacher, found 'Student3'"),
        (["A", "B"], [], "expected --branch A | B, found none; say which network is wanted"),
        ([""], ["--branch", "Student"], "expected no --branch for one network, found 'Student'; leave it out"),
        (["", "Teacher"], [], "found 220 more under Teacher; leave them out with --ignore Teacher"),
    ],
    ids=["unknown", "unclear", "plain", "beside plain"],
)
def test_an_unclear_branch_is_one_line(tmp_path, capsys, branches, options, said):
    arrays = {}
    for branch in branches:
        arrays |= under(branch, STUDENT) if branch else STUDENT
    save(tmp_path / "best.pdparams", arrays)
    refuse(capsys, tmp_path, said.replace("220", str(len(STUDENT))), tmp_path / "best.pdparams", *options)


def test_a_second_head_is_named_and_left_out_on_demand(tmp_path, capsys):
    """Only on demand: weights without a place may mean that the checkpoint is another network's."""
    arrays = {**STUDENT, "head.sar.fc.weight": np.ones((3, 4), np.float32), "head.sar.fc.bias": np.ones(4, np.float32)}
    path = save(tmp_path / "two.pdparams", arrays)
    said = "found 2 more under head.sar; leave them out with --ignore head.sar if inference does not need them"
    refuse(capsys, tmp_path, said, path)
    code, out, _ = call(capsys, path, "--ignore", "head.sar.*", "--out", tmp_path / "out")
    assert code == 0 and f"{path}: left out 2 tensors under head.sar.*" in out
    assert holds(tmp_path / "out", STUDENT)


@pytest.mark.parametrize("prefix", ["head.sa", "tail", ""])
def test_a_prefix_of_nothing_is_refused(tmp_path, capsys, prefix):
    path = save(tmp_path / "two.pdparams", {**STUDENT, "head.sar.fc.bias": np.ones(4, np.float32)})
    refuse(
        capsys, tmp_path, f"found {prefix!r}, which none has; they begin with backbone, head", path, "--ignore", prefix
    )


def test_a_weight_that_is_needed_cannot_be_left_out(tmp_path, capsys):
    path = save(tmp_path / "a.pdparams", STUDENT)
    refuse(capsys, tmp_path, "found no head.fc.bias; give weights of this network", path, "--ignore", "head.fc.bias")


def pack(path, files):
    """An archive of {name in it: file on disk}."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, file in files.items():
                archive.write(file, name)
    else:
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
            for name, file in files.items():
                archive.add(file, name)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An inference folder under the names of Paddle's own examples."""
    out = tmp_path_factory.mktemp("infer")
    paddle.seed(5)
    layer = catalogue.build(catalogue.card("cls_mv3").network)
    layer.eval()
    spec = [paddle.static.InputSpec([None, 3, None, None], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(out / "inference"))
    (out / "inference.pdiparams.info").unlink(missing_ok=True)
    return out


@pytest.mark.parametrize("name", ["cls_train.tar", "cls_train.tar.gz", "cls_train.tgz", "cls_train.zip"])
def test_an_archive_is_imported_as_what_is_in_it(distilled, tmp_path, capsys, name):
    note = tmp_path / "note"
    note.write_text("macOS")
    files = {"cls_train/best_accuracy.pdparams": distilled, "__MACOSX/._best_accuracy.pdparams": note}
    path = pack(tmp_path / name, files)
    code, _, _ = call(capsys, path, "--json", "--out", tmp_path / "packed")
    assert code == 0
    call(capsys, distilled, "--out", tmp_path / "plain")
    packed, plain = artifact.load(tmp_path / "packed"), artifact.load(tmp_path / "plain")
    assert packed.files == plain.files and packed.extra["source_files"] == plain.extra["source_files"]
    assert packed.extra["source"] == name
    assert packed.extra["source_archive"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_inference_folder_in_an_archive(folder, tmp_path, capsys):
    path = pack(tmp_path / "cls_infer.tar", {f"cls_infer/{path.name}": path for path in folder.iterdir()})
    assert call(capsys, path, "--out", tmp_path / "packed")[0] == 0
    assert call(capsys, folder, "--out", tmp_path / "plain")[0] == 0
    assert artifact.load(tmp_path / "packed").files == artifact.load(tmp_path / "plain").files


@pytest.mark.parametrize(
    "names", [("model.pdmodel", "model.pdiparams"), ("__model__", "__params__"), ("mine.pdmodel", "mine.pdiparams")]
)
def test_a_folder_of_other_names_is_imported(folder, tmp_path, capsys, names):
    (tmp_path / "in").mkdir()
    for source, name in zip(("inference.pdmodel", "inference.pdiparams"), names, strict=True):
        (tmp_path / "in" / name).write_bytes((folder / source).read_bytes())
    code, _, _ = call(capsys, tmp_path / "in", "--out", tmp_path / "out")
    assert code == 0 and set(artifact.load(tmp_path / "out").extra["source_files"]) == set(names)


def test_a_name_comes_from_the_archive(tmp_path, capsys):
    """A recognizer with a charset of its own is called as its archive is."""
    save(tmp_path / "best_accuracy.pdparams", weights(6, "rec_mv3_crnn_en", classes=4))
    (tmp_path / "keys.txt").write_text("a\nb\n")
    path = pack(tmp_path / "greek_rec_train.tgz", {"x/best_accuracy.pdparams": tmp_path / "best_accuracy.pdparams"})
    code, _, _ = call(capsys, path, "--charset", tmp_path / "keys.txt", "--out", tmp_path / "out")
    assert code == 0 and artifact.load(tmp_path / "out").name == "greek_rec_train"


def test_archives_that_hold_no_single_model(folder, tmp_path, capsys):
    a, text = save(tmp_path / "a.pdparams", STUDENT), tmp_path / "keys.txt"
    text.write_text("a\n")
    two = pack(tmp_path / "two.zip", {"x/a.pdparams": a, "x/b.pdparams": a})
    none = pack(tmp_path / "none.tar", {"keys.txt": text})
    half = pack(tmp_path / "half.tar", {"m/inference.pdmodel": folder / "inference.pdmodel"})
    (tmp_path / "link").symlink_to("/etc/passwd")
    link = pack(tmp_path / "link.tar", {"m/a.pdparams": tmp_path / "link"})
    cut = tmp_path / "cut.tgz"
    cut.write_bytes(pack(tmp_path / "whole.tgz", {"a.pdparams": a}).read_bytes()[:-500])
    refuse(
        capsys, tmp_path, "one .pdparams file or inference model in it, found x/a.pdparams, x/b.pdparams; unpack", two
    )
    refuse(capsys, tmp_path, "none.tar: expected one .pdparams file or inference model in it, found none", none)
    refuse(capsys, tmp_path, f"{half}/m: expected inference.pdiparams beside inference.pdmodel", half)
    refuse(capsys, tmp_path, "'m/a.pdparams', a symbolic link; do not use it", link)
    refuse(capsys, tmp_path, "cut.tgz: expected a complete .tar or", cut)


def test_messages_about_an_archive_name_it_and_not_the_scratch_folder(tmp_path, capsys):
    a = save(tmp_path / "a.pdparams", {"backbone.x": np.ones(1, np.float32)})
    path = pack(tmp_path / "a.zip", {"x/a.pdparams": a})
    refuse(capsys, tmp_path, f"{path}/x/a.pdparams: expected weights of a DB detector", path)


def test_an_address_needs_its_hash_and_then_is_imported(server, tmp_path, capsys, distilled):
    content = pack(tmp_path / "a.zip", {"det/best_accuracy.pdparams": distilled}).read_bytes()
    server.files = {"models/cls_train.zip": content}
    sha256, url = hashlib.sha256(content).hexdigest(), server.url("models/cls_train.zip")
    code, _, complaint = call(capsys, url, "--out", tmp_path / "out")
    assert code == 2 and complaint.endswith(
        f"{url}: found sha256 {sha256}; compare it with the publisher's and give it with --sha256\n"
    )
    assert not (tmp_path / "out").exists()
    code, said, _ = call(capsys, url, "--sha256", sha256, "--json", "--out", tmp_path / "out")
    assert code == 0 and json.loads(said)["notes"] == ["took Student (by default), not Teacher, Student2"]
    assert holds(tmp_path / "out", STUDENT)
    extra = artifact.load(tmp_path / "out").extra
    assert (extra["url"], extra["source"], extra["source_archive"]) == (url, "cls_train.zip", sha256)


def test_a_file_has_to_have_the_hash_that_is_given(folder, distilled, tmp_path, capsys):
    sha256 = hashlib.sha256(distilled.read_bytes()).hexdigest()
    assert call(capsys, distilled, "--sha256", sha256.upper(), "--out", tmp_path / "out")[0] == 0
    refuse(capsys, tmp_path, f"expected sha256 {'0' * 64}, found {sha256}", distilled, "--sha256", "0" * 64)
    refuse(capsys, tmp_path, "expected --sha256 for one file or a URL, found no file", folder, "--sha256", sha256)
    refuse(capsys, tmp_path, "expected --branch or --ignore with a .pdparams file", folder, "--branch", "Student")


def test_plain_http_is_refused(tmp_path, capsys):
    refuse(capsys, tmp_path, "expected an https:// address, found http", "http://localhost/a.tar", "--sha256", "0" * 64)
