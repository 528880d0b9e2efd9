"""A pruned network is rebuilt from its plan alone, and computes what PaddleSlim's pruned network computes."""

import json

import numpy as np
import paddle
import pytest
from paddle import nn

import artifact
from command import ModelError
from ocr_models import catalogue, checkpoints, complexity
from ocr_models.prune_plan import FILE, PrunePlan

SHAPES = {"det_mv3_db": [1, 3, 64, 64], "cls_mv3": [1, 3, 48, 192], "rec_mv3_crnn_en": [1, 3, 32, 96]}
# Uniform .3 on every prunable collection.
PRUNED = {"det_mv3_db": 334_221, "cls_mv3": 71_544, "rec_mv3_crnn_en": 335_050}


def network(name):
    return catalogue.build(catalogue.card(name).network)


class Tiny(nn.Layer):
    """Two convolutions, a depthwise one between them, batch norm and a linear layer: every axis that pruning cuts."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2D(3, 4, 1)
        self.norm = nn.BatchNorm2D(4)
        self.depthwise = nn.Conv2D(4, 4, 3, padding=1, groups=4, bias_attr=False)
        self.last = nn.Conv2D(4, 2, 1)
        self.fc = nn.Linear(2, 5)

    def forward(self, x):
        x = self.last(self.depthwise(self.norm(self.first(x))))
        return self.fc(x.mean([2, 3]))


def tiny_masks(flags):
    per_channel = ("first.weight", "first.bias", "norm.weight", "norm.bias", "norm._mean", "norm._variance")
    masks = {name: {0: flags} for name in (*per_channel, "depthwise.weight")}
    return {**masks, "last.weight": {1: flags}}


def test_a_plan_by_hand():
    layer = Tiny()
    first = layer.first.weight.numpy()
    plan = PrunePlan.from_masks(layer, tiny_masks([True, False, True, True]))
    assert plan.kept["last.weight"] == {1: (0, 2, 3)}
    assert plan.shape_after("last.weight") == (2, 3, 1, 1)
    plan.apply(layer)
    assert np.array_equal(layer.first.weight.numpy(), first[[0, 2, 3]])
    assert layer.depthwise._groups == 3 and layer.norm._num_features == 3
    assert layer.first._out_channels == layer.last._in_channels == 3
    assert layer(paddle.rand([2, 3, 4, 4])).shape == [2, 5]


def test_a_removed_channel_is_one_that_carries_nothing():
    layer, pruned = Tiny(), Tiny()
    pruned.set_state_dict(layer.state_dict())
    value = layer.last.weight.numpy()
    value[:, 1] = 0
    layer.last.weight.set_value(value)
    PrunePlan.from_masks(pruned, tiny_masks([True, False, True, True])).apply(pruned)
    x = paddle.rand([2, 3, 4, 4])
    layer.eval()
    pruned.eval()
    assert paddle.allclose(layer(x), pruned(x), atol=1e-6).item()


def test_plans_compose():
    once, twice = Tiny(), Tiny()
    earlier = PrunePlan.from_masks(twice, tiny_masks([True, False, True, True]))
    once.set_state_dict(twice.state_dict())
    earlier.apply(twice)
    later = PrunePlan.from_masks(twice, {**tiny_masks([True, True, False]), "fc.weight": {0: [True, True]}})
    later.apply(twice)
    plan = earlier.compose(later)
    assert plan.kept["first.weight"] == {0: (0, 2)} and plan.shapes["first.weight"] == (4, 3, 1, 1)
    plan.apply(once)
    assert np.array_equal(once.depthwise.weight.numpy(), twice.depthwise.weight.numpy())
    with pytest.raises(ModelError, match=r"before the later plan"):
        plan.compose(earlier)


def test_a_plan_that_forgets_a_layer_is_refused_and_changes_nothing():
    layer = Tiny()
    masks = tiny_masks([True, False, True, True])
    del masks["norm._mean"]
    with pytest.raises(ModelError, match="norm"):
        PrunePlan.from_masks(layer, masks).apply(layer)
    assert layer.first.weight.shape == [4, 3, 1, 1]


def test_a_plan_of_another_network_is_refused():
    plan = PrunePlan.from_masks(Tiny(), tiny_masks([True, False, True, True]))
    with pytest.raises(ModelError, match=r"first\.weight"):
        plan.apply(network("cls_mv3"))
    pruned = Tiny()
    plan.apply(pruned)
    with pytest.raises(ModelError, match=r"shape \[4, 3, 1, 1\] before pruning"):
        plan.apply(pruned)


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        '{"schema": 2}',
        '{"schema": 1}',
        '{"schema": 1, "tensors": {"a": {"shape": [4], "kept": {"x": [0]}}}}',
        '{"schema": 1, "tensors": {"a": {"shape": [4], "kept": {"0": [4]}}}}',
        '{"schema": 1, "tensors": {"a": {"shape": [4], "kept": {"0": [1, 0]}}}}',
        '{"schema": 1, "tensors": {"a": {"shape": [4], "kept": {"0": []}}}}',
        '{"schema": 1, "tensors": {"a": {"shape": [4], "kept": {"1": [0]}}}}',
        '{"schema": 1, "tensors": {"a": {"shape": [4], "kept": {"0": [-1, 0]}}}}',
    ],
)
def test_a_damaged_plan_is_one_line(tmp_path, record):
    (tmp_path / FILE).write_text(record)
    with pytest.raises(ModelError) as error:
        PrunePlan.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", list(SHAPES))
def test_paddleslim_s_pruned_network_is_rebuilt(tmp_path, name, capsys):
    from paddleslim.dygraph import FPGMFilterPruner

    paddle.seed(5)
    layer = network(name)
    layer.train()
    structured = {tensor.name: key for key, tensor in checkpoints.parameters(layer).items()}
    whole = network(name)
    checkpoints.assign(whole, {k: v.numpy() for k, v in checkpoints.parameters(layer).items()}, "twin")
    pruner = FPGMFilterPruner(layer, SHAPES[name])
    slim = pruner.prune_vars({c.master_name: 0.3 for c in pruner.collections}, [0])
    masks = {
        structured[var]: {mask.dims: mask.mask for mask in found}
        for var, found in slim.masks.items()
        if var in structured
    }
    plan = PrunePlan.from_masks(whole, masks)

    card = catalogue.card(name)
    with artifact.create(tmp_path / "pruned") as folder:
        checkpoints.save_network(layer, folder)
        plan.save(folder)
        artifact.write(folder, card.manifest(folder).replace(compression={"prune_plan": FILE}), "test")
    loaded, _ = checkpoints.load_network(tmp_path / "pruned")
    assert complexity.params(loaded, export=False) == PRUNED[name]
    layer.eval()
    x = paddle.rand([2, *SHAPES[name][1:]])
    expected = layer(x)
    assert paddle.equal_all(loaded(x), expected).item()
    # The plan on the trained, unpruned twin gives the same network: values of kept channels stay.
    plan.apply(whole)
    whole.eval()
    assert paddle.equal_all(whole(x), expected).item()
    whole.train()
    whole(x).sum().backward()

    record = json.loads((tmp_path / "pruned" / FILE).read_text())
    assert set(record["tensors"]) == set(plan.kept)
    assert PrunePlan.load(tmp_path / "pruned") == plan


def test_weights_of_a_pruned_network_without_their_plan_are_refused(tmp_path):
    layer = network("cls_mv3")
    flags = np.ones(200, bool)
    flags[3] = False
    names = ("conv.weight", "bn.weight", "bn.bias", "bn._mean", "bn._variance")
    masks = {f"backbone.conv2.{name}": {0: flags} for name in names}
    PrunePlan.from_masks(layer, {**masks, "head.fc.weight": {0: flags}}).apply(layer)
    card = catalogue.card("cls_mv3")
    with artifact.create(tmp_path / "pruned") as folder:
        checkpoints.save_network(layer, folder)
        artifact.write(folder, card.manifest(folder), "test")
    with pytest.raises(ModelError, match="prune plan"):
        checkpoints.load_network(tmp_path / "pruned")
