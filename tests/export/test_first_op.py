"""Faults put into real files, and the op that the search names."""

from pathlib import Path

import numpy as np
import pytest
import seeded_models

from export import cut_program, first_op, layer_names, opt, program
from export.run_lite import run_lite

# In the middle of the recognizer's network: what comes before it agrees, what comes after it does not.
LAYER = "backbone.blocks.3.expand_conv.conv"


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
    """The recognizer's stages with one layer's weights changed."""
    folder = tmp_path_factory.mktemp("changed")
    layer = seeded_models.network("rec")
    weight = dict(layer.named_sublayers())[LAYER].weight
    weight.set_value(weight * 1.1)
    seeded_models.save_checkpoint(layer, "rec", folder / "checkpoint")
    seeded_models.export_all(folder / "checkpoint", ("x86", "arm"))
    return folder


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return seeded_models.noise((1, 3, 32, 96))


def layers(checkpoint: Path, inference: Path) -> dict[str, str]:
    return first_op.with_paths(layer_names.layer_names(checkpoint), program.read(inference))


def test_changed_layer_between_two_files(stages, changed, x):
    folder = stages("rec")
    named = layers(folder / "checkpoint", folder / "inference")
    found = first_op.between_files("as saved", folder / "inference", changed / "inference", x, named)
    assert (found.type, found.layer) == ("conv2d", LAYER)
    assert found.relative is not None and 0.05 < found.relative < 0.15
    same = first_op.between_files("as saved", folder / "inference", folder / "inference", x, named)
    assert same.op == -1 and same.said.startswith("no op")


@pytest.mark.parametrize("target", ["x86", "arm"])
def test_changed_layer_in_an_nb_file(stages, changed, target):
    """Also in the ARM file, which cannot run here."""
    folder = stages("rec")
    named = layers(folder / "checkpoint", folder / "inference")
    found = first_op.inside_nb(target, changed / target, folder / "inference", named)
    assert (found.type, found.layer) == ("conv2d", LAYER)
    assert "other weights" in found.said
    assert first_op.inside_nb(target, folder / target, folder / "inference", named).op == -1


@pytest.mark.slow
@pytest.mark.parametrize("where", ["branch", "last"])
def test_faulty_engine(stages, x, where):
    """An engine whose results are those of the model with one op changed, on a side branch or at the end."""
    folder = stages("rec")
    named = layers(folder / "checkpoint", folder / "inference")
    model = program.read(folder / "inference")
    live = [value for value in cut_program.values(model) if value.live]
    kinds = {"branch": "hard_sigmoid", "last": "softmax"}
    chosen = [value for value in live if value.type == kinds[where]]
    culprit = chosen[len(chosen) // 2]

    def run(cut: Path, x: np.ndarray, count: int) -> list[np.ndarray]:
        """The op's own output scaled: a `scale` op behind it, read by all that read it."""
        broken = program.read(cut)
        block = broken.desc.blocks[0]
        at = next((n for n, op in enumerate(block.ops) if culprit.name in _writes(op)), None)
        if at is not None:
            _scale(block, at, culprit.name)
            (cut / "inference.pdmodel").write_bytes(broken.desc.SerializeToString())
        return first_op.run_paddle(cut, x, count)

    found = first_op.inside_engine("fused", folder / "inference", x, run, named, quantized=False)
    assert (found.op, found.type, found.output) == (culprit.op, culprit.type, culprit.name)
    assert found.layer


def _writes(op) -> list[str]:
    return [name for slot in op.outputs for name in slot.arguments]


def _scale(block, at: int, name: str) -> None:
    inner = f"{name}.before"
    var = block.vars.add()
    var.CopyFrom(next(v for v in block.vars if v.name == name))
    var.name = inner
    for slot in block.ops[at].outputs:
        slot.arguments[:] = [inner if argument == name else argument for argument in slot.arguments]
    ops = list(block.ops)
    scale = type(ops[0])()
    scale.type = "scale"
    scale.inputs.add(parameter="X", arguments=[inner])
    scale.outputs.add(parameter="Out", arguments=[name])
    for attribute, value in (("scale", 0.9), ("bias", 0.0)):
        scale.attrs.add(name=attribute, type=1, f=value)
    scale.attrs.add(name="bias_after_scale", type=6, b=True)
    ops.insert(at + 1, scale)
    copies = []
    for op in ops:
        copy = type(op)()
        copy.CopyFrom(op)
        copies.append(copy)
    del block.ops[:]
    block.ops.extend(copies)


def test_cut_program_computes_what_the_whole_one_does(stages, x, tmp_path):
    folder = stages("rec")
    model = program.read(folder / "inference")
    live = [value for value in cut_program.values(model) if value.live]
    half = live[len(live) // 2]
    names = cut_program.frontier(model, live, half.op)
    assert half.name in names
    cut_program.write(model, names, tmp_path, upto=half.op)
    cut = program.read(tmp_path)
    assert cut.outputs == names and len(cut.ops) < len(model.ops) and set(cut.weights()) < set(model.weights())
    on_paddle, on_lite = first_op.run_paddle(tmp_path, x, len(names)), run_lite(tmp_path, x, len(names))
    for a, b in zip(on_paddle, on_lite, strict=True):
        assert a.shape == b.shape and first_op.relative(a, b) < first_op.OTHER_KERNELS


def test_programs_of_other_ops(stages, x):
    rec, cls = stages("rec"), stages("cls")
    found = first_op.between_files("as saved", rec / "inference", cls / "inference", x, {})
    assert "where the other file has" in found.said


def test_files_that_opt_refuses(tmp_path):
    (tmp_path / "inference.pdmodel").write_bytes(b"no program")
    (tmp_path / "inference.pdiparams").write_bytes(b"")
    with pytest.raises(opt.ModelError, match="expected a Paddle program"):
        run_lite(tmp_path, np.zeros((1, 3, 32, 32), np.float32), 1)
