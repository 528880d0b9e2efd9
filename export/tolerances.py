"""How far two stages may be apart, each figure with the sentence that says why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lite_runtime.self_test import INPUT_LEVELS, OUTPUT_TOLERANCE


@dataclass(frozen=True)
class Tolerance:
    """what: which comparison, value: the largest difference that passes."""

    what: str
    value: float
    why: str


INPUT = Tolerance(
    "input tensor",
    0.0,
    "the same code prepares it from each stage's own manifest, so any difference is a setting that got lost",
)
AS_SAVED = Tolerance(
    "output, as saved",
    1e-6,
    "the same operators of the same library in the same order: nothing but the number of threads may round differently",
)
FUSED = Tolerance(
    "output, fused or .nb",
    OUTPUT_TOLERANCE["fp32"],
    "fused operators and other kernels add in another order; on the steep part of a sigmoid that moves a probability "
    "by up to 5e-5, while a wrong weight, scale or layout moves it by 1e-2 and more",
)
INT8 = Tolerance(
    "output, fused, int8",
    OUTPUT_TOLERANCE["fp32"],
    "the simulated int8 arithmetic runs with oneDNN off, so that the same steps are rounded the same way; "
    "Paddle-Lite's int8 kernels for x86 are wrong and are not asked",
)
FP16 = Tolerance(
    "output, phone fp16",
    OUTPUT_TOLERANCE["fp16"],
    "half precision keeps 11 bits; on ARM kernels that moved a probability by 3e-4, and the bar leaves room for "
    "pictures that lie nearer to the sigmoid's steep part",
)
PHONE_INT8 = Tolerance(
    "output, phone int8",
    OUTPUT_TOLERANCE["int8"],
    "whole numbers add up exactly, but a scale that rounds to the other side of a half moves one activation by an "
    "8-bit step; the bar leaves room for a few of those",
)
PHONE_INPUT = Tolerance(
    "input tensor, phone",
    0.0,  # one grey level, in the units of the model's standard deviation: see phone_input()
    "a phone's decoder and resizing may round a pixel to the next grey level, and no further",
)
BOXES = Tolerance(
    "boxes, corner shift in px of the probability map",
    1.0,
    "corners are whole pixels there, so a probability that differs in its last bit may move one by a pixel",
)
TEXTS = Tolerance("texts, edit distance", 0.0, "any other letter is what the user would see")
REPEAT = Tolerance(
    "the same again",
    1e-6,
    "the same input through the same engine is the same computation: bit-identical answers are expected, and said when "
    "they are not",
)


def phone_input(std: Sequence[float]) -> Tolerance:
    """One grey level in normalised units; std: the manifest's."""
    # A hair more than the level itself, because the phone computes it in float32.
    return Tolerance(PHONE_INPUT.what, 1.001 * INPUT_LEVELS / (255 * min(std)), PHONE_INPUT.why)


def fused(value: float, *, quantized: bool) -> Tolerance:
    """What the user allows where kernels differ, FUSED by default."""
    base = INT8 if quantized else FUSED
    return Tolerance(base.what, value, base.why if value == base.value else "given with --tolerance")
