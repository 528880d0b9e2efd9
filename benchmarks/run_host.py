"""Latency of fp32 x86 `.nb` models on this host, interleaved, so that drift hits all of them alike.

    python benchmarks/run_host.py det-nb det-pruned-nb --rounds 30

Every round runs each model once, in an order that turns with the round; the first model of a task is what the others
of that task are compared with. Lite's x86 library runs on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import artifact
import command
from ocr_models.reference import REFERENCE_SHAPES


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="run_host.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("artifacts", nargs="+", type=Path, metavar="NB", help="fp32 x86 .nb artifact folders")
    parser.add_argument("--rounds", type=int, default=30, help="measured runs of each model (default 30)")
    parser.add_argument("--warmup", type=int, default=3, help="runs before measuring (default 3)")
    parser.add_argument("--out", type=Path, help="write every sample to this JSON file")
    command.add_common(parser)
    return parser


def measure(folders: list[Path], rounds: int, warmup: int) -> list[dict]:
    """Samples of each model in the order given: {"artifact", "name", "task", "shape", "latency_ms": [...]}."""
    import numpy as np

    from lite_runtime.engine import open_nb

    rows: list[dict] = []
    runs = []
    for folder in folders:
        engine, manifest = open_nb(folder)
        if manifest.task not in REFERENCE_SHAPES:
            raise command.UsageError(f"{folder}: expected a det, cls or rec model, found {manifest.task}")
        shape = REFERENCE_SHAPES[manifest.task]
        # Noise, not zeros: zeros can take denormal-free shortcuts that photos do not.
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        rows.append(
            {"artifact": str(folder), "name": manifest.name, "task": manifest.task, "shape": shape, "latency_ms": []}
        )
        runs.append((engine, x))
    for engine, x in runs:
        for _ in range(warmup):
            engine.run(x)
    for turn in command.progress(range(rounds), "measuring"):
        for offset in range(len(runs)):
            at = (turn + offset) % len(runs)
            engine, x = runs[at]
            start = time.perf_counter()
            engine.run(x)
            rows[at]["latency_ms"].append((time.perf_counter() - start) * 1e3)
    for engine, _ in runs:
        engine.close()
    return rows


def summarize(rows: list[dict]) -> list[dict]:
    """Median and 95 % interval of each model; ratio to the first model of its task."""
    import numpy as np

    from benchmarks.stats import median_interval, ratio_interval

    first: dict[str, dict] = {}
    for row in rows:
        reference = first.setdefault(row["task"], row)
        row["median_ms"], row["median_low_ms"], row["median_high_ms"] = median_interval(np.array(row["latency_ms"]))
        if reference is not row:
            ratio = ratio_interval(np.array(row["latency_ms"]), np.array(reference["latency_ms"]))
            row["ratio"], row["ratio_low"], row["ratio_high"] = ratio
    return rows


def run(args: argparse.Namespace) -> int:
    if args.rounds < 1 or args.warmup < 0:
        raise command.UsageError(f"expected --rounds ≥ 1 and --warmup ≥ 0, found {args.rounds} and {args.warmup}")
    for folder in args.artifacts:
        artifact.load(folder, kind="nb")
    rows = summarize(measure(args.artifacts, args.rounds, args.warmup))
    if args.out:
        command.write_text(args.out, json.dumps({"schema": 1, "models": rows}, indent=2) + "\n")
    cells = [
        [
            row["artifact"],
            "x".join(map(str, row["shape"])),
            f"{row['median_ms']:.2f}",
            f"{row['median_low_ms']:.2f}–{row['median_high_ms']:.2f}",
            f"{row['ratio']:.3f} ({row['ratio_low']:.3f}–{row['ratio_high']:.3f})" if "ratio" in row else "1",
        ]
        for row in rows
    ]
    text = command.table(["model", "input", "median ms", "95 % interval", "ratio to the first of its task"], cells)
    command.emit(args, {"schema": 1, "models": rows}, text)
    return command.EXIT_DONE


if __name__ == "__main__":
    command.main(build_parser(), run, native=True)
