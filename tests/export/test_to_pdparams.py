"""What goes back to PaddleOCR is what came from it, under its names, and loads there without a word."""

import pickle
import warnings

import numpy as np
import paddle
import pytest

import artifact
import command
from export import to_pdparams
from ocr_models import catalogue, checkpoints
from ocr_models.import_weights import import_weights
from ocr_models.pdparams import BOOKKEEPING, read_pdparams
from ocr_models.prune_plan import PrunePlan

# Names and shapes of PP-OCR mobile v2.0 as PaddleOCR's configurations build it, and how many of them.
PADDLEOCR = {
    "det_mv3_db": (
        269,
        {
            "backbone.conv.conv.weight": [8, 3, 3, 3],
            "backbone.conv.bn._mean": [8],
            "backbone.stage0.0.expand_conv.conv.weight": [8, 8, 1, 1],
            "backbone.stage0.1.bottleneck_conv.conv.weight": [32, 1, 3, 3],
            "backbone.stage3.3.conv.weight": [480, 80, 1, 1],
            "neck.in2_conv.weight": [96, 16, 1, 1],
            "neck.p5_conv.weight": [24, 96, 3, 3],
            "head.binarize.conv1.weight": [24, 96, 3, 3],
            "head.binarize.conv_bn1._variance": [24],
            "head.binarize.conv2.weight": [24, 24, 2, 2],
            "head.thresh.conv3.bias": [1],
        },
    ),
    "cls_mv3": (
        213,
        {
            "backbone.conv1.conv.weight": [8, 3, 3, 3],
            "backbone.blocks.0.mid_se.conv1.weight": [2, 8, 1, 1],
            "backbone.blocks.10.linear_conv.bn.weight": [32],
            "backbone.conv2.conv.weight": [200, 32, 1, 1],
            "head.fc.weight": [200, 2],
        },
    ),
    "rec_mv3_crnn_en": (
        245,
        {
            "backbone.conv2.conv.weight": [288, 48, 1, 1],
            "neck.encoder.lstm.weight_ih_l0": [192, 288],
            "neck.encoder.lstm.bias_hh_l1_reverse": [192],
            "neck.encoder.lstm.0.cell_fw.weight_ih": [192, 288],
            "neck.encoder.lstm.1.cell_bw.bias_hh": [192],
            "head.fc.weight": [96, 97],
        },
    ),
}


def make(out, name="cls_mv3", prune=None, **changes):
    """A checkpoint artifact with weights that are all different; prune: {structured name of a conv: channels kept}."""
    card = catalogue.card(name)
    layer = catalogue.build(card.network)
    chance = np.random.default_rng(3)
    for key, tensor in checkpoints.parameters(layer).items():
        low = 0.5 if key.endswith("_variance") else -0.2
        tensor.set_value(chance.uniform(low, low + 0.6, tensor.shape).astype(np.float32))
    with artifact.create(out) as folder:
        manifest = card.manifest(folder).replace(**changes)
        if prune:
            plan = PrunePlan.from_masks(layer, prune(layer))
            plan.apply(layer)
            plan.save(folder)
            manifest = manifest.replace(compression={"prune_plan": "prune_plan.json"})
        checkpoints.save_network(layer, folder)
        artifact.write(folder, manifest, "test")
    return out


def call(capsys, *arguments):
    args = to_pdparams.build_parser().parse_args([str(argument) for argument in arguments])
    code = command._attempt("to_pdparams.py", to_pdparams.run, args)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("name", list(PADDLEOCR))
def test_there_and_back_again(tmp_path, capsys, name):
    checkpoint, out = make(tmp_path / "ours", name), tmp_path / "best_accuracy.pdparams"
    code, said, _ = call(capsys, checkpoint, "--out", out)
    assert code == 0
    params = sum(array.size for array in read_pdparams(checkpoint / checkpoints.WEIGHTS).values())
    assert said.startswith(f"{out}: {params:,} params in ")
    assert ("Global.character_dict_path" in said) == name.startswith("rec")
    import_weights(out, tmp_path / "again")
    first, second = (read_pdparams(folder / checkpoints.WEIGHTS) for folder in (checkpoint, tmp_path / "again"))
    assert list(first) == list(second)
    assert all(array.tobytes() == second[key].tobytes() for key, array in first.items())


@pytest.mark.parametrize("name", list(PADDLEOCR))
def test_names_and_shapes_are_paddleocrs(tmp_path, name):
    count, shapes = PADDLEOCR[name]
    to_pdparams.to_pdparams(make(tmp_path / "ours", name), tmp_path / "x.pdparams")
    arrays = read_pdparams(tmp_path / "x.pdparams")
    assert len(arrays) == count and {array.dtype for array in arrays.values()} == {np.dtype("float32")}
    assert {key: list(arrays[key].shape) for key in shapes} == shapes


@pytest.mark.parametrize("name", list(PADDLEOCR))
def test_it_loads_as_paddleocr_loads_it(tmp_path, name):
    """paddle.load, every key of the network among the file's, the same shape and type, set_state_dict in silence."""
    to_pdparams.to_pdparams(make(tmp_path / "ours", name), tmp_path / "x.pdparams")
    params = paddle.load(str(tmp_path / "x.pdparams"))
    layer = catalogue.build(catalogue.card(name).network)
    state = layer.state_dict()
    assert set(state) == set(params)
    assert all(list(params[k].shape) == list(v.shape) and params[k].dtype == v.dtype for k, v in state.items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert layer.set_state_dict(params) == ([], [])
    stored = read_pdparams(tmp_path / "ours" / checkpoints.WEIGHTS)
    assert all(np.array_equal(stored[k], v.numpy()) for k, v in checkpoints.parameters(layer).items())


def test_it_is_a_pickle_of_plain_arrays_with_the_bookkeeping(tmp_path):
    to_pdparams.to_pdparams(make(tmp_path / "ours"), tmp_path / "x.pdparams")
    state = pickle.loads((tmp_path / "x.pdparams").read_bytes())
    names = state.pop(BOOKKEEPING)
    assert set(names) == set(state) and {type(value) for value in state.values()} == {np.ndarray}


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path):
    checkpoint = make(tmp_path / "ours")
    for name in ("a", "b"):
        to_pdparams.to_pdparams(checkpoint, tmp_path / f"{name}.pdparams")
    assert (tmp_path / "a.pdparams").read_bytes() == (tmp_path / "b.pdparams").read_bytes()


def half_a_block(layer):
    """Masks that drop every second channel inside the first block of the classifier, its squeeze among them."""
    state = layer.state_dict()
    block = "backbone.blocks.0"
    mask = np.arange(state[f"{block}.expand_conv.conv.weight"].shape[0]) % 2 == 0
    masks = {f"{block}.{conv}.conv.weight": {0: mask} for conv in ("expand_conv", "bottleneck_conv")}
    for conv in ("expand_conv", "bottleneck_conv"):
        for part in ("weight", "bias", "_mean", "_variance"):
            masks[f"{block}.{conv}.bn.{part}"] = {0: mask}
    masks[f"{block}.mid_se.conv1.weight"] = {1: mask}
    masks[f"{block}.mid_se.conv2.weight"] = {0: mask}
    masks[f"{block}.mid_se.conv2.bias"] = {0: mask}
    masks[f"{block}.linear_conv.conv.weight"] = {1: mask}
    return masks


def test_a_pruned_network_goes_back_filled_with_zeros(tmp_path, capsys):
    """Full shapes, the same output, and no gradient reaches what was filled."""
    checkpoint = make(tmp_path / "pruned", prune=half_a_block)
    code, _, complaint = call(capsys, checkpoint, "--out", tmp_path / "x.pdparams")
    assert code == 2 and "found a pruned one; give --fill to put its removed channels back as zeros" in complaint
    code, said, _ = call(capsys, checkpoint, "--fill", "--out", tmp_path / "x.pdparams")
    full = catalogue.build(catalogue.card("cls_mv3").network)
    removed = sum(t.size for t in checkpoints.parameters(full).values()) - sum(
        a.size for a in read_pdparams(checkpoint / checkpoints.WEIGHTS).values()
    )
    assert code == 0 and removed > 0 and f", {removed:,} of them zeros that pruning had removed" in said
    checkpoints.import_pdparams(full, tmp_path / "x.pdparams")
    full.eval()
    pruned, _ = checkpoints.load_network(checkpoint)
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 48, 192)).astype(np.float32))
    assert float((full(x) - pruned(x)).abs().max()) < 1e-6
    full.train()
    paddle.nn.functional.cross_entropy(full(x), paddle.to_tensor([0, 1])).backward()
    filters = full.state_dict()["backbone.blocks.0.expand_conv.conv.weight"]
    assert float(filters.grad[1::2].abs().max()) == 0 < float(filters.grad[::2].abs().max())


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("quantized", "expected a float checkpoint, found a quantized one (pact-int8)"),
        ("fill without a plan", "expected a pruned checkpoint for --fill, found none; leave it out"),
        ("inference", "expected a checkpoint artifact, found kind inference"),
        ("nothing", "expected an artifact folder, found nothing"),
        ("other suffix", "expected --out FILE.pdparams, found another suffix"),
        ("exists", "expected a file that does not exist yet, found one"),
        ("no folder", "expected its folder to exist, found none"),
        ("changed", "expected sha256"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys, case, said):
    changes = {"quantized": {"compression": {"quantization": "pact-int8"}}, "inference": {"kind": "inference"}}
    checkpoint, out = make(tmp_path / "ours", **changes.get(case, {})), tmp_path / "x.pdparams"
    if case == "nothing":
        checkpoint = tmp_path / "nowhere"
    if case == "changed":
        content = bytearray((checkpoint / checkpoints.WEIGHTS).read_bytes())
        content[len(content) // 2] ^= 1
        (checkpoint / checkpoints.WEIGHTS).write_bytes(content)
    out = {"other suffix": tmp_path / "x.pth", "no folder": tmp_path / "no" / "x.pdparams"}.get(case, out)
    if case == "exists":
        out.write_bytes(b"mine")
    before = sorted(tmp_path.rglob("*"))
    code, printed, complaint = call(
        capsys, checkpoint, *(["--fill"] if case == "fill without a plan" else []), "--out", out
    )
    assert (code, printed) == (2, "") and said in complaint and complaint.count("\n") == 1, complaint
    assert sorted(tmp_path.rglob("*")) == before and (case != "exists" or out.read_bytes() == b"mine")
