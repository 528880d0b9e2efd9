"""Where a number that is none first appears: the weights, else the first layer that puts one out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import paddle


def first_not_finite(
    network: paddle.nn.Layer, tensors: Mapping[str, paddle.Tensor], forward: Callable[[paddle.nn.Layer], Any]
) -> str:
    """In words. tensors: the network's weights by name; forward: runs the network on the batch whose loss was none."""
    for name, tensor in tensors.items():
        if not np.isfinite(tensor.numpy()).all():
            return f"the weights {name}"
    seen: list[str] = []

    def watch(name: str) -> Any:
        def hook(_layer: Any, _inputs: Any, output: Any) -> None:
            outputs = output if isinstance(output, (list, tuple)) else [output]
            if any(isinstance(o, paddle.Tensor) and not np.isfinite(o.numpy()).all() for o in outputs):
                seen.append(name)

        return hook

    hooks = [
        layer.register_forward_post_hook(watch(name))
        for name, layer in network.named_sublayers()
        if not layer.sublayers()
    ]
    try:
        with paddle.no_grad():
            forward(network)
    finally:
        for handle in hooks:
            handle.remove()
    return f"the output of layer {seen[0]}" if seen else "the loss itself"
