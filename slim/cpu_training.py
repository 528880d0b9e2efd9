"""Convolutions that train several times faster on a CPU than Paddle's own.

Depthwise: Paddle 2.6 computes them through im2col, one channel at a time, at 1 GMAC/s: nine tenths of a training step
of PP-OCR's MobileNetV3. `depthwise_kernels` runs the same sums at 20 to 40.
Dense with few outputs (the detector's pyramid, 96 → 24): im2col writes nine copies of the wide input. Here the matrix
product comes first, as a 1x1 convolution to 9 · 24 planes, and only these are shifted and added: 2.6 times faster.

Networks, parameters and exports stay as they are: inside the context Paddle's own convolution function is replaced, in
dynamic mode only, and put back on leaving.
"""

import contextlib
import ctypes
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from slim import cpu_environment

cpu_environment.prepare()  # before Paddle comes in, unless somebody else was first

import paddle  # noqa: E402
from paddle.autograd import PyLayer  # noqa: E402
from paddle.nn import functional  # noqa: E402
from paddle.nn.functional import conv as paddle_conv  # noqa: E402

KERNELS = (3, 5)
WORTHWHILE_PIXELS = 256  # below, the detour by 1x1 costs what it saves


def _array(tensor: paddle.Tensor) -> np.ndarray:
    """The tensor's own memory, valid as long as the tensor lives. It must be contiguous float32 on the CPU."""
    memory = (ctypes.c_float * tensor.size).from_address(tensor.data_ptr())
    return np.frombuffer(memory, np.float32).reshape(tensor.shape)


def _contiguous(tensor: paddle.Tensor) -> paddle.Tensor:
    return tensor if tensor.is_contiguous() else tensor.contiguous()


class _Depthwise(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, stride: list[int], padding: list[int]):
        from slim import depthwise_kernels

        x, weight = _contiguous(x), _contiguous(weight)
        size = weight.shape[2]
        rows, cols = ((x.shape[2 + k] + 2 * padding[k] - size) // stride[k] + 1 for k in (0, 1))
        y = paddle.empty([x.shape[0], x.shape[1], rows, cols], "float32")
        depthwise_kernels.forward(_array(x), _array(weight), _array(y), *stride, *padding)
        ctx.save_for_backward(x, weight)
        ctx.geometry = (*stride, *padding)
        ctx.wanted = not x.stop_gradient, not weight.stop_gradient
        return y

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor):
        from slim import depthwise_kernels

        x, weight = ctx.saved_tensor()
        grad = _contiguous(grad)
        grad_x, grad_weight = paddle.empty(x.shape, "float32"), paddle.empty(weight.shape, "float32")
        arrays = (_array(tensor) for tensor in (x, weight, grad, grad_x, grad_weight))
        depthwise_kernels.backward(*arrays, *ctx.geometry)
        # Paddle insists on None for an input that needs no gradient.
        return tuple(grad if wanted else None for grad, wanted in zip((grad_x, grad_weight), ctx.wanted, strict=True))


class _SumShifted(PyLayer):
    """(N, O · size², H, W) → (N, O, H, W), see `shifted_kernels`."""

    @staticmethod
    def forward(ctx: Any, z: paddle.Tensor, size: int):
        from slim import shifted_kernels

        z = _contiguous(z)
        batch, planes, height, width = ctx.shape = z.shape
        ctx.pad = size // 2
        y = paddle.empty([batch, planes // size**2, height, width], "float32")
        shifted_kernels.gather(_array(z), _array(y), ctx.pad)
        return y

    @staticmethod
    def backward(ctx: Any, grad: paddle.Tensor):
        from slim import shifted_kernels

        grad = _contiguous(grad)
        grad_z = paddle.empty(ctx.shape, "float32")
        shifted_kernels.scatter(_array(grad), _array(grad_z), ctx.pad)
        return grad_z


def _narrowing(x: paddle.Tensor, weight: paddle.Tensor) -> paddle.Tensor:
    """Dense convolution at stride 1 that keeps height and width. weight (O, C, size, size)."""
    outputs, inputs, size, _ = weight.shape
    taps = weight.transpose([0, 2, 3, 1]).reshape([outputs * size * size, inputs, 1, 1])
    return _SumShifted.apply(paddle_conv.conv2d(x, taps), size)


def _pair(value: Any) -> list[int] | None:
    """[vertical, horizontal] of a stride, dilation or symmetric padding as Paddle spells them; None for others."""
    if isinstance(value, int):
        return [value, value]
    if not isinstance(value, list | tuple) or not all(isinstance(item, int) for item in value):
        return None
    if len(value) == 4 and value[0] == value[1] and value[2] == value[3]:
        return [value[0], value[2]]
    return list(value) if len(value) == 2 else None


def _faster(x, weight, bias, stride, padding, dilation, groups, layout) -> Callable[[], paddle.Tensor] | None:
    """How to compute this convolution faster than Paddle; None if Paddle's way is the best known."""
    if bias is not None or layout != "NCHW" or not paddle.in_dynamic_mode():
        return None
    if x.dtype != paddle.float32 or weight.dtype != paddle.float32 or not x.place.is_cpu_place():
        return None
    shape, steps, border = weight.shape, _pair(stride), _pair(padding)
    if len(shape) != 4 or shape[2] != shape[3] or shape[2] not in KERNELS or _pair(dilation) != [1, 1]:
        return None
    if steps is None or border is None:
        return None
    outputs, size = shape[0], shape[2]
    height, width = x.shape[2:]
    if outputs == groups == x.shape[1]:
        if min(x.shape[0], height + 2 * border[0] - size + 1, width + 2 * border[1] - size + 1) < 1:
            return None  # an empty result: Paddle knows what to say
        return lambda: _Depthwise.apply(x, weight, steps, border)
    if groups == 1 and steps == [1, 1] and border == [size // 2, size // 2] and x.shape[0] > 0:
        few = 2 * outputs <= shape[1] == x.shape[1]
        if few and height * width >= WORTHWHILE_PIXELS:
            return lambda: _narrowing(x, weight)
    return None


@contextlib.contextmanager
def fast_convolutions() -> Iterator[None]:
    """Within this context float32 3x3 and 5x5 convolutions without bias run faster, where this module knows how.

    Covers nn.Conv2D, F.conv2d and the fake-quantised convolutions of QAT, in training and in evaluation. Every other
    convolution, and a network that is traced for export, takes Paddle's own path. Nesting is harmless.
    Results equal Paddle's up to the order of the sums (relative 1e-6).
    """
    if not cpu_environment.zlib_is_sound():
        # numba calls zlib, and the process would die without a word.
        warnings.warn(
            "training takes Paddle's slow convolutions: call slim.cpu_environment.prepare() before importing paddle",
            stacklevel=3,
        )
        yield
        return
    of_layers, plain = paddle_conv._conv_nd, functional.conv2d

    @functools.wraps(of_layers)
    def conv_nd(
        x, weight, bias=None, stride=1, padding=0, padding_algorithm=None, dilation=1, groups=1, *args, **kwargs
    ):
        layout = kwargs.get("data_format", args[0] if args else "NCHW")
        if padding_algorithm in (None, "EXPLICIT"):
            faster = _faster(x, weight, bias, stride, padding, dilation, groups, layout)
            if faster:
                return faster()
        return of_layers(x, weight, bias, stride, padding, padding_algorithm, dilation, groups, *args, **kwargs)

    @functools.wraps(plain)
    def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, data_format="NCHW", name=None):
        faster = _faster(x, weight, bias, stride, padding, dilation, groups, data_format)
        return faster() if faster else plain(x, weight, bias, stride, padding, dilation, groups, data_format, name)

    paddle_conv._conv_nd, functional.conv2d = conv_nd, conv2d
    try:
        yield
    finally:
        paddle_conv._conv_nd, functional.conv2d = of_layers, plain
