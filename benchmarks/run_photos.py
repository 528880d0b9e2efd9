"""Latency of whole systems on photos, interleaved, so that drift hits all of them alike: fp32 x86 `.nb` models only.

    python benchmarks/run_photos.py DET CLS REC [DET CLS REC ...] --photos samples --rounds 5

Each three nb artifacts are one system. Every round reads all photos with each system, in an order that turns with the
round; a sample is the round's time divided by the photos. What a photo takes depends on its lines: compare systems on
the same photos only. The first system is what the others are compared with.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import artifact
import command

if TYPE_CHECKING:
    from lite_runtime.pipeline import OcrPipeline

TASKS = ("det", "cls", "rec")
PICTURES = (".jpg", ".jpeg", ".png")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run_photos.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifacts", nargs="+", type=Path, metavar="NB", help="DET CLS REC of each system")
    parser.add_argument("--photos", type=Path, required=True, metavar="DIR", help="folder of pictures")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default 5)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every sample to this JSON file")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    if args.rounds < 1:
        raise command.UsageError(f"expected --rounds of at least 1, found {args.rounds}")
    if len(args.artifacts) % len(TASKS):
        raise command.UsageError(f"expected DET CLS REC of each system, found {len(args.artifacts)} artifacts")
    photos = sorted(path for path in args.photos.glob("*") if path.suffix.lower() in PICTURES)
    if not photos:
        raise command.UsageError(f"{args.photos}: expected pictures ({', '.join(PICTURES)}), found none; give another")
    systems = [args.artifacts[at : at + len(TASKS)] for at in range(0, len(args.artifacts), len(TASKS))]
    for folders in systems:
        for task, folder in zip(TASKS, folders, strict=True):
            artifact.load(folder, kind="nb", task=task)
    report: dict[str, Any] = {
        "schema": 1,
        "photos": len(photos),
        "systems": summarize(measure(systems, photos, args.rounds)),
    }
    if args.out:
        command.write_text(args.out, json.dumps(report, indent=2) + "\n")
    cells = [
        [
            ", ".join(row["artifacts"]),
            f"{row['median_ms']:.1f}",
            f"{row['median_low_ms']:.1f}–{row['median_high_ms']:.1f}",
            f"{row['ratio']:.3f} ({row['ratio_low']:.3f}–{row['ratio_high']:.3f})" if "ratio" in row else "1",
        ]
        for row in report["systems"]
    ]
    headers = ["system", "median ms a photo", "95 % interval", "ratio to the first"]
    command.emit(args, report, command.table(headers, cells))
    return command.EXIT_DONE


def measure(systems: list[list[Path]], photos: list[Path], rounds: int) -> list[dict[str, Any]]:
    """{"artifacts", "photo_ms": samples} of each system; the first round makes the predictors and is not counted."""
    from lite_runtime.preprocess import read_image

    images = [read_image(path) for path in photos]
    pipelines = [open_system(folders) for folders in systems]
    samples: list[list[float]] = [[] for _ in systems]
    for turn in command.progress(range(rounds + 1), "measuring"):
        for offset in range(len(pipelines)):
            at = (turn + offset) % len(pipelines)
            start = time.perf_counter()
            for image in images:
                pipelines[at](image)
            if turn:
                samples[at].append((time.perf_counter() - start) * 1e3 / len(images))
    for pipeline in pipelines:
        pipeline.close()
    return [
        {"artifacts": list(map(str, folders)), "photo_ms": taken}
        for folders, taken in zip(systems, samples, strict=True)
    ]


def open_system(folders: list[Path]) -> OcrPipeline:
    """The runtime's pipeline on three nb artifacts."""
    from lite_runtime.detector import TextDetector
    from lite_runtime.direction import DirectionClassifier
    from lite_runtime.engine import open_nb
    from lite_runtime.options import Options
    from lite_runtime.pipeline import OcrPipeline
    from lite_runtime.recognizer import TextRecognizer

    (det, det_manifest), (cls, cls_manifest), (rec, rec_manifest) = (open_nb(folder) for folder in folders)
    entries = artifact.read_charset(folders[-1], rec_manifest)
    labels = artifact.charset_labels(entries, rec_manifest.charset.space if rec_manifest.charset else True)
    return OcrPipeline(
        TextDetector(det, det_manifest),
        DirectionClassifier(cls, cls_manifest),
        TextRecognizer(rec, rec_manifest, labels),
        Options.from_manifests(det_manifest, cls_manifest, rec_manifest),
    )


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Median and 95 % interval of each system; ratio to the first."""
    import numpy as np

    from benchmarks.stats import median_interval, ratio_interval

    for row in rows:
        row["median_ms"], row["median_low_ms"], row["median_high_ms"] = median_interval(np.array(row["photo_ms"]))
        if row is not rows[0]:
            ratio = ratio_interval(np.array(row["photo_ms"]), np.array(rows[0]["photo_ms"]))
            row["ratio"], row["ratio_low"], row["ratio_high"] = ratio
    return rows


if __name__ == "__main__":
    command.main(build_parser(), run, native=True)
