"""What each layer's int8 costs: the search by hand, the switch, the numbers on disk, and both commands for real."""

import json
from typing import Any

import numpy as np
import paddle
import pytest
from slimming_toys import make_checkpoint, make_config, make_data

import artifact
from command import UsageError
from slim import analyze_layers, quantize
from slim.calibration import levels, observe
from slim.layer_analysis import LayerAnalysis, choose
from slim.measurements import Measurements
from slim.pact import QuantizedNetwork, float_name, load_quantized
from slim.tasks import ClsTask

LOST = {"a": 0.04, "b": 0.03, "c": 0.02, "d": 0.001, "e": 0.0}
BYTES = {"a": 100, "b": 900, "c": 300, "d": 50, "e": 10}


def lost(kept):
    return sum(value for name, value in LOST.items() if name not in kept)


@pytest.mark.parametrize(
    "most, kept",
    [
        (0.1, []),  # .091 in all
        (0.06, ["a"]),
        (0.03, ["a", "b"]),  # .021 left; without b it would be .051
        (0.001, ["a", "b", "c"]),
        (0.0, ["a", "b", "c", "d"]),
    ],
)
def test_choice_by_hand(most, kept):
    assert choose(LOST, BYTES.__getitem__, lost, most) == kept


def test_the_expensive_go_back_first():
    """By noise b comes first, yet a alone is enough: b is tried, being dearer, and a stays."""
    kept = choose(["b", "a", "c"], BYTES.__getitem__, lambda kept: 0.0 if "a" in kept else 0.5, 0.01)
    assert kept == ["a"]
    # Either would do, and the cheaper is kept.
    kept = choose(["b", "a"], BYTES.__getitem__, lambda kept: {0: 0.5, 1: 0.2, 2: 0.0}[len(kept)], 0.2)
    assert kept == ["b"], "the noisiest alone suffices: nothing else is tried"


def test_measuring_is_rare():
    """Of 64 layers the 40 noisiest have to stay: found in a few steps, then each is tried once."""
    names, asked = [str(number) for number in range(64)], []

    def loss(kept):
        asked.append(tuple(kept))
        return sum(name not in kept for name in names[:40]) / 64

    assert choose(names, lambda name: 1, loss, 0) == names[:40]
    assert len(asked) <= 14 + 40


def network():
    paddle.seed(5)
    layers = paddle.nn.Sequential(
        paddle.nn.Conv2D(3, 8, 3), paddle.nn.ReLU(), paddle.nn.Conv2D(8, 8, 3, groups=8), paddle.nn.Conv2D(8, 4, 1)
    )
    # Channels a thousand times apart share the scale of one activation: that is where int8 hurts.
    layers[0].weight.set_value(
        layers[0].weight * paddle.to_tensor(np.logspace(0, 3, 8, dtype=np.float32))[:, None, None, None]
    )
    layers[2].weight.set_value(
        layers[2].weight / paddle.to_tensor(np.logspace(0, 3, 8, dtype=np.float32))[:, None, None, None]
    )
    layers.eval()
    return layers


@pytest.fixture(scope="module")
def calibrated():
    """(float network, its int8 twin, inputs)."""
    x = paddle.randn([2, 3, 12, 12])
    quantized = QuantizedNetwork(network(), "ptq")
    quantized.calibrate(levels(observe(network(), [x]), percentile=100), [x])
    return network(), quantized, x


def test_the_switch(calibrated):
    plain, quantized, x = calibrated
    with paddle.no_grad():
        wanted, int8 = plain(x).numpy(), quantized(x).numpy()
        with quantized.int8_only(()):
            assert np.array_equal(quantized(x).numpy(), wanted)
        with quantized.int8_only(quantized.quantized_layers()):
            assert np.array_equal(quantized(x).numpy(), int8)
        with pytest.raises(RuntimeError), quantized.int8_only(()):
            raise RuntimeError
        assert np.array_equal(quantized(x).numpy(), int8) and not np.array_equal(int8, wanted)


def test_noise_finds_the_layer_and_is_kept(calibrated, tmp_path):
    _, quantized, x = calibrated
    calls = []

    def score():
        calls.append(0)
        return 0.5

    layers = LayerAnalysis(quantized, x, score, Measurements(tmp_path / "m", {"of": "test"}))
    noise = {name: layers.noise(name) for name in layers.layers}
    assert list(noise) == ["0", "2", "3"] and min(noise, key=lambda name: noise[name].own) == "2"
    assert noise["3"].own == noise["3"].output, "the last layer's output is the network's"
    assert [layers.kind(name) for name in noise] == ["first", "depthwise", "last"]
    assert layers.float_bytes("2") == 3 * 8 * 9
    assert (layers.alone("2"), layers.score(["0", "3"]), len(calls)) == (0.5, 0.5, 1), "the same question once"
    again = LayerAnalysis(quantized, x, score, Measurements(tmp_path / "m", {"of": "test"}))
    assert again.noise("2") == noise["2"] and again.alone("2") == 0.5 and len(calls) == 1


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    root = tmp_path_factory.mktemp("toys")
    settings = {"quantize": {"calibration_batches": 1}}
    return make_data(root / "data"), make_checkpoint(root / "cls", "cls"), make_config(root / "q.yaml", settings)


def analyze(*words):
    return analyze_layers.run(analyze_layers.build_parser().parse_args([str(word) for word in words]))


def test_command_goes_on_where_it_was_killed(toys, tmp_path, monkeypatch, capsys):
    data, model, config = toys
    words = (model, "--data", data, "--out", tmp_path / "layers", "--config", config, "--max-loss", 0.5, "--json")
    honest, calls = ClsTask.validate, []

    def killed(self, network, limit):
        calls.append(0)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return honest(self, network, limit)

    monkeypatch.setattr(ClsTask, "validate", killed)
    with pytest.raises(KeyboardInterrupt):
        analyze(*words)
    assert not (tmp_path / "layers" / "layers.json").exists()
    assert analyze(*words) == 0
    # With all in float, with all int8, each alone, all but each: each measured once, and once more what was cut off.
    assert len(calls) == 2 + 2 * 54 + 1
    record: dict[str, Any] = json.loads((tmp_path / "layers" / "layers.json").read_text())
    printed = json.loads(capsys.readouterr().out)
    assert {key: printed[key] for key in record} == record
    assert len(record["layers"]) == 54 and record["metric"] == "accuracy"
    assert {layer["kind"] for layer in record["layers"]} == {"first", "SE", "depthwise", "1x1", "last"}
    assert all(layer["sqnr_db"] is None or layer["sqnr_db"] > 3 for layer in record["layers"])
    assert (tmp_path / "layers" / "layers.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="expected the earlier run's quantize, found others"):
        analyze(*words, "--calibration", "kl")


def test_quantize_keeps_layers_in_float_until_the_loss_fits(toys, tmp_path, monkeypatch, capsys):
    """The metric of an untrained toy says nothing, so it is replaced by one that charges for two int8 layers."""
    data, model, config = toys
    costly = ["backbone.blocks.0.mid_se.conv1", "head.fc"]

    def validate(self, network, limit):
        layers = {float_name(name).removeprefix("network."): layer for name, layer in network.named_sublayers()}
        quantizers = [vars(layers[name])["_sub_layers"].get("_fake_quant_input") for name in costly]
        int8 = [part for part in quantizers if part is not None and "forward" not in vars(part)]
        return {"accuracy": 0.9 - 0.1 * len(int8), "samples": 4, "of": 4}

    monkeypatch.setattr(ClsTask, "validate", validate)
    words = ("--data", data, "--config", config, "--method", "ptq", "--json")
    arguments = [str(word) for word in (model, "--out", tmp_path / "q", *words, "--max-loss", "0.05")]
    assert quantize.run(quantize.build_parser().parse_args(arguments)) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert sorted(result["float_layers"]) == costly and result["int8_layers"] == 52
    assert result["after"]["accuracy"] == 0.9
    assert artifact.load(tmp_path / "q").compression["float_layers"] == ",".join(result["float_layers"])
    assert len(load_quantized(tmp_path / "q")[0].quantized_layers()) == 52
    assert "54 of 54 layers in float" not in captured.err
