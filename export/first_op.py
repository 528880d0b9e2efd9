"""Finds the op at which two stages of one model begin to differ.

Two files of one network run op by op, and all their tensors are compared. A stage that fuses ops is asked with programs
cut after op k, whose outputs are all tensors that later ops need: these agree up to the culprit and never after it, so
k is found by halving. A .nb file is first compared with a fresh conversion, which shows weights that were changed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import artifact
from command import ModelError
from export import conversion, cut_program, nb_diff, nb_file, opt, parity, program
from export.cut_program import Value
from export.program import Program

# Of the tensor's largest value. The same ops one by one round alike; fused ones and other kernels add in another order.
SAME_OPS = 1e-6
OTHER_KERNELS = 1e-4
# An activation that lies between two int8 steps may fall on either side.
INT8_STEP = 2 / 127

Run = Callable[[Path, np.ndarray, int], list[np.ndarray]]


@dataclass(frozen=True)
class Culprit:
    """said: the sentence; op, type, output, layer: "" or -1 where no op was found."""

    rung: str
    said: str
    op: int = -1
    type: str = ""
    output: str = ""
    layer: str = ""
    relative: float | None = None


def between_files(rung: str, ours: Path, theirs: Path, x: np.ndarray, layers: Mapping[str, str]) -> Culprit:
    """Two inference folders: a fresh export of the checkpoint, whose weights `layers` names, and the other one."""
    a, b = program.read(ours), program.read(theirs)
    one, two = cut_program.values(a), cut_program.values(b)
    for left, right in zip(one, two, strict=False):
        if left.type != right.type:
            return _culprit(rung, left, layers, f"{left.type} where the other file has {right.type}")
    if len(one) != len(two):
        return Culprit(rung, f"no op: {len(one)} in the checkpoint's own export, {len(two)} in {theirs}")
    outputs = [_every(run, found, x) for run, found in ((a, one), (b, two))]
    return _first(rung, one, outputs[0], outputs[1], layers, SAME_OPS)


def inside_engine(
    rung: str, inference: Path, x: np.ndarray, run: Run, layers: Mapping[str, str], *, quantized: bool
) -> Culprit:
    """One inference folder, op by op in Paddle and cut after op k in another engine. x: (N, 3, H, W)."""
    model = program.read(inference)
    computed = [value for value in cut_program.values(model) if value.live]
    reference = dict(zip((v.name for v in computed), _every(model, computed, x), strict=True))
    limit = INT8_STEP if quantized else OTHER_KERNELS
    worst: dict[int, float] = {}

    def differs(index: int) -> bool:
        value = computed[index]
        names = cut_program.frontier(model, computed, value.op)
        with tempfile.TemporaryDirectory(prefix="cut.") as folder:
            cut_program.write(model, names, Path(folder), upto=value.op)
            try:
                found = run(Path(folder), x, len(names))
            except ModelError:
                worst[index] = float("inf")  # it dies here and did not before
                return True
        worst[index] = max(relative(reference[name], y) for name, y in zip(names, found, strict=True))
        return worst[index] > limit

    low, high = -1, len(computed) - 1  # agrees at low, differs at high
    if not differs(high):
        return Culprit(rung, f"no op: cut out of the file, no tensor differs by more than {limit:.0e} of its largest")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if differs(middle) else (middle, high)
    return _culprit(rung, computed[high], layers, "", worst[high])


def inside_nb(rung: str, nb: Path, inference: Path, layers: Mapping[str, str]) -> Culprit:
    """A .nb artifact against a fresh conversion of the model that it should have been made from."""
    record = artifact.load(nb, kind="nb", verify=False).extra
    model = program.read(inference)
    with tempfile.TemporaryDirectory(prefix="fresh.") as folder:
        fresh_path = Path(folder) / "model.nb"
        # Without the diet, whose short names say nothing; the comparison does not need names.
        if "diet" in record:
            mends = [fixed["trap"] for fixed in record.get("fixed", ())]
            conversion.make_nb(
                model, fresh_path, target=record["target"], precision=record["precision"], slim=False, mends=mends
            )
        else:
            fp16 = record.get("precision") == "fp16"
            opt.convert(model.model, model.params, fresh_path, target=record.get("target", ""), fp16=fp16)
        fresh, found = nb_file.read(fresh_path), nb_file.read(nb / "model.nb")
        gap = nb_diff.compare(fresh, found)
        sized = {a: said for a, _, said in gap.weights}
        # The diet drops attributes on purpose: only those that both have can be wrong.
        changed = {i: (name, x, y) for i, _, _, name, x, y in gap.attributes if x is not None and y is not None}
        removed = dict(gap.removed)
        for number, op in enumerate(fresh.ops):
            reads = [name for names in op.inputs.values() for name in names if name in sized]
            writes = next((name for names in op.outputs.values() for name in names), "")
            what = ""
            if number in removed:
                what = "missing in the file"
            elif reads:
                what = f"other weights: {sized[reads[0]]}"
            elif number in changed:
                what = "{0} is {2}, not {1}".format(*changed[number])
            if what:
                weights = tuple(name for names in op.inputs.values() for name in names if name in fresh.params)
                value = Value(number, op.type, writes, tuple(reads) or weights, (), True)
                return _culprit(rung, value, layers, what)
    return Culprit(rung, "no op: the file holds what a fresh conversion holds")


def _first(
    rung: str,
    found: Sequence[Value],
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    layers: Mapping[str, str],
    limit: float,
) -> Culprit:
    for value, a, b in zip(found, ours, theirs, strict=True):
        gap = relative(a, b)
        if not gap <= limit:
            return _culprit(rung, value, layers, "", gap)
    return Culprit(rung, "no op: op by op the file computes what the checkpoint's own export computes")


def relative(reference: np.ndarray, other: np.ndarray) -> float:
    """Largest difference as a share of the reference's largest value; infinity where they cannot be compared."""
    peak = float(np.abs(reference).max(initial=0.0))
    gap = parity.difference(reference, other).max_abs
    return gap / peak if peak else gap


def _culprit(rung: str, value: Value, layers: Mapping[str, str], what: str, gap: float | None = None) -> Culprit:
    layer = next((layers[name] for name in value.weights if name in layers), "")
    if not layer:
        layer = layers.get(value.name, "")
        layer = f"after {layer}" if layer else ""
    told = what or (f"differs by {gap:.1e} of its largest value" if gap is not None else "")
    where = f" ({layer})" if layer else ""
    said = f"{value.type} #{value.op} → {value.name}{where}: {told}"
    return Culprit(rung, said, value.op, value.type, value.name, layer, gap)


def _every(model: Program, found: Sequence[Value], x: np.ndarray) -> list[np.ndarray]:
    """All values in one run, op by op."""
    # Where a variable is written twice, fetched at the end it holds the second value: the first is not to be had.
    names = list(dict.fromkeys(value.name for value in found))
    with tempfile.TemporaryDirectory(prefix="cut.") as folder:
        cut_program.write(model, names, Path(folder))
        outputs = dict(zip(names, run_paddle(Path(folder), x, len(names), optimize=False), strict=True))
    return [outputs[value.name] for value in found]


def run_paddle(folder: Path, x: np.ndarray, count: int, *, optimize: bool = True) -> list[np.ndarray]:
    """`count` outputs of an inference folder."""
    from ocr_models.paddle_engine import InferenceEngine

    engine = InferenceEngine(folder, optimize=optimize)
    try:
        return engine.run_all(x)[:count]
    finally:
        engine.close()


def with_paths(layers: Mapping[str, str], model: Program) -> dict[str, str]:
    """The weights' layers, and for every variable the layer with weights that it comes from."""
    named = dict(layers)
    for op in model.block.ops:
        reads = [name for slot in op.inputs for name in slot.arguments]
        layer = next((named[name] for name in reads if name in layers), "")
        layer = layer or next((named[name] for name in reads if name in named), "")
        if layer:
            named.update({n: layer for slot in op.outputs for n in slot.arguments if n not in layers})
    return named
