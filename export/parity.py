"""Compares what two stages of one model compute: arrays in, records out, nothing read or written.

A stage is the trainable network, Paddle's inference engine or Paddle-Lite. All of them see the same prepared input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from export.agreement import BoxAgreement
from export.nb_file import NbFile

# A weight that lies exactly between two int8 steps may be rounded either way.
INT8_TIES = 1e-3


@dataclass(frozen=True)
class Difference:
    """How far two outputs are apart. cosine: of the outputs less the reference's mean, 1 for the same direction."""

    max_abs: float
    mean_abs: float
    cosine: float


def difference(reference: np.ndarray, other: np.ndarray) -> Difference:
    """Compare two arrays. Different shapes, NaN and infinity count as infinitely far apart.

    The mean is taken off before the cosine, because probability maps are nearly constant: without that an output of
    nothing but .5 would look like every other.
    """
    if reference.shape != other.shape or not (np.isfinite(reference).all() and np.isfinite(other).all()):
        return Difference(float("inf"), float("inf"), 0.0)
    if reference.size == 0:
        return Difference(0.0, 0.0, 1.0)
    a, b = reference.astype(np.float64), other.astype(np.float64)
    gap = np.abs(a - b)
    a, b = (a - a.mean()).ravel(), (b - a.mean()).ravel()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float(a @ b) / norm if norm else float(not gap.any())
    return Difference(float(gap.max()), float(gap.mean()), min(cosine, 1.0))


@dataclass(frozen=True)
class Rung:
    """One stage against the trainable network on one input.

    input, difference: what went in and what came out, None where it is not compared (whole photos) or not known (the
    crops of a single model's recording). result: what the user would see ("12 boxes"); same: whether the reference's
    result is that, too; boxes, edits: how near it is.
    """

    stage: str
    case: str
    difference: Difference | None
    tolerance: float
    result: str
    same: bool
    task: str = ""
    input: Difference | None = None
    input_tolerance: float = 0.0
    boxes: BoxAgreement | None = None
    edits: int | None = None

    @property
    def fault(self) -> str:
        """What differs first on the way from the pixels to the text, "" when nothing does."""
        if self.input is not None and not self.input.max_abs <= self.input_tolerance:
            return "input tensor"
        if self.difference is not None and not self.difference.max_abs <= self.tolerance:
            return "output"
        if self.same:
            return ""
        if self.difference is None and self.boxes is None and self.edits is None:
            return "missing"
        if self.boxes is not None and not self.boxes.same:
            return "boxes"
        return {"det": "boxes", "cls": "angles"}.get(self.task, "texts")

    @property
    def passed(self) -> bool:
        return not self.fault


@dataclass(frozen=True)
class Repeat:
    """One stage asked the same again. identical: answers equal to the first to the last bit, of `runs`."""

    stage: str
    task: str
    order: str
    case: str
    runs: int
    identical: int
    max_abs: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.max_abs <= self.tolerance

    @property
    def found(self) -> str:
        if self.identical == self.runs:
            return f"{self.runs} of {self.runs} bit-identical"
        return f"{self.runs - self.identical} of {self.runs} not bit-identical, up to {self.max_abs:.1e}"


@dataclass(frozen=True)
class Finding:
    """One thing looked at in a file that cannot run here."""

    what: str
    expected: str
    found: str
    passed: bool


def quantized_weights(
    nb: NbFile, weights: dict[str, np.ndarray], axes: dict[str, int], scales: dict[str, float]
) -> list[Finding]:
    """Compare an int8 file with the fake-quant program that it was made from.

    weights: the program's float weights; axes: quantized weight → axis of its channels; scales: quantized weight →
    the largest activation that the layer's input is clipped to. Each int8 weight has to be round(127 w / max|w|) of
    its channel, and each layer's input scale the program's scale / 127.
    """
    equal, stepped, wrong, missing = 0, 0, [], []
    for name, axis in axes.items():
        param = nb.params.get(name)
        if param is None or param.dtype != "int8" or param.shape != weights[name].shape:
            missing.append(name)
            continue
        steps = np.abs(param.array().astype(np.int32) - to_int8(weights[name], axis))
        if steps.max(initial=0) > 1 or np.count_nonzero(steps) > max(1, INT8_TIES * steps.size):
            wrong.append(name)
        elif steps.any():
            stepped += 1
        else:
            equal += 1
    found = f"{equal} equal, {stepped} but for ties, {len(wrong)} different, {len(missing)} not int8"
    if wrong or missing:
        found += f" ({', '.join((wrong + missing)[:3])})"
    total = len(axes)
    ranges = input_scales(nb)
    off = [
        name
        for name, scale in scales.items()
        if name not in ranges or not np.isclose(ranges[name] * 127, scale, rtol=1e-5, atol=0)
    ]
    return [
        Finding("int8 weights", f"{total} equal to the program's", found, equal + stepped == total and total > 0),
        Finding(
            "input scales",
            f"{len(scales)} equal to the program's",
            f"{len(scales) - len(off)} equal" + (f", not {', '.join(off[:3])}" if off else ""),
            not off,
        ),
    ]


def to_int8(weight: np.ndarray, axis: int) -> np.ndarray:
    """Quantize by channel: round(127 w / max|w|), int32, of the weight's shape; a channel of zeros stays zero."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    peak = np.abs(weight).max(axis=others, keepdims=True)
    return np.rint(weight / np.where(peak > 0, peak, 1) * 127).astype(np.int32)


def input_scales(nb: NbFile) -> dict[str, float]:
    """Weight of each int8 layer → the scale of the layer's input, as activation per int8 step."""
    found = {}
    for op in nb.ops:
        scale: Any = op.attributes.get("Input0_scale", op.attributes.get("X0_scale"))
        if isinstance(scale, list) and len(scale) == 1:
            for slot in ("Filter", "W", "Y"):
                for name in op.inputs.get(slot, ()):
                    found[name] = scale[0]
    return found
