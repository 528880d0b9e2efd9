"""The end of the detector's program, where every pixel is computed by itself, as two matrix products.

DB's head grows its map with transposed convolutions of 2x2 at stride 2: their outputs do not overlap, so a pixel
becomes four, and these sixteen, without a look at their neighbours. Paddle's kernels take a third of the time of what
lies behind a pruned layer for it, because the grown maps no longer fit the cache. Here they never exist: a strip of
pixels goes all the way, and only the last map is put in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

STRIP = 2048  # pixels at a time: their 96 intermediate numbers stay in the cache


class PixelwiseEnd:
    """source: the variable (N, C, H, W) that it starts from. steps: (matrix (4 · O, C), bias (4 · O, 1), relu?)."""

    def __init__(self, source: str, steps: list[tuple[np.ndarray, np.ndarray, bool]]) -> None:
        self.source, self.steps = source, steps

    def run(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) → (N, 1, H · 2^k, W · 2^k) float32, a sigmoid of the last step; k steps."""
        return np.stack([self._one(image) for image in x])

    def _one(self, image: np.ndarray) -> np.ndarray:
        channels, height, width = image.shape
        pixels = image.reshape(channels, height * width)
        grown = 4 ** len(self.steps)
        out = np.empty((grown, height * width), np.float32)
        for start in range(0, height * width, STRIP):
            strip = pixels[None, :, start : start + STRIP]  # (parts, C, P)
            for matrix, bias, relu in self.steps:
                strip = np.matmul(matrix, strip)
                strip += bias
                if relu:
                    np.maximum(strip, 0, out=strip)
                strip = strip.reshape(strip.shape[0] * 4, -1, strip.shape[2])
            out[:, start : start + STRIP] = strip[:, 0]
        np.negative(out, out=out)
        np.exp(np.minimum(out, 80, out=out), out=out)  # beyond, exp is infinite and the result 0 all the same
        out += 1
        np.reciprocal(out, out=out)
        # (row, column) of the first step, of the second, …, then the pixel: rows together, columns together.
        steps = len(self.steps)
        order = [2 * steps, *range(0, 2 * steps, 2), 2 * steps + 1, *range(1, 2 * steps, 2)]
        cells = out.reshape([2, 2] * steps + [height, width]).transpose(order)
        return np.ascontiguousarray(cells).reshape(1, height << steps, width << steps)


def find(block: Any, result: str, value: Callable[[str], np.ndarray]) -> PixelwiseEnd | None:
    """The end of a program, or None where it ends otherwise. result: its output; value: a weight by its name."""
    makers = {name: op for op in block.ops for name in op.output_arg_names if op.type not in ("feed", "fetch")}
    name, ops = result, []
    while name in makers and (before := _source(makers[name], makers)) is not None:
        ops.append(makers[name])
        name = before
    ops.reverse()
    while ops and ops[0].type != "conv2d_transpose":
        ops.pop(0)
    if [op.type for op in ops if op.type == "sigmoid"] != ["sigmoid"] or ops[-1].type not in ("sigmoid", "scale"):
        return None
    steps: list[tuple[np.ndarray, np.ndarray, bool]] = []
    for op in ops:
        if op.type == "conv2d_transpose":
            weight = value(op.input("Filter")[0])  # (C, O, 2, 2)
            matrix = weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])
            steps.append((matrix, np.zeros((len(matrix), 1), np.float32), False))
            continue
        matrix, bias, relu = steps[-1]
        outputs = len(matrix) // 4
        if op.type == "elementwise_add":
            bias = bias + np.tile(value(_weight(op, makers)).ravel(), 4)[:, None]
        elif op.type == "batch_norm":
            scale = value(op.input("Scale")[0]) / np.sqrt(value(op.input("Variance")[0]) + op.attr("epsilon"))
            shift = value(op.input("Bias")[0]) - scale * value(op.input("Mean")[0])
            matrix, bias = matrix * np.tile(scale, 4)[:, None], bias * np.tile(scale, 4)[:, None]
            bias = bias + np.tile(shift, 4)[:, None]
        elif op.type == "relu":
            relu = True
        if relu and op.type in ("elementwise_add", "batch_norm"):
            return None  # folding is for what comes before the activation
        steps[-1] = (np.ascontiguousarray(matrix, np.float32), np.ascontiguousarray(bias, np.float32), relu)
        if op.type == "sigmoid" and outputs != 1:
            return None
    return None if steps[-1][2] else PixelwiseEnd(ops[0].input("Input")[0], steps)


def _source(op: Any, makers: dict[str, Any]) -> str | None:
    """The variable that a pixel-wise operator works on; None for others."""
    if op.type == "conv2d_transpose":
        plain = list(op.attr("strides")) == [2, 2] and list(op.attr("paddings")) in ([0, 0], [0, 0, 0, 0])
        shape = op.block.var(op.input("Filter")[0]).shape
        whole = op.attr("groups") == 1 and not op.attr("output_padding") and list(op.attr("dilations")) == [1, 1]
        return op.input("Input")[0] if plain and whole and tuple(shape[2:]) == (2, 2) else None
    if op.type == "scale":
        return op.input("X")[0] if (op.attr("scale"), op.attr("bias")) == (1.0, 0.0) else None
    if op.type == "elementwise_add":
        return op.input("X")[0] if _weight(op, makers) else None
    return op.input("X")[0] if op.type in ("sigmoid", "relu", "batch_norm") else None


def _weight(op: Any, makers: dict[str, Any]) -> str:
    """The stored bias that an addition adds, perhaps reshaped on the way; "" when it adds something else."""
    name = op.input("Y")[0]
    if name in makers and makers[name].type == "reshape2":
        name = makers[name].input("X")[0]
    return name if op.block.var(name).persistable else ""
