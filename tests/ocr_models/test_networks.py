"""The networks are PP-OCR mobile v2.0: sizes, shapes and names of its published checkpoints."""

import paddle
import pytest

from command import ModelError
from ocr_models import catalogue, complexity
from ocr_models.checkpoints import aliases, parameters
from ocr_models.mobilenet_v3 import scaled


def network(name, **changes):
    return catalogue.build({**catalogue.card(name).network, **changes})


@pytest.mark.parametrize(
    ("channels", "scale", "expected"),
    [(16, 0.5, 8), (24, 0.5, 16), (72, 0.5, 40), (16, 0.35, 8), (88, 0.35, 32), (576, 0.35, 200), (16, 1.0, 16)],
)
def test_scaled_widths(channels, scale, expected):
    assert scaled(channels, scale) == expected


@pytest.mark.parametrize(
    ("name", "changes", "training", "export"),
    [
        ("det_mv3_db", {}, 595_794, 572_441),
        ("cls_mv3", {}, 133_628, 133_628),
        ("rec_mv3_crnn_en", {}, 454_321, 454_321),
        ("rec_mv3_crnn_en", {"classes": 6625}, 1_087_537, 1_087_537),
    ],
)
def test_parameter_counts(name, changes, training, export):
    layer = network(name, **changes)
    assert complexity.params(layer, export=False) == training
    assert complexity.params(layer) == export


@pytest.mark.parametrize(
    ("name", "changes", "shape", "expected"),
    [
        ("det_mv3_db", {}, (1, 3, 640, 640), 1_911_763_200),
        ("cls_mv3", {}, (1, 3, 48, 192), 16_315_376),
        ("rec_mv3_crnn_en", {"classes": 6625}, (1, 3, 32, 320), 123_779_456),
    ],
)
def test_macs_of_the_models(name, changes, shape, expected):
    assert complexity.macs(network(name, **changes), shape) == expected


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        # 4·4 output pixels, 5 filters of 3x3 over 2 channels
        (paddle.nn.Conv2D(2, 5, 3, padding=1), (1, 2, 4, 4), 16 * 5 * 2 * 9),
        (paddle.nn.Conv2D(4, 4, 3, padding=1, groups=4), (1, 4, 4, 4), 16 * 4 * 9),
        # every input pixel of 3 channels makes 2x2 pixels in 2 channels
        (paddle.nn.Conv2DTranspose(3, 2, 2, stride=2), (1, 3, 4, 4), 16 * 3 * 2 * 4),
        (paddle.nn.Linear(7, 3), (2, 5, 7), 10 * 7 * 3),
        # 2 directions, 4 gates of 3 units over 5 inputs and 3 states, 6 steps
        (paddle.nn.LSTM(5, 3, direction="bidirectional"), (1, 6, 5), 6 * 2 * 4 * 3 * (5 + 3)),
    ],
    ids=["conv", "depthwise", "transposed", "linear", "lstm"],
)
def test_macs_by_hand(layer, shape, expected):
    assert complexity.macs(layer, shape) == expected


def test_macs_leave_mode_and_hooks_alone():
    layer = network("cls_mv3")
    assert complexity.macs(layer, (1, 3, 48, 192)) == complexity.macs(layer, (1, 3, 48, 192))
    assert layer.training and layer.backbone.training


@pytest.mark.parametrize(
    ("name", "shape", "train", "infer"),
    [
        ("det_mv3_db", (2, 3, 64, 96), [2, 3, 64, 96], [2, 1, 64, 96]),
        ("cls_mv3", (3, 3, 48, 192), [3, 2], [3, 2]),
        ("rec_mv3_crnn_en", (2, 3, 32, 100), [2, 25, 97], [2, 25, 97]),
    ],
)
def test_shapes_and_ranges(name, shape, train, infer):
    layer = network(name)
    x = paddle.rand(shape)
    assert layer(x).shape == train
    layer.eval()
    y = layer(x)
    assert y.shape == infer
    assert float(y.min()) >= 0.0 and float(y.max()) <= 1.0
    if name != "det_mv3_db":
        assert paddle.allclose(y.sum(-1), paddle.ones(infer[:-1])).item()


def test_binary_map_is_the_paper_s_step_function():
    layer = network("det_mv3_db")
    prob, threshold, binary = layer(paddle.rand([1, 3, 32, 32])).split(3, axis=1)
    expected = 1.0 / (1.0 + paddle.exp(-50.0 * (prob - threshold)))
    assert paddle.allclose(binary, expected, atol=1e-5).item()


# Names as they stand in the checkpoints that PaddleOCR publishes, one of every sort.
NAMES = {
    "det_mv3_db": [
        "backbone.conv.conv.weight",
        "backbone.conv.bn._mean",
        "backbone.stage0.0.expand_conv.conv.weight",
        "backbone.stage0.2.bottleneck_conv.bn._variance",
        "backbone.stage1.0.linear_conv.bn.bias",
        "backbone.stage2.5.linear_conv.conv.weight",
        "backbone.stage3.3.conv.weight",
        "neck.in2_conv.weight",
        "neck.in5_conv.weight",
        "neck.p2_conv.weight",
        "head.binarize.conv1.weight",
        "head.binarize.conv_bn1.weight",
        "head.binarize.conv2.bias",
        "head.binarize.conv3.weight",
        "head.thresh.conv_bn2._mean",
    ],
    "cls_mv3": [
        "backbone.conv1.conv.weight",
        "backbone.blocks.0.mid_se.conv1.weight",
        "backbone.blocks.0.mid_se.conv2.bias",
        "backbone.blocks.10.linear_conv.bn.weight",
        "backbone.conv2.bn._mean",
        "head.fc.weight",
        "head.fc.bias",
    ],
    "rec_mv3_crnn_en": [
        "backbone.blocks.3.mid_se.conv1.weight",
        "neck.encoder.lstm.weight_ih_l0",
        "neck.encoder.lstm.weight_hh_l1_reverse",
        "neck.encoder.lstm.bias_ih_l0_reverse",
        "head.fc.weight",
    ],
}


@pytest.mark.parametrize(("name", "count"), [("det_mv3_db", 269), ("cls_mv3", 213), ("rec_mv3_crnn_en", 229)])
def test_names_are_those_of_the_published_checkpoints(name, count):
    found = parameters(network(name))
    assert len(found) == count
    assert not set(NAMES[name]) - set(found)


def test_the_lstm_s_second_names():
    second = aliases(network("rec_mv3_crnn_en"))
    assert len(second) == 16
    assert second["neck.encoder.lstm.0.cell_fw.weight_ih"] == "neck.encoder.lstm.weight_ih_l0"
    assert second["neck.encoder.lstm.1.cell_bw.bias_hh"] == "neck.encoder.lstm.bias_hh_l1_reverse"


@pytest.mark.parametrize(
    ("network_record", "said"),
    [
        ({"type": "DBDetectorV9"}, "DBDetectorV9"),
        ({}, "None"),
        ({"type": "CRNNRecognizer", "depth": 3}, "depth"),
        ({"type": "CRNNRecognizer", "classes": -1}, "-1"),
        ({"type": "CRNNRecognizer", "classes": "97"}, "'97'"),
        ({"type": "CRNNRecognizer", "hidden": 4.5}, "4.5"),
    ],
)
def test_build_refuses_what_it_does_not_know(network_record, said):
    with pytest.raises(ModelError, match=said.replace("'", ".")):
        catalogue.build(network_record)
