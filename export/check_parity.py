"""Prove that a model computes the same at every stage: trainable network = Paddle's inference engine = Paddle-Lite.

    python export/check_parity.py CHECKPOINT INFERENCE [NB…] [--images DIR | --data DIR] [--tolerance X] [--out FILE]

Every stage gets the same prepared inputs, of several shapes and batch sizes, and the first of them once more at the
end. An int8 model is judged by Paddle with oneDNN off, because Paddle-Lite's int8 kernels for x86 are wrong; an ARM
file cannot run here and is judged by its structure. Exit 1 with the table when a stage differs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import artifact
import command
from artifact import Manifest
from command import ModelError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from export.parity import Finding, Rung
    from export.parity_cases import Case
    from lite_runtime.engine import Engine

COMMAND = "export/check_parity.py"

# The same operators of the same library in the same order: nothing but the number of threads may round differently.
AS_SAVED_TOLERANCE = 1e-6
# Fused operators and other kernels add in another order. On the steep part of a sigmoid that moves a probability by up
# to 5e-5 (published detector, photos), in softmax outputs by 2e-5; a wrong weight, scale or layout by 1e-2 and more.
FUSED_TOLERANCE = 5e-4


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Check that checkpoint, inference model and .nb files of one model compute the same."
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint artifact (float, pruned or PACT-quantized)")
    parser.add_argument("inference", type=Path, help="inference artifact made from it")
    parser.add_argument(
        "nb", type=Path, nargs="*", help="nb artifacts made from that, x86 or arm; none for int8 is fine"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--images", type=Path, metavar="DIR", help="photos (det) or crops (cls, rec); default: drawn pages"
    )
    where.add_argument("--data", type=Path, metavar="DIR", help="data set folder: the images under DIR/<task>")
    parser.add_argument("--limit", type=int, default=6, help="images to use of a folder (default 6)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=FUSED_TOLERANCE,
        help=f"largest difference of a probability where kernels differ (default {FUSED_TOLERANCE:g})",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the result as JSON")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    os.environ.setdefault("GLOG_minloglevel", "2")
    if args.limit < 1 or not args.tolerance >= 0:
        raise UsageError(f"expected --limit from 1 and --tolerance from 0, found {args.limit} and {args.tolerance}")
    from export import parity_cases

    manifest = artifact.load(args.checkpoint, kind="checkpoint")
    folder = args.data / manifest.task if args.data else args.images
    images = parity_cases.read_images(folder, args.limit) if folder else parity_cases.draw_images(manifest.task)
    report = check(args.checkpoint, args.inference, args.nb, images, tolerance=args.tolerance)
    if args.out is not None:
        command.write_text(args.out, json.dumps(report.to_json(), indent=2, ensure_ascii=False) + "\n")
    command.emit(args, report.to_json(), report.to_text())
    return 0 if report.passed else 1


@dataclass(frozen=True)
class Report:
    manifest: Manifest
    rungs: list[Rung]
    findings: list[Finding]
    note: str

    @property
    def passed(self) -> bool:
        return all(rung.passed for rung in self.rungs) and all(finding.passed for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        from export import parity

        return {
            "name": self.manifest.name,
            "task": self.manifest.task,
            "passed": self.passed,
            "first_failure": parity.first_failure(self.rungs, self.findings),
            "rungs": [_record(rung) for rung in self.rungs],
            "structure": [dataclasses.asdict(finding) for finding in self.findings],
            "note": self.note,
        }

    def to_text(self) -> str:
        from export import parity

        rows = [
            (
                rung.stage,
                rung.case,
                f"{rung.difference.max_abs:.1e}",
                f"{rung.difference.mean_abs:.1e}",
                f"{rung.difference.cosine:.6f}",
                f"{rung.tolerance:.0e}",
                rung.result if rung.same else f"{rung.result}, not the same",
                "ok" if rung.passed else "DIFFERS",
            )
            for rung in self.rungs
        ]
        heads = ("stage", "input", "max", "mean", "cosine", "tolerance", "result", "")
        parts = [command.table(heads, rows)]
        if self.findings:
            structure = [(f.what, f.expected, f.found, "ok" if f.passed else "DIFFERS") for f in self.findings]
            parts.append(command.table(("structure", "expected", "found", ""), structure))
        failed = parity.first_failure(self.rungs, self.findings)
        name = f"{self.manifest.name} ({self.manifest.task})"
        verdict = f"{name}: differs first at {failed}" if failed else f"{name}: every stage computes the same"
        return "\n\n".join([*parts, "; ".join(part for part in (verdict, self.note) if part)])


def _record(rung: Rung) -> dict[str, Any]:
    """A rung as JSON, which knows no infinity: null is what cannot be compared."""
    gap = {k: v if math.isfinite(v) else None for k, v in dataclasses.asdict(rung.difference).items()}
    return {**dataclasses.asdict(rung), "difference": gap, "passed": rung.passed}


def check(
    checkpoint: Path, inference: Path, nbs: Sequence[Path], images: Sequence[np.ndarray], *, tolerance: float
) -> Report:
    """Compare all stages of one model. Raises ArtifactError, ModelError or UsageError for unusable folders."""
    from export import parity_cases, structure
    from lite_runtime.engine import open_nb
    from ocr_models.paddle_engine import InferenceEngine, NetworkEngine

    network, manifest = _open_network(checkpoint)
    exported = artifact.load(inference, kind="inference", task=manifest.task)
    files = [artifact.load(nb, kind="nb", task=manifest.task) for nb in nbs]
    if exported.quantized != manifest.quantized:
        raise UsageError(
            f"{inference}: expected a {'quantized' if manifest.quantized else 'float'} model like the checkpoint, "
            "found the other; give the one that export/to_inference.py made from it"
        )
    cases = parity_cases.make_cases(manifest, images)
    judge = _judge(checkpoint, manifest)
    stages: list[tuple[str, Engine, float]] = [
        ("inference, as saved", InferenceEngine(inference, optimize=False), AS_SAVED_TOLERANCE)
    ]
    # oneDNN is off for int8 by itself: it would replace the simulated quantization by kernels of its own.
    stages.append(("inference, fused", InferenceEngine(inference), tolerance))
    findings = []
    for nb, record in zip(nbs, files, strict=True):
        if record.extra.get("target") == "x86":
            stages.append((f"{nb.name}, x86", open_nb(nb)[0], tolerance))
        findings += structure.check_nb(nb, record, inference)
    reference = NetworkEngine(network)
    outputs = [reference.run(case.x) for case in cases]
    rungs = []
    for stage, engine, limit in stages:
        rungs += _compare(stage, engine, cases, outputs, limit, judge)
        engine.close()
    reference.close()
    return Report(manifest, rungs, findings, _lineage(checkpoint, inference, exported, nbs, files))


def _open_network(checkpoint: Path) -> tuple[Any, Manifest]:
    """The trainable network; of a quantized checkpoint the fake-quant one."""
    if artifact.load(checkpoint, kind="checkpoint").quantized:
        from slim import pact

        return pact.load_quantized(checkpoint)
    from ocr_models.checkpoints import load_network

    return load_network(checkpoint)


def _compare(
    stage: str,
    engine: Engine,
    cases: Sequence[Case],
    outputs: Sequence[np.ndarray],
    tolerance: float,
    judge: Callable[[np.ndarray, np.ndarray], tuple[str, bool]],
) -> list[Rung]:
    """One stage on all inputs, then on the first one again: an engine that remembers anything shows it there."""
    from export.parity import Rung, difference

    rungs = []
    answers = []
    for case, expected in zip(cases, outputs, strict=True):
        try:
            found = engine.run(case.x)
        except ValueError as error:
            raise ModelError(str(error)) from None
        answers.append(found)
        result, same = judge(expected, found)
        rungs.append(Rung(stage, case.label, difference(expected, found), tolerance, result, same))
    again = engine.run(cases[0].x)
    result, same = judge(answers[0], again)
    rungs.append(
        Rung(stage, f"{cases[0].label} again", difference(answers[0], again), AS_SAVED_TOLERANCE, result, same)
    )
    return rungs


def _judge(checkpoint: Path, manifest: Manifest) -> Callable[[np.ndarray, np.ndarray], tuple[str, bool]]:
    """(reference output, other output) → what the other one says, and whether it is what the reference says."""
    import numpy as np

    from export.parity import same_boxes
    from lite_runtime import ctc_decode, db_postprocess
    from lite_runtime.options import Options

    options = Options.from_manifests(manifest)
    names = ("thresh", "box_thresh", "unclip_ratio", "max_candidates", "score_mode", "use_dilation")

    def boxes(output: np.ndarray) -> np.ndarray:
        height, width = output.shape[2:]
        return db_postprocess.boxes_from_prob_map(
            output[0, 0], image_shape=(height, width), **{name: getattr(options, name) for name in names}
        )[0]

    def judge(reference: np.ndarray, other: np.ndarray) -> tuple[str, bool]:
        if reference.shape != other.shape:
            return f"output {list(other.shape)}", False
        if not np.isfinite(other).all():
            return "NaN", False
        if manifest.task == "det":
            quads = boxes(other)
            return _count(len(quads), "box", "boxes"), same_boxes(boxes(reference), quads)
        if manifest.task == "cls":
            return _count(len(other), "label"), bool((reference.argmax(-1) == other.argmax(-1)).all())
        texts = [[text for text, _ in ctc_decode.greedy(probs, labels, blank)] for probs in (reference, other)]
        return _count(len(texts[1]), "text"), texts[0] == texts[1]

    labels: list[str] = []
    blank = 0
    if manifest.charset:
        blank = manifest.charset.blank
        labels = artifact.charset_labels(artifact.read_charset(checkpoint, manifest), manifest.charset.space)
    return judge


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _lineage(
    checkpoint: Path, inference: Path, exported: Manifest, nbs: Sequence[Path], files: Sequence[Manifest]
) -> str:
    """A note when an artifact says that it was made from another one: the likeliest cause of a difference."""
    if exported.parent != artifact.digest(checkpoint):
        return f"{inference} says that it was made from another checkpoint than {checkpoint}"
    parent = artifact.digest(inference)
    strangers = [str(nb) for nb, record in zip(nbs, files, strict=True) if record.parent != parent]
    return f"{', '.join(strangers)} says that it was made from another model than {inference}" if strangers else ""


if __name__ == "__main__":
    command.main(build_parser(), run, native=True)
