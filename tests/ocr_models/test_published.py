"""PaddleOCR's published models load into our trainable networks and compute the same."""

import cv2
import numpy as np
import paddle
import pytest

from command import ModelError
from ocr_models import catalogue, checkpoints
from ocr_models.paddle_engine import InferenceEngine, NetworkEngine

PUBLISHED = {
    "det_mv3_db": "ch_ppocr_mobile_v2.0_det_infer",
    "cls_mv3": "ch_ppocr_mobile_v2.0_cls_infer",
    "rec_mv3_crnn_en": "en_number_mobile_v2.0_rec_infer",
}


def network(name, **changes):
    return catalogue.build({**catalogue.card(name).network, **changes})


def prepare(path, name):
    """A photo as the card's `input` wants it; lines are stretched, for here only the numbers count."""
    eats = catalogue.card(name).input
    image = cv2.imread(str(path))
    assert image is not None, path
    height = eats.shape[2] if eats.shape[2] > 0 else 384
    width = eats.shape[3] if eats.shape[3] > 0 else (320 if height == 32 else 640)
    pixels = cv2.resize(image, (width, height)).astype(np.float32) / 255.0
    x = (pixels - np.float32(eats.mean)) / np.float32(eats.std)
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def photos(folder, name):
    images = folder / "images"
    return sorted(images.glob("scenes_en/*.jpg"))[:4] if name == "det_mv3_db" else sorted(images.glob("words/*/*.*g"))


def _randomize(layer, seed):
    """Weights that are all different, as trained ones are; fresh batch norms are all alike."""
    random = np.random.default_rng(seed)
    for tensor in checkpoints.parameters(layer).values():
        tensor.set_value(random.uniform(0.5, 1.5, tensor.shape).astype(np.float32) * 0.1)


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_our_own_export_comes_home(name, tmp_path):
    """Every parameter finds its place, also the equal-sized ones of the pyramid."""
    layer, other = network(name), network(name)
    _randomize(layer, 1)
    _randomize(other, 2)
    layer.eval()
    spec = [paddle.static.InputSpec([None, 3, None, None], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(layer.forward, input_spec=spec, full_graph=True), str(tmp_path / "inference"))
    kept = checkpoints.import_published(other, tmp_path)
    assert all(key.startswith("head.thresh.") for key in kept)
    assert len(kept) == (13 if name == "det_mv3_db" else 0)
    theirs = checkpoints.parameters(other)
    for key, tensor in checkpoints.parameters(layer).items():
        assert np.array_equal(tensor.numpy(), theirs[key].numpy()) == (key not in kept), key
    assert other.training


class _Bias(paddle.nn.Layer):
    """What is left of a batch norm that was folded into its convolution."""

    def __init__(self, values):
        super().__init__()
        self.bias = self.create_parameter(values.shape)
        self.bias.set_value(values)

    def forward(self, x):
        return x + self.bias.reshape([1, -1, 1, 1])


def _fold(layer):
    for part in layer.sublayers():
        if isinstance(getattr(part, "bn", None), paddle.nn.BatchNorm2D):
            scale, bias, mean, variance = (
                tensor.numpy() for tensor in (part.bn.weight, part.bn.bias, part.bn._mean, part.bn._variance)
            )
            factor = scale / np.sqrt(variance + part.bn._epsilon)
            part.conv.weight.set_value(part.conv.weight.numpy() * factor[:, None, None, None])
            part.bn = _Bias(bias - mean * factor)


def test_batch_norms_that_were_folded_are_unfolded(tmp_path):
    folded, other = network("rec_mv3_crnn_en"), network("rec_mv3_crnn_en")
    _randomize(folded, 1)
    _randomize(other, 2)
    _fold(folded)
    folded.eval()
    spec = [paddle.static.InputSpec([None, 3, None, None], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(folded.forward, input_spec=spec, full_graph=True), str(tmp_path / "inference"))
    assert checkpoints.import_published(other, tmp_path) == []
    x = np.random.default_rng(3).standard_normal((1, 3, 32, 64)).astype(np.float32)
    with paddle.no_grad():
        expected = folded(paddle.to_tensor(x)).numpy()
    assert np.abs(NetworkEngine(other).run(x) - expected).max() <= 1e-5
    assert expected.std() > 1e-4


def test_the_chinese_recognizer_is_unfolded(published):
    folder = published / "models" / "ch_ppocr_mobile_v2.0_rec_infer"
    layer = network("rec_mv3_crnn_en", classes=6625)
    checkpoints.import_published(layer, folder)
    theirs, ours = InferenceEngine(folder), NetworkEngine(layer)
    for path in sorted((published / "images" / "words" / "ch").glob("*.jpg")):
        x = prepare(path, "rec_mv3_crnn_en")
        expected = theirs.run(x)
        assert expected.max() > 0.5
        assert np.abs(ours.run(x) - expected).max() <= 1e-5


def test_a_network_of_other_settings_is_refused(tmp_path):
    layer = network("rec_mv3_crnn_en")
    layer.eval()
    spec = [paddle.static.InputSpec([None, 3, None, None], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(layer.forward, input_spec=spec, full_graph=True), str(tmp_path / "inference"))
    with pytest.raises(ModelError, match=r"\(96, 100\), found \(96, 97\)"):
        checkpoints.import_published(network("rec_mv3_crnn_en", classes=100), tmp_path)
    with pytest.raises(ModelError, match=r"shape \(80, 97\)|settings"):
        checkpoints.import_published(network("rec_mv3_crnn_en", hidden=40), tmp_path)


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_weights_give_the_published_output(published, name):
    folder = published / "models" / PUBLISHED[name]
    layer = network(name)
    checkpoints.import_published(layer, folder)
    ours = NetworkEngine(layer)
    # The same operators, one by one: what differs would be a weight in the wrong place.
    plain, fused = InferenceEngine(folder, optimize=False), InferenceEngine(folder)
    found = photos(published, name)
    assert found
    for path in found:
        x = prepare(path, name)
        y = ours.run(x)
        assert np.abs(y - plain.run(x)).max() <= 1e-5, path
        # Fused kernels round differently; on the detector's steepest edges that reaches 5e-5 of a sigmoid.
        assert np.abs(y - fused.run(x)).max() <= 1e-4, path
        assert y.std() > 0


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("det_mv3_db", "ch_PP-OCRv3_det_infer"),
        ("cls_mv3", "ch_ppocr_mobile_v2.0_det_infer"),
        ("rec_mv3_crnn_en", "ch_ppocr_mobile_v2.0_rec_infer"),
    ],
)
def test_a_published_model_of_another_network_is_refused(published, name, folder):
    layer = network(name)
    before = {key: tensor.numpy() for key, tensor in checkpoints.parameters(layer).items()}
    with pytest.raises(ModelError, match="expected the network"):
        checkpoints.import_published(layer, published / "models" / folder)
    assert all(np.array_equal(before[key], tensor.numpy()) for key, tensor in checkpoints.parameters(layer).items())
