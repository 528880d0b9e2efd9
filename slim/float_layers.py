"""Which layers of an int8 network stay float: those that the user names, and those whose int8 costs too much."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

import artifact
from command import UsageError, progress
from ocr_models import checkpoints
from slim import ranks
from slim.calibration import levels, observe, training_inputs
from slim.cpu_training import fast_convolutions
from slim.int8_training import QuantizeSettings
from slim.layer_analysis import LayerAnalysis, choose
from slim.measurements import Measurements
from slim.pact import QuantizedNetwork, quantizable
from slim.scoring import measured_on
from slim.slimming import Job

CHOICE = "choice"


def named(network: nn.Layer, words: Sequence[str]) -> tuple[str, ...]:
    """The layers that `words` mean: a layer's own name, or a block's for all layers in it. Raises UsageError."""
    layers = list(quantizable(network))
    found: list[str] = []
    for word in words:
        meant = [name for name in layers if name == word or name.startswith(word + ".")]
        if not meant:
            raise UsageError(
                f"expected --skip with a convolution, a linear layer or a block of them, found {word}; "
                f"give one such as {layers[0]} or {layers[-1].rpartition('.')[0] or layers[-1]}"
            )
        found.extend(name for name in meant if name not in found)
    return tuple(found)


class Start:
    """A job's float network, and int8 ones calibrated as `settings` say.

    batches: inputs (N, 3, H, W) that the calibration saw.
    """

    def __init__(self, job: Job, method: str, settings: QuantizeSettings) -> None:
        self._job, self._method, self._settings = job, method, settings
        self.original, _ = checkpoints.load_network(job.folder)
        self.batches = training_inputs(job.task, settings.calibration_batches)
        seen = observe(self.original, self.batches)
        self._levels = levels(seen, settings.rule(method), settings.percentile)

    def record(self) -> dict[str, Any]:
        """For manifests and identities."""
        return {"method": self._method, **self._settings.to_json(self._method)}

    def quantized(self, float_layers: Sequence[str] = ()) -> QuantizedNetwork:
        """A new one at each call, with these layers in float."""
        network, _ = checkpoints.load_network(self._job.folder)
        quantized = QuantizedNetwork(network, self._method, float_layers)
        quantized.calibrate(self._levels, self.batches)
        quantized.set_alpha_training(self._settings.alpha_rate, self._settings.alpha_l2)
        return quantized


def analysis(
    job: Job, quantized: QuantizedNetwork, batches: Sequence[paddle.Tensor], record: dict[str, Any], folder: Path
) -> LayerAnalysis:
    """The layers of `quantized`, measured with the job's metric on as many samples as the recipe validates on.

    record: how it was calibrated. folder: keeps the numbers.
    """
    metric, samples = job.task.metric_names[0], job.recipe.validate_samples
    identity = {
        "parent": artifact.digest(job.folder),
        "quantize": record,
        "float_layers": sorted(quantized.float_layers),
        "labels": measured_on(job.validation, samples, samples)["labels_sha256"],
        "samples": samples,
    }

    def score() -> float:
        with fast_convolutions():
            return float(job.task.validate(quantized.network, samples)[metric])

    return LayerAnalysis(quantized, batches[0], score, Measurements(folder, identity))


def search(layers: LayerAnalysis, most: float) -> list[str]:
    """The layers to keep in float so that int8 loses at most `most` of the metric, in running order."""
    noise = {name: layers.noise(name).output for name in progress(list(layers.layers), "layers")}
    reference = layers.score(layers.layers)

    def loss(kept: list[str]) -> float:
        lost = reference - layers.score(kept)
        _say(f"{len(kept)} of {len(noise)} layers in float: {lost:+.4f} of the metric lost")
        return lost

    kept = choose(sorted(noise, key=lambda name: noise[name]), layers.float_bytes, loss, most)
    return [name for name in layers.layers if name in kept]


def find(job: Job, start: Start, skipped: Sequence[str], most: float) -> tuple[str, ...]:
    """`skipped` and what else has to stay float; searched by the first process, known to all, and kept for a resume."""
    folder = job.state_folder / "layers"
    layers = None
    if job.first:
        layers = analysis(job, start.quantized(skipped), start.batches, start.record(), folder)
        choice = layers.known.get(CHOICE)
        if choice is None or choice["most"] != most:
            found = search(layers, most)
            extra = sum(layers.float_bytes(name) for name in found)
            _say(f"kept in float for at most {most} lost: {', '.join(found) or 'none'} ({extra:,} bytes)")
            layers.known.put(CHOICE, {"most": most, "layers": found})
    ranks.meet()
    layers = layers or analysis(job, start.quantized(skipped), start.batches, start.record(), folder)
    return (*skipped, *layers.known.get(CHOICE)["layers"])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
