"""Quantize a trained checkpoint to int8 with PACT.

    python slim/quantize.py out/cls --data data/train --val data/val --out out/cls_int8
    python slim/quantize.py out/det_pruned --data data/train --val data/val --out out/det_slim --steps 500

The clipping levels start from the activations of training batches; then weights and levels train together under
simulated int8. A loss that is no number or a metric that collapses stops the run with the layer's name. Convolutions
and linear layers become int8, LSTM and transposed convolutions stay float. --steps 0 calibrates only.
export/to_inference.py and export/to_nb.py take the result further. The same command goes on where a killed run stopped.
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
    import paddle

    from slim.pact import QuantizedNetwork
    from slim.pact_training import PactSettings
    from slim.slimming import Job


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quantize.py", description=(__doc__ or "").splitlines()[0], epilog="Exit 0 done, 2 bad input, 130 Ctrl-C."
    )
    slimming.add_arguments(parser, "quantize")
    return parser


def run(args: argparse.Namespace) -> int:
    path = args.config or CONFIGS / "quantize.yaml"
    values, differences = slimming.read_config(path, "pact")
    job = slimming.open_job(args, "quantize.py", differences)

    from ocr_models import checkpoints
    from slim.calibration import observe
    from slim.pact import QUANTIZATION, QuantizedNetwork, load_quantized
    from slim.pact_training import PactGuard, parse_settings
    from slim.training import Interrupted

    settings = parse_settings(values, path)
    original, _ = checkpoints.load_network(job.folder)
    size_before = job.size(original)
    metrics_before = slimming.metrics_before(job, original) if job.first else {}
    batches = _batches(job, settings)
    ranges = observe(original, batches, settings.percentile)
    quantized = QuantizedNetwork(checkpoints.load_network(job.folder)[0])
    quantized.calibrate(ranges, batches)
    quantized.set_alpha_training(settings.alpha_rate, settings.alpha_l2)
    guard = PactGuard(job.task, job.recipe, settings, original, quantized, batches[0], metrics_before)

    compression = {**job.manifest.compression, "quantization": QUANTIZATION}

    def keep(metrics: dict[str, Any], step: int) -> None:
        # A model that reads nothing must not lie where the next stage looks for one.
        if not guard.collapsed(metrics):
            _write(job, quantized, metrics, step, compression, {"pact": settings.to_json()})

    try:
        trainer = slimming.train(job, guard, quantized.network, {"pact": settings.to_json()}, keep, guard.follow)
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
    _write(job, quantized, metrics_after, step, compression, {"pact": {**settings.to_json(), **alphas.to_json()}})
    if step:
        _say(str(alphas))
    size_after = job.size(original, quantized.int8_weights(getattr(original, "train_only", ())))
    slimming.report(
        job,
        args,
        step,
        (size_before, metrics_before),
        (size_after, metrics_after),
        {"int8_layers": len(quantized.quantized_layers()), "alphas": alphas.to_json()},
    )
    return command.EXIT_DONE


def _batches(job: Job, settings: PactSettings) -> list[paddle.Tensor]:
    """Inputs (N, 3, H, W) to calibrate on: training samples as they are, without augmentation."""
    import paddle

    sampler, data = job.task.sampler(), job.task.data
    augment, data.augment = data.augment, False
    try:
        draws = [sampler.draw(step) for step in range(settings.calibration_batches)]
        return [paddle.to_tensor(job.task.load(draw)[0]) for draw in command.progress(draws, "calibrating")]
    finally:
        data.augment = augment


def _write(
    job: Job, quantized: QuantizedNetwork, metrics: dict, step: int, compression: dict[str, str], extra: dict
) -> None:
    """Seal and write; the network trains on with the scales that it has, not with the sealed ones."""
    from ocr_models import checkpoints

    state = {name: tensor.numpy() for name, tensor in checkpoints.parameters(quantized.network).items()}
    quantized.seal()
    plan = job.manifest.compression.get("prune_plan")

    def companions(folder: Path) -> None:
        if plan:
            shutil.copyfile(job.folder / plan, folder / plan)

    slimming.write(job, quantized.network, metrics, step, compression, extra, companions)
    for name, tensor in checkpoints.parameters(quantized.network).items():
        tensor.set_value(state[name])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    command.main(build_parser(), run)
