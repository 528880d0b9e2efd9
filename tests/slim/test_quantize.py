"""Quantizing: the command for real on all three tasks, and every way in which a run has to stop by itself."""

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
from slimming_toys import NAMES, make_checkpoint, make_config, make_data

import artifact
from command import ModelError, UsageError
from ocr_models import checkpoints
from slim import prune, quantize
from slim.engines import open_engine
from slim.pact import load_quantized
from slim.pact_training import PactGuard, PactSettings, compare_alphas, parse_settings
from slim.tasks import ClsTask

PACT = {"pact": {"calibration_batches": 2}}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """(data folder, {task: checkpoint}, config)."""
    root = tmp_path_factory.mktemp("toys")
    return (
        make_data(root / "data"),
        {task: make_checkpoint(root / task, task) for task in NAMES},
        make_config(root / "quantize.yaml", PACT),
    )


def command(*args):
    return quantize.run(quantize.build_parser().parse_args([str(arg) for arg in args]))


@pytest.mark.parametrize("task", list(NAMES))
def test_command_quantizes_and_trains(task, toys, tmp_path, capsys):
    data, models, config = toys
    out = tmp_path / "int8"
    common = ("--data", data, "--val", data, "--config", config, "--json")
    assert command(models[task], "--out", out, *common, "--steps", 2) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["int8_layers"] == {"det": 57, "cls": 54, "rec": 54}[task]
    assert result["before"]["params"] == result["after"]["params"]
    assert result["after"]["weight_bytes"] < result["before"]["weight_bytes"] * (0.7 if task == "rec" else 0.35)
    if result["best_step"]:
        assert result["alphas"]["stuck"] == [] and result["alphas"]["median_move"] > 0
    manifest = artifact.load(out, kind="checkpoint", task=task)
    assert manifest.compression == {"quantization": "pact-int8"}
    with pytest.raises(ModelError, match="expected a float checkpoint"):
        checkpoints.load_network(out)
    quantized, _ = load_quantized(out)
    # Sealed: the scale that stands in the file never lets through what PACT would clip.
    assert all(quantized.scales()[name] <= alpha for name, alpha in quantized.alphas().items())
    engine, _ = open_engine(out)
    assert np.isfinite(engine.run(np.zeros((1, 3, *artifact_size(task)), np.float32))).all()
    engine.close()


def artifact_size(task):
    return {"det": (64, 64), "cls": (48, 192), "rec": (32, 96)}[task]


def test_a_pruned_model_is_calibrated_without_steps(toys, tmp_path, capsys):
    data, models, config = toys
    common = ("--data", data, "--val", data, "--steps", 0)
    prune_config = make_config(tmp_path / "prune.yaml")
    arguments = [models["cls"], "--out", tmp_path / "pruned", "--config", prune_config, "--ratio", 0.3, *common]
    prune.run(prune.build_parser().parse_args([str(a) for a in arguments]))
    assert command(tmp_path / "pruned", "--out", tmp_path / "slim", "--config", config, *common) == 0
    manifest = artifact.load(tmp_path / "slim")
    assert manifest.compression == {"prune_plan": "prune_plan.json", "quantization": "pact-int8"}
    assert set(manifest.files) == {"model.pdparams", "prune_plan.json"}
    network, _ = checkpoints.load_network(tmp_path / "pruned")
    quantized, _ = load_quantized(tmp_path / "slim")
    x = paddle.randn([4, 3, 48, 192])
    with paddle.no_grad():
        assert np.abs(network(x).numpy() - quantized(x).numpy()).mean() < 0.1
    assert "params" in capsys.readouterr().out
    with pytest.raises(ModelError, match="found a quantized one; give its parent"):
        command(tmp_path / "slim", "--out", tmp_path / "again", "--config", config, *common)


@pytest.mark.parametrize("victim", ["backbone.blocks.4.linear_conv.conv", "head.fc"])
def test_nan_stops_the_run_with_the_layers_name(victim, toys, tmp_path, monkeypatch):
    """A weight that turns to NaN in the third step is found in that step, and the state before it is kept."""
    data, models, config = toys
    honest, calls = ClsTask.loss, []

    def poisoned(self, network, batch):
        calls.append(0)
        if len(calls) == 3:
            layer = dict(network.named_sublayers())[f"{victim}._layer"]
            layer.weight.set_value(paddle.full(layer.weight.shape, math.nan))
        return honest(self, network, batch)

    monkeypatch.setattr(ClsTask, "loss", poisoned)
    with pytest.raises(ModelError, match=rf"step 3: the loss is nan, first seen in .*{victim}"):
        command(models["cls"], "--data", data, "--out", tmp_path / "q", "--config", config, "--steps", 5)
    assert (tmp_path / "q.run" / "state.npz").exists()


def watched(before, metrics):
    """A guard over a calibrated toy network, whose validations give the accuracies `metrics` one after another."""
    paddle.seed(5)
    network, twin = (paddle.nn.Sequential(paddle.nn.Conv2D(3, 8, 3), paddle.nn.Conv2D(8, 8, 1)) for _ in range(2))
    twin.set_state_dict(network.state_dict())
    from slim.calibration import observe
    from slim.pact import QuantizedNetwork

    x = paddle.randn([2, 3, 8, 8])
    quantized = QuantizedNetwork(twin)
    quantized.calibrate(observe(network, [x]), [x])
    values = iter(metrics)
    recipe: Any = SimpleNamespace(steps=10)
    task: Any = SimpleNamespace(
        metric_names=("accuracy",),
        data=None,
        validate=lambda network, limit: {"accuracy": next(values), "samples": 9},
        loss=lambda network, batch: (network(batch).sum(), {}),
    )
    guard = PactGuard(task, recipe, PactSettings(), network, quantized, x, {"accuracy": before})
    guard.follow(at_step(7))
    return guard, quantized


def at_step(step) -> Any:
    """As much of a trainer as a guard looks at."""
    return SimpleNamespace(step=step, best={})


def test_collapse_names_the_layer():
    guard, quantized = watched(before=0.9, metrics=[0.8, 0.1])
    assert guard.validate(None, 9)["accuracy"] == 0.8
    quantized.quantized_layers()["1"]._act_preprocess.alpha.set_value(paddle.to_tensor([1e-4]))
    with pytest.raises(ModelError, match=r"step 7: expected int8 to keep accuracy 0\.9000, found 0\.1000; .* layer 1 "):
        guard.validate(None, 9)


def test_a_bad_start_may_recover():
    """Calibration alone can be poor; only what was sound and fell, or what never rose, is a collapse."""
    guard, _ = watched(before=0.9, metrics=[0.1, 0.2, 0.6])
    for value in (0.1, 0.2, 0.6):
        assert guard.validate(None, 9)["accuracy"] == value
    with pytest.raises(ModelError, match="it breaks at layer"):
        guard.require({"accuracy": 0.2}, 9)
    guard.require({"accuracy": 0.6}, 9)


def test_an_untrained_model_cannot_collapse():
    guard, _ = watched(before=0.01, metrics=[0.0])
    assert guard.validate(None, 9)["accuracy"] == 0.0


def test_an_alpha_at_zero_stops_the_run():
    guard, quantized = watched(before=0.9, metrics=[0.9])
    quantized.quantized_layers()["0"]._act_preprocess.alpha.set_value(paddle.to_tensor([-0.1]))
    with pytest.raises(ModelError, match="found alpha at or below zero in 0"):
        guard.validate(None, 9)


def test_batch_norm_freezes_after_its_share_of_the_steps():
    guard, _ = watched(before=0.9, metrics=[])
    network = paddle.nn.Sequential(paddle.nn.Conv2D(3, 2, 1), paddle.nn.BatchNorm2D(2))
    network.train()
    guard.follow(at_step(4))
    guard.loss(network, paddle.randn([1, 3, 4, 4]))
    assert network[1].training
    guard.follow(at_step(5))
    guard.loss(network, paddle.randn([1, 3, 4, 4]))
    assert not network[1].training and network[0].training


def test_alphas_that_never_move_or_vanish_are_told():
    start = {"a": 2.0, "b": 4.0, "c": 1.0}
    alphas = compare_alphas(start, {"a": 2.2, "b": 4.0, "c": 0.005}, steps=100)
    assert (alphas.stuck, alphas.vanished) == (("b",), ("c",))
    assert alphas.to_json()["median_move"] == pytest.approx(0.1)
    assert "alpha never moved in 1 layers: b\nalpha went to zero in 1 layers: c" in str(alphas)
    assert compare_alphas(start, start, steps=0).stuck == ()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"alpha": 1.0}, "expected only alpha_l2, .* found alpha"),
        ({"alpha_rate": "fast"}, "expected pact.alpha_rate to be a number, found 'fast'"),
        ({"percentile": 10}, "expected pact.percentile to be 50 to 100, found 10"),
    ],
)
def test_settings_are_strict(values, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        parse_settings(values, tmp_path / "q.yaml")
