"""Inference model → .nb, judged by reading the file back."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import seeded_models
import trap_models
import yaml
from paddle.nn import functional as F

import artifact
from artifact import ArtifactError
from command import ModelError, UsageError
from export import nb_file, program, source, to_nb
from lite_runtime.engine import open_nb
from ocr_models.paddle_engine import InferenceEngine

ROOT = Path(__file__).resolve().parents[2]


def plain(stages, task: str, to: Path, names: tuple[str, str] = program.FILE_NAMES[0]) -> Path:
    """The model files alone, as they are published."""
    to.mkdir()
    for name, original in zip(names, program.FILE_NAMES[0], strict=True):
        shutil.copyfile(stages(task) / "inference" / original, to / name)
    return to


def test_manifest_tells_what_the_file_is(stages):
    folder = stages("rec")
    manifest = artifact.load(folder / "arm", kind="nb", task="rec")
    assert set(manifest.files) == {"model.nb", "charset.txt"}
    assert manifest.parent == artifact.digest(folder / "inference")
    assert manifest.extra["target"] == "arm" and manifest.extra["precision"] == "fp32"
    assert manifest.extra["opt_version"] == "v2.13-rc"
    assert sum(manifest.extra["bytes"].values()) == manifest.files["model.nb"]["bytes"]
    assert manifest.extra["kernels"]["rnn"] == {"fp32": 1}


def test_same_bytes_for_the_same_model(stages, tmp_path):
    again, _ = to_nb.convert(stages("rec") / "inference", tmp_path / "again", target="arm")
    assert again.files == artifact.load(stages("rec") / "arm").files


@pytest.mark.parametrize("width", [96, 100, 320, 500])
def test_recognizer_runs_at_every_width_and_batch_size(stages, width):
    """LSTM states of 0 dimensions convert and then abort; a predictor that sees two widths corrupts its memory."""
    folder = stages("rec")
    paddle_engine = InferenceEngine(folder / "inference", onednn=False)
    lite, _ = open_nb(folder / "x86")
    for size in (1, 2, 6, 1):
        x = seeded_models.noise((size, 3, 32, width), seed=size)
        expected = paddle_engine.run(x)
        assert expected.shape == (size, width // 4, 97)
        assert np.abs(lite.run(x) - expected).max() <= 1e-5


def test_half_precision(stages, tmp_path):
    manifest, nb = to_nb.convert(stages("cls") / "inference", tmp_path / "fp16", target="arm", precision="fp16")
    assert manifest.extra["precision"] == "fp16"
    assert to_nb.convolutions(nb)["fp16"] > 40
    with pytest.raises(UsageError, match="only ARM"):
        to_nb.convert(stages("cls") / "inference", tmp_path / "x86", target="x86", precision="fp16")


def test_int8(stages, tmp_path):
    folder = stages("cls-int8")
    manifest = artifact.load(folder / "arm")
    nb = nb_file.read(folder / "arm" / "model.nb")
    assert manifest.extra["precision"] == "int8"
    assert to_nb.convolutions(nb) == {"int8": 53}
    assert manifest.extra["bytes"]["scales"] == nb.scale_bytes > 0
    with pytest.raises(ModelError, match="results are wrong on Paddle-Lite x86"):
        to_nb.convert(folder / "inference", tmp_path / "x86", target="x86")
    with pytest.raises(UsageError, match="leave --precision out"):
        to_nb.convert(folder / "inference", tmp_path / "fp16", target="arm", precision="fp16")
    assert not list(tmp_path.iterdir())


def test_folder_without_manifest(stages, tmp_path):
    folder = plain(stages, "rec", tmp_path / "some_rec_infer")
    manifest, _ = to_nb.convert(folder, tmp_path / "out", target="x86")
    assert (manifest.name, manifest.parent) == ("some_rec_infer", None)
    assert manifest.charset and manifest.charset.classes == 97
    assert artifact.read_charset(tmp_path / "out", manifest)[-1] == " "
    assert (tmp_path / "out" / "model.nb").read_bytes() == (stages("rec") / "x86" / "model.nb").read_bytes()


def test_older_file_names(stages, tmp_path):
    folder = plain(stages, "cls", tmp_path / "old", ("__model__", "__params__"))
    to_nb.convert(folder, tmp_path / "out", target="x86", task="cls")
    assert (tmp_path / "out" / "model.nb").read_bytes() == (stages("cls") / "x86" / "model.nb").read_bytes()


def test_charset_has_to_fit(stages, tmp_path):
    folder = plain(stages, "rec", tmp_path / "rec")
    short = tmp_path / "short.txt"
    short.write_text("a\nb\n")
    with pytest.raises(ModelError, match=r"95 and the space, for its 97 classes, found 2 in short\.txt"):
        to_nb.convert(folder, tmp_path / "out", target="x86", task="rec", charset=short)
    short.write_text("".join(f"{chr(200 + i)}\n" for i in range(96)), encoding="utf-8")
    manifest, _ = to_nb.convert(folder, tmp_path / "out", target="x86", task="rec", charset=short)
    assert manifest.charset and not manifest.charset.space  # 96 entries and the blank are the 97 classes


@pytest.mark.parametrize(
    ("task", "complaint"), [("det", "expected the output of a det model"), ("rec", "expected a charset of 1 entries")]
)
def test_model_of_another_task(stages, tmp_path, task, complaint):
    folder = plain(stages, "cls", tmp_path / "cls")
    with pytest.raises(ModelError, match=f"{complaint}|expected a {task} model with input"):
        to_nb.convert(folder, tmp_path / "out", target="x86", task=task)


def test_damaged_and_foreign_files(stages, tmp_path):
    folder = plain(stages, "cls", tmp_path / "cls")
    model, params = folder / "inference.pdmodel", folder / "inference.pdiparams"
    whole = params.read_bytes()

    def refused(match: str) -> None:
        with pytest.raises(ModelError, match=match):
            to_nb.convert(folder, tmp_path / "out", target="arm", task="cls")

    params.write_bytes(whole[:-5])
    refused(r"inference\.pdiparams: expected the \d+ tensors")
    params.write_bytes(whole + b"x")
    refused("1 bytes more")
    params.unlink()
    refused(r"expected inference\.pdiparams beside")
    params.write_bytes(whole)
    model.write_bytes(model.read_bytes()[:3000])
    refused("expected a Paddle program")
    model.unlink()
    refused(r"expected inference\.pdmodel and inference\.pdiparams")
    (folder / "inference.json").write_text("{}")
    refused("Paddle 3's new format")
    assert [path.name for path in tmp_path.iterdir()] == ["cls"]


def test_changed_artifact_is_refused(stages, tmp_path):
    folder = shutil.copytree(stages("cls") / "inference", tmp_path / "inference")
    with (folder / "inference.pdiparams").open("r+b") as file:
        file.seek(5000)
        file.write(b"\x55")
    with pytest.raises(ArtifactError, match="sha256"):
        to_nb.convert(folder, tmp_path / "out", target="arm")


def test_command_line(stages, tmp_path):
    def call(*options) -> subprocess.CompletedProcess:
        command = [sys.executable, ROOT / "export" / "to_nb.py", *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    done = call(stages("cls") / "inference", "--target", "arm", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "52 of 52 convolutions fp32" in done.stdout
    assert "before the diet" in done.stdout
    failed = call(tmp_path / "nothing", "--target", "arm", "--task", "det", "--out", tmp_path / "other")
    assert failed.returncode == 2 and failed.stdout == ""
    assert failed.stderr.count("\n") == 1 and "found nothing" in failed.stderr
    assert not (tmp_path / "other").exists()


def test_traps_are_refused_shown_and_mended(tmp_path, capsys):
    """A network with relu6 and swish, which opt aborts at: one line, a table, a file that computes the same."""
    network = trap_models.Network(lambda _, x: F.sigmoid(F.swish(F.relu6(x))))
    folder = tmp_path / "folder"
    folder.mkdir()
    trap_models.save_network(network, folder)

    def call(*words: str) -> int:
        arguments = [str(folder), "--target", "x86", *words]
        return to_nb.run(to_nb.build_parser().parse_args(arguments))

    with pytest.raises(ModelError, match=r"found swish .*; also relu6: relu6 without threshold$"):
        call("--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="expected --out"):
        call()
    assert call("--check") == 1
    shown = capsys.readouterr().out
    assert "swish: swish without beta" in shown and "2 found that would fail" in shown
    assert call("--check", "--json") == 1
    assert [finding["op"] for finding in json.loads(capsys.readouterr().out)["findings"]] == ["swish", "relu6"]
    assert call("--out", str(tmp_path / "out"), "--fix") == 0
    fixed = [line.split() for line in capsys.readouterr().out.splitlines() if " without " in line]
    assert [words[:5] for words in fixed] == [
        ["swish", "without", "beta", "swish", "1"],
        ["relu6", "without", "threshold", "relu6", "1"],
    ]
    manifest = artifact.load(tmp_path / "out", task="det")
    assert [fixed["trap"] for fixed in manifest.extra["fixed"]] == ["swish without beta", "relu6 without threshold"]
    result = trap_models.run(tmp_path / "out" / "model.nb", tmp_path)
    wanted = InferenceEngine(folder, onednn=False, optimize=False).run(trap_models.noise())
    assert not isinstance(result, str) and np.abs(result - wanted).max() <= 1e-6


def test_nothing_to_find_and_nothing_to_mend(stages, tmp_path, capsys):
    folder = str(stages("cls") / "inference")
    assert to_nb.run(to_nb.build_parser().parse_args([folder, "--target", "arm", "--check"])) == 0
    assert "nothing found that would fail" in capsys.readouterr().out
    manifest, _ = to_nb.convert(folder, tmp_path / "out", target="arm", fix=True)
    assert manifest.extra["fixed"] == []
    assert manifest.files == artifact.load(stages("cls") / "arm").files


def test_diet_is_on_and_can_be_turned_off(stages, tmp_path):
    slim = artifact.load(stages("cls-int8") / "arm").extra
    folder = stages("cls-int8") / "inference"
    whole, nb = to_nb.convert(folder, tmp_path / "out", target="arm", keep_attributes=True)
    assert slim["diet"] is True and whole.extra["diet"] is False
    assert whole.extra["bytes"] == slim["bytes_before_diet"] and "bytes_before_diet" not in whole.extra
    assert slim["bytes"]["topology"] <= 0.6 * whole.extra["bytes"]["topology"]
    assert slim["bytes"]["weights"] == whole.extra["bytes"]["weights"]
    assert slim["kernels"] == whole.extra["kernels"] and nb.size_bytes == sum(whole.extra["bytes"].values())


@pytest.mark.parametrize(
    "names", [("model.pdmodel", "model.pdiparams"), ("model", "params"), ("x.pdmodel", "x.pdiparams")]
)
def test_other_file_names(stages, tmp_path, names):
    found = program.find(plain(stages, "cls", tmp_path / "own", names))
    assert tuple(path.name for path in found) == names
    program.read(tmp_path / "own").weights()


def test_two_models_in_one_folder(stages, tmp_path):
    folder = plain(stages, "cls", tmp_path / "two", ("a.pdmodel", "a.pdiparams"))
    shutil.copyfile(folder / "a.pdmodel", folder / "b.pdmodel")
    with pytest.raises(ModelError, match=r"expected one model, found a\.pdmodel, b\.pdmodel"):
        program.find(folder)


def test_settings_beside_a_published_model(stages, tmp_path):
    """inference.yml decides about the charset, thresholds, colours; the manifest that comes out is the first one's."""
    for task in ("det", "rec"):
        folder = plain(stages, task, tmp_path / task)
        shutil.copyfile(stages(task) / "inference" / "inference.yml", folder / "inference.yml")
        found, wanted = source.open_source(folder), source.open_source(stages(task) / "inference")
        assert (found.manifest.task, found.manifest.name) == (task, wanted.manifest.name)
        assert (found.manifest.input, found.manifest.charset) == (wanted.manifest.input, wanted.manifest.charset)
        assert found.charset == wanted.charset and found.manifest.post == wanted.manifest.post
    settings = yaml.safe_load((tmp_path / "det" / "inference.yml").read_text())
    settings["PostProcess"]["box_thresh"] = 0.45
    settings["PreProcess"]["transform_ops"][0]["DecodeImage"]["img_mode"] = "RGB"
    (tmp_path / "det" / "inference.yml").write_text(yaml.safe_dump(settings))
    manifest = source.open_source(tmp_path / "det").manifest
    assert manifest.input and (manifest.post["box_thresh"], manifest.input.color) == (0.45, "RGB")
    with pytest.raises(UsageError, match=r"expected --task det as its inference\.yml says, found rec"):
        source.open_source(tmp_path / "det", task="rec")


def test_settings_of_another_model(stages, tmp_path):
    folder = plain(stages, "rec", tmp_path / "rec")
    settings = yaml.safe_load((stages("rec") / "inference" / "inference.yml").read_text())
    settings["PreProcess"]["transform_ops"][1]["RecResizeImg"]["image_shape"] = [3, 48, 320]
    (folder / "inference.yml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ModelError, match=r"48 px high as inference\.yml says, found a program for 32"):
        source.open_source(folder)
    settings["PreProcess"]["transform_ops"][1]["RecResizeImg"]["image_shape"] = [3, 32, 320]
    settings["PostProcess"]["character_dict"].pop()
    (folder / "inference.yml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    with pytest.raises(ModelError, match=r"for its 97 classes, found 94 in inference\.yml"):
        source.open_source(folder)


@pytest.mark.parametrize(
    ("shape", "task"),
    [((-1, 1, -1, -1), "det"), ((-1, 2), "cls"), ((-1, 4), None), ((-1, 25, 97), "rec"), ((), None), ((5,), None)],
)
def test_task_by_the_output(shape, task):
    from paddle.base.proto import framework_pb2

    desc = framework_pb2.ProgramDesc()
    block = desc.blocks.add(idx=0, parent_idx=-1)
    fetch = block.ops.add(type="fetch")
    fetch.inputs.add(parameter="X").arguments.append("y")
    var = block.vars.add(name="y")
    var.type.type = framework_pb2.VarType.LOD_TENSOR
    var.type.lod_tensor.tensor.data_type = framework_pb2.VarType.FP32
    var.type.lod_tensor.tensor.dims.extend(shape)
    assert source.task_of(program.Program(Path("m"), Path("p"), desc)) == task


def test_task_has_to_be_said_where_the_output_does_not(stages, tmp_path):
    network = trap_models.Network(lambda _, x: x.mean([2, 3]))  # (N, 8)
    with pytest.raises(UsageError, match=r"found \[-1, 8\]; say what it is with --task"):
        source.open_source(trap_models.save_network(network, tmp_path))


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("ch_PP-OCRv3_det_infer", "det"),
        ("ch_ppocr_mobile_v2.0_det_infer", "det"),
        ("ch_ppocr_mobile_v2.0_cls_infer", "cls"),
        ("en_number_mobile_v2.0_rec_infer", "rec"),
    ],
)
def test_published_models(published, tmp_path, name, task):
    shape = {"det": (1, 3, 96, 160), "cls": (2, 3, 48, 192), "rec": (2, 3, 32, 320)}[task]
    folder = published / "models" / name
    manifest, _ = to_nb.convert(folder, tmp_path / "x86", target="x86")
    assert manifest.task == task
    to_nb.convert(folder, tmp_path / "arm", target="arm")
    expected = InferenceEngine(folder, onednn=False).run(seeded_models.noise(shape))
    assert np.abs(open_nb(tmp_path / "x86")[0].run(seeded_models.noise(shape)) - expected).max() <= 1e-4


def test_published_chinese_recognizer_wants_its_charset(published, tmp_path):
    folder = published / "models" / "ch_ppocr_mobile_v2.0_rec_infer"
    with pytest.raises(ModelError, match="--charset"):
        to_nb.convert(folder, tmp_path / "out", target="x86", task="rec")
    keys = published / "charsets" / "ppocr_keys_v1.txt"
    manifest, _ = to_nb.convert(folder, tmp_path / "out", target="x86", task="rec", charset=keys)
    assert manifest.charset and manifest.charset.classes == 6625
