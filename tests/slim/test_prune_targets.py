"""What a user may ask of a pruning: options, costs counted from shapes, sensitivity records of the right model."""

import dataclasses
import math

import numpy as np
import pytest
from slimming_toys import NAMES, make_checkpoint

import artifact
from command import ModelError, UsageError
from ocr_models import checkpoints, complexity
from ocr_models.reference import REFERENCE_SHAPES
from slim import prune, prune_targets
from slim.plan_cost import PlanCost
from slim.prune_targets import Targets
from slim.pruning import FilterPruner, levels
from slim.sensitivity_record import GroupSensitivity, Sensitivity, weights_digest

SHAPES = {"det": (1, 3, 64, 64), "cls": (1, 3, 48, 192), "rec": (1, 3, 32, 96)}


@pytest.fixture(scope="module")
def cls(tmp_path_factory):
    """(checkpoint folder, its groups, its cost)."""
    folder = make_checkpoint(tmp_path_factory.mktemp("models") / "cls", "cls")
    network, _ = checkpoints.load_network(folder)
    groups = FilterPruner(network, SHAPES["cls"]).groups
    return folder, groups, PlanCost(network, groups, REFERENCE_SHAPES["cls"])


def record(folder, groups, losses, ratios=(0.25, 0.5, 0.75), **changes):
    """A sensitivity record of a checkpoint. losses: {group: drop of an accuracy of .8, ratio by ratio}, else 0."""
    manifest = artifact.load(folder)
    entries = []
    for group in groups:
        values = losses.get(group.name, (0.0,) * len(ratios))
        removed = tuple(int(ratio * group.filters) for ratio in ratios)
        entries.append(
            GroupSensitivity(
                name=group.name,
                filters=group.filters,
                members=group.tensors,
                removed=removed,
                metrics={"accuracy": tuple(0.8 - loss for loss in values)},
                measured=(True,) * len(ratios),
                params=(0,) * len(ratios),
                macs=(0,) * len(ratios),
            )
        )
    made = Sensitivity(
        task=manifest.task,
        name=manifest.name,
        weights=weights_digest(manifest),
        data="data",
        samples=4,
        of=4,
        metric="accuracy",
        baseline={"accuracy": 0.8},
        ratios=tuple(ratios),
        groups=tuple(entries),
    )
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize(
    "filters, multiple, deepest, found",
    [
        (40, 8, 0.9, (40, 32, 24, 16, 8)),
        (40, 8, 0.5, (40, 32, 24)),  # 24 leaves .4 to go, 16 would be .6
        (30, 8, 0.9, (30, 24, 16, 8)),
        (12, 8, 0.9, (12, 8)),
        (2, 8, 0.9, (2,)),
        (8, 8, 0.9, (8,)),
        (200, 1, 0.1, (200, 196, 192, 188, 184, 180)),  # steps of 4: at most 64 levels
    ],
)
def test_levels(filters, multiple, deepest, found):
    assert levels(filters, multiple, deepest) == found


@pytest.mark.parametrize("task", list(NAMES))
def test_cost_equals_the_built_network(task, tmp_path):
    """Counted from shapes or by running the pruned network: the same parameters and MACs, to the last one."""
    folder = make_checkpoint(tmp_path / task, task)
    network, _ = checkpoints.load_network(folder)
    pruner = FilterPruner(network, SHAPES[task])
    cost = PlanCost(network, pruner.groups, REFERENCE_SHAPES[task])
    rng = np.random.default_rng(3)
    kept = {group.name: int(rng.choice(levels(group.filters))) for group in pruner.groups}
    counted = cost.of(np.array(list(kept.values())))
    assert cost.shares(np.array([list(kept.values())])).shape == (1, 2)
    pruner.plan(pruner.ratios_for(kept)).apply(network)
    assert counted.tolist() == [complexity.params(network), complexity.macs(network, REFERENCE_SHAPES[task])]


def test_the_sensitive_group_keeps_its_filters(cls):
    """One group costs half the metric at the first ratio, all others nothing: it alone stays whole."""
    folder, groups, cost = cls
    dear = max(groups, key=lambda group: group.filters).name
    chosen = prune_targets.choose(
        Targets(0.3, {"params": 0.6}), groups, cost, 8, record(folder, groups, {dear: (0.4, 0.4, 0.4)})
    )
    cut = {group.name for group in groups if chosen.kept[group.name] < group.filters}
    assert dear not in cut and len(cut) > 10
    assert chosen.predicted_loss == pytest.approx(0)
    assert all(kept % 8 == 0 for name, kept in chosen.kept.items() if name in cut)
    shares = cost.shares(np.array(list(chosen.kept.values())))
    # Reached, and by no more than one step of one group.
    assert shares[0] <= 0.6
    for index, group in enumerate(groups):
        more = np.array(list(chosen.kept.values()))
        more[index] = min([level for level in levels(group.filters) if level > more[index]], default=more[index])
        assert more[index] == chosen.kept[group.name] or cost.shares(more)[0] > 0.6, group.name


def test_two_targets_hold_together(cls):
    folder, groups, cost = cls
    limits = {"params": 0.7, "macs": 0.6}
    for sensitivity in (None, record(folder, groups, {})):
        chosen = prune_targets.choose(Targets(0.3, limits), groups, cost, 8, sensitivity)
        assert (cost.shares(np.array(list(chosen.kept.values()))) <= [0.7, 0.6]).all()


def test_no_group_is_cut_deeper_than_it_was_measured(cls):
    folder, groups, cost = cls
    sensitivity = record(folder, groups, {}, ratios=(0.25,))
    chosen = prune_targets.choose(Targets(0.3, {}, 0.5), groups, cost, 8, sensitivity)
    assert all(chosen.kept[group.name] >= 0.75 * group.filters for group in groups)
    with pytest.raises(UsageError, match=r"params ratio that pruning can reach, 0\.\d+ or more .* found 0\.3; raise"):
        prune_targets.choose(Targets(0.3, {"params": 0.3}), groups, cost, 8, sensitivity)


def test_no_group_is_cut_deeper_than_allowed(cls):
    folder, groups, cost = cls
    chosen = prune_targets.choose(Targets(0.3, {}, 0.5, deepest=0.5), groups, cost, 8, record(folder, groups, {}))
    assert all(chosen.kept[group.name] >= 0.5 * group.filters for group in groups)
    assert any(chosen.kept[group.name] == 0.5 * group.filters for group in groups)


def test_max_loss_is_kept_to(cls):
    """Every group loses .1 of .8 at its first ratio and more beyond: a little may be spent, not more."""
    folder, groups, cost = cls
    sensitivity = record(folder, groups, {group.name: (0.1, 0.2, 0.7) for group in groups})
    spent = [
        prune_targets.choose(Targets(0.3, {}, budget), groups, cost, 8, sensitivity) for budget in (0.05, 0.2, 0.4)
    ]
    for chosen, budget in zip(spent, (0.05, 0.2, 0.4), strict=True):
        assert chosen.predicted_loss is not None and chosen.predicted_loss <= budget + 1e-6
    left = [cost.shares(np.array(list(chosen.kept.values()))).mean() for chosen in spent]
    assert 1 > left[0] > left[1] > left[2]


def test_losses_of_groups_damage_what_the_others_left(cls):
    """Two groups that lose half the metric each leave a quarter of it: .8 · (1 - 1/4) = .6 is lost."""
    folder, groups, _ = cls
    pair = [group for group in groups if group.filters % 8 == 0][:2]
    sensitivity = record(folder, groups, {group.name: (0.2, 0.4, 0.4) for group in pair})
    kept = [group.filters // 2 for group in pair]
    assert prune_targets.predicted_loss(sensitivity, pair, kept) == pytest.approx(0.6)
    assert prune_targets.price(sensitivity, pair[0], kept[0]) == pytest.approx(-0.8 * math.log(0.5))
    assert prune_targets.predicted_loss(sensitivity, pair, [group.filters for group in pair]) == 0


def test_a_record_of_other_weights_is_refused(cls, tmp_path):
    folder, groups, _ = cls
    manifest = artifact.load(folder)
    good = record(folder, groups, {})
    good.save(tmp_path / "good.json")
    assert prune_targets.load_sensitivity(tmp_path / "good.json", manifest) == good
    dataclasses.replace(good, weights="0" * 64).save(tmp_path / "other.json")
    with pytest.raises(ModelError, match="expected the sensitivity of these weights, found that of other ones"):
        prune_targets.load_sensitivity(tmp_path / "other.json", manifest)


@pytest.mark.parametrize(
    "options, message",
    [
        (("--params-ratio", "1.5"), "expected --params-ratio between 0 and 1, found 1.5"),
        (("--max-ratio", "0.5"), "expected --sensitivity with --max-ratio"),
        (("--max-loss", "0.01"), "expected --sensitivity with --max-loss"),
        (("--ratio", "0.3", "--params-ratio", "0.5"), "found --ratio and a target; give one"),
        (("--max-loss", "0.1", "--flops-ratio", "0.5", "--sensitivity", "x"), "found a target and --max-loss"),
        (("--ratio", "0.3", "--sensitivity", "x"), "expected a target with --sensitivity, found --ratio"),
        (
            ("--sensitivity", "x"),
            "expected --params-ratio, --flops-ratio, --latency-ratio or --max-loss with --sensitivity",
        ),
    ],
)
def test_options_that_exclude_one_another(options, message):
    args = prune.build_parser().parse_args(["model", "--data", "d", "--out", "o", *options])
    with pytest.raises(UsageError, match=message):
        prune_targets.parse(args, 0.3)
