"""Goes from the first rung that fell short to the op: picks the smallest input that shows it, and the right search."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import artifact
from command import ModelError
from export import first_op, program
from export.first_op import Culprit
from export.ladder import AS_SAVED, FUSED, X86, Model, nb_names
from export.layer_names import layer_names
from export.parity import Finding, Rung


def search(models: list[Model]) -> Culprit | None:
    """The first op that differs, of the first model and rung that do; None where nothing differs."""
    for model in models:
        faulty = [rung for rung in model.rungs if rung.fault]
        if faulty:
            return _at_rung(model, [rung for rung in faulty if rung.stage == faulty[0].stage])
        if wrong := [finding for finding in model.findings if not finding.passed]:
            return _at_file(model, wrong[0])
    return None


def _at_rung(model: Model, faulty: list[Rung]) -> Culprit:
    name = faulty[0].stage
    if any(rung.fault == "input tensor" for rung in faulty):
        lost = [f"{f.expected} is {f.found}" for f in model.findings if not f.passed and f.what.endswith(": settings")]
        why = f" ({', '.join(lost)})" if lost else ""
        return Culprit(name, f"none: what goes in differs already{why}")
    stage = next((stage for stage in model.stages if stage.name == name), None)
    if stage is None:
        return _at_phone(model, name)
    if all(rung.fault not in ("output", "input tensor") for rung in faulty):
        return Culprit(name, "none: the outputs agree, what is read from them differs; compare post and charset")
    x = _smallest(model, faulty)
    layers = layer_names(model.checkpoint)
    if stage.kind == AS_SAVED:
        return _at_export(model, name, x, layers)
    named = first_op.with_paths(layers, program.read(model.inference))
    if stage.kind == X86 and (found := _at_nb(model, name, stage.folder, named)).op >= 0:
        return found
    assert stage.kind in (FUSED, X86)
    from export.run_lite import run_lite

    run: first_op.Run = first_op.run_paddle if stage.kind == FUSED else run_lite
    return first_op.inside_engine(name, model.inference, x, run, named, quantized=model.manifest.quantized)


def _at_export(model: Model, name: str, x: np.ndarray, layers: dict[str, str]) -> Culprit:
    from export import to_inference, variants

    lstm = artifact.load(model.inference, verify=False).compression.get(variants.LSTM, variants.LSTM_FORMS[0])
    with tempfile.TemporaryDirectory(prefix="parity.") as folder:
        ours = Path(folder) / "inference"
        to_inference.export(model.checkpoint, ours, lstm=lstm)
        named = first_op.with_paths(layers, program.read(ours))
        return first_op.between_files(name, ours, model.inference, x, named)


def _at_nb(model: Model, name: str, nb: Path, named: dict[str, str]) -> Culprit:
    return first_op.inside_nb(name, nb, model.inference, named)


def _at_phone(model: Model, name: str) -> Culprit:
    """A phone cannot be cut open from here, but the file that it ran can."""
    named = first_op.with_paths(layer_names(model.checkpoint), program.read(model.inference))
    for nb in model.nbs:
        found = _at_nb(model, name, nb, named)
        if found.op >= 0:
            return found
    return Culprit(name, "not searched: a phone's tensors are recorded at its ends only")


def _at_file(model: Model, finding: Finding) -> Culprit:
    """A file that cannot run here, judged by its structure."""
    named_nbs = zip(model.nbs, nb_names(model.nbs), strict=True)
    nb = next((nb for nb, name in named_nbs if finding.what.startswith(f"{name}: ")), None)
    if nb is None or finding.what.endswith(": settings"):
        return Culprit(finding.what, f"none: {finding.expected} is {finding.found}")
    named = first_op.with_paths(layer_names(model.checkpoint), program.read(model.inference))
    return _at_nb(model, finding.what, nb, named)


def _smallest(model: Model, faulty: list[Rung]) -> np.ndarray:
    """The smallest input on which the outputs differ."""
    labels = {rung.case for rung in faulty if rung.fault == "output"}
    inputs = [case.prepare(model.manifest) for case in model.cases if case.label in labels]
    if not inputs:
        raise ModelError(f"{model.checkpoint}: expected an input that shows the difference, found none; report this")
    return min(inputs, key=lambda x: x.size)
