"""prune.py and quantize.py under `python -m paddle.distributed.launch`, for real on two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from slimming_toys import make_checkpoint, make_config, make_data

import artifact
from ocr_models import checkpoints
from slim.pact import load_quantized
from slim.run_state import load_state

# Runs a command as its file does, and notes in NOTES.<rank>.json and NOTES.<rank>.npz what happened in this process.
# The first process is slow to measure: paddle's own waiting gives up after 30 s.
OBSERVED = """
import importlib, json, sys, time
from pathlib import Path
import numpy as np

verb, notes, patience, *words = sys.argv[1:]
command = importlib.import_module(f"slim.{verb}")
args = command.build_parser().parse_args(words)
from slim import slimming
slimming_train, slimming_write, measure = slimming.train, slimming.write, slimming.metrics_before
noted = {"writes": 0}

def slow(*given):
    time.sleep(float(patience))
    return measure(*given)

def write(*given):
    noted["writes"] += 1
    return slimming_write(*given)

def train(*given):
    trainer = slimming_train(*given)
    trained = {name: t.numpy() for name, t in trainer.tensors.items() if not t.stop_gradient}
    np.savez(f"{notes}.{trainer.rank}.npz", **trained)
    noted["samples"] = trainer.sampler.state()
    return trainer

slimming.train, slimming.write, slimming.metrics_before = train, write, slow
noted["code"] = command.run(args)
from command import ModelError
from slim import ranks
import paddle
rank = paddle.distributed.get_rank()
try:
    ranks.agree("prune plan", f"plan of {rank}")
except ModelError as error:
    noted["refused"] = str(error)
Path(f"{notes}.{rank}.json").write_text(json.dumps(noted))
ranks.meet()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "patience"), [("prune", 32), ("quantize", 0)])
def test_two_processes_slim_one_model(verb, patience, tmp_path):
    data, model = make_data(tmp_path / "data"), make_checkpoint(tmp_path / "cls", "cls")
    settings = {"prune": {"prune": {"multiple": 8}}, "quantize": {"quantize": {"calibration_batches": 1}}}[verb]
    config = make_config(tmp_path / "recipe.yaml", settings)
    (tmp_path / "observed.py").write_text(OBSERVED)
    words = [model, "--data", data, "--val", data, "--config", config, "--steps", 2, "--out", tmp_path / "out"]
    words += ["--no-latency"] if verb == "prune" else []
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "log"]
    done = subprocess.run(
        [str(word) for word in (*launcher, "observed.py", verb, tmp_path / "notes", patience, *words, "--json")],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(artifact.__file__).parent)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (json.loads((tmp_path / f"notes.{rank}.json").read_text()) for rank in (0, 1))
    assert (first["code"], second["code"]) == (0, 0)

    # Only the first writes, and what it writes is whole.
    assert first["writes"] >= 2 and second["writes"] == 0
    metrics = artifact.load(tmp_path / "out", kind="checkpoint", task="cls").metrics
    assert f'"accuracy": {metrics["accuracy"]}' in done.stdout
    (load_quantized if verb == "quantize" else checkpoints.load_network)(tmp_path / "out")
    state = load_state(tmp_path / "out.run")
    assert state is not None and state.step == 2
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out", "out.run"]

    # Both train the same model: one plan, one sequence of steps, the same weights at the end.
    assert state.sampler == {"0": 8} and first["samples"] == second["samples"]
    with np.load(tmp_path / "notes.0.npz") as one, np.load(tmp_path / "notes.1.npz") as two:
        assert one.files == two.files and one.files
        # What an observer saw is of this process's share alone; the first one's scales are written.
        for name in [name for name in one.files if not name.endswith(("._scale", "._accum", "._state"))]:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)

    # A process with another plan would train another model.
    assert "refused" not in first
    assert (
        "expected all processes to have one prune plan, found plan of 1 in process 1 and plan of 0" in second["refused"]
    )
