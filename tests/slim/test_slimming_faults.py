"""prune.py and quantize.py as processes that are stopped, killed or run out of room: one line, nothing half-written."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from slimming_toys import make_checkpoint, make_config, make_data

import artifact
from ocr_models import checkpoints
from slim import prune, quantize
from slim.pact import load_quantized
from slim.run_state import load_state

pytestmark = pytest.mark.slow
VERBS = {"prune": prune, "quantize": quantize}
# Room for a file with the classifier's weights, not for one with Adam's two moments as well.
LIMIT_BYTES = {"prune": 800_000, "quantize": 1_400_000}


@pytest.fixture(scope="module")
def toys(tmp_path_factory) -> dict[str, list]:
    """verb → the command's words but for --out and --steps."""
    root = tmp_path_factory.mktemp("toys")
    data, model = make_data(root / "data"), make_checkpoint(root / "cls", "cls")
    configs = {
        "prune": make_config(root / "prune.yaml", {"prune": {"multiple": 8}}),
        "quantize": make_config(root / "quantize.yaml", {"quantize": {"calibration_batches": 1}}),
    }
    return {verb: [model, "--data", data, "--val", data, "--config", config] for verb, config in configs.items()}


def child(verb: str, words: list, **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(VERBS[verb].__file__), *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def here(verb: str, words: list) -> int:
    module = VERBS[verb]
    return module.run(module.build_parser().parse_args([str(word) for word in words]))


def said(err: str, verb: str) -> str:
    """The command's own last word; progress lines come before it."""
    own = [line for line in err.splitlines() if line.startswith(f"{verb}.py: ")]
    assert len(own) == 1 and err.splitlines()[-1] == own[0] and "Traceback" not in err, err
    return own[0]


def wait_for_step(process: subprocess.Popen, state_folder: Path, step: int) -> None:
    deadline = time.monotonic() + 300
    while (state := load_state(state_folder)) is None or state.step < step:
        assert process.poll() is None and time.monotonic() < deadline, "the run ended too early"
        time.sleep(0.02)


def load(verb: str, folder: Path):
    return load_quantized(folder)[0].network if verb == "quantize" else checkpoints.load_network(folder)[0]


@pytest.mark.parametrize("verb", VERBS)
def test_no_room(verb, toys, tmp_path, capfd):
    words = [*toys[verb], "--steps", 3, "--out", tmp_path / "out"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES[verb], LIMIT_BYTES[verb]))

    process = child(verb, words, preexec_fn=limit)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert re.search(r"(state|good)\.npz whole, found a limit", said(err, verb))
    # What was written before it is whole, and the same command goes on from it.
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        ["out", "out.run", "before.json", "history.json", "state.npz", "manifest.json", "model.pdparams"]
        + ["prune_plan.json"] * (verb == "prune")
        + ["good.npz"] * (verb == "quantize")
    )
    load(verb, tmp_path / "out")
    state = load_state(tmp_path / "out.run")
    assert state is not None and state.step < 3
    assert here(verb, words) == 0
    state = load_state(tmp_path / "out.run")
    assert state is not None and state.step == 3


@pytest.mark.parametrize("verb", VERBS)
def test_ctrl_c_while_training(verb, toys, tmp_path):
    process = child(verb, [*toys[verb], "--steps", 5000, "--out", tmp_path / "out"])
    wait_for_step(process, tmp_path / "out.run", 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    line = said(err, verb)
    state = load_state(tmp_path / "out.run")
    assert state is not None and f"interrupted at step {state.step};" in line and "the same command goes on" in line
    load(verb, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.run"]


def test_ctrl_c_before_training_leaves_nothing(toys, tmp_path):
    # Native code that calls back into Python may swallow the interrupt; then one presses again, on a new run here.
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        process = child("quantize", [*toys["quantize"], "--steps", 3, "--out", folder / "out"])
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("measuring"):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        if process.returncode != 0:
            break
    assert process.returncode == 130
    assert "interrupted" in said(err, "quantize")
    assert not (folder / "out").exists()
    assert [path.name for path in folder.rglob("*") if path.name not in ("out.run", "before.json")] == []


def test_killed_quantization_goes_on_to_the_same_weights(toys, tmp_path, capfd):
    words = [*toys["quantize"], "--steps", 4]
    process = child("quantize", [*words, "--out", tmp_path / "killed"])
    wait_for_step(process, tmp_path / "killed.run", 2)
    process.kill()
    process.communicate()
    assert here("quantize", [*words, "--out", tmp_path / "killed"]) == 0
    assert "resuming" in capfd.readouterr().err
    assert here("quantize", [*words, "--out", tmp_path / "straight"]) == 0
    assert artifact.load(tmp_path / "killed").extra["steps"] == artifact.load(tmp_path / "straight").extra["steps"]
    one, two = (checkpoints.parameters(load("quantize", tmp_path / name)) for name in ("straight", "killed"))
    assert set(one) == set(two)
    for name, tensor in one.items():
        assert np.allclose(tensor.numpy(), two[name].numpy(), rtol=1e-5, atol=1e-6), name
