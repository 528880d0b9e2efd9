"""Runs commands of the rooms behind this one, which slim must not import, as child processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import artifact
from command import ModelError

ROOT = Path(artifact.__file__).resolve().parent
TIMEOUT_S = 900


def run(script: str, *arguments: object) -> dict[str, Any]:
    """The JSON of `ROOM/VERB.py ARGUMENTS --json`, on one thread. Raises ModelError with what the command said."""
    # A child of a launched process is no further process of the training.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")}
    try:
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *map(str, arguments), "--json"],
            env={**environment, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"expected {script} to end within {TIMEOUT_S} s, found it still busy") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise ModelError(f"expected {script} to take the model, found: {said[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
