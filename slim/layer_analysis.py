"""What int8 costs layer by layer: each layer alone, and all but each; measured on one calibrated network.

Quantizers are switched off and on around the same weights, so the float reference is the network itself. Every number
is saved when it is made; the same question later finds it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn

from slim.layer_error import layer_outputs, sqnr_db
from slim.measurements import Measurements
from slim.pact import QuantizedNetwork


@dataclass(frozen=True)
class Noise:
    """Signal to noise in dB when one layer alone is int8: own, of that layer's output; output, of the network's.

    inf: int8 changes nothing.
    """

    own: float
    output: float


class LayerAnalysis:
    """quantized: calibrated. x: (N, 3, H, W) to compare outputs on. score(): the metric of the network as it is now."""

    def __init__(
        self, quantized: QuantizedNetwork, x: paddle.Tensor, score: Callable[[], float], known: Measurements
    ) -> None:
        self.quantized, self._x, self._score, self.known = quantized, x, score, known
        int8 = quantized.quantized_layers()
        with quantized.int8_only(()):
            self._expected, self._output = layer_outputs(quantized, int8, x)
        # In running order; what only training runs costs nothing at run time.
        self.layers = {name: int8[name] for name in self._expected}

    def noise(self, layer: str) -> Noise:
        def measure() -> list[float]:
            with self.quantized.int8_only([layer]):
                found, output = layer_outputs(self.quantized, {layer: self.layers[layer]}, self._x)
            return [sqnr_db(self._expected[layer], found[layer]), sqnr_db(self._output, output)]

        return Noise(*map(_number, self._once(f"noise-{layer}", lambda: [_plain(db) for db in measure()])))

    def score(self, float_layers: Iterable[str]) -> float:
        """The metric with these layers in float and all others int8."""
        kept = sorted(set(float_layers))
        unknown = set(kept) - set(self.layers)
        assert not unknown, unknown

        def measure() -> dict[str, Any]:
            with self.quantized.int8_only(self.layers.keys() - set(kept)):
                return {"float": kept, "score": self._score()}

        return self._once("score-" + hashlib.sha256("\n".join(kept).encode()).hexdigest()[:24], measure)["score"]

    def alone(self, layer: str) -> float:
        """The metric with this layer int8 and all others in float."""
        return self.score(self.layers.keys() - {layer})

    def float_bytes(self, layer: str) -> int:
        """How many bytes it costs to keep a layer in float."""
        return 3 * self.layers[layer].weight.size

    def kind(self, layer: str) -> str:
        """first | last | SE | depthwise | 1x1 | dense | linear."""
        order = list(self.layers)
        if layer in (order[0], order[-1]):
            return "first" if layer == order[0] else "last"
        if "_se." in layer:
            return "SE"
        return shape_kind(self.layers[layer])

    def _once(self, name: str, measure: Callable[[], Any]) -> Any:
        value = self.known.get(name)
        if value is None:
            value = measure()
            self.known.put(name, value)
        return value


def shape_kind(layer: nn.Layer) -> str:
    shape = layer.weight.shape  # (O, C / groups, height, width), or (C, O)
    if len(shape) == 2:
        return "linear"
    if shape[1] == 1 and shape[0] > 1 and layer._groups > 1:
        return "depthwise"
    return "1x1" if tuple(shape[2:]) == (1, 1) else "dense"


def choose(layers: Iterable[str], cost: Callable[[str], int], loss: Callable[[list[str]], float], most: float) -> list:
    """Layers to keep in float so that at most `most` of the metric is lost, as few bytes as the search finds.

    layers: the noisiest first. cost(layer): bytes. loss(float layers): metric lost with these in float; all layers
    lose nothing. The shortest sufficient start of the list is found first; then each of its layers, the most
    expensive first, goes back to int8 where the loss allows it.
    """
    order = list(layers)
    if loss([]) <= most:
        return []
    length = 1
    while length < len(order) and loss(order[:length]) > most:
        length = min(2 * length, len(order))
    low, high = length // 2, length  # `low` layers are not enough, `high` are
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if loss(order[:middle]) <= most else (middle, high)
    kept = order[:high]
    for layer in sorted(kept, key=cost, reverse=True):
        fewer = [other for other in kept if other != layer]
        if loss(fewer) <= most:
            kept = fewer
    return kept


def _plain(db: float) -> float | None:
    """JSON knows no infinity; -inf, a layer that puts out rubbish, becomes a number that no layer reaches."""
    return None if db == math.inf else max(db, -999.0)


def _number(db: float | None) -> float:
    return math.inf if db is None else db
