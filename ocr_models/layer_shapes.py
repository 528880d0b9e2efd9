"""A network as the list of layers that the runtime executes, with their shapes, and the weights that decide them.

Batch norm, bias and activation belong to the convolution before them: the runtime computes them in one go. What is left
out (reshapes, the softmax of a few classes) takes no time worth counting.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import paddle
from paddle import nn
from paddle.static import InputSpec

FUSED = ("relu", "hard_swish", "hard_sigmoid")
CONVOLUTIONS = ("conv2d", "depthwise_conv2d", "conv2d_transpose")
# Each works on the channels by themselves.
CHANNELWISE = ("elementwise_add", "elementwise_mul", "pool2d", "nearest_interp_v2", "sigmoid", *FUSED)

Axis = tuple[str, int]


class Layer(NamedTuple):
    """geometry: all that decides a layer's time besides its channels; "op" names the operator. inputs, outputs:
    channels. input_axis, output_axis: (structured name of a weight, axis) whose size that is; None where it is fixed.
    """

    geometry: dict[str, Any]
    inputs: int
    outputs: int
    input_axis: Axis | None
    output_axis: Axis | None

    def sized(self, inputs: int, outputs: int) -> dict[str, Any]:
        """What describes the layer with other channels; also what a one-layer model is built from."""
        return {**self.geometry, "inputs": inputs, "outputs": outputs}


def layers(network: nn.Layer, input_shape: Sequence[int]) -> tuple[Layer, ...]:
    """Layers of the network in eval mode for one input (N, 3, H, W), in the order of execution."""
    names = {tensor.name: name for name, tensor in network.state_dict().items()}
    with _program(network, input_shape) as program:
        return tuple(_read(program.global_block(), names))


@contextlib.contextmanager
def _program(network: nn.Layer, input_shape: Sequence[int]) -> Iterator[Any]:
    training = network.training
    network.eval()
    with contextlib.redirect_stdout(io.StringIO()):
        spec = InputSpec(list(input_shape), "float32", "x")
        traced: Any = paddle.jit.to_static(network, input_spec=[spec], full_graph=True)
        forward = traced.forward
        try:
            yield forward.concrete_program.main_program
        finally:
            # jit.to_static replaces `forward` of the network itself.
            network.forward = forward.dygraph_function
            if training:
                network.train()


def _read(block: Any, names: dict[str, str]) -> Iterator[Layer]:
    shapes = {name: tuple(variable.shape) for name, variable in block.vars.items()}
    # Biases come through a reshape.
    constant = set(names)
    consumers: dict[str, list[Any]] = {}
    for op in block.ops:
        if op.input_arg_names and all(name in constant for name in op.input_arg_names):
            constant.update(op.output_arg_names)
        for name in op.input_arg_names:
            consumers.setdefault(name, []).append(op)
    channels: dict[str, Axis | None] = {}
    done: set[int] = set()
    for op in block.ops:
        if id(op) in done or not op.output_arg_names or all(name in constant for name in op.output_arg_names):
            continue
        if op.type in CONVOLUTIONS:
            layer, end = _convolution(op, shapes, names, consumers, constant, done)
            channels[end] = layer.output_axis
            yield layer
        elif op.type == "matmul_v2" and op.input("Y")[0] in names:
            weight = op.input("Y")[0]
            *_, rows, _ = shapes[op.input("X")[0]]
            geometry = {"op": "linear", "rows": rows if len(shapes[op.input("X")[0]]) > 2 else 1}
            inputs, outputs = shapes[weight]
            yield Layer(geometry, inputs, outputs, (names[weight], 0), (names[weight], 1))
        elif op.type == "rnn":
            weight = op.input("WeightList")[0]
            gates, inputs = shapes[weight]
            geometry = {"op": "lstm", "steps": shapes[op.input("Input")[0]][0], "layers": op.attr("num_layers")}
            yield Layer(geometry, inputs, gates // 4, (names[weight], 1), None)
        elif op.type in CHANNELWISE and len(shape := shapes[op.input("X")[0]]) == 4:
            source = channels.get(op.input("X")[0])
            channels[op.output("Out")[0]] = source
            geometry = {"op": op.type, "height": shape[2], "width": shape[3], **_details(op, shapes)}
            yield Layer(geometry, shape[1], shape[1], source, source)
        elif op.type == "concat":
            out = shapes[op.output("Out")[0]]
            if len(out) == 4:
                geometry = {"op": "concat", "height": out[2], "width": out[3], "parts": len(op.input("X"))}
                yield Layer(geometry, out[1], out[1], None, None)


def _convolution(
    op: Any,
    shapes: dict[str, tuple[int, ...]],
    names: dict[str, str],
    consumers: dict[str, list[Any]],
    constant: set[str],
    done: set[int],
) -> tuple[Layer, str]:
    """(the layer with what is fused into it, the variable it ends in). done: ops that it swallows."""
    weight, (_, inputs, height, width) = op.input("Filter")[0], shapes[op.input("Input")[0]]
    end, act = op.output("Output")[0], ""
    while len(following := consumers.get(end, [])) == 1 and not act:
        (step,) = following
        if step.type == "batch_norm":
            end = step.output("Y")[0]
        elif step.type == "elementwise_add" and step.input("Y")[0] in constant:
            end = step.output("Out")[0]
        elif step.type in FUSED:
            end, act = step.output("Out")[0], step.type
        else:
            break
        done.add(id(step))
    transposed = op.type == "conv2d_transpose"
    depthwise = op.attr("groups") > 1
    geometry = {
        "op": "depthwise_conv2d" if depthwise else op.type,
        "kernel": list(shapes[weight][2:]),
        "strides": list(op.attr("strides")),
        "paddings": list(op.attr("paddings")),
        "act": act,
        "height": height,
        "width": width,
    }
    outputs = shapes[weight][1 if transposed else 0]
    output_axis = (names[weight], 1 if transposed else 0)
    input_axis = output_axis if depthwise else (names[weight], 0 if transposed else 1)
    return Layer(geometry, inputs, outputs, input_axis, output_axis), end


def _details(op: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    if op.type == "pool2d":
        everything = op.attr("global_pooling") or op.attr("adaptive")
        kind = {"pooling": op.attr("pooling_type"), "global": bool(everything)}
        return kind if everything else {**kind, "kernel": list(op.attr("ksize")), "strides": list(op.attr("strides"))}
    if op.type == "nearest_interp_v2":
        return {"scale": shapes[op.output("Out")[0]][2] // shapes[op.input("X")[0]][2]}
    if op.type in ("elementwise_add", "elementwise_mul"):
        return {"gate": shapes[op.input("Y")[0]][2:] == (1, 1)}
    return {}
