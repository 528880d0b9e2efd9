"""The diet of .nb files: what goes, what stays, and that the runtime cannot tell."""

import copy
import importlib.util
import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import artifact
from export import bias_fold, diet, nb_file, nb_writer, op_attributes, opt, program, structure, to_inference
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


@pytest.fixture(scope="module")
def convert(stages, tmp_path_factory) -> Callable[..., Path]:
    """convert(inference folder or stage, target) → file; keep: without the diet."""
    root = tmp_path_factory.mktemp("diet")

    def make(source: str | Path, target: str, *, fp16: bool = False, keep: bool = False) -> Path:
        inference = stages(source) / "inference" if isinstance(source, str) else source
        name = f"{source if isinstance(source, str) else source.name}-{target}-{fp16}-{keep}"
        path = root / f"{name}.nb"
        if not path.exists():
            (root / name).mkdir()
            model = diet.before_opt(program.read(inference), root / name, keep_attributes=keep)
            opt.convert(model.model, model.params, path, target=target, fp16=fp16)
            if not keep:
                diet.after_opt(path)
        return path

    return make


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


def edit(path: Path, change: Callable[[list[dict[str, Any]], dict[str, Any]], None]) -> NbFile:
    """The file with another topology."""
    data = path.read_bytes()
    topology = nb_writer.read_topology(data)
    change(topology["blocks"][0]["ops"], topology["blocks"][0])
    return nb_file.parse(nb_writer.with_topology(data, topology))


def first(ops: list[dict[str, Any]], attribute: str) -> dict[str, Any]:
    return next(found for op in ops for found in op["attrs"] if found["name"] == attribute)


def drop(ops: list[dict[str, Any]], attribute: str) -> None:
    op = next(op for op in ops if any(found["name"] == attribute for found in op["attrs"]))
    op["attrs"] = [found for found in op["attrs"] if found["name"] != attribute]


def swap(ops: list[dict[str, Any]]) -> None:
    """Two weights of one shape, each in the other's place."""
    slots = [slot for op in ops for slot in op["inputs"] if op["type"] == "conv2d" and slot["parameter"] == "Filter"]
    slots[3]["arguments"], slots[4]["arguments"] = slots[4]["arguments"], slots[3]["arguments"]


FAULTS: dict[str, tuple[Callable[..., Any], str]] = {
    "a scale": (lambda ops, _: first(ops, "Filter0_scale")["floats"].reverse(), "attributes"),
    "a stride": (lambda ops, _: first(ops, "strides").update(ints=[1, 1]), "attributes"),
    "an attribute that is read": (lambda ops, _: drop(ops, "paddings"), "attributes"),
    "a new attribute": (lambda ops, _: ops[3]["attrs"].append({"name": "zz", "type": 0, "i": 1}), "attributes"),
    "a sign": (lambda ops, _: first(ops, "bias").update(f=-1e-45), "attributes"),
    "a kernel": (lambda ops, _: first(ops, "__@kernel_type_attr@__").update(s="feed/def/2/1/1"), "kernels"),
    "an op": (lambda ops, _: ops.pop(5), "ops kernels"),
    "wires": (lambda ops, _: swap(ops), "weights variables"),
    "an output": (lambda ops, _: ops[2]["outputs"][0].update(arguments=["x"]), "arguments variables"),
    "a shape": (
        lambda _, block: block["vars"][9]["type"]["lod_tensor"]["tensor"].update(dims=[1, 2, 3, 4]), "variables",
    ),
    "a variable": (lambda _, block: block["vars"].pop(9), "variables"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_every_change_is_found(convert, fault):
    change, where = FAULTS[fault]
    whole, changed = nb_file.read(convert("cls-int8", "arm", keep=True)), edit(convert("cls-int8", "arm"), change)
    assert {finding.what for finding in diet.same_program(whole, changed) if not finding.passed} == set(where.split())


def test_changed_weight_is_found(convert):
    path = convert("cls-int8", "arm")
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    findings = diet.same_program(nb_file.read(convert("cls-int8", "arm", keep=True)), nb_file.parse(bytes(data)))
    assert [finding.what for finding in findings if not finding.passed] == ["weights"]


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
    drop(topology["blocks"][0]["ops"], "paddings")
    (tmp_path / "model.nb").write_bytes(nb_writer.with_topology(data, topology))
    failed = attach(tmp_path / "model.nb")
    assert failed.returncode < 0 and "No attributes called paddings" in failed.stderr


def test_library_does_not_know_what_goes():
    """opt and the runtime are one binary: a name that is not in it is read by no pass, op or kernel."""
    package = importlib.util.find_spec("paddlelite")
    assert package is not None and package.submodule_search_locations
    binary = (Path(package.submodule_search_locations[0]) / "lite.so").read_bytes()

    def named(name: str) -> bool:
        """As a literal, or as the number whose bytes are the first eight of a short text."""
        text = name.encode()
        number = rb"[\x48\x49][\xb8-\xbf]" + re.escape(text[:8])
        return text + b"\0" in binary or (8 <= len(text) <= 15 and re.search(number, binary) is not None)

    read = {name for kept in op_attributes.KEPT.values() for name in kept}
    assert {name for name in read if not named(name)} == {"moving_rate", "round_type"}  # so names are found
    # what other ops read, or these where it is true; a list of what opt itself leaves out
    others = {"fuse_brelu_threshold", "fuse_relu", "is_test", "data_format", "use_mkldnn", "use_quantizer"}
    skipped = {"op_callstack", "op_namescope", "op_role", "op_role_var", "workspace_size_MB"}
    assert {name for name in op_attributes.UNREAD if named(name)} == others | skipped


def attributes_of(model: Program) -> Iterator[tuple[str, str]]:
    for block in model.desc.blocks:
        for op in block.ops:
            yield from ((op.type, attribute.name) for attribute in op.attrs)


def unknown(model: Program, files: list[NbFile]) -> set[tuple[str, str]]:
    """Attributes about which the tables say nothing, before and after opt."""
    pairs = {*attributes_of(model), *((op.type, name) for nb in files for op in nb.ops for name in op.attributes)}
    assert len(pairs) > 80
    return {pair for pair in pairs if not op_attributes.known(*pair)}


@pytest.mark.parametrize("source", ["det", "cls", "rec", "det-int8", "cls-int8"])
def test_tables_know_every_op_of_our_networks(convert, stages, source):
    targets = ("arm",) if source.endswith("int8") else ("arm", "x86")
    files = [nb_file.read(convert(source, target, keep=True)) for target in targets]
    assert unknown(program.read(stages(source) / "inference"), files) == set()


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
    assert unknown(program.read(folder), [whole for whole, _ in files.values()]) == set()
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


@pytest.mark.parametrize(
    ("op", "name", "value", "before", "after"),
    [
        ("conv2d", "use_cudnn", True, False, False),
        ("conv2d", "strides", [1, 1], True, True),
        ("conv2d", "out_threshold", 1.0, True, False),  # opt may derive a scale from it
        ("conv2d", "Input0_threshold", 1.0, True, False),
        ("conv2d", "Input0_scale", [0.5], True, True),
        ("conv2d", "an_attribute_of_tomorrow", 1, True, True),
        ("conv2d", "w00_fp16", "fp16", True, True),
        ("fc", "linear_0.w_0_quant_scale", [0.5], True, True),
        ("conv2d", "is_test", True, False, False),
        ("batch_norm", "is_test", True, True, True),
        ("pool2d", "use_quantizer", False, False, False),
        ("pool2d", "use_quantizer", True, True, True),  # absent would be false
        ("conv2d", "fuse_relu", True, True, True),
        ("a_new_op", "use_cudnn", False, True, True),
    ],
)
def test_what_stays(op, name, value, before, after):
    needed = (
        op_attributes.needed(op, name, value, after_opt=False),
        op_attributes.needed(op, name, value, after_opt=True),
    )
    assert needed == (before, after)


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


def paddle_outputs(model: Program, task: str) -> list[np.ndarray]:
    """Paddle's own engine without fusions: each op as the program has it."""
    from ocr_models.paddle_engine import InferenceEngine

    engine = InferenceEngine(model.model.parent, optimize=False)
    found = [engine.run(np.random.default_rng(4).standard_normal(shape).astype("f4")) for shape in SHAPES[task]]
    engine.close()
    return found


@pytest.mark.parametrize(("task", "biases"), [("cls", 18), ("det", 2)])
def test_biases_are_added_as_they_are(stages, tmp_path, task, biases):
    folder = tmp_path / "folded"
    shutil.copytree(stages(task) / "inference", folder)
    model = program.read(folder)
    before = paddle_outputs(model, task)
    folded = diet.before_opt(model, folder, keep_attributes=True)
    assert model.ops.count("reshape2") - folded.ops.count("reshape2") == biases
    assert len(model.ops) - len(folded.ops) == biases
    # what paddle.inference reads is inference.pdmodel, which is now the folded one
    manifest = artifact.load(stages(task) / "inference")
    artifact.write(folder, manifest, "test")
    assert all(a.tobytes() == b.tobytes() for a, b in zip(before, paddle_outputs(folded, task), strict=True))


def test_nothing_to_fold_changes_nothing(stages, tmp_path):
    model = diet.before_opt(program.read(stages("cls") / "inference"), tmp_path, keep_attributes=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert diet.before_opt(model, empty, keep_attributes=True) is model
    assert not list(empty.iterdir())


def reshape(desc: Any) -> tuple[Any, Any]:
    """The first reshape of a bias, and the addition that uses it."""
    found = next(op for op in desc.blocks[0].ops if op.type == "reshape2")
    out = next(slot.arguments[0] for slot in found.outputs if slot.parameter == "Out")
    add = next(op for op in desc.blocks[0].ops if any(out in slot.arguments for slot in op.inputs))
    return found, add


def other_shape(desc: Any) -> None:
    found, _ = reshape(desc)
    shape = next(attribute for attribute in found.attrs if attribute.name == "shape")
    shape.ints[:] = [1, 1, shape.ints[1], 1]


def used_twice(desc: Any) -> None:
    found, _ = reshape(desc)
    other = next(op for op in desc.blocks[0].ops if op.type == "elementwise_mul")
    other.inputs[1].arguments[:] = [found.outputs[0].arguments[0]]


def not_a_weight(desc: Any) -> None:
    found, _ = reshape(desc)
    bias = next(slot.arguments[0] for slot in found.inputs if slot.parameter == "X")
    next(var for var in desc.blocks[0].vars if var.name == bias).persistable = False


def other_axis(desc: Any) -> None:
    _, add = reshape(desc)
    next(attribute for attribute in add.attrs if attribute.name == "axis").i = 2


@pytest.mark.parametrize("change", [other_shape, used_twice, not_a_weight, other_axis])
def test_other_reshapes_stay(stages, change):
    desc = copy.deepcopy(program.read(stages("cls") / "inference").desc)
    assert bias_fold.fold(copy.deepcopy(desc)) == 18
    change(desc)
    assert bias_fold.fold(desc) == 17


@pytest.fixture
def judge(stages, tmp_path) -> Callable[[str, bytes, bool | None], list[tuple[str, bool]]]:
    """judge(stage, file's bytes, what the manifest says of the diet) → what was looked at, and whether it passed."""

    def look(source: str, data: bytes, slim: bool | None) -> list[tuple[str, bool]]:
        manifest = artifact.load(stages(source) / "arm")
        extra = {name: value for name, value in manifest.extra.items() if name != "diet"}
        folder = tmp_path / "arm"
        folder.mkdir(exist_ok=True)
        (folder / "model.nb").write_bytes(data)
        changed = manifest.replace(extra=extra if slim is None else {**extra, "diet": slim})
        found = structure.check_nb(folder, changed, stages(source) / "inference")
        return [(finding.what, finding.passed) for finding in found]

    return look


@pytest.mark.parametrize("source", ["cls", "cls-int8"])
def test_structure_of_an_artifact(convert, judge, stages, tmp_path, source):
    """Slim, with --keep-attributes, and made before there was a diet."""
    model = program.read(stages(source) / "inference")
    opt.convert(model.model, model.params, tmp_path / "raw.nb", target="arm")
    for slim, path in (
        (True, convert(source, "arm")),
        (False, convert(source, "arm", keep=True)),
        (None, tmp_path / "raw.nb"),
    ):
        findings = judge(source, path.read_bytes(), slim)
        assert [what for what, passed in findings if not passed] == []
        assert ("arm: without the diet" in dict(findings)) is (slim is True)


def test_structure_finds_a_change(convert, judge):
    data = convert("cls-int8", "arm").read_bytes()
    topology = nb_writer.read_topology(data)
    first(topology["blocks"][0]["ops"], "groups")["i"] = 2
    findings = judge("cls-int8", nb_writer.with_topology(data, topology), True)
    assert [what for what, passed in findings if not passed] == ["arm: a fresh conversion", "arm: without the diet"]
