"""Size and work of a network: parameters, and multiply-accumulates of one forward pass.

`paddle.flops` counts an LSTM as nothing, and the recognizer is half LSTM.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import nn

from ocr_models.checkpoints import parameters


def params(layer: nn.Layer, export: bool = True) -> int:
    """Numbers in the network's weights, batch norm's running mean and variance among them.

    export: leave out what only training uses (`train_only` of the network's class).
    """
    skipped = tuple(getattr(layer, "train_only", ())) if export else ()
    return sum(tensor.size for name, tensor in parameters(layer).items() if not name.startswith(skipped or ("\0",)))


def macs(layer: nn.Layer, input_shape: Sequence[int]) -> int:
    """Multiply-accumulates of convolutions, linear layers and LSTMs in eval mode for one input (N, C, H, W).

    The layer's mode is left as it was.
    """
    total = 0

    def count(sublayer: nn.Layer, inputs: tuple, output) -> None:
        nonlocal total
        if isinstance(sublayer, nn.Conv2DTranspose):
            # Each input pixel is spread over one kernel per output channel.
            total += inputs[0].size * sublayer.weight.size // sublayer.weight.shape[0]
        elif isinstance(sublayer, nn.Conv2D):
            total += output.size * sublayer.weight.size // sublayer.weight.shape[0]
        elif isinstance(sublayer, nn.Linear):
            total += output.size * sublayer.weight.shape[0]
        elif isinstance(sublayer, nn.LSTM):
            steps = inputs[0].shape[0] * inputs[0].shape[1]
            matrices = [p for name, p in sublayer.named_parameters() if name.startswith("weight")]
            total += steps * sum(p.size for p in matrices)

    counted = (nn.Conv2D, nn.Conv2DTranspose, nn.Linear, nn.LSTM)
    hooks = [s.register_forward_post_hook(count) for s in layer.sublayers(True) if isinstance(s, counted)]
    training = layer.training
    layer.eval()
    try:
        with paddle.no_grad():
            layer(paddle.zeros(list(input_shape), "float32"))
    finally:
        for hook in hooks:
            hook.remove()
        if training:
            layer.train()
    return total
