"""The predicted time of a plan, with made-up layer times: as if the pruned network had been built and summed."""

import json

import numpy as np
import pytest
from slimming_toys import make_checkpoint, make_config, make_data

from command import ModelError, UsageError
from ocr_models import checkpoints, layer_times
from ocr_models.layer_shapes import layers
from ocr_models.layer_times import DIAGONAL, LayerTimes, Point
from ocr_models.reference import REFERENCE_SHAPES
from slim import prune, prune_targets
from slim.plan_cost import PlanCost
from slim.plan_latency import PlanLatency
from slim.prune_targets import Targets
from slim.pruning import FilterPruner

SHAPE = REFERENCE_SHAPES["cls"]


@pytest.fixture(scope="module")
def cls(tmp_path_factory):
    """(checkpoint folder, network, its pruner, its layer times)."""
    folder = make_checkpoint(tmp_path_factory.mktemp("models") / "cls", "cls")
    network, _ = checkpoints.load_network(folder)
    return folder, network, FilterPruner(network, (1, 3, 48, 192)), made_up(network)


def made_up(network):
    """Times that grow with the channels, and for dense layers with their product, so that straight lines are exact."""
    points = {}
    for layer in layers(network, SHAPE):
        marks = (1, 1000)
        pairs = [(n, n) for n in marks] if layer.geometry["op"] in DIAGONAL else [(i, o) for i in marks for o in marks]
        area = layer.geometry.get("height", 1) * layer.geometry.get("width", 1)
        for inputs, outputs in pairs:
            work = outputs if layer.geometry["op"] in DIAGONAL else inputs * outputs
            points[layer_times.digest(layer.sized(inputs, outputs))] = Point(
                layer.geometry, inputs, outputs, 1 + work * area * 1e-6, 5
            )
    return LayerTimes(
        device="slate", engine="e", precision="fp32", source="host", threads=1, call_ms=0.5, layers=points.values()
    )


def summed(network, times):
    return sum(float(times.ms(layer.geometry, layer.inputs, layer.outputs)) for layer in layers(network, SHAPE))


def test_it_equals_the_built_network(cls):
    folder, network, pruner, times = cls
    predicted = PlanLatency(network, pruner.groups, SHAPE, times)
    assert predicted.whole_ms == pytest.approx(summed(network, times))
    kept = {group.name: max(group.filters // 16 * 8, 1) for group in pruner.groups}
    pruned, _ = checkpoints.load_network(folder)
    pruner.plan(pruner.ratios_for(kept)).apply(pruned)
    many = np.array([list(kept.values()), [group.filters for group in pruner.groups]])
    assert predicted.of(many) == pytest.approx([summed(pruned, times), predicted.whole_ms])
    assert predicted.shares(many)[:, 0] == pytest.approx([summed(pruned, times) / predicted.whole_ms, 1])


def test_the_smallest_uniform_ratio_that_is_predicted_fast_enough(cls):
    _, network, pruner, times = cls
    predicted = PlanLatency(network, pruner.groups, SHAPE, times)
    cost = PlanCost(network, pruner.groups, SHAPE)
    chosen = prune_targets.choose(Targets(0.3, {"latency": 0.8}), pruner.groups, cost, 8, None, predicted)
    assert 0.75 < predicted.shares(np.array(list(chosen.kept.values())))[0] <= 0.8
    with pytest.raises(UsageError, match=r"expected a predicted latency ratio that pruning can reach, 0\.\d+ or more"):
        prune_targets.choose(Targets(0.3, {"latency": 0.1}), pruner.groups, cost, 8, None, predicted)


def test_a_profile_of_another_model_is_refused(cls):
    _, network, pruner, times = cls
    other = LayerTimes(
        **{**times.to_json(), "layers": [point for point in times.layers if "act" not in point.geometry]}
    )
    with pytest.raises(ModelError, match=r"expected a profile with conv2d \(kernel \[3, 3\].*profile this model"):
        PlanLatency(network, pruner.groups, SHAPE, other)


def test_the_command_prunes_to_a_predicted_latency(cls, tmp_path, capsys):
    folder, _, _, times = cls
    data, config = make_data(tmp_path / "data"), make_config(tmp_path / "prune.yaml", {"prune": {"multiple": 8}})
    layer_times.save(tmp_path / "op_profile.json", [times])
    words = [folder, "--data", data, "--out", tmp_path / "out", "--config", config, "--steps", 0, "--no-latency"]
    words += ["--latency-ratio", 0.8, "--profile", tmp_path / "op_profile.json", "--json"]
    assert prune.run(prune.build_parser().parse_args([str(word) for word in words])) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)["pruning"]["predicted_ms"]
    assert found["device"] == "slate" and found["after"] <= 0.8 * found["before"]
    assert "predicted fp32 time of the layers on slate" in said.err
    pruned, _ = checkpoints.load_network(tmp_path / "out")
    assert summed(pruned, times) == pytest.approx(found["after"])


@pytest.mark.parametrize("options", [("--latency-ratio", "0.8"), ("--profile", "p.json")])
def test_a_ratio_needs_a_profile(options):
    args = prune.build_parser().parse_args(["model", "--data", "d", "--out", "o", *options])
    with pytest.raises(UsageError, match="expected --latency-ratio and --profile together"):
        prune_targets.parse(args, 0.3)
