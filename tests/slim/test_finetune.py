"""The command as a user runs it: processes, signals, files."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import artifact
from slim import finetune
from slim.run_state import STATE, load_state
from slim.tasks import ClsTask

ROOT = Path(finetune.__file__).resolve().parent.parent
RECIPE = """\
task: cls
steps: 12
batch: 4
lr: 0.001
warmup_steps: 3
average_decay: 0.9
log_every: 1
save_every: 2
validate_every: 6
validate_samples: 8
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "cls.yaml"
    path.write_text(RECIPE)
    return path


def arguments(toy_data: Path, out: Path, recipe: Path, *more: str) -> list[str]:
    start = [] if "--from" in more else ["--model", "cls_mv3"]
    given = ["--data", toy_data, "--val", toy_data, "--out", out, "--config", recipe]
    return [str(word) for word in (*start, *given, *more)]


def launch(words: list[str], **more) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "slim" / "finetune.py"), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **more,
    )


def finish(words: list[str]) -> tuple[int, str, str]:
    process = launch(words)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for(process: subprocess.Popen, text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    pytest.fail(f"the run ended before {text!r}")


def losses(out: Path) -> list[float]:
    history = json.loads((out.with_name(out.name + ".run") / "history.json").read_text())
    return [record["loss"] for record in history["train"]]


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_run(toy_data, recipe, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    code, out, err = finish(arguments(toy_data, whole, recipe))
    assert code == 0, err
    assert "accuracy - → " in out
    process = launch(arguments(toy_data, broken, recipe))
    wait_for(process, "step 7/12")
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    state = load_state(tmp_path / "broken.run")
    assert state is not None and 6 <= state.step < 12
    code, _, err = finish(arguments(toy_data, broken, recipe))
    assert code == 0, err
    assert f"resuming {tmp_path / 'broken.run'} at step {state.step}" in err
    assert len(losses(broken)) == 12
    np.testing.assert_allclose(losses(broken), losses(whole), rtol=1e-5)

    # Finished, and extended: the history goes on, the rate rises from the end of the first cosine.
    code, out, err = finish(arguments(toy_data, broken, recipe, "--steps", "16"))
    assert code == 0, err
    history = json.loads((tmp_path / "broken.run" / "history.json").read_text())
    assert [record["step"] for record in history["train"]] == list(range(1, 17))
    np.testing.assert_allclose(losses(broken)[:12], losses(whole), rtol=1e-5)
    rates = [record["lr"] for record in history["train"]]
    assert rates[13] > rates[11]


@pytest.mark.slow
def test_ctrl_c_saves_and_says_so_in_one_line(toy_data, recipe, tmp_path):
    process = launch(arguments(toy_data, tmp_path / "out", recipe, "--steps", "5000"))
    wait_for(process, "step 3/5000")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    said = [line for line in err.splitlines() if not line.startswith("step ")]
    assert len(said) == 1 and "interrupted at step" in said[0] and "the same command goes on" in said[0]
    state = load_state(tmp_path / "out.run")
    assert state is not None and f"at step {state.step};" in said[0]


@pytest.mark.slow
def test_two_processes_train_one_model(toy_data, recipe, tmp_path):
    words = arguments(toy_data, tmp_path / "out", recipe, "--steps", "4", "--json")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "paddle.distributed.launch",
            "--nproc_per_node",
            "2",
            str(ROOT / "slim/finetune.py"),
            *words,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert artifact.load(tmp_path / "out", kind="checkpoint").extra["recipe"]["steps"] == 4
    state = load_state(tmp_path / "out.run")
    assert state is not None and state.step == 4 and state.sampler == {"0": 16}


@pytest.fixture(scope="module")
def trained(toy_data, tmp_path_factory) -> Path:
    """A classifier after one step, made in this process."""
    folder = tmp_path_factory.mktemp("trained")
    config = folder / "cls.yaml"
    config.write_text(RECIPE)
    args = finetune.build_parser().parse_args(arguments(toy_data, folder / "cls", config, "--steps", "1"))
    assert finetune.run(args) == 0
    return folder / "cls"


def test_the_artifact_says_how_it_was_made(trained):
    manifest = artifact.load(trained, kind="checkpoint", task="cls")
    assert manifest.network["type"] == "DirectionClassifier"
    assert set(manifest.metrics) == {"accuracy"}
    assert (manifest.extra["steps"], manifest.extra["seed"]) == (1, 1)
    assert manifest.extra["recipe"]["lr"] == 0.001
    assert manifest.parent is None
    assert not list(trained.parent.glob(".*"))


def test_the_artifact_says_what_was_measured(trained, toy_data):
    label_file = toy_data / "cls" / "label.txt"
    assert artifact.load(trained).measured_on == {
        "data": toy_data.name,
        "split": "",
        "labels_sha256": hashlib.sha256(label_file.read_bytes()).hexdigest(),
        "samples": 32,
        "of": 32,
    }


def test_killed_during_the_last_validation(toy_data, recipe, tmp_path, monkeypatch):
    """The sampled metric of the best step is replaced when the same command is given again, and then stays."""
    args = finetune.build_parser().parse_args(arguments(toy_data, tmp_path / "out", recipe, "--steps", "1"))
    honest = ClsTask.validate

    def stopped(self, network, limit):
        if limit is None:
            raise KeyboardInterrupt
        return honest(self, network, limit)

    with monkeypatch.context() as patch:
        patch.setattr(ClsTask, "validate", stopped)
        with pytest.raises(KeyboardInterrupt):
            finetune.run(args)
    sampled = artifact.load(tmp_path / "out").measured_on
    assert sampled is not None and (sampled["samples"], sampled["of"]) == (8, 32)
    assert finetune.run(args) == 0
    whole = artifact.load(tmp_path / "out").measured_on
    assert whole is not None and (whole["samples"], whole["of"]) == (32, 32)
    monkeypatch.setattr(ClsTask, "validate", stopped)
    assert finetune.run(args) == 0, "nothing is left to validate"


def test_killed_during_the_only_validation(toy_data, recipe, tmp_path, monkeypatch):
    """The state is on disk, no weights are: the same command must not end there."""
    args = finetune.build_parser().parse_args(arguments(toy_data, tmp_path / "out", recipe, "--steps", "1"))

    def stopped(self, network, limit):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ClsTask, "validate", stopped)
        with pytest.raises(KeyboardInterrupt):
            finetune.run(args)
    assert not (tmp_path / "out").exists()
    assert finetune.run(args) == 0
    assert artifact.load(tmp_path / "out").extra["steps"] == 1
    state = load_state(tmp_path / "out.run")
    assert state is not None and state.best["step"] == 1


def test_training_goes_on_from_an_artifact(trained, toy_data, recipe, tmp_path):
    words = arguments(toy_data, tmp_path / "out", recipe, "--from", str(trained), "--steps", "1")
    assert finetune.run(finetune.build_parser().parse_args(words)) == 0
    assert artifact.load(tmp_path / "out").parent == artifact.digest(trained)


@pytest.mark.parametrize("task", ["det", "rec"])
def test_the_other_tasks_train(task, toy_data, tmp_path):
    config = tmp_path / f"{task}.yaml"
    more = {"det": "size_px: 64\n", "rec": "widths: [64, 96]\nbatch_width_px: 96\nl2: 1e-5\n"}[task]
    config.write_text(RECIPE.replace("task: cls", f"task: {task}").replace("steps: 12", "steps: 2") + more)
    words = arguments(toy_data, tmp_path / "out", config)
    words[1] = {"det": "det_mv3_db", "rec": "rec_mv3_crnn_en"}[task]
    assert finetune.run(finetune.build_parser().parse_args(words)) == 0
    manifest = artifact.load(tmp_path / "out", task=task)
    assert set(manifest.metrics) == {"det": {"hmean", "precision", "recall"}, "rec": {"accuracy", "ned"}}[task]
    assert (tmp_path / "out" / "charset.txt").exists() == (task == "rec")


def test_a_diverging_run_names_the_layer(toy_data, recipe, tmp_path):
    words = arguments(toy_data, tmp_path / "out", recipe, "--lr", "0.9")
    recipe.write_text(
        RECIPE.replace("warmup_steps: 3", "warmup_steps: 0").replace("batch: 4", "batch: 4\nclip_norm: 1e30")
    )
    import paddle

    from command import ModelError
    from ocr_models import catalogue

    build = catalogue.build

    def poisoned(network):
        layer = build(network)
        layer.head.fc.weight.set_value(paddle.full(layer.head.fc.weight.shape, float("nan")))
        return layer

    catalogue.build = poisoned
    try:
        with pytest.raises(ModelError, match=r"step 1: the loss is nan, first seen in the weights head\.fc\.weight"):
            finetune.run(finetune.build_parser().parse_args(words))
    finally:
        catalogue.build = build
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.run" / STATE).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--data", "{none}"], "expected cls/label.txt, found none", id="no data"),
        pytest.param(["--config", "{none}"], "expected a recipe, found No such file", id="no recipe"),
        pytest.param(["--config", "{det}"], "expected a recipe for task cls, found one for det", id="foreign recipe"),
        pytest.param(["--steps", "-1"], "expected steps to be 0 or more", id="negative steps"),
        pytest.param(["--threads", "0"], "expected --threads of at least 1", id="no threads"),
        pytest.param(["--out", "{data}"], "expected a folder that does not exist yet", id="out is taken"),
        pytest.param(["--model", "yolo"], "expected a model name", id="unknown model"),
    ],
)
def test_bad_input_is_one_line(words, message, toy_data, recipe, tmp_path):
    from command import USER_ERRORS

    names = {"none": tmp_path / "none", "det": ROOT / "configs" / "det.yaml", "data": toy_data}
    given = arguments(toy_data, tmp_path / "out", recipe)
    for word in words:
        given.append(word.format(**names))
    with pytest.raises(USER_ERRORS, match=message) as caught:
        finetune.run(finetune.build_parser().parse_args(given))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.run").exists()


def test_another_run_is_not_continued(trained, toy_data, recipe):
    from command import UsageError

    words = arguments(toy_data, trained, recipe, "--seed", "9")
    with pytest.raises(UsageError, match="expected a run with seed 9, found one with 1"):
        finetune.run(finetune.build_parser().parse_args(words))


def test_help_is_instant():
    started = time.monotonic()
    subprocess.run([sys.executable, str(ROOT / "slim/finetune.py"), "--help"], check=True, capture_output=True)
    assert time.monotonic() - started < 5
