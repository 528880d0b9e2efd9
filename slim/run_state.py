"""Everything a training run needs to go on, in one file that is either whole or not there.

`state.npz` holds weights, their running average, Adam's moments (arrays by structured name) and one JSON record
with step, sampler, best metrics and history. It is written beside the old one and renamed, so that a killed process or
a full disk leaves the last good state. `good.npz` is the same of the last validation that found the model sound.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from command import ModelError

FORMAT = 1
STATE = "state.npz"
GOOD = "good.npz"
HISTORY = "history.json"
ARRAYS = ("weights", "average", "moments")


@dataclass
class RunState:
    """step: optimizer steps done. identity: what must not change between two runs of the same state.

    rewarm_from: the step at which the run was last extended. rollbacks: how often it went back to a good state;
    rate_factor: what the learning rate is multiplied by since. moments: "<parameter>|<Adam's accumulator>" → array.
    """

    step: int
    identity: dict[str, Any]
    recipe: dict[str, Any]
    weights: dict[str, np.ndarray]
    average: dict[str, np.ndarray]
    moments: dict[str, np.ndarray]
    sampler: dict[str, int] = field(default_factory=dict)
    rewarm_from: int = 0
    rollbacks: int = 0
    rate_factor: float = 1.0
    best: dict[str, Any] = field(default_factory=dict)
    history: dict[str, list] = field(default_factory=lambda: {"train": [], "validation": []})
    seconds: float = 0.0

    def save(self, folder: Path, name: str = STATE) -> None:
        """Replace `folder`/`name` and history.json at once each. Raises OSError; the old files stay then."""
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "format": FORMAT,
            "step": self.step,
            "identity": self.identity,
            "recipe": self.recipe,
            "sampler": self.sampler,
            "rewarm_from": self.rewarm_from,
            "rollbacks": self.rollbacks,
            "rate_factor": self.rate_factor,
            "best": self.best,
            "history": self.history,
            "seconds": self.seconds,
        }
        arrays = {f"{group}/{name}": array for group in ARRAYS for name, array in getattr(self, group).items()}
        # Bytes, not an object array: the file must load without pickle, which would run code of a foreign file.
        arrays["record"] = np.frombuffer(json.dumps(record).encode(), np.uint8)
        # In memory first: an archive that is cut short by a full disk complains once more when it is collected.
        archive = io.BytesIO()
        np.savez(archive, **arrays)
        _replace(folder / name, archive.getbuffer())
        text = json.dumps({"recipe": self.recipe, "best": self.best, **self.history}, indent=1)
        _replace(folder / HISTORY, text.encode())


def load_state(folder: Path, name: str = STATE) -> RunState | None:
    """The state `name` in `folder`; None where there is none. Raises ModelError for a damaged or foreign file."""
    path = folder / name
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            record = json.loads(bytes(file["record"]).decode())
            arrays = {name: file[name] for name in file.files if name != "record"}
        if record.pop("format") != FORMAT:
            raise ValueError("another format")
        groups: dict[str, Any] = {group: {} for group in ARRAYS}
        for name, array in arrays.items():
            group, _, key = name.partition("/")
            groups[group][key] = array
        return RunState(**record, **groups)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path}: expected the state of a training run, found a damaged or foreign file ({cause}); "
            "remove it to start afresh"
        ) from None


def _replace(path: Path, content: bytes | memoryview) -> None:
    """Write a file through a temporary neighbour that reaches the disk before it takes the name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
