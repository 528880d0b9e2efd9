"""Show what int8 costs a trained model layer by layer, before any training.

    python slim/analyze_layers.py out/det --data data/train --val data/val --out out/det-layers
    python slim/analyze_layers.py out/rec --data data/train --val data/val --out out/rec-layers --max-loss 0.002

For each layer: the signal-to-noise ratio of its own output and of the network's when it alone is int8, the metric that
it loses alone, and what keeping it alone in float gives back. --max-loss also names the layers that quantize.py would
keep in float for it. OUT holds a file for each measurement, so the same command goes on after a kill; then layers.json
and layers.png.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import command
from slim import slimming
from slim.quantize import METHODS
from slim.recipes import CONFIGS

if TYPE_CHECKING:
    from slim.layer_analysis import LayerAnalysis

RECORD, PICTURE = "layers.json", "layers.png"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="analyze_layers.py",
        description=(__doc__ or "").splitlines()[0],
        epilog="Exit 0 done, 2 bad input, 130 Ctrl-C; finished measurements are kept.",
    )
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="float checkpoint of a detector, … recognizer")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="data to calibrate on")
    parser.add_argument("--val", type=Path, metavar="DIR", help="data to measure on (default: --data)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="measurements, layers.json and .png")
    parser.add_argument("--config", type=Path, metavar="YAML", help="recipe (default: configs/quantize.yaml)")
    parser.add_argument("--method", choices=METHODS, default="ptq", help="how activations are clipped (default: ptq)")
    parser.add_argument("--calibration", choices=("kl", "hist", "mse"), help="where to clip (default: mse for ptq)")
    parser.add_argument("--val-samples", type=int, metavar="N", help="measure on N samples (default: the recipe's)")
    parser.add_argument("--max-loss", type=float, metavar="X", help="name the layers to keep in float for it")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    command.add_common(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    path = args.config or CONFIGS / "quantize.yaml"
    values, differences = slimming.read_config(path, "quantize")
    slimming.check_max_loss(args.max_loss)
    # A job of no steps, whose own output folder is never made: this command writes no checkpoint.
    given = {**vars(args), "steps": 0, "lr": None, "batch": None, "seed": None, "out": args.out / "checkpoint"}
    job = slimming.open_job(argparse.Namespace(**given), "analyze_layers.py", differences)

    from slim import float_layers
    from slim.int8_training import parse_settings
    from slim.layer_picture import draw

    settings = parse_settings(values, path).calibrated_by(args.calibration)
    start = float_layers.Start(job, args.method, settings)
    layers = float_layers.analysis(job, start.quantized(), start.batches, start.record(), args.out)
    kept = float_layers.search(layers, args.max_loss) if args.max_loss is not None else []
    record = {
        "name": job.manifest.name,
        "task": job.manifest.task,
        "metric": job.task.metric_names[0],
        "samples": job.recipe.validate_samples,
        "quantize": start.record(),
        **_measure(layers),
        "max_loss": args.max_loss,
        "float_layers": kept,
    }
    command.write_text(args.out / RECORD, json.dumps(record, indent=1) + "\n")
    draw(record, args.out / PICTURE)
    command.emit(args, {"out": str(args.out), **record}, f"{_table(record)}\nwritten to {args.out}")
    return command.EXIT_DONE


def _measure(layers: LayerAnalysis) -> dict[str, Any]:
    """{"float", "int8": the metric with all layers so, "layers": [what each costs, in running order]}."""
    reference, all_int8 = layers.score(layers.layers), layers.score(())
    found = []
    for name in command.progress(list(layers.layers), "layers"):
        noise = layers.noise(name)
        found.append(
            {
                "name": name,
                "kind": layers.kind(name),
                "float_bytes": layers.float_bytes(name),
                "sqnr_db": _finite(noise.own),
                "output_sqnr_db": _finite(noise.output),
                "lost_alone": round(reference - layers.alone(name), 6),
                "given_back": round(layers.score([name]) - all_int8, 6),
            }
        )
    return {"float": reference, "int8": all_int8, "layers": found}


def _finite(db: float) -> float | None:
    return round(db, 2) if math.isfinite(db) else None


def _table(record: dict[str, Any]) -> str:
    rows = [
        (
            layer["name"],
            layer["kind"],
            f"{layer['float_bytes']:,}",
            *("∞" if layer[key] is None else f"{layer[key]:.1f}" for key in ("sqnr_db", "output_sqnr_db")),
            f"{layer['lost_alone']:+.4f}",
            f"{layer['given_back']:+.4f}",
            "float" if layer["name"] in record["float_layers"] else "",
        )
        for layer in record["layers"]
    ]
    heads = ("layer", "kind", "bytes in float", "own dB", "output dB", "lost alone", "given back", "")
    kept = record["float_layers"]
    chosen = ""
    if record["max_loss"] is not None:
        extra = sum(layer["float_bytes"] for layer in record["layers"] if layer["name"] in kept)
        words = f"--skip {' '.join(kept)}" if kept else "no layer has to stay float"
        chosen = f"\nat most {record['max_loss']} lost: {words} ({extra:,} bytes)"
    line = f"{record['metric']} {record['float']:.4f} in float, {record['int8']:.4f} with all {len(rows)} layers int8"
    return f"{command.table(heads, rows)}\n{line}, {record['samples']} samples{chosen}"


if __name__ == "__main__":
    command.main(build_parser(), run)
