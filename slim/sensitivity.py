"""Measure what pruning costs: the loss of a model's metric for each group of filters at each ratio.

    python slim/sensitivity.py ocr_models/pretrained/rec --data data/val --out out/rec-sensitivity
    python slim/sensitivity.py out/det --data data/val --out out/det-sensitivity --workers 4

Li et al. 2016, "Pruning Filters for Efficient ConvNets", arXiv:1608.08710. A group is what has to be cut together; the
filters are those that slim/prune.py removes (FPGM). Filters are masked, not cut out; what lies before them is computed
once, on prepared samples. A group whose loss is beyond --max-loss is not measured at larger ratios.
OUT holds a file for each measurement, so the same command goes on after a kill, and more processes, also on other
machines that see the folder, may run it at the same time; then sensitivity.json and sensitivity.png.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import artifact
import command

if TYPE_CHECKING:
    from artifact import Manifest
    from slim.sensitivity_record import Sensitivity

RATIOS = tuple(round(0.1 * step, 1) for step in range(1, 10))
# Samples that rank the groups as the whole validation set does; benchmarks/sensitivity_speed.py shows it.
LIMITS = {"det": 18, "cls": 400, "rec": 300}
MAX_LOSS = 0.5
PICTURE = "sensitivity.png"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sensitivity.py",
        description=(__doc__ or "").splitlines()[0],
        epilog="Exit 0 done, 2 bad input, 130 Ctrl-C; finished measurements are kept.",
    )
    limits = ", ".join(f"{task} {limit}" for task, limit in LIMITS.items())
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="float checkpoint of a detector, … recognizer")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="labels: DIR/<task>/label.txt")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="measurements, sensitivity.json and .png"
    )
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS), metavar="R", help="default: .1 to .9")
    parser.add_argument("--limit", type=int, metavar="N", help=f"samples, spread over all; 0: all (default: {limits})")
    parser.add_argument("--max-loss", type=float, default=MAX_LOSS, metavar="L", help=f"default: {MAX_LOSS}")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes, of one thread (default: 1)")
    parser.add_argument("--helper", action="store_true", help=argparse.SUPPRESS)
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    started = time.monotonic()
    _check(args)
    manifest = artifact.load(args.artifact, kind="checkpoint")
    if manifest.quantized:
        raise command.ModelError(
            f"{args.artifact}: expected a float checkpoint, found a quantized one; give its parent"
        )
    if manifest.task not in LIMITS:
        raise command.ModelError(
            f"{args.artifact}: expected a checkpoint of {', '.join(LIMITS)}, found {manifest.task}; give one network"
        )
    os.environ.setdefault("GLOG_minloglevel", "2")
    from slim import cpu_environment

    cpu_environment.prepare(1)
    import cv2

    from slim import prepared_samples
    from slim.measurements import Measurements
    from slim.scoring import find_labels
    from slim.sensitivity_run import SensitivityRun

    cv2.setNumThreads(1)
    label_file = find_labels(args.data, manifest.task)
    limit = LIMITS[manifest.task] if args.limit is None else args.limit or None
    prepared = prepared_samples.prepare(args.artifact, manifest, label_file, limit)
    store = Measurements(args.out, _identity(args, manifest, label_file, prepared))
    measuring = SensitivityRun(args.artifact, manifest, prepared, store, args.ratios, args.max_loss)
    helpers = [] if args.helper else [_start_helper(args) for _ in range(args.workers - 1)]
    try:
        measuring.measure(patient=not args.helper)
    finally:
        failed = [helper for helper in helpers if helper.wait()]
    if args.helper:
        return command.EXIT_DONE
    if failed:
        print(f"sensitivity.py: {len(failed)} workers failed; the others did their share", file=sys.stderr)
    record = measuring.record(_digest(store.identity["weights"]), _digest(store.identity["data"]))
    record.save(args.out)
    from slim.sensitivity_picture import draw

    draw(record, args.out / PICTURE)
    times = os.times()
    cpu = times.user + times.system + times.children_user + times.children_system
    _report(args, record, time.monotonic() - started, cpu)
    return command.EXIT_DONE


def _check(args: argparse.Namespace) -> None:
    args.ratios = sorted(set(args.ratios))
    if not all(0 < ratio < 1 for ratio in args.ratios):
        raise command.UsageError(f"expected --ratios between 0 and 1, found {args.ratios}")
    if args.limit is not None and args.limit < 0:
        raise command.UsageError(f"expected --limit of at least 0, found {args.limit}")
    if args.workers < 1:
        raise command.UsageError(f"expected --workers of at least 1, found {args.workers}")
    if not 0 < args.max_loss <= 1:
        raise command.UsageError(f"expected --max-loss above 0, at most 1, found {args.max_loss}")


def _identity(args: argparse.Namespace, manifest: Manifest, label_file: Path, prepared: Any) -> dict[str, Any]:
    """What the numbers depend on: whoever shares the folder must agree in all of it."""
    images = hashlib.sha256()
    for batch in prepared.batches:
        images.update(batch.x.tobytes())
    return {
        "task": manifest.task,
        "weights": {name: entry["sha256"] for name, entry in manifest.files.items()},
        "data": {"labels": hashlib.sha256(label_file.read_bytes()).hexdigest(), "images": images.hexdigest()},
        "post": manifest.post,
        "samples": prepared.samples,
        "ratios": args.ratios,
        "max_loss": args.max_loss,
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _start_helper(args: argparse.Namespace) -> subprocess.Popen:
    """Another process for the same folder, on one thread of its own."""
    values = ["--data", args.data, "--out", args.out, "--max-loss", args.max_loss, "--ratios", *args.ratios]
    if args.limit is not None:
        values += ["--limit", args.limit]
    line = [sys.executable, __file__, args.artifact, *values, "--helper"]
    return subprocess.Popen([str(part) for part in line], stdout=subprocess.DEVNULL)


def _report(args: argparse.Namespace, record: Sensitivity, wall_s: float, cpu_s: float) -> None:
    shown = [record.ratios[len(record.ratios) * part // 4] for part in (1, 2, 3)]
    shown = sorted(set(shown))
    rows = []
    for group in sorted(record.groups, key=lambda group: -record.mean_loss(group.name)):
        losses = dict(zip(record.ratios, record.losses(group.name), strict=True))
        rows.append(
            (
                group.name,
                group.filters,
                f"{record.mean_loss(group.name):.4f}",
                *(f"{losses[ratio]:.4f}" for ratio in shown),
            )
        )
    text = command.table(("group", "filters", "mean loss", *(f"at {ratio:g}" for ratio in shown)), rows)
    base = "   ".join(f"{name} {value:.4f}" for name, value in record.baseline.items())
    line = (
        f"{record.name}: {len(record.groups)} groups at {len(record.ratios)} ratios on {record.samples} of {record.of} "
        f"samples   {base}   {wall_s:.0f} s, {cpu_s:.0f} s of CPU"
    )
    data = {
        "out": str(args.out),
        "task": record.task,
        "samples": record.samples,
        "of": record.of,
        "metric": record.metric,
        "baseline": record.baseline,
        "mean_losses": {group.name: record.mean_loss(group.name) for group in record.groups},
        "wall_s": round(wall_s, 3),
        "cpu_s": round(cpu_s, 3),
    }
    command.emit(args, data, f"{text}\n{line}\nwritten to {args.out}")


if __name__ == "__main__":
    command.main(build_parser(), run)
