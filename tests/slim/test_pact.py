"""PACT: its formula by hand, what QAT wraps, calibration, and the round trips through an artifact and an export."""

import math

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

import artifact
from command import ModelError
from ocr_models import catalogue, checkpoints
from ocr_models.paddle_engine import InferenceEngine
from slim.calibration import freeze_batch_norm, levels, observe
from slim.layer_error import culprit, layer_errors, sqnr_db
from slim.pact import ALPHA_L2, FORMS, PACT, QuantizedNetwork, clip, float_name, load_quantized

NAMES = ("det_mv3_db", "cls_mv3", "rec_mv3_crnn_en")
SHAPES = {"det_mv3_db": (2, 3, 64, 96), "cls_mv3": (2, 3, 48, 192), "rec_mv3_crnn_en": (2, 3, 32, 96)}
INT8_LAYERS = {"det_mv3_db": 57, "cls_mv3": 54, "rec_mv3_crnn_en": 54}


def lived_in(name):
    """A network whose running statistics fit its random weights, as after training; in eval mode. And inputs."""
    paddle.seed(3)
    network = catalogue.build(catalogue.card(name).network)
    batches = [paddle.randn(SHAPES[name]) for _ in range(3)]
    with paddle.no_grad():
        for norm in network.sublayers():
            if isinstance(norm, paddle.nn.BatchNorm2D):
                norm._momentum = 0.5
        for _ in range(4):
            for x in batches:
                network(x)
    network.eval()
    return network, batches


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """(name, float network, calibrated fake-quant network, batches)."""
    network, batches = lived_in(request.param)
    twin, _ = lived_in(request.param)
    found = levels(observe(twin, batches))
    quantized = QuantizedNetwork(twin)
    quantized.calibrate(found, batches)
    return request.param, network, quantized, batches


@pytest.mark.parametrize(
    "x, y, of_x, of_alpha",
    [
        (-3.0, -2.0, 0.0, -1.0),  # below: -α
        (-2.0, -2.0, 0.0, -1.0),  # on the lower edge, which belongs to the clipped side
        (-0.4, -0.4, 1.0, 0.0),  # hard-swish's negative lobe passes
        (0.0, 0.0, 1.0, 0.0),
        (1.9, 1.9, 1.0, 0.0),
        (2.0, 2.0, 0.0, 1.0),
        (9.0, 2.0, 0.0, 1.0),
    ],
)
def test_clip_and_its_gradients(x, y, of_x, of_alpha):
    value = paddle.to_tensor([x], stop_gradient=False)
    alpha = paddle.to_tensor([2.0], stop_gradient=False)
    out = clip(value, alpha)
    out.backward()
    assert float(out) == pytest.approx(y)
    assert (float(value.grad), float(alpha.grad)) == (of_x, of_alpha)


def test_alpha_gradient_sums_over_the_tensor():
    alpha = paddle.to_tensor([1.0], stop_gradient=False)
    clip(paddle.to_tensor([[-5.0, 0.5], [1.5, 7.0]]), alpha).sum().backward()
    assert float(alpha.grad) == -1 + 1 + 1


def test_nan_is_not_clipped_away():
    out = clip(paddle.to_tensor([math.nan, math.inf, -math.inf]), paddle.to_tensor([2.0])).numpy()
    assert math.isnan(out[0]) and out[1:].tolist() == [2.0, -2.0]


def test_alpha_has_its_own_l2_and_rate():
    """Without a gradient from the loss, SGD moves α by rate · factor · L2 · α and by nothing else."""
    layer = PACT()
    layer.alpha.set_value(paddle.to_tensor([4.0]))
    layer.alpha.optimize_attr["learning_rate"] = 3.0
    optimizer = paddle.optimizer.SGD(0.5, parameters=layer.parameters(), weight_decay=paddle.regularizer.L2Decay(0.7))
    layer(paddle.to_tensor([0.1])).sum().backward()
    optimizer.step()
    assert float(layer.alpha) == pytest.approx(4.0 - 0.5 * 3.0 * ALPHA_L2 * 4.0, rel=1e-6)


def test_observe_measures_levels_and_leaves_the_network_alone():
    network = paddle.nn.Sequential(paddle.nn.Conv2D(1, 1, 1, bias_attr=False), paddle.nn.ReLU())
    network[0].weight.set_value(paddle.full([1, 1, 1, 1], 2.0))
    x = paddle.to_tensor(np.array([[[[-8.0, 1.0], [2.0, 3.0]]]], np.float32))
    seen = observe(network, [x, x / 2])
    # The magnitudes are 8 3 2 1 and 4 1.5 1 .5: half of them are 1.5 or less.
    assert list(seen) == ["0"] and seen["0"].peak == 8.0
    assert levels(seen, percentile=50) == {"0": pytest.approx(1.5, abs=0.01)}
    assert not network.training


def test_observe_without_batches():
    with pytest.raises(ValueError, match="no batches"):
        observe(paddle.nn.Conv2D(1, 1, 1), [])


def test_wraps_all_but_lstm_and_transposed_convolutions(case):
    name, network, quantized, _ = case
    wanted = {n for n, layer in network.named_sublayers() if isinstance(layer, (paddle.nn.Conv2D, paddle.nn.Linear))}
    assert set(quantized.quantized_layers()) == wanted
    assert len(wanted) == INT8_LAYERS[name]
    kinds = {type(layer).__name__ for layer in quantized.sublayers()}
    assert not kinds & {"QuantizedConv2DTranspose"}


def test_calibration_alone_is_close_to_float(case):
    """Random weights amplify noise from layer to layer, so the bound is that of a typical layer."""
    _, network, quantized, batches = case
    assert all(alpha > 0 for alpha in quantized.alphas().values())
    errors = layer_errors(network, quantized, batches[0])
    assert np.median(list(errors.values())) > 10.0
    assert min(errors.values()) > 1.0


def test_float_name():
    assert float_name("neck.encoder.lstm._layer.0.cell_fw._layer") == "neck.encoder.lstm.0.cell_fw"


@pytest.mark.parametrize(
    "signal, noisy, db",
    [
        ([3.0, 4.0], [3.0, 4.0], math.inf),
        ([3.0, 4.0], [3.0, 3.5], 20.0),  # 25 / 0.25
        ([3.0, 4.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [0.1, 0.0], -math.inf),
        ([1.0, 1.0], [math.nan, 1.0], -math.inf),
    ],
)
def test_sqnr(signal, noisy, db):
    assert sqnr_db(np.array(signal), np.array(noisy)) == pytest.approx(db)


def test_culprit_is_the_first_broken_layer():
    assert culprit({"a": 30.0, "b": 2.0, "c": -5.0}) == "b"
    assert culprit({"a": 30.0, "b": 12.0, "c": 15.0}) == "b"


def test_a_crushed_alpha_is_named(case):
    _, network, quantized, batches = case
    name = list(layer_errors(network, quantized, batches[0]))[5]
    alpha = quantized.quantized_layers()[name]._act_preprocess.alpha
    before = alpha.numpy()
    alpha.set_value(paddle.to_tensor([1e-6]))
    assert culprit(layer_errors(network, quantized, batches[0])) == name
    alpha.set_value(before)


def test_frozen_batch_norm_keeps_its_statistics():
    network, batches = lived_in("cls_mv3")
    network.train()
    freeze_batch_norm(network)
    before = {n: t.numpy() for n, t in network.state_dict().items() if n.endswith(("_mean", "_variance"))}
    network(batches[0] * 9)
    after = network.state_dict()
    assert before and all(np.array_equal(value, after[n].numpy()) for n, value in before.items())


def save(folder, name, quantized, compression):
    card = catalogue.card(name)
    with artifact.create(folder) as temporary:
        checkpoints.save_network(quantized.network, temporary)
        manifest = artifact.Manifest("checkpoint", card.task, name, card.network, card.input, compression=compression)
        artifact.write(temporary, manifest, "test")


def test_round_trip_and_export(case, tmp_path):
    """Artifact → rebuilt from it alone → exported: three times the same numbers, and PACT gone at the end."""
    name, _, quantized, batches = case
    # An α below its scale is what a lagging moving average leaves behind.
    crushed = next(iter(quantized.quantized_layers().values()))
    crushed._act_preprocess.alpha.set_value(crushed._fake_quant_input._scale * 0.5)
    quantized.eval()
    quantized.seal()
    with paddle.no_grad():
        expected = quantized(batches[0]).numpy()
    save(tmp_path / "q", name, quantized, {"quantization": FORMS["pact"]})
    loaded, manifest = load_quantized(tmp_path / "q")
    assert manifest.quantized and not loaded.training
    with paddle.no_grad():
        assert np.array_equal(loaded(batches[0]).numpy(), expected)
        loaded.detach_pact()
        assert np.array_equal(loaded(batches[0]).numpy(), expected)
    height, width = catalogue.card(name).input.shape[2:]
    loaded.save_inference(tmp_path / "inference", [InputSpec([-1, 3, height, width], "float32", "x")])
    assert paddle.in_dynamic_mode()
    assert sorted(p.name for p in tmp_path.glob("inference*")) == ["inference.pdiparams", "inference.pdmodel"]
    engine = InferenceEngine(tmp_path)
    found = engine.run(batches[0].numpy())
    engine.close()
    assert engine.quantized
    assert np.abs(found - expected).max() <= 1e-6
    program = (tmp_path / "inference.pdmodel").read_bytes()
    assert program.count(b"fake_quantize_dequantize_moving_average_abs_max") >= 50
    crushed._act_preprocess.alpha.set_value(crushed._act_preprocess.alpha * 2)


def test_load_refuses_what_is_not_quantized(tmp_path):
    network, _ = lived_in("cls_mv3")
    card = catalogue.card("cls_mv3")
    with artifact.create(tmp_path / "f") as temporary:
        checkpoints.save_network(network, temporary)
        artifact.write(temporary, artifact.Manifest("checkpoint", "cls", "c", card.network, card.input), "test")
    with pytest.raises(ModelError, match="found a float one; make one with"):
        load_quantized(tmp_path / "f")
    # Float weights that claim to be quantized lack α and scales.
    with artifact.create(tmp_path / "g") as temporary:
        checkpoints.save_network(network, temporary)
        manifest = artifact.Manifest("checkpoint", "cls", "c", card.network, card.input)
        artifact.write(temporary, manifest.replace(compression={"quantization": FORMS["pact"]}), "test")
    with pytest.raises(ModelError, match="tensors of DirectionClassifier, found no"):
        load_quantized(tmp_path / "g")
