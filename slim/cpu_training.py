"""Depthwise convolutions that keep up with the rest of the network when training on a CPU.

Paddle 2.6 computes them through im2col, one channel at a time, at 1 GMAC/s: nine tenths of a training step of PP-OCR's
MobileNetV3. `fast_depthwise()` runs the same sums in `depthwise_kernels`, at 20 to 40.
Networks, parameters and exports stay as they are: inside the context Paddle's own convolution function is replaced, in
dynamic mode only, and put back on leaving.
"""

import contextlib
import ctypes
import functools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from slim import cpu_environment

cpu_environment.prepare()  # before Paddle comes in, unless somebody else was first

import paddle  # noqa: E402
from paddle.autograd import PyLayer  # noqa: E402
from paddle.nn.functional import conv as paddle_conv  # noqa: E402

KERNELS = (3, 5)


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


def _pair(value: Any) -> list[int] | None:
    """[vertical, horizontal] of a stride, dilation or symmetric padding as Paddle spells them; None for others."""
    if isinstance(value, int):
        return [value, value]
    if not isinstance(value, list | tuple) or not all(isinstance(item, int) for item in value):
        return None
    if len(value) == 4 and value[0] == value[1] and value[2] == value[3]:
        return [value[0], value[2]]
    return list(value) if len(value) == 2 else None


@contextlib.contextmanager
def fast_depthwise() -> Iterator[None]:
    """Within this context float32 depthwise 3x3 and 5x5 convolutions without bias run on `depthwise_kernels`.

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
    plain = paddle_conv._conv_nd

    @functools.wraps(plain)
    def conv_nd(
        x, weight, bias=None, stride=1, padding=0, padding_algorithm=None, dilation=1, groups=1, *args, **kwargs
    ):
        def usual():
            return plain(x, weight, bias, stride, padding, padding_algorithm, dilation, groups, *args, **kwargs)

        if not paddle.in_dynamic_mode() or bias is not None or groups == 1:
            return usual()
        shape, steps, border = weight.shape, _pair(stride), _pair(padding)
        suits = (
            len(shape) == 4
            and shape[0] == groups == x.shape[1]
            and shape[2] == shape[3]
            and shape[2] in KERNELS
            and _pair(dilation) == [1, 1]
            and steps is not None
            and border is not None
            and padding_algorithm in (None, "EXPLICIT")
            and kwargs.get("data_format", args[0] if args else "NCHW") == "NCHW"
            and x.dtype == weight.dtype == paddle.float32
            and x.place.is_cpu_place()
            and min(x.shape[0], x.shape[2] + 2 * border[0] - shape[2] + 1, x.shape[3] + 2 * border[1] - shape[3] + 1)
            > 0
        )
        return _Depthwise.apply(x, weight, steps, border) if suits else usual()

    paddle_conv._conv_nd = conv_nd
    try:
        yield
    finally:
        paddle_conv._conv_nd = plain
