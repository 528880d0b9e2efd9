"""The diet of .nb files: what goes, what stays, and that the runtime cannot tell."""

import copy
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export import diet, nb_file, nb_writer, opt, program, to_inference
from export.nb_file import NbError, NbFile
from export.program import Program

# What Paddle-Lite reads of a convolution whatever it is fused with; without one of them it aborts.
CONVOLUTION = {"strides", "paddings", "dilations", "groups", "__@kernel_type_attr@__"}
SHAPES = {
    "det": [(1, 3, 64, 96), (1, 3, 96, 64)],
    "cls": [(1, 3, 48, 192), (3, 3, 48, 192)],
    "rec": [(1, 3, 32, 96), (2, 3, 32, 160)],
}
RUN = """
import json, sys
import numpy as np
from lite_runtime.engine import LiteEngine
for path, shapes in json.loads(sys.argv[1]):
    engine = LiteEngine(path)
    outputs = [engine.run(np.random.default_rng(3).standard_normal(shape).astype("f4")) for shape in shapes]
    np.savez(path + ".npz", *outputs)
"""


def both(convert, source: str | Path, target: str, *, fp16: bool = False) -> tuple[NbFile, NbFile]:
    whole, slim = (nb_file.read(convert(source, target, fp16=fp16, keep=keep)) for keep in (True, False))
    return whole, slim


def run_on_x86(files: list[tuple[Path, str]]) -> dict[Path, list[np.ndarray]]:
    """Outputs at two shapes; in a child process, because a bad file kills the process that loads it."""
    jobs = json.dumps([(str(path), SHAPES[task]) for path, task in files])
    subprocess.run([sys.executable, "-c", RUN, jobs], check=True, capture_output=True, timeout=120)
    outputs = {}
    for path, _ in files:
        with np.load(f"{path}.npz") as arrays:
            outputs[path] = [arrays[name] for name in arrays.files]
    return outputs


@pytest.mark.parametrize("task", ["det", "cls", "rec"])
def test_bit_identical_on_x86(convert, task):
    whole, slim = convert(task, "x86", keep=True), convert(task, "x86")
    assert slim.stat().st_size < whole.stat().st_size - 50_000
    found = run_on_x86([(whole, task), (slim, task)])
    for a, b in zip(found[whole], found[slim], strict=True):
        assert a.std() > 0 and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    ("source", "target", "fp16"),
    [
        ("det", "arm", False), ("cls", "arm", False), ("rec", "arm", False), ("rec", "arm", True),
        ("det-int8", "arm", False), ("cls-int8", "arm", False), ("det", "x86", False),
    ],
)  # fmt: skip
def test_same_program(convert, source, target, fp16):
    whole, slim = both(convert, source, target, fp16=fp16)
    assert [finding for finding in diet.same_program(whole, slim) if not finding.passed] == []
    # Paddle-Lite looks attributes up by bisection, and some are called after a renamed weight.
    assert all(list(op.attributes) == sorted(op.attributes) for op in slim.ops)
    assert slim.kernels() == whole.kernels()
    assert (slim.inputs, slim.outputs) == (whole.inputs, whole.outputs)
    if fp16:
        marks = sum(name.endswith("_fp16") for op in slim.ops for name in op.attributes)
        assert marks > 50 and all(
            name.removesuffix("_fp16") in slim.params
            for op in slim.ops
            for name in op.attributes
            if name.endswith("_fp16")
        )


@pytest.mark.parametrize("source", ["det-int8", "cls-int8"])
def test_topology_of_int8_files(convert, source):
    """The bar is 60 % of what opt writes."""
    whole, slim = both(convert, source, "arm")
    assert slim.topology_bytes < 0.25 * whole.topology_bytes
    weights = {name for name, var in slim.vars.items() if var.persistable}
    assert slim.params.keys() == weights - {"feed", "fetch"}
    for op in slim.ops:
        if op.kernel and op.kernel.precision == "int8" and "conv2d" in op.type:
            assert op.attributes.keys() >= CONVOLUTION | {"enable_int8", "Input0_scale", "Filter0_scale"}


def test_same_bytes_twice(convert, stages, tmp_path):
    (tmp_path / "again").mkdir()
    model = diet.before_opt(program.read(stages("cls-int8") / "inference"), tmp_path / "again")
    opt.convert(model.model, model.params, tmp_path / "again.nb", target="arm")
    diet.after_opt(tmp_path / "again.nb")
    data = (tmp_path / "again.nb").read_bytes()
    assert data == convert("cls-int8", "arm").read_bytes()
    diet.after_opt(tmp_path / "again.nb")  # a second diet finds nothing
    assert data == (tmp_path / "again.nb").read_bytes()


ATTACH = """
import sys
from paddlelite.lite import MobileConfig, create_paddle_predictor
config = MobileConfig()
config.set_model_from_file(sys.argv[1])
create_paddle_predictor(config)
"""


def attach(path: Path) -> subprocess.CompletedProcess[str]:
    """Let the library read a file and set up its ops; kernels for another machine do not run, but get their ops."""
    return subprocess.run([sys.executable, "-c", ATTACH, str(path)], capture_output=True, text=True, timeout=120)


def test_library_attaches_every_op_of_arm_files(convert, tmp_path):
    """Reading is the same code on every machine: it aborts for an attribute that it cannot do without."""
    for source, fp16 in (("det-int8", False), ("cls-int8", False), ("rec", False), ("rec", True)):
        assert attach(convert(source, "arm", fp16=fp16)).returncode == 0
    data = convert("det-int8", "arm").read_bytes()
    topology = nb_writer.read_topology(data)
    for op in topology["blocks"][0]["ops"]:
        op["attrs"] = [attribute for attribute in op["attrs"] if attribute["name"] != "paddings"]
    (tmp_path / "model.nb").write_bytes(nb_writer.with_topology(data, topology))
    failed = attach(tmp_path / "model.nb")
    assert failed.returncode < 0 and "No attributes called paddings" in failed.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "ch_PP-OCRv3_det_infer", "ch_ppocr_mobile_v2.0_cls_infer", "ch_ppocr_mobile_v2.0_det_infer",
        "ch_ppocr_mobile_v2.0_rec_infer", "en_number_mobile_v2.0_rec_infer",
    ],
)  # fmt: skip
def test_published_models(convert, published, name):
    folder = published / "models" / name
    files = {target: both(convert, folder, target) for target in ("arm", "x86")}
    for whole, slim in files.values():
        assert all(finding.passed for finding in diet.same_program(whole, slim))
    task = next(task for task in SHAPES if f"_{task}_" in name)
    found = run_on_x86([(convert(folder, "x86", keep=keep), task) for keep in (True, False)])
    kept, dieted = found.values()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(kept, dieted, strict=True))


@pytest.mark.parametrize("name", ["det_db", "cls", "rec_crnn"])
def test_published_int8_files(published, tmp_path, name):
    source = published / "nb" / "ch_PP-OCRv2_slim" / f"{name}.nb"
    path = tmp_path / "slim.nb"
    shutil.copyfile(source, path)
    diet.after_opt(path)
    whole, slim = nb_file.read(source), nb_file.read(path)
    assert all(finding.passed for finding in diet.same_program(whole, slim))
    assert slim.topology_bytes < 0.4 * whole.topology_bytes


@pytest.mark.slow
@pytest.mark.parametrize(("task", "most"), [("cls", 345_000), ("det", 505_000)])
def test_sizes_of_the_shipped_int8_models(convert, tmp_path, task, most):
    checkpoint = Path(__file__).resolve().parents[2] / "ocr_models" / "pretrained" / "slim" / task
    to_inference.export(checkpoint, tmp_path / f"shipped-{task}")
    whole, slim = both(convert, tmp_path / f"shipped-{task}", "arm")
    assert slim.size_bytes <= most
    assert slim.topology_bytes <= 0.6 * whole.topology_bytes
    assert all(finding.passed for finding in diet.same_program(whole, slim))


def test_unknown_op_keeps_everything(stages, tmp_path):
    model = program.read(stages("cls") / "inference")
    desc = copy.deepcopy(model.desc)
    op = next(op for op in desc.blocks[0].ops if op.type == "pool2d")
    before = sorted(attribute.name for attribute in op.attrs)
    assert {"use_cudnn", "op_role"} <= set(before)
    slim = diet.before_opt(Program(model.model, model.params, desc), tmp_path)
    known = next(op for op in slim.block.ops if op.type == "pool2d")
    assert not {"use_cudnn", "op_role"} & {attribute.name for attribute in known.attrs}
    op.type = "pool2d_of_tomorrow"
    slim = diet.before_opt(Program(model.model, model.params, desc), tmp_path)
    kept = next(op for op in slim.block.ops if op.type == "pool2d_of_tomorrow")
    assert sorted(attribute.name for attribute in kept.attrs) == before


def test_unknown_op_of_a_file_keeps_everything(convert, tmp_path):
    data = convert("cls", "arm", keep=True).read_bytes()
    topology = nb_writer.read_topology(data)
    op = next(op for op in topology["blocks"][0]["ops"] if op["type"] == "pool2d")
    op["type"] = "pool2d_of_tomorrow"
    path = tmp_path / "model.nb"
    path.write_bytes(nb_writer.with_topology(data, topology))
    diet.after_opt(path)
    kept = next(op for op in nb_file.read(path).ops if op.type == "pool2d_of_tomorrow")
    assert kept.attributes.keys() == {attribute["name"] for attribute in op["attrs"]}


def test_names_are_short_and_in_order():
    names = [f"conv2d_{i}.w_0" for i in range(40)] + ["b"]
    found = diet.short_names(names, {*names, "x"})
    assert sorted(found, key=found.__getitem__) == sorted(names)
    assert set(map(len, found.values())) == {3} and len(set(found.values())) == 41
    assert not set(diet.short_names(["a"], {"w0", "a"}).values()) & {"w0"}
    assert diet.short_names(["a"], {"a"}) == {"a": "w0"}


def test_weights_are_renamed_with_their_arrays(stages, tmp_path):
    model = program.read(stages("rec") / "inference")
    slim = diet.before_opt(model, tmp_path)
    old, new = model.weights(), program.read(tmp_path).weights()
    assert set(map(len, new)) == {3} and (slim.inputs, slim.outputs) == (model.inputs, model.outputs)
    used = {name for op in model.block.ops for slot in op.inputs for name in slot.arguments} & old.keys()
    assert [array.tobytes() for _, array in sorted(new.items())] == [old[name].tobytes() for name in sorted(used)]
    assert model.model.parent != slim.model.parent and program.read(model.model.parent).weights().keys() == old.keys()


def test_damaged_file(convert, tmp_path):
    path = tmp_path / "model.nb"
    data = bytearray(convert("cls", "arm").read_bytes())
    data[26:30] = struct.pack("<I", 1 << 30)
    path.write_bytes(data)
    with pytest.raises(NbError):
        diet.after_opt(path)
    assert path.read_bytes() == data
