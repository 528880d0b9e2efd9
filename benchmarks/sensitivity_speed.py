"""How much faster slim/sensitivity.py is than PaddleSlim's `sensitive`, and whether it ranks the groups the same.

    python benchmarks/sensitivity_speed.py ocr_models/pretrained/cls --data data/val --out out/sensitivity-cls.json

The baseline is PaddleSlim's own loop, one evaluation of the full validation set for each group and ratio, on the same
machine, weights and ratios. Seconds are CPU seconds, start-up of ours included, that of the baseline not: other work on
the machine does not count. Ranked is each group's loss, averaged over the ratios; half against half is the same
correlation between random halves of the baseline's own samples. A killed run goes on: what is done is in OUT.run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import artifact
import command

ROOT = Path(artifact.__file__).resolve().parent
RATIOS = tuple(round(0.1 * step, 1) for step in range(1, 10))
SPEED, CORRELATION = 10.0, 0.95


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sensitivity_speed.py",
        description=(__doc__ or "").splitlines()[0],
        epilog=f"Exit 0 done, 1 below {SPEED:.0f} times or its correlation, 2 bad input.",
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="float checkpoint")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="validation data")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="result as JSON; work in FILE.run")
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS), metavar="R", help="some of .1 to .9")
    parser.add_argument("--limit", type=int, metavar="N", help="samples of slim/sensitivity.py (default: its own)")
    parser.add_argument("--baseline-limit", type=int, metavar="N", help="samples of the baseline (default: all)")
    parser.add_argument("--kernels", choices=("paddle", "fast"), default="paddle", help="convolutions of the baseline")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    if args.out.is_dir() or not args.out.parent.is_dir():
        raise command.UsageError(f"{args.out}: expected a file in a folder that exists; give another --out")
    work = args.out.with_name(args.out.name + ".run")
    work.mkdir(exist_ok=True)
    common = [args.artifact, "--data", args.data, "--ratios", *sorted(set(args.ratios)), "--json"]
    ours = _ours(work, common, args.limit)
    limit = [] if args.baseline_limit is None else ["--limit", args.baseline_limit]
    options = ["--out", work / f"baseline-{args.kernels}", "--kernels", args.kernels, *limit]
    baseline = _child("sensitivity_baseline.py", [*common, *options])
    result = compare(ours, baseline)
    result = {"artifact": str(args.artifact), "data": str(args.data), "ratios": sorted(set(args.ratios)), **result}
    command.write_text(args.out, json.dumps(result, indent=2) + "\n")
    command.emit(args, result, render(result))
    return command.EXIT_DONE if result["passed"] else command.EXIT_CHECK_FAILED


def compare(ours: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """One record of both commands' results."""
    from benchmarks.stats import rank_correlation

    losses = {name: sum(group["losses"]) / len(group["losses"]) for name, group in baseline["groups"].items()}
    if set(losses) != set(ours["mean_losses"]):
        raise command.ModelError("expected the same groups from both, found different ones; give the same weights")
    correlation = rank_correlation([ours["mean_losses"][name] for name in losses], list(losses.values()))
    halves = [rank_correlation(one, other) for one, other in baseline["halves"]]
    half = sum(halves) / len(halves)
    speed = baseline["cpu_s"] / ours["cpu_s"]
    wanted = min(CORRELATION, half)
    return {
        "task": ours["task"],
        "metric": ours["metric"],
        "groups": len(losses),
        "baseline": {name: baseline[name] for name in ("samples", "evaluations", "kernels", "cpu_s", "wall_s")},
        "ours": {name: ours[name] for name in ("samples", "of", "cpu_s", "wall_s")},
        "times_faster": round(speed, 2),
        "rank_correlation": round(correlation, 4),
        "half_against_half": round(half, 4),
        "wanted_correlation": round(wanted, 4),
        "passed": speed >= SPEED and correlation >= wanted,
        "mean_losses": {name: [losses[name], ours["mean_losses"][name]] for name in losses},
    }


def render(result: dict[str, Any]) -> str:
    base, ours = result["baseline"], result["ours"]
    rows = [
        (f"PaddleSlim sensitive ({base['kernels']} kernels)", base["samples"], f"{base['cpu_s']:.0f}", "1.0", ""),
        (
            "slim/sensitivity.py",
            ours["samples"],
            f"{ours['cpu_s']:.0f}",
            f"{result['times_faster']:.1f}",
            f"{result['rank_correlation']:.3f}",
        ),
        ("half of the samples against the other", base["samples"] // 2, "", "", f"{result['half_against_half']:.3f}"),
    ]
    title = f"{result['task']}, {result['groups']} groups at {len(result['ratios'])} ratios, {result['metric']}"
    table = command.table((title, "samples", "CPU s", "times", "rank correlation"), rows)
    return f"{table}\nwanted: {SPEED:.0f} times, {result['wanted_correlation']:.3f}"


def _ours(work: Path, common: list[Any], limit: int | None) -> dict[str, Any]:
    """Measured in one piece, so that its time is one process's; kept for a run that goes on."""
    arguments = [*common, *(() if limit is None else ("--limit", limit))]
    path, question = work / "ours.json", [str(part) for part in arguments]
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["question"] == question:
            return known["answer"]
    number = sum(1 for _ in work.glob("ours-*"))
    answer = _child("sensitivity.py", [*arguments, "--out", work / f"ours-{number}"])
    command.write_text(path, json.dumps({"question": question, "answer": answer}) + "\n")
    return answer


def _child(name: str, arguments: list[Any]) -> dict[str, Any]:
    """A command of slim, on one thread; its progress and its one-line error go through."""
    import os

    line = [sys.executable, str(ROOT / "slim" / name), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.run(line, stdout=subprocess.PIPE, text=True, env=environment)
    if child.returncode == 2:
        raise command.UsageError(f"slim/{name} could not use what it was given; see its line above")
    if child.returncode:
        raise command.ModelError(f"expected slim/{name} to end well, found exit code {child.returncode}; see above")
    return json.loads(child.stdout)


if __name__ == "__main__":
    command.main(build_parser(), run)
