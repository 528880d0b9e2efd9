"""The command for real on all three tasks; killed, shared, refused; and PaddleSlim's own analysis beside it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slimming_toys import NAMES, make_checkpoint, make_data

from command import UsageError
from ocr_models import checkpoints
from slim import sensitivity, sensitivity_baseline, tasks
from slim.measurements import Measurements
from slim.pruning import FilterPruner
from slim.recipes import CONFIGS, load_recipe
from slim.sensitivity_record import Sensitivity

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """(data folder, {task: checkpoint})."""
    root = tmp_path_factory.mktemp("toys")
    return make_data(root / "data"), {task: make_checkpoint(root / task, task) for task in NAMES}


@pytest.fixture
def few_groups(monkeypatch):
    """Every sixth group is enough, for PaddleSlim too."""
    real = FilterPruner.__init__

    def small(pruner, *args):
        real(pruner, *args)
        pruner.groups = pruner.groups[::6]
        pruner._master = {group.name: pruner._master[group.name] for group in pruner.groups}

    monkeypatch.setattr(FilterPruner, "__init__", small)


def command(*args, module=sensitivity):
    return module.run(module.build_parser().parse_args([str(arg) for arg in args]))


def child(*args, module=sensitivity, **options):
    return subprocess.Popen([sys.executable, module.__file__, *map(str, args)], env=ENVIRONMENT, **options)


@pytest.mark.parametrize("task", ["cls", pytest.param("rec", marks=pytest.mark.slow)])
def test_it_says_what_paddleslim_says(task, toys, few_groups, tmp_path, capsys):
    """On all samples: group by group the very losses of PaddleSlim's own loop over whole evaluations."""
    data, models = toys
    common = (models[task], "--data", data, "--ratios", 0.5, "--json")
    assert command(*common, "--out", tmp_path / "ours", "--limit", 0, "--max-loss", 1) == 0
    ours = json.loads(capsys.readouterr().out)
    assert command(*common, "--out", tmp_path / "theirs", module=sensitivity_baseline) == 0
    theirs = json.loads(capsys.readouterr().out)
    record = Sensitivity.load(tmp_path / "ours")
    assert record.samples == record.of == ours["samples"] == theirs["samples"] == 4
    assert record.metric == theirs["metric"] and record.baseline == pytest.approx(theirs["baseline"])
    assert [group.name for group in record.groups] == list(theirs["groups"])
    for group in record.groups:
        assert record.losses(group.name) == pytest.approx(theirs["groups"][group.name]["losses"]), group.name
        assert all(group.measured)
    assert (tmp_path / "ours" / "sensitivity.png").stat().st_size > 10_000

    # The same command again measures nothing, PaddleSlim's neither.
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "ours" / "measured").iterdir()}
    assert command(*common, "--out", tmp_path / "ours", "--limit", 0, "--max-loss", 1) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "ours" / "measured").iterdir()} == stamps
    capsys.readouterr()
    assert command(*common, "--out", tmp_path / "theirs", module=sensitivity_baseline) == 0
    assert json.loads(capsys.readouterr().out) == theirs


@pytest.mark.slow
def test_the_detector(toys, few_groups, tmp_path):
    """The metric of a masked network is that of a rebuilt one, as validation gives it."""
    data, models = toys
    out = tmp_path / "s"
    assert command(models["det"], "--data", data, "--out", out, "--ratios", 0.5) == 0
    record = Sensitivity.load(out)
    assert len(record.groups) == 5 and record.metric == "hmean"
    assert set(record.baseline) == {"hmean", "precision", "recall"}
    name = "backbone.stage1.0.linear_conv.conv.weight"
    network, manifest = checkpoints.load_network(models["det"])
    task = tasks.open_task(manifest, load_recipe(CONFIGS / "det.yaml"), data, data)
    plan = FilterPruner(network, (1, 3, 64, 64)).plan({name: 0.5})
    plan.apply(network)
    expected = task.validate(network, None)
    assert {key: values[0] for key, values in record.group(name).metrics.items()} == pytest.approx(
        {key: expected[key] for key in record.baseline}
    )


def test_out_of_range_is_not_measured(toys, few_groups, tmp_path, monkeypatch):
    """A network that reads nothing once a filter is gone: at the smallest ratio all is lost, the rest is spared."""
    data, models = toys
    out = tmp_path / "s"
    real = Measurements.put

    def ruined(store, name, value):
        real(store, name, value if name == "baseline" else [[0.0] for _ in value])

    monkeypatch.setattr(Measurements, "put", ruined)
    real_get = Measurements.get
    monkeypatch.setattr(
        Measurements, "get", lambda store, name: [[1.0]] * 4 if name == "baseline" else real_get(store, name)
    )
    assert command(models["cls"], "--data", data, "--out", out, "--ratios", 0.2, 0.5, 0.8) == 0
    record = Sensitivity.load(out)
    wide = record.groups[-1]
    assert wide.filters == 50 and len(set(wide.removed)) == 3
    assert wide.measured == (True, False, False) and wide.metrics["accuracy"] == (0.0, 0.0, 0.0)


def test_ratios_that_remove_the_same_filters_are_measured_once(toys, tmp_path, monkeypatch):
    """Of two filters a fifth is none, and a half and four fifths are one."""
    data, models = toys
    real, name = FilterPruner.__init__, "backbone.blocks.0.mid_se.conv1.weight"

    def one(pruner, *args):
        real(pruner, *args)
        pruner.groups = tuple(group for group in pruner.groups if group.name == name)

    monkeypatch.setattr(FilterPruner, "__init__", one)
    out = tmp_path / "s"
    assert command(models["cls"], "--data", data, "--out", out, "--ratios", 0.2, 0.5, 0.8) == 0
    record = Sensitivity.load(out)
    (two,) = record.groups
    assert two.removed == (0, 1, 1) and two.measured == (True, True, True)
    assert two.metrics["accuracy"][0] == record.baseline["accuracy"]
    assert sorted(path.name for path in (out / "measured").iterdir()) == [f"{name}-1.json", "baseline.json"]


@pytest.mark.slow
def test_killed_and_shared(toys, tmp_path):
    """A kill in the middle, then two processes: every group measured once, and as if nothing had happened."""
    data, models = toys
    common = (models["rec"], "--data", data, "--ratios", 0.3, 0.6)
    out = tmp_path / "shared"
    first = child(*common, "--out", out, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while len(list((out / "measured").glob("backbone*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "measured").glob("[!.]*.json")}
    assert len(kept) >= 3 and list((out / "claims").iterdir())
    second = child(*common, "--out", out, "--workers", 2, stdout=subprocess.DEVNULL)
    assert second.wait(timeout=600) == 0
    for name, stamp in kept.items():
        assert (out / "measured" / name).stat().st_mtime_ns == stamp, f"{name} was measured again"
    # Only what had been measured when the owner died may still be claimed.
    assert {path.stem for path in (out / "claims").iterdir()} <= {name.rsplit("-", 1)[0] for name in kept}
    # In a process of its own as well: the arithmetic of this one was set up by other tests.
    straight = child(*common, "--out", tmp_path / "straight", stdout=subprocess.DEVNULL)
    assert straight.wait(timeout=600) == 0
    one, other = Sensitivity.load(out), Sensitivity.load(tmp_path / "straight")
    assert one == other
    assert (out / "sensitivity.json").read_bytes() == (tmp_path / "straight" / "sensitivity.json").read_bytes()


def test_a_folder_of_other_arguments(toys, tmp_path):
    data, models = toys
    Measurements(tmp_path / "s", {"task": "cls"})
    with pytest.raises(UsageError, match=r"expected the earlier run's data, .*weights, found others"):
        command(models["cls"], "--data", data, "--out", tmp_path / "s")


@pytest.mark.parametrize(
    "options, message",
    [
        (("--ratios", "0.5", "1.0"), "expected --ratios between 0 and 1"),
        (("--limit", "-1"), "expected --limit of at least 0"),
        (("--workers", "0"), "expected --workers of at least 1"),
        (("--max-loss", "0"), "expected --max-loss above 0"),
        ((), "expected an artifact folder, found nothing"),
    ],
)
def test_bad_input_is_one_line(options, message, tmp_path):
    arguments = (tmp_path / "none", "--data", tmp_path, "--out", tmp_path / "out", *options)
    ended = child(*arguments, stderr=subprocess.PIPE, text=True)
    _, text = ended.communicate(timeout=120)
    assert ended.returncode == 2
    assert text.count("\n") == 1 and message in text
    assert not list(tmp_path.iterdir())


def test_paddleslims_ratios_are_its_own(toys, tmp_path):
    data, models = toys
    with pytest.raises(UsageError, match=r"expected --ratios among 0\.1, .* found \[0\.55\]"):
        command(models["cls"], "--data", data, "--out", tmp_path / "b", "--ratios", 0.55, module=sensitivity_baseline)
    assert not Path(tmp_path / "b").exists()
