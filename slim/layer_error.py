"""Where quantization hurts: the signal-to-noise ratio of each layer of a fake-quant network against its float twin."""

from __future__ import annotations

import math

import numpy as np
import paddle
from paddle import nn

from slim.pact import QuantizedNetwork

# Below it the noise is more than half as strong as the signal: what follows such a layer works on rubbish.
BROKEN_DB = 3.0


def sqnr_db(signal: np.ndarray, noisy: np.ndarray) -> float:
    """10 · log10(Σ signal² / Σ (signal - noisy)²); inf when equal, -inf when `noisy` is not finite or signal is 0."""
    noise = float(np.square(signal - noisy, dtype=np.float64).sum())
    power = float(np.square(signal, dtype=np.float64).sum())
    if not math.isfinite(noise) or (power == 0 and noise > 0):
        return -math.inf
    return math.inf if noise == 0 else 10.0 * math.log10(power / noise)


def layer_errors(network: nn.Layer, quantized: QuantizedNetwork, x: paddle.Tensor) -> dict[str, float]:
    """SQNR (dB) of the output of each int8 layer that evaluation runs, in the order in which it runs them.

    network: the float twin. x: (N, 3, H, W). Both are left in eval mode.
    """
    layers = quantized.quantized_layers()
    twins = {name: layer for name, layer in network.named_sublayers() if name in layers}
    expected, _ = layer_outputs(network, twins, x)
    found, _ = layer_outputs(quantized, layers, x)
    return {name: sqnr_db(expected[name], found[name]) for name in expected}


def culprit(errors: dict[str, float]) -> str:
    """The first layer that is broken, else the noisiest."""
    broken = [name for name, value in errors.items() if value < BROKEN_DB]
    return broken[0] if broken else min(errors, key=lambda name: errors[name])


def layer_outputs(
    network: nn.Layer, layers: dict[str, nn.Layer], x: paddle.Tensor
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """({layer: what it puts out} in running order, the network's output) for x (N, 3, H, W); leaves eval mode on."""
    outputs: dict[str, np.ndarray] = {}

    def watch(name: str):
        def after(layer, inputs, output):
            outputs[name] = output.numpy()

        return after

    hooks = [layer.register_forward_post_hook(watch(name)) for name, layer in layers.items()]
    network.eval()
    try:
        with paddle.no_grad():
            last = network(x).numpy()
    finally:
        for hook in hooks:
            hook.remove()
    return outputs, last
