"""Judges a `.nb` file without running it: what an ARM file allows on any other machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

from artifact import Manifest
from export import conversion, diet, fixes, lstm_check, nb_file, opt, parity, program
from export.nb_file import NbFile
from export.parity import Finding
from export.program import Program
from export.to_nb import CONVOLUTIONS, FILE, convolutions

WEIGHT_QUANTIZER = "fake_channel_wise_quantize_dequantize_abs_max"
INPUT_QUANTIZER = "fake_quantize_dequantize_moving_average_abs_max"


def check_nb(folder: Path, manifest: Manifest, inference: Path) -> list[Finding]:
    """Compare an nb artifact with the inference model that it was made from.

    Raises ModelError for files that cannot be read or converted.
    """
    nb = nb_file.read(folder / FILE)
    original = program.read(inference)
    target, name = manifest.extra.get("target", ""), folder.name
    found = ", ".join(sorted(nb.targets))
    findings = [Finding(f"{name}: kernels for", target, found, nb.targets == {target})]
    # opt may fold a 1x1 convolution into the one before it, so the file may have fewer.
    wanted = sum(kind in CONVOLUTIONS for kind in original.ops)
    counts = convolutions(nb)
    had = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    findings.append(Finding(f"{name}: convolutions", f"{wanted} or fewer", had, 0 < sum(counts.values()) <= wanted))
    with tempfile.TemporaryDirectory() as temporary:
        # Conversion renames the weights; the file is compared with the program that opt saw.
        model = _prepared(original, manifest, Path(temporary))
        if model.quantized:
            findings += _quantized(name, nb, model)
        findings += lstm_check.compare(name, nb, model)
    findings.append(_same_conversion(folder, nb, original, manifest))
    if manifest.extra.get("diet"):
        findings.append(_same_undieted(name, nb, original, manifest))
    return findings


def _prepared(model: Program, manifest: Manifest, folder: Path) -> Program:
    """The program that opt saw when it made the nb artifact. folder: empty, for its files."""
    if "diet" not in manifest.extra:
        return model  # made before there was one
    mended, slim = folder / "mended", folder / "slim"
    mended.mkdir()
    slim.mkdir()
    if _mends(manifest):
        model = fixes.apply(model, _mends(manifest), mended)
    return diet.before_opt(model, slim, keep_attributes=not manifest.extra["diet"])


def _mends(manifest: Manifest) -> list[str]:
    """Names of the traps that --fix got the program out of."""
    return [finding["trap"] for finding in manifest.extra.get("fixed", ())]


def _quantized(name: str, nb: NbFile, model: Program) -> list[Finding]:
    axes, scales = quantized_layers(model)
    compared = parity.quantized_weights(nb, model.weights(), axes, scales)
    layers = sum(
        op.kernel is not None and op.kernel.precision == "int8" and "Input0_scale" in op.attributes for op in nb.ops
    )
    found = Finding("int8 layers", str(len(axes)), str(layers), layers == len(axes))
    return [Finding(f"{name}: {f.what}", f.expected, f.found, f.passed) for f in (found, *compared)]


def quantized_layers(model: Program) -> tuple[dict[str, int], dict[str, float]]:
    """Of a fake-quant program: quantized weight → axis of its channels, and → where its layer's input is clipped."""
    weights = model.weights()
    axis_of: dict[str, tuple[str, int]] = {}  # output of a weight's quantizer → (weight, axis)
    level_of: dict[str, float] = {}  # output of an input's quantizer → level
    axes: dict[str, int] = {}
    levels: dict[str, float] = {}
    for op in model.block.ops:
        inputs = {slot.parameter: list(slot.arguments) for slot in op.inputs}
        outputs = {slot.parameter: list(slot.arguments) for slot in op.outputs}
        if op.type == WEIGHT_QUANTIZER:
            axis = next((attribute.i for attribute in op.attrs if attribute.name == "quant_axis"), 0)
            axis_of[outputs["Out"][0]] = (inputs["X"][0], axis)
        elif op.type == INPUT_QUANTIZER:
            level_of[outputs["Out"][0]] = float(weights[inputs["InScale"][0]].reshape(-1)[0])
        else:
            data = [name for names in inputs.values() for name in names]
            quantized = next((axis_of[name] for name in data if name in axis_of), None)
            level = next((level_of[name] for name in data if name in level_of), None)
            if quantized and level is not None:
                axes[quantized[0]] = quantized[1]
                levels[quantized[0]] = level
    return axes, levels


def _same_conversion(folder: Path, nb: NbFile, model: Program, manifest: Manifest) -> Finding:
    """Convert once more and compare the bytes: the file then holds this model's weights and nothing else."""
    what = f"{folder.name}: a fresh conversion"
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary) / FILE
        again = _convert(model, manifest, fresh, slim=manifest.extra.get("diet", False))
        if again.opt_version != nb.opt_version:
            found = f"made by {again.opt_version}, not {nb.opt_version}: not compared"
            return Finding(what, "the same bytes", found, True)
        same = fresh.read_bytes() == (folder / FILE).read_bytes()
        return Finding(what, "the same bytes", "the same bytes" if same else "other bytes", same)


def _same_undieted(name: str, nb: NbFile, model: Program, manifest: Manifest) -> Finding:
    """Convert without the diet and compare what the runtime reads."""
    with tempfile.TemporaryDirectory() as temporary:
        whole = _convert(model, manifest, Path(temporary) / FILE, slim=False)
        compared = diet.same_program(whole, nb)
    wrong = [f"{finding.what}: {finding.found}" for finding in compared if not finding.passed]
    found = "; ".join(wrong) or f"the same, {nb.topology_bytes / whole.topology_bytes:.0%} of the topology's bytes"
    return Finding(f"{name}: without the diet", "the same ops, kernels, weights, scales", found, not wrong)


def _convert(model: Program, manifest: Manifest, out: Path, *, slim: bool) -> NbFile:
    target, precision = manifest.extra.get("target", ""), manifest.extra.get("precision", "")
    if "diet" not in manifest.extra:
        opt.convert(model.model, model.params, out, target=target, fp16=precision == "fp16")
        return nb_file.read(out)
    conversion.make_nb(model, out, target=target, precision=precision, slim=slim, mends=_mends(manifest))
    return nb_file.read(out)
