"""PaddleOCR's weights become artifacts by one command; what is no such thing is refused in one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

import artifact
import command
from ocr_models import catalogue, checkpoints, import_weights
from ocr_models.paddle_engine import InferenceEngine, NetworkEngine
from ocr_models.pdparams import read_pdparams

PUBLISHED = {
    "det": ("ch_ppocr_mobile_v2.0_det_infer", "det_mv3_db", 572_441, ["head.thresh.*"]),
    "cls": ("ch_ppocr_mobile_v2.0_cls_infer", "cls_mv3", 133_628, []),
    "rec": ("en_number_mobile_v2.0_rec_infer", "rec_mv3_crnn_en", 454_321, []),
}
SHAPES = {"det": (1, 3, 64, 96), "cls": (2, 3, 48, 192), "rec": (1, 3, 32, 320)}


def network(name, **changes):
    paddle.seed(7)
    return catalogue.build({**catalogue.card(name).network, **changes})


def pdparams(path, name, **changes):
    """A file as PaddleOCR's training writes it, with second names of the LSTM's weights."""
    layer = network(name, **changes)
    paddle.save(layer.state_dict(), str(path))
    return layer


def call(capsys, *arguments):
    """Exit code, stdout and stderr of the command, in this process."""
    args = import_weights.build_parser().parse_args([str(argument) for argument in arguments])
    code = command._attempt("import_weights.py", import_weights.run, args)
    said = capsys.readouterr()
    return code, said.out, said.err


def export(layer, folder):
    layer.eval()
    spec = [paddle.static.InputSpec([None, 3, None, None], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(layer.forward, input_spec=spec, full_graph=True), str(folder / "inference"))
    return folder


@pytest.mark.parametrize(
    ("name", "changes", "entries"),
    [
        ("det_mv3_db", {}, None),
        ("cls_mv3", {}, None),
        ("rec_mv3_crnn_en", {}, None),
        ("rec_mv3_crnn_en", {"classes": 6625}, 6623),
        ("rec_mv3_crnn_en", {"classes": 6625}, 6624),
    ],
    ids=["det", "cls", "rec", "6623 entries and the space", "6624 entries"],
)
def test_a_training_file_becomes_an_artifact(tmp_path, capsys, name, changes, entries):
    source, out = tmp_path / "best_accuracy.pdparams", tmp_path / "out"
    layer = pdparams(source, name, **changes)
    options = []
    if entries:
        (tmp_path / "keys.txt").write_text("".join(chr(0x4E00 + n) + "\n" for n in range(entries)), encoding="utf-8")
        options = ["--charset", tmp_path / "keys.txt"]
    code, said, _ = call(capsys, source, *options, "--out", out)
    assert code == 0
    total = sum(tensor.size for tensor in checkpoints.parameters(layer).values())
    assert said.splitlines()[-1] == f"{out}: params matched {total:,} of {total:,}"
    loaded, manifest = checkpoints.load_network(out)
    ours = checkpoints.parameters(layer)
    assert all(np.array_equal(ours[key], tensor) for key, tensor in checkpoints.parameters(loaded).items())
    assert (manifest.kind, manifest.extra["source"], manifest.extra["made_anew"]) == ("checkpoint", source.name, [])
    if entries:
        assert manifest.name == "best_accuracy" and manifest.charset is not None
        assert (manifest.charset.classes, manifest.charset.space) == (6625, entries == 6623)
        assert len(artifact.read_charset(out, manifest)) == entries
    else:
        assert manifest.name == name


def test_a_recognizer_is_fed_as_it_was_trained(tmp_path, capsys):
    """PaddleOCR never makes a line's input narrower than 320."""
    pdparams(tmp_path / "rec.pdparams", "rec_mv3_crnn_en")
    call(capsys, tmp_path / "rec.pdparams", "--out", tmp_path / "rec")
    eats = artifact.load(tmp_path / "rec").input
    assert eats is not None and eats.width_buckets[0] == 320


def test_a_folder_of_inference_becomes_an_artifact(tmp_path, capsys):
    folder = tmp_path / "some_det_infer"
    folder.mkdir()
    export(network("det_mv3_db"), folder)
    code, said, _ = call(capsys, folder, "--json", "--out", tmp_path / "one")
    assert code == 0
    report = json.loads(said)
    assert (report["task"], report["made_anew"], report["params_matched"]) == ("det", ["head.thresh.*"], 572_441)
    manifest = artifact.load(tmp_path / "one")
    assert manifest.extra["made_anew"] == ["head.thresh.*"]
    assert set(manifest.extra["source_files"]) == {"inference.pdmodel", "inference.pdiparams"}
    # What the folder does not hold is the same in every import, so the weights are too.
    call(capsys, folder, "--out", tmp_path / "two")
    one, two = (read_pdparams(tmp_path / name / checkpoints.WEIGHTS) for name in ("one", "two"))
    assert all(np.array_equal(one[key], array) for key, array in two.items())


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.fixture(scope="module")
def cls_folder(tmp_path_factory):
    return export(network("cls_mv3"), tmp_path_factory.mktemp("cls_infer"))


def _bad(case, tmp, cls_folder):
    """Arguments of one bad call."""
    file, folder = tmp / "best.pdparams", tmp / "infer"
    if case in ("pdmodel cut", "pdiparams cut", "pdiparams missing", "a program in place of its folder"):
        folder.mkdir()
        for part in cls_folder.iterdir():
            (folder / part.name).write_bytes(part.read_bytes())
    if case == "no file":
        return [file]
    if case == "no folder":
        return [tmp / "nowhere"]
    if case == "an empty folder":
        folder.mkdir()
        return [folder]
    if case == "a folder of a training file":
        folder.mkdir()
        pdparams(folder / "best_accuracy.pdparams", "cls_mv3")
        return [folder]
    if case in ("pdmodel cut", "pdiparams cut"):
        _cut(folder / ("inference." + case.split()[0]))
        return [folder]
    if case == "pdiparams missing":
        (folder / "inference.pdiparams").unlink()
        return [folder]
    if case == "a program in place of its folder":
        return [folder / "inference.pdmodel"]
    if case == "text":
        file.write_text("<html>not found</html>")
        return [file]
    if case == "other weights":
        paddle.save({"backbone.conv9.weight": paddle.zeros([2])}, str(file))
        return [file]
    name = "rec_mv3_crnn_en" if case.startswith("charset") else "cls_mv3"
    changes = {"classes": 40} if case == "charset, default" else {}
    pdparams(file, name, **changes)
    if case == "cut":
        _cut(file)
    short = tmp / "keys.txt"
    short.write_text("a\nb\n")
    more = {
        "another model": ["--model", "det_mv3_db"],
        "an unknown model": ["--model", "det_v9"],
        "charset too short": ["--charset", short],
        "charset missing": ["--charset", tmp / "none.txt"],
        "a charset for a classifier": ["--charset", short],
    }
    return [file, *more.get(case, [])]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("no file", "expected a .pdparams file, an inference folder, or one of them as .tar"),
        ("no folder", "found nothing; check the path"),
        ("an empty folder", "found none; give an inference folder"),
        ("a folder of a training file", "found one with best_accuracy.pdparams; give that file itself"),
        ("cut", "found a truncated or foreign one (pickle exhausted"),
        ("text", ".pdparams"),
        ("other weights", "found backbone.conv9.weight"),
        ("pdmodel cut", "inference.pdmodel: expected a Paddle program with inputs and outputs"),
        ("pdiparams cut", "inference.pdiparams: expected the"),
        ("pdiparams missing", "expected inference.pdiparams beside inference.pdmodel"),
        ("a program in place of its folder", "found a .pdmodel file"),
        ("another model", "expected weights of a det model as --model det_mv3_db says, found those of a cls model"),
        ("an unknown model", "expected a model name"),
        (
            "charset, default",
            "or 38 and the space, for its 40 classes, found 95 in en.txt, the default",
        ),
        (
            "charset too short",
            "or 95 and the space, for its 97 classes, found 2 in keys.txt; give",
        ),
        ("charset missing", "none.txt: expected a UTF-8 charset"),
        ("a charset for a classifier", "expected --charset for a recognizer only, found a cls model"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, cls_folder, case, message):
    arguments = _bad(case, tmp_path, cls_folder)
    before = sorted(tmp_path.rglob("*"))
    code, said, complaint = call(capsys, *arguments, "--out", tmp_path / "new" / "out")
    assert (code, said) == (2, "")
    assert message in complaint and complaint.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_an_existing_folder_is_kept(tmp_path, capsys):
    pdparams(tmp_path / "cls.pdparams", "cls_mv3")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    code, _, complaint = call(capsys, tmp_path / "cls.pdparams", "--out", tmp_path / "out")
    assert code == 2 and "does not exist yet" in complaint
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("task", list(PUBLISHED))
def test_published_models_become_artifacts(published, tmp_path, task):
    """As a user calls it; the artifact computes what the published model computes."""
    name, card, matched, anew = PUBLISHED[task]
    folder, out = published / "models" / name, tmp_path / task
    root = Path(command.__file__).parent
    done = subprocess.run(
        [sys.executable, "ocr_models/import_weights.py", str(folder), "--out", str(out)],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"params matched {matched:,} of" in done.stdout.splitlines()[-1]
    assert ("head.thresh.*: only training uses it" in done.stdout) == bool(anew)
    layer, manifest = checkpoints.load_network(out)
    assert (manifest.name, manifest.task, manifest.extra["made_anew"]) == (card, task, anew)
    x = np.random.default_rng(0).standard_normal(SHAPES[task]).astype(np.float32)
    assert np.abs(NetworkEngine(layer).run(x) - InferenceEngine(folder, optimize=False).run(x)).max() <= 1e-5


def test_a_published_model_comes_in_with_its_own_charset_only(published, tmp_path, capsys):
    """6,625 classes; its batch norms are folded away."""
    folder = published / "models" / "ch_ppocr_mobile_v2.0_rec_infer"
    code, _, complaint = call(capsys, folder, "--out", tmp_path / "none")
    assert code == 2 and "expected a charset of 6624 entries, or 6623 and the space" in complaint
    assert not (tmp_path / "none").exists()
    code, _, complaint = call(
        capsys, folder, "--charset", published / "charsets" / "ppocr_keys_v1.txt", "--out", tmp_path / "out"
    )
    assert code == 0, complaint
    assert artifact.load(tmp_path / "out", kind="checkpoint").charset.classes == 6625
