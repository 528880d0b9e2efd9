"""Learning from the unslimmed twin: each distance by hand, and that training by them brings a copy back."""

import math
from typing import Any

import numpy as np
import paddle
import pytest
from slimming_toys import NAMES, make_checkpoint, make_data

from command import ModelError, UsageError
from ocr_models import catalogue, checkpoints
from slim import distill
from slim.recipes import CONFIGS, load_recipe
from slim.sampling import Draw
from slim.tasks import open_task


def tensor(*rows):
    return paddle.to_tensor(np.array(rows, np.float32))


def test_divergence_by_hand():
    """p = (.5, .5) against q = (.8, .2): ln(.5/.8)/2 + ln(.5/.2)/2 = .2231."""
    teacher, student = tensor([0.0, 0.0]), tensor([math.log(4.0), 0.0])
    expected = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    assert float(distill.softened_divergence(student, teacher, 1.0)) == pytest.approx(expected, rel=1e-5)
    assert float(distill.softened_divergence(teacher, teacher, 3.0)) == pytest.approx(0, abs=1e-6)
    # At temperature 2 the odds 4 : 1 become 2 : 1, and the square of 2 stands in front.
    expected = 4 * (0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3)))
    assert float(distill.softened_divergence(student, teacher, 2.0)) == pytest.approx(expected, rel=1e-5)


def test_map_divergence_weighs_text_and_paper_alike():
    """One text pixel in four: its own divergence counts as much as the mean of the three others."""
    teacher, student = tensor([[0.9, 0.1, 0.1, 0.1]]), tensor([[0.5, 0.1, 0.1, 0.5]])
    pixel = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    everywhere = paddle.ones([1, 1, 4])
    found = distill.map_divergence(student.unsqueeze(0), teacher.unsqueeze(0), everywhere)
    assert float(found) == pytest.approx(pixel + pixel / 3, rel=1e-4)
    without_last = paddle.to_tensor(np.array([[[1, 1, 1, 0]]], np.float32))
    found = distill.map_divergence(student.unsqueeze(0), teacher.unsqueeze(0), without_last)
    assert float(found) == pytest.approx(pixel, rel=1e-4)
    assert float(distill.map_divergence(student, teacher, paddle.zeros([1, 4]))) == 0


def test_relative_error_by_hand():
    assert float(distill.relative_error(tensor([3.0, 0.0]), tensor([3.0, 4.0]))) == pytest.approx(16 / 25)
    assert float(distill.relative_error(tensor([0.0, 0.0]), tensor([3.0, 4.0]))) == pytest.approx(1)


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    root = tmp_path_factory.mktemp("toys")
    return make_data(root / "data"), {task: make_checkpoint(root / task, task) for task in NAMES}


def opened(toys, name):
    """(task, student, teacher): two networks of the same weights, the student in train mode."""
    data, models = toys
    student, manifest = checkpoints.load_network(models[name])
    teacher, _ = checkpoints.load_network(models[name])
    quick: dict[str, dict[str, Any]] = {
        "det": {"batch": 2, "size_px": 64},
        "cls": {"batch": 4},
        "rec": {"batch": 4, "batch_width_px": 64, "widths": [64, 96], "width_schedule": []},
    }
    recipe = load_recipe(CONFIGS / f"{name}.yaml", steps=1, **quick[name])
    charset = (models[name] / "charset.txt").read_text().splitlines() if name == "rec" else []
    student.train()
    return open_task(manifest, recipe, data, data, charset), student, teacher


PARTS = {
    "det": {"teacher_prob", "teacher_threshold"},
    "rec": {"teacher_posteriors", "teacher_features"},
    "cls": {"teacher_logits"},
}


@pytest.mark.parametrize("name", list(NAMES))
def test_a_bent_copy_is_drawn_back(name, toys):
    """The distance falls under its own gradient, and nothing of the teacher moves."""
    task, student, teacher = opened(toys, name)
    for layer in student.sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D):
            layer.eval()
    taught = distill.with_teacher(task, teacher, 2.0)
    batch = taught.load(taught.sampler().draw(0))
    assert isinstance(taught.sampler().draw(0), Draw) and taught.metric_names == task.metric_names
    before = {key: value.numpy() for key, value in teacher.state_dict().items()}

    plain, parts = task.loss(student, batch)
    loss, taught_parts = taught.loss(student, batch)
    assert set(taught_parts) - set(parts) == PARTS[name]
    assert sum(taught_parts[part] for part in PARTS[name]) == pytest.approx(0, abs=1e-4), "equal networks"
    assert float(loss) == pytest.approx(float(plain), rel=1e-3, abs=1e-4)

    paddle.seed(1)
    for parameter in student.parameters():
        parameter.set_value(parameter + 0.05 * parameter.abs().mean() * paddle.randn(parameter.shape))
    optimizer = paddle.optimizer.SGD(1.0, parameters=student.parameters())

    def distance():
        plain, _ = task.loss(student, batch)
        loss, parts = taught.loss(student, batch)
        assert float(loss) == pytest.approx(float(plain) + 2.0 * sum(parts[p] for p in PARTS[name]), rel=1e-3)
        return loss - plain

    start = distance()
    start.backward()
    assert float(start) > 0
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in student.parameters() if p.grad is not None))
    optimizer.set_lr(0.2 * float(start) / norm**2)
    optimizer.step()
    optimizer.clear_grad()
    assert float(distance()) < 0.95 * float(start)
    assert all(np.array_equal(value, teacher.state_dict()[key].numpy()) for key, value in before.items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_limits():
    network = catalogue.build(catalogue.card("cls_mv3").network)
    task: Any = object()
    assert distill.with_teacher(task, network, 0.0) is task
    with pytest.raises(UsageError, match="expected a distillation weight of 0 or more, found -1"):
        distill.with_teacher(task, network, -1)
    with pytest.raises(ModelError, match="found Linear; give --no-distill"):
        distill.with_teacher(task, paddle.nn.Linear(2, 2), 1)
