"""Both engines give the network's own numbers, and refuse what paddle would die of."""

import numpy as np
import paddle
import pytest

from command import ModelError
from ocr_models import catalogue
from ocr_models.inference_files import PROGRAM, WEIGHTS, read_program, read_weights
from ocr_models.paddle_engine import InferenceEngine, NetworkEngine


@pytest.fixture(scope="module")
def classifier():
    paddle.seed(3)
    layer = catalogue.build(catalogue.card("cls_mv3").network)
    layer.eval()
    return layer


@pytest.fixture(scope="module")
def folder(classifier, tmp_path_factory):
    out = tmp_path_factory.mktemp("inference")
    spec = [paddle.static.InputSpec([None, 3, 48, 192], "float32", "x")]
    traced = paddle.jit.to_static(classifier.forward, input_spec=spec, full_graph=True)
    paddle.jit.save(traced, str(out / "inference"))
    return out


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((2, 3, 48, 192), np.float32)


@pytest.mark.parametrize(("onednn", "optimize"), [(None, True), (False, True), (None, False)])
def test_inference_equals_the_network(classifier, folder, x, onednn, optimize):
    engine = InferenceEngine(folder, onednn=onednn, optimize=optimize)
    assert engine.onednn == (onednn is None and optimize) and not engine.quantized
    network = NetworkEngine(classifier)
    first = engine.run(x)
    assert np.allclose(first, network.run(x), atol=1e-6)
    kept = first.copy()
    assert engine.run(x[:1, :, :, ::-1]).shape == (1, 2)
    assert np.array_equal(first, kept)  # a copy, not a view of the predictor's memory
    engine.close()
    with pytest.raises(ModelError, match="closed"):
        engine.run(x)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((1, 1, 48, 192), np.float32),
        np.zeros((3, 48, 192), np.float32),
        np.zeros((1, 3, 48, 192), np.float64),
    ],
    ids=["channels", "rank", "dtype"],
)
def test_an_input_that_does_not_fit_is_refused(folder, bad):
    with pytest.raises(ModelError, match="expected a float32 input"):
        InferenceEngine(folder, onednn=False).run(bad)


def test_network_engine_puts_the_mode_back(x):
    layer = catalogue.build(catalogue.card("cls_mv3").network)
    engine = NetworkEngine(layer)
    assert np.allclose(engine.run(x).sum(1), 1.0, atol=1e-6)
    assert not layer.training
    engine.close()
    assert layer.training


def test_weights_are_read_by_static_name(classifier, folder):
    weights = read_weights(folder, read_program(folder))
    for tensor in classifier.parameters():
        assert np.array_equal(weights[tensor.name], tensor.numpy())


def _damaged(folder, out, program=None, weights=None):
    for name, change in ((PROGRAM, program), (WEIGHTS, weights)):
        content = (folder / name).read_bytes()
        if change is not None:
            content = change(content)
        if content is not None:
            (out / name).write_bytes(content)
    return out


@pytest.mark.parametrize(
    ("program", "weights"),
    [
        (lambda _: None, None),
        (lambda _: b"", None),
        (lambda _: b"no program", None),
        (lambda content: content[: len(content) // 2], None),
        (None, lambda _: None),
        (None, lambda _: b""),
        (None, lambda content: content[:-1]),
        (None, lambda content: content + b"\0"),
        (None, lambda content: content[: len(content) // 2]),
        (None, lambda content: b"\1" + content[1:]),
        (None, lambda content: content[4:]),
    ],
    ids=range(11),
)
def test_damaged_files_end_in_one_line(folder, tmp_path, program, weights):
    with pytest.raises(ModelError) as error:
        InferenceEngine(_damaged(folder, tmp_path, program, weights))
    assert "\n" not in str(error.value)
