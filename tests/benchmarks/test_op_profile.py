"""Which widths are measured, and the command for real on a tiny network: build, run, stop, go on, predict."""

import argparse
import json

import numpy as np
import pytest

import artifact
from benchmarks import op_profile
from benchmarks.op_profile import grids, widths
from command import ModelError, UsageError
from ocr_models import catalogue, checkpoints, layer_shapes, layer_times
from ocr_models.layer_shapes import Layer


@pytest.mark.parametrize(
    "channels, fixed, found",
    [
        ([80], False, [8, 32, 56, 80]),
        ([480], False, [48, 192, 336, 480]),
        ([3], True, [3]),
        ([8], False, [8]),
        ([2], False, [2]),
        ([96, 104], False, [8, 40, 72, 96, 104]),
        ([30], False, [8, 16, 24, 30]),
    ],
)
def test_widths(channels, fixed, found):
    assert widths(channels, fixed) == found


def test_grids_share_what_is_alike():
    """Two layers of one kind make one grid; a depthwise one is a row; the image's three channels stay."""
    dense = {"op": "conv2d", "height": 4}
    found = grids(
        [
            Layer(dense, 16, 8, ("a", 1), ("a", 0)),
            Layer(dense, 8, 16, ("b", 1), ("b", 0)),
            Layer({"op": "depthwise_conv2d"}, 16, 16, ("c", 0), ("c", 0)),
            Layer({"op": "conv2d", "height": 8}, 3, 8, ("d", 1), ("d", 0)),
        ]
    )
    pairs = [[(shape["inputs"], shape["outputs"]) for shape in shapes] for shapes in found]
    assert pairs == [[(8, 8), (8, 16), (16, 8), (16, 16)], [(8, 8), (16, 16)], [(3, 8)]]


KINDS = [
    {"op": "conv2d", "kernel": [3, 3], "strides": [2, 2], "paddings": [1, 1], "act": "hard_swish", "height": 8},
    {"op": "depthwise_conv2d", "kernel": [3, 3], "strides": [1, 1], "paddings": [1, 1], "act": "relu", "height": 8},
    {"op": "conv2d_transpose", "kernel": [2, 2], "strides": [2, 2], "paddings": [0, 0], "act": "relu", "height": 8},
    {"op": "elementwise_mul", "gate": True, "height": 8},
    {"op": "elementwise_add", "gate": False, "height": 8},
    {"op": "pool2d", "pooling": "max", "global": False, "kernel": [2, 2], "strides": [2, 2], "height": 8},
    {"op": "pool2d", "pooling": "avg", "global": True, "height": 8},
    {"op": "nearest_interp_v2", "scale": 2, "height": 8},
    {"op": "concat", "parts": 2, "height": 8},
    {"op": "sigmoid", "height": 8},
    {"op": "linear", "rows": 5},
    {"op": "lstm", "steps": 5, "layers": 2},
]


def test_every_kind_of_layer_is_built_and_timed(tmp_path):
    """Paddle-Lite runs each; a second look measures nothing anew."""
    shapes = [{**kind, **({"width": 8} if "height" in kind else {}), "inputs": 8, "outputs": 8} for kind in KINDS]
    op_profile._build(tmp_path, shapes)
    points = [op_profile._measured(tmp_path, [shape], 3)[0] for shape in shapes]
    assert all(point.ms > 0 and point.rounds == 3 for point in points)
    assert [op_profile._measured(tmp_path, [shape], 3)[0] for shape in shapes] == points
    # A model of the layer and nothing else.
    from lite_runtime.engine import read_targets

    ops = read_targets(tmp_path / f"{layer_times.digest(shapes[0])}.nb").ops
    assert ops == {"feed": 1, "conv2d": 1, "fetch": 1}


def test_a_layer_that_cannot_be_built_ends_it(tmp_path, capfd):
    with pytest.raises(ModelError, match=r"expected export/one_layer\.py to build .*'op': 'magic'"):
        op_profile._build(tmp_path, [{"op": "magic", "height": 1, "width": 1, "inputs": 8, "outputs": 8}])
    assert "found magic; leave it out" in capfd.readouterr().err


def make_checkpoint(folder):
    """A classifier of a sixth of the usual width."""
    card = catalogue.card("cls_mv3")
    network = catalogue.build(card.network)
    with artifact.create(folder) as temporary:
        manifest = card.manifest(temporary)
        checkpoints.save_network(network, temporary)
        artifact.write(temporary, manifest, "toy")
    return folder


@pytest.mark.slow
def test_the_command_profiles_a_network(tmp_path, capsys):
    folder, out = make_checkpoint(tmp_path / "cls"), tmp_path / "op_profile.json"
    phone = layer_times.LayerTimes(
        device="phone", engine="e", precision="fp32", source="phone", threads=1, call_ms=0.0, layers=[]
    )
    layer_times.save(out, [phone])
    args = op_profile.build_parser().parse_args([str(folder), "--out", str(out), "--rounds", "3", "--json"])
    assert op_profile.run(args) == 0
    said = json.loads(capsys.readouterr().out)
    kept, host = layer_times.load(out)
    assert kept.device == "phone" and host.source == "host" and host.device == said["device"]
    network, _ = checkpoints.load_network(folder)
    layers = layer_shapes.layers(network, (1, 3, 48, 192))
    total = sum(float(host.ms(layer.geometry, layer.inputs, layer.outputs)) for layer in layers)
    assert total == pytest.approx(said["sums_ms"][str(folder)]) and total > 0
    narrow = sum(float(host.ms(layer.geometry, min(layer.inputs, 8), min(layer.outputs, 8))) for layer in layers)
    assert narrow < total
    # Again: from what was measured, and in no time.
    assert op_profile.run(args) == 0
    assert json.loads(capsys.readouterr().out)["sums_ms"] == said["sums_ms"]
    assert np.isfinite(host.call_ms)


@pytest.mark.parametrize("rounds, out", [(0, "p.json"), (3, "none/p.json")])
def test_bad_options(rounds, out, tmp_path):
    with pytest.raises(UsageError, match="expected"):
        op_profile.run(argparse.Namespace(artifacts=[tmp_path], out=tmp_path / out, rounds=rounds, json=False))
