"""Biases that a program reshapes before it adds them."""

import copy
import shutil
from typing import Any

import numpy as np
import pytest

import artifact
from export import bias_fold, diet, program
from export.program import Program

SHAPES = {"det": [(1, 3, 64, 96), (1, 3, 96, 64)], "cls": [(1, 3, 48, 192), (3, 3, 48, 192)]}


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
