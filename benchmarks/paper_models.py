"""The models that stand beside the paper's, and where everything that is made of them lies.

A model is one task's variant: `float` (the default model), `fpgm` (pruned), `pact`, `qat`, `ptq-…` (int8), `both`
(pruned, then PACT), `…-lstm` (the same checkpoint, its LSTM stored in bytes). Those that a folder of finished
checkpoints holds are taken from there; the rest is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import artifact
import command

TASKS = ("det", "cls", "rec")
Key = tuple[str, str]  # task, variant


@dataclass(frozen=True)
class Made:
    """How a variant is made: from which other one, by which command, with which options."""

    of: str
    by: str
    options: tuple[str, ...] = ()


QUANTIZE = "slim/quantize.py"
VARIANTS = {
    "fpgm": Made("float", "slim/prune.py"),
    "pact": Made("float", QUANTIZE, ("--method", "pact")),
    "both": Made("fpgm", QUANTIZE, ("--method", "pact")),
    "qat": Made("float", QUANTIZE, ("--method", "qat")),
    "ptq-hist": Made("float", QUANTIZE, ("--method", "ptq", "--calibration", "hist")),
    "ptq-mse": Made("float", QUANTIZE, ("--method", "ptq", "--calibration", "mse")),
    "ptq-kl": Made("float", QUANTIZE, ("--method", "ptq", "--calibration", "kl")),
}
# Share of the parameters that pruning leaves. Of the detector a little less than the bar's 54 %: its int8 weights carry
# scales. Nearly half of the recognizer is LSTM, which no pruning touches.
PARAMS_RATIO = {"det": "0.53", "cls": "0.7", "rec": "0.85"}
INT8 = tuple(name for name in VARIANTS if name != "fpgm")
# Another export of the same checkpoint, of the recognizer alone: variant → (checkpoint's, options of the export).
EXPORTED = {f"{name}-lstm": (name, ("--lstm", "uint8")) for name in ("pact", "both")}
FLOAT_FORMS = ("float", "fpgm")  # what may run, and be timed, on x86
# Two methods of quantization differ; these all say int8 in an artifact.
_QUANTIZED = {"pact-int8": "pact", "qat-int8": "qat"}


def source(variant: str) -> str:
    """The variant whose checkpoint this one is."""
    return EXPORTED[variant][0] if variant in EXPORTED else variant


def classify(manifest: artifact.Manifest) -> str | None:
    """Which variant a checkpoint is; None for one that has no row here."""
    form, pruned = manifest.compression.get("quantization"), "prune_plan" in manifest.compression
    if form is None:
        return "fpgm" if pruned else "float"
    if pruned:
        return "both" if form == "pact-int8" else None
    if form == "ptq-int8":
        calibration = manifest.extra.get("quantize", {}).get("calibration")
        return f"ptq-{calibration}" if f"ptq-{calibration}" in VARIANTS else None
    return _QUANTIZED.get(form)


def finished(models: Path) -> dict[Key, Path]:
    """(task, variant) → checkpoint, of all that lie in or below `models`. Raises UsageError for two of a kind."""
    found: dict[Key, Path] = {}
    for path in sorted(models.glob(f"**/{artifact.MANIFEST}")):
        if any(part.endswith(".run") for part in path.relative_to(models).parts):
            continue  # what a training run keeps to go on from
        manifest = artifact.load(path.parent, verify=False)
        if manifest.kind != "checkpoint" or manifest.task not in TASKS:
            continue
        variant = classify(manifest)
        if variant is None:
            continue
        key = manifest.task, variant
        if key in found:
            raise command.UsageError(
                f"{models}: expected one {variant} checkpoint of {manifest.task}, found {found[key]} and "
                f"{path.parent}; give a folder of finished models only"
            )
        artifact.load(path.parent)
        found[key] = path.parent
    missing = [task for task in TASKS if (task, "float") not in found]
    if missing:
        raise command.UsageError(
            f"{models}: expected a float checkpoint of {' and '.join(missing)}, found none; give another --models"
        )
    return found


def systems(models: Mapping[Key, Path], finished_slim: Mapping[Key, Path]) -> dict[str, dict[str, str]]:
    """System → variant of each task, of those whose three models are all there.

    slim: what is meant for use: the pruned detector in int8 and, of the other two, what `finished_slim` holds (both,
    else pact). slim-lstm: with the LSTM in bytes. pruned: what of it runs on x86: only the detector is cut.
    """
    slim = {task: "both" if task == "det" or (task, "both") in finished_slim else "pact" for task in TASKS}
    named = {name: dict.fromkeys(TASKS, name) for name in ("float", "fpgm", "pact", "both")}
    named["pruned"] = {"det": "fpgm", "cls": "float", "rec": "float"}
    if slim not in named.values():
        named["slim"] = slim
    named["slim-lstm"] = {**slim, "rec": f"{slim['rec']}-lstm"}
    return {name: parts for name, parts in named.items() if set(parts.items()) <= set(models)}


@dataclass(frozen=True)
class Places:
    """out: the command's own folder."""

    out: Path

    def checkpoint(self, key: Key) -> Path:
        return self.out / "models" / "-".join(key)

    def sensitivity(self, task: str) -> Path:
        return self.out / "sensitivity" / task

    def inference(self, key: Key) -> Path:
        return self.out / "inference" / "-".join(key)

    def nb(self, key: Key, target: str) -> Path:
        return self.out / "nb" / target / "-".join(key)

    def metrics(self, key: Key) -> Path:
        """key: ("system", name) as well."""
        return self.out / "metrics" / f"{'-'.join(key)}.json"

    def images(self, key: Key) -> Path:
        return self.out / "metrics" / f"{'-'.join(key)}-images.json"

    @property
    def latency(self) -> Path:
        return self.out / "latency.json"

    @property
    def photo_latency(self) -> Path:
        return self.out / "photo_latency.json"
