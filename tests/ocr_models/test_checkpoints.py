"""Weights in and out: strictly, by structured name, without trusting the file."""

import numpy as np
import paddle
import pytest

import artifact
from artifact import ArtifactError
from command import ModelError
from ocr_models import catalogue, checkpoints
from ocr_models.pdparams import read_pdparams


def network(name="cls_mv3"):
    return catalogue.build(catalogue.card(name).network)


def arrays(layer):
    return {name: tensor.numpy() for name, tensor in checkpoints.parameters(layer).items()}


def checkpoint(out, name="cls_mv3", layer=None, **changes):
    card = catalogue.card(name)
    with artifact.create(out) as folder:
        checkpoints.save_network(layer or network(name), folder)
        artifact.write(folder, card.manifest(folder).replace(**changes), "test")
    return out


@pytest.mark.parametrize("name", ["det_mv3_db", "cls_mv3", "rec_mv3_crnn_en"])
def test_a_saved_checkpoint_loads_back(tmp_path, name):
    layer = network(name)
    folder = checkpoint(tmp_path / "model", name, layer)
    loaded, manifest = checkpoints.load_network(folder)
    assert manifest.name == name and not loaded.training
    ours, theirs = arrays(layer), arrays(loaded)
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_a_saved_file_is_a_state_dict_that_paddle_itself_loads(tmp_path):
    layer, other = network("rec_mv3_crnn_en"), network("rec_mv3_crnn_en")
    checkpoints.save_network(layer, tmp_path)
    other.set_state_dict(paddle.load(str(tmp_path / checkpoints.WEIGHTS)))
    layer.eval()
    other.eval()
    x = paddle.rand([1, 3, 32, 64])
    assert paddle.equal_all(layer(x), other(x)).item()


@pytest.mark.parametrize("protocol", [2, 4])
def test_paddle_s_own_state_dict_with_second_names_loads(tmp_path, protocol):
    layer, other = network("rec_mv3_crnn_en"), network("rec_mv3_crnn_en")
    path = tmp_path / "best_accuracy.pdparams"
    paddle.save(layer.state_dict(), str(path), protocol=protocol)
    checkpoints.import_pdparams(other, path)
    assert all(np.array_equal(value, arrays(other)[key]) for key, value in arrays(layer).items())


def test_leftovers_of_pruning_are_not_saved(tmp_path):
    layer = network()
    layer.backbone.conv1.conv.register_buffer("conv2d_0_w_0_backup", paddle.zeros([1]))
    checkpoints.save_network(layer, tmp_path)
    assert set(read_pdparams(tmp_path / checkpoints.WEIGHTS)) == set(arrays(network()))


def _drop(state):
    del state["head.fc.bias"]


def _add(state):
    state["head.fc2.bias"] = np.zeros(2, np.float32)


def _reshape(state):
    state["head.fc.weight"] = state["head.fc.weight"].T


def _round(state):
    state["head.fc.weight"] = state["head.fc.weight"].astype(np.int8)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_drop, r"no head\.fc\.bias"),
        (_add, r"the extra head\.fc2\.bias"),
        (_reshape, r"head\.fc\.weight of shape \[200, 2\], found \[2, 200\]"),
        (_round, r"head\.fc\.weight as floats, found int8"),
    ],
    ids=["missing", "extra", "misshaped", "integer"],
)
def test_a_key_that_does_not_match_is_named_and_nothing_changes(damage, said):
    layer = network()
    state = arrays(network())
    damage(state)
    before = arrays(layer)
    with pytest.raises(ModelError, match=said):
        checkpoints.assign(layer, state, "weights")
    assert all(np.array_equal(before[key], value) for key, value in arrays(layer).items())


def test_two_names_of_one_tensor_have_to_agree():
    layer = network("rec_mv3_crnn_en")
    state = arrays(layer)
    first = state["neck.encoder.lstm.weight_ih_l0"]
    state["neck.encoder.lstm.0.cell_fw.weight_ih"] = first + 1
    with pytest.raises(ModelError, match=r"cell_fw\.weight_ih"):
        checkpoints.assign(layer, state, "weights")


def test_a_quantized_checkpoint_is_no_float_network(tmp_path):
    folder = checkpoint(tmp_path / "model", compression={"quantization": "pact-int8"})
    with pytest.raises(ModelError, match="pact-int8"):
        checkpoints.load_network(folder)


def test_weights_of_another_network_are_refused(tmp_path):
    folder = checkpoint(tmp_path / "model", layer=network("det_mv3_db"))
    with pytest.raises(ModelError, match="DirectionClassifier"):
        checkpoints.load_network(folder)


def test_a_charset_that_does_not_fit_the_classes_is_refused(tmp_path):
    folder = checkpoint(tmp_path / "model", "rec_mv3_crnn_en", network={"type": "CRNNRecognizer", "classes": 100})
    with pytest.raises(ModelError, match="100 classes, found one of 97"):
        checkpoints.load_network(folder)


def test_an_artifact_of_another_kind_is_refused(tmp_path):
    folder = checkpoint(tmp_path / "model", kind="inference")
    with pytest.raises(ArtifactError, match="expected a checkpoint"):
        checkpoints.load_network(folder)
