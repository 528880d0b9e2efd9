"""A network's program cut at one prunable group: what lies before it runs once, what lies after it once for every mask.

A removed filter gives nothing to the layers behind it. So does one whose channel is multiplied by zero behind the batch
norm and activation that follow it (depthwise convolution, squeeze and excitation and shortcuts let such zeros through):
the masked program computes what the rebuilt, smaller network computes, and another ratio is another mask, not another
network. The inputs of the masks are the same for every mask; they are computed once and kept.

Both halves run on paddle.inference with oneDNN, twice as fast here as the training network on this project's kernels.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
from paddle import nn, static

from command import ModelError
from slim import pixelwise_end
from slim.pact import quiet

# What may stand between a convolution and its mask: work on each channel by itself.
CONVOLUTIONS = ("conv2d", "depthwise_conv2d")
CHANNELWISE = ("batch_norm", "elementwise_add", "relu", "hard_swish", "hard_sigmoid")
# oneDNN keeps kernels for each input shape.
SHAPES = 16


class Cut(NamedTuple):
    """One group's two programs. held: the names of the arrays that go from `before` to `after`."""

    before: Runner | None
    after: Runner | None
    masks: dict[str, str]
    held: tuple[str, ...]


class Runner:
    """A program on paddle.inference: arrays by name in, arrays in order out."""

    def __init__(
        self, program: bytes, weights: bytes, threads: int, finish: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> None:
        """finish: makes the one output from what the program gives."""
        config = paddle.inference.Config()
        config.set_model_buffer(program, len(program), weights, len(weights))
        config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(threads)
        config.enable_mkldnn()
        config.set_mkldnn_cache_capacity(SHAPES)
        predictor = paddle.inference.create_predictor(config)
        self._predictor = predictor
        self._inputs = {name: predictor.get_input_handle(name) for name in predictor.get_input_names()}
        self._outputs = [predictor.get_output_handle(name) for name in predictor.get_output_names()]
        self._finish = finish

    def run(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs, copies of their own. arrays: float32, by the name of the input; others are passed over."""
        for name, handle in self._inputs.items():
            handle.reshape(list(arrays[name].shape))
            handle.copy_from_cpu(np.ascontiguousarray(arrays[name]))
        self._predictor.run()
        outputs = [handle.copy_to_cpu().copy() for handle in self._outputs]
        return [self._finish(outputs[0])] if self._finish else outputs


class MaskedProgram:
    """The inference program of a float network, to be cut at any group of filters.

    network: in eval mode. input_shape: (N, 3, H, W) with -1 or None where it is free.
    """

    def __init__(self, network: nn.Layer, input_shape: Sequence[int | None], threads: int = 1) -> None:
        self.threads = threads
        self._scope = static.Scope()
        self._parameters = {name: tensor.name for name, tensor in network.state_dict().items()}
        shape = [None if size is None or size < 0 else size for size in input_shape]
        with tempfile.TemporaryDirectory() as folder, quiet():
            prefix = str(Path(folder) / "network")
            spec = static.InputSpec([None, *shape[1:]], "float32", "x")
            traced = paddle.jit.to_static(network, input_spec=[spec], full_graph=True)
            paddle.jit.save(traced, prefix)
            # jit.to_static replaces `forward` of the network itself.
            network.forward = traced.forward.dygraph_function
            with self._static():
                self._program, _, _ = static.load_inference_model(prefix, static.Executor(paddle.CPUPlace()))
                result = _result(self._program)
                self._end = pixelwise_end.find(self._program.global_block(), result, self._value)
        self._last = self._end.source if self._end else result

    @contextlib.contextmanager
    def _static(self) -> Iterator[None]:
        paddle.enable_static()
        try:
            with static.scope_guard(self._scope):
                yield
        finally:
            paddle.disable_static()

    def whole(self) -> Runner:
        """The network as it is."""
        with self._static(), quiet():
            return self._runner(self._program, ["x"], [self._last], self._end)

    def cut(self, filters: Mapping[str, int]) -> Cut:
        """The programs before and after the masks of `filters`: {structured name of a weight: its filters}.

        Names that are not in the program (what only training uses) are passed over; with none left, there is no
        program after: the output does not depend on the group. Weights without filters of their own, such as those of
        a linear layer, need no mask and are passed over, too.
        """
        by_parameter = {self._parameters[name]: name for name in filters if name in self._parameters}
        with self._static(), quiet():
            program = self._program.clone(for_test=True)
            block = program.global_block()
            constant = _constants(block)
            masks = _masks(block, by_parameter, constant)
            if not masks:
                return Cut(None, None, {}, ())
            inputs, last = {}, self._last
            for name, end in masks.items():
                inputs[name] = f"mask@{end}"
                masked = self._insert(block, end, inputs[name], filters[name])
                last = masked if end == last else last
            held = _lighter(block, _held(block, constant, set(inputs.values())))
            after = self._runner(program, [*held, *inputs.values()], [last], self._end)
            before = None if held == ["x"] else self._runner(self._program, ["x"], held)
        return Cut(before, after, inputs, tuple(held))

    def _insert(self, block: Any, name: str, mask: str, channels: int) -> str:
        """Multiply the variable `name` (N, C, H, W) by an input (1, C, 1, 1) for all readers; the product's name."""
        source = block.var(name)
        block.create_var(name=mask, shape=[1, channels, 1, 1], dtype="float32", is_data=True, need_check_feed=False)
        masked = f"{name}@masked"
        block.create_var(name=masked, shape=source.shape, dtype="float32")
        at = max(index for index, op in enumerate(block.ops) if name in op.output_arg_names) + 1
        for op in block.ops[at:]:
            op._rename_input(name, masked)
        block._insert_op(
            at,
            type="elementwise_mul",
            inputs={"X": [name], "Y": [mask]},
            outputs={"Out": [masked]},
            attrs={"axis": -1},
        )
        return masked

    def _value(self, name: str) -> np.ndarray:
        return np.array(self._scope.find_var(name).get_tensor())

    def _runner(
        self,
        program: Any,
        feeds: Sequence[str],
        fetches: Sequence[str],
        end: pixelwise_end.PixelwiseEnd | None = None,
    ) -> Runner:
        block = program.global_block()
        inputs, outputs = [block.var(name) for name in feeds], [block.var(name) for name in fetches]
        executor = static.Executor(paddle.CPUPlace())
        model = static.serialize_program(inputs, outputs, program=program)
        weights = static.serialize_persistables(inputs, outputs, executor, program=program)
        # A mask alone has no weights.
        return Runner(model, weights or b"", self.threads, end.run if end else None)


def _result(program: Any) -> str:
    fetches = [op for op in program.global_block().ops if op.type == "fetch"]
    if len(fetches) != 1:
        raise ModelError(f"expected a network with one output, found {len(fetches)}; give another")
    return fetches[0].input("X")[0]


def _masks(block: Any, by_parameter: Mapping[str, str], constant: set[str]) -> dict[str, str]:
    """{weight: the variable to mask} for convolutions whose filters go; by_parameter: {parameter: weight}."""
    consumers = _consumers(block)
    ends = {}
    for op in block.ops:
        name = by_parameter.get(op.input("Filter")[0]) if op.type in CONVOLUTIONS else None
        if name:
            ends[name] = _end(op, consumers, constant)

    def masked_next(end: str) -> bool:
        """What is depthwise keeps the channels apart: its own mask does for both."""
        following = consumers.get(end, [])
        return bool(following) and all(
            op.type == "depthwise_conv2d" and op.input("Filter")[0] in by_parameter for op in following
        )

    return {name: end for name, end in ends.items() if not masked_next(end)}


def _constants(block: Any) -> set[str]:
    """Variables that do not depend on the input."""
    known = {variable.name for variable in block.vars.values() if variable.persistable}
    for op in block.ops:
        if op.type != "feed" and all(name in known for name in op.input_arg_names):
            known.update(op.output_arg_names)
    return known


def _consumers(block: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for op in block.ops:
        for name in op.input_arg_names:
            found.setdefault(name, []).append(op)
    return found


def _lighter(block: Any, held: Sequence[str]) -> list[str]:
    """The same, but for the input of a widening 1x1 convolution instead of its output.

    Handing over the wide array and bringing it into oneDNN's layout takes longer than computing it again.
    """
    makers = {op.output("Output")[0]: op for op in block.ops if op.type == "conv2d"}
    lighter: list[str] = []
    for name in held:
        if name in makers:
            shape = block.var(makers[name].input("Filter")[0]).shape
            if tuple(shape[2:]) == (1, 1) and 2 * shape[1] <= shape[0]:
                name = makers[name].input("Input")[0]
        if name not in lighter:
            lighter.append(name)
    return lighter


def _end(op: Any, consumers: Mapping[str, list[Any]], constant: set[str]) -> str:
    """The last variable behind a convolution that its channels reach each by itself."""
    name = op.output("Output")[0]
    while True:
        following = consumers.get(name, [])
        if len(following) != 1 or following[0].type not in CHANNELWISE:
            return name
        step = following[0]
        if step.type == "elementwise_add" and not (step.input("Y")[0] in constant and step.input("X")[0] == name):
            return name
        name = step.output("Y" if step.type == "batch_norm" else "Out")[0]


def _held(block: Any, constant: set[str], masks: set[str]) -> list[str]:
    """Variables that a masked program takes over from the part that no mask reaches."""
    reached, held = set(masks), []
    for op in block.ops:
        if op.type in ("feed", "fetch"):
            continue
        names: Iterable[str] = op.input_arg_names
        if not any(name in reached for name in names):
            continue
        for name in names:
            if name not in reached and name not in constant and name not in held:
                held.append(name)
        reached.update(op.output_arg_names)
    return held
