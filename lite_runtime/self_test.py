"""Prove on this machine that a bundle's models compute here what they computed where the bundle was made.

    python lite_runtime/self_test.py [BUNDLE] [--record DIR]

Runs Paddle-Lite on the bundle's own images and compares tensors, boxes and texts with the expected ones; exit 1 when
one differs. --record keeps what was computed, as a folder that export/check_parity.py --phone reads.
"""

from __future__ import annotations

import argparse
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import artifact
import command

if TYPE_CHECKING:
    import numpy as np

    from lite_runtime.bundle import Models
    from lite_runtime.pipeline import OcrPipeline
    from lite_runtime.recording import RecordedImage, Recording

# Largest difference of a probability that passes, by the precision of the model's kernels.
OUTPUT_TOLERANCE = {
    # Other kernels add in another order; on the steep part of a sigmoid that moves a probability by up to 5e-5,
    # a wrong weight, scale or layout by 1e-2 and more.
    "fp32": 5e-4,
    # Half precision keeps 11 bits: 3e-4 on ARM kernels, and room for pictures nearer to the sigmoid's steep part.
    "fp16": 5e-3,
    # Whole numbers add up exactly: ARM kernels gave the fake-quantized model's values to 2e-8. A scale that rounds to
    # the other side of a half moves one activation by a step, an 8-bit share of its range: room for a few of those.
    "int8": 5e-3,
}
# Decoding PNG is exact; another build of OpenCV may resize to the next grey level.
INPUT_LEVELS = 1
# Corners are whole pixels of the map, enlarged to the image: a probability's last bit may move one by a pixel there.
CORNER_PX = 2.0
SCORE = 0.01


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="self_test.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", type=Path, nargs="?", metavar="BUNDLE", help="bundle (default: the fp32 x86 one)")
    parser.add_argument("--record", type=Path, metavar="DIR", help="new folder for what this machine computed")
    command.add_common(parser)
    return parser


@dataclass(frozen=True)
class Check:
    """One comparison. difference: None where nothing could be compared; found: for people."""

    image: str
    what: str
    difference: float | None
    tolerance: float
    found: str
    passed: bool


def run(args: argparse.Namespace) -> int:
    from lite_runtime import bundle, recording
    from lite_runtime.engine import library_version
    from lite_runtime.pipeline import DEFAULT_MODELS, OcrPipeline

    if args.record is not None and args.record.exists():
        raise command.UsageError(
            f"{args.record}: expected a folder that does not exist yet, found one; give another --record"
        )
    models = bundle.read(args.models or DEFAULT_MODELS)
    expected = read_expected(models)
    ocr = OcrPipeline.from_models(models)
    found = recording.Recording(
        f"paddlelite {library_version()}",
        tuple(_record(ocr, models, image.image, image.sha256) for image in expected.images),
        {"machine": platform.machine(), "system": platform.system(), "bundle": artifact.digest(models.folder)},
    )
    checks = compare(models, ocr, expected, found)
    if args.record is not None:
        save(args.record, models, found)
    passed = all(check.passed for check in checks)
    data = {
        "bundle": str(models.folder),
        "engine": found.engine,
        "passed": passed,
        "checks": [asdict(check) for check in checks],
        "record": str(args.record) if args.record else None,
    }
    command.emit(args, data, _text(models, found, checks))
    return command.EXIT_DONE if passed else command.EXIT_CHECK_FAILED


def read_expected(models: Models) -> Recording:
    """What a bundle's models have to compute. Raises ArtifactError where the folder does not say."""
    from lite_runtime import recording

    if models.self_test is None:
        raise artifact.ArtifactError(
            f"{models.folder}: expected a bundle with self_test/, found none; make it with export/bundle.py"
        )
    return recording.read(models.self_test, images=True)


def compare(models: Models, ocr: OcrPipeline, expected: Recording, found: Recording) -> list[Check]:
    """Every image: the networks' answers to the expected inputs, then what the whole pipeline made of the picture."""
    checks: list[Check] = []
    for want in expected.images:
        have = found.image(want.image)
        if have is None:
            checks.append(Check(want.image, "image", None, 0.0, "not read", False))
            continue
        checks += _compare_outputs(models, ocr, want)
        checks += _compare_inputs(models, want, have)
        checks += _compare_lines(ocr, want, have)
    return checks


def save(out: Path, models: Models, found: Recording) -> None:
    """Write a recorded run with its images to a new folder."""
    from lite_runtime import recording

    assert models.self_test is not None
    with artifact.create(out) as folder:
        for image in found.images:
            (folder / image.image).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(models.self_test / image.image, folder / image.image)
        recording.write(folder, found)


def _record(ocr: OcrPipeline, models: Models, name: str, sha256: str) -> RecordedImage:
    from lite_runtime import preprocess, recorder

    assert models.self_test is not None
    return recorder.record(ocr, preprocess.read_image(models.self_test / name), name, sha256)


def _compare_outputs(models: Models, ocr: OcrPipeline, want: RecordedImage) -> list[Check]:
    """Each network on the inputs that were recorded, so that nothing before it can blur the comparison."""
    stages = {"det": ocr.det, "cls": ocr.cls, "rec": ocr.rec}
    checks = []
    for task, stage in stages.items():
        tensors = [tensor for tensor in want.tensors if tensor.task == task]
        if stage is None or not tensors:
            continue
        tolerance = output_tolerance(models, task)
        gap = max(_gap(stage.engine.run(_contiguous(t.input)), t.output) for t in tensors)
        said = f"{len(tensors)} run{'' if len(tensors) == 1 else 's'}"
        checks.append(_check(want.image, f"{task} output", gap, tolerance, said))
    return checks


def output_tolerance(models: Models, task: str) -> float:
    precision = str(models.manifests[task].extra.get("precision", "fp32"))
    return OUTPUT_TOLERANCE.get(precision, OUTPUT_TOLERANCE["fp32"])


def input_tolerance(models: Models, task: str) -> float:
    """INPUT_LEVELS in the network's units."""
    eats = models.manifests[task].input
    assert eats is not None
    # A hair more than the level itself, because it is computed in float32.
    return 1.001 * INPUT_LEVELS / (255 * min(eats.std))


def _compare_inputs(models: Models, want: RecordedImage, have: RecordedImage) -> list[Check]:
    """What the image became before each network; of a line only where its box is the same to the pixel."""
    checks = []
    for task in ("det", "cls", "rec"):
        gaps = []
        for tensor in (t for t in want.tensors if t.task == task):
            other = have.tensor(task, tensor.index)
            if other is not None and (task == "det" or _same_line(want, have, tensor.index)):
                gaps.append(_gap(other.input, tensor.input))
        if gaps:
            said = f"{len(gaps)} run{'' if len(gaps) == 1 else 's'}"
            checks.append(_check(want.image, f"{task} input", max(gaps), input_tolerance(models, task), said))
    return checks


def _same_line(want: RecordedImage, have: RecordedImage, index: int) -> bool:
    lines = [image.lines[index] if index < len(image.lines) else None for image in (want, have)]
    return None not in lines and (lines[0].quad, lines[0].angle) == (lines[1].quad, lines[1].angle)  # type: ignore[union-attr]


def _compare_lines(ocr: OcrPipeline, want: RecordedImage, have: RecordedImage) -> list[Check]:
    """Boxes, directions and texts, line by line in reading order; text below drop_score is nobody's."""
    import numpy as np

    if len(want.lines) != len(have.lines):
        said = f"{len(have.lines)} lines, expected {len(want.lines)}"
        return [Check(want.image, "boxes", None, CORNER_PX, said, False)]
    if not want.lines:
        return [Check(want.image, "boxes", 0.0, CORNER_PX, "0 lines", True)]
    quads = [np.array([line.quad for line in image.lines]) for image in (want, have)]
    checks = [
        _check(want.image, "boxes", float(np.abs(quads[0] - quads[1]).max()), CORNER_PX, f"{len(want.lines)} lines")
    ]
    pairs = [pair for pair in zip(want.lines, have.lines, strict=True) if pair[0].score >= ocr.options.drop_score]
    turned = sum(a.angle != b.angle for a, b in pairs)
    other = [(a.text, b.text) for a, b in pairs if a.text != b.text]
    said = f"{len(pairs)} texts" if not other else f"{other[0][1]!r}, expected {other[0][0]!r}"
    checks.append(Check(want.image, "directions", float(turned), 0.0, f"{len(pairs)} lines", turned == 0))
    checks.append(Check(want.image, "texts", float(len(other)), 0.0, said, not other))
    scores = max((abs(a.score - b.score) for a, b in pairs), default=0.0)
    checks.append(_check(want.image, "scores", scores, SCORE, f"{len(pairs)} texts"))
    return checks


def _check(image: str, what: str, difference: float, tolerance: float, found: str) -> Check:
    import math

    passed = difference <= tolerance  # False for NaN
    return Check(image, what, difference if math.isfinite(difference) else None, tolerance, found, passed)


def _gap(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference; infinite for other shapes, NaN or infinite values."""
    import numpy as np

    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max())


def _contiguous(x: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.ascontiguousarray(x, np.float32)


def _text(models: Models, found: Recording, checks: list[Check]) -> str:
    rows = [
        (
            Path(check.image).name,
            check.what,
            "-" if check.difference is None else f"{check.difference:.2g}",
            f"{check.tolerance:.2g}",
            check.found,
            "ok" if check.passed else "DIFFERS",
        )
        for check in checks
    ]
    failed = [check for check in checks if not check.passed]
    heads = ("image", "what", "difference", "tolerance", "found", "")
    where = f"{models.folder} on {found.engine}, {platform.machine()}"
    verdict = "computes what it did where it was made"
    if failed:
        verdict = f"differs first in {failed[0].what} of {Path(failed[0].image).name}"
    return f"{command.table(heads, rows)}\n\n{where}: {verdict}"


if __name__ == "__main__":
    command.main(build_parser(), run, native=True)
