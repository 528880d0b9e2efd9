"""Where the demo keeps everything: the three systems that it compares, and what is made of each of their models.

A system is `float` (the default models), `shipped` (their slim versions) or `demo` (made a moment ago). A model's name
is "SYSTEM/TASK", or "SYSTEM/det-pruned" for the detector between pruning and int8.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.steps import ROOT

TASKS = ("det", "cls", "rec")
SYSTEMS = ("float", "shipped", "demo")
PRETRAINED = ROOT / "ocr_models" / "pretrained"


def export_options(task: str, *, int8: bool) -> tuple[str, ...]:
    """What export/to_inference.py is given for a model that is to be as small as it can: an LSTM is never quantized."""
    return ("--lstm", "uint8") if task == "rec" and int8 else ()


@dataclass(frozen=True)
class Layout:
    """out: the demo's own folder."""

    out: Path

    @property
    def test_data(self) -> Path:
        return self.out / "data" / "test"

    @property
    def train_data(self) -> Path:
        return self.out / "data" / "train"

    @property
    def latency(self) -> Path:
        return self.out / "latency.json"

    @property
    def photos(self) -> Path:
        return self.out / "photos"

    def checkpoint(self, name: str) -> Path:
        system, _, model = name.partition("/")
        return {"float": PRETRAINED, "shipped": PRETRAINED / "slim", "demo": self.out / "slim"}[system] / model

    def checkpoints(self) -> dict[str, Path]:
        """Every model's checkpoint by the model's name."""
        names = [f"{system}/{task}" for system in SYSTEMS for task in TASKS]
        return {name: self.checkpoint(name) for name in (*names, "shipped/det-pruned", "demo/det-pruned")}

    def inference(self, name: str) -> Path:
        return self.out / "inference" / name

    def nb(self, name: str, target: str) -> Path:
        return self.out / "nb" / target / name

    def metrics(self, system: str) -> Path:
        return self.out / "metrics" / f"{system}.json"
