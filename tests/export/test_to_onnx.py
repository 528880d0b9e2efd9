"""ONNX files that compute what Paddle computes; models that cannot become one are refused in one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import paddle
import pytest

import artifact
import command
from export import onnx_convert, to_inference, to_onnx
from ocr_models import catalogue, checkpoints
from ocr_models.paddle_engine import InferenceEngine

NAMES = ["det_mv3_db", "cls_mv3", "rec_mv3_crnn_en"]


def checkpoint(out, name):
    """A network with weights that are all different; batch norms keep the signal's size."""
    card = catalogue.card(name)
    paddle.seed(11)
    layer = catalogue.build(card.network)
    chance = np.random.default_rng(4)
    for key, tensor in checkpoints.parameters(layer).items():
        if ".bn." in key or ".conv_bn" in key:
            low = 0.5 if key.endswith(("weight", "_variance")) else -0.2
            tensor.set_value(chance.uniform(low, low + 0.4, tensor.shape).astype(np.float32))
    with artifact.create(out) as folder:
        checkpoints.save_network(layer, folder)
        artifact.write(folder, card.manifest(folder), "test")
    return out


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{name: inference artifact}."""
    folder = tmp_path_factory.mktemp("models")
    for name in NAMES:
        to_inference.export(checkpoint(folder / f"{name}-checkpoint", name), folder / name)
    return folder


def call(capsys, *arguments):
    args = to_onnx.build_parser().parse_args([str(argument) for argument in arguments])
    code = command._attempt("to_onnx.py", to_onnx.run, args)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("name", NAMES)
def test_a_model_becomes_onnx_and_computes_the_same(models, tmp_path, capsys, name):
    out = tmp_path / "new" / "model.onnx"
    code, said, _ = call(capsys, models / name, "--out", out)
    assert code == 0 and f"opset 14; the same within {to_onnx.TOLERANCE:g}" in said
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    engine = InferenceEngine(models / name, optimize=False)
    shape = {"det": (1, 3, 96, 64), "cls": (2, 3, 48, 192), "rec": (1, 3, 32, 200)}[artifact.load(models / name).task]
    x = np.random.default_rng(9).uniform(-1, 1, shape).astype(np.float32)
    found = session.run(None, {"x": x})[0]
    assert np.abs(found - engine.run(x)).max() < 1e-5 and found.std() > 1e-4
    about = session.get_modelmeta().custom_metadata_map
    record, manifest = json.loads(about["ppocr_edge"]), artifact.load(models / name)
    assert record["task"] == manifest.task and record["post"] == manifest.post
    assert record["input"]["mean"] == list(manifest.input.mean)
    entries = artifact.read_charset(models / name, manifest) if manifest.charset else None
    assert about.get("character", "").split("\n") == (entries or [""])
    assert [path.name for path in out.parent.iterdir()] == ["model.onnx"]


def test_a_checkpoint_and_its_inference_model_give_the_same_file(models, tmp_path, capsys):
    assert call(capsys, models / "cls_mv3", "--out", tmp_path / "a.onnx")[0] == 0
    code, said, _ = call(capsys, models / "cls_mv3-checkpoint", "--json", "--out", tmp_path / "folder")
    report = json.loads(said)
    assert code == 0 and report["out"] == str(tmp_path / "folder" / "cls_mv3.onnx") and report["agrees"]
    assert [row["shape"] for row in report["agreement"]] == [[1, 3, 48, 192], [3, 3, 48, 192]]
    assert max(row["largest"] for row in report["agreement"]) < 1e-5
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "folder" / "cls_mv3.onnx").read_bytes()


def test_another_opset(models, tmp_path, capsys):
    assert call(capsys, models / "cls_mv3", "--opset", "19", "--out", tmp_path / "a.onnx")[0] == 0
    assert onnx.load(str(tmp_path / "a.onnx")).opset_import[0].version == 19


def test_a_folder_of_other_names_without_a_manifest(models, tmp_path, capsys):
    """As Paddle 1.x wrote models; the task is found by the output."""
    for name, other in (("inference.pdmodel", "__model__"), ("inference.pdiparams", "__params__")):
        (tmp_path / other).write_bytes((models / "rec_mv3_crnn_en" / name).read_bytes())
    code, said, _ = call(capsys, tmp_path, "--out", tmp_path / "rec.onnx")
    assert code == 0 and "(rec)" in said
    session = onnxruntime.InferenceSession(str(tmp_path / "rec.onnx"), providers=["CPUExecutionProvider"])
    assert len(session.get_modelmeta().custom_metadata_map["character"].split("\n")) == 95


@pytest.mark.parametrize("fault", ["a weight", "not a number", "another shape"])
def test_a_file_that_computes_something_else_is_not_written(models, tmp_path, capsys, monkeypatch, fault):
    """The converter's result is spoiled on its way; the agreement check has to see it."""
    real = onnx_convert.convert

    def spoiled(*arguments, **options):
        real(*arguments, **options)
        path = arguments[2]
        model = onnx.load(str(path))
        weights = [node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"]
        matrix = next(tensor for tensor in weights if list(tensor.dims) == [200, 2])
        array = onnx.numpy_helper.to_array(matrix).copy()
        array[3, 1] += 1.0 if fault == "a weight" else np.nan
        matrix.CopyFrom(onnx.numpy_helper.from_array(array, matrix.name))
        if fault == "another shape":
            softmax = model.graph.node[-1]
            softmax.op_type = "Shape"
            del softmax.attribute[:]
            model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
        path.write_bytes(model.SerializeToString())

    monkeypatch.setattr(onnx_convert, "convert", spoiled)
    code, said, _ = call(capsys, models / "cls_mv3", "--json", "--out", tmp_path / "new" / "a.onnx")
    report = json.loads(said)
    assert code == 1 and not report["agrees"] and list(tmp_path.iterdir()) == []
    largest = report["agreement"][0]["largest"]
    assert (largest is None) == (fault != "a weight") and (largest is None or largest > to_onnx.TOLERANCE)


class ForeignOp(paddle.nn.Layer):
    """A network with an op that paddle2onnx does not know."""

    def __init__(self):
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 1, 1)

    def forward(self, x):
        return paddle.nn.functional.sigmoid(paddle.lgamma(self.conv(x)))


def save(layer, folder):
    layer.eval()
    spec = [paddle.static.InputSpec([None, 3, 48, 192], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(folder / "inference"))
    return folder


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("early opset", "expected --opset 14 or later for its ops, found 11; give it"),
        ("no opset", "expected --opset 7 to 19, found 99; give another"),
        ("exists", "expected a file that does not exist yet, found one"),
        ("nothing", "nowhere: expected"),
        ("foreign op", "expected ops that paddle2onnx converts, found lgamma; replace these ops"),
        ("cut weights", "inference.pdiparams: expected the"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(models, tmp_path, capsys, case, said):
    folder, options = models / "cls_mv3-checkpoint", []
    if case == "nothing":
        folder = tmp_path / "nowhere"
    if case == "foreign op":
        folder = save(ForeignOp(), tmp_path)
    if case == "cut weights":
        for name in ("inference.pdmodel", "inference.pdiparams"):
            content = (models / "cls_mv3" / name).read_bytes()
            (tmp_path / name).write_bytes(content[:-1000] if name.endswith("params") else content)
        folder = tmp_path
    if case == "exists":
        (tmp_path / "a.onnx").write_bytes(b"mine")
    options = {"early opset": ["--opset", "11"], "no opset": ["--opset", "99"]}.get(case, [])
    before = sorted(tmp_path.rglob("*"))
    code, printed, complaint = call(capsys, folder, *options, "--out", tmp_path / "a.onnx")
    assert (code, printed) == (2, "") and said in complaint and complaint.count("\n") == 1, complaint
    assert "/tmp/tmp" not in complaint and sorted(tmp_path.rglob("*")) == before


class Quantized(paddle.nn.Layer):
    """Directions from a fake-quantized input."""

    def __init__(self):
        super().__init__()
        self.scale = paddle.nn.quant.quant_layers.FakeQuantAbsMax("x")
        self.fc = paddle.nn.Linear(3, 2)

    def forward(self, x):
        return paddle.nn.functional.softmax(self.fc(self.scale(x).mean([2, 3])))


def test_int8_is_refused_with_what_to_do(tmp_path, capsys):
    save(Quantized(), tmp_path)
    code, _, complaint = call(capsys, tmp_path, "--out", tmp_path / "a.onnx")
    assert code == 2 and "found one that simulates int8, whose fake_quantize ops paddle2onnx does not know" in complaint
    assert "give the float model that it was made from" in complaint and not (tmp_path / "a.onnx").exists()


def test_a_child_that_hangs_or_eats_is_ended(models, tmp_path):
    files = [models / "cls_mv3" / f"inference.{end}" for end in ("pdmodel", "pdiparams")]
    with pytest.raises(command.ModelError, match=r"within 0\.01 s, found it still busy"):
        onnx_convert.convert(*files, tmp_path / "a.onnx", opset=14, timeout_s=0.01)
    with pytest.raises(command.ModelError, match="found that it ended with"):
        onnx_convert.convert(*files, tmp_path / "a.onnx", opset=14, memory_bytes=24 << 20)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_says_what_to_install(models, tmp_path, capsys, monkeypatch):
    real = to_onnx.importlib.util.find_spec
    monkeypatch.setattr(to_onnx.importlib.util, "find_spec", lambda name: None if name == "onnx" else real(name))
    code, _, complaint = call(capsys, models / "cls_mv3", "--out", tmp_path / "a.onnx")
    assert code == 2 and "found no onnx; install: pip install '.[train,onnx]'" in complaint


@pytest.mark.slow
def test_the_command_on_a_published_model(published, tmp_path):
    root = Path(command.__file__).parent
    folder = published / "models" / "ch_ppocr_mobile_v2.0_det_infer"
    done = subprocess.run(
        [sys.executable, "export/to_onnx.py", str(folder), "--out", str(tmp_path / "det.onnx")],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and (tmp_path / "det.onnx").is_file(), done.stderr
