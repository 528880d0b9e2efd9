"""Measure models on labelled data with the runtime's own pre- and post-processing.

    python slim/evaluate.py out/rec --data data/test                       lines exactly right, 1−NED
    python slim/evaluate.py out/det out/cls out/rec --data data/test       each, and end to end
    python slim/evaluate.py out/bundle-x86 --data data/test
    python slim/evaluate.py out/det --data data/test --per-image out/det-images.json

Takes checkpoint, inference and fp32 x86 .nb artifacts; an .nb for ARM or with int8 kernels cannot be judged on this
machine and is refused. Intervals: 95 %, bootstrap over images (lines for cls and rec).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import artifact
import command
from artifact import Manifest
from slim import cpu_environment

if TYPE_CHECKING:
    from lite_runtime.engine import Engine

BATCH = 32
# What one sample's record holds; two models' records of the same samples say how sure their difference is.
COLUMNS = {
    "det": ("matched", "detected", "expected"),
    "cls": ("right",),
    "rec": ("exact", "similarity"),
    "system": ("matched", "detected", "expected"),
}


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description=(__doc__ or "").splitlines()[0], epilog="Exit 0 done, 2 bad input."
    )
    parser.add_argument(
        "artifacts", nargs="+", type=Path, metavar="ARTIFACT", help="one model, or det [cls] rec, or a bundle"
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="labels: DIR/<task>/label.txt")
    parser.add_argument("--limit", type=int, help="at most so many samples a task, spread over all of them")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the result as JSON")
    parser.add_argument("--per-image", type=Path, metavar="FILE", help="also write every sample's own score as JSON")
    parser.add_argument("--end-to-end", action="store_true", help="measure only what det [cls] rec read together")
    parser.add_argument("--record", action="store_true", help="write each model's metrics into its manifest")
    parser.add_argument("--threads", type=int, default=1, help="threads of paddle.inference (default: 1)")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    if args.limit is not None and args.limit < 1:
        raise command.UsageError(f"expected --limit of at least 1, found {args.limit}")
    if args.record and args.limit is not None:
        raise command.UsageError(
            f"expected --record without --limit, found --limit {args.limit}; a manifest holds metrics of all samples"
        )
    for option, path in (("--out", args.out), ("--per-image", args.per_image)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            # Said before the minutes that evaluating takes, not after them.
            raise command.UsageError(
                f"{path}: expected a file to write in a folder that exists, found none; give another {option}"
            )
    if args.record and (bundles := [str(path) for path in args.artifacts if _is_bundle(path)]):
        raise command.UsageError(
            f"{bundles[0]}: expected single models with --record, found a bundle, whose hashes it would break; "
            "record the models that it was made from"
        )
    folders = _folders(args.artifacts)
    if args.end_to_end and not {"det", "rec"} <= set(folders):
        raise command.UsageError(
            f"expected a detector and a recognizer with --end-to-end, found {', '.join(folders)}; give both"
        )
    cpu_environment.prepare(args.threads)
    from slim.engines import open_engine

    opened = {task: (*open_engine(folder, threads=args.threads), folder) for task, folder in folders.items()}
    results: dict[str, dict[str, Any]] = {}
    with _quick(manifest.kind for _, manifest, _ in opened.values()):
        for task, (engine, manifest, folder) in () if args.end_to_end else opened.items():
            results[task] = _judge(task, _stage(engine, manifest, folder), args.data, args.limit)
            if args.record:
                _record(folder, manifest, results[task])
        if "det" in opened and "rec" in opened:
            results["system"] = _judge("system", _pipeline(opened), args.data, args.limit)
    for engine, _, _ in opened.values():
        engine.close()
    scores = {task: result.pop("per_image") for task, result in results.items()}
    if args.per_image is not None:
        command.write_text(args.per_image, json.dumps({"schema": 1, "tasks": scores}) + "\n")
    report = {
        "data": str(args.data),
        "models": {task: str(folder) for task, folder in folders.items()},
        "results": results,
    }
    if args.out is not None:
        command.write_text(args.out, json.dumps(report, indent=2) + "\n")
    rows = [
        (task, name, f"{value:.4f}", "{:.4f} to {:.4f}".format(*result["intervals"][name]), result["samples"])
        for task, result in results.items()
        for name, value in result["metrics"].items()
    ]
    command.emit(args, report, command.table(("task", "metric", "value", "95 % interval", "samples"), rows))
    return command.EXIT_DONE


def _is_bundle(folder: Path) -> bool:
    return artifact.load(folder, verify=False).kind == "bundle"


def _folders(given: Sequence[Path]) -> dict[str, Path]:
    """task → artifact folder. Raises UsageError for two models of a task."""
    folders: dict[str, Path] = {}
    for folder in given:
        parts = [folder]
        if _is_bundle(folder):
            parts = sorted(path.parent for path in folder.glob(f"*/{artifact.MANIFEST}"))
        for part in parts:
            task = artifact.load(part, kind=("checkpoint", "inference", "nb"), verify=False).task
            if task in folders:
                raise command.UsageError(f"expected one {task} model, found {folders[task]} and {part}; give one")
            folders[task] = part
    order = ("det", "cls", "rec")
    return {task: folders[task] for task in order if task in folders}


def _quick(kinds: Iterable[str]) -> AbstractContextManager:
    """Trainable networks run on the training's own depthwise kernels, several times faster than on Paddle's."""
    if "checkpoint" not in kinds:
        return contextlib.nullcontext()
    from slim.cpu_training import fast_convolutions

    return fast_convolutions()


def _stage(engine: Engine, manifest: Manifest, folder: Path) -> Any:
    from lite_runtime.detector import TextDetector
    from lite_runtime.direction import DirectionClassifier
    from lite_runtime.options import Options
    from lite_runtime.recognizer import TextRecognizer

    options = Options.from_manifests(manifest, cls_batch_num=BATCH, rec_batch_num=BATCH)
    if manifest.task == "det":
        return TextDetector(engine, manifest, options)
    if manifest.task == "cls":
        return DirectionClassifier(engine, manifest, options)
    entries = artifact.read_charset(folder, manifest)
    labels = artifact.charset_labels(entries, manifest.charset.space if manifest.charset else True)
    return TextRecognizer(engine, manifest, labels, options)


def _pipeline(opened: dict[str, tuple[Engine, Manifest, Path]]) -> Any:
    from lite_runtime.options import Options
    from lite_runtime.pipeline import OcrPipeline

    stages = {task: _stage(*parts) for task, parts in opened.items()}
    options = Options.from_manifests(*(manifest for _, manifest, _ in opened.values()))
    return OcrPipeline(stages["det"], stages.get("cls"), stages["rec"], options)


def _judge(task: str, stage: Any, data: Path, limit: int | None) -> dict[str, Any]:
    """What one stage scores, or the whole pipeline on the detector's scenes.

    {"metrics", "intervals", "samples", "measured_on": see scoring.measured_on,
    "per_image": {"labels_sha256", "columns", "images": paths from the label file's folder, "records": a row an image}}
    """
    from slim import labels, metrics, scoring

    read: dict[str, Callable[[Path], list]] = {
        "det": labels.read_det_labels,
        "cls": labels.read_cls_labels,
        "rec": labels.read_rec_labels,
        "system": labels.read_det_labels,
    }
    score: dict[str, Callable[[Any, Any], Any]] = {
        "det": scoring.score_detector,
        "cls": scoring.score_classifier,
        "rec": scoring.score_recognizer,
        "system": scoring.score_pipeline,
    }
    measure: dict[str, Callable[[Any], dict[str, float]]] = {
        "det": metrics.f_score,
        "cls": metrics.direction,
        "rec": metrics.reading,
        "system": lambda counts: {"f_score": metrics.f_score(counts)["hmean"]},
    }
    label_file = scoring.find_labels(data, "det" if task == "system" else task)
    known = read[task](label_file)
    samples = scoring.spread(known, limit)
    print(f"{task}: {len(samples)} samples of {label_file}", file=sys.stderr, flush=True)
    records = score[task](stage, samples)
    measured_on = scoring.measured_on(label_file, len(samples), len(known))
    return {
        "metrics": measure[task](records),
        "intervals": metrics.bootstrap(records, measure[task]),
        "samples": len(samples),
        "measured_on": measured_on,
        "per_image": {
            "labels_sha256": measured_on["labels_sha256"],
            "columns": COLUMNS[task],
            "images": [os.path.relpath(path, label_file.parent) for path, _ in samples],
            "records": metrics.rows(records),
        },
    }


def _record(folder: Path, manifest: Manifest, result: dict[str, Any]) -> None:
    # Manifests of an older trainer said it there, and it would now contradict.
    extra = {key: value for key, value in manifest.extra.items() if key != "validation_samples"}
    measured = manifest.replace(metrics=result["metrics"], measured_on=result["measured_on"], extra=extra)
    text = json.dumps(measured.to_json(), indent=2, ensure_ascii=False) + "\n"
    command.write_text(folder / artifact.MANIFEST, text)


if __name__ == "__main__":
    command.main(build_parser(), run, native=True)
