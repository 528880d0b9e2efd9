"""Run PaddleSlim's own sensitivity analysis, one whole evaluation a group and ratio, to judge slim/sensitivity.py.

    python slim/sensitivity_baseline.py ocr_models/pretrained/rec --data data/val --out out/baseline-rec

It is `FPGMFilterPruner.sensitive` of PaddleSlim with an evaluation of every sample on the training network. Only its
list of ratios is ours to shorten. OUT holds a line for each evaluation: a killed run goes on, its time counted once.
benchmarks/sensitivity_speed.py runs it; nobody else needs it, because it takes an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import artifact
import command

EVALUATIONS = "evaluations.jsonl"
RATIOS = tuple(round(0.1 * step, 1) for step in range(1, 10))  # PaddleSlim's, fixed in its code
SPLITS = 20


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sensitivity_baseline.py", description=(__doc__ or "").splitlines()[0], epilog="Exit 0 done, 2 bad input."
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="float checkpoint")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="labels: DIR/<task>/label.txt")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="one line for each evaluation")
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS), metavar="R", help="some of .1 to .9")
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many samples, spread over all")
    parser.add_argument("--kernels", choices=("paddle", "fast"), default="paddle", help="fast: slim's own convolutions")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    if unknown := sorted(set(args.ratios) - set(RATIOS)):
        raise command.UsageError(f"expected --ratios among {', '.join(map(str, RATIOS))}, found {unknown}")
    if args.limit is not None and args.limit < 1:
        raise command.UsageError(f"expected --limit of at least 1, found {args.limit}")
    manifest = artifact.load(args.artifact, kind="checkpoint")
    from slim import cpu_environment

    cpu_environment.prepare(1)
    import cv2

    from ocr_models import checkpoints
    from ocr_models.paddle_engine import NetworkEngine
    from slim import cpu_training, pact, scoring

    cv2.setNumThreads(1)
    label_file = scoring.find_labels(args.data, manifest.task)
    network, _ = checkpoints.load_network(args.artifact)
    evaluate, samples = _evaluation(args, manifest, label_file, NetworkEngine(network))
    identity = {
        "weights": {name: entry["sha256"] for name, entry in manifest.files.items()},
        "labels": hashlib.sha256(label_file.read_bytes()).hexdigest(),
        "samples": samples,
        "kernels": args.kernels,
    }
    log = _Log(args.out, identity)
    kernels: Any = cpu_training.fast_convolutions if args.kernels == "fast" else contextlib.nullcontext
    with pact.quiet(), kernels():
        names = _sensitive(network, manifest.task, evaluate, log, sorted(set(args.ratios)), args.out)
    result = {"samples": samples, "ratios": sorted(set(args.ratios)), "kernels": args.kernels}
    result |= _summary(log, names, manifest.task, result["ratios"])
    rows = [(name, f"{_mean(found['losses']):.4f}") for name, found in result["groups"].items()]
    text = command.table(("group", "mean loss"), rows)
    command.emit(args, result, f"{text}\n{result['evaluations']} evaluations of {samples} samples, {result['cpu_s']} s")
    return command.EXIT_DONE


class _Log:
    """Evaluations by (group, ratio), each written when it is made."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.path = folder / EVALUATIONS
        self.found: dict[tuple[str, float], dict[str, Any]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text(encoding="utf-8").splitlines(True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # a kill may have cut the last one
        if whole and json.loads(whole[0]) != identity:
            raise command.UsageError(
                f"{folder}: expected a run of the same weights and data, found another; give another --out"
            )
        self.path.write_text("".join(whole) or json.dumps(identity) + "\n", encoding="utf-8")
        for line in whole[1:]:
            entry = json.loads(line)
            self.found[entry["group"], entry["ratio"]] = entry

    def add(self, entry: dict[str, Any]) -> None:
        self.found[entry["group"], entry["ratio"]] = entry
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _evaluation(args: argparse.Namespace, manifest: Any, label_file: Path, engine: Any) -> tuple[Callable, int]:
    """(a function that gives one row of numbers for each sample, how many samples)."""
    from lite_runtime.detector import TextDetector
    from lite_runtime.direction import DirectionClassifier
    from lite_runtime.options import Options
    from lite_runtime.recognizer import TextRecognizer
    from slim import labels, scoring
    from slim.tasks import BATCH_AT_VALIDATION

    batches = {"cls_batch_num": BATCH_AT_VALIDATION, "rec_batch_num": BATCH_AT_VALIDATION}
    options = Options.from_manifests(manifest, **batches)
    if manifest.task == "det":
        scenes = scoring.spread(labels.read_det_labels(label_file), args.limit)
        detector = TextDetector(engine, manifest, options)
        return lambda: [list(vars(count).values()) for count in scoring.score_detector(detector, scenes)], len(scenes)
    if manifest.task == "cls":
        crops = scoring.spread(labels.read_cls_labels(label_file), args.limit)
        classifier = DirectionClassifier(engine, manifest, options)
        return lambda: scoring.score_classifier(classifier, crops)[:, None].tolist(), len(crops)
    charset = artifact.read_charset(args.artifact, manifest)
    recognizer = TextRecognizer(engine, manifest, artifact.charset_labels(charset, manifest.charset.space), options)
    lines = scoring.spread(labels.read_rec_labels(label_file), args.limit)
    return lambda: scoring.score_recognizer(recognizer, lines).tolist(), len(lines)


def _sensitive(
    network: Any, task: str, evaluate: Callable, log: _Log, ratios: Sequence[float], folder: Path
) -> dict[str, str]:
    """Run PaddleSlim's analysis; {parameter name: structured name} of its groups.

    PaddleSlim passes over what its status already holds: evaluations of an earlier run, and ratios nobody asked for.
    """
    from slim.prepared_samples import measure
    from slim.pruning import FilterPruner
    from slim.sensitivity_run import TRACE_PX

    clock = _Clock()
    ours = FilterPruner(network, (1, 3, *TRACE_PX[task]))
    slim = ours._slim
    names = {master: name for name, master in ours._master.items()}
    now = ("", 0.0)

    def metric(rows: Any) -> float:
        return next(iter(measure(task, rows).values()))

    def evaluated() -> float:
        if now not in log.found:  # the baseline of a resumed run is known
            rows = evaluate()
            log.add({"group": now[0], "ratio": now[1], "rows": rows, **clock.lap()})
        return metric(log.found[now]["rows"])

    prune = slim.prune_var

    def noted(name: str, axis: Any, ratio: float) -> Any:
        nonlocal now
        now = (names[name], ratio)
        return prune(name, axis, ratio)

    slim.prune_var = noted
    status = slim._status.sensitivies
    for master, name in names.items():
        known = {ratio: 0.0 for ratio in RATIOS if ratio not in ratios or (name, ratio) in log.found}
        status[master] = known
    scratch = folder / "status.pickle"
    scratch.unlink(missing_ok=True)
    if ("", 0.0) not in log.found or any(len(known) < len(RATIOS) for known in status.values()):
        slim.sensitive(evaluated, sen_file=str(scratch), target_vars=list(names), skip_vars=[])
    scratch.unlink(missing_ok=True)
    return names


class _Clock:
    def __init__(self) -> None:
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def lap(self) -> dict[str, float]:
        """Seconds since the last lap; pruning, evaluating and restoring are all in."""
        wall, cpu = time.monotonic(), time.process_time()
        lap = {"wall_s": wall - self._wall, "cpu_s": cpu - self._cpu}
        self._wall, self._cpu = wall, cpu
        return lap


def _summary(log: _Log, names: dict[str, str], task: str, ratios: Sequence[float]) -> dict[str, Any]:
    """Losses of all samples, and of halves of them, drawn several times."""
    from slim.prepared_samples import METRICS, measure

    metric = METRICS[task][0]
    base = np.array(log.found["", 0.0]["rows"], float)
    rows = {name: [np.array(log.found[name, ratio]["rows"], float) for ratio in ratios] for name in names.values()}

    def losses(name: str, chosen: Any) -> list[float]:
        whole = measure(task, base[chosen])[metric]
        return [whole - measure(task, found[chosen])[metric] for found in rows[name]]

    rng = np.random.default_rng(0)
    halves = []
    for _ in range(SPLITS if len(base) > 1 else 0):
        order = rng.permutation(len(base))
        half = len(order) // 2
        halves.append([[_mean(losses(name, part)) for name in rows] for part in (order[:half], order[half:])])
    asked = [entry for (group, ratio), entry in log.found.items() if not group or ratio in ratios]
    return {
        "metric": metric,
        "baseline": measure(task, base),
        "evaluations": len(asked),
        "wall_s": round(sum(entry["wall_s"] for entry in asked), 3),
        "cpu_s": round(sum(entry["cpu_s"] for entry in asked), 3),
        "groups": {name: {"losses": losses(name, slice(None))} for name in rows},
        "halves": halves,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    command.main(build_parser(), run)
