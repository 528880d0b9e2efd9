"""Pruning: how many filters stay, the search for a target, and the command for real on all three tasks."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
from slimming_toys import NAMES, make_checkpoint, make_config, make_data

import artifact
from command import ModelError, UsageError
from ocr_models import catalogue, checkpoints, complexity
from ocr_models.prune_plan import PrunePlan
from slim import prune, slimming
from slim.pruning import FilterPruner, kept_filters, search_ratio
from slim.run_state import load_state

SHAPES = {"det": (1, 3, 64, 64), "cls": (1, 3, 48, 192), "rec": (1, 3, 32, 96)}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """(data folder, {task: checkpoint}, config)."""
    root = tmp_path_factory.mktemp("toys")
    return (
        make_data(root / "data"),
        {task: make_checkpoint(root / task, task) for task in NAMES},
        make_config(root / "prune.yaml", {"prune": {"multiple": 8}}),
    )


@pytest.mark.parametrize(
    "filters, ratio, stay",
    [
        (240, 0.0, 240),
        (240, 0.5, 120),
        (240, 0.3, 168),
        (24, 0.3, 16),  # 16.8 is nearer to 16 than to 24
        (40, 0.3, 32),  # 28 is as near to 24 as to 32: the larger
        (40, 0.99, 8),  # never none
        (12, 0.0, 12),  # never more than there are, although 16 is nearer than 8
        (12, 0.3, 8),
        (2, 0.5, 2),  # a squeeze layer narrower than the multiple
    ],
)
def test_kept_filters(filters, ratio, stay):
    assert kept_filters(filters, ratio) == stay


@pytest.mark.parametrize(
    "target, ratio",
    [(1.0, 0.0), (0.75, 0.25), (0.7, 0.5), (0.5, 0.5), (0.25, 0.75)],
)
def test_search_finds_the_smallest_ratio_of_a_staircase(target, ratio):
    """Quarters go one at a time: .25 of the filters must go before a quarter of the parameters does."""
    found = search_ratio(lambda r: 1.0 - int(r * 4) / 4, target, "params ratio")
    assert found == pytest.approx(ratio, abs=1e-3)


def test_search_says_what_can_be_reached():
    with pytest.raises(UsageError, match=r"can reach, 0\.400 or more for this model, found 0\.1"):
        search_ratio(lambda r: 1.0 - r * 2 / 3, 0.1, "params ratio")


@pytest.mark.parametrize("task, groups", [("det", 25), ("cls", 26), ("rec", 25)])
def test_plan_equals_what_paddleslim_cuts(task, groups, toys):
    """Cut by PaddleSlim or rebuilt from the plan: the same numbers; coupled tensors of a group shrink together."""
    network, _ = checkpoints.load_network(toys[1][task])
    x = paddle.randn(list(SHAPES[task]))
    whole = network(x).numpy()
    pruner = FilterPruner(network, SHAPES[task])
    assert len(pruner.groups) == groups
    ratios = pruner.ratios(0.4)
    plan = pruner.plan(ratios)
    assert np.array_equal(network(x).numpy(), whole), "planning must not touch the network"
    for group in pruner.groups:
        kept = {len(plan.kept[name][axis]) for name, axis in group.tensors if axis in plan.kept.get(name, {})}
        stay = kept_filters(group.filters, 0.4)
        assert kept == ({stay} if stay < group.filters else set()), group.name
    pruner.prune(ratios)
    fresh = catalogue.build(network_of(task))
    plan.apply(fresh)
    arrays = {name: tensor.numpy() for name, tensor in checkpoints.parameters(network).items()}
    checkpoints.assign(fresh, arrays, "pruned")
    fresh.eval()
    assert np.array_equal(fresh(x).numpy(), network(x).numpy())
    assert not [name for name in network.state_dict() if name.endswith("_backup")]


def network_of(task):
    return catalogue.card(NAMES[task]).network


def test_fpgm_drops_the_filter_that_others_replace():
    """Eight filters in a row at 0, 1, 2, 3, 4, 5, 6 and 99: the geometric median is in the middle of the seven."""
    network = paddle.nn.Sequential(paddle.nn.Conv2D(1, 8, 1, bias_attr=False), paddle.nn.Conv2D(8, 1, 1))
    weights = np.array([0, 1, 2, 3, 4, 5, 6, 99], np.float32).reshape(8, 1, 1, 1)
    network[0].weight.set_value(weights)
    pruner = FilterPruner(network, (1, 1, 4, 4))
    # Sums of distances: filter 3 has 1+2+3+1+2+3+96 = 108 and filter 4 has 1+2+3+4+1+2+95 = 108, the least.
    kept = pruner.plan({"0.weight": 2 / 8}).kept["0.weight"][0]
    assert kept == (0, 1, 2, 5, 6, 7)


def command(*args):
    return prune.run(prune.build_parser().parse_args([str(arg) for arg in (*args, "--no-latency")]))


@pytest.mark.parametrize("task", list(NAMES))
def test_command_prunes_and_trains(task, toys, tmp_path, capsys):
    data, models, config = toys
    out = tmp_path / "pruned"
    target = {"det": ("--params-ratio", 0.54), "cls": ("--flops-ratio", 0.6), "rec": ("--ratio", 0.3)}[task]
    common = ("--data", data, "--val", data, "--config", config, "--json")
    assert command(models[task], "--out", out, *common, "--steps", 2, *target) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pruning"]["rebuilt_difference"] <= 1e-5
    if task != "rec":
        key = "params" if task == "det" else "macs"
        share = result["after"][key] / result["before"][key]
        assert target[1] - 0.08 < share <= target[1]
    assert result["after"]["weight_bytes"] == 4 * result["after"]["params"] < result["before"]["weight_bytes"]
    network, manifest = checkpoints.load_network(out)
    assert manifest.compression == {"prune_plan": "prune_plan.json"}
    assert manifest.parent == artifact.digest(models[task])
    assert complexity.params(network) == result["after"]["params"]
    # All but the layers that are too narrow for it keep a multiple of eight channels.
    for name, axes in PrunePlan.load(out).kept.items():
        assert all(len(kept) % 8 == 0 for kept in axes.values()), name


def test_a_pruned_model_is_pruned_again(toys, tmp_path, capsys):
    data, models, config = toys
    common = ("--data", data, "--val", data, "--config", config, "--json", "--steps", 0)
    command(models["cls"], "--out", tmp_path / "once", "--ratio", 0.3, *common)
    once = json.loads(capsys.readouterr().out)
    command(tmp_path / "once", "--out", tmp_path / "twice", "--ratio", 0.3, *common)
    twice = json.loads(capsys.readouterr().out)
    assert once["after"]["params"] == twice["before"]["params"] > twice["after"]["params"]
    network, _ = checkpoints.load_network(tmp_path / "twice")
    assert complexity.params(network) == twice["after"]["params"]
    # Without steps no state is left behind.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["once", "twice"]


def test_iterations_go_on_after_a_kill_between_them(toys, tmp_path, capfd, monkeypatch):
    """Two stages of two steps; killed when the second begins. The teacher stays the given model."""
    data, models, config = toys
    options = ("--data", data, "--val", data, "--config", config, "--ratio", 0.5, "--steps", 4, "--iterations", 2)
    train, teachers = slimming.train, []

    def killed(job, task, *given):
        teachers.append({name: t.numpy() for name, t in checkpoints.parameters(task._teacher).items()})
        if len(teachers) == 2:
            raise RuntimeError("killed")
        return train(job, task, *given)

    monkeypatch.setattr(slimming, "train", killed)
    with pytest.raises(RuntimeError, match="killed"):
        command(models["cls"], *options, "--out", tmp_path / "out")
    given = {name: t.numpy() for name, t in checkpoints.parameters(checkpoints.load_network(models["cls"])[0]).items()}
    assert all(np.array_equal(given[name], array) for teacher in teachers for name, array in teacher.items())
    half, _ = checkpoints.load_network(tmp_path / "out.run" / "iteration-1")
    capfd.readouterr()

    monkeypatch.setattr(slimming, "train", train)
    assert command(models["cls"], *options, "--out", tmp_path / "out", "--json") == 0
    said = capfd.readouterr()
    assert "resuming" in said.err and "iteration 2 of 2:" in said.err
    result = json.loads(said.out)
    whole, _ = checkpoints.load_network(models["cls"])
    network, manifest = checkpoints.load_network(tmp_path / "out")
    sizes = [complexity.params(n) for n in (whole, half, network)]
    assert sizes[0] > sizes[1] > sizes[2] == result["after"]["params"]
    # The same filters stay as in one stage; which ones, the second stage decided by its own weights.
    kept = result["pruning"]["kept"]
    assert all(stay == kept_filters(filters, 0.5) for stay, filters in kept.values())
    assert manifest.parent == artifact.digest(models["cls"])
    state = load_state(tmp_path / "out.run")
    assert state is not None and state.step == 2


def test_stages_end_where_one_would():
    """From 96 to 40 in three: 96 - 56/3 = 77 → 80, 96 - 112/3 = 59 → 56, 40. What keeps all stays."""
    assert [prune._between(96, 40, number / 3, 8) for number in (1, 2, 3)] == [80, 56, 40]
    assert [prune._between(30, 24, share, 8) for share in (0.5, 1)] == [24, 24]
    assert prune._between(2, 2, 0.5, 8) == 2


@pytest.mark.parametrize("iterations, steps", [(0, 4), (3, 2), (2, 0)])
def test_iterations_need_steps(iterations, steps, toys, tmp_path):
    data, models, config = toys
    options = ("--config", config, "--steps", steps, "--iterations", iterations)
    with pytest.raises(UsageError, match=f"to the number of steps, found {iterations} for {steps}"):
        command(models["cls"], "--data", data, "--out", tmp_path / "p", *options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options, message",
    [
        (("--ratio", 1.5), "expected --ratio between 0 and 1, found 1.5"),
        (("--params-ratio", 0.01), r"expected a params ratio that pruning can reach, 0\.\d+ or more"),
        (("--val-samples", 0), "expected --val-samples of at least 1"),
    ],
)
def test_bad_options(options, message, toys, tmp_path):
    data, models, config = toys
    with pytest.raises(UsageError, match=message):
        command(models["cls"], "--data", data, "--out", tmp_path / "p", "--config", config, "--steps", 0, *options)
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_fit_the_plan_stop_the_run(toys, tmp_path, monkeypatch):
    """The pain that the rebuild guards against: a plan and weights from different prunings."""
    data, models, config = toys
    honest = FilterPruner.plan

    def swapped(self, ratios):
        plan = honest(self, ratios)
        name = next(name for name in plan.kept if name.endswith("bottleneck_conv.bn._mean"))
        del plan.kept[name]
        return plan

    monkeypatch.setattr(FilterPruner, "plan", swapped)
    with pytest.raises(ModelError):
        command(models["cls"], "--data", data, "--out", tmp_path / "p", "--config", config, "--steps", 0)
    assert not list(tmp_path.iterdir())


def test_a_ratio_that_rounds_to_nothing(toys, tmp_path):
    data, models, _ = toys
    config = make_config(tmp_path / "fine.yaml", {"prune": {"multiple": 1}})
    options = ("--config", config, "--ratio", 0.001, "--steps", 0)
    with pytest.raises(UsageError, match=r"found 0\.001, which rounds to none in multiples of 1"):
        command(models["cls"], "--data", data, "--out", tmp_path / "p", *options)
    assert not (tmp_path / "p").exists()


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_weights(toys, tmp_path, capfd):
    data, models, config = toys
    options = ["--data", data, "--val", data, "--config", config, "--ratio", 0.3, "--steps", 6]
    child = subprocess.Popen(
        [sys.executable, prune.__file__, *map(str, [models["cls"], *options, "--out", tmp_path / "killed"])],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while ((state := load_state(tmp_path / "killed.run")) is None or state.step < 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert command(models["cls"], *options, "--out", tmp_path / "killed") == 0
    assert "resuming" in capfd.readouterr().err
    assert command(models["cls"], *options, "--out", tmp_path / "straight") == 0
    one, _ = checkpoints.load_network(tmp_path / "straight")
    two, _ = checkpoints.load_network(tmp_path / "killed")
    for name, tensor in checkpoints.parameters(one).items():
        found = checkpoints.parameters(two)[name].numpy()
        assert np.allclose(tensor.numpy(), found, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("script", ["prune.py", "quantize.py"])
def test_bad_input_is_one_line_and_exit_2(script, tmp_path):
    path = Path(prune.__file__).with_name(script)
    arguments = [sys.executable, path, tmp_path / "none", "--data", tmp_path, "--out", tmp_path / "out"]
    ended = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1 and "expected an artifact folder, found nothing" in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text, message",
    [
        ("prune: [", "expected a recipe in YAML"),
        ("prune: 3", "expected mappings under prune"),
        ("pact: {}", "expected only prune, det, cls, rec, found pact"),
        ("prune: {ratio: 2.0}", "expected prune.ratio between 0 and 1"),
        ("prune: {share: 0.2}", "expected multiple and ratio under prune"),
        ("cls: {stepz: 3}", "stepz"),
    ],
)
def test_bad_recipes(text, message, toys, tmp_path):
    data, models, _ = toys
    config = tmp_path / "bad.yaml"
    config.write_text(text)
    with pytest.raises(UsageError, match=message):
        command(models["cls"], "--data", data, "--out", tmp_path / "p", "--config", config, "--steps", 0)


def test_a_bad_default_recipe_is_named(toys, tmp_path, monkeypatch):
    data, models, _ = toys
    (tmp_path / "prune.yaml").write_text("prune: {share: 0.2}")
    monkeypatch.setattr(prune, "CONFIGS", tmp_path)
    with pytest.raises(UsageError, match=rf"^{tmp_path}/prune\.yaml: expected multiple and ratio under prune"):
        command(models["cls"], "--data", data, "--out", tmp_path / "p", "--steps", 0)
