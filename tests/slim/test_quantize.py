"""Quantizing: the command for real on all three tasks, and every way in which a run has to stop by itself."""

import json
import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest
from slimming_toys import NAMES, make_checkpoint, make_config, make_data

import artifact
from command import ModelError, UsageError
from export import nb_file, to_inference, to_nb
from ocr_models import checkpoints
from slim import prune, quantize
from slim.engines import open_engine
from slim.int8_training import Int8Guard, QuantizeSettings, compare_alphas, parse_settings
from slim.pact import load_quantized
from slim.run_state import RunState, load_state
from slim.tasks import ClsTask

SETTINGS = {"quantize": {"calibration_batches": 2, "rollbacks": 2, "rollback_rate": 0.5}}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """(data folder, {task: checkpoint}, config)."""
    root = tmp_path_factory.mktemp("toys")
    return (
        make_data(root / "data"),
        {task: make_checkpoint(root / task, task) for task in NAMES},
        make_config(root / "quantize.yaml", SETTINGS),
    )


def command(*args):
    return quantize.run(quantize.build_parser().parse_args([str(arg) for arg in args]))


INT8_LAYERS = {"det": 57, "cls": 54, "rec": 54}


@pytest.mark.parametrize("task, method", [("det", "ptq"), ("cls", "qat"), ("rec", "pact")])
def test_command_quantizes_and_trains(task, method, toys, tmp_path, capsys):
    data, models, config = toys
    out = tmp_path / "int8"
    common = ("--data", data, "--val", data, "--config", config, "--json", "--method", method)
    assert command(models[task], "--out", out, *common, *(() if method == "ptq" else ("--steps", 2))) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["method"], result["rollbacks"], result["float_layers"]) == (method, 0, [])
    assert result["int8_layers"] == INT8_LAYERS[task]
    assert result["before"]["params"] == result["after"]["params"]
    assert result["after"]["weight_bytes"] < result["before"]["weight_bytes"] * (0.7 if task == "rec" else 0.35)
    assert ("alphas" in result) == (method == "pact")
    if method == "pact" and result["best_step"]:
        assert result["alphas"]["stuck"] == [] and result["alphas"]["median_move"] > 0
    manifest = artifact.load(out, kind="checkpoint", task=task)
    assert manifest.compression == {"quantization": f"{method}-int8"}
    assert manifest.extra["quantize"]["method"] == method
    with pytest.raises(ModelError, match="expected a float checkpoint"):
        checkpoints.load_network(out)
    quantized, _ = load_quantized(out)
    assert quantized.method == method and len(quantized.alphas()) == (INT8_LAYERS[task] if method == "pact" else 0)
    # Sealed: the scale that stands in the file never lets through what PACT would clip.
    assert all(quantized.scales()[name] <= alpha for name, alpha in quantized.alphas().items())
    engine, _ = open_engine(out)
    assert np.isfinite(engine.run(np.zeros((1, 3, *artifact_size(task)), np.float32))).all()
    engine.close()
    assert arm_kernels(out) == {"int8": INT8_LAYERS[task] - (task == "det")}  # the threshold branch only trains


def arm_kernels(checkpoint) -> dict[str, int]:
    """How many convolutions and linear layers opt gives a kernel of which precision."""
    inference, arm = (checkpoint.with_name(f"{checkpoint.name}_{end}") for end in ("inference", "arm"))
    assert to_inference.export(checkpoint, inference).compression == artifact.load(checkpoint).compression
    to_nb.convert(inference, arm, target="arm")
    kernels = [op.kernel for op in nb_file.read(arm / "model.nb").ops if op.kernel]
    return Counter(kernel.precision for kernel in kernels if kernel.op in ("conv2d", "depthwise_conv2d", "fc"))


@pytest.mark.slow
def test_calibration_rules_clip_differently(toys, tmp_path):
    """The option reaches the scales in the file; without training these are what calibration found."""
    data, models, config = toys
    scales = {}
    for rule in ("kl", "hist", "mse"):
        common = ("--data", data, "--val", data, "--config", config, "--method", "ptq", "--calibration", rule)
        assert command(models["cls"], "--out", tmp_path / rule, *common) == 0
        quantized, manifest = load_quantized(tmp_path / rule)
        scales[rule] = quantized.scales()
        assert manifest.extra["quantize"]["calibration"] == rule
    assert len({tuple(found.values()) for found in scales.values()}) == 3
    assert not (tmp_path / "kl.run").exists()


def test_ptq_never_trains(toys, tmp_path):
    data, models, _ = toys
    with pytest.raises(UsageError, match="expected no --steps with --method ptq, found 5"):
        command(models["cls"], "--data", data, "--out", tmp_path / "q", "--method", "ptq", "--steps", 5)


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


def poison(monkeypatch, victim, steps):
    """Weights of a layer that turn to NaN in each of these calls of the loss; returns the list of calls so far."""
    honest, calls = ClsTask.loss, []

    def poisoned(self, network, batch):
        calls.append(0)
        if len(calls) in steps:
            layer = dict(network.named_sublayers())[f"{victim}._layer"]
            layer.weight.set_value(paddle.full(layer.weight.shape, math.nan))
        return honest(self, network, batch)

    monkeypatch.setattr(ClsTask, "loss", poisoned)
    return calls


def state(folder) -> RunState:
    found = load_state(folder)
    assert found is not None
    return found


# To find the layer, the loss is computed once more in the step that failed.
@pytest.mark.parametrize("victim", ["backbone.blocks.4.linear_conv.conv"])
def test_nan_that_comes_again_stops_the_run_with_the_layers_name(victim, toys, tmp_path, monkeypatch, capsys):
    data, models, config = toys
    poison(monkeypatch, victim, {3, *range(5, 99)})
    with pytest.raises(ModelError, match=rf"step \d: the loss is nan, first seen in .*{victim}.*, after 2 times back"):
        command(models["cls"], "--data", data, "--out", tmp_path / "q", "--config", config, "--steps", 5)
    said = capsys.readouterr().err
    assert "from here at 0.5 of the learning rate (time 1 of at most 2)" in said
    assert "from here at 0.25 of the learning rate (time 2 of at most 2)" in said
    assert (tmp_path / "q.run" / "state.npz").exists()


@pytest.mark.slow
def test_nan_once_is_forgotten_but_for_the_rate(toys, tmp_path, monkeypatch, capsys):
    """Broken in its first step, a run ends where one of half the rate ends: weights, moments and data go back."""
    data, models, _ = toys
    common = {"validate_every": 9, "warmup_steps": 0}
    config = make_config(tmp_path / "a.yaml", SETTINGS, **common)
    half = make_config(tmp_path / "b.yaml", SETTINGS, **common, lr=0.0005)
    arguments = (models["cls"], "--data", data, "--steps", 4, "--no-distill")
    assert command(*arguments, "--out", tmp_path / "half", "--config", half) == 0
    poison(monkeypatch, "head.fc", {2})
    capsys.readouterr()
    assert command(*arguments, "--out", tmp_path / "q", "--config", config) == 0
    assert "step 2: the loss is nan" in capsys.readouterr().err
    found, wanted = state(tmp_path / "q.run"), state(tmp_path / "half.run")
    assert (found.rollbacks, found.rate_factor, found.step) == (1, 0.5, 4)
    assert (wanted.rollbacks, wanted.rate_factor, wanted.step) == (0, 1.0, 4)
    assert all(np.array_equal(array, found.weights[name]) for name, array in wanted.weights.items())
    assert all(np.array_equal(array, found.moments[name]) for name, array in wanted.moments.items())


@pytest.mark.slow
def test_a_kill_keeps_the_lowered_rate(toys, tmp_path, monkeypatch):
    data, models, config = toys
    arguments = (models["cls"], "--data", data, "--out", tmp_path / "q", "--config", config, "--steps", 4)
    calls = poison(monkeypatch, "head.fc", {2})
    after_rollback = ClsTask.loss

    def killed(self, network, batch):
        if len(calls) == 5:
            raise KeyboardInterrupt  # nothing is saved on the way out
        return after_rollback(self, network, batch)

    monkeypatch.setattr(ClsTask, "loss", killed)
    with pytest.raises(KeyboardInterrupt):
        command(*arguments)
    calls.extend([0] * 9)
    assert state(tmp_path / "q.run").rollbacks == 1
    assert command(*arguments) == 0
    found = state(tmp_path / "q.run")
    assert (found.step, found.rollbacks, found.rate_factor) == (4, 1, 0.5)


def test_the_float_model_teaches(toys, tmp_path, capsys):
    """Its answers are in the loss by default, and part of what a resumed run must have in common."""
    data, models, config = toys
    arguments = (models["rec"], "--data", data, "--out", tmp_path / "q", "--config", config, "--steps", 1)
    assert command(*arguments) == 0
    assert "teacher_posteriors" in json.dumps(json.loads((tmp_path / "q.run" / "history.json").read_text())["train"])
    assert artifact.load(tmp_path / "q").extra["quantize"]["distill_weight"] == 1.0
    with pytest.raises(UsageError, match="expected a run with quantize"):
        command(*arguments, "--no-distill")


def test_skipped_layers_stay_float_all_the_way(toys, tmp_path, capsys):
    """By hand: one layer and one block; the checkpoint rebuilds them, and the exported program runs them in float."""
    data, models, config = toys
    out = tmp_path / "int8"
    common = ("--data", data, "--config", config, "--method", "ptq", "--json")
    assert command(models["cls"], "--out", out, *common, "--skip", "head.fc", "backbone.blocks.0.mid_se") == 0
    skipped = ["head.fc", "backbone.blocks.0.mid_se.conv1", "backbone.blocks.0.mid_se.conv2"]
    result = json.loads(capsys.readouterr().out)
    assert (result["float_layers"], result["int8_layers"]) == (skipped, 51)
    assert artifact.load(out).compression["float_layers"] == ",".join(skipped)
    quantized, _ = load_quantized(out)
    assert not set(skipped) & set(quantized.quantized_layers())
    assert arm_kernels(out) == {"int8": 51, "fp32": 3}


def test_unknown_layers_are_refused(toys, tmp_path):
    data, models, _ = toys
    with pytest.raises(UsageError, match=r"found backbone\.blocks\.99; give one such as backbone\.conv1\.conv or head"):
        command(models["cls"], "--data", data, "--out", tmp_path / "q", "--skip", "backbone.blocks.99")


def watched(before, metrics):
    """A guard over a calibrated toy network, whose validations give the accuracies `metrics` one after another."""
    paddle.seed(5)
    network, twin = (paddle.nn.Sequential(paddle.nn.Conv2D(3, 8, 3), paddle.nn.Conv2D(8, 8, 1)) for _ in range(2))
    twin.set_state_dict(network.state_dict())
    from slim.calibration import levels, observe
    from slim.pact import QuantizedNetwork

    x = paddle.randn([2, 3, 8, 8])
    quantized = QuantizedNetwork(twin)
    quantized.calibrate(levels(observe(network, [x])), [x])
    values = iter(metrics)
    recipe: Any = SimpleNamespace(steps=10)
    task: Any = SimpleNamespace(
        metric_names=("accuracy",),
        data=None,
        validate=lambda network, limit: {"accuracy": next(values), "samples": 9},
        loss=lambda network, batch: (network(batch).sum(), {}),
    )
    guard = Int8Guard(
        task, recipe, QuantizeSettings(freeze_norm_after=0.5), network, quantized, x, {"accuracy": before}
    )
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


def test_settings_of_each_method():
    settings = QuantizeSettings(calibration="kl", ptq_calibration="mse")
    assert [settings.rule(method) for method in ("pact", "qat", "ptq")] == ["kl", "kl", "mse"]
    names = {method: set(settings.to_json(method)) for method in ("pact", "qat", "ptq")}
    assert names["pact"] - names["qat"] == {"alpha_l2", "alpha_rate"}
    assert names["ptq"] == {"calibration", "percentile", "calibration_batches"}
    assert settings.to_json("ptq")["calibration"] == "mse"
    assert settings.calibrated_by("hist").rule("ptq") == "hist" and settings.calibrated_by(None) is settings


@pytest.mark.parametrize(
    "values, message",
    [
        ({"alpha": 1.0}, "expected only calibration, .* found alpha"),
        ({"alpha_rate": "fast"}, "expected quantize.alpha_rate to be a number, found 'fast'"),
        ({"rollbacks": 1.5}, "expected quantize.rollbacks to be a whole number, found 1.5"),
        ({"percentile": 10}, "expected quantize.percentile to be 50 to 100, found 10"),
        ({"calibration": "guess"}, "expected quantize.calibration to be kl | hist | mse, found 'guess'"),
        ({"rollback_rate": 1.0}, "expected quantize.rollback_rate to be between 0 and 1, found 1.0"),
    ],
)
def test_settings_are_strict(values, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        parse_settings(values, tmp_path / "q.yaml")
