"""One model's stages side by side: trainable network, Paddle's inference engine, Paddle-Lite, all asked the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import artifact
import command
from artifact import Manifest
from command import ModelError, UsageError
from export import answers, parity, tolerances
from export.answers import Answer, Reader
from export.parity import Finding, Repeat, Rung
from export.parity_cases import Case, make_cases
from export.tolerances import Tolerance

if TYPE_CHECKING:
    from lite_runtime.engine import Engine

NETWORK, AS_SAVED, FUSED, X86 = "network", "inference, as saved", "inference, fused", ".nb, x86"
REPEATS = 20


@dataclass(frozen=True)
class Stage:
    """kind: NETWORK | AS_SAVED | FUSED | X86, the rung that it stands on; name: how tables call it."""

    kind: str
    name: str
    folder: Path
    manifest: Manifest
    engine: Engine
    reader: Reader
    tolerance: Tolerance


@dataclass(frozen=True)
class View:
    """What one stage said about one picture, for the report's images."""

    stage: str
    answer: Answer
    passed: bool


@dataclass(frozen=True)
class Picture:
    """images: the photo, or the crops of a batch; scale: (x, y) from the answers' quads to image px."""

    title: str
    task: str
    images: tuple[np.ndarray, ...]
    scale: tuple[float, float]
    views: list[View]


@dataclass
class Model:
    """One model at every stage, the network first. nbs: its .nb folders, whether they run here or not."""

    checkpoint: Path
    inference: Path
    nbs: list[Path]
    manifest: Manifest
    stages: list[Stage]
    findings: list[Finding]
    note: str
    fused: Tolerance
    rungs: list[Rung] = field(default_factory=list)
    repeats: list[Repeat] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    unmeasured: list[str] = field(default_factory=list)

    @property
    def task(self) -> str:
        return self.manifest.task

    @property
    def network(self) -> Stage:
        return self.stages[0]

    def stage(self, kind: str) -> Stage | None:
        return next((stage for stage in self.stages if stage.kind == kind), None)

    def close(self) -> None:
        for stage in self.stages:
            stage.engine.close()


def open_model(checkpoint: Path, inference: Path, nbs: Sequence[Path], *, tolerance: float) -> Model:
    """Open every stage of a model. Raises ArtifactError, ModelError or UsageError for unusable folders."""
    from export import lstm_storage, structure, variants
    from lite_runtime.engine import open_nb
    from ocr_models.paddle_engine import InferenceEngine, NetworkEngine

    network, manifest = open_network(checkpoint)
    exported = artifact.load(inference, kind="inference", task=manifest.task)
    if variants.LSTM in exported.compression:
        # What this rounding costs is accuracy, which slim/evaluate.py measures; here all stages have to agree on it.
        lstm_storage.round_network(network)
    files = [artifact.load(nb, kind="nb", task=manifest.task) for nb in nbs]
    if exported.quantized != manifest.quantized:
        raise UsageError(
            f"{inference}: expected a {'quantized' if manifest.quantized else 'float'} model like the checkpoint, "
            "found the other; give the one that export/to_inference.py made from it"
        )
    fused = tolerances.fused(tolerance, quantized=manifest.quantized)

    def stage(kind: str, name: str, folder: Path, record: Manifest, engine: Engine, limit: Tolerance) -> Stage:
        if record.input is None:
            raise ModelError(f"{folder}: expected a manifest with `input`, found none; make the artifact again")
        return Stage(kind, name, folder, record, engine, Reader(folder, record), limit)

    stages = [
        stage(NETWORK, NETWORK, checkpoint, manifest, NetworkEngine(network), tolerances.AS_SAVED),
        stage(AS_SAVED, AS_SAVED, inference, exported, InferenceEngine(inference, optimize=False), tolerances.AS_SAVED),
        # oneDNN is off for int8 by itself: it would replace the simulated quantization by kernels of its own.
        stage(FUSED, FUSED, inference, exported, InferenceEngine(inference), fused),
    ]
    findings = _settings(AS_SAVED, manifest, exported)
    unmeasured = []
    names = nb_names(nbs)
    for nb, record, label in zip(nbs, files, names, strict=True):
        findings += _settings(label, manifest, record)
        if record.extra.get("target") == "x86":
            stages.append(stage(X86, f"{label}, x86", nb, record, open_nb(nb)[0], fused))
        else:
            unmeasured.append(
                f"{label}: made for {record.extra.get('target')}, cannot run here: checked by its structure"
            )
        for found in structure.check_nb(nb, record, inference):
            findings.append(replace(found, what=label + found.what.removeprefix(nb.name)))
    if not any(stage.kind == X86 for stage in stages):
        why = "Paddle-Lite's int8 kernels for x86 are wrong" if manifest.quantized else "no x86 file given"
        unmeasured.append(f"{manifest.task} {X86}: not measured, {why}")
    note = _lineage(checkpoint, inference, exported, nbs, files)
    return Model(checkpoint, inference, list(nbs), manifest, stages, findings, note, fused, unmeasured=unmeasured)


def nb_names(nbs: Sequence[Path]) -> list[str]:
    """How tables call the folders: by name, where two are called alike by their parents' names, too."""
    alike = Counter(nb.name for nb in nbs)
    return [nb.name if alike[nb.name] == 1 else f"{nb.resolve().parent.name}/{nb.name}" for nb in nbs]


def open_network(checkpoint: Path) -> tuple[Any, Manifest]:
    """The trainable network; of a quantized checkpoint the fake-quant one."""
    if artifact.load(checkpoint, kind="checkpoint").quantized:
        from slim import pact

        return pact.load_quantized(checkpoint)
    from ocr_models.checkpoints import load_network

    return load_network(checkpoint)


def climb(model: Model, images: Sequence[np.ndarray]) -> None:
    """Ask every stage every question, and some of them again; the answers end in the model's lists."""
    network = model.network
    model.cases = make_cases(model.manifest, images)
    inputs = [case.prepare(network.manifest) for case in model.cases]
    outputs = [_run(network, x) for x in inputs]
    said = [network.reader.read(output) for output in outputs]
    model.pictures = [_picture(model, *known) for known in zip(model.cases, inputs, said, strict=True)]
    for stage in command.progress(model.stages, f"{model.task} stages"):
        if stage is not network:
            for case, x, output, answer, picture in zip(
                model.cases, inputs, outputs, said, model.pictures, strict=True
            ):
                rung, found = _ask(stage, case, x, output, answer)
                model.rungs.append(rung)
                picture.views.append(View(stage.name, found, rung.passed))
        model.repeats += _again(stage, model.cases, inputs)


def _ask(stage: Stage, case: Case, x: np.ndarray, output: np.ndarray, answer: Answer) -> tuple[Rung, Answer]:
    """x, output, answer: the network's."""
    own = case.prepare(stage.manifest)
    gap = parity.difference(x, own)
    found = _run(stage, own)
    said = stage.reader.read(found)
    verdict = answers.compare(stage.manifest.task, answer, said)
    return (
        Rung(
            stage.name,
            case.label,
            parity.difference(output, found),
            stage.tolerance.value,
            verdict.result,
            verdict.same,
            stage.manifest.task,
            gap,
            tolerances.INPUT.value,
            verdict.boxes,
            verdict.edits,
        ),
        said,
    )


def _again(stage: Stage, cases: Sequence[Case], inputs: Sequence[np.ndarray]) -> list[Repeat]:
    """An engine that remembers anything answers otherwise the second time."""
    order = sorted(range(len(cases)), key=lambda index: inputs[index].size)
    first = order[0]
    a = cases[first].prepare(stage.manifest)
    # Another picture of the same shape, whose values linger where states do, and one of another shape.
    others = [np.ascontiguousarray(a[..., ::-1])]
    others += [cases[i].prepare(stage.manifest) for i in order if inputs[i].shape != inputs[first].shape][:1]
    reference = _run(stage, a)
    between = []
    for b in others:
        _run(stage, b)
        between.append(_run(stage, a))
    repeated = [_run(stage, a) for _ in range(REPEATS)]
    return [
        _repeat(stage, "A, B, A", cases[first].label, reference, between),
        _repeat(stage, f"{REPEATS} times", cases[first].label, reference, repeated),
    ]


def _repeat(stage: Stage, order: str, label: str, reference: np.ndarray, found: Sequence[np.ndarray]) -> Repeat:
    gaps = [parity.difference(reference, answer).max_abs for answer in found]
    identical = sum(reference.tobytes() == answer.tobytes() for answer in found)
    limit = tolerances.REPEAT.value
    return Repeat(stage.name, stage.manifest.task, order, label, len(found), identical, max(gaps), limit)


def _run(stage: Stage, x: np.ndarray) -> np.ndarray:
    try:
        return stage.engine.run(x)
    except ValueError as error:
        raise ModelError(str(error)) from None


def _picture(model: Model, case: Case, x: np.ndarray, answer: Answer) -> Picture:
    height, width = case.images[0].shape[:2]
    scale = (width / x.shape[3], height / x.shape[2])
    return Picture(f"{model.task} {case.label}", model.task, case.images, scale, [View(NETWORK, answer, True)])


def _settings(name: str, wanted: Manifest, found: Manifest) -> list[Finding]:
    """What else than weights makes a stage read: compared field by field."""
    pairs: dict[str, tuple[Any, Any]] = {}
    for part in ("input", "post", "charset"):
        a, b = (_plain(getattr(manifest, part)) for manifest in (wanted, found))
        pairs |= {f"{part}.{key}": (a.get(key), b.get(key)) for key in sorted(a | b)}
    # The file may be called otherwise; its hash tells whether it is the same.
    off = {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and key != "charset.file"}
    if not off:
        return [Finding(f"{name}: settings", "the checkpoint's", "the checkpoint's", True)]
    return [Finding(f"{name}: settings", f"{key} {a}", str(b), False) for key, (a, b) in off.items()]


def _plain(part: Any) -> dict[str, Any]:
    return dict(part) if isinstance(part, dict) else dict(vars(part)) if part else {}


def _lineage(
    checkpoint: Path, inference: Path, exported: Manifest, nbs: Sequence[Path], files: Sequence[Manifest]
) -> str:
    """A note when an artifact says that it was made from another one: the likeliest cause of a difference."""
    if exported.parent != artifact.digest(checkpoint):
        return f"{inference} says that it was made from another checkpoint than {checkpoint}"
    parent = artifact.digest(inference)
    strangers = [str(nb) for nb, record in zip(nbs, files, strict=True) if record.parent != parent]
    return f"{', '.join(strangers)} says that it was made from another model than {inference}" if strangers else ""


def unshaped(x: np.ndarray, manifest: Manifest) -> str:
    """Why a model cannot eat an array, "" when it can."""
    assert manifest.input is not None
    rule = manifest.input.shape
    fits = x.ndim == 4 and all(want in (-1, have) for want, have in zip(rule, x.shape, strict=True))
    multiple = manifest.input.multiple_of
    if fits and not any(side % multiple for side in x.shape[2:]):
        return ""
    return f"expected {list(rule)}, sides multiples of {multiple}, found {list(x.shape)}"
