"""Quantize a trained checkpoint to int8.

    python slim/quantize.py out/cls --data data/train --val data/val --out out/cls_int8
    python slim/quantize.py out/det_pruned --data data/train --val data/val --out out/det_slim --steps 500
    python slim/quantize.py out/rec --data data/train --val data/val --out out/rec_ptq --method ptq --calibration mse

pact  weights train under simulated int8, and with them the level at which each layer's input is clipped
qat   weights train; the levels follow the activations
ptq   nothing trains: the levels are what calibration says

All start from the activations of training batches. While training, the given model teaches its int8 version. A run
that breaks goes back to its last good state and lowers the rate. Convolutions and linear layers become int8, LSTM and
transposed convolutions stay float, as do the layers of --skip and those that --max-loss finds too costly (slim/
analyze_layers.py shows them all). --steps 0 calibrates only. export/to_inference.py and export/to_nb.py take the result
further. The same command goes on where a killed run stopped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import command
from slim import slimming
from slim.recipes import CONFIGS

if TYPE_CHECKING:
    from slim.pact import QuantizedNetwork
    from slim.slimming import Job

METHODS = ("pact", "qat", "ptq")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quantize.py", description=(__doc__ or "").splitlines()[0], epilog="Exit 0 done, 2 bad input, 130 Ctrl-C."
    )
    slimming.add_arguments(parser, "quantize")
    slimming.add_teacher_arguments(parser)
    parser.add_argument("--method", choices=METHODS, default="pact", help="how activations are clipped (default: pact)")
    parser.add_argument("--calibration", choices=("kl", "hist", "mse"), help="where to clip (default: hist, ptq mse)")
    parser.add_argument("--skip", nargs="+", default=[], metavar="LAYER", help="layers, or blocks, to keep in float")
    parser.add_argument("--max-loss", type=float, metavar="X", help="keep layers in float until X of the metric goes")
    return parser


def run(args: argparse.Namespace) -> int:
    path = args.config or CONFIGS / "quantize.yaml"
    values, differences = slimming.read_config(path, "quantize")
    slimming.check_max_loss(args.max_loss)
    if not args.distill_weight >= 0:
        raise command.UsageError(f"expected --distill-weight of 0 or more, found {args.distill_weight}")
    if args.method == "ptq":
        if args.steps:
            raise command.UsageError(f"expected no --steps with --method ptq, found {args.steps}; ptq never trains")
        args.steps = 0
    job = slimming.open_job(args, "quantize.py", differences)

    from ocr_models import checkpoints
    from slim import float_layers, rollback
    from slim.int8_training import Int8Guard, parse_settings
    from slim.pact import FLOAT_LAYERS, FORMS, load_quantized
    from slim.training import Interrupted

    settings = parse_settings(values, path).calibrated_by(args.calibration)
    skipped = float_layers.named(checkpoints.load_network(job.folder)[0], args.skip)
    start = float_layers.Start(job, args.method, settings)
    original, record = start.original, start.record()
    size_before = job.size(original)
    metrics_before = slimming.metrics_before(job, original) if job.first else {}
    if args.max_loss is not None:
        skipped = float_layers.find(job, start, skipped, args.max_loss)
    quantized = start.quantized(skipped)
    task, weight = slimming.taught(job, args)
    guard = Int8Guard(task, job.recipe, settings, original, quantized, start.batches[0], metrics_before)

    compression = {**job.manifest.compression, "quantization": FORMS[args.method]}
    if skipped:
        compression[FLOAT_LAYERS] = ",".join(skipped)
    record["distill_weight"] = weight

    def keep(metrics: dict[str, Any], step: int) -> None:
        # A model that reads nothing must not lie where the next stage looks for one.
        if not guard.collapsed(metrics):
            _write(job, quantized, metrics, step, compression, record)

    try:
        trainer = slimming.train(
            job,
            guard,
            quantized.network,
            {"quantize": record, FLOAT_LAYERS: list(skipped)},
            keep,
            guard.follow,
            lambda trainer: rollback.run(trainer, settings.rollbacks, settings.rollback_rate),
        )
    except Interrupted as stopped:
        _say(f"quantize.py: {stopped}; state kept in {job.state_folder}, the same command goes on")
        return command.EXIT_INTERRUPTED
    if not job.first:
        return command.EXIT_DONE
    step = trainer.best["step"]
    guard.require(trainer.best["metrics"], step)
    quantized, _ = load_quantized(job.out)
    metrics_after = job.measure(quantized)
    alphas = guard.alphas(quantized, step)
    moves = {"alphas": alphas.to_json()} if alphas else {}
    record["rollbacks"] = trainer.rollbacks
    _write(job, quantized, metrics_after, step, compression, {**record, **moves.get("alphas", {})})
    if alphas and step:
        _say(str(alphas))
    size_after = job.size(original, quantized.int8_weights(getattr(original, "train_only", ())))
    slimming.report(
        job,
        args,
        step,
        (size_before, metrics_before),
        (size_after, metrics_after),
        {
            "method": args.method,
            "int8_layers": len(quantized.quantized_layers()),
            FLOAT_LAYERS: list(skipped),
            "rollbacks": trainer.rollbacks,
            **moves,
        },
    )
    return command.EXIT_DONE


def _write(
    job: Job, quantized: QuantizedNetwork, metrics: dict, step: int, compression: dict[str, str], record: dict
) -> None:
    """Seal and write; the network trains on with the scales that it has, not with the sealed ones."""
    from ocr_models import checkpoints

    state = {name: tensor.numpy() for name, tensor in checkpoints.parameters(quantized.network).items()}
    quantized.seal()
    plan = job.manifest.compression.get("prune_plan")

    def companions(folder: Path) -> None:
        if plan:
            shutil.copyfile(job.folder / plan, folder / plan)

    slimming.write(job, quantized.network, metrics, step, compression, {"quantize": record}, companions)
    for name, tensor in checkpoints.parameters(quantized.network).items():
        tensor.set_value(state[name])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    command.main(build_parser(), run)
