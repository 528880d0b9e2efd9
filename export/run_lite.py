"""Converts a program for this host and runs it once on Paddle-Lite, both in child processes that may die."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from command import ModelError, native_cause
from export import opt, program

TIMEOUT_S = 120


def run_lite(folder: Path, x: np.ndarray, count: int) -> list[np.ndarray]:
    """`count` outputs of an inference folder on Paddle-Lite x86. Raises ModelError when opt or the runtime dies."""
    model = program.read(folder)
    with tempfile.TemporaryDirectory(prefix="lite.") as work:
        nb, given, found = (Path(work) / name for name in ("model.nb", "x.npy", "y.npz"))
        opt.convert(model.model, model.params, nb, target="x86")
        np.save(given, np.ascontiguousarray(x, np.float32))
        options = [str(path) for path in (nb, given, found)]
        try:
            done = subprocess.run(
                [sys.executable, "-c", "from export.run_lite import _child; _child()", *options, str(count)],
                cwd=work,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ModelError(f"{folder}: expected Paddle-Lite to end within {TIMEOUT_S} s, found it busy") from None
        if done.returncode or not found.is_file():
            said = native_cause(done.stderr.decode("utf-8", "replace"))
            raise ModelError(f"{folder}: expected Paddle-Lite to run it, found exit code {done.returncode}: {said}")
        with np.load(found) as arrays:
            return [arrays[f"y{number}"] for number in range(count)]


def _child() -> None:
    """Everything here may die."""
    opt.limit_process()
    from paddlelite import lite

    nb, given, found, count = sys.argv[1:]
    config = lite.MobileConfig()
    config.set_model_from_file(nb)
    predictor = lite.create_paddle_predictor(config)
    predictor.get_input(0).from_numpy(np.load(given))
    predictor.run()
    arrays = {f"y{number}": np.array(predictor.get_output(number).numpy()) for number in range(int(count))}
    np.savez(found, **arrays)
