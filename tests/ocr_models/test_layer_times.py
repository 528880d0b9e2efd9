"""Layers of a network as the runtime sees them, and times between the measured ones."""

import json

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

from command import ModelError, UsageError
from ocr_models import catalogue, complexity, layer_times
from ocr_models.layer_shapes import layers
from ocr_models.layer_times import LayerTimes, Point
from ocr_models.reference import REFERENCE_SHAPES

DENSE = {"op": "conv2d", "kernel": [1, 1], "height": 4, "width": 4}
DEPTHWISE = {"op": "depthwise_conv2d", "kernel": [3, 3], "height": 4, "width": 4}


class Small(nn.Layer):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2D(3, 8, 3, stride=2, padding=1, bias_attr=False)
        self.norm = nn.BatchNorm2D(8)
        self.apart = nn.Conv2D(8, 8, 3, padding=1, groups=8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = F.hardswish(self.norm(self.one(x)))
        x = x + F.relu(self.apart(x))
        return F.softmax(self.fc(F.adaptive_avg_pool2d(x, 1).squeeze([2, 3])))


def test_layers_of_a_small_network():
    network = Small()
    network.train()
    found = layers(network, (1, 3, 8, 12))
    assert [(x.geometry["op"], x.geometry.get("act"), x.inputs, x.outputs) for x in found] == [
        ("conv2d", "hard_swish", 3, 8),  # with its batch norm
        ("depthwise_conv2d", "relu", 8, 8),  # with its bias
        ("elementwise_add", None, 8, 8),
        ("pool2d", None, 8, 8),
        ("linear", None, 8, 5),
    ]
    assert (found[0].geometry["height"], found[0].geometry["width"], found[0].geometry["strides"]) == (8, 12, [2, 2])
    assert (found[1].geometry["height"], found[1].geometry["width"]) == (4, 6)
    assert found[0].input_axis == ("one.weight", 1) and found[0].output_axis == ("one.weight", 0)
    assert found[1].input_axis == found[1].output_axis == ("apart.weight", 0)
    # The sum has the channels of what came first into it.
    assert found[2].output_axis == ("one.weight", 0)
    assert found[4].input_axis == ("fc.weight", 0) and found[4].output_axis == ("fc.weight", 1)
    assert network.training and network(paddle.zeros([1, 3, 8, 12])).shape == [1, 5], "as it was before"


@pytest.mark.parametrize("name, task", [("det_mv3_db", "det"), ("cls_mv3", "cls"), ("rec_mv3_crnn_en", "rec")])
def test_layers_hold_all_the_work(name, task):
    """Multiply-accumulates of the listed layers are those of the network, but for the LSTM's, listed as one layer."""
    network = catalogue.build(catalogue.card(name).network)
    network.eval()
    work = 0
    for layer in layers(network, REFERENCE_SHAPES[task]):
        geometry = layer.geometry
        if geometry["op"] == "linear":
            work += geometry["rows"] * layer.inputs * layer.outputs
        elif geometry["op"] == "conv2d_transpose":
            area = geometry["height"] * geometry["width"] * np.prod(geometry["kernel"])
            work += int(area) * layer.inputs * layer.outputs
        elif geometry["op"] in ("conv2d", "depthwise_conv2d"):
            height, width = (
                (geometry[side] + 2 * pad - kernel) // stride + 1
                for side, pad, kernel, stride in zip(
                    ("height", "width"), geometry["paddings"], geometry["kernel"], geometry["strides"], strict=True
                )
            )
            inputs = 1 if geometry["op"] == "depthwise_conv2d" else layer.inputs
            work += height * width * int(np.prod(geometry["kernel"])) * inputs * layer.outputs
        elif geometry["op"] == "lstm":
            matrices = [p for n, p in network.neck.named_parameters() if "weight" in n]
            assert (geometry["steps"], layer.outputs) == (80, 48) and layer.inputs == matrices[0].shape[1]
            work += geometry["steps"] * sum(p.size for p in matrices)
    assert work == complexity.macs(network, REFERENCE_SHAPES[task])


def profile(layers, **changes):
    given = {"device": "slate", "engine": "Paddle-Lite", "precision": "fp32", "source": "host", "threads": 1}
    return LayerTimes(**{**given, "call_ms": 1.0, "layers": layers, **changes})


def grid():
    """ms = 1 + inputs · outputs / 64 of a dense layer, 1 + channels / 8 of a depthwise one."""
    dense = [Point(DENSE, i, o, 1 + i * o / 64, 5) for i in (8, 16, 32) for o in (8, 24)]
    return [*dense, *(Point(DEPTHWISE, n, n, 1 + n / 8, 5) for n in (8, 32))]


@pytest.mark.parametrize(
    "geometry, inputs, outputs, ms",
    [
        (DENSE, 16, 24, 6.0),  # measured: 7 with the call, which is left out
        (DENSE, 24, 16, 6.0),  # between all of them, on the product's own surface
        (DENSE, 8, 8, 1.0),
        (DENSE, 64, 99, 12.0),  # beyond: as 32 and 24
        (DENSE, 1, 1, 1.0),
        (DEPTHWISE, 16, 16, 2.0),
        (DEPTHWISE, 99, 99, 4.0),
    ],
)
def test_times_in_between(geometry, inputs, outputs, ms):
    assert profile(grid()).ms(geometry, inputs, outputs) == pytest.approx(ms)


def test_times_of_many_at_once_and_never_below_nothing():
    times = profile(grid())
    assert times.ms(DENSE, np.array([[8, 16]]), np.array([[24, 24]])).tolist() == [[3.0, 6.0]]
    assert profile(grid(), call_ms=2.5).ms(DENSE, 8, 8) == 0
    with pytest.raises(ModelError, match=r"expected a profile with conv2d \(kernel \[3, 3\]\), found none"):
        times.ms({"op": "conv2d", "kernel": [3, 3]}, 8, 8)


def test_a_file_of_two_devices(tmp_path):
    path = tmp_path / "op_profile.json"
    layer_times.save(path, [profile(grid()), profile(grid(), device="phone", source="phone", call_ms=0.5)])
    assert [times.device for times in layer_times.load(path)] == ["slate", "phone"]
    assert layer_times.choose(path, "phone").ms(DENSE, 8, 8) == pytest.approx(1.5)
    for device in (None, "other"):
        with pytest.raises(UsageError, match="expected one fp32 profile, found 'slate', 'phone'; name one"):
            layer_times.choose(path, device)


def edited(change):
    record = {"schema": 1, "profiles": [profile(grid()).to_json()]}
    change(record)
    return json.dumps(record)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "expected JSON"),
        ("[]", "expected layer times"),
        (edited(lambda r: r.update(schema=2)), "expected layer times"),
        (edited(lambda r: r["profiles"][0].update(extra=1)), "expected layer times"),
        (edited(lambda r: r["profiles"][0].update(source="guess")), "expected a source among host, phone"),
        (edited(lambda r: r["profiles"][0]["layers"].pop(0)), "for every pair of channels, found none for"),
        (edited(lambda r: r["profiles"][0]["layers"][0].update(ms=0)), "expected a time above 0, found 0"),
    ],
)
def test_files_that_are_no_profiles(text, message, tmp_path):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(ModelError, match=message):
        layer_times.load(path)
