"""Masking filters computes what a network without them computes; and what a cut is said to save is what it saves."""

from pathlib import Path

import numpy as np
import paddle
import pytest

import artifact
from ocr_models import checkpoints, complexity
from slim import group_cuts
from slim.masked_program import MaskedProgram
from slim.pruning import FilterPruner

# Trained weights: in an untrained network a filter more or less is lost in rounding.
MODELS = Path(artifact.__file__).parent / "ocr_models" / "pretrained"
SHAPES = {"det": (1, 3, 64, 64), "cls": (1, 3, 48, 192), "rec": (1, 3, 32, 96)}
RATIOS = (0.2, 0.5)
# One of each kind: shortcut, expand with and without squeeze and excitation, the squeeze itself, pyramid, heads,
# and what an LSTM or a linear layer reads.
KINDS = {
    "det": (
        "backbone.stage0.0.expand_conv.conv.weight",
        "backbone.stage1.0.linear_conv.conv.weight",
        "neck.in2_conv.weight",
        "head.binarize.conv1.weight",
    ),
    "cls": (
        "backbone.blocks.2.expand_conv.conv.weight",
        "backbone.blocks.4.expand_conv.conv.weight",
        "backbone.conv2.conv.weight",
    ),
    "rec": (
        "backbone.conv1.conv.weight",
        "backbone.blocks.8.linear_conv.conv.weight",
        "backbone.blocks.9.mid_se.conv1.weight",
    ),
}


class Model:
    """A network, its groups' cuts, its program, and an input."""

    def __init__(self, task):
        self.folder = MODELS / task
        self.network, self.manifest = checkpoints.load_network(self.folder)
        assert self.manifest.input is not None
        self.shape = SHAPES[task]
        macs = group_cuts.layer_macs(self.network, self.shape)
        self.work = sum(macs.values())
        self.pruner = FilterPruner(self.network, self.shape)
        self.groups = {group.name: group for group in group_cuts.group_cuts(self.pruner, RATIOS, macs)}
        self.program = MaskedProgram(self.network, self.manifest.input.shape)
        self.x = np.random.default_rng(3).standard_normal((2, *self.shape[1:])).astype(np.float32)

    def rebuilt(self, name, ratio):
        network, _ = checkpoints.load_network(self.folder)
        self.pruner.plan({name: ratio}).apply(network)
        network.eval()
        return network

    def masked(self, name, ratio):
        group = self.groups[name]
        cut = group.cuts[RATIOS.index(ratio)]
        program = self.program.cut(group.widths)
        assert program.after is not None
        arrays = {"x": self.x}
        if program.before:
            arrays = dict(zip(program.held, program.before.run(arrays), strict=True))
        for weight, variable in program.masks.items():
            mask = np.zeros((1, group.widths[weight], 1, 1), np.float32)
            mask[:, list(cut.kept[weight])] = 1
            arrays[variable] = mask
        return program.after.run(arrays)[0]


@pytest.fixture(scope="module")
def models():
    """{task: Model}, opened when first asked for."""

    class Made(dict):
        def __missing__(self, task):
            self[task] = Model(task)
            return self[task]

    return Made()


def agree(model, name, ratio=0.5):
    """What the cut changes: one without effect proves little."""
    network = model.rebuilt(name, ratio)
    with paddle.no_grad():
        expected = network(paddle.to_tensor(model.x)).numpy()
        whole = model.network(paddle.to_tensor(model.x)).numpy()
    assert np.abs(model.masked(name, ratio) - expected).max() < 1e-5, name
    cut = model.groups[name].cuts[RATIOS.index(ratio)]
    assert complexity.params(model.network) - complexity.params(network) == cut.params
    assert complexity.macs(model.network, model.shape) - complexity.macs(network, model.shape) == cut.macs
    return float(np.abs(whole - expected).max())


@pytest.mark.parametrize("task, name", [(task, name) for task, names in KINDS.items() for name in names])
def test_masked_equals_rebuilt(task, name, models):
    assert agree(models[task], name) > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("task, groups", [("det", 24), ("cls", 26), ("rec", 25)])
def test_every_group_masked_equals_rebuilt(task, groups, models):
    names = [name for name in models[task].groups if "thresh" not in name]
    assert len(names) == groups
    effects = [agree(models[task], name) for name in names]
    # The gate of a squeeze and excitation may be saturated, so that its filters change nothing.
    assert sum(effect > 1e-5 for effect in effects) >= groups / 2


def test_the_program_is_the_network(models):
    model = models["rec"]
    with paddle.no_grad():
        expected = model.network(paddle.to_tensor(model.x)).numpy()
    assert np.abs(model.program.whole().run({"x": model.x})[0] - expected).max() < 1e-5
    assert complexity.macs(model.network, model.shape) == model.work


def test_what_only_training_uses_changes_nothing(models):
    group = models["det"].groups["head.thresh.conv1.weight"]
    assert models["det"].program.cut(group.widths).after is None
    assert [(cut.params, cut.macs) for cut in group.cuts] == [(0, 0), (0, 0)]


@pytest.mark.parametrize("name, filters, removed", [("conv1", 8, (2, 4)), ("blocks.0.mid_se.conv1", 2, (0, 1))])
def test_filters_that_go(name, filters, removed, models):
    """Shares of .2 and .5: of 8 filters 1.6 and 4, of 2 filters .4 and 1."""
    full = {"conv1": "backbone.conv1.conv.weight"}.get(name, f"backbone.{name}.weight")
    group = models["rec"].groups[full]
    assert group.filters == filters
    assert tuple(cut.removed for cut in group.cuts) == removed


def test_cuts_survive_the_disk(models, tmp_path):
    groups = tuple(models["cls"].groups.values())
    path = tmp_path / "cuts.json"
    path.write_text(group_cuts.to_json(groups))
    assert group_cuts.load(path) == groups
